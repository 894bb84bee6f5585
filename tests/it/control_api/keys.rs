//! `/api/v1/tenants/{id}/keys`.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tollgate::control::Change;

use super::harness::Api;

pub(super) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn id(key: &Value) -> &str {
    key["id"].as_str().expect("an id")
}

#[tokio::test]
async fn a_minted_key_is_shown_once_and_found_by_its_hash() {
    let api = Api::start().await;
    api.acme().await;
    api.take_changes();
    let body = json!({"name": "prod", "scopes": ["GET /signals", "/docs/{*rest}"], "expires_at": null});
    let key = api.call("POST", "/tenants/acme/keys", body).await.ok(201);
    let secret = key["key"].as_str().expect("shown this once");
    assert!(secret.starts_with("tg_") && secret.len() == 43, "{secret}");
    assert!(id(&key).starts_with("key_") && secret.starts_with(key["prefix"].as_str().expect("a prefix")), "{key}");
    assert_eq!(api.take_changes(), [Change::Key(hash(secret))], "a key that was unknown a moment ago now works");
    let (stored, tenant) = api.records.key_by_hash(&hash(secret)).await.expect("readable").expect("there");
    assert_eq!((stored.name.as_str(), tenant.id.as_str()), ("prod", "acme"));
    assert_eq!(stored.scopes, ["GET /signals", "/docs/{*rest}"]);
    let listed = api.get("/tenants/acme/keys").await;
    assert!(!listed.text.contains(secret), "{listed:?}");
    assert_eq!(listed.ok(200)["data"][0]["id"], key["id"]);
    assert!(!api.get("/audit").await.text.contains(secret));
    api.stop().await;
}

#[tokio::test]
async fn an_existing_secret_is_imported_once() {
    let api = Api::start().await;
    api.acme().await;
    api.call("POST", "/tenants", json!({"id": "other", "plan": "free"})).await.ok(201);
    let import = json!({"key": "legacy-key-0123456789", "name": "old"});
    let made = api.call("POST", "/tenants/acme/keys", import.clone()).await.ok(201);
    assert_eq!(made.get("key"), None, "who imports it has it");
    assert!(api.records.key_by_hash(&hash("legacy-key-0123456789")).await.expect("readable").is_some());
    let again = api.call("POST", "/tenants/acme/keys", import.clone()).await.ok(200);
    assert_eq!(id(&again), id(&made));
    let digest = hex::encode(hash("legacy-key-0123456789"));
    let by_hash = api.call("POST", "/tenants/acme/keys", json!({"sha256": digest, "name": "old"})).await.ok(200);
    assert_eq!(id(&by_hash), id(&made));
    let renamed = json!({"key": "legacy-key-0123456789", "name": "new"});
    api.call("POST", "/tenants/acme/keys", renamed).await.refused(409, "exists_with_other_content", Some("name"));
    api.call("POST", "/tenants/other/keys", import).await.refused(409, "exists_with_other_content", Some("key"));
    let actions: Vec<String> = api.audited().await.into_iter().map(|(_, action, _)| action).collect();
    assert_eq!(actions, ["key.import", "tenant.create", "tenant.create"]);
    api.stop().await;
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let api = Api::start().await;
    api.acme().await;
    let table = [
        (json!({"scopes": ["signals"]}), 422, "scopes[0]"),
        (json!({"scopes": ["/ok", "GET"]}), 422, "scopes[1]"),
        (json!({"scopes": ["/a/{x", "/ok"]}), 422, "scopes[0]"),
        (json!({"scopes": ["/ok", 5]}), 400, "scopes[1]"),
        (json!({"expires_at": "2026-11-20T12:30:00Z"}), 422, "expires_at"),
        (json!({"expires_at": "tomorrow"}), 400, "expires_at"),
        (json!({"name": "a\nb"}), 422, "name"),
        (json!({"key": "short"}), 422, "key"),
        (json!({"sha256": "abc"}), 422, "sha256"),
        (json!({"key": "legacy-key-1", "sha256": "abc"}), 422, "sha256"),
        (json!({"secret": "x"}), 400, "secret"),
    ];
    for (body, status, field) in table {
        let code = if status == 400 { "bad_request" } else { "invalid_value" };
        api.call("POST", "/tenants/acme/keys", body).await.refused(status, code, Some(field));
    }
    api.call("POST", "/tenants/nobody/keys", json!({})).await.refused(404, "unknown_tenant", None);
    api.get("/tenants/nobody/keys").await.refused(404, "unknown_tenant", None);
    assert_eq!(api.get("/tenants/acme/keys").await.ok(200)["data"], json!([]));
    api.stop().await;
}

#[tokio::test]
async fn revoking_is_for_good_and_can_be_repeated() {
    let api = Api::start().await;
    api.acme().await;
    let key = api.call("POST", "/tenants/acme/keys", json!({"key": "legacy-key-1"})).await.ok(201);
    api.take_changes();
    let path = format!("/tenants/acme/keys/{}", id(&key));
    api.call("DELETE", &path, Value::Null).await.ok(204);
    assert_eq!(api.take_changes(), [Change::Key(hash("legacy-key-1"))]);
    api.call("DELETE", &path, Value::Null).await.ok(204);
    let revoked = api.get("/tenants/acme/keys").await.ok(200)["data"][0]["revoked_at"].clone();
    assert_eq!(revoked, super::harness::NOW);
    let import = json!({"key": "legacy-key-1"});
    api.call("POST", "/tenants/acme/keys", import).await.refused(409, "exists_with_other_content", Some("revoked_at"));
    api.call("POST", &format!("{path}/rotate"), json!({})).await.refused(409, "key_not_usable", None);
    api.call("DELETE", "/tenants/acme/keys/key_none", Value::Null).await.refused(404, "unknown_key", None);
    api.call("DELETE", &format!("/tenants/nobody/keys/{}", id(&key)), Value::Null).await.refused(
        404,
        "unknown_tenant",
        None,
    );
    let actions: Vec<String> = api.audited().await.into_iter().map(|(_, action, _)| action).collect();
    assert_eq!(actions, ["key.revoke", "key.import", "tenant.create"]);
    api.stop().await;
}

#[tokio::test]
async fn another_tenants_key_cannot_be_touched() {
    let api = Api::start().await;
    api.acme().await;
    api.call("POST", "/tenants", json!({"id": "other", "plan": "free"})).await.ok(201);
    let key = api.call("POST", "/tenants/acme/keys", json!({})).await.ok(201);
    let path = format!("/tenants/other/keys/{}", id(&key));
    api.call("DELETE", &path, Value::Null).await.refused(404, "unknown_key", None);
    api.call("POST", &format!("{path}/rotate"), json!({})).await.refused(404, "unknown_key", None);
    let secret = key["key"].as_str().expect("shown");
    let (stored, _) = api.records.key_by_hash(&hash(secret)).await.expect("readable").expect("there");
    assert_eq!((stored.revoked_at, stored.expires_at), (None, None));
    api.stop().await;
}

#[tokio::test]
async fn rotating_overlaps() {
    let api = Api::start().await;
    api.acme().await;
    let body = json!({"name": "prod", "scopes": ["/signals"], "expires_at": "2026-12-31T00:00:00Z"});
    let old = api.call("POST", "/tenants/acme/keys", body).await.ok(201);
    api.take_changes();
    let path = format!("/tenants/acme/keys/{}/rotate", id(&old));
    api.call("POST", &path, json!({"overlap": 90 * 86_400 + 1})).await.refused(422, "invalid_value", Some("overlap"));
    api.call("POST", &path, json!({"overlap": "1h"})).await.refused(400, "bad_request", Some("overlap"));
    let new = api.call("POST", &path, json!({"overlap": 600})).await.ok(201);
    assert_ne!(new["key"], old["key"]);
    assert_eq!((&new["name"], &new["scopes"]), (&old["name"], &old["scopes"]));
    assert_eq!(new["expires_at"], "2026-12-31T00:00:00Z");
    assert_eq!(new["replaces"], json!({"id": id(&old), "expires_at": "2026-11-20T12:40:00Z"}));
    let secrets = [&new, &old].map(|key| hash(key["key"].as_str().expect("shown")));
    assert_eq!(api.take_changes(), secrets.map(Change::Key));
    let (stored, _) = api.records.key_by_hash(&secrets[1]).await.expect("readable").expect("there");
    assert_eq!(stored.expires_at, Some("2026-11-20T12:40:00Z".parse::<Timestamp>().expect("RFC 3339")));
    api.clock.set("2026-11-20T12:40:00Z".parse().expect("RFC 3339"));
    api.call("POST", &path, json!({})).await.refused(409, "key_not_usable", None);
    let at_once = format!("/tenants/acme/keys/{}/rotate", id(&new));
    let third = api.call("POST", &at_once, json!({"overlap": 0})).await.ok(201);
    assert_eq!(third["replaces"]["expires_at"], "2026-11-20T12:40:00Z");
    api.stop().await;
}
