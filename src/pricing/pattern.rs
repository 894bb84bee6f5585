//! A template with a method: what a route matches, and what a key may call.

use std::fmt;
use std::str::FromStr;

use http::Method;

use super::template::{Problem, Template, TemplateError, error_at};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in ["/a/{x}", "GET /a/{x}", "QUERY /", "PROPFIND /{*rest}"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!(Pattern::parse("GET   /a").unwrap().to_string(), "GET /a");
    }

    #[test]
    fn a_scope_covers_its_method_and_what_stands_in_for_it() {
        for (scope, method, path, covered) in [
            ("/a", "GET", "/a", true),
            ("/a", "FANCY", "/a", true),
            ("GET /a", "GET", "/a", true),
            ("GET /a", "HEAD", "/a", true),
            ("GET /a", "OPTIONS", "/a", true),
            ("GET /a", "POST", "/a", false),
            ("HEAD /a", "HEAD", "/a", true),
            ("HEAD /a", "GET", "/a", false),
            ("POST /a", "OPTIONS", "/a", false),
            ("GET /a", "GET", "/b", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Scope::parse(scope).unwrap().covers(&method, path), covered, "{scope}: {method} {path}");
        }
    }

    #[test]
    fn errors_name_the_place_and_what_is_allowed() {
        for (text, message) in [
            ("GET", "at character 1: a path begins with `/`; a method may stand before it, as in `GET /signals`"),
            ("GET ", "at character 5: a path is missing; write a template such as `/signals/{symbol}`"),
            ("GET  a", "at character 6: a path begins with `/`; a method may stand before it, as in `GET /signals`"),
            ("GET /a//b", "at character 8: a segment is empty; write one `/` between two segments"),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        for word in ["get", "GTE", "*", "CONNECT"] {
            let error = Pattern::parse(&format!("{word} /a")).unwrap_err();
            assert_eq!(error, TemplateError { at: 1, problem: Problem::Method(word.into()) });
            assert!(
                error.to_string().starts_with(&format!("at character 1: `{word}` is no method; allowed are GET HEAD "))
            );
        }
    }
}
