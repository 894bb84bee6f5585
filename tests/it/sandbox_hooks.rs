//! Webhooks of the Stripe stand-in: signed, retried, duplicated, shuffled; thin events about late errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tollgate::clock::Clock;
use tollgate::sandbox::{Config, Delivering, Sandbox, Validation, start};

use crate::sandbox::call;

const DEADLINE: Duration = Duration::from_secs(10);

/// One delivery: its signature and its body.
type Letter = (String, String);

/// An endpoint that refuses so many deliveries and takes the rest.
struct Receiver {
    url: String,
    letters: Arc<Mutex<Vec<Letter>>>,
}

impl Receiver {
    async fn start(refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let letters: Arc<Mutex<Vec<Letter>>> = Arc::default();
        let kept = Arc::clone(&letters);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&kept), refusals));
            }
        });
        Self { url, letters }
    }

    /// All deliveries, once there are so many.
    async fn wait_for(&self, count: usize) -> Vec<Letter> {
        let enough = async {
            while self.letters.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, enough).await.unwrap_or_else(|_| panic!("{:?}", self.letters.lock().unwrap()));
        self.letters.lock().unwrap().clone()
    }
}

async fn take(mut stream: TcpStream, letters: Arc<Mutex<Vec<Letter>>>, refusals: usize) {
    let mut text = Vec::new();
    let mut chunk = [0_u8; 8_192];
    while let Ok(n) = stream.read(&mut chunk).await {
        text.extend_from_slice(&chunk[..n]);
        let Some(letter) = letter(&text) else {
            if n == 0 {
                return;
            }
            continue;
        };
        text.clear();
        let refuse = {
            let mut letters = letters.lock().unwrap();
            letters.push(letter);
            letters.len() <= refusals
        };
        let status = if refuse { "500 No" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
    }
}

fn letter(text: &[u8]) -> Option<Letter> {
    let text = std::str::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(|_| line[name.len()..].trim().to_owned()))
    };
    let length: usize = header("content-length:")?.parse().ok()?;
    (body.len() >= length).then(|| (header("stripe-signature:").unwrap_or_default(), body.to_owned()))
}

async fn endpoint(sandbox: &Sandbox, receiver: &Receiver, events: &str) -> String {
    let body = format!("url={}&enabled_events[]={events}&api_version=2026-09-30.endive", receiver.url);
    let made = call(sandbox, "POST /v1/webhook_endpoints", &body).await;
    assert_eq!((&made["status"], &made["api_version"]), (&json!("enabled"), &json!("2026-09-30.endive")));
    made["secret"].as_str().unwrap().to_owned()
}

/// Whether a signature is the secret's, over the time it names.
fn is_signed((signature, body): &Letter, secret: &str) -> bool {
    let (at, v1) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    hex::encode(mac.finalize().into_bytes()) == v1
}

fn event((_, body): &Letter) -> Value {
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn a_refused_delivery_is_retried_with_a_signature_of_its_own() {
    let clock = Clock::manual("2026-10-01T00:00:00Z".parse().unwrap());
    let sandbox = start(Config::on_loopback(clock.clone())).await.unwrap();
    let receiver = Receiver::start(2).await;
    let secret = endpoint(&sandbox, &receiver, "customer.created").await;
    sandbox.set_delivering(Delivering { retry_ms: vec![20, 20, 20], ..Delivering::default() });
    let customer = call(&sandbox, "POST /v1/customers", "name=Acme").await;
    call(&sandbox, "POST /v1/products", "name=nobody asked for this kind").await;
    receiver.wait_for(1).await;
    sandbox.advance(Duration::from_secs(30));
    let letters = receiver.wait_for(3).await;
    assert!(letters.iter().all(|letter| is_signed(letter, &secret)), "{letters:?}");
    assert_eq!(event(&letters[2])["data"]["object"]["id"], customer["id"]);
    assert_eq!(event(&letters[0])["id"], event(&letters[2])["id"]);
    assert_ne!(letters[0].0, letters[2].0, "signed afresh");
    let done = async {
        while sandbox.unacknowledged() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
    let id = event(&letters[0])["id"].as_str().unwrap().to_owned();
    assert_eq!(call(&sandbox, &format!("GET /v1/events/{id}"), "").await["pending_webhooks"], 0);
    let resent = call(&sandbox, "POST /_sandbox/webhooks", &json!({ "event": id }).to_string()).await;
    assert_eq!(resent, json!({ "deliveries": 1 }));
    assert_eq!(event(&receiver.wait_for(4).await[3])["id"], json!(id));
}

#[tokio::test]
async fn deliveries_are_held_shuffled_and_duplicated_on_demand() {
    let sandbox = start(Config::on_loopback(Clock::System)).await.unwrap();
    let receiver = Receiver::start(0).await;
    endpoint(&sandbox, &receiver, "*").await;
    let storm = Delivering { hold: true, shuffle: true, duplicate_percent: 33, seed: 7, ..Delivering::default() };
    sandbox.set_delivering(storm.clone());
    for n in 0..100 {
        call(&sandbox, "POST /v1/customers", &format!("name=c{n}")).await;
    }
    assert!(receiver.letters.lock().unwrap().is_empty(), "all are held");
    let waiting = call(&sandbox, "GET /_sandbox/webhooks", "").await["waiting"].as_u64().unwrap();
    assert!((115..150).contains(&waiting), "{waiting}");
    sandbox.set_delivering(Delivering { hold: false, ..storm });
    let letters = receiver.wait_for(usize::try_from(waiting).unwrap()).await;
    let names: Vec<String> =
        letters.iter().map(|letter| event(letter)["data"]["object"]["name"].as_str().unwrap().to_owned()).collect();
    let mut counts: HashMap<&String, usize> = HashMap::new();
    for name in &names {
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(counts.len(), 100, "none is missing");
    assert!(counts.values().any(|count| *count == 2), "some came twice");
    let first = |name: &str| names.iter().position(|known| known == name).unwrap();
    assert!((1..100).any(|n| first(&format!("c{n}")) < first(&format!("c{}", n - 1))), "in any order");
}

#[tokio::test]
async fn an_event_found_wrong_later_becomes_a_thin_event() {
    let sandbox = start(Config { validation: Validation::Later, ..Config::on_loopback(Clock::System) }).await.unwrap();
    let receiver = Receiver::start(0).await;
    let secret = endpoint(&sandbox, &receiver, "customer.created").await;
    let meter = call(
        &sandbox,
        "POST /v1/billing/meters",
        "event_name=units&display_name=Units&default_aggregation[formula]=sum",
    )
    .await;
    let body = "event_name=units&payload[stripe_customer_id]=cus_none&payload[value]=1&identifier=a";
    assert_eq!(call(&sandbox, "POST /v1/billing/meter_events", body).await["identifier"], "a");
    let letter = receiver.wait_for(1).await.remove(0);
    assert!(is_signed(&letter, &secret));
    let notice = event(&letter);
    assert_eq!(
        (&notice["object"], &notice["type"]),
        (&json!("v2.core.event"), &json!("v1.billing.meter.error_report_triggered"))
    );
    assert_eq!((&notice["related_object"]["id"], &notice["data"]), (&meter["id"], &Value::Null));
    let fetched = call(&sandbox, &format!("GET /v2/core/events/{}", notice["id"].as_str().unwrap()), "").await;
    let found = &fetched["data"]["reason"]["error_types"][0];
    assert_eq!(found["code"], "meter_event_customer_not_found");
    assert_eq!(found["sample_errors"][0]["request"]["identifier"], "a");
}
