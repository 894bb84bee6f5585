//! The bytes and segments of a path.

/// What one pass over a path tells, the only one for nearly every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All origins read it alike and it is in normal form: no escape, no `;`, `\`, `//` nor foreign byte, no segment
    /// that begins with a dot.
    Plain(Case),
    /// Anything else.
    Odd,
}

/// Whether a text changes when it is put in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// It does not.
    Lower,
    /// It does.
    Mixed,
}

// What a byte means for the shape, as bits.
const PLAIN: u8 = 0;
const UPPER: u8 = 1;
const ODD: u8 = 2;
/// Odd after a `/`.
const NOT_AFTER_SLASH: u8 = 4;
const SLASH: u8 = 8;

const CLASS: [u8; 256] = {
    let mut class = [ODD; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(clippy::as_conversions, reason = "const code has no usize::from")]
        let at = byte as usize;
        class[at] = match byte {
            b'/' => SLASH | NOT_AFTER_SLASH,
            b'.' => NOT_AFTER_SLASH,
            b';' => ODD,
            b'A'..=b'Z' => UPPER,
            _ if is_pchar(byte) => PLAIN,
            _ => ODD,
        };
        byte += 1;
    }
    class
};

/// Looks at every byte, without a branch.
pub(super) fn shape_of(path: &str) -> Shape {
    let (mut before, mut seen, mut odd_pairs) = (PLAIN, PLAIN, PLAIN);
    for byte in path.bytes() {
        let class = CLASS[usize::from(byte)];
        odd_pairs |= (before >> 1) & class & NOT_AFTER_SLASH;
        seen |= class;
        before = class;
    }
    match (seen & ODD, odd_pairs) {
        (0, 0) if seen & UPPER == 0 => Shape::Plain(Case::Lower),
        (0, 0) => Shape::Plain(Case::Mixed),
        _ => Shape::Odd,
    }
}

impl Case {
    pub(super) fn of(text: &str) -> Self {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) { Self::Mixed } else { Self::Lower }
    }
}

/// RFC 3986 2.3.
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 3.3 without escapes: what may stand in a segment as it is.
pub(super) const fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// One character of a path, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// As it is. A `%` that is no escape is one too.
    Byte(u8),
    /// `%` and two hex digits.
    Escaped(u8),
}

impl Token {
    /// Appends its normal form as data: `pchar` as it is, everything else as `%` and two upper-case hex digits.
    pub(super) fn write(self, decode: Decode, out: &mut String) {
        match self {
            Self::Byte(byte) if is_pchar(byte) => out.push(char::from(byte)),
            Self::Escaped(byte) if is_unreserved(byte) || (decode == Decode::All && is_pchar(byte)) => {
                out.push(char::from(byte));
            }
            Self::Byte(byte) | Self::Escaped(byte) => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

const HEX: [u8; 16] = *b"0123456789ABCDEF";

/// Which escapes become the character they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decode {
    /// RFC 3986 6.2.2.2.
    Unreserved,
    /// All of `pchar`.
    All,
}

/// The characters of a path, one after the other.
#[derive(Clone)]
pub(super) struct Tokens<'a>(pub(super) &'a [u8]);

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if let [b'%', high, low, rest @ ..] = self.0
            && let Some(byte) = hex_pair(*high, *low)
        {
            self.0 = rest;
            return Some(Token::Escaped(byte));
        }
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(Token::Byte(*byte))
    }
}

pub(super) fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The normal form of a template's static segment; its escapes are read as the characters they stand for.
pub(super) fn normal_segment(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    Tokens(segment.as_bytes()).for_each(|token| token.write(Decode::All, &mut out));
    out
}

/// The segments of a path in normal form, walked one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'a> {
    /// What is still to come after the last `/`; `None` at the end.
    pub(super) rest: Option<&'a [u8]>,
    /// Whether the path ends with `/`; that `/` is not part of `rest`.
    pub(super) slash: bool,
}

impl<'a> Walk<'a> {
    /// `/` has no segments and ends with `/`; so does, with one empty segment, `//`.
    pub(super) fn new(path: &'a [u8]) -> Option<Self> {
        match path.strip_prefix(b"/")? {
            [] => Some(Self { rest: None, slash: true }),
            [body @ .., b'/'] => Some(Self { rest: Some(body), slash: true }),
            body => Some(Self { rest: Some(body), slash: false }),
        }
    }

    /// The next segment and the walk after it; `None` at the end.
    pub(super) fn step(self) -> Option<(&'a [u8], Self)> {
        let rest = self.rest?;
        match rest.iter().position(|byte| *byte == b'/') {
            Some(at) => Some((&rest[..at], Self { rest: Some(&rest[at + 1..]), ..self })),
            None => Some((rest, Self { rest: None, ..self })),
        }
    }

    /// Whether `{*rest}` fits here: something follows the last segment, be it only the `/` at the end.
    pub(super) fn goes_on(self) -> bool {
        self.rest.is_some() || self.slash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_told_from_an_odd_one() {
        for path in ["/", "/a", "/a/b/", "/a.b/c..d/-_~!$&'()*+,=:@", "/v1/..."] {
            let expected = if path == "/v1/..." { Shape::Odd } else { Shape::Plain(Case::Lower) };
            assert_eq!(shape_of(path), expected, "{path}");
        }
        assert_eq!(shape_of("/a/B"), Shape::Plain(Case::Mixed));
        for path in [
            "//",
            "/a//b",
            "/a/.",
            "/a/./b",
            "/.well-known",
            "/a;b",
            "/a%41",
            "/a\\b",
            "/a b",
            "/é",
            "/a\u{7f}",
            "/{a}",
        ] {
            assert_eq!(shape_of(path), Shape::Odd, "{path}");
        }
    }

    fn walked(path: &str) -> (Vec<String>, bool) {
        let mut walk = Walk::new(path.as_bytes()).unwrap();
        let mut segments = Vec::new();
        while let Some((segment, next)) = walk.step() {
            segments.push(String::from_utf8(segment.to_vec()).unwrap());
            walk = next;
        }
        (segments, walk.slash)
    }

    #[test]
    fn a_path_is_walked_segment_by_segment() {
        for (path, segments, slash) in [
            ("/", vec![], true),
            ("//", vec![""], true),
            ("/a", vec!["a"], false),
            ("/a/", vec!["a"], true),
            ("/a//", vec!["a", ""], true),
            ("//a/b", vec!["", "a", "b"], false),
        ] {
            assert_eq!(walked(path), (segments.into_iter().map(String::from).collect(), slash), "{path}");
        }
        assert!(Walk::new(b"a").is_none());
        assert!(Walk::new(b"").is_none());
    }

    #[test]
    fn a_templates_segment_is_written_as_readings_are() {
        for (segment, expected) in [
            ("a-b", "a-b"),
            ("%41%7e", "A~"),
            ("%40me", "@me"),
            ("é", "%C3%A9"),
            ("a%20b%2fc", "a%20b%2Fc"),
            ("100%", "100%25"),
        ] {
            assert_eq!(normal_segment(segment), expected);
        }
    }
}
