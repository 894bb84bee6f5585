//! What the demo does: a tenant per plan, some traffic each, and the three counts that must be one.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::Caller;
use crate::app::Running;
use crate::app::billing::Billing;

/// A tenant of the demo and its calls: `(method, path, how often)`.
struct Act {
    plan: &'static str,
    calls: &'static [(&'static str, &'static str, u32)],
}

const ACTS: &[Act] = &[
    Act { plan: "free", calls: &[("GET", "/signals", 104), ("GET", "/health", 3)] },
    Act { plan: "starter", calls: &[("GET", "/signals", 40), ("GET", "/signals/history/ACME", 25)] },
    Act { plan: "pro", calls: &[("GET", "/export/pdf", 12), ("POST", "/signals", 9), ("GET", "/nowhere", 4)] },
    Act { plan: "enterprise", calls: &[("GET", "/export/csv", 20), ("GET", "/signals?limit=5", 30)] },
];

/// What one tenant's traffic came to.
pub(super) struct Tenant {
    id: String,
    plan: &'static str,
    key: String,
    customer: String,
    calls: u64,
    refused: u64,
    /// Sum of `X-Tollgate-Cost` over all answers.
    charged_units: u64,
    /// What the usage API says.
    used_units: u64,
    /// What Stripe's meter holds.
    stripe_units: u64,
}

/// What the whole demo came to.
pub(super) struct Outcome {
    tenants: Vec<Tenant>,
}

/// Makes the tenants, sends the traffic, reports it, and counts three times.
///
/// # Errors
/// When any step fails.
pub(super) async fn tell(running: &Running, admin: &Caller, proxy: &Caller) -> anyhow::Result<Outcome> {
    let mut tenants = Vec::new();
    for act in ACTS {
        let mut tenant = enter(running, admin, act.plan).await?;
        let caller = proxy.with_token(&tenant.key);
        play(&mut tenant, &caller, act).await?;
        tenants.push(tenant);
    }
    running.report_now().await.context("reporting to Stripe")?;
    for tenant in &mut tenants {
        count(running, admin, tenant).await?;
    }
    Ok(Outcome { tenants })
}

async fn enter(running: &Running, admin: &Caller, plan: &'static str) -> anyhow::Result<Tenant> {
    let id = format!("demo-{plan}");
    let email = format!("{plan}@demo.test");
    let customer = stripe(running)?.create_customer(&id, &email).await.context("creating a customer")?;
    let tenant = json!({ "id": id, "name": format!("Demo {plan}"), "email": email, "plan": plan,
        "stripe_customer_id": customer });
    admin.json(Method::POST, "/api/v1/tenants", Some(&tenant)).await?;
    let path = format!("/api/v1/tenants/{id}/keys");
    let key = admin.json(Method::POST, &path, Some(&json!({ "name": "demo" }))).await?;
    let key = key["key"].as_str().context("a new key comes with its secret")?.to_owned();
    Ok(Tenant { id, plan, key, customer, calls: 0, refused: 0, charged_units: 0, used_units: 0, stripe_units: 0 })
}

async fn play(tenant: &mut Tenant, proxy: &Caller, act: &Act) -> anyhow::Result<()> {
    for (method, path, times) in act.calls {
        let method = Method::try_from(*method)?;
        for _ in 0..*times {
            let response = proxy.send(method.clone(), path, None).await?;
            tenant.calls += 1;
            tenant.refused += u64::from(response.status == StatusCode::PAYMENT_REQUIRED);
            tenant.charged_units += response.cost_units;
        }
    }
    Ok(())
}

async fn count(running: &Running, admin: &Caller, tenant: &mut Tenant) -> anyhow::Result<()> {
    let usage = admin.json(Method::GET, &format!("/api/v1/tenants/{}/usage", tenant.id), None).await?;
    let meters = usage["meters"].as_array().context("usage has meters")?;
    tenant.used_units = meters.iter().filter_map(|meter| meter["used"].as_u64()).sum();
    tenant.stripe_units = stripe(running)?.total(&tenant.customer).await.context("asking Stripe's meters")?;
    Ok(())
}

fn stripe(running: &Running) -> anyhow::Result<&Billing> {
    running.billing().map(|billing| &**billing).context("the demo runs with a sandbox")
}

impl Outcome {
    /// Whether every tenant's three counts are one.
    #[must_use]
    pub(super) fn agrees(&self) -> bool {
        self.tenants.iter().all(|t| t.charged_units == t.used_units && t.used_units == t.stripe_units)
    }

    /// For programs.
    #[must_use]
    pub(super) fn json(&self) -> Value {
        let tenant = |t: &Tenant| {
            json!({ "tenant": t.id, "plan": t.plan, "key": t.key, "calls": t.calls, "refused": t.refused,
                "charged_units": t.charged_units, "used_units": t.used_units, "stripe_units": t.stripe_units })
        };
        json!({ "agrees": self.agrees(), "tenants": self.tenants.iter().map(tenant).collect::<Vec<_>>() })
    }

    /// For people.
    #[must_use]
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:<17}{:>7}{:>9}{:>15}{:>12}{:>12}\n",
            "tenant", "calls", "402s", "charged units", "used units", "at Stripe"
        );
        for t in &self.tenants {
            let line = writeln!(
                text,
                "{:<17}{:>7}{:>9}{:>15}{:>12}{:>12}",
                t.id, t.calls, t.refused, t.charged_units, t.used_units, t.stripe_units
            );
            line.expect("writing to a String does not fail");
        }
        text + if self.agrees() { "All three counts agree.\n" } else { "THE COUNTS DO NOT AGREE.\n" }
    }

    /// What to try next.
    #[must_use]
    pub(super) fn guide(&self, running: &Running, folder: &Path) -> String {
        let key = |plan| self.tenants.iter().find(|t| t.plan == plan).map_or("", |t| &t.key);
        let (proxy, admin) = (running.proxy(), running.admin());
        format!(
            "\nThe sample API is behind http://{proxy}, the admin API on http://{admin} (token {token}),\n\
             the Stripe sandbox on {sandbox}. Keys:\n{keys}\n\n\
             A metered call:\n  curl -i http://{proxy}/signals -H 'Authorization: Bearer {pro}'\n\
             A 402, because this tenant has used up its plan:\n  \
             curl -i http://{proxy}/signals -H 'Authorization: Bearer {free}'\n\
             Usage:\n  curl http://{admin}/api/v1/tenants/demo-pro/usage -H 'Authorization: Bearer {token}'\n\n\
             Its files are in {folder} until it ends. Press Ctrl-C to stop.\n",
            token = super::ADMIN_TOKEN,
            sandbox = running.billing().map_or("", |billing| billing.base()),
            keys = self.tenants.iter().map(|t| format!("  {:<17}{}", t.id, t.key)).collect::<Vec<_>>().join("\n"),
            pro = key("pro"),
            free = key("free"),
            folder = folder.display(),
        )
    }
}
