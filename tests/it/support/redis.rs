//! A private `redis-server` on a free loopback port, to be emptied, paused, killed and started again.

pub mod many;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub struct RedisServer {
    child: Child,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options, as on `redis-server`'s command line.
    pub fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        // Somebody else may take the free port first.
        for _ in 0..10 {
            let [port] = super::process::free_ports();
            let mut child = spawn(&folder, port, &options);
            if answers(&mut child, port) {
                return Self { child, folder, port, options };
            }
        }
        panic!("redis-server does not start: is it installed? (tests/run installs it)");
    }

    /// A Sentinel with this configuration.
    pub fn sentinel(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, configuration).unwrap();
        let [port] = super::process::free_ports();
        let mut child = Command::new("redis-server")
            .arg(&file)
            .args(["--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed by tests/run");
        assert!(answers(&mut child, port), "the Sentinel does not start");
        Self { child, folder, port, options: Vec::new() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// One command, by a connection of its own; answers what came within a second.
    pub fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2)).unwrap();
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query(&mut connection).unwrap()
    }

    /// Empties it, as a person does by mistake.
    pub fn flush_all(&self) {
        self.command(&["FLUSHALL"]);
    }

    /// SIGSTOP: connections stay, answers do not come.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// SIGKILL: nothing listens any more.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts again on the same port, with what it had saved.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.folder, self.port, &self.options);
        assert!(answers(&mut self.child, self.port), "redis-server does not start again");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &TempDir, port: u16, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder.path())
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed by tests/run")
}

/// Whether it is this child that answers: one that lost its port to another ends.
fn answers(child: &mut Child, port: u16) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && child.try_wait().unwrap().is_none() {
        let ping = redis::Client::open(format!("redis://127.0.0.1:{port}"))
            .and_then(|client| client.get_connection_with_timeout(Duration::from_millis(200)))
            .and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
        let pid = format!("process_id:{}\r", child.id());
        if ping.is_ok_and(|info| info.contains(&pid)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
