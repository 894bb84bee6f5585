//! Tests of the readings against models of well-known origins, each as its documentation has it and written without a
//! look at the code that is tested.

use proptest::prelude::*;

use super::tests::readings;
use super::*;

fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let escape = text.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = escape
            .filter(|_| text[at] == b'%')
            .and_then(|pair| (!pair.starts_with('+')).then(|| u8::from_str_radix(pair, 16).ok()).flatten());
        out.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

fn encode(segment: &[u8]) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(byte);
    segment.iter().map(|b| if keep(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn join(segments: &[Vec<u8>]) -> String {
    let encoded: Vec<String> = segments.iter().map(|segment| encode(segment)).collect();
    format!("/{}", encoded.join("/"))
}

fn split(path: &[u8], separators: &[u8]) -> Vec<Vec<u8>> {
    path[1..].split(|byte| separators.contains(byte)).map(<[u8]>::to_vec).collect()
}

fn merged(mut segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let last = segments.pop().unwrap_or_default();
    segments.retain(|segment| !segment.is_empty());
    segments.push(last);
    segments
}

fn without_parameters(mut segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for segment in &mut segments {
        let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
        segment.truncate(end);
    }
    segments
}

fn each_decoded(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    segments.iter().map(|segment| decode(segment)).collect()
}

/// What well-known origins route on.
fn origins(path: &str) -> Vec<(&'static str, String)> {
    let raw = path.as_bytes();
    let once = decode(raw);
    let twice = decode(&once);
    let mut all = vec![
        ("nginx: decode, merge", join(&merged(split(&once, b"/")))),
        ("Go's URL.Path, WSGI: decode", join(&split(&once, b"/"))),
        ("split, then decode", join(&each_decoded(&split(raw, b"/")))),
        ("Tomcat: strip, decode, merge", join(&merged(each_decoded(&without_parameters(split(raw, b"/")))))),
        ("decode, then strip", join(&without_parameters(split(&once, b"/")))),
        ("IIS: decode, backslashes, merge", join(&merged(split(&once, b"/\\")))),
        ("decode twice", join(&split(&twice, b"/"))),
        ("decode twice, backslashes, merge", join(&merged(split(&twice, b"/\\")))),
    ];
    if raw.starts_with(b"//") || raw.starts_with(b"/\\") {
        let mut segments = split(raw, b"/\\");
        let host = segments.iter().position(|segment| !segment.is_empty()).unwrap_or(segments.len() - 1);
        segments.drain(..=host);
        let segments = if segments.is_empty() { vec![Vec::new()] } else { segments };
        all.push(("Node's new URL(), then decode", join(&each_decoded(&segments))));
    }
    all
}

fn paths() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-cA-C]",
        2 => Just("/".to_owned()),
        2 => prop::sample::select(vec!["%2F", "%2f", "%5C", "\\", ";", "%3b", "%40", "@", "%41", "%20", "%", "%25", "%2541", "%252F", "%255c"])
            .prop_map(String::from),
        1 => prop::sample::select(vec![".", "..", "%2e", "/../", "2", "e", "%32"]).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_well_known_origins_route_on_is_among_the_readings(path in paths()) {
        if let Ok(readings) = readings(&path) {
            for (origin, routed) in origins(&path) {
                prop_assert!(readings.contains(&routed), "{origin}: {path:?} -> {routed:?}, not in {readings:?}");
            }
        }
    }

    #[test]
    fn a_path_that_a_well_known_origin_resolves_is_refused(path in paths()) {
        let resolves = |routed: &str| routed.split('/').any(|segment| segment == "." || segment == "..");
        if origins(&path).iter().any(|(_, routed)| resolves(routed)) {
            prop_assert!(readings(&path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_reading_is_in_normal_form_and_read_alike_by_all_but_for_its_separators(path in paths()) {
        for text in readings(&path).unwrap_or_default() {
            prop_assert!(text.starts_with('/'));
            for token in Tokens(text.as_bytes()) {
                let normal = match token {
                    Token::Byte(byte) => byte == b'/' || is_pchar(byte),
                    Token::Escaped(byte) => !is_unreserved(byte),
                };
                prop_assert!(normal, "{}", text);
            }
        }
    }

    #[test]
    fn anything_is_answered(path: String, rest in "[/%.;\\\\a2fF5cCeE]{0,40}") {
        for path in [path, format!("/{rest}")] {
            prop_assert!(readings(&path).map_or(true, |all| all.len() <= MAX_READINGS));
        }
    }
}
