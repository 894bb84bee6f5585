//! `/api/v1/tenants`.

use serde_json::{Value, json};
use tollgate::control::Change;
use tollgate::units::TenantNum;

use super::harness::{Api, NOW};

#[tokio::test]
async fn creating_twice_is_creating_once() {
    let api = Api::start().await;
    let made = api.acme().await;
    let expected = json!({
        "id": "acme", "name": "Acme", "email": "ops@acme.test", "plan": "starter", "stripe_customer_id": "cus_acme",
        "stripe_subscription_id": null, "status": null, "status_since": null, "trial_ends_at": null,
        "period_anchor": NOW, "period_interval": "month", "created_at": NOW, "updated_at": NOW
    });
    assert_eq!(made, expected);
    assert_eq!(api.take_changes(), [Change::Tenant(TenantNum(1))], "told before the answer");
    let same = json!({"id": "acme", "name": "Acme", "email": "ops@acme.test", "plan": "starter",
                      "stripe_customer_id": "cus_acme"});
    assert_eq!(api.call("POST", "/tenants", same.clone()).await.ok(200), made);
    let mut other = same;
    other["plan"] = json!("free");
    api.call("POST", "/tenants", other).await.refused(409, "exists_with_other_content", Some("plan"));
    assert_eq!(api.get("/tenants/acme").await.ok(200), made);
    assert_eq!(api.audited().await, [("admin".into(), "tenant.create".into(), "acme".into())]);
    api.stop().await;
}

#[tokio::test]
async fn creating_at_the_same_moment_is_creating_once() {
    let api = Api::start().await;
    let make = || async { api.call("POST", "/tenants", json!({"id": "acme", "plan": "free"})).await.status.as_u16() };
    let mut statuses = futures_util::future::join_all((0..8).map(|_| make())).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    assert_eq!(api.audited().await.len(), 1);
    api.stop().await;
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let api = Api::start().await;
    let table = [
        (json!({"plan": "free"}), 400, "bad_request", "id"),
        (json!({"id": "a"}), 400, "bad_request", "plan"),
        (json!({"id": "a", "plan": "free", "colour": 1}), 400, "bad_request", "colour"),
        (json!({"id": 7, "plan": "free"}), 400, "bad_request", "id"),
        (json!({"id": "a b", "plan": "free"}), 422, "invalid_value", "id"),
        (json!({"id": "..", "plan": "free"}), 422, "invalid_value", "id"),
        (json!({"id": "a", "plan": "gold"}), 422, "invalid_value", "plan"),
        (json!({"id": "a", "plan": "free", "name": ""}), 422, "invalid_value", "name"),
        (json!({"id": "a", "plan": "free", "email": "nobody"}), 422, "invalid_value", "email"),
        (json!({"id": "a", "plan": "free", "stripe_customer_id": "sub_1"}), 422, "invalid_value", "stripe_customer_id"),
    ];
    for (body, status, code, field) in table {
        api.call("POST", "/tenants", body).await.refused(status, code, Some(field));
    }
    let problem = api.call("POST", "/tenants", json!({"id": "a", "plan": "gold"})).await.json();
    assert_eq!(problem["detail"], "plan: there is no plan \"gold\"; allowed: free, starter");
    assert_eq!(api.get("/tenants").await.ok(200), json!({"data": [], "next": null}));
    assert!(api.take_changes().is_empty());
    api.stop().await;
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_empties() {
    let api = Api::start().await;
    api.acme().await;
    api.take_changes();
    let patch = json!({"plan": "free", "email": null, "status": "past_due", "stripe_subscription_id": "sub_1",
                       "period_anchor": "2026-11-01T00:00:00Z", "period_interval": "year",
                       "trial_ends_at": "2026-12-01T00:00:00Z"});
    let changed = api.call("PATCH", "/tenants/acme", patch).await.ok(200);
    assert_eq!(changed["name"], "Acme", "left as it was");
    assert_eq!(
        (&changed["plan"], &changed["email"], &changed["status"]),
        (&json!("free"), &Value::Null, &json!("past_due"))
    );
    assert_eq!((&changed["status_since"], &changed["period_interval"]), (&json!(NOW), &json!("year")));
    assert_eq!(api.take_changes(), [Change::Tenant(TenantNum(1))]);
    assert_eq!(api.call("PATCH", "/tenants/acme", json!({})).await.ok(200), changed);
    let table = [
        (json!({"name": null}), 400, "name"),
        (json!({"status": "gone"}), 400, "status"),
        (json!({"trial_ends_at": "soon"}), 400, "trial_ends_at"),
        (json!({"plan": "gold"}), 422, "plan"),
        (json!({"period_interval": "week"}), 422, "period_interval"),
        (json!({"stripe_subscription_id": "cus_1"}), 422, "stripe_subscription_id"),
        (json!({"id": "other"}), 422, "id"),
        (json!({"created_at": NOW}), 400, "created_at"),
    ];
    for (body, status, field) in table {
        let code = if status == 400 { "bad_request" } else { "invalid_value" };
        api.call("PATCH", "/tenants/acme", body).await.refused(status, code, Some(field));
    }
    assert_eq!(api.get("/tenants/acme").await.ok(200), changed);
    api.call("PATCH", "/tenants/nobody", json!({"plan": "free"})).await.refused(404, "unknown_tenant", None);
    let actions: Vec<String> = api.audited().await.into_iter().map(|(_, action, _)| action).collect();
    assert_eq!(actions, ["tenant.update", "tenant.create"], "what changed nothing is not written down");
    api.stop().await;
}

#[tokio::test]
async fn put_makes_or_changes() {
    let api = Api::start().await;
    api.call("PUT", "/tenants/acme", json!({"name": "Acme"})).await.refused(422, "invalid_value", Some("plan"));
    let made = api.call("PUT", "/tenants/acme", json!({"plan": "starter", "status": "active"})).await.ok(201);
    assert_eq!((&made["id"], &made["name"], &made["status"]), (&json!("acme"), &json!("acme"), &json!("active")));
    let again = api.call("PUT", "/tenants/acme", json!({"id": "acme", "plan": "starter", "status": "active"})).await;
    assert_eq!(again.ok(200), made);
    let moved = api.call("PUT", "/tenants/acme", json!({"plan": "free"})).await.ok(200);
    assert_eq!((&moved["plan"], &moved["status"]), (&json!("free"), &json!("active")), "what is missing stays");
    api.call("PUT", "/tenants/a%20b", json!({"plan": "free"})).await.refused(422, "invalid_value", Some("id"));
    api.stop().await;
}

#[tokio::test]
async fn deleting_revokes_the_keys_and_tells_of_each() {
    let api = Api::start().await;
    api.acme().await;
    let mut hashes = Vec::new();
    for _ in 0..3 {
        let key = api.call("POST", "/tenants/acme/keys", json!({})).await.ok(201);
        hashes.push(super::keys::hash(key["key"].as_str().expect("shown")));
    }
    api.take_changes();
    api.call("DELETE", "/tenants/acme", Value::Null).await.ok(204);
    let told = api.take_changes();
    assert!(told.contains(&Change::Tenant(TenantNum(1))), "{told:?}");
    for hash in hashes {
        assert!(told.contains(&Change::Key(hash)), "{told:?}");
        let (key, _) = api.records.key_by_hash(&hash).await.expect("readable").expect("kept");
        assert!(key.revoked_at.is_some());
    }
    api.get("/tenants/acme").await.refused(404, "unknown_tenant", None);
    api.call("DELETE", "/tenants/acme", Value::Null).await.refused(404, "unknown_tenant", None);
    assert_eq!(api.get("/tenants").await.ok(200)["data"], json!([]));
    api.stop().await;
}

#[tokio::test]
async fn a_list_is_paged_newest_first_without_gaps() {
    let api = Api::start().await;
    for n in 0..7 {
        api.call("POST", "/tenants", json!({"id": format!("t{n}"), "plan": "free"})).await.ok(201);
    }
    let (mut seen, mut path) = (Vec::new(), "/tenants?limit=3".to_owned());
    for expected in [3, 3, 1] {
        let page = api.get(&path).await.ok(200);
        let data = page["data"].as_array().expect("a list");
        assert_eq!(data.len(), expected);
        seen.extend(data.iter().map(|tenant| tenant["id"].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(cursor) => path = format!("/tenants?limit=3&after={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]);
    api.stop().await;
}
