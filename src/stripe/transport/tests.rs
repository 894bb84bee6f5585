//! Against a scripted server on a real socket.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::stripe::client::{Client, Event, NewCustomer};

/// What the server does with one request after reading it.
#[derive(Clone, Copy)]
enum Reply {
    Status(u16, &'static str, &'static str),
    Cut,
    Hang,
}

struct Server {
    base: Uri,
    seen: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Server {
    /// Answers request number n with `script[n]`; further ones with the last.
    async fn start(script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, connection, Arc::clone(&log), script.clone()));
            }
        });
        Self { base, seen }
    }

    fn transport(&self) -> Transport {
        let mut config = Config::new(self.base.clone(), Secret::new("sk_test_1".to_owned()));
        config.attempt_timeout = Duration::from_millis(300);
        Transport::new(config).unwrap()
    }

    /// Connection number and full text of each request.
    fn seen(&self) -> Vec<(usize, String)> {
        self.seen.lock().unwrap().clone()
    }

    fn keys(&self) -> Vec<String> {
        let key = |text: &str| {
            text.lines().find_map(|l| l.strip_prefix("idempotency-key: ")).map(str::to_owned).unwrap_or_default()
        };
        self.seen().iter().map(|(_, text)| key(text)).collect()
    }
}

async fn serve(mut socket: TcpStream, connection: usize, log: Arc<Mutex<Vec<(usize, String)>>>, script: Vec<Reply>) {
    while let Some(text) = read(&mut socket).await {
        let number = {
            let mut log = log.lock().unwrap();
            log.push((connection, text));
            log.len() - 1
        };
        match script.get(number).or(script.last()).unwrap() {
            Reply::Status(status, headers, body) => {
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            Reply::Cut => return,
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    loop {
        let n = socket.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
            if body.len() == length {
                return Some(text);
            }
        }
    }
}

const CUSTOMER: Reply = Reply::Status(200, "request-id: req_1\r\n", r#"{"id":"cus_1","object":"customer"}"#);
const NO: Reply = Reply::Status(400, "", r#"{"error":{"type":"invalid_request_error","message":"no"}}"#);

fn event() -> Event {
    Event {
        event_name: "api_units".into(),
        customer: "cus_1".into(),
        value: 250,
        identifier: "id-1".into(),
        timestamp: 1_790_000_000,
    }
}

async fn once(server: &Server, request: &RequestBuilder) -> Attempt {
    let transport = server.transport();
    let permit = transport.permit(Bucket::Other, "test", Duration::ZERO).await.unwrap();
    let prepared = transport.prepare(request).unwrap();
    transport.attempt(permit, &prepared, &IdempotencyKey::named("k", 0)).await
}

#[tokio::test]
async fn a_post_carries_everything_stripe_wants_in_a_fixed_order() {
    let server = Server::start(vec![Reply::Status(200, "", "{}")]).await;
    for _ in 0..8 {
        assert!(matches!(once(&server, &event().request()).await, Attempt::Answer(_)));
    }
    let (_, first) = &server.seen()[0];
    let (head, body) = first.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/billing/meter_events HTTP/1.1\r\n"), "{head}");
    for line in [
        "authorization: Bearer sk_test_1",
        "stripe-version: 2026-09-30.endive",
        "idempotency-key: k",
        "content-type: application/x-www-form-urlencoded",
    ] {
        assert!(head.lines().any(|l| l == line), "{line} missing in {head}");
    }
    let want = "event_name=api_units&identifier=id-1&payload[stripe_customer_id]=cus_1&payload[value]=250\
                &timestamp=1790000000";
    assert_eq!(body.replace("%5B", "[").replace("%5D", "]"), want);
    assert!(server.seen().iter().all(|(_, text)| text.ends_with(body)), "the same bytes each time");
}

#[tokio::test]
async fn calls_share_a_connection() {
    let server = Server::start(vec![CUSTOMER]).await;
    let client = Client::new(Arc::new(server.transport()));
    for _ in 0..3 {
        assert_eq!(client.customer("cus_1").await.unwrap().unwrap().id, "cus_1");
    }
    assert_eq!(server.seen().iter().map(|(connection, _)| *connection).collect::<Vec<_>>(), [0, 0, 0]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_again_under_its_key_and_a_5xx_under_a_fresh_one() {
    let server = Server::start(vec![Reply::Cut, Reply::Status(500, "", ""), CUSTOMER]).await;
    let client = Client::new(Arc::new(server.transport()));
    let made = client.create_customer(&NewCustomer::default(), IdempotencyKey::named("make", 0)).await;
    assert_eq!(made.unwrap().id, "cus_1");
    assert_eq!(server.keys(), ["make", "make", "make-1"]);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let server = Server::start(vec![NO]).await;
    let client = Client::new(Arc::new(server.transport()));
    let made = client.create_customer(&NewCustomer::default(), IdempotencyKey::named("make", 0)).await;
    assert!(matches!(made, Err(CallError::Refused(_))), "{made:?}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn silence_and_a_cut_answer_are_unknown_and_a_closed_port_is_not_sent() {
    for reply in [Reply::Hang, Reply::Cut, Reply::Status(200, "content-length: 99\r\n", "")] {
        let server = Server::start(vec![reply]).await;
        let attempt = once(&server, &event().request()).await;
        assert!(matches!(attempt, Attempt::Unknown(_)), "{attempt:?}");
    }
    let closed = Server { base: "http://127.0.0.1:1".parse().unwrap(), seen: Arc::default() };
    let attempt = once(&closed, &event().request()).await;
    assert!(matches!(attempt, Attempt::NotSent(_)), "{attempt:?}");
}

#[tokio::test]
async fn typed_requests_go_through_the_crates_own_trait() {
    let server = Server::start(vec![Reply::Status(503, "", ""), Reply::Status(200, "", r#"{"id":"cus_1"}"#)]).await;
    let key = stripe_client_core::IdempotencyKey::new("chosen").unwrap();
    let request = event().request().customize::<String>().request_strategy(RequestStrategy::Idempotent(key));
    let answer = request.send(&server.transport()).await;
    assert!(matches!(answer, Err(CallError::Unreadable(_))), "an object is no string: {answer:?}");
    assert_eq!(server.keys(), ["chosen", "chosen-1"]);
}

#[tokio::test]
async fn while_stripe_is_down_one_probe_goes_at_a_time() {
    let server = Server::start(vec![Reply::Status(503, "", ""); 6]).await;
    let mut config = Config::new(server.base.clone(), Secret::new("sk_test_1".to_owned()));
    config.breaker.cool_off = Duration::from_millis(50);
    let transport = Transport::new(config).unwrap();
    let request = transport.prepare(&event().request()).unwrap();
    for caller in ["a", "b", "c", "d", "e"] {
        let permit = transport.permit(Bucket::MeterEvents, caller, Duration::ZERO).await.unwrap();
        transport.attempt(permit, &request, &IdempotencyKey::named("k", 0)).await;
    }
    let leave = || transport.permit(Bucket::MeterEvents, "f", Duration::ZERO);
    assert_eq!(leave().await.unwrap_err().why, "circuit breaker open");
    sleep(Duration::from_millis(60)).await;
    let probe = leave().await.unwrap();
    assert!(leave().await.is_err(), "nobody beside the probe");
    drop(probe);
    assert!(leave().await.is_ok(), "a probe that was not sent makes room");
}

#[tokio::test]
async fn an_id_cannot_lead_elsewhere() {
    let server = Server::start(vec![CUSTOMER]).await;
    let client = Client::new(Arc::new(server.transport()));
    for id in ["", "cus_1/sources", "..", "cus_1?expand=x", "cus_1%2f", "cus 1"] {
        let answer = client.customer(id).await;
        assert!(matches!(answer, Err(CallError::Invalid(_))), "{id:?}: {answer:?}");
    }
    assert!(server.seen().is_empty());
}

#[test]
fn the_key_is_in_no_debug() {
    let config = Config::new("http://127.0.0.1:1/".parse().unwrap(), Secret::new("sk_live_secret".to_owned()));
    assert!(!format!("{config:?} {:?}", Transport::new(config.clone()).unwrap()).contains("sk_live"));
    let bad = Config { base: "ftp://stripe".parse().unwrap(), ..config };
    assert!(matches!(Transport::new(bad), Err(ConfigError::Base(_))));
}
