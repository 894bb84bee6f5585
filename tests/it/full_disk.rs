//! A gateway on a disk that is full: metered work is refused before the origin has worked, nothing is lost, and it goes
//! on by itself. The tests run themselves again as a process with a small disk of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::gateway::{Setup, try_start};
use crate::support::{Client, Gateway, Got};

const DIR: &str = "TOLLGATE_IT_SMALL_DISK";
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the ignored `test` with a disk of `size` at `DIR`; false where the machine lets us mount none.
fn on_a_small_disk(test: &str, size: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(r#"mount -t tmpfs -o size={size} tmpfs "$1" || exit 99; shift; exec "$@""#);
    for flags in [&["--mount"][..], &["--mount", "--map-root-user"]] {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", &script, "sh"]).arg(dir.path());
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]).env(DIR, dir.path());
        let Ok(output) = command.output() else { break };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => {
                assert!(said.contains("1 passed"), "{said}");
                println!(
                    "{}",
                    said.lines().filter(|line| line.starts_with("full disk:")).collect::<Vec<_>>().join("\n")
                );
                return true;
            }
            // 1 is unshare's own refusal, 99 the mount's; a failed test is 101.
            Some(1 | 99) => {}
            _ => panic!("{said}"),
        }
    }
    println!("FULL DISK NOT TESTED: this machine lets us mount no tmpfs, neither as root nor in a user namespace");
    false
}

#[test]
fn a_full_disk_refuses_metered_work_and_loses_nothing() {
    on_a_small_disk("full_disk::child_with_its_journal_on_a_small_disk", "2m");
}

#[test]
fn records_on_a_full_disk_lose_nothing() {
    on_a_small_disk("full_disk::child_with_everything_on_a_small_disk", "6m");
}

/// What takes the space away.
struct Filler(PathBuf);

impl Filler {
    /// Takes all that is left.
    fn all(dir: &Path) -> Self {
        let path = dir.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        // The last pages, one by one.
        while file.write_all(&[1]).is_ok() {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Clients that call for as long as they are told to.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    async fn drive(self: Arc<Self>, mut client: Client, key: String, codes: &'static [&'static str]) {
        while !self.stop.load(Ordering::Relaxed) {
            let got = client.get("/one", &key).await.unwrap();
            match got.status {
                200 => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                503 => {
                    let code = got.json()["code"].as_str().unwrap().to_owned();
                    assert!(codes.contains(&code.as_str()), "{code}");
                    assert_eq!(got.header("retry-after"), "1");
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                other => panic!("{other}: {}", got.text()),
            }
        }
    }

    /// Sixteen clients until `done`.
    async fn until(
        gateway: &Gateway,
        key: &str,
        codes: &'static [&'static str],
        done: impl Fn(u64, u64) -> bool,
    ) -> (u64, u64) {
        let load = Arc::new(Self::default());
        let drive = |_| tokio::spawn(Arc::clone(&load).drive(gateway.client(), key.to_owned(), codes));
        let drivers: Vec<_> = (0..16).map(drive).collect();
        let counts = || (load.served.load(Ordering::Relaxed), load.refused.load(Ordering::Relaxed));
        let end = Instant::now() + PATIENCE;
        while !done(counts().0, counts().1) && !drivers.iter().any(tokio::task::JoinHandle::is_finished) {
            assert!(Instant::now() < end, "served and refused: {:?}", counts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        load.stop.store(true, Ordering::Relaxed);
        for driver in drivers {
            driver.await.unwrap();
        }
        counts()
    }
}

async fn look(gateway: &Gateway, path: &str) -> Got {
    gateway.admin("GET", path, &Value::Null).await
}

async fn wait_until(gateway: &Gateway, what: &str, holds: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: {}", look(gateway, "/readyz").await.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const OVERLOADED: &[&str] = &["overloaded"];

#[test]
#[ignore = "the process that runs on a disk of 2 MiB for the test above"]
fn child_with_its_journal_on_a_small_disk() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = PathBuf::from(dir);
    let more = format!(
        "store: {{ records: \"sqlite:tollgate.db\", ledger: {{ batch: 20ms }}, \
         journal: {{ path: \"{}/journal\", segment_records: 1024 }} }}\n",
        dir.display()
    );
    let setup = Setup { more: &more, workers: 1, ..Setup::default() };
    let mut gateway = Gateway::with(&setup);
    let runtime = std::mem::replace(&mut gateway.runtime, crate::support::gateway::runtime());
    runtime.block_on(async {
        let key = gateway.tenant("acme", "pro").await;
        let filler = Filler::all(&dir);
        // Full, but what is counted makes room for what is to come, however young it is.
        let eased = Load::until(&gateway, &key, OVERLOADED, |served, _| served > 10_000).await;
        // The records are away as well: now nothing may be deleted, and the journal has only what is ready.
        let mut lock = lock_records(&gateway).await;
        let before = gateway.origin.count("acme", "/one");
        let full = Load::until(&gateway, &key, OVERLOADED, |_, refused| refused > 100).await;
        let after = gateway.origin.count("acme", "/one");
        assert_eq!(after - before, full.0, "what is refused never reaches the origin");
        wait_until(&gateway, "not ready", async || look(&gateway, "/readyz").await.status == 503).await;
        let unready = look(&gateway, "/readyz").await.json();
        assert!(unready["missing"]["journal"].as_str().unwrap().contains("full"), "{unready}");
        let metrics = look(&gateway, "/metrics").await.text();
        assert!(metrics.contains("\ntollgate_journal_up 0\n"), "{metrics}");
        assert!(metrics.contains("tollgate_refusals_total{code=\"overloaded\"}"), "{metrics}");
        let free = gateway.client().send("GET", "/health", &[], b"").await.unwrap();
        assert_eq!(free.status, 200, "what is not metered passes");
        // Space comes back, nobody restarts anything.
        drop(filler);
        wait_until(&gateway, "ready", async || look(&gateway, "/readyz").await.status == 200).await;
        let recovered = Load::until(&gateway, &key, OVERLOADED, |served, _| served > 500).await;
        sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
        assert!(look(&gateway, "/metrics").await.text().contains("\ntollgate_journal_up 1\n"));
        gateway.running().report_now().await.unwrap();
        let served = eased.0 + full.0 + recovered.0;
        assert_eq!(gateway.origin.count("acme", "/one"), served);
        assert_eq!((gateway.used("acme").await, gateway.at_stripe("acme").await), (served, served));
        println!("full disk: {eased:?} eased, {full:?} full, {recovered:?} recovered: served and refused");
    });
    // Starting on a full disk: either it starts or it says why not, and nothing is lost.
    let used = runtime.block_on(gateway.used("acme"));
    gateway.running.take().unwrap().stop();
    let filler = Filler::all(&dir);
    match try_start(gateway.folder.path(), &setup) {
        Ok(running) => {
            println!("full disk: it starts");
            running.stop();
        }
        Err(error) => {
            let text = format!("{error:#}");
            println!("full disk: it does not start: {text}");
            assert!(text.contains("store.journal") && text.contains("No space left"), "{text}");
        }
    }
    drop(filler);
    gateway.running = Some(try_start(gateway.folder.path(), &setup).unwrap());
    assert_eq!(runtime.block_on(gateway.used("acme")), used);
}

/// Nobody can write to the records while this is open.
async fn lock_records(gateway: &Gateway) -> sqlx::AnyConnection {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite:{}", gateway.folder.path().join("tollgate.db").display());
    let mut lock = sqlx::AnyConnection::connect(&url).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while let Err(error) = sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await {
        assert!(Instant::now() < end, "{error}");
    }
    lock
}

#[test]
#[ignore = "the process that runs on a disk of 6 MiB for the test above"]
fn child_with_everything_on_a_small_disk() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = PathBuf::from(dir);
    let more = format!(
        "store: {{ records: \"sqlite:{0}/tollgate.db\", ledger: {{ batch: 20ms }}, \
         journal: {{ path: \"{0}/journal\", segment_records: 1024 }} }}\n",
        dir.display()
    );
    let setup = Setup { more: &more, workers: 1, ..Setup::default() };
    let mut gateway = Gateway::with(&setup);
    let runtime = std::mem::replace(&mut gateway.runtime, crate::support::gateway::runtime());
    runtime.block_on(async {
        let key = gateway.tenant("acme", "pro").await;
        let capped = gateway.tenant("small", "free").await;
        let codes: &[&str] = &["overloaded", "ledger_unavailable"];
        let before = Load::until(&gateway, &key, codes, |served, _| served > 100).await;
        let filler = Filler::all(&dir);
        // Rows that need new pages: some of them find none.
        let mut made = Vec::new();
        for n in 0..200 {
            let (id, email) = (format!("t{n}"), format!("{}@test.test", "e".repeat(40)));
            let body = json!({ "id": id, "name": "n".repeat(100), "email": email, "plan": "free" });
            made.push(gateway.admin("POST", "/api/v1/tenants", &body).await.status);
        }
        assert!(made.iter().all(|status| *status == 201 || *status >= 500), "{made:?}");
        let refused_rows = made.iter().filter(|status| **status >= 500).count();
        assert!(refused_rows > 0, "the disk of the records is full");
        let during = Load::until(&gateway, &key, codes, |served, refused| served + refused > 2_000).await;
        let mut passed = 0;
        let mut client = gateway.client();
        for _ in 0..20 {
            let got = client.get("/five", &capped).await.unwrap();
            assert!(matches!(got.status, 200 | 503), "{}", got.text());
            passed += u64::from(got.status == 200);
        }
        drop(filler);
        wait_until(&gateway, "flushed", async || {
            let flushed = gateway.running().flush_now().await;
            if let Err(error) = &flushed {
                println!("full disk: {error:#}");
            }
            flushed.is_ok()
        })
        .await;
        let again =
            gateway.admin("POST", "/api/v1/tenants", &json!({ "id": "late", "name": "l", "plan": "free" })).await;
        assert_eq!(again.status, 201, "{}", again.text());
        let after = Load::until(&gateway, &key, codes, |served, _| served > 100).await;
        for _ in passed..20 {
            assert_eq!(client.get("/five", &capped).await.unwrap().status, 200);
        }
        assert_eq!(client.get("/one", &capped).await.unwrap().status, 402, "the whole cap could be spent, not more");
        gateway.running().report_now().await.unwrap();
        let served = before.0 + during.0 + after.0;
        assert_eq!(gateway.origin.count("acme", "/one"), served);
        assert_eq!((gateway.used("acme").await, gateway.at_stripe("acme").await), (served, served));
        assert_eq!((gateway.used("small").await, gateway.at_stripe("small").await), (100, 100));
        println!(
            "full disk: {refused_rows} rows refused; {during:?} served and refused meanwhile, {passed} of 20 capped"
        );
    });
}
