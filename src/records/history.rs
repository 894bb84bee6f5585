//! Usage as people ask for it: by hour, route, key …, and per period. From what is flushed.

use jiff::Timestamp;
use sqlx::any::AnyRow;

use super::rows::{self, Columns};
use super::{MeterUsage, Records, RecordsError, UsageBy, UsageRow};
use crate::units::{PeriodId, TenantNum};

const HOUR_S: i64 = 3600;

macro_rules! sums {
    ($group:literal) => {
        concat!(
            "SELECT h.meter, ",
            $group,
            " AS grp, CAST(SUM(h.units) AS BIGINT) AS units, CAST(SUM(h.requests) AS BIGINT) AS requests \
             FROM history AS h LEFT JOIN api_key AS k ON k.num = h.key \
             WHERE h.tenant = $1 AND h.hour_s > $2 AND h.hour_s < $3 GROUP BY 1, 2 ORDER BY 1, 2"
        )
    };
}

const BY_ROUTE: &str = sums!("h.route");
const BY_HOUR: &str = sums!("h.hour_s");
/// Whole days of Unix time; hours before 1970 do not happen.
const BY_DAY: &str = sums!("h.hour_s / 86400 * 86400");
const BY_METER: &str = sums!("h.meter");
const BY_KEY: &str = sums!("COALESCE(k.id, '')");
const BY_STATUS: &str = sums!("h.status");
const PERIOD: &str = "SELECT u.meter, CAST(SUM(u.total) AS BIGINT) AS used, \
     COALESCE(MAX(a.delivered), 0) AS delivered \
     FROM usage AS u LEFT JOIN account AS a ON a.tenant = u.tenant AND a.period = u.period AND a.meter = u.meter \
     WHERE u.tenant = $1 AND u.period = $2 GROUP BY u.meter ORDER BY u.meter";

impl Records {
    /// A tenant's usage in every hour that has a moment in `[from, to)`, summed by meter and `by`, in that order.
    pub async fn usage(
        &self,
        tenant: TenantNum,
        from: Timestamp,
        to: Timestamp,
        by: UsageBy,
    ) -> Result<Vec<UsageRow>, RecordsError> {
        let query = sqlx::query(statement(by))
            .bind(rows::int(tenant.0)?)
            .bind(from.as_second().saturating_sub(HOUR_S))
            .bind(end_s(to));
        let found = query.fetch_all(self.db().read()).await?;
        found.iter().map(|row| usage_row(row, by)).collect()
    }

    /// A tenant's use of each meter in one period: flushed, and confirmed by Stripe.
    pub async fn period_usage(&self, tenant: TenantNum, period: PeriodId) -> Result<Vec<MeterUsage>, RecordsError> {
        let query = sqlx::query(PERIOD).bind(rows::int(tenant.0)?).bind(period.0);
        query.fetch_all(self.db().read()).await?.iter().map(meter_usage).collect()
    }
}

/// The first whole second at or after `to`.
fn end_s(to: Timestamp) -> i64 {
    to.as_second().saturating_add(i64::from(to.subsec_nanosecond() > 0))
}

fn statement(by: UsageBy) -> &'static str {
    match by {
        UsageBy::Route => BY_ROUTE,
        UsageBy::Hour => BY_HOUR,
        UsageBy::Day => BY_DAY,
        UsageBy::Meter => BY_METER,
        UsageBy::Key => BY_KEY,
        UsageBy::Status => BY_STATUS,
    }
}

fn usage_row(row: &AnyRow, by: UsageBy) -> Result<UsageRow, RecordsError> {
    Ok(UsageRow {
        meter: row.col("meter")?,
        group: group(row, by)?,
        units: row.units("units")?,
        requests: row.units("requests")?,
    })
}

fn group(row: &AnyRow, by: UsageBy) -> Result<String, RecordsError> {
    match by {
        UsageBy::Route | UsageBy::Meter | UsageBy::Key => row.col("grp"),
        UsageBy::Status => Ok(row.col::<i64>("grp")?.to_string()),
        UsageBy::Hour => Ok(second(row.col("grp")?)?.to_string()),
        UsageBy::Day => Ok(second(row.col("grp")?)?.strftime("%Y-%m-%d").to_string()),
    }
}

fn second(second: i64) -> Result<Timestamp, RecordsError> {
    Timestamp::from_second(second).map_err(|error| RecordsError::Corrupt(error.to_string()))
}

fn meter_usage(row: &AnyRow) -> Result<MeterUsage, RecordsError> {
    Ok(MeterUsage { meter: row.col("meter")?, used: row.units("used")?, reported: row.units("delivered")? })
}
