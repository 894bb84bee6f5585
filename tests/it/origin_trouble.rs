//! Origins that break, stall and babble, and clients that leave: one record each, with the right outcome and price.

use std::net::TcpStream;
use std::time::Duration;

use tollgate::journal::Outcome;

use crate::support::gateway::{PRICING, Past, Setup};
use crate::support::raw::{Raw, say};
use crate::support::{Client, Gateway};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn nap(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn script(stream: &mut TcpStream, path: &str) {
    let _enough = match path {
        "/half-head" => say(stream, "HTTP/1.1 200 OK\r\ncontent-le"),
        "/garbage" => say(stream, "\0\u{1}\u{2} this is no HTTP\r\n\r\n"),
        "/wrong-length" => say(stream, "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nok"),
        "/hints" => say(stream, format!("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n{OK}")),
        "/big-head" => say(stream, OK.replacen("\r\n", &format!("\r\nx-big: {}\r\n", "b".repeat(60_000)), 1)),
        "/huge-head" => say(stream, OK.replacen("\r\n", &format!("\r\nx-huge: {}\r\n", "h".repeat(2_000_000)), 1)),
        "/stall" => {
            say(stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
            nap(1_500);
            say(stream, "world")
        }
        "/total/silent" => {
            nap(1_500);
            say(stream, OK)
        }
        "/total/endless" | "/stream" => {
            say(stream, CHUNKED);
            (0..100).all(|_| {
                nap(20);
                say(stream, "5\r\ndrop\n\r\n")
            })
        }
        "/wait" => {
            nap(400);
            say(stream, OK)
        }
        "/upload" => {
            nap(1_000);
            true
        }
        _ => say(stream, OK),
    };
}

fn gateway(origin: &Raw) -> Gateway {
    let url = format!("http://{}", origin.address);
    let more = format!(
        "upstreams:\n\
         - {{ name: api, origins: [\"{url}\"], timeouts: {{ first_byte: 5s, idle: 200ms }} }}\n\
         - {{ name: brief, match: {{ path: /total }}, origins: [\"{url}\"], timeouts: {{ total: 300ms }} }}\n\
         limits: {{ body_timeout: 300ms }}\n"
    );
    Gateway::with(&Setup { more: &more, ..Setup::default() })
}

/// The only request of the tenant, once it is in the history.
async fn only(gateway: &Gateway) -> Past {
    let past = gateway.history("acme", 1).await;
    assert_eq!(past.len(), 1, "{past:?}");
    past[0].clone()
}

fn past(status: u16, outcome: Outcome, units: u64) -> Past {
    Past { status, outcome: outcome.code(), units, requests: 1 }
}

/// One request on a fresh gateway: what came of it, and what the history says.
fn one(act: impl AsyncFnOnce(Client, String)) -> Past {
    let origin = Raw::start(script);
    let gateway = gateway(&origin);
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        act(gateway.client(), key).await;
        only(&gateway).await
    })
}

#[test]
fn an_origin_that_breaks_or_babbles_is_a_502_and_free() {
    for path in ["/half-head", "/garbage", "/wrong-length", "/huge-head"] {
        let seen = one(async |mut client, key| {
            let got = client.get(path, &key).await.unwrap();
            assert_eq!((got.status, got.json()["code"].as_str()), (502, Some("upstream_unreachable")), "{path}");
        });
        assert_eq!(seen, past(502, Outcome::OriginFailed, 0), "{path}");
    }
}

#[test]
fn early_hints_and_large_heads_pass() {
    for path in ["/hints", "/big-head"] {
        let seen = one(async |mut client, key| {
            let got = client.get(path, &key).await.unwrap();
            assert_eq!((got.status, got.text().as_str()), (200, "ok"), "{path}");
            assert_eq!(got.header("x-big").len(), if path == "/big-head" { 60_000 } else { 0 });
        });
        assert_eq!(seen, past(200, Outcome::Completed, 1), "{path}");
    }
}

#[test]
fn a_body_that_stalls_is_cut_and_free() {
    let seen = one(async |mut client, key| {
        assert!(client.get("/stall", &key).await.is_err(), "half a body is no response");
    });
    assert_eq!(seen, past(200, Outcome::OriginFailed, 0));
}

#[test]
fn the_whole_exchange_has_a_deadline() {
    let seen = one(async |mut client, key| {
        let got = client.get("/total/silent", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (504, Some("upstream_timeout")));
    });
    assert_eq!(seen, past(504, Outcome::OriginFailed, 0));
    let seen = one(async |mut client, key| {
        // It never falls silent, so only the total can end it.
        assert!(client.get("/total/endless", &key).await.is_err(), "cut in the middle");
    });
    assert_eq!(seen, past(200, Outcome::OriginFailed, 0));
}

async fn starts(client: &mut Client, line: &str, key: &str, rest: &str) {
    client.write(format!("{line} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{rest}").as_bytes()).await.unwrap();
}

#[test]
fn a_client_that_leaves_pays_once_the_origin_has_its_request() {
    let waiting = one(async |mut client, key| {
        starts(&mut client, "GET /wait", &key, "\r\n").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.abort();
    });
    assert_eq!(waiting, past(0, Outcome::ClientLeft, 1));
    let reading = one(async |mut client, key| {
        starts(&mut client, "GET /stream", &key, "\r\n").await;
        client.take(200).await.unwrap();
        client.abort();
    });
    assert_eq!(reading, past(200, Outcome::ClientLeft, 1));
    let uploading = one(async |mut client, key| {
        starts(&mut client, "POST /upload", &key, "content-length: 1000\r\n\r\nbegins").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.abort();
    });
    assert_eq!(uploading, past(0, Outcome::ClientLeft, 1), "the origin did nothing wrong");
}

#[test]
fn an_upload_that_stops_coming_is_the_clients_fault() {
    let seen = one(async |mut client, key| {
        starts(&mut client, "POST /upload", &key, "content-length: 1000\r\n\r\nbegins").await;
        let got = client.read(false).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (408, Some("bad_request")));
    });
    assert_eq!(seen, past(0, Outcome::ClientLeft, 1));
}

#[test]
fn a_host_without_upstream_is_a_502_and_free() {
    let origin = Raw::start(script);
    let more = format!(
        "upstreams: [{{ name: api, match: {{ host: api.example.com }}, origins: [\"http://{}\"] }}]\n",
        origin.address
    );
    let gateway = Gateway::with(&Setup { more: &more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        assert_eq!(gateway.client().get("/one", &key).await.unwrap().status, 502);
        assert_eq!(only(&gateway).await, past(502, Outcome::OriginFailed, 0));
    });
}

#[test]
fn a_switch_that_the_origin_refuses_ends_like_any_other_request() {
    let seen = one(async |mut client, key| {
        starts(&mut client, "GET /chat", &key, "connection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(client.read(false).await.unwrap().text(), "ok");
    });
    assert_eq!(seen, past(200, Outcome::Completed, 1));
    let seen = one(async |mut client, key| {
        starts(&mut client, "HEAD /chat", &key, "connection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(client.read(true).await.unwrap().status, 200);
    });
    assert_eq!(seen, past(200, Outcome::Completed, 1), "without a body too");
}

#[test]
fn refused_requests_are_counted_and_free() {
    let pricing = PRICING
        .replace(
            "overage: none }",
            "overage: none, rate: { sustained: 1/s, burst: 4, per: key }, features: { x: false } }",
        )
        .replace("included: { api_units: 10000 }", "included: { api_units: 10000 }, features: { exports: true }")
        .replace("routes:", "routes:\n  - { match: /export, cost: 1, requires: exports }")
        .replace("api_units: 100 }", "api_units: 3 }");
    let gateway = Gateway::with(&Setup { pricing: &pricing, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut client = gateway.client();
        let mut seen = Vec::new();
        for path in ["/export", "/one", "/five", "/two/x", "/five", "/one", "/one"] {
            seen.push(client.get(path, &key).await.unwrap().status);
        }
        // 403 comes before the rate, which allows four: 1, the refused 5, 2; then the budget is spent, which comes first.
        assert_eq!(seen, [403, 200, 402, 200, 402, 402, 402]);
        assert_eq!(client.get("/status/404", &key).await.unwrap().status, 402);
        gateway.admin("PATCH", "/api/v1/tenants/acme", &serde_json::json!({ "plan": "pro" })).await;
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        let past = gateway.history("acme", 9).await;
        let sums = |status: u16| {
            let of = past.iter().filter(|past| past.status == status);
            of.fold((0, 0), |sum, past| (sum.0 + past.requests, sum.1 + past.units))
        };
        assert_eq!((sums(200), sums(402), sums(403)), ((3, 4), (5, 0), (1, 0)), "{past:?}");
        let refused = past.iter().filter(|past| past.outcome == Outcome::Refused.code());
        assert_eq!(refused.map(|past| past.requests).sum::<u64>(), 6);
        let by_status = gateway.rows("acme", "status").await;
        assert_eq!(by_status, [("200".into(), 4, 3), ("402".into(), 0, 5), ("403".into(), 0, 1)]);
    });
}
