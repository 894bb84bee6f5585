//! Typed parameters: each operation takes what it knows, and what is left over is unknown.

use std::collections::BTreeMap;

use super::decimal::Decimal;
use super::errors::ApiError;
use super::form::{Form, Node};

/// Keys in one `metadata`, and the longest key and value (Stripe's own limits).
const METADATA_KEYS: usize = 50;
const METADATA_KEY_CHARS: usize = 40;
const METADATA_VALUE_CHARS: usize = 500;

/// Free text's bound where Stripe names no other.
pub(super) const TEXT: usize = 5_000;

/// `metadata` of an object.
pub(super) type Metadata = BTreeMap<String, String>;

/// What an update says about a field that may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change<T> {
    /// Not mentioned.
    Keep,
    /// `field=`
    Clear,
    /// `field=value`
    Set(T),
}

impl<T> Change<T> {
    /// Carries the change out.
    pub(super) fn apply(self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *field = None,
            Self::Set(value) => *field = Some(value),
        }
    }

    fn map<U>(self, f: impl FnOnce(T) -> Result<U, ApiError>) -> Result<Change<U>, ApiError> {
        Ok(match self {
            Self::Keep => Change::Keep,
            Self::Clear => Change::Clear,
            Self::Set(value) => Change::Set(f(value)?),
        })
    }
}

/// The parameters of one object, with the name by which errors call it.
#[derive(Clone, Debug)]
pub(super) struct Params {
    prefix: String,
    fields: Form,
}

impl Params {
    /// The parameters of a whole request.
    pub(super) fn new(fields: Form) -> Self {
        Self { prefix: String::new(), fields }
    }

    /// The full name of `key`: `recurring[interval]`.
    pub(super) fn name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}[{key}]", self.prefix) }
    }

    /// Nothing may be left: what is, nobody knows.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let left: Vec<String> = self.fields.keys().map(|key| self.name(key)).collect();
        if left.is_empty() { Ok(()) } else { Err(ApiError::unknown(&left)) }
    }

    /// Refuses what Stripe knows and this stand-in does not have, rather than ignoring it.
    pub(super) fn unsupported(&self, keys: &[&str]) -> Result<(), ApiError> {
        match keys.iter().find(|key| self.fields.contains_key(**key)) {
            None => Ok(()),
            Some(key) => {
                let name = self.name(key);
                Err(ApiError::invalid(format!("The sandbox does not support the parameter {name}.")).param(&name))
            }
        }
    }

    /// A text that may be left out, but not be empty; at most `max` characters.
    pub(super) fn text(&mut self, key: &str, max: usize) -> Result<Option<String>, ApiError> {
        match self.clearable_text(key, max)? {
            Change::Keep => Ok(None),
            Change::Set(text) => Ok(Some(text)),
            Change::Clear => Err(self.empty(key)),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &str, max: usize) -> Result<String, ApiError> {
        self.text(key, max)?.ok_or_else(|| ApiError::missing(&self.name(key)))
    }

    /// A text that an empty value unsets.
    pub(super) fn clearable_text(&mut self, key: &str, max: usize) -> Result<Change<String>, ApiError> {
        match self.fields.remove(key) {
            None => Ok(Change::Keep),
            Some(Node::Text(text)) if text.is_empty() => Ok(Change::Clear),
            Some(Node::Text(text)) if text.chars().count() <= max => Ok(Change::Set(text)),
            Some(Node::Text(_)) => {
                let name = self.name(key);
                Err(ApiError::invalid(format!("Invalid string: {name} must be at most {max} characters")).param(&name))
            }
            Some(Node::List(_) | Node::Map(_)) => Err(self.wrong("string", key, "an object or array")),
        }
    }

    /// A whole number.
    pub(super) fn integer(&mut self, key: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(key, TEXT)? else { return Ok(None) };
        let wrong = || self.wrong("integer", key, &text).code("parameter_invalid_integer");
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// A decimal with up to 12 places, not negative.
    pub(super) fn decimal(&mut self, key: &str) -> Result<Option<Decimal>, ApiError> {
        let Some(text) = self.text(key, TEXT)? else { return Ok(None) };
        Decimal::parse(&text).map(Some).ok_or_else(|| self.wrong("decimal", key, &text))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.text(key, TEXT)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(self.wrong("boolean", key, other)),
        }
    }

    /// One word of a table.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, table: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(key, TEXT)? else { return Ok(None) };
        if let Some((_, value)) = table.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let name = self.name(key);
        Err(ApiError::invalid(format!("Invalid {name}: must be one of {}", words.join(", "))).param(&name))
    }

    /// One word of a table, which must be there.
    pub(super) fn required_choice<T: Copy>(&mut self, key: &str, table: &[(&str, T)]) -> Result<T, ApiError> {
        self.choice(key, table)?.ok_or_else(|| ApiError::missing(&self.name(key)))
    }

    /// Whether `key` is there and has brackets behind it.
    pub(super) fn is_object(&self, key: &str) -> bool {
        matches!(self.fields.get(key), Some(Node::Map(_)))
    }

    /// Nested parameters.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Params>, ApiError> {
        match self.clearable_object(key)? {
            Change::Keep => Ok(None),
            Change::Set(inner) => Ok(Some(inner)),
            Change::Clear => Err(self.empty(key)),
        }
    }

    /// Nested parameters that an empty value unsets.
    pub(super) fn clearable_object(&mut self, key: &str) -> Result<Change<Params>, ApiError> {
        match self.fields.remove(key) {
            None => Ok(Change::Keep),
            Some(Node::Text(text)) if text.is_empty() => Ok(Change::Clear),
            Some(Node::Map(fields)) => Ok(Change::Set(Self { prefix: self.name(key), fields })),
            Some(Node::Text(text)) => Err(self.wrong("object", key, &text)),
            Some(Node::List(_)) => Err(self.wrong("object", key, "an array")),
        }
    }

    /// A list of texts: `key[]=a` or `key[0]=a`; `key=` is the empty list.
    pub(super) fn texts(&mut self, key: &str, max: usize) -> Result<Option<Vec<String>>, ApiError> {
        let Some(nodes) = self.list(key)? else { return Ok(None) };
        let text = |(n, node): (usize, Node)| match node {
            Node::Text(text) if text.chars().count() <= max => Ok(text),
            Node::Text(_) | Node::List(_) | Node::Map(_) => Err(self.wrong("array", key, &format!("element {n}"))),
        };
        nodes.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A list of objects: `key[0][field]=a`.
    pub(super) fn objects(&mut self, key: &str) -> Result<Option<Vec<Params>>, ApiError> {
        let Some(nodes) = self.list(key)? else { return Ok(None) };
        let object = |(n, node): (usize, Node)| match node {
            Node::Map(fields) => Ok(Self { prefix: format!("{}[{n}]", self.name(key)), fields }),
            Node::Text(_) | Node::List(_) => Err(self.wrong("array", key, &format!("element {n}"))),
        };
        nodes.into_iter().enumerate().map(object).collect::<Result<_, _>>().map(Some)
    }

    /// `metadata`, as an update of what is there: an empty value takes a key away, `metadata=` all of them.
    pub(super) fn metadata(&mut self) -> Result<Change<Metadata>, ApiError> {
        self.clearable_object("metadata")?.map(Params::into_metadata)
    }

    /// A flat object of texts, as an address is; unknown names are refused.
    pub(super) fn flat(&mut self, key: &str, names: &[&str]) -> Result<Change<Metadata>, ApiError> {
        self.clearable_object(key)?.map(|mut inner| {
            let mut texts = Metadata::new();
            for name in names {
                if let Change::Set(text) = inner.clearable_text(name, TEXT)? {
                    texts.insert((*name).to_owned(), text);
                }
            }
            inner.finish().map(|()| texts)
        })
    }

    /// Every name and text of a free-form object (a meter event's payload); values at most `max` characters.
    pub(super) fn into_texts(mut self, max: usize) -> Result<Metadata, ApiError> {
        let keys: Vec<String> = self.fields.keys().cloned().collect();
        keys.into_iter().map(|key| Ok((key.clone(), self.text(&key, max)?.unwrap_or_default()))).collect()
    }

    fn into_metadata(self) -> Result<Metadata, ApiError> {
        let mut metadata = Metadata::new();
        for (key, node) in self.fields {
            let name = format!("{}[{key}]", self.prefix);
            let Node::Text(text) = node else {
                return Err(ApiError::invalid("Metadata values must be strings.").param(&name));
            };
            if key.chars().count() > METADATA_KEY_CHARS || text.chars().count() > METADATA_VALUE_CHARS {
                let limits = format!("keys {METADATA_KEY_CHARS} and values {METADATA_VALUE_CHARS} characters at most");
                return Err(ApiError::invalid(format!("Invalid metadata: {limits}")).param(&name));
            }
            metadata.insert(key, text);
        }
        Ok(metadata)
    }

    fn list(&mut self, key: &str) -> Result<Option<Vec<Node>>, ApiError> {
        match self.fields.remove(key) {
            None => Ok(None),
            Some(Node::List(items)) => Ok(Some(items)),
            Some(Node::Text(text)) if text.is_empty() => Ok(Some(Vec::new())),
            Some(Node::Map(fields)) => indexed(fields).map(Some).ok_or_else(|| self.wrong("array", key, "an object")),
            Some(Node::Text(text)) => Err(self.wrong("array", key, &text)),
        }
    }

    fn wrong(&self, kind: &str, key: &str, got: &str) -> ApiError {
        ApiError::invalid(format!("Invalid {kind}: {got}")).param(&self.name(key))
    }

    fn empty(&self, key: &str) -> ApiError {
        let name = self.name(key);
        let message = format!(
            "You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; \
             however '{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty value."
        );
        ApiError::invalid(message).code("parameter_invalid_empty").param(&name)
    }
}

/// Merges an update into an object's metadata.
pub(super) fn merge_metadata(metadata: &mut Metadata, change: Change<Metadata>) -> Result<(), ApiError> {
    match change {
        Change::Keep => {}
        Change::Clear => metadata.clear(),
        Change::Set(update) => {
            metadata.extend(update);
            metadata.retain(|_, value| !value.is_empty());
        }
    }
    if metadata.len() > METADATA_KEYS {
        return Err(ApiError::invalid(format!("Metadata can have up to {METADATA_KEYS} keys.")).param("metadata"));
    }
    Ok(())
}

/// `{"0": a, "1": b}` as a list, in the order of the numbers.
fn indexed(fields: Form) -> Option<Vec<Node>> {
    let numbered: Option<BTreeMap<u32, Node>> =
        fields.into_iter().map(|(key, node)| Some((key.parse().ok()?, node))).collect();
    Some(numbered?.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::form;

    fn params(raw: &str) -> Params {
        Params::new(form::parse(raw).unwrap())
    }

    #[test]
    fn what_nobody_takes_is_unknown_by_its_full_name() {
        let mut p = params("recurring[interval]=month&recurring[colour]=red");
        let mut inner = p.object("recurring").unwrap().unwrap();
        assert_eq!(inner.text("interval", 9).unwrap().as_deref(), Some("month"));
        let error = inner.finish().unwrap_err();
        assert_eq!(error.message, "Received unknown parameter: recurring[colour]");
        assert_eq!((error.code, error.param.as_deref()), (Some("parameter_unknown"), Some("recurring[colour]")));
        p.finish().unwrap();
    }

    #[test]
    fn numbers_words_and_booleans_are_read_or_refused() {
        let mut p = params("a=12&b=x&c=true&d=maybe&e=day&f=0.50");
        assert_eq!(p.integer("a").unwrap(), Some(12));
        assert_eq!(p.integer("b").unwrap_err().code, Some("parameter_invalid_integer"));
        assert_eq!(p.boolean("c").unwrap(), Some(true));
        assert_eq!(p.boolean("d").unwrap_err().param.as_deref(), Some("d"));
        assert_eq!(p.choice("e", &[("day", 1), ("hour", 2)]).unwrap(), Some(1));
        assert_eq!(p.decimal("f").unwrap().unwrap().to_string(), "0.5");
    }

    #[test]
    fn an_empty_text_unsets_or_is_refused() {
        assert_eq!(params("a=").clearable_text("a", 9).unwrap(), Change::Clear);
        assert_eq!(params("a=").text("a", 9).unwrap_err().code, Some("parameter_invalid_empty"));
        assert_eq!(params("").required_text("a", 9).unwrap_err().message, "Missing required param: a.");
        assert_eq!(params("a=abc").text("a", 2).unwrap_err().param.as_deref(), Some("a"));
    }

    #[test]
    fn lists_come_in_the_order_of_their_numbers() {
        let mut p = params("t[10]=c&t[2]=b&t[0]=a&u[]=x");
        assert_eq!(p.texts("t", 9).unwrap().unwrap(), ["a", "b", "c"]);
        assert_eq!(p.texts("u", 9).unwrap().unwrap(), ["x"]);
    }

    #[test]
    fn metadata_is_merged_and_emptied_by_key() {
        let mut metadata = Metadata::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        merge_metadata(&mut metadata, params("metadata[a]=&metadata[c]=3").metadata().unwrap()).unwrap();
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["b", "c"]);
        merge_metadata(&mut metadata, params("metadata=").metadata().unwrap()).unwrap();
        assert!(metadata.is_empty());
    }
}
