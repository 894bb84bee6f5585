//! A PostgreSQL server: writers at once, each of which locks what it reads (`locks`).

use std::str::FromStr;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AnyPool, ConnectOptions, Connection, PgConnection, Row};

use super::{PATIENCE, RecordsError, unavailable};

/// Oldest server that is tested and still maintained by its authors, as `server_version_num` counts.
const OLDEST: i32 = 140_000;
/// Connections of one node at most: a dozen nodes fit in a server's usual 100.
const WRITERS: u32 = 4;
const READERS: u32 = 4;
/// Longest wait for a connection: a look-up of a key does not wait longer either.
const CONNECTING: Duration = Duration::from_secs(2);
/// A connection that rested longer is tested before it is lent.
const RESTED: Duration = Duration::from_secs(1);

/// Server-side limits end what a dead or paused node left behind, so that its locks do not hold up the others; they
/// are shorter than our own patience. Plans of set-based statements are never worth compiling.
const SETTINGS: &str = "SET statement_timeout = '9s'; SET lock_timeout = '8s'; \
     SET idle_in_transaction_session_timeout = '15s'; SET default_transaction_isolation = 'read committed'; \
     SET jit = off; SET client_min_messages = 'warning'; SET application_name = 'tollgate';";
/// Money is committed when its commit is answered. A stricter setting of the server's (`remote_apply`) stays.
const DURABLE: &str =
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
const READ_ONLY: &str = "SET default_transaction_read_only = on;";

/// Connections that write, and that read. Nothing is connected before it is needed, but once to see that it can be.
pub(super) async fn pools(url: &str) -> Result<[AnyPool; 2], RecordsError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| RecordsError::Invalid("the URL of the PostgreSQL database cannot be read".to_owned()))?;
    probe(&options).await?;
    Ok([pool(url, WRITERS, "")?, pool(url, READERS, READ_ONLY)?])
}

/// Where the server is, without who asks: for messages.
fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL in {} (database {database:?})", socket.display()),
        None => format!("PostgreSQL at {}:{} (database {database:?})", options.get_host(), options.get_port()),
    }
}

/// Connects once, so that what is wrong is said plainly: pools only know that they waited in vain.
async fn probe(options: &PgConnectOptions) -> Result<(), RecordsError> {
    let place = place(options);
    let connecting = async {
        let mut connection = options.clone().disable_statement_logging().connect().await?;
        let version = version(&mut connection).await?;
        // A connection that does not close in order is closed anyway.
        drop(connection.close().await);
        Ok::<_, sqlx::Error>(version)
    };
    let version = tokio::time::timeout(PATIENCE, connecting)
        .await
        .map_err(|_| unavailable(format!("{place} does not answer")))?
        .map_err(|error| refused(&place, &error))?;
    if version >= OLDEST {
        return Ok(());
    }
    Err(RecordsError::Invalid(format!(
        "{place} is version {}, Tollgate needs {} or newer",
        version / 10_000,
        OLDEST / 10_000
    )))
}

async fn version(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let version = sqlx::query("SELECT CAST(current_setting('server_version_num') AS INTEGER) AS version");
    version.fetch_one(connection).await?.try_get("version")
}

/// What a server that is there refuses for good is for the operator to change; anything else may pass.
fn refused(place: &str, error: &sqlx::Error) -> RecordsError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let message = error.as_database_error().map_or_else(|| error.to_string(), |said| said.message().to_owned());
    match code.as_deref() {
        Some("28P01" | "28000") => RecordsError::Invalid(format!("{place} refuses user or password: {message}")),
        Some("3D000") => RecordsError::Invalid(format!("{place}: {message}; create it first")),
        Some("42501") => RecordsError::Invalid(format!("{place}: {message}")),
        Some(_) | None if matches!(error, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => {
            RecordsError::Invalid(format!("{place}: {message}"))
        }
        Some(_) | None => unavailable(format!("{place}: {message}")),
    }
}

fn pool(url: &str, connections: u32, more: &'static str) -> Result<AnyPool, RecordsError> {
    let options = AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECTING)
        .idle_timeout(Duration::from_secs(600))
        .max_lifetime(Duration::from_secs(1800))
        .test_before_acquire(false)
        .before_acquire(|connection, rested| {
            Box::pin(async move {
                if rested.idle_for > RESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for settings in [SETTINGS, DURABLE, more].into_iter().filter(|text| !text.is_empty()) {
                    sqlx::raw_sql(settings).execute(&mut *connection).await?;
                }
                Ok(())
            })
        });
    Ok(options.connect_lazy(url)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(url: &str) -> String {
        place(&PgConnectOptions::from_str(url).unwrap())
    }

    #[test]
    fn where_it_is_says_nothing_of_who_asks() {
        let told = placed("postgres://alice:s3cret@db.test:6543/billing?sslmode=require");
        assert_eq!(told, "PostgreSQL at db.test:6543 (database \"billing\")");
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_read_is_not_shown() {
        let refused = pools("postgres://alice:s3cret@db.test:port/billing").await.unwrap_err();
        assert!(matches!(&refused, RecordsError::Invalid(why) if !why.contains("s3cret")), "{refused}");
    }

    #[tokio::test]
    async fn nobody_there_may_pass() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let refused = pools(&format!("postgres://alice:s3cret@127.0.0.1:{port}/billing")).await.unwrap_err();
        assert!(matches!(&refused, RecordsError::Unavailable(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(&format!("127.0.0.1:{port}")) && !text.contains("s3cret"), "{text}");
    }
}
