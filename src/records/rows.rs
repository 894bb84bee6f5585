//! Between our types and the database's: `i64`, text, blob.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::{Listed, RecordsError};
use crate::units::{Account, PeriodId, TenantNum};

/// A quantity on its way in; the database's integers end at 2^63 - 1.
pub(super) fn int(value: u64) -> Result<i64, RecordsError> {
    i64::try_from(value).map_err(|_| RecordsError::Invalid(format!("{value} is more than 2^63 - 1")))
}

/// A quantity on its way out.
pub(super) fn uint(value: i64) -> Result<u64, RecordsError> {
    u64::try_from(value).map_err(|_| RecordsError::Corrupt(format!("a negative quantity: {value}")))
}

/// A time on its way out; on its way in it is `as_millisecond`.
pub(super) fn time(ms: i64) -> Result<Timestamp, RecordsError> {
    Timestamp::from_millisecond(ms).map_err(|error| RecordsError::Corrupt(error.to_string()))
}

/// Rows as one parameter, for `json_each($n)`.
pub(super) fn json<T: serde::Serialize + ?Sized>(rows: &T) -> Result<String, RecordsError> {
    serde_json::to_string(rows).map_err(|error| RecordsError::Invalid(error.to_string()))
}

/// The cursor of a list by number: the number itself; none is before all.
pub(super) fn cursor(after: Option<&str>) -> Result<i64, RecordsError> {
    after.map_or(Ok(i64::MAX), |text| text.parse().map_err(|_| bad_cursor(text)))
}

/// An answer to a cursor that no page came with.
pub(super) fn bad_cursor(text: &str) -> RecordsError {
    RecordsError::Invalid(format!("{text:?} is not a cursor of this list"))
}

/// How many rows to ask for: one more than the page, to know whether there is a next.
pub(super) fn limit(limit: u32) -> i64 {
    i64::from(limit.clamp(1, 1000)) + 1
}

/// The hash of a key's secret.
pub(super) fn sha256(row: &AnyRow, column: &str) -> Result<[u8; 32], RecordsError> {
    let bytes: Vec<u8> = row.col(column)?;
    bytes.try_into().map_err(|_| RecordsError::Corrupt("a key's hash is not 32 bytes".to_owned()))
}

/// Typed access to a row's columns.
pub(super) trait Columns {
    /// A column of a type the database knows.
    fn col<'r, T>(&'r self, name: &str) -> Result<T, RecordsError>
    where
        T: Decode<'r, sqlx::Any> + Type<sqlx::Any>;
    /// A quantity.
    fn units(&self, name: &str) -> Result<u64, RecordsError> {
        uint(self.col(name)?)
    }
    /// A time.
    fn time(&self, name: &str) -> Result<Timestamp, RecordsError> {
        time(self.col(name)?)
    }
    /// A time, or none.
    fn maybe_time(&self, name: &str) -> Result<Option<Timestamp>, RecordsError> {
        self.col::<Option<i64>>(name)?.map(time).transpose()
    }
    /// The columns `tenant`, `period`, `meter`.
    fn account(&self) -> Result<Account, RecordsError> {
        Ok(Account {
            tenant: TenantNum(self.units("tenant")?),
            period: PeriodId(self.col("period")?),
            meter: Arc::from(self.col::<String>("meter")?),
        })
    }
}

impl Columns for AnyRow {
    fn col<'r, T>(&'r self, name: &str) -> Result<T, RecordsError>
    where
        T: Decode<'r, sqlx::Any> + Type<sqlx::Any>,
        for<'i> &'i str: ColumnIndex<AnyRow>,
    {
        self.try_get(name).map_err(|error| RecordsError::Corrupt(format!("column {name}: {error}")))
    }
}

/// A page out of `found`, which holds one row more than the page if there is a next.
pub(super) fn listed<T>(mut found: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Listed<T> {
    let size = usize::try_from(limit.clamp(1, 1000)).expect("a u32 fits in every usize Tollgate is built for");
    let more = found.len() > size;
    found.truncate(size);
    let next = found.last().filter(|_| more).map(cursor);
    Listed { data: found, next }
}

/// A time as the database keeps it, so that what comes back is what was put in.
pub(super) fn whole_ms(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).expect("milliseconds of a Timestamp are within its range")
}
