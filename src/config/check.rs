//! Walking a tree of YAML nodes, collecting every mistake on the way.
//!
//! A [`Cursor`] is one value with its path; reading it gives `None` when it is wrong, and the mistake is noted. Callers
//! go on with a default: the result is thrown away as soon as there is one mistake.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Position, mask};
use super::scalar::Kind;
use super::suggest;
use super::tree::{self, Key, Node, Scalar, Style, Value};

/// A file's text under the name the user knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// The directory that relative paths in this file start from.
    pub(super) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    fn line(&self, number: usize) -> &str {
        let text = self.text.strip_prefix('\u{feff}').unwrap_or(&self.text);
        text.lines().nth(number - 1).unwrap_or("")
    }
}

/// Collects the mistakes of one file.
pub(super) struct Checker<'a> {
    pub(super) source: &'a Source,
    errors: RefCell<Vec<ConfigError>>,
}

/// Whether the value found may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Line,
    /// It is a secret: only where it stands.
    Nothing,
}

impl<'a> Checker<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, errors: RefCell::default() }
    }

    /// Reads the text; what is wrong with the YAML itself is noted.
    pub(super) fn parse(&self) -> Node {
        let (root, flaws) = tree::parse(&self.source.text);
        for flaw in flaws {
            self.note(Some(flaw.at), flaw.path, flaw.problem, flaw.allowed.to_owned(), None, Show::Line);
        }
        root
    }

    pub(super) fn root<'n>(&'n self, node: &'n Node) -> Cursor<'n> {
        Cursor { node, key_at: None, path: String::new(), checker: self }
    }

    /// A mistake in an environment variable.
    pub(super) fn environment(&self, name: &str, problem: String, allowed: &str) {
        self.errors.borrow_mut().push(ConfigError {
            file: PathBuf::from("environment"),
            at: None,
            path: name.to_owned(),
            problem,
            allowed: allowed.to_owned(),
            did_you_mean: None,
            source: String::new(),
        });
    }

    /// Every mistake, in the order of the file's lines.
    pub(super) fn finish(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.at.map(|at| (at.line, at.column)));
        errors
    }

    fn note(
        &self,
        at: Option<Position>,
        path: String,
        problem: String,
        allowed: String,
        did_you_mean: Option<String>,
        show: Show,
    ) {
        let line = at.map_or("", |at| self.source.line(at.line));
        let source = if show == Show::Line { mask(line) } else { String::new() };
        let file = self.source.file.clone();
        self.errors.borrow_mut().push(ConfigError { file, at, path, problem, allowed, did_you_mean, source });
    }
}

/// One value and how it was reached.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    /// Of the key that leads here; `None` for list items and the root.
    key_at: Option<Position>,
    pub(super) path: String,
    pub(super) checker: &'a Checker<'a>,
}

impl<'a> Cursor<'a> {
    /// Notes a mistake about this value.
    pub(super) fn wrong(&self, problem: impl Into<String>, allowed: impl Into<String>) {
        self.note(self.node.at, problem.into(), allowed.into(), None, Show::Line);
    }

    /// Notes a mistake about this value, which is one of many words, and the word that was probably meant.
    pub(super) fn wrong_word<'w>(&self, problem: String, allowed: String, words: impl IntoIterator<Item = &'w str>) {
        let meant = suggest::nearest(&self.text(), words);
        self.note(self.node.at, problem, allowed, meant, Show::Line);
    }

    /// Notes a mistake about a secret: the value and its line are not shown.
    pub(super) fn wrong_secret(&self, problem: impl Into<String>, allowed: impl Into<String>) {
        self.note(self.node.at, problem.into(), allowed.into(), None, Show::Nothing);
    }

    /// Notes a mistake about the key that leads here (the value, for list items).
    pub(super) fn wrong_key(&self, problem: impl Into<String>, allowed: impl Into<String>) {
        self.note(self.key_at.unwrap_or(self.node.at), problem.into(), allowed.into(), None, Show::Line);
    }

    /// As [`Self::wrong_key`], with the word that was probably meant.
    pub(super) fn unknown_key<'w>(
        &self,
        name: &str,
        what: &str,
        words: impl IntoIterator<Item = &'w str, IntoIter: Clone>,
    ) {
        let words = words.into_iter();
        let allowed = words.clone().collect::<Vec<_>>().join(", ");
        let at = self.key_at.unwrap_or(self.node.at);
        self.note(at, format!("`{name}` is not {what}"), allowed, suggest::nearest(name, words), Show::Line);
    }

    /// The key belongs to something this version does not do; saying nothing would look as if it did.
    fn unsupported(&self, key: &str) {
        self.wrong_key(format!("`{key}` is not supported in this version"), format!("leave `{key}` out"));
    }

    fn note(&self, at: Position, problem: String, allowed: String, meant: Option<String>, show: Show) {
        self.checker.note(Some(at), self.path.clone(), problem, allowed, meant, show);
    }

    /// The value as it is shown in a message: short, masked.
    pub(super) fn found(&self) -> String {
        match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar(Scalar { text, style: Style::Plain }) => format!("`{}`", shorten(&mask(text))),
            Value::Scalar(Scalar { text, style: Style::Quoted }) => format!("`\"{}\"`", shorten(&mask(text))),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Broken => "something unreadable".to_owned(),
        }
    }

    /// The scalar's text; empty for anything else.
    pub(super) fn text(&self) -> String {
        match &self.node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            Value::Null | Value::Seq(_) | Value::Map(_) | Value::Broken => String::new(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// The value as `kind` reads it.
    pub(super) fn read<T>(&self, kind: &Kind<T>) -> Option<T> {
        let parsed = match &self.node.value {
            Value::Scalar(scalar) => (kind.parse)(scalar),
            Value::Broken => return None,
            Value::Null | Value::Seq(_) | Value::Map(_) => None,
        };
        if parsed.is_none() {
            self.wrong(format!("{} is not {}", self.found(), kind.name), kind.allowed);
        }
        parsed
    }

    /// The value as `kind` reads it, if it also lies within bounds; `bounds` says which.
    pub(super) fn read_if<T>(&self, kind: &Kind<T>, bounds: &str, within: impl Fn(&T) -> bool) -> Option<T> {
        let value = self.read(kind)?;
        if !within(&value) {
            self.wrong(format!("{} is not allowed here", self.found()), bounds);
            return None;
        }
        Some(value)
    }

    /// One word of a few.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        if self.node.value == Value::Broken {
            return None;
        }
        let text = self.text();
        let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let names = words.iter().map(|(word, _)| *word);
            let allowed = names.clone().collect::<Vec<_>>().join(", ");
            self.wrong_word(format!("{} is not allowed here", self.found()), allowed, names);
        }
        chosen
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<Vec<Cursor<'a>>> {
        match &self.node.value {
            Value::Seq(items) => Some(items.iter().enumerate().map(|(index, item)| self.item(index, item)).collect()),
            Value::Broken => None,
            Value::Null | Value::Scalar(_) | Value::Map(_) => {
                self.wrong(format!("{} is not a list", self.found()), "a list: [a, b]");
                None
            }
        }
    }

    fn item(&self, index: usize, node: &'a Node) -> Cursor<'a> {
        Cursor { node, key_at: None, path: format!("{}[{index}]", self.path), checker: self.checker }
    }

    /// The entries of a mapping whose keys are names; a repeated key (reported already) counts once.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, Cursor<'a>)>> {
        let entries = self.pairs()?;
        let first = |index: usize| !entries[..index].iter().any(|(key, _)| key.text == entries[index].0.text);
        Some((0..entries.len()).filter(|index| first(*index)).map(|index| self.entry(&entries[index])).collect())
    }

    fn entry(&self, (key, node): &'a (Key, Node)) -> (&'a str, Cursor<'a>) {
        let path = tree::join(&self.path, &key.text);
        (&key.text, Cursor { node, key_at: Some(key.at), path, checker: self.checker })
    }

    fn pairs(&self) -> Option<&'a [(Key, Node)]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Broken => None,
            Value::Null | Value::Scalar(_) | Value::Seq(_) => {
                self.wrong(format!("{} is not a mapping", self.found()), "a mapping: { key: value }");
                None
            }
        }
    }

    /// The fields of a mapping with fixed keys; others are mistakes. Nothing at all is a mapping without fields.
    pub(super) fn fields(&self, keys: &[&str]) -> Fields<'a> {
        self.fields_but(keys, &[])
    }

    /// As [`Self::fields`]; the keys in `later` belong to a later version and are mistakes unless they are `null`.
    pub(super) fn fields_but(&self, keys: &[&str], later: &[&str]) -> Fields<'a> {
        let entries = if self.is_null() { Vec::new() } else { self.entries().unwrap_or_default() };
        for (name, entry) in entries.iter().filter(|(name, _)| !keys.contains(name)) {
            match later.contains(name) {
                true if entry.is_null() => {}
                true => entry.unsupported(name),
                false => entry.unknown_key(name, "a key here", keys.iter().copied()),
            }
        }
        Fields { of: self.clone(), entries }
    }
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().count() > SHOWN { format!("{line}…") } else { line }
}

/// The fields of one mapping.
pub(super) struct Fields<'a> {
    pub(super) of: Cursor<'a>,
    entries: Vec<(&'a str, Cursor<'a>)>,
}

impl<'a> Fields<'a> {
    /// The value of `key`, if the key is there.
    pub(super) fn get(&self, key: &str) -> Option<&Cursor<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, cursor)| cursor)
    }

    /// The value of `key`, if it is there and not `null`.
    pub(super) fn given(&self, key: &str) -> Option<&Cursor<'a>> {
        self.get(key).filter(|cursor| !cursor.is_null())
    }

    /// The value of `key`; it is a mistake if the key is missing.
    pub(super) fn required(&self, key: &str, allowed: &str) -> Option<&Cursor<'a>> {
        let found = self.get(key);
        if found.is_none() && self.of.node.value != Value::Broken && (self.of.is_map() || self.of.is_null()) {
            self.of.wrong_key(format!("`{key}` is missing"), allowed);
        }
        found
    }

    /// A mapping below `key`; without fields if it is missing or empty.
    pub(super) fn section(&self, key: &str, keys: &[&str]) -> Fields<'a> {
        self.section_but(key, keys, &[])
    }

    /// As [`Self::section`], with keys of a later version as in [`Cursor::fields_but`].
    pub(super) fn section_but(&self, key: &str, keys: &[&str], later: &[&str]) -> Fields<'a> {
        match self.get(key) {
            Some(cursor) => cursor.fields_but(keys, later),
            None => Fields { of: self.of.clone(), entries: Vec::new() },
        }
    }

    /// The value of `key`, or `default` if the key is missing.
    pub(super) fn or<T>(&self, key: &str, kind: &Kind<T>, default: T) -> T {
        self.get(key).and_then(|cursor| cursor.read(kind)).unwrap_or(default)
    }

    /// As [`Self::or`], within bounds.
    pub(super) fn or_if<T>(
        &self,
        key: &str,
        kind: &Kind<T>,
        default: T,
        bounds: &str,
        within: impl Fn(&T) -> bool,
    ) -> T {
        self.get(key).and_then(|cursor| cursor.read_if(kind, bounds, within)).unwrap_or(default)
    }

    /// The value of `key`; `None` if it is missing or `null`.
    pub(super) fn optional<T>(&self, key: &str, kind: &Kind<T>) -> Option<T> {
        self.given(key).and_then(|cursor| cursor.read(kind))
    }
}
