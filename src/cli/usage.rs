//! `tollgate usage`: what a tenant used, through the admin API.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::client::{Admin, Client, segment};
use super::table::{Align, Table};
use super::{Failure, output};

/// Arguments of `usage`.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// Whose.
    tenant: String,
    #[command(flatten)]
    admin: Admin,
    /// From this time on, RFC 3339; the start of the running period by default.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Up to, not including, this time, RFC 3339; now by default.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// What the rows are grouped by.
    #[arg(long, value_enum, default_value_t = By::Route)]
    by: By,
    /// How it is printed; CSV has the rows only.
    #[arg(long, value_enum, default_value_t = UsageFormat::Table)]
    format: UsageFormat,
}

/// What the rows are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Route,
    Hour,
    Day,
    Meter,
    Key,
    Status,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Meter => "meter",
            Self::Key => "key",
            Self::Status => "status",
        }
    }
}

/// How usage is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UsageFormat {
    Table,
    Csv,
    Json,
}

/// Asks and prints.
///
/// # Errors
/// [`Failure`] as the module of the command line says.
pub(super) fn run(args: UsageArgs) -> Result<(), Failure> {
    let client = Client::new(&args.admin)?;
    let path = format!("/api/v1/tenants/{}/usage", segment(&args.tenant));
    let query = [("from", args.from), ("to", args.to), ("by", Some(args.by.name().to_owned()))];
    match args.format {
        UsageFormat::Csv => output::print(&client.get_csv(&path, &query)?),
        UsageFormat::Json => output::print_json(&client.get(&path, &query)?),
        UsageFormat::Table => output::print(&report(&client.get(&path, &query)?, args.by)),
    }
}

/// The tenant and its period, the meters, the rows.
fn report(usage: &Value, by: By) -> String {
    let period = |end: &str| usage.pointer(&format!("/period/{end}")).map(output::text).unwrap_or_default();
    let head = format!(
        "{} on {}, {} to {}\n",
        output::cell(usage, "tenant"),
        output::cell(usage, "plan"),
        period("start"),
        period("end")
    );
    [head, meters(usage), rows(usage, by)].join("\n")
}

fn meters(usage: &Value) -> String {
    let numbers = ["used", "included", "limit", "remaining", "overage"];
    let mut columns = vec![("meter", Align::Left)];
    columns.extend(numbers.map(|name| (name, Align::Right)));
    columns.extend([("overage amount", Align::Right), ("pending", Align::Right), ("reported", Align::Right)]);
    let mut table = Table::new(&columns);
    for meter in output::rows(usage, "meters") {
        let mut cells = vec![output::cell(meter, "meter")];
        cells.extend(numbers.map(|name| output::cell(meter, name)));
        cells.extend([money(meter), output::cell(meter, "pending"), output::cell(meter, "reported")]);
        table.row(cells);
    }
    table.render()
}

/// The amount in minor units with its currency, as the API counts it.
fn money(meter: &Value) -> String {
    let part = |name: &str| meter.pointer(&format!("/overage_amount/{name}")).map(output::text).unwrap_or_default();
    match part("currency") {
        currency if currency.is_empty() => part("amount"),
        currency => format!("{} {currency} minor units", part("amount")),
    }
}

fn rows(usage: &Value, by: By) -> String {
    let mut columns = vec![(by.name(), Align::Left)];
    if by != By::Meter {
        columns.push(("meter", Align::Left));
    }
    columns.extend([("units", Align::Right), ("requests", Align::Right)]);
    let mut table = Table::new(&columns);
    for row in output::rows(usage, "rows") {
        table.row(columns.iter().map(|(name, _)| output::cell(row, name)).collect());
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_period_meters_and_rows() {
        let usage = serde_json::json!({
            "tenant": "acme", "plan": "starter",
            "period": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
            "meters": [{"meter": "api_units", "used": 1250, "included": 1000, "limit": null, "remaining": 0, "overage": 250,
                        "overage_amount": {"amount": 750, "currency": "usd"}, "pending": 3, "reported": 1247}],
            "rows": [{"route": "GET /signals", "meter": "api_units", "units": 1250, "requests": 1250}]
        });
        let expected = "\
acme on starter, 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z

METER      USED  INCLUDED  LIMIT  REMAINING  OVERAGE       OVERAGE AMOUNT  PENDING  REPORTED
api_units  1250      1000      -          0      250  750 usd minor units        3      1247

ROUTE         METER      UNITS  REQUESTS
GET /signals  api_units   1250      1250
";
        assert_eq!(report(&usage, By::Route), expected);
    }
}
