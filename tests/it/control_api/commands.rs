//! The built program against a running admin port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::harness::{ADMIN, Api, READ};

/// What a run of the program ended with.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    #[track_caller]
    fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.fine()).expect("JSON")
    }

    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        self.err
    }
}

/// The program with no variable of ours but those given.
fn program(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    for name in [
        "TOLLGATE_ADMIN_URL",
        "TOLLGATE_ADMIN_TOKEN",
        "DATABASE_URL",
        "STRIPE_MODE",
        "STRIPE_SECRET_KEY",
        "TOLLGATE_LOG",
    ] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

async fn finish(mut command: Command) -> Ran {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    output.expect("the program runs").into()
}

async fn run(api: &Api, arguments: &[&str]) -> Ran {
    let mut command = program(&[("TOLLGATE_ADMIN_URL", &api.base), ("TOLLGATE_ADMIN_TOKEN", ADMIN)]);
    command.args(arguments);
    finish(command).await
}

#[tokio::test]
async fn tenants_from_creation_to_deletion() {
    let api = Api::start().await;
    let create = ["tenant", "create", "acme", "--plan", "starter", "--email", "ops@acme.test"];
    let shown = run(&api, &create).await.fine();
    assert!(shown.contains("id                      acme\n"), "{shown}");
    run(&api, &create).await.fine();
    let other = run(&api, &["tenant", "create", "acme", "--plan", "free"]).await.failed(1);
    assert!(other.starts_with("tollgate: tenant \"acme\" exists with another "), "{other}");
    let update = ["tenant", "update", "acme", "--status", "active", "--email", "", "--format", "json"];
    let updated = run(&api, &update).await.json();
    assert_eq!(run(&api, &["tenant", "update", "acme", "--plan", "gold"]).await.code, Some(1));
    assert_eq!((&updated["status"], &updated["email"]), (&json!("active"), &Value::Null));
    assert_eq!(run(&api, &["tenant", "show", "acme", "--format", "json"]).await.json(), updated);
    run(&api, &["tenant", "create", "b", "--plan", "free"]).await.fine();
    let listed = run(&api, &["tenant", "list"]).await.fine();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[0].starts_with("ID ") && lines[1].starts_with("b ") && lines[2].starts_with("acme "), "{listed}");
    let page = run(&api, &["tenant", "list", "--limit", "1"]).await.fine();
    assert!(page.lines().last().is_some_and(|line| line.starts_with("more: --after ")), "{page}");
    run(&api, &["tenant", "delete", "acme"]).await.fine();
    let gone = run(&api, &["tenant", "show", "acme"]).await.failed(1);
    assert_eq!(gone, "tollgate: there is no tenant \"acme\" (404 unknown_tenant)\n");
    api.stop().await;
}

#[tokio::test]
async fn keys_from_creation_to_revocation() {
    let api = Api::start().await;
    api.acme().await;
    let create = ["key", "create", "acme", "--name", "prod", "--scope", "/signals", "--scope", "GET /docs/{*rest}"];
    let shown = run(&api, &create).await.fine();
    assert!(shown.contains("Keep the key: it is not shown again."), "{shown}");
    let secret = shown.split_whitespace().find(|word| word.starts_with("tg_") && word.len() == 43).expect("the key");
    let hash = super::keys::hash(secret);
    let (key, _) = api.records.key_by_hash(&hash).await.expect("readable").expect("there");
    assert_eq!(key.scopes, ["/signals", "GET /docs/{*rest}"]);
    let rotated = run(&api, &["key", "rotate", "acme", &key.id, "--overlap", "15m", "--format", "json"]).await.json();
    assert_eq!(rotated["replaces"], json!({"id": key.id, "expires_at": "2026-11-20T12:45:00Z"}));
    run(&api, &["key", "revoke", "acme", &key.id]).await.fine();
    let listed = run(&api, &["key", "list", "acme", "--format", "json"]).await.json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["data"][1]["revoked_at"], super::harness::NOW);
    let wrong = run(&api, &["key", "create", "acme", "--scope", "signals"]).await.failed(1);
    assert!(wrong.contains("scopes[0]"), "{wrong}");
    api.stop().await;
}

#[tokio::test]
async fn a_key_is_imported_from_standard_input() {
    let api = Api::start().await;
    api.acme().await;
    let mut command = program(&[("TOLLGATE_ADMIN_URL", &api.base), ("TOLLGATE_ADMIN_TOKEN", ADMIN)]);
    command.args(["key", "create", "acme", "--import"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the program runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"legacy-key-0123456789\n").expect("written");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    });
    let shown = Ran::from(ran.await.expect("no panic")).fine();
    assert!(!shown.contains("legacy-key-0123456789"), "{shown}");
    let hash = super::keys::hash("legacy-key-0123456789");
    assert!(api.records.key_by_hash(&hash).await.expect("readable").is_some());
    api.stop().await;
}

#[tokio::test]
async fn usage_as_table_csv_and_json() {
    let api = Api::start().await;
    api.acme().await;
    let table = run(&api, &["usage", "acme"]).await.fine();
    assert!(table.starts_with("acme on starter, 2026-11-20T12:30:00Z to 2026-12-20T12:30:00Z\n"), "{table}");
    assert!(table.contains("ROUTE  METER  UNITS  REQUESTS\n"), "{table}");
    assert_eq!(
        run(&api, &["usage", "acme", "--by", "day", "--format", "csv"]).await.fine(),
        "day,meter,units,requests\r\n"
    );
    let json = run(&api, &["usage", "acme", "--format", "json", "--from", "2026-11-01"]).await.json();
    assert_eq!(json["meters"][0]["remaining"], 1000);
    let wrong = run(&api, &["usage", "acme", "--from", "yesterday"]).await.failed(1);
    assert!(wrong.contains("from: \"yesterday\" is not a time"), "{wrong}");
    api.stop().await;
}

#[tokio::test]
async fn exit_codes_tell_a_refusal_from_wrong_usage() {
    let api = Api::start().await;
    let mut refused = program(&[("TOLLGATE_ADMIN_URL", &api.base), ("TOLLGATE_ADMIN_TOKEN", READ)]);
    refused.args(["tenant", "create", "a", "--plan", "free"]);
    assert!(finish(refused).await.failed(1).contains("(403 insufficient_role)"));
    let mut unset = program(&[("TOLLGATE_ADMIN_URL", &api.base)]);
    unset.args(["tenant", "list"]);
    assert!(finish(unset).await.failed(2).contains("TOLLGATE_ADMIN_TOKEN is not set"));
    let mut nowhere = program(&[("TOLLGATE_ADMIN_TOKEN", ADMIN)]);
    nowhere.args(["tenant", "list", "--admin", "http://127.0.0.1:1"]);
    let said = finish(nowhere).await.failed(1);
    assert!(said.contains("cannot reach the admin API at http://127.0.0.1:1: Connection refused"), "{said}");
    for wrong in [
        &["tenant"][..],
        &["tenant", "show"],
        &["tenant", "create", "acme"],
        &["usage", "acme", "--by", "colour"],
        &["sell"],
    ] {
        run(&api, wrong).await.failed(2);
    }
    api.stop().await;
}

/// Ends the program with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("it runs or has ended");
        self.0.wait().expect("it has ended");
    }
}

#[test]
fn the_sandbox_runs_alone_and_says_where() {
    let mut command = program(&[]);
    command.args(["sandbox", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("the program runs"));
    let mut log = BufReader::new(running.0.stderr.take().expect("piped"));
    let mut line = String::new();
    log.read_line(&mut line).expect("a line");
    let record: Value = serde_json::from_str(&line).expect("JSON, as standard error is no terminal");
    let addr = record["addr"].as_str().unwrap_or_else(|| panic!("{record}"));
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.write_all(b"GET /v1/customers/cus_1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_log_that_cannot_be_set_up_is_wrong_usage() {
    let mut command = program(&[("TOLLGATE_LOG_FORMAT", "xml")]);
    command.args(["sandbox", "--listen", "127.0.0.1:0"]);
    assert!(finish(command).await.failed(2).contains("TOLLGATE_LOG_FORMAT=\"xml\" is unknown; allowed: text, json"));
}

#[tokio::test]
async fn check_finds_the_files_fine_and_explains_a_request() {
    let api = Api::start().await;
    let config = api.config.to_str().expect("UTF-8").to_owned();
    let fine = run(&api, &["check", "--config", &config]).await.fine();
    assert!(fine.contains("are fine: ") && fine.contains("2 plans"), "{fine}");
    api.acme().await;
    let explain = ["check", "--config", &config, "--explain", "GET /signals", "--tenant", "acme", "--format", "json"];
    let explained = run(&api, &explain).await.json();
    assert_eq!((&explained["route"], &explained["plan"]["name"]), (&json!("GET /signals"), &json!("starter")));
    assert_eq!(explained["costs"][0]["included"], 1000);
    let mut unknown = explain;
    unknown[6] = "nobody";
    assert!(run(&api, &unknown).await.failed(1).contains("there is no tenant \"nobody\""));
    run(&api, &["check", "--config", &config, "--explain", "signals"]).await.failed(2);
    api.stop().await;
}

#[tokio::test]
async fn check_shows_every_mistake_and_tells_it_from_a_missing_file() {
    let api = Api::start().await;
    let config = api.config.to_str().expect("UTF-8").to_owned();
    let pricing = api.config.with_file_name("pricing.yaml");
    std::fs::write(&pricing, "meters: {}\nplans:\n  free: { monthli: 0 }\n").expect("writable");
    let said = run(&api, &["check", "--config", &config]).await.failed(1);
    assert!(said.contains("pricing.yaml:3:") && said.contains("monthli"), "{said}");
    let machine = run(&api, &["check", "--config", &config, "--format", "json"]).await;
    assert_eq!(machine.code, Some(1), "{machine:?}");
    let document: Value = serde_json::from_str(&machine.out).expect("JSON");
    assert_eq!(
        (&document["ok"], document["mistakes"].as_array().is_some_and(|list| !list.is_empty())),
        (&json!(false), true)
    );
    run(&api, &["check", "--config", "/nowhere/tollgate.yaml"]).await.failed(2);
    api.stop().await;
}
