//! Every way in which an origin might read a request path.
//!
//! Bytes go to the origin unchanged, so what counts is how *it* reads them. Origins differ: what one takes for data,
//! another decodes, strips or joins before it routes. A path on which they may differ has several *readings*, each
//! written in one normal form; prices and scopes look at all of them. The differences known here:
//!
//! | in the path | read as |
//! |---|---|
//! | escape of an unreserved character (`%41`) | the character, always (RFC 3986 6.2.2.2) |
//! | escape of `! $ & ' ( ) * + , ; = : @` | itself; the character |
//! | `%2F` | data; a separator |
//! | `\`, `%5C` | data; a separator (each for itself) |
//! | `;…`, `%3B…` | data; path parameters, stripped to the segment's end (each for itself) |
//! | an empty segment (`//`) | as it is; merged away |
//! | `//` at the beginning | as above; before a host, which is dropped with it (`new URL(…)`) |
//! | `%25` before two hex digits | data; decoded a second time, with all of the above |
//!
//! Any other escape (`%20`, `%C3%A9`) means the same to all and makes no second reading. A dot segment in any reading
//! refuses the path: an origin or a proxy before it would resolve it, against whatever lies there.

use super::path::{Case, Decode, Shape, Token, Tokens, hex_pair, is_pchar, is_unreserved, shape_of};

/// The path is refused (`ambiguous_path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// `.` or `..` as a segment: plain, encoded, or only in the eyes of some origins (`/a%2F../b`, `/..;x/`).
    #[error("the path has a dot segment (`.` or `..`), plain or encoded; send the path that is meant")]
    DotSegment,
    /// It mixes so many unusual spellings that nobody can say what an origin makes of it.
    #[error("the path can be read in too many ways; avoid `//`, `;`, `\\` and escapes of `/ ; \\ %` in it")]
    TooManyReadings,
    /// It does not begin with `/` (and is not the `*` of `OPTIONS *`).
    #[error("the path does not begin with `/`")]
    NoSlash,
}

/// Readings of one path: 2 to the number of the differences that occur in it.
const MAX_READINGS: usize = 64;
/// Bytes of all readings of one path together, so that one long path costs no more than a fraction of a millisecond.
const MAX_BYTES: usize = 128 * 1024;

/// Calls `visit` with every reading of the raw request `path` (no query), each in normal form; with the path itself and
/// without an allocation if all origins read it alike. `*` and the empty path have no reading.
///
/// # Errors
/// [`Ambiguous`], possibly after some calls of `visit`.
pub(super) fn each_reading(path: &str, mut visit: impl FnMut(&str, Case)) -> Result<(), Ambiguous> {
    if path.is_empty() || path == "*" {
        return Ok(());
    }
    let body = path.strip_prefix('/').ok_or(Ambiguous::NoSlash)?;
    if let Shape::Plain(case) = shape_of(path) {
        visit(path, case);
        return Ok(());
    }
    let mut text = String::with_capacity(path.len() + 16);
    read_as(body, Switches(0), &mut text)?;
    let twice = decoded_twice(&text);
    let bodies = [Some(body), twice.as_deref().and_then(|path| path.strip_prefix('/'))];
    within_bounds(path, bodies)?;
    for body in bodies.into_iter().flatten() {
        for switches in Switches::that_matter(body).subsets() {
            read_as(body, switches, &mut text)?;
            visit(&text, Case::of(&text));
        }
    }
    Ok(())
}

fn within_bounds(path: &str, bodies: [Option<&str>; 2]) -> Result<(), Ambiguous> {
    let readings: usize = bodies.into_iter().flatten().map(|body| Switches::that_matter(body).count()).sum();
    if readings > MAX_READINGS || readings.saturating_mul(path.len()) > MAX_BYTES {
        return Err(Ambiguous::TooManyReadings);
    }
    Ok(())
}

/// What an origin may do with a path; one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Switches(u8);

impl Switches {
    /// Decodes escapes of reserved characters.
    const DECODE: Self = Self(1);
    /// Takes `%2F` for a separator.
    const ESCAPED_SLASH: Self = Self(2);
    /// Takes `\` for a separator.
    const BACKSLASH: Self = Self(4);
    /// Takes `%5C` for a separator.
    const ESCAPED_BACKSLASH: Self = Self(8);
    /// Strips what follows `;` in a segment.
    const PARAMETERS: Self = Self(16);
    /// Strips what follows `%3B` in a segment.
    const ESCAPED_PARAMETERS: Self = Self(32);
    /// Drops empty segments.
    const MERGE: Self = Self(64);
    /// Takes the first segment after a leading `//` for a host.
    const HOST: Self = Self(128);

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that may make a difference to the path `/body`.
    fn that_matter(body: &str) -> Self {
        let mut found = Self(0);
        let mut segment_is_empty = true;
        for token in Tokens(body.as_bytes()) {
            if segment_is_empty && token.may_end_name() {
                found = found.and(Self::MERGE);
            }
            found = found.and(token.matters_to());
            segment_is_empty = token.may_separate() || (segment_is_empty && token.may_end_name());
        }
        match (Tokens(body.as_bytes())).next() {
            Some(first) if first.may_separate() => found.and(Self::HOST),
            _ => found,
        }
    }

    const fn count(self) -> usize {
        1 << self.0.count_ones()
    }

    /// Every choice among these.
    fn subsets(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.0), move |subset| subset.checked_sub(1).map(|less| less & self.0)).map(Self)
    }
}

/// How a token is read.
impl Token {
    const fn may_separate(self) -> bool {
        matches!(self, Self::Byte(b'/' | b'\\') | Self::Escaped(b'/' | b'\\'))
    }

    const fn may_end_name(self) -> bool {
        self.may_separate() || matches!(self, Self::Byte(b';') | Self::Escaped(b';'))
    }

    /// The switches by which it is read in more than one way.
    const fn matters_to(self) -> Switches {
        match self {
            Self::Byte(b'\\') => Switches::BACKSLASH,
            Self::Byte(b';') => Switches::PARAMETERS,
            Self::Escaped(b'/') => Switches::ESCAPED_SLASH,
            Self::Escaped(b'\\') => Switches::ESCAPED_BACKSLASH,
            Self::Escaped(b';') => Switches::ESCAPED_PARAMETERS.and(Switches::DECODE),
            Self::Escaped(byte) if is_pchar(byte) && !is_unreserved(byte) => Switches::DECODE,
            Self::Byte(_) | Self::Escaped(_) => Switches(0),
        }
    }

    const fn separates(self, switches: Switches) -> bool {
        match self {
            Self::Byte(b'/') => true,
            Self::Byte(b'\\') => switches.has(Switches::BACKSLASH),
            Self::Escaped(b'/') => switches.has(Switches::ESCAPED_SLASH),
            Self::Escaped(b'\\') => switches.has(Switches::ESCAPED_BACKSLASH),
            Self::Byte(_) | Self::Escaped(_) => false,
        }
    }

    const fn begins_parameters(self, switches: Switches) -> bool {
        match self {
            Self::Byte(b';') => switches.has(Switches::PARAMETERS),
            Self::Escaped(b';') => switches.has(Switches::ESCAPED_PARAMETERS),
            Self::Byte(_) | Self::Escaped(_) => false,
        }
    }
}

/// Writes into `text` what an origin makes of `/body` that does what `switches` say.
fn read_as(body: &str, switches: Switches, text: &mut String) -> Result<(), Ambiguous> {
    let decode = if switches.has(Switches::DECODE) { Decode::All } else { Decode::Unreserved };
    let mut in_parameters = false;
    text.clear();
    text.push('/');
    for token in after_host(body, switches) {
        if token.separates(switches) {
            end_segment(text, switches)?;
            in_parameters = false;
        } else if token.begins_parameters(switches) {
            in_parameters = true;
        } else if !in_parameters {
            token.write(decode, text);
        }
    }
    refuse_dots(text)
}

/// The tokens of `body`, without the host that some see after a leading `//`.
fn after_host(body: &str, switches: Switches) -> Tokens<'_> {
    let separates = |token: Token| token.separates(switches);
    let mut tokens = Tokens(body.as_bytes());
    if switches.has(Switches::HOST) && tokens.clone().next().is_some_and(separates) {
        while tokens.clone().next().is_some_and(separates) {
            tokens.next();
        }
        while tokens.next().is_some_and(|token| !separates(token)) {}
    }
    tokens
}

fn end_segment(text: &mut String, switches: Switches) -> Result<(), Ambiguous> {
    refuse_dots(text)?;
    if !(switches.has(Switches::MERGE) && text.ends_with('/')) {
        text.push('/');
    }
    Ok(())
}

fn refuse_dots(text: &str) -> Result<(), Ambiguous> {
    if text.ends_with("/.") || text.ends_with("/..") { Err(Ambiguous::DotSegment) } else { Ok(()) }
}

/// The path with each `%25` before two hex digits as `%`: what a second decoding starts from. `None` if there is none.
/// Expects the normal form, in which no digit hides behind an escape of its own.
fn decoded_twice(normal: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = normal;
    while let Some(at) = rest.find("%25") {
        let (before, after) = rest.split_at(at + 3);
        let escape = matches!(after.as_bytes(), [high, low, ..] if hex_pair(*high, *low).is_some());
        out.push_str(if escape { &before[..=at] } else { before });
        rest = after;
    }
    out.push_str(rest);
    (out.len() < normal.len()).then_some(out)
}

#[cfg(test)]
mod origins;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(super) fn readings(path: &str) -> Result<BTreeSet<String>, Ambiguous> {
        let mut all = BTreeSet::new();
        each_reading(path, |text, case| {
            assert_eq!(case, Case::of(text));
            all.insert(text.to_owned());
        })?;
        Ok(all)
    }

    #[test]
    fn each_difference_between_origins_makes_its_readings() {
        for (path, expected) in [
            ("/a/b/", "/a/b/"),
            ("/.well-known/x", "/.well-known/x"),
            // Escapes that mean the same to all.
            ("/%61%7E%2d", "/a~-"),
            ("/a%20b/%c3%a9/é", "/a%20b/%C3%A9/%C3%A9"),
            ("/100%/%zz", "/100%25/%25zz"),
            // Escapes of reserved characters.
            ("/%40me", "/%40me /@me"),
            // Separators in the eyes of some.
            ("/a%2Fb", "/a%2Fb /a/b"),
            ("/a\\b", "/a%5Cb /a/b"),
            ("/a%5cb", "/a%5Cb /a/b"),
            // Parameters.
            ("/a;x=1/b", "/a/b /a;x=1/b"),
            ("/a;x%2Fy/b", "/a/b /a/y/b /a;x%2Fy/b /a;x/y/b"),
            ("/a%3Bx/b", "/a%3Bx/b /a/b /a;x/b"),
            // Empty segments, and the host that may stand after the first.
            ("/a//b", "/a//b /a/b"),
            ("/a//", "/a/ /a//"),
            ("//", "/ //"),
            ("//a/b", "//a/b /a/b /b"),
            ("///a/b", "///a/b /a/b /b"),
            ("/\\a/b", "/%5Ca/b //a/b /a/b /b"),
            ("//a//b", "//a//b /a/b //b /b"),
            ("/a/;x/b", "/a//b /a/;x/b /a/b"),
            // Decoded twice.
            ("/%2541", "/%2541 /A"),
            ("/a%252Fb", "/a%252Fb /a%2Fb /a/b"),
            ("/%25%34%31", "/%2541 /A"),
            ("/%252541", "/%252541 /%2541"),
            // Nothing to match.
            ("", ""),
            ("*", ""),
        ] {
            let expected = expected.split_whitespace().map(String::from).collect();
            assert_eq!(readings(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_dot_segment_in_any_reading_refuses_the_path() {
        for path in [
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/.",
            "/a/..",
            "/./",
            "/../",
            "/%2e",
            "/a/%2E%2e/b",
            "/a/.%2E",
            "/a/..;x/b",
            "/;/..",
            "/.;",
            "/..%3Bx/b",
            "/a%2F..",
            "/a%2F..%2Fb",
            "/..%2f",
            "/a\\..\\b",
            "/a/..\\b",
            "/..%5Cb",
            "/%252e%252e/a",
            "/a%252f..%252fb",
            "/%25%32%65/a",
            "//../a",
            "//a/../b",
        ] {
            assert_eq!(readings(path), Err(Ambiguous::DotSegment), "{path}");
        }
        for path in ["/...", "/.a", "/a.", "/a..b/..c", "/a/%2e%2e%2e", "/..%20"] {
            assert!(readings(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn what_is_not_a_path_is_refused() {
        for path in ["a", "a/b", "**", "%2F", "\\a", " /"] {
            assert_eq!(readings(path), Err(Ambiguous::NoSlash), "{path}");
        }
    }

    #[test]
    fn work_is_bounded() {
        assert_eq!(readings("/a;b%3Bc//d%2Fe\\f%5Cg").map(|all| all.len() > 8), Err(Ambiguous::TooManyReadings));
        assert_eq!(readings("/a;b//c%2Fd\\e").map(|all| all.len()), Ok(16));
        assert!(readings(&format!("/a{}", "%2Fx".repeat(8_000))).is_ok());
        assert_eq!(readings(&format!("/a{}", "%2Fx".repeat(20_000))), Err(Ambiguous::TooManyReadings));
        assert!(readings(&format!("/{}", "x".repeat(200_000))).is_ok());
    }
}
