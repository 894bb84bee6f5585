//! Values that an environment variable may override, and secrets: a string, `{ env: NAME }` or `{ file: PATH }`.

use std::path::Path;

use super::check::{Cursor, Fields};
use super::env::Env;
use super::scalar::{Kind, TEXT};
use super::settings::Secret;
use super::tree::{Scalar, Style};

/// A value and who gave it, so that a mistake is laid at the right door.
pub(super) enum Given<'a> {
    File(Cursor<'a>),
    Variable { name: &'static str, value: String, file: Cursor<'a> },
}

impl<'a> Given<'a> {
    /// The variable `name` if it is set, else what the file says under `key`, if anything.
    pub(super) fn find(fields: &Fields<'a>, key: &str, env: &Env, name: &'static str) -> Option<Self> {
        if let Some(value) = env.get(name) {
            return Some(Self::Variable { name, value: value.to_owned(), file: fields.of.clone() });
        }
        fields.given(key).cloned().map(Self::File)
    }

    /// The value's text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::File(cursor) => cursor.text(),
            Self::Variable { value, .. } => value.clone(),
        }
    }

    /// The value as it is shown in a message.
    pub(super) fn found(&self) -> String {
        match self {
            Self::File(cursor) => cursor.found(),
            Self::Variable { .. } => "the value".to_owned(),
        }
    }

    /// Notes a mistake.
    pub(super) fn wrong(&self, problem: &str, allowed: &str) {
        match self {
            Self::File(cursor) => cursor.wrong(problem, allowed),
            Self::Variable { name, file, .. } => file.checker.environment(name, problem.to_owned(), allowed),
        }
    }

    /// Notes a mistake about a secret.
    pub(super) fn wrong_secret(&self, problem: &str, allowed: &str) {
        match self {
            Self::File(cursor) => cursor.wrong_secret(problem, allowed),
            Self::Variable { .. } => self.wrong(problem, allowed),
        }
    }

    /// The value as `kind` reads it.
    pub(super) fn read<T>(&self, kind: &Kind<T>) -> Option<T> {
        match self {
            Self::File(cursor) => cursor.read(kind),
            Self::Variable { value, .. } => {
                let parsed = (kind.parse)(&Scalar { text: value.clone(), style: Style::Plain });
                if parsed.is_none() {
                    self.wrong(&format!("the value is not {}", kind.name), kind.allowed);
                }
                parsed
            }
        }
    }

    /// One word of a few.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        match self {
            Self::File(cursor) => cursor.choice(words),
            Self::Variable { value, .. } => {
                let found = words.iter().find(|(word, _)| word == value).map(|(_, chosen)| *chosen);
                if found.is_none() {
                    let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    self.wrong(&format!("`{value}` is not allowed here"), &allowed.join(", "));
                }
                found
            }
        }
    }
}

const SECRET: &str = "the secret as a text, { env: NAME } or { file: PATH }";

/// The secret at `cursor`; a missing variable or file is a mistake.
pub(super) fn secret(cursor: &Cursor<'_>, env: &Env) -> Option<Secret> {
    if !cursor.is_map() {
        let text = cursor.text();
        if text.is_empty() {
            cursor.wrong_secret("this is not a secret", SECRET);
        }
        return Some(text).filter(|text| !text.is_empty()).map(Secret::new);
    }
    let fields = cursor.fields(&["env", "file"]);
    match (fields.given("env"), fields.given("file")) {
        (Some(name), None) => from_env(name, env),
        (None, Some(path)) => from_file(path, cursor.checker.source.directory()),
        (None, None) | (Some(_), Some(_)) => {
            cursor.wrong("one of `env` and `file` is needed", SECRET);
            None
        }
    }
}

/// Whether the secret is to come from a variable that is not set.
pub(super) fn is_unset(cursor: &Cursor<'_>, env: &Env) -> bool {
    let Some(entries) = cursor.is_map().then(|| cursor.entries()).flatten() else { return false };
    matches!(entries.as_slice(), [("env", name)] if !name.text().is_empty() && env.get(&name.text()).is_none())
}

fn from_env(cursor: &Cursor<'_>, env: &Env) -> Option<Secret> {
    let name = cursor.read(&TEXT)?;
    let value = env.get(&name);
    if value.is_none() {
        cursor.wrong(format!("the environment variable `{name}` is not set, or empty"), format!("set `{name}`"));
    }
    value.map(|value| Secret::new(value.to_owned()))
}

/// Longest secret that is read from a file, bytes: enough for a key in PEM, too little for a mistaken log file.
const LONGEST: usize = 64 * 1024;

fn from_file(cursor: &Cursor<'_>, directory: &Path) -> Option<Secret> {
    let path = directory.join(cursor.read(&TEXT)?);
    let problem = match super::read_text(&path, LONGEST) {
        Ok(text) if !text.trim().is_empty() => return Some(Secret::new(text.trim().to_owned())),
        Ok(_) => format!("the file {} is empty", path.display()),
        Err(problem) => format!("the file {} {problem}", path.display()),
    };
    cursor.wrong(problem, "a file with the secret as its only content, relative to this file");
    None
}
