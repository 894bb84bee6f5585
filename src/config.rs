//! The files become each part's own settings; every error with file, line, column, the value and what is allowed.
//!
//! | file | what |
//! |---|---|
//! | `tree` | YAML with positions; the only place that knows the parser |
//! | `check`, `scalar`, `given` | walking it, reading words, secrets and environment overrides; every mistake is kept |
//! | `server`, `store`, `stripe` | `tollgate.yaml` |
//! | `prices`, `plans`, `routes`, `money` | `pricing.yaml` |
//! | [`error`] | what a mistake looks like |
//! | [`explain`], [`watch`] | what a request would cost; changed files |

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::pricing::Pricing;

pub mod env;
pub mod error;
pub mod explain;
pub mod settings;
pub mod watch;

mod check;
mod given;
mod money;
mod plans;
mod prices;
mod routes;
mod scalar;
mod server;
mod store;
mod stripe;
mod suggest;
mod tree;

#[cfg(test)]
mod golden;

pub use env::Env;
pub use error::{ConfigError, ConfigErrors, Position};
pub use explain::{Explanation, explain};
pub use settings::Settings;

use check::{Checker, Source};
use prices::Context;
use tree::Value;

/// Both files, read and checked together.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `tollgate.yaml`.
    pub settings: Settings,
    /// `pricing.yaml`.
    pub pricing: Pricing,
    /// SHA-256 of both files' content, hexadecimal: the version of the configuration.
    pub sha256: String,
    /// Where the prices were read from.
    pub pricing_path: PathBuf,
    /// Where the settings were read from.
    pub settings_path: PathBuf,
}

/// Reads `path` (a `tollgate.yaml`) and the pricing file that it names.
///
/// # Errors
/// Every mistake in both files, and in the variables of `env` that override them.
pub fn load(path: &Path, env: &Env) -> Result<Loaded, ConfigErrors> {
    load_with_hash(path, env).1
}

/// Reads a pricing file alone, for a running node whose `settings` stay.
///
/// # Errors
/// Every mistake in the file.
pub fn load_pricing(path: &Path, settings: &Settings) -> Result<Pricing, ConfigErrors> {
    let source = read_source(path)?;
    pricing_of(&source, settings).map_err(|errors| ConfigErrors { errors })
}

/// As [`load`], with the hash of what was read also where it was wrong.
fn load_with_hash(path: &Path, env: &Env) -> (String, Result<Loaded, ConfigErrors>) {
    let source = match read_source(path) {
        Ok(source) => source,
        Err(unreadable) => return (fingerprint([Err(&unreadable)]), Err(unreadable)),
    };
    let (settings, mut errors) = settings_of(&source, env);
    if !errors.is_empty() && !settings.pricing.exists() {
        // What is wrong may be the line that names the pricing file: one mistake, not two.
        return (fingerprint([Ok(&source)]), Err(ConfigErrors { errors }));
    }
    let prices = read_source(&settings.pricing);
    let sha256 = fingerprint([Ok(&source), prices.as_ref()]);
    let pricing = prices.map_err(|unreadable| unreadable.errors).and_then(|prices| pricing_of(&prices, &settings));
    let pricing = pricing.map_err(|more| errors.extend(more)).ok();
    let loaded = match pricing {
        Some(pricing) if errors.is_empty() => Ok(Loaded {
            pricing_path: settings.pricing.clone(),
            settings_path: path.to_owned(),
            sha256: sha256.clone(),
            settings,
            pricing,
        }),
        Some(_) | None => Err(ConfigErrors { errors }),
    };
    (sha256, loaded)
}

fn settings_of(source: &Source, env: &Env) -> (Settings, Vec<ConfigError>) {
    let checker = Checker::new(source);
    let tree = checker.parse();
    let settings = server::read(&checker.root(&tree), env);
    (settings, checker.finish())
}

fn pricing_of(source: &Source, settings: &Settings) -> Result<Pricing, Vec<ConfigError>> {
    let context = Context { currency: &settings.stripe.currency, self_service: settings.self_service.as_deref() };
    let checker = Checker::new(source);
    let tree = checker.parse();
    let pricing = if tree.value == Value::Broken { None } else { prices::read(&checker.root(&tree), context) };
    let errors = checker.finish();
    pricing.filter(|_| errors.is_empty()).ok_or(errors)
}

/// Largest configuration file, bytes: some 100 000 routes.
const LARGEST: usize = 16 << 20;

fn read_source(path: &Path) -> Result<Source, ConfigErrors> {
    let unreadable = |problem| ConfigError {
        file: path.to_owned(),
        at: None,
        path: String::new(),
        problem: format!("the file {problem}"),
        allowed: "a YAML file in UTF-8 that this user may read".to_owned(),
        did_you_mean: None,
        source: String::new(),
    };
    let text = read_text(path, LARGEST).map_err(|problem| ConfigErrors::single(unreadable(problem)))?;
    Ok(Source { file: path.to_owned(), text })
}

/// The content of `path`, or the rest of a sentence that says why not.
fn read_text(path: &Path, most: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > most {
        return Err(format!("is larger than {most} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1))
}

/// SHA-256 over the lengths and contents (of a file that cannot be read: the reason), hexadecimal.
fn fingerprint<'a>(sources: impl IntoIterator<Item = Result<&'a Source, &'a ConfigErrors>>) -> String {
    let mut hash = Sha256::new();
    for source in sources {
        let text = source.map_or_else(ToString::to_string, |source| source.text.clone());
        hash.update(text.len().to_le_bytes());
        hash.update(&text);
    }
    hex::encode(hash.finalize())
}
