//! `tollgate key`: a tenant's keys, through the admin API.

use std::io::Read;

use clap::{Args, Subcommand};
use http::Method;
use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use super::client::{Admin, Client, segment};
use super::table::{Align, Table};
use super::{Failure, Format, output};

/// Most that is read from standard input for an imported key, bytes.
const LONGEST_IMPORT: u64 = 4096;

/// Arguments of `key`.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(flatten)]
    admin: Admin,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create a key; the secret is shown this once.
    Create {
        /// Whose.
        tenant: String,
        #[command(flatten)]
        new: NewKey,
    },
    /// List a tenant's keys, newest first.
    List {
        /// Whose.
        tenant: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Cursor that the page before ended with.
        #[arg(long)]
        after: Option<String>,
    },
    /// Revoke a key at once.
    Revoke {
        /// Whose.
        tenant: String,
        /// The key's id, `key_…`.
        key: String,
    },
    /// Replace a key by a new one; both work during the overlap.
    Rotate {
        /// Whose.
        tenant: String,
        /// The key's id, `key_…`.
        key: String,
        /// How long the old key still works, for example `15m` or `24h`.
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        overlap: SignedDuration,
    },
}

#[derive(Debug, Args)]
struct NewKey {
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// A route the key opens (`/signals/{*rest}`, `GET /signals`); repeat for more. Everything without one.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// When it stops working, RFC 3339.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Take an existing secret, read from standard input, so that clients need not change.
    #[arg(long, conflicts_with = "sha256")]
    import: bool,
    /// Take an existing secret by its SHA-256, hex.
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Failure`] as the module of the command line says.
pub(super) fn run(args: KeyArgs) -> Result<(), Failure> {
    let client = Client::new(&args.admin)?;
    match args.command {
        KeyCommand::Create { tenant, new } => {
            let body = new.into_json(std::io::stdin())?;
            created(&client.send(Method::POST, &path(&tenant), Some(&body.into()))?, args.format)
        }
        KeyCommand::List { tenant, limit, after } => {
            list(&client.get(&path(&tenant), &[("limit", Some(limit.to_string())), ("after", after)])?, args.format)
        }
        KeyCommand::Revoke { tenant, key } => {
            client.send(Method::DELETE, &format!("{}/{}", path(&tenant), segment(&key)), None)?;
            revoked(&key, args.format)
        }
        KeyCommand::Rotate { tenant, key, overlap } => {
            let path = format!("{}/{}/rotate", path(&tenant), segment(&key));
            let body = json!({ "overlap": overlap.as_secs() });
            created(&client.send(Method::POST, &path, Some(&body))?, args.format)
        }
    }
}

fn path(tenant: &str) -> String {
    format!("/api/v1/tenants/{}/keys", segment(tenant))
}

impl NewKey {
    fn into_json(self, input: impl Read) -> Result<Map<String, Value>, Failure> {
        let secret = if self.import { Some(read_secret(input)?) } else { None };
        let fields = [("name", self.name), ("expires_at", self.expires_at), ("key", secret), ("sha256", self.sha256)];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        let mut body: Map<String, Value> = given.collect();
        body.insert("scopes".to_owned(), self.scopes.into());
        Ok(body)
    }
}

fn read_secret(input: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let read = input.take(LONGEST_IMPORT).read_to_string(&mut text);
    read.map_err(|error| Failure::Usage(format!("cannot read the key from standard input: {error}")))?;
    match text.trim() {
        "" => Err(Failure::Usage("--import: standard input holds no key".to_owned())),
        secret => Ok(secret.to_owned()),
    }
}

fn list(listed: &Value, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(listed);
    }
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("name", Align::Left),
        ("prefix", Align::Left),
        ("scopes", Align::Left),
        ("expires", Align::Left),
        ("revoked", Align::Left),
        ("last used", Align::Left),
    ]);
    for key in output::rows(listed, "data") {
        let names = ["id", "name", "prefix", "scopes", "expires_at", "revoked_at", "last_used_at"];
        table.row(names.iter().map(|name| output::cell(key, name)).collect());
    }
    output::print(&(table.render() + &output::more(listed)))
}

fn created(key: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(key),
        Format::Table if key.get("key").is_some() => {
            output::print(&(output::members(key) + "\nKeep the key: it is not shown again.\n"))
        }
        Format::Table => output::print(&output::members(key)),
    }
}

fn revoked(key: &str, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(&json!({ "id": key, "revoked": true })),
        Format::Table => output::print(&format!("{key} is revoked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_imported_secret_comes_from_standard_input_without_its_newline() {
        assert_eq!(read_secret(&b"old-secret-1\n"[..]).expect("a key"), "old-secret-1");
        assert!(matches!(read_secret(&b" \n"[..]), Err(Failure::Usage(_))));
    }
}
