//! What was asked and answered, for the judge: a bounded ring.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Request};

/// Exchanges kept, and the bytes of their bodies together; the oldest go first.
const MAX_EXCHANGES: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// One request and its answer.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    method: String,
    target: String,
    content_type: Option<String>,
    body: Bytes,
    status: u16,
    response: Bytes,
}

impl Exchange {
    pub(super) fn new(request: &Request, answer: &Answer) -> Self {
        Self {
            method: request.method.to_string(),
            target: request.target.clone(),
            content_type: request.content_type.clone(),
            body: request.body.clone(),
            status: answer.status.as_u16(),
            response: answer.body.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.target.len() + self.body.len() + self.response.len()
    }

    fn json(&self) -> Value {
        json!({
            "method": self.method,
            "path": self.target,
            "content_type": self.content_type,
            "body": String::from_utf8_lossy(&self.body),
            "status": self.status,
            "response": serde_json::from_slice::<Value>(&self.response).unwrap_or(Value::Null),
        })
    }
}

/// The newest exchanges.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    ring: VecDeque<Exchange>,
    bytes: usize,
    /// Recorded since the beginning, or since they were cleared.
    pub(super) recorded: u64,
}

impl Exchanges {
    pub(super) fn record(&mut self, exchange: Exchange) {
        self.recorded += 1;
        self.bytes += exchange.bytes();
        self.ring.push_back(exchange);
        while self.ring.len() > MAX_EXCHANGES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// Those that are kept, oldest first. Cheap: bodies are shared.
    pub(super) fn snapshot(&self) -> Vec<Exchange> {
        self.ring.iter().cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// As the judge reads them: one object per line.
pub(super) fn json_lines(exchanges: &[Exchange]) -> String {
    exchanges.iter().flat_map(|exchange| [exchange.json().to_string(), "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn exchange(body: Bytes) -> Exchange {
        let request = Request {
            method: Method::POST,
            target: "/v1/customers".into(),
            authorization: Some("Bearer sk_test_secret".into()),
            idempotency_key: None,
            stripe_version: None,
            content_type: Some("application/x-www-form-urlencoded".into()),
            body,
        };
        Exchange::new(&request, &Answer::from(Ok(json!({ "id": "cus_1" }))))
    }

    #[test]
    fn a_line_is_what_the_judge_reads_and_holds_no_key() {
        let text = json_lines(&[exchange(Bytes::from_static(b"name=a"))]);
        let line: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["method"], "POST");
        assert_eq!(line["body"], "name=a");
        assert_eq!(line["response"]["id"], "cus_1");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn the_ring_is_bounded_by_number_and_by_bytes() {
        let mut exchanges = Exchanges::default();
        for _ in 0..=MAX_EXCHANGES {
            exchanges.record(exchange(Bytes::new()));
        }
        assert_eq!((exchanges.snapshot().len(), exchanges.recorded), (MAX_EXCHANGES, 10_001));
        let big = Bytes::from(vec![b'a'; MAX_BYTES / 2]);
        exchanges.record(exchange(big.clone()));
        exchanges.record(exchange(big));
        assert_eq!(exchanges.snapshot().len(), 1);
    }
}
