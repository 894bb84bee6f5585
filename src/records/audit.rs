//! The audit log: only ever added to.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{AuditEntry, Listed, Page, Records, RecordsError};

const INSERT: &str = "INSERT INTO audit (at, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5)";
const LIST: &str =
    "SELECT num, at, actor, action, subject, detail FROM audit WHERE num < $1 ORDER BY num DESC LIMIT $2";

impl Records {
    /// Adds an entry.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), RecordsError> {
        let entry = &entry;
        transact!(self.db(), Durability::PowerCut, |connection| insert(connection, entry).await)
    }

    /// Entries, newest first.
    pub async fn audits(&self, page: Page) -> Result<Listed<AuditEntry>, RecordsError> {
        let query = sqlx::query(LIST).bind(rows::cursor(page.after.as_deref())?).bind(rows::limit(page.limit));
        let found = query.fetch_all(self.db().read()).await?;
        let found = found.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let listed = rows::listed(found, page.limit, |(num, _)| num.to_string());
        Ok(Listed { data: listed.data.into_iter().map(|(_, entry)| entry).collect(), next: listed.next })
    }
}

async fn insert(connection: &mut AnyConnection, entry: &AuditEntry) -> Result<(), RecordsError> {
    let query = sqlx::query(INSERT)
        .bind(entry.at.as_millisecond())
        .bind(entry.actor.clone())
        .bind(entry.action.clone())
        .bind(entry.subject.clone())
        .bind(entry.detail.to_string());
    query.execute(connection).await?;
    Ok(())
}

fn entry(row: &AnyRow) -> Result<(i64, AuditEntry), RecordsError> {
    let detail: String = row.col("detail")?;
    let entry = AuditEntry {
        at: row.time("at")?,
        actor: row.col("actor")?,
        action: row.col("action")?,
        subject: row.col("subject")?,
        detail: serde_json::from_str(&detail).map_err(|error| RecordsError::Corrupt(error.to_string()))?,
    };
    Ok((row.col("num")?, entry))
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::*;

    #[tokio::test]
    async fn entries_come_back_newest_first() {
        let (_folder, records) = kit::records().await;
        let entry = |n: i64| AuditEntry {
            at: kit::at(n),
            actor: "ops".to_owned(),
            action: "tenant.create".to_owned(),
            subject: format!("t{n}"),
            detail: serde_json::json!({ "plan": "pro", "n": n }),
        };
        for n in 0..3 {
            records.audit(entry(n)).await.unwrap();
        }
        let first = records.audits(kit::page(2, None)).await.unwrap();
        assert_eq!(first.data, [entry(2), entry(1)]);
        records.audit(entry(3)).await.unwrap();
        let second = records.audits(kit::page(2, first.next)).await.unwrap();
        assert_eq!((second.data, second.next), (vec![entry(0)], None));
    }
}
