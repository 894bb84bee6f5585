//! Who calls: a key in a header or query parameter, or a tenant header from a trusted peer. Whatever identified the
//! caller, and whatever could be forged, leaves the request here.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Uri};

use super::refusal::Refusal;
use super::{X_TENANT_FEATURES, X_TENANT_ID, X_TENANT_PLAN};
use crate::accounts::{self, Accounts, Entry, KeyEntry};
use crate::config::settings::{Cidr, Identity};

/// Who calls.
#[derive(Debug)]
pub struct Caller {
    /// Who pays.
    pub tenant: Arc<Entry>,
    /// With which key, if with one.
    pub key: Option<Arc<KeyEntry>>,
}

/// Credentials taken out of a request.
#[derive(Debug, Default)]
pub struct Presented {
    secret: Option<Vec<u8>>,
    tenant: Option<String>,
    trusted: bool,
}

/// Takes credentials and forgeable headers out of the request.
pub fn take_credentials(parts: &mut Parts, identity: &Identity, peer: IpAddr) -> Presented {
    let trusted = is_trusted(identity, peer);
    let forgeable = [&identity.tenant_header, &X_TENANT_ID, &X_TENANT_PLAN, &X_TENANT_FEATURES];
    let mut tenant = None;
    // Looking at the few names that are there is cheaper than asking for each that might be.
    if parts.headers.keys().any(|name| forgeable.contains(&name)) {
        tenant = parts.headers.get(&identity.tenant_header).and_then(|v| v.to_str().ok()).map(str::to_owned);
        for name in forgeable {
            parts.headers.remove(name);
        }
    }
    let mut secret = None;
    for name in &identity.key_headers {
        secret = secret.or_else(|| take_header(parts, name, identity));
    }
    if let Some(parameter) = &identity.key_query {
        secret = secret.or_else(|| take_query(parts, parameter, identity));
    }
    Presented { secret, tenant, trusted }
}

/// Whether what `peer` says about others is believed.
#[must_use]
pub fn is_trusted(identity: &Identity, peer: IpAddr) -> bool {
    identity.trusted.iter().any(|block| contains(block, peer))
}

fn take_header(parts: &mut Parts, name: &HeaderName, identity: &Identity) -> Option<Vec<u8>> {
    let value = parts.headers.get(name)?;
    let secret = if name == AUTHORIZATION { bearer(value)? } else { value.as_bytes() }.to_vec();
    if !identity.forward_credentials {
        parts.headers.remove(name);
    }
    (!secret.is_empty()).then_some(secret)
}

/// The token of `Bearer token` (RFC 6750); other schemes are the origin's business and stay.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn take_query(parts: &mut Parts, parameter: &str, identity: &Identity) -> Option<Vec<u8>> {
    let query = parts.uri.query()?;
    let is_it = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == parameter);
    let secret = query.split('&').find(is_it)?.split_once('=')?.1.as_bytes().to_vec();
    if !identity.forward_credentials {
        let rest = query.split('&').filter(|pair| !is_it(pair)).collect::<Vec<_>>().join("&");
        let path = parts.uri.path();
        let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
        // Parts of a valid target are a valid target.
        parts.uri = Uri::try_from(target).ok()?;
    }
    Some(secret)
}

/// Finds out who presented this.
///
/// # Errors
/// The refusal to send.
pub async fn identify(presented: Presented, identity: &Identity, accounts: &Accounts) -> Result<Caller, Refusal> {
    match (presented.secret, presented.tenant) {
        (Some(secret), named) => {
            let key = by_secret(&secret, accounts).await?;
            check_agreement(&key, named.filter(|_| presented.trusted), accounts).await?;
            Ok(Caller { tenant: Arc::clone(&key.tenant), key: Some(key) })
        }
        (None, Some(named)) if presented.trusted => by_id(&named, accounts).await,
        (None, Some(_)) => Err(Refusal::UntrustedTenantHeader(
            "The tenant header is only believed from trusted peers; send an API key.",
        )),
        (None, None) => match &identity.default_tenant {
            Some(tenant) => by_id(tenant, accounts).await,
            None => Err(Refusal::MissingCredential),
        },
    }
}

async fn by_secret(secret: &[u8], accounts: &Accounts) -> Result<Arc<KeyEntry>, Refusal> {
    match accounts.by_secret(secret).await {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(accounts::Refusal::Unknown)) => Err(Refusal::UnknownCredential),
        Ok(Err(accounts::Refusal::Revoked)) => Err(Refusal::RevokedCredential),
        Ok(Err(accounts::Refusal::Expired)) => Err(Refusal::ExpiredCredential),
        Err(error) => {
            tracing::warn!(%error, "cannot look up a key");
            Err(Refusal::LedgerUnavailable)
        }
    }
}

async fn by_id(id: &str, accounts: &Accounts) -> Result<Caller, Refusal> {
    match accounts.by_id(id).await {
        Ok(Some(tenant)) => Ok(Caller { tenant, key: None }),
        Ok(None) => Err(Refusal::UnknownCredential),
        Err(error) => {
            tracing::warn!(%error, "cannot look up a tenant");
            Err(Refusal::LedgerUnavailable)
        }
    }
}

/// A trusted peer's tenant header beside a key must name the key's tenant; from others it was dropped.
async fn check_agreement(key: &KeyEntry, named: Option<String>, accounts: &Accounts) -> Result<(), Refusal> {
    let Some(named) = named else { return Ok(()) };
    let caller = by_id(&named, accounts).await?;
    if caller.tenant.num == key.tenant.num {
        return Ok(());
    }
    Err(Refusal::UntrustedTenantHeader("The API key belongs to another tenant than the tenant header names."))
}

fn contains(block: &Cidr, peer: IpAddr) -> bool {
    match (block.addr, peer.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(addr)) => {
            let shift = 32_u32.saturating_sub(u32::from(block.prefix));
            net.to_bits().checked_shr(shift) == addr.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(net), IpAddr::V6(addr)) => {
            let shift = 128_u32.saturating_sub(u32::from(block.prefix));
            net.to_bits().checked_shr(shift) == addr.to_bits().checked_shr(shift)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_its_addresses_and_no_others() {
        let block = |addr: &str, prefix| Cidr { addr: addr.parse().unwrap(), prefix };
        let cases = [
            (block("10.1.0.0", 16), "10.1.255.255", true),
            (block("10.1.0.0", 16), "10.2.0.0", false),
            (block("0.0.0.0", 0), "192.0.2.1", true),
            (block("192.0.2.1", 32), "192.0.2.1", true),
            (block("192.0.2.1", 32), "192.0.2.2", false),
            (block("10.0.0.0", 8), "::ffff:10.9.9.9", true),
            (block("2001:db8::", 32), "2001:db8:1::1", true),
            (block("2001:db8::", 32), "2001:db9::1", false),
            (block("::", 0), "10.0.0.1", false),
        ];
        for (block, peer, inside) in cases {
            assert_eq!(contains(&block, peer.parse().unwrap()), inside, "{peer} in {block:?}");
        }
    }

    #[test]
    fn only_bearer_is_ours() {
        let of = |text| bearer(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        assert_eq!(of("Bearer tg_1"), Some(b"tg_1".to_vec()));
        assert_eq!(of("bearer  tg_1 "), Some(b"tg_1".to_vec()));
        assert_eq!(of("Basic dXNlcjpwdw=="), None);
        assert_eq!(of("Bearer"), None);
    }
}
