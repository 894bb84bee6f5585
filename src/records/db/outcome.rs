//! What a failure means: nothing happened, or nobody knows; and whether trying again may help.

use std::io::ErrorKind;
use std::sync::Arc;

use super::super::RecordsError;

impl From<sqlx::Error> for RecordsError {
    /// An error of any statement but a commit: its transaction is rolled back.
    fn from(error: sqlx::Error) -> Self {
        if matches!(
            error,
            sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::TypeNotFound { .. }
        ) {
            return Self::Corrupt(error.to_string());
        }
        // "Data exception": a value that the database cannot hold, such as a sum above 2^63 - 1 or a text with a NUL.
        if code(&error).is_some_and(|code| code.starts_with("22")) {
            return Self::Invalid(error.to_string());
        }
        Self::Unavailable(Arc::new(error))
    }
}

/// What an error of a commit means. Where the server says in so many words that it rolled the transaction back, nothing
/// happened; a lost answer, or any other, leaves it open.
pub(super) fn of_commit(error: sqlx::Error) -> RecordsError {
    if code(&error).is_some_and(|code| is_rolled_back(&code)) {
        return RecordsError::Unavailable(Arc::new(error));
    }
    RecordsError::Unknown(Arc::new(error))
}

/// Whether the same transaction may well go through if it is done again at once. Nothing of it has happened.
pub(super) fn may_pass(error: &RecordsError) -> bool {
    let RecordsError::Unavailable(cause) = error else { return false };
    let Some(error) = cause.downcast_ref::<sqlx::Error>() else { return false };
    match code(error) {
        // 23505: somebody else has just made the same; the next attempt finds it there.
        Some(code) => is_rolled_back(&code) || code == "23505" || is_ended(&code),
        None => matches!(error, sqlx::Error::Io(cause) if is_lost(cause.kind())),
    }
}

/// Whether the connection itself is in doubt: it failed, or it did not answer.
pub(super) fn is_of_connection(error: &RecordsError) -> bool {
    match error {
        RecordsError::Unavailable(cause) => {
            cause.downcast_ref::<sqlx::Error>().is_none_or(|error| error.as_database_error().is_none())
        }
        RecordsError::Unknown(_) => true,
        RecordsError::Corrupt(_) | RecordsError::Invalid(_) => false,
    }
}

/// Class 40, but for "statement completion unknown".
fn is_rolled_back(code: &str) -> bool {
    code.starts_with("40") && code.len() == 5 && code != "40003"
}

/// The server ended the connection: it is restarting, or an operator or a time limit did it.
fn is_ended(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "25P03")
}

fn is_lost(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
    )
}

/// PostgreSQL's five characters (<https://www.postgresql.org/docs/current/errcodes-appendix.html>). SQLite's codes are
/// numbers of other lengths.
fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    (code.len() == 5).then(|| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: ErrorKind) -> sqlx::Error {
        sqlx::Error::Io(kind.into())
    }

    #[test]
    fn a_commit_whose_answer_is_lost_is_unknown() {
        for kind in [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::TimedOut] {
            assert!(matches!(of_commit(io(kind)), RecordsError::Unknown(_)));
            assert!(!may_pass(&of_commit(io(kind))), "it may have happened");
        }
    }

    #[test]
    fn a_statement_whose_answer_is_lost_did_nothing() {
        assert!(matches!(RecordsError::from(io(ErrorKind::ConnectionReset)), RecordsError::Unavailable(_)));
        assert!(may_pass(&io(ErrorKind::ConnectionReset).into()));
        assert!(!may_pass(&io(ErrorKind::TimedOut).into()), "a server that hangs is not asked again at once");
    }

    #[test]
    fn only_class_40_says_that_nothing_happened() {
        assert!(is_rolled_back("40001") && is_rolled_back("40P01"));
        assert!(!is_rolled_back("40003") && !is_rolled_back("57P01"));
    }
}
