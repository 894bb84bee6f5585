//! Path templates: `/a/{name}/b` and `/docs/{*rest}`; the one grammar for routes and key scopes.
//!
//! * A fixed segment is matched as a whole, upper and lower case distinct. Its escapes mean the characters they stand for.
//! * `{name}` is one segment, never empty.
//! * `{*rest}` stands last: `/docs/{*rest}` matches every path that begins with `/docs/`, that one included, and not
//!   `/docs` itself; `/{*rest}` matches every path.
//! * A `/` at the end makes no difference, unless both forms are listed: then each matches its own.

use std::sync::Arc;

use super::path::{Case, Token, Tokens, Walk, is_pchar, normal_segment};
use super::pattern::METHODS;
use super::reading::each_reading;

/// A parsed path template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// As written.
    pub text: Arc<str>,
    segments: Arc<[Segment]>,
    slash: bool,
}

/// A part of a template between two `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// Text, in normal form (see `reading`).
    Fixed(Box<str>),
    /// `{name}`; the name is for people.
    Placeholder,
    /// `{*rest}`, always last.
    Rest,
}

/// Why a text is no template or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct TemplateError {
    /// Position in the text that was parsed, in characters, from 1.
    pub at: usize,
    /// What is wrong, and what is allowed.
    pub problem: Problem,
}

/// What is wrong with a template or pattern, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing where a path should be.
    #[error("a path is missing; write a template such as `/signals/{{symbol}}`")]
    Empty,
    /// It begins with something else than `/`.
    #[error("a path begins with `/`; a method may stand before it, as in `GET /signals`")]
    NoSlash,
    /// Not one of [`METHODS`].
    #[error("`{0}` is no method; allowed are {known}, or none for any", known = METHODS.join(" "))]
    Method(String),
    /// `//` in a template.
    #[error("a segment is empty; write one `/` between two segments")]
    EmptySegment,
    /// `.` or `..`.
    #[error("`{0}` is a dot segment, and paths with dot segments are refused; write the path they lead to")]
    DotSegment(String),
    /// `img-{id}.png`, `{a}{b}`, `{a`.
    #[error(
        "in `{0}`: a placeholder fills its whole segment, as `{{name}}` or `{{*rest}}`; a brace as text is `%7B` or `%7D`"
    )]
    Placeholder(String),
    /// Not a name.
    #[error("`{0}` is no name for a placeholder; a name is letters, digits and `_`, and begins with a letter or `_`")]
    Name(String),
    /// The same name twice.
    #[error("the name `{0}` stands for two segments; give each its own")]
    SameName(String),
    /// `{*rest}` before the end.
    #[error("`{{*{0}}}` matches to the end of the path; nothing may follow it")]
    RestNotLast(String),
    /// The wildcards of other tools.
    #[error(
        "`{0}` matches only itself here; write `{{name}}` for one segment, `{{*rest}}` for all that follow, \
             or escape its first character for the text"
    )]
    OtherGrammar(String),
    /// `?` or `#`.
    #[error("a template is matched against the path only; leave out `{0}` and what follows it")]
    Query(char),
    /// `%` before something else than two hex digits.
    #[error("`%` begins an escape of two hex digits, as in `%20`; a per cent sign as text is `%25`")]
    Escape,
    /// A character that no path has.
    #[error("{0:?} cannot stand in a path; allowed are letters, digits, `-._~!$&'()*+,;=:@` and escapes such as `%20`")]
    Character(char),
    /// More than [`MAX_SEGMENTS`].
    #[error("more than {MAX_SEGMENTS} segments; end it with `{{*rest}}`")]
    TooDeep,
}

/// Bounds the depth of a search.
pub const MAX_SEGMENTS: usize = 64;

impl Template {
    /// Parses `/a/{name}/b` or `/docs/{*rest}`.
    ///
    /// # Errors
    /// What is wrong, where, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let body = body_of(text)?;
        let segments = parse_segments(text, body)?;
        Ok(Self { text: text.into(), segments: segments.into(), slash: body.ends_with('/') })
    }

    /// Whether every reading an origin might have of the raw request `path` (no query) is covered.
    /// A path with a dot segment is covered by nothing.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let (mut readings, mut covered) = (0_usize, 0_usize);
        let read = each_reading(path, |text, _| {
            readings += 1;
            covered += usize::from(self.covers_reading(text));
        });
        read.is_ok() && readings > 0 && readings == covered
    }

    fn covers_reading(&self, text: &str) -> bool {
        let Some(mut walk) = Walk::new(text.as_bytes()) else { return false };
        for segment in &*self.segments {
            if *segment == Segment::Rest {
                return walk.goes_on();
            }
            let Some((found, next)) = walk.step() else { return false };
            if !segment.covers(found) {
                return false;
            }
            walk = next;
        }
        walk.rest.is_none()
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn case(&self) -> Case {
        let mixed = |segment: &Segment| matches!(segment, Segment::Fixed(text) if Case::of(text) == Case::Mixed);
        if self.segments.iter().any(mixed) { Case::Mixed } else { Case::Lower }
    }

    pub(super) fn ends_with_slash(&self) -> bool {
        self.slash
    }
}

impl Segment {
    fn covers(&self, found: &[u8]) -> bool {
        match self {
            Self::Fixed(text) => text.as_bytes() == found,
            Self::Placeholder => !found.is_empty(),
            Self::Rest => true,
        }
    }
}

fn body_of(text: &str) -> Result<&str, TemplateError> {
    if text.is_empty() {
        return Err(error_at(text, 0, Problem::Empty));
    }
    text.strip_prefix('/').ok_or_else(|| error_at(text, 0, Problem::NoSlash))
}

/// Parses the segments of `body`, which is `text` after its first byte.
fn parse_segments(text: &str, body: &str) -> Result<Vec<Segment>, TemplateError> {
    let mut segments = Vec::new();
    let mut names = Vec::new();
    let mut start = 1;
    for raw in body.split('/') {
        if segments.last() == Some(&Segment::Rest) {
            let rest = names.last().copied().unwrap_or_default();
            return Err(error_at(text, start - 1, Problem::RestNotLast(String::from(rest))));
        }
        let only_the_last_slash = raw.is_empty() && start == text.len();
        if only_the_last_slash {
            break;
        }
        if segments.len() == MAX_SEGMENTS {
            return Err(error_at(text, start, Problem::TooDeep));
        }
        let problem = |(offset, problem)| error_at(text, start + offset, problem);
        segments.push(parse_segment(raw, &mut names).map_err(problem)?);
        start += raw.len() + 1;
    }
    Ok(segments)
}

/// Parses one segment; an error has its offset in bytes.
fn parse_segment<'a>(raw: &'a str, names: &mut Vec<&'a str>) -> Result<Segment, (usize, Problem)> {
    if raw.is_empty() {
        return Err((0, Problem::EmptySegment));
    }
    if raw.contains(['{', '}']) {
        return parse_placeholder(raw, names);
    }
    if matches!(raw, "*" | "**") || raw.starts_with(':') {
        return Err((0, Problem::OtherGrammar(raw.into())));
    }
    check_characters(raw)?;
    match normal_segment(raw) {
        dots if dots == "." || dots == ".." => Err((0, Problem::DotSegment(raw.into()))),
        text => Ok(Segment::Fixed(text.into())),
    }
}

fn parse_placeholder<'a>(raw: &'a str, names: &mut Vec<&'a str>) -> Result<Segment, (usize, Problem)> {
    let inner = raw.strip_prefix('{').and_then(|raw| raw.strip_suffix('}'));
    let inner = inner.filter(|inner| !inner.contains(['{', '}'])).ok_or_else(|| {
        let at = if raw.starts_with('{') { 0 } else { raw.find(['{', '}']).unwrap_or(0) };
        (at, Problem::Placeholder(raw.into()))
    })?;
    let (name, segment) = match inner.strip_prefix('*') {
        Some(name) => (name, Segment::Rest),
        None => (inner, Segment::Placeholder),
    };
    let is_name = |name: &str| name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
    if name.is_empty() || !is_name(name) || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err((raw.len() - inner.len() - 1, Problem::Name(inner.into())));
    }
    if names.contains(&name) {
        return Err((0, Problem::SameName(name.into())));
    }
    names.push(name);
    Ok(segment)
}

/// Only what a request path may hold. Characters beyond ASCII may be written as they are; they mean their UTF-8 escapes.
fn check_characters(raw: &str) -> Result<(), (usize, Problem)> {
    let bad = |character: char| match character {
        '?' | '#' => Some(Problem::Query(character)),
        '%' => None,
        _ if !character.is_ascii() && !character.is_control() && !character.is_whitespace() => None,
        _ if u8::try_from(character).is_ok_and(is_pchar) => None,
        _ => Some(Problem::Character(character)),
    };
    if let Some(found) = raw.char_indices().find_map(|(at, character)| Some((at, bad(character)?))) {
        return Err(found);
    }
    let mut tokens = Tokens(raw.as_bytes());
    let mut at = 0;
    while let Some(token) = tokens.next() {
        if token == Token::Byte(b'%') {
            return Err((at, Problem::Escape));
        }
        at = raw.len() - tokens.0.len();
    }
    Ok(())
}

pub(super) fn error_at(text: &str, byte: usize, problem: Problem) -> TemplateError {
    TemplateError { at: text.char_indices().take_while(|(at, _)| *at < byte).count() + 1, problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn a_template_matches_what_it_says() {
        for (text, yes, no) in [
            ("/", "/", "/a // /a/"),
            ("/a/b", "/a/b /a/b/ /%61/b", "/ /a /a/bc /a/B /a/b/c /a//b /a/b//"),
            ("/a/b/", "/a/b /a/b/", "/a /a/b/c /a/b//"),
            ("/a/{x}", "/a/b /a/b/ /a/%20 /a/%40", "/a /a/ /a/b/c /a// /a/b%2Fc /b/a"),
            ("/a/{*rest}", "/a/ /a/b /a/b/c/ /a// /a/%2F", "/a /b /ab/c /"),
            ("/{*rest}", "/ /a /a/b// /a%2F%5C;x", "* a"),
            ("/users/@me", "/users/@me", "/users/%40me"),
            ("/caf%c3%A9/é", "/café/%c3%a9 /caf%C3%A9/é", "/cafe/e"),
        ] {
            for path in yes.split(' ') {
                assert!(template(text).matches(path), "{text} {path}");
            }
            for path in no.split(' ').chain([""]) {
                assert!(!template(text).matches(path), "{text} {path}");
            }
        }
    }

    #[test]
    fn every_reading_has_to_be_covered() {
        for (text, path, covered) in [
            ("/a/{x}", "/a/b;c", true),
            ("/a/b", "/a/b;c", false),
            ("/a/{*rest}", "/a/b%2Fc", true),
            ("/a/{*rest}", "/a//b", true),
            ("/a/{*rest}", "//a/b", false),
            ("/a/{*rest}", "/a%2Fb", false),
            ("/a/{*rest}", "/a/../b", false),
            ("/a/{*rest}", "/a/b%2F..%2F..%2Fc", false),
            ("/{*rest}", "/a/%2e%2e/b", false),
        ] {
            assert_eq!(template(text).matches(path), covered, "{text} {path}");
        }
    }

    #[test]
    fn errors_name_the_place_and_what_is_allowed() {
        for (text, message) in [
            ("", "at character 1: a path is missing; write a template such as `/signals/{symbol}`"),
            ("a/b", "at character 1: a path begins with `/`; a method may stand before it, as in `GET /signals`"),
            ("/a//b", "at character 4: a segment is empty; write one `/` between two segments"),
            ("//", "at character 2: a segment is empty; write one `/` between two segments"),
            (
                "/é/../b",
                "at character 4: `..` is a dot segment, and paths with dot segments are refused; write the path they lead to",
            ),
            (
                "/a/%2E",
                "at character 4: `%2E` is a dot segment, and paths with dot segments are refused; write the path they lead to",
            ),
            (
                "/a/img-{id}.png",
                "at character 8: in `img-{id}.png`: a placeholder fills its whole segment, as `{name}` or `{*rest}`; a brace as text is `%7B` or `%7D`",
            ),
            (
                "/{a",
                "at character 2: in `{a`: a placeholder fills its whole segment, as `{name}` or `{*rest}`; a brace as text is `%7B` or `%7D`",
            ),
            (
                "/{a}{b}",
                "at character 2: in `{a}{b}`: a placeholder fills its whole segment, as `{name}` or `{*rest}`; a brace as text is `%7B` or `%7D`",
            ),
            (
                "/a/{1a}",
                "at character 5: `1a` is no name for a placeholder; a name is letters, digits and `_`, and begins with a letter or `_`",
            ),
            (
                "/a/{*}",
                "at character 5: `*` is no name for a placeholder; a name is letters, digits and `_`, and begins with a letter or `_`",
            ),
            ("/{a}/{a}", "at character 6: the name `a` stands for two segments; give each its own"),
            ("/{*all}/b", "at character 8: `{*all}` matches to the end of the path; nothing may follow it"),
            ("/{*all}/", "at character 8: `{*all}` matches to the end of the path; nothing may follow it"),
            (
                "/a/*",
                "at character 4: `*` matches only itself here; write `{name}` for one segment, `{*rest}` for all that follow, or escape its first character for the text",
            ),
            (
                "/:id",
                "at character 2: `:id` matches only itself here; write `{name}` for one segment, `{*rest}` for all that follow, or escape its first character for the text",
            ),
            (
                "/a?b=1",
                "at character 3: a template is matched against the path only; leave out `?` and what follows it",
            ),
            (
                "/a%2",
                "at character 3: `%` begins an escape of two hex digits, as in `%20`; a per cent sign as text is `%25`",
            ),
            (
                "/ab c",
                "at character 4: ' ' cannot stand in a path; allowed are letters, digits, `-._~!$&'()*+,;=:@` and escapes such as `%20`",
            ),
            (
                "/a\\b",
                "at character 3: '\\\\' cannot stand in a path; allowed are letters, digits, `-._~!$&'()*+,;=:@` and escapes such as `%20`",
            ),
        ] {
            assert_eq!(Template::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let deep = "/a".repeat(MAX_SEGMENTS + 1);
        assert_eq!(Template::parse(&deep).unwrap_err(), TemplateError { at: 130, problem: Problem::TooDeep });
        assert!(Template::parse(&"/a".repeat(MAX_SEGMENTS)).is_ok());
    }

    #[test]
    fn what_other_tools_treat_as_special_can_be_meant_as_text() {
        assert!(template("/%2A").matches("/*"));
        assert!(template("/%3Aid").matches("/:id"));
        assert!(template("/v1/models/x:predict").matches("/v1/models/x:predict"));
        assert!(template("/%7Ba%7D").matches("/{a}"));
    }

    proptest! {
        #[test]
        fn a_fixed_template_matches_its_own_text(text in "(/[a-zA-Z0-9._~!$&'()+,=@-]{1,5}){1,4}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert!(template.matches(&text));
            }
        }

        #[test]
        fn anything_is_parsed_or_refused_within_its_length(text: String, odd in "[/{}*%.:a2é ]{0,20}") {
            for text in [text, format!("/{odd}"), odd] {
                if let Err(error) = Template::parse(&text) {
                    prop_assert!(error.at >= 1 && error.at <= text.chars().count().max(1), "{text:?} {error:?}");
                }
            }
        }
    }
}
