//! CPU per request of three proxies in one run: bare (hyper and our pools, nothing else), the gateway on a route that
//! is not metered, and the gateway metering. Linux only. `cargo bench --bench proxy [-- --quick]`.
//!
//! Every part is a process of its own: the proxy under test on one core, origin and load on the other. Rounds are
//! interleaved, so that a noisy neighbour disturbs all alike; what counts are the ratios.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::let_underscore_must_use,
    clippy::unchecked_time_subtraction,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark prints ratios and ends when something is wrong"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "support/bare.rs"]
mod bare;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/load.rs"]
mod load;
#[path = "support/origin.rs"]
mod origin;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests of one round.
const REQUESTS: u64 = 12_000;
const ROUNDS: usize = 41;
/// Keep-alive connections of the load.
const CONNECTIONS: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |n: usize| arguments.get(n).map_or("", String::as_str);
    match argument(0) {
        "origin" => origin::run(),
        "bare" => bare::run(argument(1).parse().expect("an address")),
        "gateway" => gateway::run(argument(1).parse().expect("an address")),
        "load" => load::run(
            argument(1).parse().expect("an address"),
            argument(2),
            argument(3),
            argument(4).parse().expect("a number"),
            argument(5).parse().expect("a number"),
        ),
        _ => compare(arguments.iter().any(|a| a == "--quick")),
    }
}

/// A part in a process of its own, pinned to a core; its first line says where it listens (and a key, if it has one).
struct Part {
    child: Child,
    address: SocketAddr,
    key: String,
}

impl Part {
    fn start(core: &str, arguments: &[&str]) -> Self {
        let me = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new("taskset")
            .args(["-c", core])
            .arg(me)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("taskset is part of util-linux");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("its first line");
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("{arguments:?}: {line:?}"));
        Self { child, address, key: words.next().unwrap_or("none").to_owned() }
    }

    /// CPU time of all its threads so far.
    fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let of = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
        };
        Duration::from_nanos(tasks.flatten().map(of).sum())
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One way of calling.
struct Lane<'a> {
    rank: usize,
    name: &'static str,
    part: &'a Part,
    target: &'static str,
    key: &'a str,
    /// CPU µs per request, a figure per round.
    cpu_us: Vec<f64>,
    /// Requests per second, a figure per round.
    per_second: Vec<f64>,
}

fn compare(quick: bool) {
    let (requests, rounds) = if quick { (REQUESTS / 2, 7) } else { (REQUESTS, ROUNDS) };
    let origin = Part::start("1", &["origin"]);
    let at = origin.address.to_string();
    let bare = Part::start("0", &["bare", &at]);
    let gateway = Part::start("0", &["gateway", &at]);
    let lane =
        |rank, name, part, target, key| Lane { rank, name, part, target, key, cpu_us: vec![], per_second: vec![] };
    let mut lanes = [
        lane(0, "direct (origin's own CPU)", &origin, "/plain", "none"),
        lane(1, "bare proxy", &bare, "/plain", "none"),
        lane(2, "gateway, not metered", &gateway, "/public", "none"),
        lane(3, "gateway, metered", &gateway, "/plain", gateway.key.as_str()),
    ];
    for round in 0..=rounds {
        // Forth and back, so that what drifts disturbs all alike.
        lanes.reverse();
        for lane in &mut lanes {
            let (before, started) = (lane.part.cpu(), Instant::now());
            drive(lane.part.address, lane.target, lane.key, requests);
            let (cpu, took) = (lane.part.cpu() - before, started.elapsed());
            // The first round warms up.
            if round > 0 {
                lane.cpu_us.push(cpu.as_secs_f64() * 1e6 / requests as f64);
                lane.per_second.push(requests as f64 / took.as_secs_f64());
            }
        }
    }
    lanes.sort_by_key(|lane| lane.rank);
    println!("{requests} requests a round, {rounds} rounds, {CONNECTIONS} connections, one core for the proxy\n");
    println!("{:<28}{:>24}{:>12}", "", "CPU us/request", "requests/s");
    for lane in &lanes {
        println!("{:<28}{:>24}{:>12.0}", lane.name, spread(&lane.cpu_us), median(&lane.per_second));
    }
    let ratio = |a: &Lane<'_>, b: &Lane<'_>| a.cpu_us.iter().zip(&b.cpu_us).map(|(a, b)| a / b).collect::<Vec<_>>();
    let metering = ratio(&lanes[3], &lanes[2]);
    println!("\nmetered / not metered   {}", spread(&metering));
    println!("metered / bare          {}", spread(&ratio(&lanes[3], &lanes[1])));
    println!("resident: bare {} KiB, gateway {} KiB", bare.resident_kib(), gateway.resident_kib());
}

fn drive(address: SocketAddr, target: &str, key: &str, requests: u64) {
    let me = std::env::current_exe().expect("this program has a path");
    let status = Command::new("taskset")
        .args(["-c", "1"])
        .arg(me)
        .args(["load", &address.to_string(), target, key, &requests.to_string(), &CONNECTIONS.to_string()])
        .status()
        .expect("the load runs");
    assert!(status.success(), "the load failed");
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Median, and the span of all rounds.
fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{:.3} ({least:.3}-{most:.3})", median(figures))
}
