//! Tests of the table against a reference that looks at every pattern of every route, and of its speed.

use std::time::Instant;

use proptest::prelude::*;

use super::tests::{route, spec};
use super::*;

fn segments_of(path: &str) -> Vec<&str> {
    let body = path.strip_prefix('/').unwrap();
    let body = body.strip_suffix('/').unwrap_or(body);
    if path == "/" { Vec::new() } else { body.split('/').collect() }
}

/// How specific a pattern is to a request that it matches; greater wins.
fn specificity(pattern: &Pattern, method: &Method, path: &str) -> Option<(Vec<u8>, bool, u8)> {
    let by_method = match &pattern.method {
        None => 0,
        Some(own) if own == method => 2,
        Some(own) if own == Method::GET && [Method::HEAD, Method::OPTIONS].contains(method) => 1,
        Some(_) => return None,
    };
    let (text, segments) = (&*pattern.template.text, segments_of(path));
    let mut by_segment = Vec::new();
    let parts = segments_of(text);
    for (at, part) in parts.iter().enumerate() {
        if part.starts_with("{*") {
            by_segment.push(0);
            return (at < segments.len() || path.ends_with('/')).then_some((by_segment, false, by_method));
        }
        let found = segments.get(at)?;
        if !part.starts_with('{') && part != found {
            return None;
        }
        by_segment.push(if part.starts_with('{') { 1 } else { 2 });
    }
    by_segment.push(3);
    let same_end = text.ends_with('/') == path.ends_with('/');
    (parts.len() == segments.len()).then_some((by_segment, same_end, by_method))
}

fn reference(specs: &[RouteSpec], method: &Method, path: &str) -> usize {
    let patterns = specs.iter().enumerate().flat_map(|(index, spec)| spec.patterns.iter().map(move |p| (index, p)));
    let scored = patterns.filter_map(|(index, pattern)| Some((specificity(pattern, method, path)?, index)));
    scored.max_by(|a, b| a.0.cmp(&b.0)).map_or(specs.len(), |(_, index)| index)
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST, Method::OPTIONS, Method::DELETE])
}

fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => Just("/a"), 3 => Just("/b"), 1 => Just("/@"), 2 => Just("/{N}")];
    let end = prop_oneof![3 => Just(""), 1 => Just("/"), 1 => Just("/{*rest}")];
    (prop::option::of(methods()), prop::collection::vec(part, 0..4), end).prop_map(|(method, parts, end)| {
        let named = parts.iter().enumerate().map(|(at, part)| part.replace('N', &format!("n{at}")));
        let path: String = named.chain([end.to_owned()]).collect();
        let path = if path.is_empty() { "/".to_owned() } else { path };
        method.map_or(path.clone(), |method| format!("{method} {path}"))
    })
}

/// Up to 30 patterns on up to 15 routes, without conflicts.
fn all_specs() -> impl Strategy<Value = Vec<RouteSpec>> {
    let one = (prop::collection::vec(texts(), 1..3), 0_u64..4, any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..15).prop_map(|all| {
        let mut specs: Vec<RouteSpec> = Vec::new();
        for (texts, cost, open, feature) in all {
            let mut spec = RouteSpec { patterns: Vec::new(), route: route(&texts.join(", "), cost) };
            spec.route.public = open && cost == 0;
            spec.route.requires = feature.then(|| texts[0].as_str().into());
            for text in &texts {
                spec.patterns.push(text.parse().unwrap());
                let trial = specs.iter().cloned().chain([spec.clone()]).collect();
                if RouteTable::new(trial, route("default", 1)).is_err() {
                    spec.patterns.pop();
                }
            }
            specs.push(spec);
        }
        specs
    })
}

fn plain_paths() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec!["/a", "/b", "/c", "/@"]);
    (prop::collection::vec(parts, 0..5), any::<bool>()).prop_map(|(parts, slash)| {
        let path = parts.concat();
        if slash || path.is_empty() { path + "/" } else { path }
    })
}

/// Another spelling of the same path, which some origin reads as the same.
fn respell(path: &str, choices: &[u8]) -> String {
    let mut out = String::new();
    for (character, choice) in path.chars().zip(choices) {
        let escaped = format!("%{:02x}", u32::from(character));
        match (choice, character) {
            (1, _) if !out.is_empty() => out.push_str(&escaped),
            (2, _) if !out.is_empty() => out.push_str(&escaped.replace('%', "%25")),
            (3, '/') if !out.is_empty() => out.push('\\'),
            (4, '/') => out.push_str("//"),
            (5, '/') if !out.is_empty() => out.push_str(";x=1/"),
            (6, '/') if !out.is_empty() => out.push_str("%3Bx/"),
            (7, _) => out.extend(character.to_uppercase()),
            (8, '/') if out.is_empty() => out.push_str("//host/"),
            _ => out.push(character),
        }
    }
    out
}

proptest! {
    #[test]
    fn the_route_is_that_of_a_reference_that_looks_at_every_pattern(specs in all_specs(), method in methods(), path in plain_paths()) {
        let expected = reference(&specs, &method, &path);
        let table = RouteTable::new(specs, route("default", 1)).unwrap();
        let found = table.find(&method, &path).unwrap();
        prop_assert_eq!(found.index, expected);
        prop_assert_eq!(found.others.capacity(), 0);
    }

    #[test]
    fn no_spelling_of_a_path_is_cheaper_or_opens_more(
        specs in all_specs(), method in methods(), path in plain_paths(), choices in prop::collection::vec(0_u8..16, 12),
    ) {
        let table = RouteTable::new(specs, route("default", 1)).unwrap();
        let plain = table.find(&method, &path).unwrap();
        let respelt = respell(&path, &choices);
        if let Ok(found) = table.find(&method, &respelt) {
            prop_assert!(found.route.bound() >= plain.route.bound(), "{path} as {respelt}");
            prop_assert!(plain.route.public || !found.route.public, "{path} as {respelt}");
            let all: Vec<_> = found.requires().collect();
            prop_assert!(plain.requires().all(|feature| all.contains(&feature)), "{path} as {respelt}");
        }
    }

    #[test]
    fn anything_is_answered(specs in all_specs(), path: String, odd in "[/%.;\\\\a2fF5cC]{0,20}") {
        let table = RouteTable::new(specs, route("default", 1)).unwrap();
        for path in [path, format!("/{odd}")] {
            if let Ok(found) = table.find(&Method::GET, &path) {
                prop_assert!(found.index < table.routes().len());
            }
        }
    }
}

fn many(count: usize) -> RouteTable {
    let text = |at: usize| match at % 4 {
        0 => format!("GET /v1/service{at}/items"),
        1 => format!("GET /v1/service{at}/items/{{id}}"),
        2 => format!("POST /v1/service{at}/items/{{id}}/orders/{{order}}"),
        _ => format!("/v1/service{at}/{{*rest}}"),
    };
    RouteTable::new((0..count).map(|at| spec(&text(at), route(&text(at), 1))).collect(), route("default", 1)).unwrap()
}

/// The best of several rounds over plain requests, nanoseconds per look-up.
fn time_per_find(table: &RouteTable) -> u128 {
    const PER_ROUND: u128 = 3_000;
    let requests = [
        (Method::GET, "/v1/service0/items"),
        (Method::GET, "/v1/service101/items/8f14e45fceea167a"),
        (Method::GET, "/v1/service103/a/b/c/d/e/f"),
    ];
    let round = || {
        let begin = Instant::now();
        for (_, (method, path)) in (0..PER_ROUND).zip(requests.iter().cycle()) {
            assert!(table.find(method, path).is_ok_and(|found| &*found.route.name != "default"));
        }
        begin.elapsed().as_nanos() / PER_ROUND
    };
    (0..10).map(|_| round()).min().unwrap()
}

#[test]
fn a_look_up_takes_as_long_among_ten_thousand_patterns_as_among_five_hundred() {
    let (few, many) = (time_per_find(&many(500)), time_per_find(&many(10_000)));
    println!("one look-up: {few} ns among 500 patterns, {many} ns among 10 000 (this build)");
    assert!(many < few * 4, "{few} ns among 500, {many} ns among 10 000");
}
