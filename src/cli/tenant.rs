//! `tollgate tenant`: tenants, through the admin API.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value};

use super::client::{Admin, Client, segment};
use super::table::{Align, Table};
use super::{Failure, Format, output};

/// Arguments of `tenant`.
#[derive(Debug, Args)]
pub(super) struct TenantArgs {
    #[command(flatten)]
    admin: Admin,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant; one that exists with the same content is fine.
    Create {
        /// Its id: letters, digits, `.`, `_`, `-`.
        id: String,
        /// Plan in the pricing file.
        #[arg(long)]
        plan: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// List tenants, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Cursor that the page before ended with.
        #[arg(long)]
        after: Option<String>,
    },
    /// Show one tenant.
    Show {
        /// Its id.
        id: String,
    },
    /// Change the given fields of a tenant; an empty value removes what may be missing.
    Update {
        /// Its id.
        id: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        subscription: Subscription,
    },
    /// Delete a tenant: its keys are revoked at once, its usage is kept.
    Delete {
        /// Its id.
        id: String,
    },
}

/// Who a tenant is.
#[derive(Debug, Args)]
struct Fields {
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// E-mail address.
    #[arg(long)]
    email: Option<String>,
    /// Stripe customer, `cus_…`.
    #[arg(long, value_name = "CUS")]
    stripe_customer_id: Option<String>,
}

/// What its plan and subscription are, where Stripe does not say so itself.
#[derive(Debug, Args)]
struct Subscription {
    /// Plan in the pricing file.
    #[arg(long)]
    plan: Option<String>,
    /// Stripe subscription, `sub_…`.
    #[arg(long, value_name = "SUB")]
    stripe_subscription_id: Option<String>,
    /// `trialing`, `active`, `past_due`, `unpaid`, `canceled`, `incomplete`, `incomplete_expired` or `paused`.
    #[arg(long)]
    status: Option<String>,
    /// End of the trial, RFC 3339.
    #[arg(long, value_name = "TIME")]
    trial_ends_at: Option<String>,
    /// Where billing periods are counted from, RFC 3339.
    #[arg(long, value_name = "TIME")]
    period_anchor: Option<String>,
    /// `month` or `year`.
    #[arg(long, value_name = "INTERVAL")]
    period_interval: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Failure`] as the module of the command line says.
pub(super) fn run(args: TenantArgs) -> Result<(), Failure> {
    let client = Client::new(&args.admin)?;
    match args.command {
        TenantCommand::Create { id, plan, fields } => {
            let mut body = fields.into_json();
            body.retain(|_, value| !value.is_null());
            body.extend([("id".to_owned(), id.into()), ("plan".to_owned(), plan.into())]);
            show(&client.send(Method::POST, "/api/v1/tenants", Some(&body.into()))?, args.format)
        }
        TenantCommand::List { limit, after } => {
            list(&client.get("/api/v1/tenants", &[("limit", Some(limit.to_string())), ("after", after)])?, args.format)
        }
        TenantCommand::Show { id } => show(&client.get(&path(&id), &[])?, args.format),
        TenantCommand::Update { id, fields, subscription } => {
            let mut body = fields.into_json();
            body.extend(subscription.into_json());
            show(&client.send(Method::PATCH, &path(&id), Some(&body.into()))?, args.format)
        }
        TenantCommand::Delete { id } => {
            client.send(Method::DELETE, &path(&id), None)?;
            done(&id, args.format)
        }
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/tenants/{}", segment(id))
}

impl Fields {
    fn into_json(self) -> Map<String, Value> {
        given([("name", self.name), ("email", self.email), ("stripe_customer_id", self.stripe_customer_id)])
    }
}

impl Subscription {
    fn into_json(self) -> Map<String, Value> {
        given([
            ("plan", self.plan),
            ("stripe_subscription_id", self.stripe_subscription_id),
            ("status", self.status),
            ("trial_ends_at", self.trial_ends_at),
            ("period_anchor", self.period_anchor),
            ("period_interval", self.period_interval),
        ])
    }
}

/// The fields that were given; an empty one becomes `null`.
fn given<const N: usize>(fields: [(&str, Option<String>); N]) -> Map<String, Value> {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    given.map(|(name, value)| (name, if value.is_empty() { Value::Null } else { value.into() })).collect()
}

fn list(listed: &Value, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(listed);
    }
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("name", Align::Left),
        ("plan", Align::Left),
        ("status", Align::Left),
        ("stripe customer", Align::Left),
        ("created", Align::Left),
    ]);
    for tenant in output::rows(listed, "data") {
        let names = ["id", "name", "plan", "status", "stripe_customer_id", "created_at"];
        table.row(names.iter().map(|name| output::cell(tenant, name)).collect());
    }
    output::print(&(table.render() + &output::more(listed)))
}

fn show(tenant: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(tenant),
        Format::Table => output::print(&output::members(tenant)),
    }
}

fn done(id: &str, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(&serde_json::json!({ "id": id, "deleted": true })),
        Format::Table => output::print(&format!("{id} is deleted; its keys are revoked")),
    }
}
