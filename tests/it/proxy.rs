//! What clients and origins see: transparent, charged, refused; one test per promise.

use std::time::Duration;

use crate::support::gateway::{PRICING, Setup};
use crate::support::{Client, Gateway};

fn with_tenant(plan: &str) -> (Gateway, String) {
    let gateway = Gateway::start();
    let key = gateway.runtime.block_on(gateway.tenant("acme", plan));
    (gateway, key)
}

#[test]
fn a_call_passes_is_charged_and_says_so() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let got = gateway.client().get("/two/ACME?x=%20y&z", &key).await.unwrap();
        assert_eq!((got.status, got.text().as_str()), (200, "{\"ok\":true,\"answer\":42}"));
        assert_eq!(got.header("x-tollgate-cost"), "2");
        assert!(got.header("ratelimit").starts_with("\"api_units\";r=98;t="), "{got:?}");
        assert!(got.header("ratelimit-policy").starts_with("\"api_units\";q=100;w="), "{got:?}");
        assert_eq!(got.header("x-request-id").len(), 24);
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 2);
    });
}

#[test]
fn the_origin_sees_the_request_as_sent_plus_who_called() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let bearer = format!("Bearer {key}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-tenant-plan", "enterprise"),
            ("x-tenant-features", "everything"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-custom", "kept"),
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "dropped"),
        ];
        let got = gateway.client().send("POST", "/echo?a=1&b=%2F", &headers, b"hello body").await.unwrap();
        let text = got.text();
        assert!(text.starts_with("POST /echo?a=1&b=%2F\n"), "{text}");
        assert!(text.ends_with("\nhello body"), "{text}");
        for line in ["x-tenant-id: acme\n", "x-tenant-plan: free\n", "x-custom: kept\n", "host: api.test\n"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        for gone in ["authorization", "x-hop", "enterprise", "everything", "203.0.113.9"] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
        assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
        assert!(text.contains("x-forwarded-host: api.test\n"), "{text}");
    });
}

#[test]
fn credentials_are_checked_and_refusals_are_problems() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        let cases: &[(&[(&str, &str)], u16, &str)] = &[
            (&[], 401, "missing_credential"),
            (&[("authorization", "Basic dXNlcjpwdw==")], 401, "missing_credential"),
            (&[("authorization", "Bearer tg_nobody")], 401, "unknown_credential"),
            (&[("x-api-key", "tg_nobody")], 401, "unknown_credential"),
            (&[("x-tenant-id", "acme")], 403, "untrusted_tenant_header"),
        ];
        for (headers, status, code) in cases {
            let got = client.send("GET", "/one", headers, b"").await.unwrap();
            assert_eq!((got.status, got.json()["code"].as_str()), (*status, Some(*code)), "{headers:?}");
            assert_eq!(got.header("content-type"), "application/problem+json");
            assert_eq!(got.json()["request_id"].as_str(), Some(got.header("x-request-id")));
            assert_eq!(got.header("www-authenticate"), if *status == 401 { "Bearer" } else { "" });
        }
        let got = client.send("GET", "/one", &[("x-api-key", &key)], b"").await.unwrap();
        assert_eq!(got.status, 200);
        let got = client.send("GET", "/one", &[("x-api-key", &key), ("x-tenant-id", "other")], b"").await.unwrap();
        assert_eq!(got.status, 200, "an untrusted peer's header beside a key is dropped");
        let got = client.get("/a/../one", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (400, Some("ambiguous_path")));
        let got = client.send("GET", "/health", &[], b"").await.unwrap();
        assert_eq!(got.status, 200, "public routes need no credential");
    });
}

#[test]
fn a_trusted_peer_names_the_tenant() {
    let more = "identity: { tenant_header: { name: X-Tenant-ID, trusted: [\"127.0.0.0/8\"] } }\n";
    let gateway = Gateway::with(&Setup { more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        gateway.tenant("other", "free").await;
        let mut client = gateway.client();
        let got = client.send("GET", "/two/x", &[("x-tenant-id", "acme")], b"").await.unwrap();
        assert_eq!((got.status, got.header("x-tollgate-cost")), (200, "2"));
        let got = client.send("GET", "/one", &[("x-tenant-id", "nobody")], b"").await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (401, Some("unknown_credential")));
        let got = client.send("GET", "/one", &[("x-tenant-id", "other"), ("x-api-key", &key)], b"").await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (403, Some("untrusted_tenant_header")));
        gateway.running().flush_now().await.unwrap();
        assert_eq!((gateway.used("acme").await, gateway.used("other").await), (2, 0));
    });
}

#[test]
fn the_cap_is_met_exactly_and_a_cheaper_call_still_passes() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        for _ in 0..33 {
            assert_eq!(client.get("/three", &key).await.unwrap().status, 200);
        }
        // 99 of 100 are used: 2 is too much, 1 is not, then nothing is left.
        let refused = client.get("/two/x", &key).await.unwrap();
        assert_eq!(refused.status, 402);
        let problem = refused.json();
        assert_eq!(problem["code"], "limit_exceeded");
        assert_eq!((problem["plan"].as_str(), problem["meter"].as_str()), (Some("free"), Some("api_units")));
        assert_eq!((problem["used"].as_u64(), problem["limit"].as_u64()), (Some(99), Some(100)));
        assert!(problem["resets_at"].is_string() && problem["upgrade_url"].is_string(), "{problem}");
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
        assert_eq!(gateway.origin.count("acme", "/two/x"), 0, "a refused call never reaches the origin");
        assert_eq!(gateway.origin.count("acme", "/one"), 1);
    });
}

#[test]
fn outcomes_that_cost_nothing_return_their_units() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        for path in ["/status/404", "/status/500", "/status/302"] {
            let got = client.get(path, &key).await.unwrap();
            assert_eq!(got.header("x-tollgate-cost"), if path == "/status/302" { "1" } else { "0" }, "{path}");
        }
        assert_eq!(client.get("/reset", &key).await.unwrap().status, 502);
        assert!(client.get("/cut", &key).await.is_err(), "a response that breaks off breaks off here too");
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 1);
        for _ in 0..99 {
            assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        }
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
    });
}

#[test]
fn bodies_stream_both_ways_and_odd_requests_pass() {
    let (gateway, key) = with_tenant("pro");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        let got = client.get("/drip/5", &key).await.unwrap();
        assert_eq!(got.text(), "drop\n".repeat(5));
        // A chunked body on a GET.
        let head = format!(
            "GET /echo HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        client.write(head.as_bytes()).await.unwrap();
        client.write(b"5\r\nhello\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.write(b"6\r\n world\r\n0\r\n\r\n").await.unwrap();
        let got = client.read(false).await.unwrap();
        assert!(got.text().ends_with("\nhello world"), "{}", got.text());
        let got = client.send("HEAD", "/one", &[("x-api-key", &key)], b"").await.unwrap();
        assert_eq!((got.status, got.body.len(), got.header("content-length")), (200, 0, "23"));
        let got = client.get("/status/204", &key).await.unwrap();
        assert_eq!((got.status, got.body.len()), (204, 0));
        // HTTP/1.0 without keep-alive: the answer ends with the connection.
        let mut old = gateway.client();
        old.write(format!("GET /one HTTP/1.0\r\nx-api-key: {key}\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(old.read(false).await.unwrap().text(), "{\"ok\":true,\"answer\":42}");
    });
}

#[test]
fn a_slow_upload_is_not_a_silent_origin() {
    let gateway_origin = "timeouts: { connect: 3s, first_byte: 300ms, idle: 60s, total: 0s }";
    let origin = crate::support::Origin::start();
    let more = format!("upstreams: [{{ name: api, origins: [\"{}\"], {gateway_origin} }}]\n", origin.url());
    let gateway = Gateway::with(&Setup { more: &more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "pro").await;
        let mut client = gateway.client();
        let head =
            format!("POST /echo HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-length: 10\r\n\r\n");
        client.write(head.as_bytes()).await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(80)).await;
            client.write(b"x").await.unwrap();
        }
        assert_eq!(client.read(false).await.unwrap().status, 200);
        let got = client.get("/slow/2000", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (504, Some("upstream_timeout")));
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 1, "504 is free");
    });
}

#[test]
fn an_origin_that_closes_idle_connections_is_not_noticed() {
    let (gateway, key) = with_tenant("pro");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        for round in 0..200_u64 {
            // The origin answers and closes without a word; the next request meets the dead connection.
            assert_eq!(client.get("/bye", &key).await.unwrap().status, 200, "{round}");
            tokio::time::sleep(Duration::from_millis(round % 30)).await;
            let method = if round % 2 == 0 { "GET" } else { "POST" };
            let body: &[u8] = if round % 2 == 0 { b"" } else { b"x" };
            let got = client.send(method, "/one", &[("x-api-key", &key)], body).await.unwrap();
            if got.status != 200 {
                // A POST may meet the very moment of the close; it must not be sent twice.
                assert_eq!((got.status, method), (502, "POST"), "{round}");
            }
        }
        gateway.running().flush_now().await.unwrap();
        let served: u64 = ["/bye", "/one"].iter().map(|path| gateway.origin.count("acme", path)).sum();
        assert!(gateway.used("acme").await <= served);
    });
}

#[test]
fn an_unreachable_origin_is_a_502_and_free() {
    let more = "upstreams: [{ name: api, origins: [\"http://127.0.0.1:9\"] }]\n";
    let gateway = Gateway::with(&Setup { more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let got = gateway.client().get("/one", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (502, Some("upstream_unreachable")));
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 0);
    });
}

#[test]
fn rates_and_concurrency_are_429_with_retry_after() {
    let pricing = PRICING
        .replace("overage: none }", "overage: none, rate: { sustained: 2/s, burst: 3, per: tenant }, concurrency: 2 }");
    let gateway = Gateway::with(&Setup { pricing: &pricing, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut client = gateway.client();
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let got = client.get("/one", &key).await.unwrap();
            if got.status == 429 {
                assert_eq!(got.json()["code"], "rate_limited");
                assert_eq!(got.header("retry-after"), "1");
            }
            statuses.push(got.status);
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let slow = |mut client: Client, key: String| async move { client.get("/slow/300", &key).await.unwrap().status };
        let three = tokio::join!(
            slow(gateway.client(), key.clone()),
            slow(gateway.client(), key.clone()),
            slow(gateway.client(), key.clone())
        );
        let refused = [three.0, three.1, three.2].iter().filter(|status| **status == 429).count();
        assert_eq!(refused, 1, "{three:?}");
    });
}

#[test]
fn scopes_bound_what_a_key_opens() {
    let gateway = Gateway::start();
    gateway.runtime.block_on(async {
        gateway.tenant("acme", "free").await;
        let body = serde_json::json!({ "name": "narrow", "scopes": ["GET /two/{symbol}"] });
        let made = gateway.admin("POST", "/api/v1/tenants/acme/keys", &body).await.json();
        let key = made["key"].as_str().unwrap();
        let mut client = gateway.client();
        assert_eq!(client.get("/two/x", key).await.unwrap().status, 200);
        let got = client.get("/one", key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (403, Some("out_of_scope")));
        let got = client.send("POST", "/two/x", &[("x-api-key", key)], b"x").await.unwrap();
        assert_eq!(got.status, 403);
    });
}

#[test]
fn a_revoked_key_and_a_changed_plan_count_at_once() {
    let gateway = Gateway::start();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut client = gateway.client();
        for _ in 0..100 {
            assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        }
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
        let upgraded = gateway.admin("PATCH", "/api/v1/tenants/acme", &serde_json::json!({ "plan": "pro" })).await;
        assert_eq!(upgraded.status, 200, "{}", upgraded.text());
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200, "an upgrade lifts the limit at once");
        let downgraded = gateway.admin("PATCH", "/api/v1/tenants/acme", &serde_json::json!({ "plan": "free" })).await;
        assert_eq!(downgraded.status, 200, "{}", downgraded.text());
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
        let keys = gateway.admin("GET", "/api/v1/tenants/acme/keys", &serde_json::Value::Null).await.json();
        let id = keys["data"][0]["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/tenants/acme/keys/{id}");
        let revoked = gateway.admin("DELETE", &path, &serde_json::Value::Null).await;
        assert!(revoked.status < 300, "{}", revoked.text());
        let got = client.get("/one", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (401, Some("revoked_credential")));
    });
}

#[test]
fn a_deleted_tenant_is_gone_and_its_name_may_be_used_again() {
    let gateway = Gateway::start();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut client = gateway.client();
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        let deleted = gateway.admin("DELETE", "/api/v1/tenants/acme", &serde_json::Value::Null).await;
        assert_eq!(deleted.status, 204, "{}", deleted.text());
        assert_eq!(client.get("/one", &key).await.unwrap().status, 401);
        let again = gateway.tenant("acme", "free").await;
        assert_eq!(client.get("/one", &again).await.unwrap().header("x-tollgate-cost"), "1");
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 1, "the new tenant does not inherit the old one's use");
    });
}

#[test]
fn changed_prices_apply_within_a_second_and_a_bad_file_changes_nothing() {
    let gateway = Gateway::start();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "pro").await;
        let mut client = gateway.client();
        let cost = |got: crate::support::Got| got.header("x-tollgate-cost").to_owned();
        assert_eq!(cost(client.get("/one", &key).await.unwrap()), "1");
        let path = gateway.folder.path().join("pricing.yaml");
        std::fs::write(&path, PRICING.replace("GET /one,              cost: 1", "GET /one, cost: 7")).unwrap();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert_eq!(cost(client.get("/one", &key).await.unwrap()), "7");
        std::fs::write(&path, PRICING.replace("cost: 2", "cost: two")).unwrap();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(cost(client.get("/one", &key).await.unwrap()), "7", "the old one stays");
        let config = gateway.admin("GET", "/api/v1/config", &serde_json::Value::Null).await;
        assert!(config.text().contains("pricing.yaml:"), "the mistake is shown: {}", config.text());
    });
}

#[test]
fn malformed_and_oversize_requests_are_refused() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let long = "x".repeat(100_000);
        let requests = [
            ("GET /one HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400),
            ("NOT HTTP\r\n\r\n".to_owned(), 400),
            (format!("GET /one HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n"), 431),
            (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 431),
            ("POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_owned(), 400),
        ];
        for (request, status) in requests {
            let mut client = gateway.client();
            client.write(request.as_bytes()).await.unwrap();
            let what = &request[..request.len().min(60)];
            let got = client.read(false).await.unwrap_or_else(|error| panic!("{error} for {what:?}"));
            assert!(got.status == status || (got.status == 414 && status == 431), "{} for {what:?}", got.status);
        }
        assert_eq!(gateway.client().get("/one", &key).await.unwrap().status, 200, "good clients are served meanwhile");
    });
}

#[test]
fn a_browser_may_see_a_refusal_and_preflights_are_free() {
    let (gateway, _) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        let got = client.send("GET", "/one", &[("origin", "https://app.test")], b"").await.unwrap();
        assert_eq!((got.status, got.header("access-control-allow-origin")), (401, "https://app.test"));
        let preflight = [("origin", "https://app.test"), ("access-control-request-method", "GET")];
        let got = client.send("OPTIONS", "/one", &preflight, b"").await.unwrap();
        assert_eq!(got.status, 200);
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 0);
    });
}

#[test]
fn an_upgraded_connection_is_charged_when_it_opens() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    // An origin that agrees to switch, then sends back what comes.
    let switching = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(&word).unwrap();
        String::from_utf8(head).unwrap()
    });
    let more = format!("upstreams: [{{ name: api, origins: [\"http://{origin}\"] }}]\n");
    let gateway = Gateway::with(&Setup { more: &more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut stream = tokio::net::TcpStream::connect(gateway.running().proxy()).await.unwrap();
        let head = format!(
            "GET /five HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("upgrade: echo"), "{answer}");
        stream.write_all(b"hello").await.unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 5);
    });
    let head = switching.join().unwrap();
    assert!(head.contains("upgrade: echo") && head.contains("x-tenant-id: acme"), "{head}");
}
