//! Tests of the files as a whole: the shipped pair, one bad file per mistake, and arbitrary damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::check::Source;
use super::settings::{Secret, StripeMode};
use super::*;
use crate::pricing::{MeterIndex, OnOutage, RatePer};

const MINIMAL: &str = "upstreams: [{ name: api, origins: ['http://127.0.0.1:9000'] }]\n";
const PRICES: &str = "plans: { free: { monthly: 0, included: { api_units: 100 } } }\n";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn settings_from(text: &str, env: &Env) -> Result<Settings, ConfigErrors> {
    let source = Source { file: "tollgate.yaml".into(), text: text.to_owned() };
    let (settings, errors) = settings_of(&source, env);
    if errors.is_empty() { Ok(settings) } else { Err(ConfigErrors { errors }) }
}

fn pricing_from(text: &str) -> Result<Pricing, ConfigErrors> {
    let settings = settings_from(MINIMAL, &Env::empty())?;
    let source = Source { file: "pricing.yaml".into(), text: text.to_owned() };
    pricing_of(&source, &settings).map_err(|errors| ConfigErrors { errors })
}

fn check_text(name: &str, text: String) -> Result<(), ConfigErrors> {
    let source = Source { file: name.into(), text };
    let errors = if name.starts_with("settings") {
        settings_of(&source, &Env::empty()).1
    } else {
        let settings = settings_from(MINIMAL, &Env::empty())?;
        pricing_of(&source, &settings).err().unwrap_or_default()
    };
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors { errors }) }
}

/// `UPDATE_GOLDEN=1` writes what is said now; read the difference before committing it.
#[test]
fn every_mistake_has_its_message() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(root("tests/bad_yaml")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = match check_text(name, fs::read_to_string(&path).unwrap()) {
            Err(errors) => format!("{errors}\n"),
            Ok(()) => "accepted\n".to_owned(),
        };
        assert!(said != "accepted\n" || update, "{name} was accepted");
        assert!(!said.contains("hunter2"), "{name} shows a secret:\n{said}");
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, &said).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("--- {name}\n{said}"));
        }
    }
    assert!(cases > 80, "only {cases} cases found");
    assert!(wrong.is_empty(), "messages differ from their .txt:\n{}", wrong.join("\n"));
}

#[test]
fn ten_mistakes_are_ten_errors() {
    for name in ["settings_ten_mistakes.yaml", "pricing_ten_mistakes.yaml"] {
        let text = fs::read_to_string(root("tests/bad_yaml").join(name)).unwrap();
        let errors = check_text(name, text).unwrap_err().errors;
        assert_eq!(errors.len(), 10, "{name}: {:#?}", errors.iter().map(|error| &error.path).collect::<Vec<_>>());
    }
}

#[test]
fn mistakes_of_both_files_come_together() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tollgate.yaml"), format!("{MINIMAL}workers: 0\n")).unwrap();
    fs::write(directory.path().join("pricing.yaml"), "plans: { a: { monthly: x } }\n").unwrap();
    let errors = load(&directory.path().join("tollgate.yaml"), &Env::empty()).unwrap_err().errors;
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["workers", "plans.a.monthly"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/no/such/tollgate.yaml"), &Env::empty()).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/tollgate.yaml: the file cannot be read: No such file"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tollgate.yaml"), MINIMAL).unwrap();
    let error = load(&directory.path().join("tollgate.yaml"), &Env::empty()).unwrap_err().to_string();
    assert!(error.contains("pricing.yaml: the file cannot be read"), "{error}");
    fs::write(directory.path().join("pricing.yaml"), [0x61, 0xff]).unwrap();
    let error = load(&directory.path().join("tollgate.yaml"), &Env::empty()).unwrap_err().to_string();
    assert!(error.contains("the file is not UTF-8 at byte 2"), "{error}");
}

/// Lines `#key: …` and `#  key: …` without their `#`.
fn with_defaults_spelled_out(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_key(rest) => rest.to_owned(),
        Some(_) | None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn is_key(rest: &str) -> bool {
    let key = rest.trim_start();
    let indent = rest.len() - key.len();
    let word: &str = key.split(':').next().unwrap_or_default();
    indent.is_multiple_of(2) && key.contains(':') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn the_shipped_pair_loads_and_shows_the_defaults() {
    let env = Env::empty();
    let shipped = load(&root("config/tollgate.yaml"), &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(shipped.settings.stripe.mode, StripeMode::Sandbox);
    assert_eq!(shipped.pricing_path, root("config/pricing.yaml"));
    let directory = tempfile::tempdir().unwrap();
    for file in ["tollgate.yaml", "pricing.yaml"] {
        let text = fs::read_to_string(root("config").join(file)).unwrap();
        let spelled = with_defaults_spelled_out(&text);
        assert!(!spelled.lines().any(is_commented_key), "a default is left: {spelled}");
        fs::write(directory.path().join(file), spelled).unwrap();
    }
    let spelled = load(&directory.path().join("tollgate.yaml"), &env).unwrap_or_else(|errors| panic!("{errors}"));
    let here = |settings: &Settings| format!("{settings:?}").replace(directory.path().to_str().unwrap(), "");
    let there = |settings: &Settings| format!("{settings:?}").replace(root("config").to_str().unwrap(), "");
    assert_eq!(here(&spelled.settings), there(&shipped.settings));
    assert_eq!(spelled.pricing.meters, shipped.pricing.meters);
    assert_eq!(spelled.pricing.plans, shipped.pricing.plans);
    assert_eq!(spelled.pricing.routes.routes(), shipped.pricing.routes.routes());
    assert_ne!(spelled.sha256, shipped.sha256);
}

fn is_commented_key(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(is_key)
}

/// Every key that is known stands in the shipped files, so that nobody has to look elsewhere.
#[test]
fn the_shipped_pair_carries_every_key() {
    for (file, keys) in [("config/tollgate.yaml", SETTINGS_KEYS), ("config/pricing.yaml", PRICING_KEYS)] {
        let shipped = spelled_keys(&fs::read_to_string(root(file)).unwrap());
        for key in keys.split_whitespace() {
            assert!(shipped.iter().any(|shown| shown == key), "{key} is missing from {file}");
        }
    }
}

const SETTINGS_KEYS: &str = "pricing listen proxy admin workers limits header_bytes headers header_timeout body_timeout
    connections connections_per_address upstreams name match host path origins timeouts connect first_byte idle total
    identity api_key query tenant_header trusted default_tenant forward_credentials store records ledger url batch rebuild absent
    journal sync keep keep_size segment_records stripe mode secret_key webhook_secrets api_base api_version flush
    currency automatic_tax tokens self_service prefix";

const PRICING_KEYS: &str = "meters kind stripe_event plans monthly yearly trial included overage spend_cap rate
    concurrency grace status trialing active past_due unpaid canceled incomplete incomplete_expired paused features
    thresholds on_outage routes default cost meter charge_on on_abort requires public";

fn spelled_keys(text: &str) -> Vec<String> {
    let spelled = with_defaults_spelled_out(text);
    let keys = spelled.lines().filter_map(|line| line.trim_start_matches([' ', '-']).split_once(':'));
    keys.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let settings = settings_from(MINIMAL, &Env::empty().with_cores(3.try_into().unwrap())).unwrap();
    assert_eq!(settings.proxy.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(settings.workers, 3);
    assert_eq!((settings.limits.header_bytes, settings.limits.headers), (65_536, 128));
    assert_eq!((settings.limits.connections, settings.limits.connections_per_address), (20_000, 0));
    let timeouts = settings.upstreams[0].timeouts;
    assert_eq!(timeouts.connect, Some(Duration::from_secs(3)));
    assert_eq!(timeouts.total, None);
    assert_eq!(settings.store.records.expose(), "sqlite:var/tollgate.db");
    assert_eq!(settings.store.batch, Duration::from_millis(250));
    assert_eq!(settings.store.journal.sync, crate::journal::Sync::Every(Duration::from_millis(50)));
    assert_eq!(settings.store.journal.keep_bytes, 1 << 30);
    assert_eq!(settings.stripe.flush, Duration::from_secs(60));
    assert_eq!(settings.stripe.currency, "usd");
    assert_eq!(settings.stripe.secret_key, None);
    assert_eq!(settings.self_service.as_deref(), Some("/billing"));
    assert_eq!(settings.identity.key_headers, ["authorization", "x-api-key"]);
}

#[test]
fn the_contracts_prices_are_read_exactly() {
    let shipped = load(&root("config/tollgate.yaml"), &Env::empty()).unwrap().pricing;
    let main = MeterIndex(0);
    let money = |plan: &str| shipped.plans[plan].monthly_minor;
    assert_eq!([money("free"), money("starter"), money("pro"), money("enterprise")], [0, 2_900, 9_900, 49_900]);
    assert_eq!(shipped.plans["starter"].overage[&main].to_string(), "0.03");
    let enterprise = &shipped.plans["enterprise"];
    assert_eq!(enterprise.included[&main], 100_000);
    assert_eq!(enterprise.spend_cap_minor, Some(500_000));
    assert_eq!(enterprise.on_outage, OnOutage::Allow(1000));
    assert_eq!(enterprise.grace_s, 7 * 86_400);
    assert_eq!(enterprise.thresholds_percent, [80, 100]);
    let rate = enterprise.rate.unwrap();
    assert_eq!((rate.sustained.get(), rate.per_ms, rate.burst.get(), rate.per), (200, 1000, 400, RatePer::Tenant));
    assert_eq!(shipped.plans["pro"].trial_s, 14 * 86_400);
    let costs: Vec<(&str, u64)> = shipped.routes.routes().iter().map(|route| (&*route.name, route.bound())).collect();
    assert_eq!(
        costs,
        [
            ("GET /signals", 1),
            ("GET /signals/history/{symbol}", 2),
            ("* /export/csv", 3),
            ("* /export/pdf", 5),
            ("* /health", 0),
            ("* /docs/{*rest}", 0),
            ("default", 1),
        ]
    );
}

#[test]
fn routes_take_from_default_what_they_do_not_say() {
    let text = format!(
        "meters: {{ api_units: {{}}, events: {{}} }}\n{PRICES}default: {{ cost: 4, charge_on: [2xx], on_abort: free }}\n\
         routes:\n  - {{ match: /a }}\n  - {{ match: /b, cost: {{ api_units: 2, events: 1 }}, charge_on: [404] }}\n  \
         - {{ match: /c, cost: 3, meter: events, rate: 600/m }}\n  - {{ match: /d, public: true }}\n"
    );
    let pricing = pricing_from(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let [a, b, c, d, default] = pricing.routes.routes() else { panic!("five routes") };
    assert_eq!((a.bound(), a.on_abort), (4, crate::pricing::OnAbort::Free));
    assert_eq!(a.charge_on, default.charge_on);
    assert_eq!(
        b.charges.iter().map(|charge| (charge.meter.0, charge.cost.bound())).collect::<Vec<_>>(),
        [(0, 2), (1, 1)]
    );
    assert!(b.charge_on.covers(http::StatusCode::NOT_FOUND) && !b.charge_on.covers(http::StatusCode::OK));
    assert_eq!((c.charges[0].meter.0, c.rate.unwrap().per_ms), (1, 60_000));
    assert_eq!((d.public, d.charges.len()), (true, 0));
}

#[test]
fn amounts_follow_the_currency() {
    let settings = settings_from(&format!("{MINIMAL}stripe: {{ currency: jpy }}\n"), &Env::empty()).unwrap();
    let read = |monthly: &str| {
        let text = format!("plans: {{ a: {{ monthly: {monthly}, overage: {{ api_units: 0.25 }} }} }}\n");
        pricing_of(&Source { file: "pricing.yaml".into(), text }, &settings)
    };
    let plan = &read("500").unwrap().plans["a"];
    assert_eq!((plan.monthly_minor, plan.currency_decimals), (500, 0));
    assert_eq!(plan.overage[&MeterIndex(0)].to_string(), "0.25");
    assert_eq!(read("500.5").unwrap_err()[0].allowed, "at most 0 decimal places for jpy");
}

#[test]
fn line_breaks_and_marks_of_other_systems() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tollgate.yaml");
    fs::write(&path, format!("\u{feff}# head\r\n{}workers: x\r\n", MINIMAL.replace('\n', "\r\n"))).unwrap();
    let error = &load(&path, &Env::empty()).unwrap_err().errors[0];
    assert_eq!(error.at, Some(Position { line: 3, column: 10, width: 1 }));
    assert_eq!(error.source, "workers: x");
}

#[test]
fn errors_are_told_to_programs_too() {
    let errors = settings_from(&format!("{MINIMAL}wrkers: 1\n"), &Env::empty()).unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json[0]["file"], "tollgate.yaml");
    assert_eq!(json[0]["at"], serde_json::json!({ "line": 2, "column": 1, "width": 6 }));
    assert_eq!(json[0]["path"], "wrkers");
    assert_eq!(json[0]["did_you_mean"], "workers");
}

/// Guards the complexity, not the speed: a scan of the file per mistake took half a minute here.
#[test]
fn many_routes_and_many_mistakes_take_linear_time() {
    let rule = |n: usize| format!("  - {{ match: \"GET /r{n}/{{x}}\", cost: x }}\n");
    let text = format!("{PRICES}routes:\n{}", (0..10_000).map(rule).collect::<String>());
    let before = std::time::Instant::now();
    let errors = pricing_from(&text).unwrap_err().errors;
    assert_eq!(errors.len(), 10_000);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[test]
fn the_environment_overrides_the_file() {
    let env = Env::empty()
        .with("STRIPE_SECRET_KEY", "sk_test_env")
        .with("STRIPE_MODE", "test")
        .with("STRIPE_API_BASE", "http://127.0.0.1:12111")
        .with("STRIPE_WEBHOOK_SECRET", "whsec_env")
        .with("STRIPE_PUBLISHABLE_KEY", "pk_test_env")
        .with("TOLLGATE_ADMIN_TOKEN", "token")
        .with("DATABASE_URL", "sqlite://here.db")
        .with("TOLLGATE_LOG", "debug");
    let text = format!("{MINIMAL}stripe: {{ mode: live, secret_key: sk_live_file, webhook_secrets: [whsec_file] }}\n");
    let settings = settings_from(&text, &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.stripe.mode, StripeMode::Test);
    assert_eq!(settings.stripe.secret_key, Some(Secret::new("sk_test_env".to_owned())));
    assert_eq!(settings.stripe.webhook_secrets, [Secret::new("whsec_env".to_owned())]);
    assert_eq!(settings.stripe.publishable_key.as_deref(), Some("pk_test_env"));
    assert_eq!(settings.stripe.api_base.unwrap().to_string(), "http://127.0.0.1:12111/");
    assert_eq!(settings.store.records.expose(), "sqlite:here.db");
    assert_eq!(settings.log.as_deref(), Some("debug"));
    let token = &settings.admin_tokens[0];
    assert_eq!((token.name.as_str(), token.role), ("env", super::settings::Role::Admin));
    assert_eq!(hex::encode(token.sha256), "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0");
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let env = Env::empty()
        .with("STRIPE_MODE", "prod")
        .with("STRIPE_API_BASE", "nowhere")
        .with("DATABASE_URL", "postgres://me:hunter2@db:port/x")
        .with("REDIS_URL", "redis://me:hunter2@cache,other");
    let said = settings_from(MINIMAL, &env).unwrap_err().to_string();
    for variable in [
        "STRIPE_MODE: `prod`",
        "STRIPE_API_BASE:",
        "DATABASE_URL: this address",
        "REDIS_URL: the value is not a ledger: several hosts",
    ] {
        assert!(said.contains(&format!("environment: {variable}")), "{variable} in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let env = Env::empty().with("STRIPE_MODE", "test").with("STRIPE_SECRET_KEY", "sk_live_hunter2");
    let said = settings_from(MINIMAL, &env).unwrap_err().to_string();
    assert!(said.contains("environment: STRIPE_SECRET_KEY: a live key in mode test"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_address_of_a_server_is_a_secret() {
    let url = "postgres://me:hunter2@db/x?sslmode=require";
    let given = [
        (format!("{MINIMAL}store: {{ records: \"{url}\" }}\n"), Env::empty()),
        (format!("{MINIMAL}store: {{ records: {{ env: RECORDS }} }}\n"), Env::empty().with("RECORDS", url)),
        (MINIMAL.to_owned(), Env::empty().with("DATABASE_URL", url)),
    ];
    for (text, env) in given {
        let settings = settings_from(&text, &env).unwrap();
        assert_eq!(settings.store.records.expose(), url);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}

#[test]
fn secrets_come_from_variables_and_files() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("key"), "sk_test_file\n").unwrap();
    let text =
        format!("{MINIMAL}stripe: {{ mode: test, secret_key: {{ file: key }}, webhook_secrets: [{{ env: W }}] }}\n");
    let source = Source { file: directory.path().join("tollgate.yaml"), text };
    let (settings, errors) = settings_of(&source, &Env::empty().with("W", "whsec_1"));
    assert_eq!(errors, []);
    assert_eq!(settings.stripe.secret_key, Some(Secret::new("sk_test_file".to_owned())));
    assert_eq!(settings.stripe.webhook_secrets, [Secret::new("whsec_1".to_owned())]);
    assert!(!format!("{settings:?}").contains("sk_test_file"));
}

#[test]
fn an_unset_variable_matters_only_where_it_is_needed() {
    let text = |mode| format!("{MINIMAL}stripe: {{ mode: {mode}, secret_key: {{ env: K }} }}\n");
    assert_eq!(settings_from(&text("sandbox"), &Env::empty()).unwrap().stripe.secret_key, None);
    assert!(settings_from(&text("off"), &Env::empty()).is_ok());
    assert!(settings_from(&text("test"), &Env::empty()).is_err());
    assert!(settings_from(&text("test"), &Env::empty().with("K", "sk_test_1")).is_ok());
}

#[test]
fn self_service_can_be_switched_off() {
    for off in ["self_service: null\n", "self_service: { prefix: null }\n"] {
        assert_eq!(settings_from(&format!("{MINIMAL}{off}"), &Env::empty()).unwrap().self_service, None, "{off}");
    }
    // All of the section is commented out: that is the default, not "off".
    let commented = settings_from(&format!("{MINIMAL}self_service:\n# prefix: /billing\n"), &Env::empty()).unwrap();
    assert_eq!(commented.self_service.as_deref(), Some("/billing"));
}

/// Removes, doubles, swaps or inserts something at a place of `text`.
fn damage(text: &str, at: usize, kind: u8, insert: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    let (row, next) = (at % lines.len(), (at / 7) % lines.len());
    let column = lines[row].char_indices().map(|(index, _)| index).nth(at % 23).unwrap_or(lines[row].len());
    match kind % 5 {
        0 => drop(lines.remove(row)),
        1 => lines.insert(next, lines[row].clone()),
        2 => lines.swap(row, next),
        3 => lines[row].truncate(column),
        _ => lines[row].insert_str(column, insert),
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_read_and_never_panic(
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), "[-:{}\\[\\],#&*!|>'\"%@ \t0-9a-z\u{e9}]{1,4}"), 1..4),
    ) {
        for (file, name) in [("config/tollgate.yaml", "settings"), ("config/pricing.yaml", "pricing")] {
            let mut text = with_defaults_spelled_out(&fs::read_to_string(root(file)).unwrap());
            for (at, kind, insert) in &changes {
                text = damage(&text, *at, *kind, insert);
            }
            if let Err(errors) = check_text(name, text) {
                prop_assert!(!errors.errors.is_empty());
                prop_assert!(!errors.to_string().is_empty());
            }
        }
    }
}
