//! YAML text as a tree in which every key and value knows its line and column.
//!
//! Built on the events of the parser inside `serde_yaml` (serde-saphyr re-exports it as `granit_parser`), not on its
//! `Deserializer`: that one stops at the first mistake and at the first repeated key, and turns `0.03` into a float.
//! Here all mistakes are wanted at once and a price keeps the text it was written with. Anchors, aliases and tags are
//! refused, so what is read is what is written and nothing can grow.

use serde_yaml::granit_parser::{self, Event, Parser, ScalarStyle};

use super::error::Position;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Everything written as one word or text; what it means is decided by who reads it.
    Scalar(Scalar),
    Seq(Vec<Node>),
    /// In the file's order, repeated keys included.
    Map(Vec<(Key, Node)>),
    /// Cannot be read; the mistake is reported already.
    Broken,
}

/// A scalar's text after YAML's own escapes, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) style: Style,
}

/// Whether a scalar may be a number or a truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// It may.
    Plain,
    /// It is text.
    Quoted,
}

/// A key and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) text: String,
}

/// What is wrong with the YAML itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) at: Position,
    pub(super) path: String,
    pub(super) problem: String,
    pub(super) allowed: &'static str,
}

/// Deepest nesting; the configuration needs seven levels. It bounds the recursion here.
const DEPTH: usize = 32;

/// Reads one document; an empty text is [`Value::Null`]. After a syntax error the tree is [`Value::Broken`].
pub(super) fn parse(text: &str) -> (Node, Vec<Flaw>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
    };
    let mut builder = Builder { parser: Parser::new_from_str_with_options(text, options), flaws: Vec::new() };
    let root = builder.document().unwrap_or_else(|stop| {
        builder.flaws.extend(stop.0);
        Node { at: START, value: Value::Broken }
    });
    repeated_keys(&root, "", &mut builder.flaws);
    (root, builder.flaws)
}

/// The first character of a file.
const START: Position = Position { line: 1, column: 1, width: 1 };

struct Builder<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    flaws: Vec<Flaw>,
}

/// The text cannot be read on.
struct Stop(Option<Flaw>);

type Span = granit_parser::Span;

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's events may grow; here only nodes have a meaning")]
impl<'t> Builder<'t> {
    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = Node { at: START, value: Value::Null };
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) if documents == 0 => documents = 1,
                Event::DocumentStart(..) => {
                    self.flaw(&span, "", "a second document begins", "one document per file");
                    return Ok(root);
                }
                Event::StreamStart | Event::DocumentEnd => {}
                event => root = self.node(event, &span, "")?,
            }
        }
    }

    /// The next event that is not a comment.
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        loop {
            match self.parser.next() {
                Some(Ok((event, span))) if is_content(&event) => return Ok((event, span)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Stop(Some(syntax(&error)))),
                None => return Err(Stop(None)),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: &Span, path: &str) -> Result<Node, Stop> {
        self.refuse_properties(&event, span, path);
        let at = position(span);
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style),
            Event::SequenceStart(..) => self.sequence(path)?,
            Event::MappingStart(..) => self.mapping(path)?,
            _ => {
                self.flaw(span, path, "an alias stands here", "the value itself; anchors and aliases are not used");
                Value::Broken
            }
        };
        Ok(Node { at, value })
    }

    fn sequence(&mut self, path: &str) -> Result<Value, Stop> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Seq(items));
            }
            let path = format!("{path}[{}]", items.len());
            items.push(self.node(event, &span, &path)?);
        }
    }

    fn mapping(&mut self, path: &str) -> Result<Value, Stop> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(entries));
            }
            let key = self.key(event, &span, path)?;
            let path = join(path, key.as_ref().map_or("?", |key| &key.text));
            let (event, span) = self.next()?;
            let value = self.node(event, &span, &path)?;
            entries.extend(key.map(|key| (key, value)));
        }
    }

    /// A key, or `None` when it is not a word; that is reported.
    fn key(&mut self, event: Event<'t>, span: &Span, path: &str) -> Result<Option<Key>, Stop> {
        let node = self.node(event, span, path)?;
        match node.value {
            Value::Scalar(Scalar { text, .. }) => Ok(Some(Key { at: node.at, text })),
            Value::Broken => Ok(None),
            Value::Null | Value::Seq(_) | Value::Map(_) => {
                self.flaw(span, path, "this key is not a word", "a word as key");
                Ok(None)
            }
        }
    }

    fn refuse_properties(&mut self, event: &Event<'t>, span: &Span, path: &str) {
        let (anchor, tagged) = match event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if anchor != 0 {
            self.flaw(span, path, "an anchor marks this value", "the value alone; anchors and aliases are not used");
        }
        if tagged {
            self.flaw(span, path, "a tag marks this value", "the value alone; tags are not used");
        }
    }

    fn flaw(&mut self, span: &Span, path: &str, problem: &str, allowed: &'static str) {
        self.flaws.push(Flaw { at: position(span), path: path.to_owned(), problem: problem.to_owned(), allowed });
    }
}

fn is_content(event: &Event<'_>) -> bool {
    event.is_node()
        || matches!(
            event,
            Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(..)
                | Event::DocumentEnd
                | Event::SequenceEnd
                | Event::MappingEnd
        )
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
    match (style, text.as_str()) {
        (Style::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        (Style::Plain | Style::Quoted, _) => Value::Scalar(Scalar { text, style }),
    }
}

fn position(span: &Span) -> Position {
    let (start, end) = (&span.start, &span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { usize::MAX };
    Position { line: start.line().max(1), column: start.col() + 1, width: width.max(1) }
}

fn syntax(error: &granit_parser::ScanError) -> Flaw {
    let mark = error.marker();
    Flaw {
        at: Position { line: mark.line().max(1), column: mark.col() + 1, width: 1 },
        path: String::new(),
        problem: format!("not YAML: {}", error.info()),
        allowed: "YAML 1.2; the mistake may be on the line before",
    }
}

/// `plans` + `pro` = `plans.pro`; a key with other characters is quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let simple = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let dot = if path.is_empty() { "" } else { "." };
    if simple { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}

fn repeated_keys(node: &Node, path: &str, flaws: &mut Vec<Flaw>) {
    match &node.value {
        Value::Map(entries) => {
            for (index, (key, value)) in entries.iter().enumerate() {
                let path = join(path, &key.text);
                if let Some((first, _)) = entries[..index].iter().find(|(other, _)| other.text == key.text) {
                    flaws.push(repeated(key, first, &path));
                }
                repeated_keys(value, &path, flaws);
            }
        }
        Value::Seq(items) => {
            for (index, item) in items.iter().enumerate() {
                repeated_keys(item, &format!("{path}[{index}]"), flaws);
            }
        }
        Value::Null | Value::Scalar(_) | Value::Broken => {}
    }
}

fn repeated(key: &Key, first: &Key, path: &str) -> Flaw {
    Flaw {
        at: key.at,
        path: path.to_owned(),
        problem: format!("`{}` is given twice, first on line {}", key.text, first.at.line),
        allowed: "each key once",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(node: &Node) -> &[(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar(_) | Value::Seq(_) | Value::Broken => panic!("not a mapping: {node:?}"),
        }
    }

    #[test]
    fn values_keep_text_and_place() {
        let (root, flaws) = parse("# head\na:\n  é: [0.030, \"1\", ~]\n");
        assert_eq!(flaws, []);
        let (key, inner) = &entries(&root)[0];
        assert_eq!((key.at.line, key.at.column, key.at.width), (2, 1, 1));
        let Value::Seq(items) = &entries(inner)[0].1.value else { panic!("{inner:?}") };
        assert_eq!(items[0].at, Position { line: 3, column: 7, width: 5 });
        assert_eq!(items[0].value, Value::Scalar(Scalar { text: "0.030".into(), style: Style::Plain }));
        assert_eq!(items[1].value, Value::Scalar(Scalar { text: "1".into(), style: Style::Quoted }));
        assert_eq!(items[2].value, Value::Null);
    }

    #[test]
    fn every_repeated_key_is_found() {
        let (_, flaws) = parse("a: 1\nb: { c: 1, c: 2 }\na: 2\nd: [{ e: 1, e: 2, e: 3 }]\n");
        let found: Vec<&str> = flaws.iter().map(|flaw| flaw.path.as_str()).collect();
        assert_eq!(found, ["b.c", "a", "d[0].e", "d[0].e"]);
    }

    #[test]
    fn anchors_aliases_tags_and_second_documents_are_refused() {
        let (_, flaws) = parse("a: &x 1\nb: *x\nc: !!str 2\nd: *nowhere\n? [k]\n: 1\n---\ne: 1\n");
        let found: Vec<(usize, &str)> = flaws.iter().map(|flaw| (flaw.at.line, flaw.problem.as_str())).collect();
        assert_eq!(
            found,
            [
                (1, "an anchor marks this value"),
                (2, "an alias stands here"),
                (3, "a tag marks this value"),
                (4, "an alias stands here"),
                (5, "this key is not a word"),
                (7, "a second document begins"),
            ]
        );
    }

    #[test]
    fn depth_is_bounded() {
        let (root, flaws) = parse(&"[".repeat(100_000));
        assert_eq!(root.value, Value::Broken);
        assert_eq!(flaws.len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a:{}\\[\\]\"'#&*!|>%@`,? \n\tx\u{feff}\u{e9}]{0,60}") {
            let (root, flaws) = parse(&text);
            prop_assert!(root.value != Value::Broken || !flaws.is_empty());
        }
    }
}
