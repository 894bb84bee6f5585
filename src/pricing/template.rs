//! Path templates: `/a/{name}/b` and `/docs/{*rest}`; the one grammar for routes and key scopes.

use std::sync::Arc;

/// A parsed path template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// As written.
    pub text: Arc<str>,
}
