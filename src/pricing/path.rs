//! The bytes and segments of a path.

// What a byte is to a path that all origins read alike.
const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const ODD: u8 = 4;

/// `pchar` of RFC 3986 without `;` and escapes is plain.
const CLASS: [u8; 256] = {
    let mut class = [ODD; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(clippy::as_conversions, reason = "const code has no usize::from")]
        let at = byte as usize;
        class[at] = match byte {
            b'/' => SLASH,
            b'.' => DOT,
            b';' => ODD,
            _ if is_pchar(byte) => PLAIN,
            _ => ODD,
        };
        byte += 1;
    }
    class
};

/// Whether every origin reads the path alike and it is in normal form: no escape, no `;`, `\`, `//` nor foreign byte,
/// no segment that begins with a dot. One pass, the only one for nearly every request.
pub(super) fn is_plain(path: &str) -> bool {
    let mut before = PLAIN;
    path.bytes().all(|byte| {
        let class = CLASS[usize::from(byte)];
        let plain = class != ODD && !(before == SLASH && class != PLAIN);
        before = class;
        plain
    })
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
