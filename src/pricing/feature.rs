//! A plan's features: what opens routes, and what the upstream is told about the tenant.

use std::fmt::{self, Write};
use std::sync::Arc;

use http::HeaderValue;

use super::Plan;

/// A plan's feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// On or off.
    Flag(bool),
    /// A number, for example `models: 10`.
    Number(u64),
    /// A word.
    Text(Arc<str>),
}

impl Plan {
    /// Whether the plan opens routes that require `feature`: only a flag does that.
    #[must_use]
    pub fn opens(&self, feature: &str) -> bool {
        self.features.get(feature) == Some(&Feature::Flag(true))
    }

    /// The plan's features for the upstream's `X-Tenant-Features`, by name: `exports, models=10, region="eu"`; a flag that
    /// is off is left out; `None` if nothing is left.
    ///
    /// A dictionary as RFC 9651 3.2 has it, given names in its alphabet (lower case, digits, `_-.*`); other characters
    /// of a name are percent-encoded. Text beyond ASCII is a display string (3.3.8): `%"f%c3%bc"`.
    #[must_use]
    pub fn features_header(&self) -> Option<HeaderValue> {
        let mut text = String::new();
        for (name, feature) in &self.features {
            if *feature != Feature::Flag(false) {
                let comma = if text.is_empty() { "" } else { ", " };
                write!(text, "{comma}{}{feature}", Name(name)).expect("a String takes all");
            }
        }
        (!text.is_empty()).then(|| HeaderValue::try_from(text).expect("visible ASCII and spaces only"))
    }
}

/// The part after the name.
impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(_) => Ok(()),
            Self::Number(number) => write!(f, "={number}"),
            Self::Text(text) if text.bytes().all(is_visible) => {
                write!(f, "=\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Self::Text(text) => {
                f.write_str("=%\"")?;
                encode(text, |byte| is_visible(byte) && !matches!(byte, b'%' | b'"'), f)?;
                f.write_char('"')
            }
        }
    }
}

struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode(self.0, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'*'), f)
    }
}

const fn is_visible(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

fn encode(text: &str, plain: impl Fn(u8) -> bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    text.bytes().try_for_each(
        |byte| {
            if plain(byte) { f.write_char(char::from(byte)) } else { write!(f, "%{byte:02x}") }
        },
    )
}
