//! Path templates: `/a/{name}/b` and `/docs/{*rest}`; the one grammar for routes and key scopes.

use std::str::FromStr;
use std::sync::Arc;

use http::Method;

/// A parsed path template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// As written.
    pub text: Arc<str>,
}

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

/// Why a text is no template or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct TemplateError {
    /// Position in the text that was parsed, in characters, from 1.
    pub at: usize,
    /// What is wrong, and what is allowed.
    pub problem: Problem,
}

/// What is wrong with a template or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing where a path should be.
    #[error("a path is missing; write a template such as `/signals/{{symbol}}`")]
    Empty,
}

impl Template {
    /// Parses `/a/{name}/b` or `/docs/{*rest}`.
    ///
    /// # Errors
    /// What is wrong, where, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.into() })
    }

    /// Whether every reading an origin might have of the raw request `path` (no query) is covered.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let _ = path;
        todo!()
    }
}

impl Pattern {
    /// Parses a template with an optional method before it.
    ///
    /// # Errors
    /// What is wrong, where, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { method: None, template: Template::parse(text)? })
    }

    /// Whether a request with `method` and the raw `path` (no query) is covered, in every reading of the path.
    /// HEAD and OPTIONS are covered by a pattern for GET.
    #[must_use]
    pub fn covers(&self, method: &Method, path: &str) -> bool {
        let _ = (method, path);
        todo!()
    }
}

impl FromStr for Pattern {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}
