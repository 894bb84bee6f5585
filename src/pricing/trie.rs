//! A tree of path segments that finds the most specific pattern.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use http::Method;

use super::path::Walk;
use super::pattern::Pattern;
use super::template::Segment;

/// Patterns by segment. `V` says what a pattern leads to.
///
/// A search visits a node at most once, and but for patterns that overlap as in `/a/{x}/b` and `/{x}/a/c` one node per
/// segment: its time depends on the path, not on the number of patterns.
#[derive(Clone, Debug)]
pub(super) struct Trie<V> {
    /// The root first. A node names others by their index.
    nodes: Vec<Node<V>>,
}

#[derive(Clone, Debug)]
struct Node<V> {
    /// Fixed seed: the keys come from the configuration, clients only look them up.
    fixed: HashMap<Box<[u8]>, usize, FixedState>,
    placeholder: Option<usize>,
    /// `{*rest}` as the next segment.
    rest: ByMethod<V>,
    /// Patterns that end here.
    end: ByMethod<V>,
    /// Patterns that end here with a `/`.
    end_slash: ByMethod<V>,
}

#[derive(Clone, Debug)]
struct ByMethod<V> {
    own: Vec<(Method, V)>,
    any: Option<V>,
}

/// How segments and patterns are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Upper and lower case differ.
    Exact,
    /// Lower case, for origins to which they are the same.
    Folded,
}

impl<V: Copy> Trie<V> {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::new()] }
    }

    /// Adds a pattern; where one stands that matches the same requests, `resolve` says which of the two values stays
    /// (given the old one, then the new one).
    pub(super) fn insert(&mut self, pattern: &Pattern, spelling: Spelling, value: V, resolve: impl FnOnce(V, V) -> V) {
        let mut at = 0;
        for segment in pattern.template.segments() {
            at = match segment {
                Segment::Fixed(text) => self.fixed_child(at, spelling.of(text)),
                Segment::Placeholder => self.placeholder_child(at),
                Segment::Rest => return self.nodes[at].rest.insert(pattern.method.as_ref(), value, resolve),
            };
        }
        let node = &mut self.nodes[at];
        let end = if pattern.template.ends_with_slash() { &mut node.end_slash } else { &mut node.end };
        end.insert(pattern.method.as_ref(), value, resolve);
    }

    fn fixed_child(&mut self, at: usize, text: Box<[u8]>) -> usize {
        let new = self.nodes.len();
        let child = *self.nodes[at].fixed.entry(text).or_insert(new);
        self.ensure(child)
    }

    fn placeholder_child(&mut self, at: usize) -> usize {
        let new = self.nodes.len();
        let child = *self.nodes[at].placeholder.get_or_insert(new);
        self.ensure(child)
    }

    fn ensure(&mut self, child: usize) -> usize {
        if child == self.nodes.len() {
            self.nodes.push(Node::new());
        }
        child
    }

    /// The value of the most specific pattern for a path in normal form: compared segment by segment from the left, a
    /// fixed one beats `{name}`, which beats `{*rest}`; then the pattern that ends (or does not end) with `/` as the path
    /// does; then the method's own pattern, for HEAD and OPTIONS also GET's, before that for any method.
    pub(super) fn find(&self, path: &[u8], method: &Method) -> Option<V> {
        self.find_from(self.nodes.first()?, Walk::new(path)?, method)
    }

    fn find_from(&self, node: &Node<V>, walk: Walk<'_>, method: &Method) -> Option<V> {
        let found = match walk.step() {
            None => node.find_end(walk, method),
            Some((segment, walk)) => self
                .child(node.fixed.get(segment).copied())
                .and_then(|child| self.find_from(child, walk, method))
                .or_else(|| {
                    let child = self.child(node.placeholder.filter(|_| !segment.is_empty()))?;
                    self.find_from(child, walk, method)
                }),
        };
        found.or_else(|| node.rest.find(method).filter(|_| walk.goes_on()))
    }

    fn child(&self, at: Option<usize>) -> Option<&Node<V>> {
        self.nodes.get(at?)
    }
}

impl<V: Copy> Node<V> {
    fn new() -> Self {
        let none = || ByMethod { own: Vec::new(), any: None };
        Self { fixed: HashMap::default(), placeholder: None, rest: none(), end: none(), end_slash: none() }
    }

    fn find_end(&self, walk: Walk<'_>, method: &Method) -> Option<V> {
        let (same, other) = if walk.slash { (&self.end_slash, &self.end) } else { (&self.end, &self.end_slash) };
        same.find(method).or_else(|| other.find(method))
    }
}

impl<V: Copy> ByMethod<V> {
    fn insert(&mut self, method: Option<&Method>, value: V, resolve: impl FnOnce(V, V) -> V) {
        let Some(method) = method else {
            self.any = Some(self.any.map_or(value, |old| resolve(old, value)));
            return;
        };
        match self.own.iter_mut().find(|(own, _)| own == method) {
            Some((_, old)) => *old = resolve(*old, value),
            None => self.own.push((method.clone(), value)),
        }
    }

    fn find(&self, method: &Method) -> Option<V> {
        let own = |method: &Method| self.own.iter().find(|(own, _)| own == method).map(|(_, value)| *value);
        own(method).or_else(|| stand_in(method).and_then(|method| own(&method))).or(self.any)
    }
}

/// The method whose rule applies to one that has none of its own.
pub(super) fn stand_in(method: &Method) -> Option<Method> {
    (*method == Method::HEAD || *method == Method::OPTIONS).then_some(Method::GET)
}

impl Spelling {
    fn of(self, text: &str) -> Box<[u8]> {
        match self {
            Self::Exact => text.as_bytes().into(),
            Self::Folded => text.to_ascii_lowercase().into_bytes().into(),
        }
    }
}
