//! httpbin under gunicorn with two doors, the gateway with the example's own files before one of them, and the books:
//! what httpbin served, priced by hand, against what the gateway and the Stripe sandbox say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::app::{self, Options, Running};
use tollgate::config::{self, Env};
use tollgate::stripe::client::Span;

use super::price::{self, Price};
use crate::support::gateway::{ADMIN_TOKEN, admin, runtime};
use crate::support::programs;

/// Host name that all clients ask for, at both doors, so that what httpbin says of itself is the same at both.
pub(super) const HOST: &str = "httpbin.test";

/// Units per route and meter, and requests per route.
pub(super) type Books = BTreeMap<(String, &'static str), (u64, u64)>;

pub(super) struct Stage {
    /// Ends first, so that its connections to httpbin do.
    running: Option<Running>,
    httpbin: Httpbin,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) folder: TempDir,
}

impl Stage {
    /// `None` (said loudly) where Python's packages cannot be had.
    pub(super) fn set() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let httpbin = Httpbin::start(programs::venv()?, folder.path());
        copy_example(folder.path(), httpbin.for_gateway);
        let env = Env::empty().with("TOLLGATE_ADMIN_TOKEN", ADMIN_TOKEN);
        let loaded =
            config::load(&folder.path().join("tollgate.yaml"), &env).unwrap_or_else(|errors| panic!("{errors}"));
        let running = app::start(loaded, &Options { env, ..Options::default() }).unwrap();
        Some(Self { running: Some(running), httpbin, runtime: runtime(), folder })
    }

    /// httpbin itself.
    pub(super) fn direct(&self) -> SocketAddr {
        self.httpbin.direct
    }

    /// httpbin through the gateway.
    pub(super) fn proxy(&self) -> SocketAddr {
        self.running().proxy()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// A tenant on `plan` who exists at Stripe; its key.
    pub(super) fn tenant(&self, id: &str, plan: &str) -> String {
        self.runtime.block_on(async {
            let billing = self.running().billing().unwrap();
            let customer = billing.create_customer(id, &format!("{id}@test.test")).await.unwrap();
            let tenant = json!({ "id": id, "name": id, "plan": plan, "stripe_customer_id": customer });
            let made = admin(self.running().admin(), "POST", "/api/v1/tenants", &tenant).await;
            assert_eq!(made.status, 201, "{}", made.text());
            let path = format!("/api/v1/tenants/{id}/keys");
            let made = admin(self.running().admin(), "POST", &path, &json!({ "name": "test" })).await;
            assert_eq!(made.status, 201, "{}", made.text());
            made.json()["key"].as_str().unwrap().to_owned()
        })
    }

    /// A tenant on the free plan who has spent it to the last unit; its key.
    pub(super) fn spent(&self, id: &str) -> String {
        let key = self.tenant(id, "free");
        self.runtime.block_on(async {
            let mut client = crate::support::Client::new(self.proxy());
            for _ in 0..50 {
                let got = client.get("/bytes/1", &key).await.unwrap();
                assert_eq!(got.status, 200, "{}", got.text());
            }
        });
        key
    }

    /// Everything that `tenant` had from httpbin costs what the YAML says, in the gateway's books as at Stripe;
    /// `refused` are requests (method, path) that got a 402: they are in the books too, and cost nothing.
    ///
    /// Who left in the middle is in httpbin's log only when httpbin is through with it: hence the wait.
    pub(super) fn balance(&self, tenant: &str, refused: &[(&str, &str)]) -> Books {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut served = self.httpbin.served(tenant);
            for (method, path) in refused {
                enter(&mut served, price::of(method, path, 402));
            }
            let (used, booked) = self.runtime.block_on(self.booked(tenant));
            if served == booked || Instant::now() > end {
                assert_eq!(booked, served, "{tenant}: the gateway's books and httpbin's log, priced");
                for meter in price::METERS {
                    let units: u64 =
                        served.iter().filter(|((_, of), _)| *of == meter).map(|(_, (units, _))| units).sum();
                    assert_eq!(used[meter], units, "{tenant}: used of {meter}");
                    let at_stripe = self.runtime.block_on(self.at_stripe(tenant, meter));
                    assert_eq!(at_stripe, units, "{tenant}: {meter} at Stripe");
                }
                return served;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Used per meter, and the rows per route.
    async fn booked(&self, tenant: &str) -> (BTreeMap<&'static str, u64>, Books) {
        self.running().report_now().await.unwrap();
        let path = format!("/api/v1/tenants/{tenant}/usage");
        let usage = admin(self.running().admin(), "GET", &path, &Value::Null).await;
        assert_eq!(usage.status, 200, "{}", usage.text());
        let usage = usage.json();
        let number = |value: &Value| value.as_u64().unwrap();
        let list = |name: &str| usage[name].as_array().unwrap().clone();
        let used = list("meters").iter().map(|row| (meter(row), number(&row["used"]))).collect();
        let row = |row: &Value| {
            let route = row["route"].as_str().unwrap().to_owned();
            ((route, meter(row)), (number(&row["units"]), number(&row["requests"])))
        };
        (used, list("rows").iter().map(row).collect())
    }

    async fn at_stripe(&self, tenant: &str, meter: &str) -> u64 {
        let customer = self.running().records().tenant(tenant).await.unwrap().unwrap().stripe_customer_id.unwrap();
        let client = self.running().billing().unwrap().client();
        let meters = client.meters().await.unwrap();
        let meter = meters.iter().find(|one| one.event_name == format!("httpbin_{meter}")).unwrap();
        let minute_s = tollgate::clock::Clock::System.now_s().div_euclid(60) * 60;
        let span = Span { start_s: minute_s - 86_400, end_s: minute_s + 600 };
        client.metered(&meter.id, &customer, span).await.unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// A request is counted once, on the first of its meters.
fn enter(books: &mut Books, price: Price) {
    for ((meter, units), requests) in price.units.into_iter().zip([1, 0]) {
        let row = books.entry((price.route.to_owned(), meter)).or_default();
        *row = (row.0 + units, row.1 + requests);
    }
}

fn meter(row: &Value) -> &'static str {
    let name = row["meter"].as_str().unwrap();
    price::METERS.into_iter().find(|meter| *meter == name).unwrap()
}

/// The example's two files as they are, but for the three addresses.
fn copy_example(folder: &Path, origin: SocketAddr) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/httpbin");
    let mut settings = std::fs::read_to_string(example.join("tollgate.yaml")).unwrap();
    for (theirs, ours) in [
        ("proxy: 127.0.0.1:8080", "proxy: 127.0.0.1:0".to_owned()),
        ("admin: 127.0.0.1:9090", "admin: 127.0.0.1:0".to_owned()),
        ("http://127.0.0.1:8000", format!("http://{origin}")),
    ] {
        assert_eq!(settings.matches(theirs).count(), 1, "{theirs}");
        settings = settings.replace(theirs, &ours);
    }
    std::fs::write(folder.join("tollgate.yaml"), settings).unwrap();
    std::fs::copy(example.join("pricing.yaml"), folder.join("pricing.yaml")).unwrap();
}

/// gunicorn with httpbin, on two ports, so that its log tells who came through the gateway.
struct Httpbin {
    child: Child,
    direct: SocketAddr,
    for_gateway: SocketAddr,
    log: std::path::PathBuf,
}

impl Httpbin {
    fn start(programs: &Path, folder: &Path) -> Self {
        let (log, errors) = (folder.join("served.log"), folder.join("gunicorn.log"));
        let child = Command::new(programs.join("gunicorn"))
            .args(["--worker-class", "gthread", "--threads", "32", "--no-control-socket", "--graceful-timeout", "1"])
            // On a busy machine 2 s, the default, pass between two requests, and clients at the direct door would find
            // their kept connections closed.
            .args(["--keep-alive", "75", "--timeout", "120"])
            .args(["--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0"])
            .args(["--access-logformat", "%({SERVER_PORT}e)s %({x-tenant-id}i)s %(m)s %(s)s %(U)s"])
            .args(["--access-logfile".as_ref(), log.as_os_str(), "--error-logfile".as_ref(), errors.as_os_str()])
            .arg("httpbin:app")
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("httpbin.log")).unwrap())
            // A group of its own: its worker ends with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut this = Self { child, direct: ([127, 0, 0, 1], 0).into(), for_gateway: ([127, 0, 0, 1], 0).into(), log };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            if said.contains("Booting worker") {
                let mut doors = said
                    .split("http://")
                    .skip(1)
                    .map(|rest| rest.split([',', ' ']).next().unwrap().parse::<SocketAddr>().unwrap());
                (this.direct, this.for_gateway) = (doors.next().unwrap(), doors.next().unwrap());
                return this;
            }
            assert!(
                Instant::now() < end && this.child.try_wait().unwrap().is_none(),
                "gunicorn does not start: {said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it served to `tenant` through the gateway, priced.
    fn served(&self, tenant: &str) -> Books {
        let mut books = Books::new();
        let port = self.for_gateway.port().to_string();
        for line in std::fs::read_to_string(&self.log).unwrap().lines() {
            // The path is last and as the application sees it: it may have spaces.
            let [door, of, method, status, path] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            if door != port {
                continue;
            }
            // gunicorn's word for a missing header: nobody is named, so nobody pays.
            assert!(of != "-" || price::is_open(method, path), "for nobody: {line}");
            if of != tenant {
                continue;
            }
            enter(&mut books, price::of(method, path, status.parse().unwrap()));
        }
        books
    }
}

impl Drop for Httpbin {
    fn drop(&mut self) {
        end_group(&mut self.child);
    }
}

/// Kills a process that leads a group of its own, and what it started.
pub(super) fn end_group(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    if let Err(error) = killed {
        println!("process {group:?} was gone: {error}");
    }
    child.wait().unwrap();
}
