//! Python's requests and httpx: sessions, streams, uploads, challenges, many at once.

use std::process::Command;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{self, Door, Head};
use super::price;
use super::stage::{HOST, Stage};
use crate::support::programs;

/// One answer as a script notes it.
#[derive(Debug, Deserialize)]
pub(super) struct Noted {
    pub(super) name: String,
    #[serde(default)]
    pub(super) method: String,
    #[serde(default)]
    pub(super) path: String,
    /// 0: none came.
    #[serde(default)]
    pub(super) status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    pub(super) notes: Map<String, Value>,
}

impl Noted {
    pub(super) fn head(&self) -> Head {
        Head::new(self.status.to_string(), self.headers.iter().cloned())
    }

    pub(super) fn body(&self) -> Vec<u8> {
        base64::prelude::BASE64_STANDARD.decode(&self.body).unwrap()
    }

    /// `/stream` lists headers in the order in which they came, which says nothing (RFC 9110, section 5.3).
    pub(super) fn comparable_body(&self) -> Vec<Value> {
        let body = self.body();
        if self.path.starts_with("/stream/") {
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            return lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        }
        vec![String::from_utf8(body).map_or_else(|error| json!(error.into_bytes()), Value::String)]
    }
}

struct Script<'a> {
    stage: &'a Stage,
    part: &'a str,
    tenant: &'a str,
    key: &'a str,
}

impl Script<'_> {
    fn run(&self, door: Door) -> Vec<Noted> {
        let address = match door {
            Door::Direct => self.stage.direct(),
            Door::Gateway => self.stage.proxy(),
        };
        let headers: Map<String, Value> = answer::headers(door, self.tenant, Some(self.key))
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let given = json!({
            "base": format!("http://{address}"),
            "host": HOST,
            "headers": headers,
            // It concerns one hop only; httpbin would repeat it.
            "says_keep_alive": door == Door::Gateway,
            "part": self.part,
        });
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/httpbin_clients.py");
        let mut python = Command::new(programs::venv().unwrap().join("python"));
        let output = programs::run(python.arg(script).env_clear(), given.to_string().as_bytes());
        assert!(output.status.success(), "{door:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Both doors; the same from both, at the announced price.
    fn compare(&self) -> Vec<Noted> {
        let (direct, through) = (self.run(Door::Direct), self.run(Door::Gateway));
        assert_eq!(through.len(), direct.len());
        for (ours, theirs) in through.iter().zip(&direct) {
            let name = format!("{} {}", self.part, theirs.name);
            assert_eq!((&ours.name, ours.status, &ours.notes), (&theirs.name, theirs.status, &theirs.notes));
            if ours.status == 0 {
                continue;
            }
            assert_eq!(ours.comparable_body(), theirs.comparable_body(), "{name}");
            assert_eq!(ours.head().common(Door::Gateway), theirs.head().common(Door::Direct), "{name}");
            let cost = price::announced(&ours.method, &ours.path, ours.status);
            assert_eq!(ours.head().cost(), Some(cost), "{name}");
        }
        through
    }
}

/// The notes that say that a client saw what it is there to see.
pub(super) fn noted(answers: &[Noted], name: &str, note: &str) -> Value {
    let found = answers.iter().find(|answer| answer.name == name);
    found.unwrap_or_else(|| panic!("no {name}")).notes.get(note).cloned().unwrap_or_default()
}

#[test]
fn requests_gets_from_the_gateway_what_it_gets_from_httpbin() {
    let Some(stage) = Stage::set() else { return };
    let key = stage.tenant("requests-user", "standard");
    let answers = Script { stage: &stage, part: "requests", tenant: "requests-user", key: &key }.compare();
    assert_eq!(noted(&answers, "one connection", "connections"), json!([1]), "its connection is kept");
    assert_eq!(noted(&answers, "stream", "lines"), json!(20));
    assert_eq!(noted(&answers, "drip", "dripped"), json!(true), "bytes come as they are made");
    assert_eq!(noted(&answers, "timeout", "timed_out"), json!(true));
    balances(&stage, "requests-user", &answers, 5);
}

#[test]
fn httpx_gets_from_the_gateway_what_it_gets_from_httpbin() {
    let Some(stage) = Stage::set() else { return };
    let key = stage.tenant("httpx-user", "standard");
    let answers = Script { stage: &stage, part: "httpx", tenant: "httpx-user", key: &key }.compare();
    assert_eq!(answers.iter().filter(|answer| answer.name.starts_with("concurrent")).count(), 120);
    assert_eq!(noted(&answers, "drip", "dripped"), json!(true), "bytes come as they are made");
    assert_eq!(noted(&answers, "async drip", "dripped"), json!(true), "bytes come as they are made");
    assert_eq!(noted(&answers, "timeout", "timed_out"), json!(true));
    balances(&stage, "httpx-user", &answers, 5);
}

/// What the client was told it costs, and `unanswered`, which it did not wait for, are what is booked.
fn balances(stage: &Stage, tenant: &str, answers: &[Noted], unanswered: u64) {
    let books = stage.balance(tenant, &[]);
    let told: u64 = answers.iter().filter(|answer| answer.status != 0).filter_map(|answer| answer.head().cost()).sum();
    assert_eq!(books.values().map(|(units, _)| units).sum::<u64>(), told + unanswered, "{books:?}");
}

#[test]
fn python_reads_why_it_is_refused() {
    let Some(stage) = Stage::set() else { return };
    let key = stage.spent("python-free");
    let answers = Script { stage: &stage, part: "refused", tenant: "python-free", key: &key }.run(Door::Gateway);
    for answer in &answers {
        answer.head().assert_payment_required(&answer.body());
    }
    for library in ["requests", "httpx"] {
        assert_eq!(noted(&answers, library, "raised"), json!("limit_exceeded"));
    }
    let refused: Vec<(&str, &str)> = answers.iter().map(|answer| (&*answer.method, &*answer.path)).collect();
    assert_eq!(refused.len(), 5);
    let books = stage.balance("python-free", &refused);
    assert_eq!(books.values().map(|(units, _)| units).sum::<u64>(), 100);
}
