//! The `stripe` and `admin` sections: which Stripe, with which key, and who may look.

use std::time::Duration;

use http::Uri;
use sha2::{Digest, Sha256};

use super::check::{Cursor, Fields};
use super::env::Env;
use super::given::{self, Given};
use super::scalar::{BASE, DURATION, FLAG, Kind, NAME, SHA256};
use super::settings::{AdminToken, Role, Secret, Stripe, StripeMode};

/// The version whose shapes the client was written and judged against.
const API_VERSION: &str = "2026-08-26.dahlia";

const KEYS: &[&str] =
    &["mode", "secret_key", "webhook_secrets", "api_base", "api_version", "flush", "currency", "automatic_tax"];

/// The `stripe` section of `top`.
pub(super) fn read(top: &Fields<'_>, env: &Env) -> Stripe {
    let fields = top.section("stripe", KEYS);
    let mode = mode(&fields, env);
    let api_base = api_base(&fields, env, mode);
    let flush = |pause: &Duration| (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(pause);
    refuse_tax(&fields);
    Stripe {
        mode,
        secret_key: secret_key(&fields, env, mode),
        publishable_key: env.get("STRIPE_PUBLISHABLE_KEY").map(ToOwned::to_owned),
        webhook_secrets: webhook_secrets(&fields, env, mode),
        api_base,
        api_version: fields.or("api_version", &VERSION, API_VERSION.to_owned()),
        flush: fields.or_if("flush", &DURATION, Duration::from_secs(60), "10ms to 1h", flush),
        currency: fields.or("currency", &CURRENCY, "usd".to_owned()),
    }
}

/// A date and, since 2024, a name.
const VERSION: Kind<String> = Kind {
    name: "a version of Stripe's API",
    allowed: "YYYY-MM-DD or YYYY-MM-DD.name, as in Stripe's changelog",
    parse: |scalar| is_version(&scalar.text).then(|| scalar.text.clone()),
};

fn is_version(text: &str) -> bool {
    let (date, name) = text.split_once('.').unwrap_or((text, "none"));
    let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
    date.len() == 10 && date.parse::<jiff::civil::Date>().is_ok() && named
}

const CURRENCY: Kind<String> = Kind {
    name: "a currency",
    allowed: "three lower-case letters, ISO 4217: usd, eur, jpy",
    parse: |scalar| {
        let text = &scalar.text;
        (text.len() == 3 && text.chars().all(|c| c.is_ascii_lowercase())).then(|| text.clone())
    },
};

fn mode(fields: &Fields<'_>, env: &Env) -> StripeMode {
    let words = [
        ("off", StripeMode::Off),
        ("sandbox", StripeMode::Sandbox),
        ("test", StripeMode::Test),
        ("live", StripeMode::Live),
    ];
    let given = Given::find(fields, "mode", env, "STRIPE_MODE");
    given.and_then(|given| given.choice(&words)).unwrap_or(StripeMode::Sandbox)
}

/// Whether this mode talks to Stripe itself, so that its keys are needed.
fn is_real(mode: StripeMode) -> bool {
    match mode {
        StripeMode::Off | StripeMode::Sandbox => false,
        StripeMode::Test | StripeMode::Live => true,
    }
}

fn api_base(fields: &Fields<'_>, env: &Env, mode: StripeMode) -> Option<Uri> {
    let given = Given::find(fields, "api_base", env, "STRIPE_API_BASE")?;
    let base = given.read(&BASE)?;
    if mode == StripeMode::Live && base.scheme_str() != Some("https") {
        given.wrong("in mode live the secret key would cross the network in clear text", "https://…");
    }
    Some(base)
}

/// In `off` and `sandbox` a variable that is not set is no mistake: the same file then serves test and live.
fn secret_key(fields: &Fields<'_>, env: &Env, mode: StripeMode) -> Option<Secret> {
    let Some(given) = Given::find(fields, "secret_key", env, "STRIPE_SECRET_KEY") else {
        if is_real(mode) {
            let allowed = "secret_key: { env: STRIPE_SECRET_KEY } with the variable set, or { file: PATH }";
            fields.of.wrong_key("`secret_key` is missing; modes test and live need it", allowed);
        }
        return None;
    };
    let key = match &given {
        Given::File(cursor) if !is_real(mode) && given::is_unset(cursor, env) => return None,
        Given::File(cursor) => given::secret(cursor, env)?,
        Given::Variable { value, .. } => Secret::new(value.clone()),
    };
    if let Some(problem) = misfit(key.expose(), mode) {
        given.wrong_secret(problem, "sk_test_… or rk_test_… in test, sk_live_… or rk_live_… in live");
    }
    Some(key)
}

/// Why this key must not be used in this mode.
fn misfit(key: &str, mode: StripeMode) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    let (live, test) = (starts(&["sk_live_", "rk_live_"]), starts(&["sk_test_", "rk_test_"]));
    if starts(&["pk_", "whsec_"]) {
        return Some("this is not a secret API key");
    }
    match mode {
        StripeMode::Live if test => Some("a test key in mode live"),
        StripeMode::Test if live => Some("a live key in mode test"),
        StripeMode::Sandbox if live => Some("a live key in mode sandbox"),
        StripeMode::Off | StripeMode::Sandbox | StripeMode::Test | StripeMode::Live => None,
    }
}

fn webhook_secrets(fields: &Fields<'_>, env: &Env, mode: StripeMode) -> Vec<Secret> {
    if let Some(secret) = env.get("STRIPE_WEBHOOK_SECRET") {
        return vec![Secret::new(secret.to_owned())];
    }
    let items = fields.given("webhook_secrets").and_then(Cursor::items).unwrap_or_default();
    let used = items.iter().filter(|item| is_real(mode) || !given::is_unset(item, env));
    used.filter_map(|item| given::secret(item, env)).collect()
}

fn refuse_tax(fields: &Fields<'_>) {
    if fields.or("automatic_tax", &FLAG, false)
        && let Some(cursor) = fields.get("automatic_tax")
    {
        cursor.wrong("`automatic_tax: true` is not supported in this version", "false");
    }
}

/// The `admin` section of `top`, and the token of `TOLLGATE_ADMIN_TOKEN`, which is named `env`.
pub(super) fn admin_tokens(top: &Fields<'_>, env: &Env) -> Vec<AdminToken> {
    let fields = top.section("admin", &["tokens"]);
    let items = fields.given("tokens").and_then(Cursor::items).unwrap_or_default();
    let mut tokens: Vec<AdminToken> = Vec::new();
    for item in &items {
        let Some(token) = admin_token(item) else { continue };
        if tokens.iter().any(|other| other.name == token.name || other.sha256 == token.sha256) {
            item.wrong(format!("`{}` repeats the name or the token of another", token.name), "each of them once");
        }
        tokens.push(token);
    }
    tokens.extend(env.get("TOLLGATE_ADMIN_TOKEN").map(|token| AdminToken {
        name: FROM_ENV.to_owned(),
        sha256: Sha256::digest(token).into(),
        role: Role::Admin,
    }));
    tokens
}

/// Name of the token that comes from the environment.
const FROM_ENV: &str = "env";

fn admin_token(item: &Cursor<'_>) -> Option<AdminToken> {
    let fields = item.fields(&["name", "sha256", "role"]);
    let roles = [("read", Role::Read), ("billing", Role::Billing), ("admin", Role::Admin)];
    let name = fields.required("name", NAME.allowed);
    let sha256 = fields.required("sha256", SHA256.allowed);
    let role = fields.required("role", "read, billing, admin");
    let (name, sha256, role) =
        (name.and_then(name_of_token), sha256.and_then(|at| at.read(&SHA256)), role.and_then(|at| at.choice(&roles)));
    Some(AdminToken { name: name?, sha256: sha256?, role: role? })
}

fn name_of_token(cursor: &Cursor<'_>) -> Option<String> {
    let bounds = "another name; `env` is the token of TOLLGATE_ADMIN_TOKEN";
    cursor.read_if(&NAME, bounds, |name| name != FROM_ENV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_held_to_their_mode() {
        for (key, mode, fits) in [
            ("sk_test_1", StripeMode::Test, true),
            ("rk_live_1", StripeMode::Live, true),
            ("anything", StripeMode::Sandbox, true),
            ("sk_live_1", StripeMode::Test, false),
            ("rk_live_1", StripeMode::Sandbox, false),
            ("sk_test_1", StripeMode::Live, false),
            ("pk_live_1", StripeMode::Live, false),
            ("whsec_1", StripeMode::Test, false),
        ] {
            assert_eq!(misfit(key, mode).is_none(), fits, "{key} {mode:?}");
        }
    }

    #[test]
    fn versions() {
        assert!(is_version(API_VERSION));
        assert!(is_version("2023-08-16"));
        for text in ["2026", "2026-13-01", "2026-08-26.", "2026-08-26.Dahlia", "latest"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
