//! Where the Redis is: one URL for a single server, Sentinel or Cluster, with or without TLS.

use std::fmt;
use std::str::FromStr;

/// A parsed `redis://…`; the password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Which kind of installation.
    pub kind: Kind,
    /// Host and port of the servers, sentinels or cluster nodes; at least one.
    pub addresses: Vec<(String, u16)>,
    /// With certificates that the system trusts (`SSL_CERT_FILE` names others).
    pub tls: bool,
    /// ACL user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Number of the database; 0 in a Cluster.
    pub database: u16,
}

/// How Redis is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single,
    /// Sentinels that know which server is the master of that name.
    Sentinel {
        /// `mymaster`.
        master: String,
    },
    /// A Cluster.
    Cluster,
}

/// What a URL may look like, for messages.
pub const SHAPES: &str = "redis://[user:password@]host[:6379][/database], rediss://… with TLS, \
                          redis+cluster://host:port,host:port, redis+sentinel://host:26379,host:26379/master[/database]";

/// Why a URL is none; says nothing of its content, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of ours.
    #[error("the scheme is not redis, rediss, redis+cluster, rediss+cluster, redis+sentinel or rediss+sentinel")]
    Scheme,
    /// No host, or not `host:port`.
    #[error("a host and a port from 1 to 65535 are needed")]
    Address,
    /// Several hosts for one server.
    #[error("several hosts need redis+cluster:// or redis+sentinel://")]
    Several,
    /// `%` and not two hexadecimal digits, or not UTF-8.
    #[error("the user or the password is not percent-encoded")]
    Encoding,
    /// Not a number, or not 0 in a Cluster, or something behind it.
    #[error("the path is not the number of a database (a Cluster has none)")]
    Database,
    /// Sentinel without a name.
    #[error("the name of the master is missing: redis+sentinel://host:26379/name")]
    Master,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let (tls, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match tls {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (kind, path, port) = installation(kind, path)?;
        let addresses = hosts.split(',').map(|host| address(host, port)).collect::<Result<Vec<_>, _>>()?;
        if kind == Kind::Single && addresses.len() > 1 {
            return Err(UrlError::Several);
        }
        let (user, password) = credentials_of(credentials)?;
        Ok(Self { database: database(path, &kind)?, kind, addresses, tls, user, password })
    }
}

/// The kind, what of the path is left for the database, and the usual port.
fn installation<'a>(kind: &str, path: &'a str) -> Result<(Kind, &'a str, u16), UrlError> {
    match kind {
        "" => Ok((Kind::Single, path, 6379)),
        "cluster" => Ok((Kind::Cluster, path, 6379)),
        "sentinel" => {
            let (master, path) = path.split_once('/').unwrap_or((path, ""));
            let master = Some(master).filter(|name| !name.is_empty()).ok_or(UrlError::Master)?;
            Ok((Kind::Sentinel { master: decoded(master)? }, path, 26379))
        }
        _ => Err(UrlError::Scheme),
    }
}

fn address(text: &str, port: u16) -> Result<(String, u16), UrlError> {
    let text = text.trim();
    let (host, rest) = match text.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or(UrlError::Address)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) => digits.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Address)?,
        None if rest.is_empty() => port,
        None => return Err(UrlError::Address),
    };
    if host.is_empty() || host.contains(['?', '#', '@']) {
        return Err(UrlError::Address);
    }
    Ok((host.to_owned(), port))
}

type Credentials = (Option<String>, Option<String>);

fn credentials_of(text: &str) -> Result<Credentials, UrlError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let some = |text: &str| Ok(Some(decoded(text)?).filter(|text| !text.is_empty()));
    Ok((some(user)?, some(password)?))
}

fn database(path: &str, kind: &Kind) -> Result<u16, UrlError> {
    let number = if path.is_empty() { Ok(0) } else { path.parse().map_err(|_| UrlError::Database) }?;
    if *kind == Kind::Cluster && number != 0 { Err(UrlError::Database) } else { Ok(number) }
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2).ok_or(UrlError::Encoding)?;
            bytes.extend(hex::decode(digits).map_err(|_| UrlError::Encoding)?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Encoding)
}

impl fmt::Display for Url {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "rediss" } else { "redis" };
        let hosts: Vec<_> = self.addresses.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let hosts = hosts.join(",");
        match &self.kind {
            Kind::Single => write!(f, "{tls}://{hosts}/{}", self.database),
            Kind::Cluster => write!(f, "{tls}+cluster://{hosts}"),
            Kind::Sentinel { master } => write!(f, "{tls}+sentinel://{hosts}/{master}/{}", self.database),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Url>().map_or_else(|error| error.to_string(), |url| url.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        for (given, read) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache:7000/2", "redis://cache:7000/2"),
            ("rediss://[::1]:7000", "rediss://::1:7000/0"),
            ("redis+cluster://a:1,b:2,c", "redis+cluster://a:1,b:2,c:6379"),
            ("redis+sentinel://a,b:2/main/3", "redis+sentinel://a:26379,b:2/main/3"),
            ("rediss+sentinel://u:p@a/main", "rediss+sentinel://a:26379/main/0"),
        ] {
            assert_eq!(shown(given), read, "{given}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let url: Url = "redis://toll:p%40ss%3Aw@cache".parse().unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("toll"), Some("p@ss:w")));
        assert!(!format!("{url} {url:?}").contains("p@ss"));
        let url: Url = "redis://:secret@cache".parse().unwrap();
        assert_eq!((url.user, url.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn what_is_none_says_why() {
        for (given, why) in [
            ("memcached://a", UrlError::Scheme),
            ("redis+ring://a", UrlError::Scheme),
            ("cache:6379", UrlError::Scheme),
            ("redis://", UrlError::Address),
            ("redis://a:0", UrlError::Address),
            ("redis://a:99999", UrlError::Address),
            ("redis://a,b", UrlError::Several),
            ("redis://u:%zz@a", UrlError::Encoding),
            ("redis://a/x", UrlError::Database),
            ("redis+cluster://a/1", UrlError::Database),
            ("redis+sentinel://a", UrlError::Master),
        ] {
            assert_eq!(given.parse::<Url>(), Err(why), "{given}");
        }
    }
}
