//! Mistakes in the configuration: where, what was found, what is allowed, drawn with the source line and a caret.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Every mistake found, in the order of the files and their lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigErrors {
    /// At least one.
    pub errors: Vec<ConfigError>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file as it was named by the caller, or `environment`.
    pub file: PathBuf,
    /// Where in it; `None` for the environment and for files that cannot be read.
    pub at: Option<Position>,
    /// Which value: `plans.pro.included`; the variable's name for the environment; empty for the file as a whole.
    pub path: String,
    /// What is wrong, with the value found (never a secret).
    pub problem: String,
    /// What is allowed there.
    pub allowed: String,
    /// What was probably meant.
    pub did_you_mean: Option<String>,
    /// The source line, secrets masked; empty where there is none.
    pub source: String,
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
    /// How many characters the value takes on that line; at least 1.
    pub width: usize,
}

impl ConfigErrors {
    /// One mistake, not bound to a place in a file: what the operating system said, or the environment.
    pub(super) fn single(error: ConfigError) -> Self {
        Self { errors: vec![error] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        match self.errors.len() {
            1 => f.write_str("1 mistake"),
            n => write!(f, "{n} mistakes"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, "{}:{}:", at.line, at.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        writeln!(f, " {}", self.problem)?;
        if let Some(at) = self.at.filter(|_| !self.source.is_empty()) {
            self.draw(f, at)?;
        }
        writeln!(f, "  = allowed: {}", self.allowed)?;
        match &self.did_you_mean {
            Some(meant) => writeln!(f, "  = did you mean `{meant}`?"),
            None => Ok(()),
        }
    }
}

impl ConfigError {
    fn draw(&self, f: &mut fmt::Formatter<'_>, at: Position) -> fmt::Result {
        let number = at.line.to_string();
        let gutter = " ".repeat(number.len());
        let (line, column) = excerpt(&self.source, at.column);
        let indent: String = line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let room = line.chars().count().saturating_sub(column - 1).max(1);
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {line}")?;
        writeln!(f, "{gutter} | {indent}{}", "^".repeat(at.width.clamp(1, room)))
    }
}

/// Most characters of a source line that are drawn; a minified file would otherwise fill the terminal.
const EXCERPT: usize = 200;

/// The part of `line` around `column` that is drawn, and the column within it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let start = if column < EXCERPT { 0 } else { column - EXCERPT / 2 };
    (line.chars().skip(start).take(EXCERPT).collect(), column - start)
}

/// `line` with everything that looks like a secret replaced by `*`, its length unchanged so that columns stay right.
///
/// Three rules: Stripe's and our own key prefixes; the password of a URL; what follows a key that says `secret`.
pub(super) fn mask(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    for prefix in ["sk_", "rk_", "whsec_", "tg_"] {
        mask_prefixed(&mut chars, prefix);
    }
    mask_passwords(&mut chars);
    mask_named(&mut chars);
    chars.into_iter().collect()
}

fn mask_prefixed(chars: &mut [char], prefix: &str) {
    for at in find(chars, prefix) {
        let starts_word = at == 0 || !word(chars[at - 1]);
        let from = at + prefix.len();
        if starts_word {
            stars(chars, from, |c| !word(c));
        }
    }
}

fn mask_passwords(chars: &mut [char]) {
    for at in find(chars, "://") {
        let authority: Vec<char> =
            chars[at + 3..].iter().copied().take_while(|c| !c.is_whitespace() && !['"', '\''].contains(c)).collect();
        let Some(end) = authority.iter().rposition(|c| *c == '@') else { continue };
        let colon = authority.iter().position(|c| *c == ':').unwrap_or(0);
        chars[at + 3 + colon..at + 3 + end].iter_mut().filter(|c| **c != ':').for_each(|c| *c = '*');
    }
}

/// `secret_key: abc` but not `secret_key: { env: NAME }`.
fn mask_named(chars: &mut [char]) {
    for at in find(chars, "secret") {
        let rest: String = chars[at..].iter().collect();
        let Some((key, _)) = rest.split_once(':') else { continue };
        let value = at + key.chars().count() + 1;
        let start = value + chars[value..].iter().take_while(|c| c.is_whitespace()).count();
        let opens = chars.get(start).is_some_and(|c| ['{', '[', '#', '|', '>'].contains(c));
        if key.chars().all(|c| word(c) || c == '"' || c == '\'') && !opens {
            let end = chars[start..].iter().position(|c| [',', '}', ']'].contains(c)).unwrap_or(chars.len() - start);
            let text = chars[start..start + end].iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1);
            chars[start..start + text].fill('*');
        }
    }
}

fn stars(chars: &mut [char], from: usize, end: impl Fn(char) -> bool) {
    chars[from..].iter_mut().take_while(|c| !end(**c)).for_each(|c| *c = '*');
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Every position of `needle` (ASCII).
fn find(chars: &[char], needle: &str) -> Vec<usize> {
    let needle: Vec<char> = needle.chars().collect();
    (0..chars.len()).filter(|at| chars[*at..].starts_with(&needle)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_columns_kept() {
        for (line, masked) in [
            ("key: sk_live_abc, x: 1", "key: sk_********, x: 1"),
            ("  secret_key: hunter2", "  secret_key: *******"),
            ("{ secret_key: hunter2, mode: test }", "{ secret_key: *******, mode: test }"),
            ("{ secret_key: hunter2 } # x", "{ secret_key: ******* } # x"),
            ("secret_key:", "secret_key:"),
            ("secret_key: { env: STRIPE_SECRET_KEY }", "secret_key: { env: STRIPE_SECRET_KEY }"),
            ("webhook_secrets: [whsec_abc, { file: p }]", "webhook_secrets: [whsec_***, { file: p }]"),
            ("url: redis://me:pa:ss@host/1", "url: redis://me:**:**@host/1"),
            ("url: \"redis://me:pa/ss@host\"", "url: \"redis://me:*****@host\""),
            ("task_key: 1", "task_key: 1"),
        ] {
            assert_eq!(mask(line), masked);
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let error = ConfigError {
            file: "f.yaml".into(),
            at: Some(Position { line: 7, column: 1000, width: 3 }),
            path: "a.b".into(),
            problem: "`xyz` is wrong".into(),
            allowed: "1".into(),
            did_you_mean: None,
            source: format!("{}xyz", " ".repeat(999)),
        };
        let text = error.to_string();
        assert!(text.lines().all(|line| line.chars().count() < 250), "{text}");
        let drawn: Vec<&str> = text.lines().collect();
        assert_eq!(drawn[2].find("xyz"), drawn[3].find("^^^"), "{text}");
    }
}
