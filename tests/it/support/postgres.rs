//! A private PostgreSQL server: its own cluster in a temporary folder, on a free loopback port and a socket of its own,
//! ended with its owner.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::missing_panics_doc,
    reason = "unit tests and integration tests share this file, and neither uses all of it"
)]

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Names the server to tests that run in a child process of another test, which owns it.
pub const VARIABLE: &str = "TOLLGATE_TEST_POSTGRES";
const PASSWORD: &str = "only-in-tests";

pub struct Postgres {
    folder: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// The server that tests of this binary share, which ends with the process. For databases of their own.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        // The server ends with the thread that started it, so that one stays.
        std::thread::spawn(move || {
            let server = Postgres::start();
            delete_afterwards(server.folder.path());
            sender.send(server).expect("it is waited for");
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("the server starts")
    })
}

impl Postgres {
    /// Makes a cluster and starts its server.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tollgate-postgres-").tempdir().expect("a temporary folder");
        let bin = bin();
        let server = Self { port: free_port(), child: None, bin, folder };
        server.initialise();
        let mut server = server;
        server.go_on();
        server
    }

    /// The database `name` of the server; made if it is not there.
    pub fn url(&self, name: &str) -> String {
        let server = self.server();
        make_database(&server, name);
        format!("{server}/{name}")
    }

    /// The server, without a database.
    pub fn server(&self) -> String {
        format!("postgres://tollgate:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its Unix socket is.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// Lets it write to the disk before it confirms, as in earnest; tests have no power cuts.
    pub fn sync(&self) {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-d", &format!("{}/postgres", self.server())]);
        psql.args(["-c", "ALTER SYSTEM SET fsync = on", "-c", "SELECT pg_reload_conf()"]);
        assert!(psql.output().expect("psql comes with PostgreSQL").status.success());
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(&child, rustix::process::Signal::CONT);
            signal(&child, rustix::process::Signal::QUIT);
            child.wait().expect("the server ends");
        }
    }

    /// Starts it again on the same data; returns when it answers.
    pub fn go_on(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let mut command = self.unprivileged("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("setpriv is there (util-linux)"));
        let end = Instant::now() + Duration::from_secs(30);
        while !self.answers() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "PostgreSQL does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops all its processes where they are; they go on with [`Postgres::resume`].
    pub fn pause(&self) {
        self.to_all(rustix::process::Signal::STOP);
    }

    pub fn resume(&self) {
        self.to_all(rustix::process::Signal::CONT);
    }

    fn to_all(&self, what: rustix::process::Signal) {
        let child = self.child.as_ref().expect("it runs");
        for id in children(child.id()) {
            let id = rustix::process::Pid::from_raw(id).expect("a process");
            // It may have ended meanwhile.
            rustix::process::kill_process(id, what).ok();
        }
        signal(child, what);
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().expect("pg_isready comes with PostgreSQL").success()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn initialise(&self) {
        let password = self.folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("a file");
        if let Some(id) = unprivileged_id() {
            chown(self.folder.path(), Some(id), Some(id)).expect("a folder of ours");
            chown(&password, Some(id), Some(id)).expect("a file of ours");
        }
        let mut command = self.unprivileged("initdb");
        command.arg("-D").arg(self.data()).arg("--pwfile").arg(&password);
        command.args(["-U", "tollgate", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let made = command.output().expect("setpriv is there (util-linux)");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 200\nshared_buffers = 64MB\nmax_wal_size = 256MB\nautovacuum_naptime = 10s\n",
            self.port,
            self.folder.path().display()
        );
        let file = self.data().join("postgresql.conf");
        let defaults = std::fs::read_to_string(&file).expect("initdb wrote it");
        std::fs::write(&file, defaults + &settings).expect("a file of ours");
    }

    /// A program of PostgreSQL's, which refuses to run as root; it ends with the thread that started it.
    fn unprivileged(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(id) = unprivileged_id() {
            let id = id.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        command.args(["--pdeathsig", "QUIT"]).arg(self.bin.join(program)).current_dir(self.folder.path());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes the database `name` unless it is there.
pub fn make_database(server: &str, name: &str) {
    let mut psql = Command::new(bin().join("psql"));
    psql.args(["-X", "-q", "-d", &format!("{server}/postgres"), "-c", &format!("CREATE DATABASE \"{name}\"")]);
    let made = psql.output().expect("psql comes with PostgreSQL");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success() || said.contains("already exists"), "{said}");
}

/// A database for `folder`, which stands for it: in a server if the process is told of one, else a file in it.
pub fn database_for(folder: &Path) -> String {
    let Ok(server) = std::env::var(VARIABLE) else {
        return format!("sqlite:{}/deep/er/tollgate.db", folder.display());
    };
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a folder with a name");
    // Names of databases are a matter of case here as there.
    make_database(&server, name);
    format!("{server}/{name}")
}

/// Whether this process is told of a server.
pub fn is_there() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Runs tests of this binary whose names contain one of `filters` in a process of their own, over a server of their own.
pub fn run_over_postgres(filters: &[&str], skip: &[&str]) {
    let server = shared();
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.args(filters).args(skip.iter().flat_map(|name| ["--skip", name])).env(VARIABLE, server.server());
    let done = command.output().expect("this binary runs");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "over PostgreSQL: {told}\n{}", String::from_utf8_lossy(&done.stderr));
    let passed = told.lines().find(|line| line.starts_with("test result:")).expect("a result");
    assert!(!passed.contains(" 0 passed"), "nothing ran: {told}");
}

/// Where PostgreSQL's programs are: the newest of Debian's, else wherever `PATH` has them.
fn bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").exists()).max_by_key(number);
    let of_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
    };
    newest.map(|path| path.join("bin")).or_else(of_path).expect("PostgreSQL is installed; tests/run does that")
}

/// Whom PostgreSQL runs as if this is root: nobody.
fn unprivileged_id() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65_534)
}

/// Deletes `folder` once this process has ended, however it did.
fn delete_afterwards(folder: &Path) {
    let mut janitor = Command::new("sh");
    janitor.args(["-c", "while kill -0 \"$0\" 2>/dev/null; do sleep 1; done; sleep 1; rm -rf \"$1\""]);
    janitor.arg(std::process::id().to_string()).arg(folder);
    janitor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut janitor = janitor.spawn().expect("sh is everywhere");
    std::thread::spawn(move || janitor.wait());
}

fn signal(child: &Child, what: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), what).ok();
}

fn children(of: u32) -> Vec<i32> {
    let listed = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
