//! An answer as a client saw it, and what it must have in common at both doors.

use std::collections::BTreeMap;

/// Headers that Tollgate adds to metered answers, as the contract says.
const ADDED: [&str; 4] = ["x-request-id", "x-tollgate-cost", "ratelimit", "ratelimit-policy"];
/// Headers of one hop, which each server says for itself (RFC 9110, section 7.6.1), and the time.
const OWN: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "date"];

/// The request id that tests send.
pub(super) const REQUEST_ID: &str = "a-client-made-this-id";

/// One head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// As it came where the client shows it: version, status, reason. Otherwise the status.
    pub(super) status_line: String,
    /// Lower-case names; values in their order.
    pub(super) headers: BTreeMap<String, Vec<String>>,
}

impl Head {
    /// Reads a head as it came over the wire.
    pub(super) fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let pairs = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        Self::new(status_line, pairs)
    }

    pub(super) fn new(status_line: String, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in pairs {
            headers.entry(name.to_ascii_lowercase()).or_default().push(value);
        }
        Self { status_line, headers }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |values| values[0].as_str())
    }

    pub(super) fn status(&self) -> u16 {
        self.status_line.split(' ').find_map(|word| word.parse().ok()).unwrap()
    }

    pub(super) fn is_interim(&self) -> bool {
        self.status() < 200
    }

    /// What `X-Tollgate-Cost` says.
    pub(super) fn cost(&self) -> Option<u64> {
        self.headers.get("x-tollgate-cost").map(|values| values[0].parse().unwrap())
    }

    /// What must be the same at both doors.
    pub(super) fn common(&self, door: Door) -> Self {
        let mut headers = self.headers.clone();
        for name in OWN {
            headers.remove(name);
        }
        if door == Door::Gateway && !self.is_interim() {
            for name in ADDED {
                let added = headers.remove(name).unwrap_or_default();
                if added.len() != 1 || (name == "x-request-id" && added[0] != REQUEST_ID) {
                    headers.insert(format!("not as documented: {name}"), added);
                }
            }
        }
        for name in ["www-authenticate", "set-cookie"] {
            for value in headers.get_mut(name).into_iter().flatten() {
                *value = without_nonces(value);
            }
        }
        Self { status_line: self.status_line.clone(), headers }
    }

    /// The refusal of a tenant whose plan is spent, which every client must be able to read.
    pub(super) fn assert_payment_required(&self, body: &[u8]) {
        assert_eq!(self.status(), 402, "{self:?} {}", String::from_utf8_lossy(body));
        assert_eq!(self.header("content-type"), "application/problem+json");
        if body.is_empty() {
            return;
        }
        let problem: serde_json::Value = serde_json::from_slice(body).unwrap();
        let expected =
            [("code", "limit_exceeded"), ("plan", "free"), ("meter", "api_units"), ("request_id", REQUEST_ID)];
        for (member, value) in expected {
            assert_eq!(problem[member], value, "{member} in {problem}");
        }
        assert_eq!((problem["used"].as_u64(), problem["limit"].as_u64()), (Some(100), Some(100)), "{problem}");
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// httpbin itself.
    Direct,
    /// Tollgate.
    Gateway,
}

/// Long hexadecimal numbers are made anew for each answer.
fn without_nonces(value: &str) -> String {
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(is_hex) {
        let digits = rest[at..].find(|c| !is_hex(c)).unwrap_or(rest.len() - at);
        out += &rest[..at];
        out += if digits >= 32 { "…" } else { &rest[at..at + digits] };
        rest = &rest[at + digits..];
    }
    out + rest
}

/// What a client sends besides its request: at httpbin's own door what Tollgate tells httpbin; at Tollgate's what
/// Tollgate is to take out.
pub(super) fn headers(door: Door, tenant: &str, key: Option<&str>) -> Vec<(String, String)> {
    let mut headers = match door {
        Door::Direct => vec![
            ("X-Tenant-ID", tenant),
            ("X-Tenant-Plan", "standard"),
            ("X-Tenant-Features", "delay"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", super::stage::HOST),
        ],
        Door::Gateway => vec![
            ("X-Tenant-ID", "somebody-else"),
            ("X-Tenant-Plan", "enterprise"),
            ("X-Tenant-Features", "everything"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "bank.example"),
        ],
    };
    headers.push(("X-Request-Id", REQUEST_ID));
    if let (Door::Gateway, Some(key)) = (door, key) {
        headers.push(("X-API-Key", key));
    }
    headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
