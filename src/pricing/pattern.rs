//! A template with a method: what a route matches, and what a key may call.

use std::fmt;
use std::str::FromStr;

use http::Method;

use super::template::{Problem, Segment, Template, TemplateError, error_at};
use super::trie::stand_in;

/// A template, for one method or any: `GET /signals/{symbol}` or `/docs/{*rest}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// `None` = any.
    pub method: Option<Method>,
    /// The path.
    pub template: Template,
}

/// What a key may call.
pub type Scope = Pattern;

/// The methods a pattern may name: those of RFC 9110 that a proxy forwards, QUERY, PATCH, and `WebDAV`'s.
pub const METHODS: [&str; 20] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "QUERY",
    "COPY",
    "LOCK",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REPORT",
    "SEARCH",
    "UNLOCK",
    "MKCALENDAR",
];

impl Pattern {
    /// Parses a template with an optional method before it.
    ///
    /// # Errors
    /// What is wrong, where, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let Some((word, path)) = text.split_once(' ').filter(|_| !text.starts_with('/')) else {
            return Ok(Self { method: None, template: Template::parse(text)? });
        };
        let method = parse_method(word).ok_or_else(|| error_at(text, 0, Problem::Method(word.into())))?;
        let path = path.trim_start_matches(' ');
        let before = text.len() - path.len();
        let template = Template::parse(path).map_err(|error| TemplateError { at: error.at + before, ..error })?;
        Ok(Self { method: Some(method), template })
    }

    /// Whether a request with `method` and the raw `path` (no query) is covered, in every reading of the path.
    /// HEAD and OPTIONS are covered by a pattern for GET.
    #[must_use]
    pub fn covers(&self, method: &Method, path: &str) -> bool {
        let for_method = |own: &Method| own == method || stand_in(method).as_ref() == Some(own);
        self.method.as_ref().is_none_or(for_method) && self.template.matches(path)
    }

    pub(super) fn has_upper_case(&self) -> bool {
        self.template.segments().iter().any(|segment| matches!(segment, Segment::Fixed(text) if has_upper_case(text)))
    }
}

/// Whether upper and lower case make a difference to a text in normal form.
pub(super) fn has_upper_case(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn parse_method(word: &str) -> Option<Method> {
    METHODS.contains(&word).then(|| Method::from_bytes(word.as_bytes()).ok())?
}

impl FromStr for Pattern {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) => write!(f, "{method} {}", self.template.text),
            None => f.write_str(&self.template.text),
        }
    }
}
