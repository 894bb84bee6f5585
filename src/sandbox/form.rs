//! Stripe's form encoding: `a[b][0][c]=v`, `a[]=v`, in bodies and queries alike.

use std::collections::BTreeMap;

/// Pairs in one form.
const MAX_PAIRS: usize = 1_000;
/// Brackets behind one name.
const MAX_DEPTH: usize = 8;

/// A form as a tree; only the operation knows which texts are numbers.
pub(super) type Form = BTreeMap<String, Node>;

/// A value in a form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// `a=v`
    Text(String),
    /// `a[]=v`
    List(Vec<Node>),
    /// `a[b]=v`, and also `a[0]=v`: an object until somebody asks for a list.
    Map(Form),
}

/// Why a form cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormError {
    #[error("Invalid form: a percent sign is not followed by two hexadecimal digits.")]
    Percent,
    #[error("Invalid form: the text is not UTF-8.")]
    Utf8,
    #[error("Invalid form: more than {MAX_PAIRS} parameters.")]
    TooMany,
    #[error("Invalid form: parameters are nested more than {MAX_DEPTH} deep.")]
    TooDeep,
    #[error("Invalid form: '{0}' is used both as a value and as an object or array.")]
    Conflict(String),
}

/// Reads `application/x-www-form-urlencoded` text; of two values for one name the last one stays.
pub(super) fn parse(raw: &str) -> Result<Form, FormError> {
    let mut form = Form::new();
    for (n, pair) in raw.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if n >= MAX_PAIRS {
            return Err(FormError::TooMany);
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key)?, decode(value)?);
        let (head, rest) = tokens(&key);
        if rest.len() > MAX_DEPTH {
            return Err(FormError::TooDeep);
        }
        put(&mut form, head, &rest, value).map_err(|Clash| FormError::Conflict(key.clone()))?;
    }
    Ok(form)
}

/// `a[b][]` is `a`, then `b` and nothing. What is not well-formed stays one odd name, which no operation knows.
fn tokens(key: &str) -> (&str, Vec<&str>) {
    let Some((head, tail)) = key.split_once('[').filter(|(head, _)| !head.is_empty()) else {
        return (key, Vec::new());
    };
    match tail.strip_suffix(']') {
        Some(inner) => (head, inner.split("][").collect()),
        None => (key, Vec::new()),
    }
}

/// One name is used in two ways.
struct Clash;

fn put(form: &mut Form, head: &str, rest: &[&str], value: String) -> Result<(), Clash> {
    let Some((next, deeper)) = rest.split_first() else {
        return match form.insert(head.to_owned(), Node::Text(value)) {
            None | Some(Node::Text(_)) => Ok(()),
            Some(Node::List(_) | Node::Map(_)) => Err(Clash),
        };
    };
    let empty = || if next.is_empty() { Node::List(Vec::new()) } else { Node::Map(Form::new()) };
    match (form.entry(head.to_owned()).or_insert_with(empty), next.is_empty()) {
        (Node::List(items), true) => push(items, deeper, value),
        (Node::Map(inner), false) => put(inner, next, deeper, value),
        (Node::Text(_) | Node::List(_) | Node::Map(_), _) => Err(Clash),
    }
}

/// `a[][k]=v` goes into the last element, or begins a new one where that has `k` already.
fn push(items: &mut Vec<Node>, rest: &[&str], value: String) -> Result<(), Clash> {
    let Some((key, deeper)) = rest.split_first() else {
        items.push(Node::Text(value));
        return Ok(());
    };
    if let Some(Node::Map(last)) = items.last_mut()
        && !last.contains_key(*key)
    {
        return put(last, key, deeper, value);
    }
    let mut fresh = Form::new();
    put(&mut fresh, key, deeper, value)?;
    items.push(Node::Map(fresh));
    Ok(())
}

/// Undoes `+` and `%41`. Also for path segments, where `+` does not occur in an id.
pub(super) fn decode(text: &str) -> Result<String, FormError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex_pair(bytes.next(), bytes.next()).ok_or(FormError::Percent)?,
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| FormError::Utf8)
}

fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Node {
        Node::Text(s.to_owned())
    }

    fn map<const N: usize>(pairs: [(&str, Node); N]) -> Form {
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    #[test]
    fn brackets_become_a_tree() {
        let form = parse("a[b][0][c]=1&a[b][0][d]=2&a[b][1][c]=3&name=Jo%C3%A3o+B&e[]=x&e[]=y").unwrap();
        let first = Node::Map(map([("c", text("1")), ("d", text("2"))]));
        let second = Node::Map(map([("c", text("3"))]));
        let b = Node::Map(map([("0", first), ("1", second)]));
        assert_eq!(form["a"], Node::Map(map([("b", b)])));
        assert_eq!(form["name"], text("João B"));
        assert_eq!(form["e"], Node::List(vec![text("x"), text("y")]));
    }

    #[test]
    fn empty_brackets_with_fields_begin_an_element_when_a_field_comes_again() {
        let form = parse("i[][p]=1&i[][q]=2&i[][p]=3").unwrap();
        let first = Node::Map(map([("p", text("1")), ("q", text("2"))]));
        assert_eq!(form["i"], Node::List(vec![first, Node::Map(map([("p", text("3"))]))]));
    }

    #[test]
    fn encoded_brackets_are_brackets_and_broken_ones_are_a_name() {
        assert_eq!(parse("a%5Bb%5D=1").unwrap(), map([("a", Node::Map(map([("b", text("1"))])))]));
        assert_eq!(parse("a[b=1").unwrap(), map([("a[b", text("1"))]));
        assert_eq!(parse("a=1&a=2&&b").unwrap(), map([("a", text("2")), ("b", text(""))]));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(parse("a=%4"), Err(FormError::Percent));
        assert_eq!(parse("a=%FF"), Err(FormError::Utf8));
        assert_eq!(parse("a=1&a[b]=2"), Err(FormError::Conflict("a[b]".into())));
        assert_eq!(parse("a[b]=2&a=1"), Err(FormError::Conflict("a".into())));
        assert_eq!(parse("a[1][2][3][4][5][6][7][8][9]=1"), Err(FormError::TooDeep));
        assert_eq!(parse(&"a=1&".repeat(1_001)), Err(FormError::TooMany));
    }
}
