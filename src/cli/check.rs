//! `tollgate check`: every mistake in the configuration, or what one request would match and cost.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Failure, Format, output};
use crate::config::{self, Env, Explanation};
use crate::pricing::Plan;
use crate::records::Records;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file.
    #[arg(long, default_value = "config/tollgate.yaml", value_name = "FILE")]
    config: PathBuf,
    /// A request such as 'GET /signals': which rule it matches, what it costs and on which meter.
    #[arg(long, value_name = "REQUEST")]
    explain: Option<String>,
    /// Explain it for this tenant, on the plan it has in the records: its limit, price and rate too.
    #[arg(long, value_name = "ID", requires = "explain")]
    tenant: Option<String>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Checks, and explains if asked to.
///
/// # Errors
/// [`Failure::Refused`] with every mistake; [`Failure::Usage`] for a file that cannot be read and for a request that
/// is none.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let loaded = match config::load(&args.config, &Env::process()) {
        Ok(loaded) => loaded,
        Err(mistakes) => return refused(&mistakes, args.format),
    };
    let Some(request) = &args.explain else { return fine(&loaded, args.format) };
    let plan = args.tenant.as_ref().map(|tenant| plan_of(&loaded, tenant)).transpose()?;
    match config::explain(&loaded.pricing, request, plan) {
        Ok(explanation) => explained(&explanation, args.format),
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

/// A file that is not there or not readable has no place in it: that is wrong usage, everything else a failed check.
fn refused(mistakes: &config::ConfigErrors, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        output::print_json(&json!({ "ok": false, "mistakes": mistakes }))?;
    }
    let unreadable = mistakes.errors.iter().any(|mistake| mistake.at.is_none() && mistake.path.is_empty());
    let text = mistakes.to_string();
    Err(if unreadable { Failure::Usage(text) } else { Failure::Refused(text) })
}

fn fine(loaded: &config::Loaded, format: Format) -> Result<(), Failure> {
    let (settings, prices) = (loaded.settings_path.display(), loaded.pricing_path.display());
    let (routes, plans) = (loaded.pricing.routes.routes().len(), loaded.pricing.plans.len());
    match format {
        Format::Table => output::print(&format!("{settings} and {prices} are fine: {routes} routes, {plans} plans")),
        Format::Json => output::print_json(&json!({
            "ok": true, "settings": settings.to_string(), "pricing": prices.to_string(),
            "sha256": loaded.sha256, "routes": routes, "plans": plans
        })),
    }
}

fn explained(explanation: &Explanation, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => output::print(&explanation.to_string()),
        Format::Json => output::print_json(&json!(explanation)),
    }
}

/// The plan that the records have for `tenant`.
fn plan_of<'a>(loaded: &'a config::Loaded, tenant: &str) -> Result<&'a Plan, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    let url = loaded.settings.store.records.expose();
    let there = url.strip_prefix("sqlite:").is_none_or(|path| PathBuf::from(path).exists());
    let found = if there { runtime.block_on(tenant_in(url, tenant))? } else { None };
    let plan = found.ok_or_else(|| Failure::Refused(format!("there is no tenant {tenant:?} in the records")))?;
    let unknown = || Failure::Refused(format!("tenant {tenant:?} is on plan {plan:?}, which the pricing file lacks"));
    loaded.pricing.plans.get(plan.as_str()).map(AsRef::as_ref).ok_or_else(unknown)
}

async fn tenant_in(url: &str, id: &str) -> Result<Option<String>, Failure> {
    let unreadable = |error: crate::records::RecordsError| Failure::Usage(format!("store.records: {error}"));
    let records = Records::open(url).await.map_err(unreadable)?;
    let found = records.tenant(id).await.map_err(unreadable);
    records.close().await;
    Ok(found?.map(|tenant| tenant.plan))
}
