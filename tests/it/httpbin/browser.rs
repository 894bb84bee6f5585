//! Chromium: addresses typed in, pictures, and a page of another origin that calls the API.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::answer::{self, Door};
use super::libraries::{Noted, noted};
use super::price;
use super::stage::{HOST, Stage, end_group};
use crate::support::programs;

const PAGE: &str = include_str!("page.html");
const TENANT: &str = "browser-user";
const PATIENCE: Duration = Duration::from_secs(60);

struct Browser<'a> {
    stage: &'a Stage,
    program: PathBuf,
    key: &'a str,
}

impl<'a> Browser<'a> {
    /// `None` (said loudly) where there is no Chromium.
    fn find(stage: &'a Stage, key: &'a str) -> Option<Self> {
        let found = programs::program(&["chromium", "chromium-browser", "google-chrome"]);
        if found.is_none() {
            programs::skipped("no Chromium here: `apt-get install chromium`, or tests/run as root");
        }
        found.map(|program| Self { stage, program, key })
    }

    fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Direct => self.stage.direct(),
            Door::Gateway => self.stage.proxy(),
        }
    }

    /// Chromium with nothing of the machine's, knowing two names.
    fn command(&self, door: Door, page: Option<SocketAddr>, profile: &tempfile::TempDir) -> Command {
        let page = page.map(|page| format!("MAP page.test:80 {page}, ")).unwrap_or_default();
        let names = format!("MAP {HOST}:80 {}, {page}MAP * ~NOTFOUND", self.address(door));
        let mut command = Command::new(&self.program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules={names}"))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        command
    }

    /// What Chromium makes of an address: the page as a tree, written out.
    fn dump(&self, door: Door, path: &str) -> String {
        let profile = tempfile::tempdir().unwrap();
        let mut command = self.command(door, None, &profile);
        command.args(["--dump-dom", "--timeout=20000", &format!("http://{HOST}{path}")]).stdout(Stdio::piped());
        let mut child = Ended(command.spawn().unwrap());
        let mut dom = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut dom).unwrap();
        dom
    }

    /// Opens the page and waits for what it saw.
    fn visit(&self, door: Door, refused: bool) -> Vec<Noted> {
        let headers: Map<String, _> = answer::headers(door, TENANT, Some(self.key))
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let query = if door == Door::Gateway { format!("?api_key={}", self.key) } else { String::new() };
        let given = json!({ "base": format!("http://{HOST}"), "headers": headers, "query": query, "refused": refused });
        let page = Page::serve(PAGE.replace("GIVEN", &given.to_string()));
        let profile = tempfile::tempdir().unwrap();
        let mut command = self.command(door, Some(page.address), &profile);
        let _child = Ended(command.arg("http://page.test/").stdout(Stdio::null()).spawn().unwrap());
        let answers = page.answers.recv_timeout(PATIENCE).expect("the page posts what it saw");
        serde_json::from_str(&answers).unwrap()
    }
}

/// A process group that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        end_group(&mut self.0);
    }
}

/// The server of the page: gives it out, and takes what it posts.
struct Page {
    address: SocketAddr,
    answers: mpsc::Receiver<String>,
}

impl Page {
    fn serve(html: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (sender, answers) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                        if let Some(answers) = answer_one(stream, &html) {
                            return sender.send(answers).unwrap();
                        }
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { address, answers }
    }
}

/// One request, one connection. What was posted, if something was; a connection that stays silent, which browsers
/// open to be quick later, is none.
fn answer_one(stream: std::net::TcpStream, html: &str) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (is_post, mut length) = (line.starts_with("POST "), 0);
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let html = if is_post { "" } else { html };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: ";
    write!(reader.get_mut(), "{head}{}\r\n\r\n{html}", html.len()).ok()?;
    is_post.then(|| String::from_utf8(body).unwrap())
}

#[test]
fn a_browser_gets_from_the_gateway_what_it_gets_from_httpbin() {
    let Some(stage) = Stage::set() else { return };
    let key = stage.tenant(TENANT, "standard");
    let Some(browser) = Browser::find(&stage, &key) else { return };
    // Typed in: the front page is open to all; the other page needs the key in its address.
    for (path, keyed, words) in
        [("/", "/".to_owned(), "httpbin"), ("/html", format!("/html?api_key={key}"), "Moby-Dick")]
    {
        let (direct, through) = (browser.dump(Door::Direct, path), browser.dump(Door::Gateway, &keyed));
        assert!(direct.contains(words), "{path}: {direct}");
        assert_eq!(through, direct, "{path}");
    }
    let (direct, through) = (browser.visit(Door::Direct, false), browser.visit(Door::Gateway, false));
    assert_eq!(through.len(), 24 + 1, "{:?}", through.last());
    for (ours, theirs) in through.iter().zip(&direct) {
        assert_same(ours, theirs);
    }
    assert_eq!(noted(&through, "drip", "dripped"), json!(true), "bytes come as they are made");
    assert_eq!(noted(&through, "/image/png", "size"), json!([100, 100]));
    stage.balance(TENANT, &[]);
}

/// Of all headers a page reads those that it is allowed to; of Tollgate's, all.
fn assert_same(ours: &Noted, theirs: &Noted) {
    assert_eq!((&ours.name, ours.status, &ours.notes), (&theirs.name, theirs.status, &theirs.notes));
    if ours.status == 0 {
        return;
    }
    let (mut our_head, mut their_head) = (ours.head().common(Door::Gateway), theirs.head().common(Door::Direct));
    let (our_body, mut their_body) = (ours.body(), theirs.body());
    // It concerns one hop only, no page can leave it out, and httpbin repeats it.
    let repeated = "    \"Connection\": \"keep-alive\",\n";
    if let Some(without) = String::from_utf8(their_body.clone()).ok().filter(|text| text.contains(repeated)) {
        their_body = without.replace(repeated, "").into_bytes();
        for head in [&mut our_head, &mut their_head] {
            head.headers.remove("content-length");
        }
    }
    let show = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    assert!(our_body == their_body, "{}: {}\n{}", ours.name, show(&our_body), show(&their_body));
    assert_eq!(our_head, their_head, "{}", ours.name);
    let cost = price::announced(&ours.method, &ours.path, ours.status);
    assert_eq!(ours.head().cost(), Some(cost), "{}", ours.name);
}

#[test]
fn a_page_reads_why_it_is_refused() {
    let Some(stage) = Stage::set() else { return };
    let key = stage.spent("browser-free");
    let Some(browser) = Browser::find(&stage, &key) else { return };
    let answers = browser.visit(Door::Gateway, true);
    answers[0].head().assert_payment_required(&answers[0].body());
    let dom = browser.dump(Door::Gateway, &format!("/html?api_key={key}"));
    assert!(dom.contains("limit_exceeded"), "{dom}");
    stage.balance("browser-free", &[("GET", "/get"), ("GET", "/html")]);
}
