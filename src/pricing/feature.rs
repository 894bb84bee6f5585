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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(features: &[(&str, Feature)]) -> Plan {
        let features = features.iter().map(|(name, feature)| (Arc::from(*name), feature.clone())).collect();
        Plan { features, ..Plan::example() }
    }

    fn header(features: &[(&str, Feature)]) -> Option<String> {
        plan(features).features_header().map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_upstream_is_told_what_is_on() {
        let text = |text: &str| Feature::Text(text.into());
        for (features, expected) in [
            (vec![], None),
            (vec![("exports", Feature::Flag(false))], None),
            (vec![("models", Feature::Number(10)), ("exports", Feature::Flag(true))], Some("exports, models=10")),
            (vec![("a", Feature::Flag(false)), ("b", Feature::Number(0))], Some("b=0")),
            (vec![("region", text("eu west"))], Some(r#"region="eu west""#)),
            (vec![("q", text(r#"a"b\c"#))], Some(r#"q="a\"b\\c""#)),
            (vec![("t", text("für 5%"))], Some(r#"t=%"f%c3%bcr 5%25""#)),
            (vec![("t", text("a\r\nb: c"))], Some(r#"t=%"a%0d%0ab: c""#)),
            (vec![("a, b=1\n", Feature::Flag(true))], Some("a%2c%20b%3d1%0a")),
        ] {
            assert_eq!(header(&features).as_deref(), expected);
        }
    }

    #[test]
    fn only_a_flag_opens_routes() {
        let plan = plan(&[("on", Feature::Flag(true)), ("off", Feature::Flag(false)), ("number", Feature::Number(1))]);
        assert_eq!(["on", "off", "number", "none"].map(|name| plan.opens(name)), [true, false, false, false]);
    }
}
