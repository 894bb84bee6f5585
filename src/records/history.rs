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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Answer, Created, NewKey, kit};
    use super::*;
    use crate::journal::{Outcome, Row};
    use crate::units::KeyNum;

    /// 2026-11-20T10:00:00Z.
    const TEN: i64 = 1_795_168_800;

    fn moment(second: i64) -> Timestamp {
        Timestamp::from_second(TEN + second).unwrap()
    }

    async fn filled() -> (tempfile::TempDir, Records, TenantNum) {
        let (folder, records) = kit::records().await;
        let tenant = kit::tenant(&records, "acme", Some("cus_1")).await.num;
        let new = NewKey {
            tenant: "acme".to_owned(),
            id: "key_1".to_owned(),
            name: String::new(),
            prefix: String::new(),
            sha256: [1; 32],
            scopes: Vec::new(),
            expires_at: None,
        };
        let Created::New(key) = records.create_key(new, kit::at(0)).await.unwrap() else { panic!("not new") };
        let base = kit::batch("a", tenant, (1, 1), 0);
        let row = |hour: i64, route: &str, status, key, units, requests| Row {
            hour_s: TEN + hour * 3600,
            route: Arc::from(route),
            status,
            outcome: if status == 402 { Outcome::Refused } else { Outcome::Completed },
            key,
            units,
            requests,
            ..base.rows[0].clone()
        };
        let rows = vec![
            row(0, "GET /a", 200, key.num, 5, 5),
            row(0, "GET /b", 200, KeyNum::NONE, 6, 3),
            row(0, "GET /b", 402, KeyNum::NONE, 0, 2),
            row(14, "GET /a", 200, key.num, 7, 7),
            Row { meter: "tokens".into(), ..row(0, "GET /b", 200, key.num, 900, 0) },
            Row { tenant: TenantNum(99), ..row(0, "GET /a", 200, key.num, 1, 1) },
        ];
        let batches =
            [crate::journal::Batch { rows, ..base.clone() }, crate::journal::Batch { from: 2, to: 2, ..base }];
        records.flush(&batches, kit::at(0)).await.unwrap();
        (folder, records, tenant)
    }

    #[tokio::test]
    async fn usage_is_summed_as_asked() {
        let (_folder, records, tenant) = filled().await;
        let table = async |by| {
            let rows = records.usage(tenant, moment(0), moment(15 * 3600), by).await.unwrap();
            rows.iter()
                .map(|row| format!("{} {} {} {}", row.meter, row.group, row.units, row.requests))
                .collect::<Vec<_>>()
        };
        assert_eq!(table(UsageBy::Meter).await, ["api_units api_units 18 17", "tokens tokens 900 0"]);
        assert_eq!(
            table(UsageBy::Route).await,
            ["api_units GET /a 12 12", "api_units GET /b 6 5", "tokens GET /b 900 0"]
        );
        assert_eq!(table(UsageBy::Key).await, ["api_units  6 5", "api_units key_1 12 12", "tokens key_1 900 0"]);
        assert_eq!(table(UsageBy::Status).await, ["api_units 200 18 15", "api_units 402 0 2", "tokens 200 900 0"]);
        assert_eq!(
            table(UsageBy::Hour).await,
            [
                "api_units 2026-11-20T10:00:00Z 11 10",
                "api_units 2026-11-21T00:00:00Z 7 7",
                "tokens 2026-11-20T10:00:00Z 900 0"
            ]
        );
        assert_eq!(
            table(UsageBy::Day).await,
            ["api_units 2026-11-20 11 10", "api_units 2026-11-21 7 7", "tokens 2026-11-20 900 0"]
        );
    }

    #[tokio::test]
    async fn hours_count_that_have_a_moment_in_the_span() {
        let (_folder, records, tenant) = filled().await;
        let units = async |from, to| {
            let rows = records.usage(tenant, from, to, UsageBy::Meter).await.unwrap();
            rows.first().map_or(0, |row| row.units)
        };
        assert_eq!(units(moment(1800), moment(1801)).await, 11);
        assert_eq!(units(moment(3599), moment(14 * 3600)).await, 11);
        assert_eq!(units(moment(3600), moment(14 * 3600)).await, 0);
        let just_after = Timestamp::from_millisecond((TEN + 14 * 3600) * 1000 + 1).unwrap();
        assert_eq!(units(moment(3600), just_after).await, 7);
    }

    #[tokio::test]
    async fn a_periods_use_says_what_stripe_has() {
        let (_folder, records, tenant) = filled().await;
        let meter = |meter: &str, used, reported| MeterUsage { meter: meter.to_owned(), used, reported };
        let usage = records.period_usage(tenant, kit::PERIOD).await.unwrap();
        assert_eq!(usage, [meter("api_units", 18, 0), meter("tokens", 900, 0)]);
        let report = records.seal(&kit::account(tenant), kit::at(1), kit::at(1)).await.unwrap().unwrap();
        assert_eq!(records.period_usage(tenant, kit::PERIOD).await.unwrap()[0].reported, 0);
        records.answered(&report, Answer::Delivered, kit::at(2)).await.unwrap();
        let usage = records.period_usage(tenant, kit::PERIOD).await.unwrap();
        assert_eq!(usage, [meter("api_units", 18, 18), meter("tokens", 900, 0)]);
        assert!(records.period_usage(tenant, PeriodId(1)).await.unwrap().is_empty());
    }
}
