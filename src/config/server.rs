//! `tollgate.yaml`: sockets, limits, upstreams, identity. What it stores and where is in `store`, Stripe in `stripe`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;

use super::check::{Cursor, Fields};
use super::env::Env;
use super::scalar::{CIDR, COUNT, DURATION, FLAG, HEADER, Kind, NAME, ORIGIN, SIZE, SOCKET, TEXT};
use super::settings::{HostPattern, Identity, Limits, Settings, Timeouts, Upstream};
use super::{store, stripe};

const KEYS: &[&str] =
    &["pricing", "listen", "workers", "limits", "upstreams", "identity", "store", "stripe", "admin", "self_service"];

/// The whole file. Where there were mistakes, defaults stand in.
pub(super) fn read(root: &Cursor<'_>, env: &Env) -> Settings {
    let top = root.fields_but(KEYS, &["tls"]);
    let (proxy, admin) = listen(&top);
    let pricing = top.or("pricing", &TEXT, "pricing.yaml".to_owned());
    Settings {
        pricing: root.checker.source.directory().join(pricing),
        proxy,
        admin,
        workers: workers(&top, env),
        limits: limits(&top),
        upstreams: upstreams(&top),
        identity: identity(&top),
        store: store::read(&top, env),
        stripe: stripe::read(&top, env),
        admin_tokens: stripe::admin_tokens(&top, env),
        self_service: self_service(&top),
        log: env.get("TOLLGATE_LOG").map(ToOwned::to_owned),
    }
}

fn listen(top: &Fields<'_>) -> (SocketAddr, SocketAddr) {
    let fields = top.section("listen", &["proxy", "admin"]);
    let proxy = fields.or("proxy", &SOCKET, SocketAddr::from(([0, 0, 0, 0], 8080)));
    let admin = fields.or("admin", &SOCKET, SocketAddr::from(([127, 0, 0, 1], 9090)));
    let overlap = proxy.ip() == admin.ip() || proxy.ip().is_unspecified() || admin.ip().is_unspecified();
    if overlap && proxy.port() == admin.port() && proxy.port() != 0 {
        let at = fields.get("admin").unwrap_or(&fields.of);
        at.wrong(format!("`{admin}` is taken by the proxy port, `{proxy}`"), "another port");
    }
    (proxy, admin)
}

fn workers(top: &Fields<'_>, env: &Env) -> usize {
    const MOST: usize = 1024;
    let auto = env.cores().get().min(MOST);
    let kind: Kind<NonZeroUsize> = Kind {
        name: "a number of threads",
        allowed: "auto (the cores this process may use), or a whole number from 1 to 1024",
        parse: |scalar| (COUNT.parse)(scalar).filter(|count| *count <= MOST).and_then(NonZeroUsize::new),
    };
    match top.get("workers") {
        Some(cursor) if cursor.text() != "auto" => cursor.read(&kind).map_or(auto, NonZeroUsize::get),
        Some(_) | None => auto,
    }
}

fn limits(top: &Fields<'_>) -> Limits {
    let keys = ["header_bytes", "headers", "header_timeout", "body_timeout", "connections", "connections_per_address"];
    let fields = top.section("limits", &keys);
    let bytes = |size: &u64| (8 << 10..=1 << 20).contains(size);
    let count = |count: &usize| (1..=1000).contains(count);
    Limits {
        // hyper's read buffer cannot be smaller than 8 KiB.
        header_bytes: to_usize(fields.or_if("header_bytes", &SIZE, 64 << 10, "8KiB to 1MiB", bytes)),
        headers: fields.or_if("headers", &COUNT, 128, "1 to 1000", count),
        header_timeout: wait(&fields, "header_timeout", Duration::from_secs(10)),
        body_timeout: wait(&fields, "body_timeout", Duration::from_secs(60)),
        connections: fields.or("connections", &COUNT, 20_000),
        connections_per_address: fields.or("connections_per_address", &COUNT, 0),
    }
}

/// A deadline that cannot be switched off.
fn wait(fields: &Fields<'_>, key: &str, default: Duration) -> Duration {
    fields.or_if(key, &DURATION, default, "more than 0s", |wait| !wait.is_zero())
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn upstreams(top: &Fields<'_>) -> Vec<Upstream> {
    let allowed = r#"at least one: upstreams: [{ name: api, origins: ["http://127.0.0.1:9000"] }]"#;
    let Some(list) = top.required("upstreams", allowed) else { return Vec::new() };
    let items = list.items().unwrap_or_default();
    if items.is_empty() && list.found() == "a list" {
        list.wrong("there is no upstream", allowed);
    }
    let mut upstreams: Vec<Upstream> = Vec::new();
    for item in &items {
        if let Some(upstream) = upstream(item) {
            unlike_the_others(item, &upstream, &upstreams);
            upstreams.push(upstream);
        }
    }
    upstreams
}

fn upstream(item: &Cursor<'_>) -> Option<Upstream> {
    let fields = item.fields_but(&["name", "match", "origins", "timeouts"], &["health", "tls"]);
    let name = fields.required("name", NAME.allowed).and_then(|cursor| cursor.read(&NAME));
    let origins = fields.required("origins", ORIGIN.allowed).and_then(origins);
    let matching = fields.section("match", &["host", "path"]);
    Some(Upstream {
        host: matching.or("host", &HOST, HostPattern::Any),
        path: matching.or("path", &PREFIX, "/".to_owned()),
        timeouts: timeouts(&fields),
        name: name?,
        origins: origins?,
    })
}

fn origins(list: &Cursor<'_>) -> Option<Vec<http::Uri>> {
    let items = list.items()?;
    if items.is_empty() {
        list.wrong("there is no origin", ORIGIN.allowed);
    }
    let origins: Vec<_> = items.iter().filter_map(|item| item.read(&ORIGIN)).collect();
    (!origins.is_empty()).then_some(origins)
}

fn timeouts(upstream: &Fields<'_>) -> Timeouts {
    let fields = upstream.section("timeouts", &["connect", "first_byte", "idle", "total"]);
    let limit = |key, default_s| {
        let wait = fields.or(key, &DURATION, Duration::from_secs(default_s));
        (!wait.is_zero()).then_some(wait)
    };
    Timeouts {
        connect: limit("connect", 3),
        first_byte: limit("first_byte", 60),
        idle: limit("idle", 60),
        total: limit("total", 0),
    }
}

fn unlike_the_others(item: &Cursor<'_>, new: &Upstream, others: &[Upstream]) {
    if others.iter().any(|other| other.name == new.name) {
        item.wrong(format!("two upstreams are named `{}`", new.name), "a name of its own for each upstream");
    }
    if let Some(other) = others.iter().find(|other| other.host == new.host && other.path == new.path) {
        let problem = format!("`{}` matches the same host and path as `{}`", new.name, other.name);
        item.wrong(problem, "another `match`; several servers of one API go into `origins`");
    }
}

/// Which `Host` an upstream serves.
const HOST: Kind<HostPattern> = Kind {
    name: "a host pattern",
    allowed: "\"*\", a host name, or \"*.\" and a domain; without port",
    parse: |scalar| host(&scalar.text.to_ascii_lowercase()),
};

fn host(text: &str) -> Option<HostPattern> {
    match text.strip_prefix('*') {
        Some("") => Some(HostPattern::Any),
        Some(suffix) => {
            let domain = suffix.strip_prefix('.')?;
            is_host(domain).then(|| HostPattern::Suffix(suffix.to_owned()))
        }
        None if is_host(text) || is_ipv6(text) => Some(HostPattern::Exact(text.to_owned())),
        None => None,
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_ipv6(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Path prefix on segment borders.
const PREFIX: Kind<String> = Kind {
    name: "a path prefix",
    allowed: "/ or whole segments without a slash at the end, such as /v1 or /api/v2; no {names}, no escapes",
    parse: |scalar| is_prefix(&scalar.text).then(|| scalar.text.clone()),
};

fn is_prefix(text: &str) -> bool {
    let segment = |segment: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~!$&'()+,=:@".contains(c);
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(plain)
    };
    text == "/" || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment))
}

fn identity(top: &Fields<'_>) -> Identity {
    let fields =
        top.section_but("identity", &["api_key", "tenant_header", "default_tenant", "forward_credentials"], &["jwt"]);
    let api_key = fields.section("api_key", &["headers", "query"]);
    let header = fields.section("tenant_header", &["name", "trusted"]);
    let identity = Identity {
        key_headers: key_headers(&api_key),
        key_query: api_key.optional("query", &NAME),
        tenant_header: header.or("name", &HEADER, HeaderName::from_static("x-tenant-id")),
        trusted: trusted(&header),
        default_tenant: fields.optional("default_tenant", &NAME),
        forward_credentials: fields.or("forward_credentials", &FLAG, false),
    };
    check_identity(&fields, &header, &identity);
    identity
}

fn key_headers(api_key: &Fields<'_>) -> Vec<HeaderName> {
    let Some(items) = api_key.get("headers").and_then(Cursor::items) else {
        return vec![http::header::AUTHORIZATION, HeaderName::from_static("x-api-key")];
    };
    let mut headers = Vec::new();
    for item in &items {
        let Some(header) = item.read(&HEADER) else { continue };
        if headers.contains(&header) {
            item.wrong(format!("{} is listed twice", item.found()), "each header once");
        }
        headers.push(header);
    }
    headers
}

fn trusted(header: &Fields<'_>) -> Vec<super::settings::Cidr> {
    let items = header.get("trusted").and_then(Cursor::items).unwrap_or_default();
    items.iter().filter_map(|item| item.read(&CIDR)).collect()
}

fn check_identity(fields: &Fields<'_>, header: &Fields<'_>, identity: &Identity) {
    if identity.key_headers.contains(&identity.tenant_header) {
        let at = header.get("name").unwrap_or(&header.of);
        at.wrong(
            format!("`{}` carries API keys (identity.api_key.headers)", identity.tenant_header),
            "a header of its own for the tenant",
        );
    }
    let nobody = identity.key_headers.is_empty()
        && identity.key_query.is_none()
        && identity.trusted.is_empty()
        && identity.default_tenant.is_none();
    if nobody {
        fields.of.wrong_key(
            "no tenant could be recognised",
            "at least one of api_key.headers, api_key.query, tenant_header.trusted, default_tenant",
        );
    }
}

fn self_service(top: &Fields<'_>) -> Option<String> {
    const DEFAULT: &str = "/billing";
    let Some(cursor) = top.get("self_service") else { return Some(DEFAULT.to_owned()) };
    if cursor.is_null() {
        return None;
    }
    let fields = cursor.fields(&["prefix"]);
    match fields.get("prefix") {
        Some(prefix) if prefix.is_null() => None,
        Some(prefix) => prefix.read_if(&PREFIX, "a prefix below /, such as /billing", |path| path != "/"),
        None => Some(DEFAULT.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(host("*"), Some(HostPattern::Any));
        assert_eq!(host("*.example.com"), Some(HostPattern::Suffix(".example.com".into())));
        assert_eq!(host("api.example.com"), Some(HostPattern::Exact("api.example.com".into())));
        assert_eq!(host("[::1]"), Some(HostPattern::Exact("[::1]".into())));
        for text in ["", "*x", "a..b", "a:80", "*.", "http://a", "a b", "[x]"] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes() {
        for text in ["/", "/v1", "/api/v2.1"] {
            assert!(is_prefix(text), "{text}");
        }
        for text in ["", "v1", "/v1/", "//", "/a/../b", "/{x}", "/a?b", "/a%20b"] {
            assert!(!is_prefix(text), "{text}");
        }
    }
}
