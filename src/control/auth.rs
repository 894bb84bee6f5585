//! Who may do what: one bearer token per caller, one table from call to role.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ControlState;
use super::problem::Problem;
use crate::config::settings::{AdminToken, Role};

/// Who makes a call, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    /// The admin token's name.
    pub(super) name: String,
}

/// The role that a call needs: reading is `read`, a tenant's billing data `billing`, everything else `admin`.
pub(super) fn needed(method: &Method, path: &str) -> Role {
    match (method, path) {
        (&Method::GET | &Method::HEAD, _) => Role::Read,
        (&Method::POST, "/api/v1/tenants") | (&Method::PUT | &Method::PATCH, "/api/v1/tenants/{id}") => Role::Billing,
        _ => Role::Admin,
    }
}

/// Lets a call through with its [`Actor`] attached, if its token has the role.
pub(super) async fn authenticate(
    State(state): State<Arc<ControlState>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let active = state.active.load_full();
    let tokens = &active.settings.admin_tokens;
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let actor = authorize(tokens, request.headers(), needed(request.method(), path))?;
    request.extensions_mut().insert(actor);
    Ok(next.run(request).await)
}

fn authorize(tokens: &[AdminToken], headers: &HeaderMap, needed: Role) -> Result<Actor, Problem> {
    if tokens.is_empty() {
        let detail = "no admin token is configured: set `admin.tokens` in tollgate.yaml or TOLLGATE_ADMIN_TOKEN";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unknown_credential", detail));
    }
    let Some(presented) = bearer(headers) else {
        let detail = "the header `Authorization: Bearer <admin token>` is missing";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "missing_credential", detail).at("Authorization"));
    };
    let Some(token) = holder(tokens, presented) else {
        let detail = "this is not an admin token of this gateway";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unknown_credential", detail).at("Authorization"));
    };
    if token.role < needed {
        let detail =
            format!("token {:?} has the role {}; this call needs {}", token.name, name(token.role), name(needed));
        return Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_role", detail));
    }
    Ok(Actor { name: token.name.clone() })
}

/// The token of the one `Authorization` header; RFC 6750, the scheme's name in any case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (first, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = first.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Compares with every token, in a time that does not depend on which one fits.
fn holder<'a>(tokens: &'a [AdminToken], presented: &[u8]) -> Option<&'a AdminToken> {
    let hash: [u8; 32] = Sha256::digest(presented).into();
    tokens.iter().fold(None, |found, token| if token.sha256.ct_eq(&hash).into() { Some(token) } else { found })
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Billing => "billing",
        Role::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tokens() -> Vec<AdminToken> {
        let token = |name: &str, role| AdminToken { name: name.into(), sha256: Sha256::digest(name).into(), role };
        vec![token("reader", Role::Read), token("biller", Role::Billing), token("root", Role::Admin)]
    }

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn each_role_includes_the_ones_before() {
        let may = |who: &'static str, role| authorize(&tokens(), &with(who), role).is_ok();
        let table = [
            ("Bearer reader", [true, false, false]),
            ("Bearer biller", [true, true, false]),
            ("bearer root", [true, true, true]),
            ("Bearer nobody", [false, false, false]),
            ("Basic root", [false, false, false]),
        ];
        for (who, expected) in table {
            let got = [Role::Read, Role::Billing, Role::Admin].map(|role| may(who, role));
            assert_eq!(got, expected, "{who}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_needs_an_admin() {
        assert_eq!(needed(&Method::GET, "/api/v1/audit"), Role::Read);
        assert_eq!(needed(&Method::PATCH, "/api/v1/tenants/{id}"), Role::Billing);
        assert_eq!(needed(&Method::DELETE, "/api/v1/tenants/{id}"), Role::Admin);
        assert_eq!(needed(&Method::POST, "/api/v1/tenants/{id}/keys"), Role::Admin);
        assert_eq!(needed(&Method::POST, "/api/v1/something/new"), Role::Admin);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refusal = |headers| authorize(&tokens(), &headers, Role::Admin).expect_err("refused");
        assert_eq!(refusal(HeaderMap::new()).code, "missing_credential");
        assert_eq!(refusal(with("Bearer x")).code, "unknown_credential");
        assert_eq!(refusal(with("Bearer reader")).detail, "token \"reader\" has the role read; this call needs admin");
        assert_eq!(authorize(&[], &with("Bearer root"), Role::Read).expect_err("refused").status.as_u16(), 401);
        let mut twice = with("Bearer root");
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer reader"));
        assert_eq!(refusal(twice).code, "missing_credential");
    }
}
