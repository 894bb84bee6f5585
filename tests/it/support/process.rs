//! `tollgate serve` as a process of its own, to be killed and started again on the same disk.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Serve {
    child: Child,
    log: std::path::PathBuf,
}

impl Serve {
    /// Starts it on `folder`'s configuration; `crash_at` arms a crash point.
    pub fn start(folder: &Path, crash_at: Option<&str>) -> Self {
        let variables = crash_at.map(|point| ("TOLLGATE_CRASH_AT", point));
        Self::start_with(folder, variables.as_slice())
    }

    /// The same with these environment variables, and no others.
    pub fn start_with(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("serve.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command
            .args(["serve", "--config", folder.join("tollgate.yaml").to_str().unwrap()])
            .env_clear()
            .env("TOLLGATE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .envs(variables.iter().copied());
        Self { child: command.spawn().unwrap(), log: folder.join("serve.log") }
    }

    /// SIGKILL, and wait for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and wait for the end of the drain.
    pub fn stop(mut self) {
        self.terminate();
        self.ended(Duration::from_secs(40));
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the end of the process.
    pub fn ended(&mut self, within: Duration) -> std::process::ExitStatus {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it takes traffic; false if it ended before.
    pub fn wait_ready(&mut self, proxy: SocketAddr) -> bool {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if !self.is_running() {
                println!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
                return false;
            }
            if std::net::TcpStream::connect(proxy).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the gateway does not take traffic");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|n| listeners[n].local_addr().unwrap().port())
}
