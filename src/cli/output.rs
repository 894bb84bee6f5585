//! Writing to standard output and error, also when the reader has gone away (`tollgate usage acme | head`).

use std::io::{self, Write};

use serde_json::Value;

use super::Failure;

/// Writes `text`, with a newline at its end if it has none, to standard output.
///
/// # Errors
/// [`Failure::Refused`] when it cannot be written; a reader that has seen enough is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    write_to(io::stdout().lock(), text).map_err(|error| Failure::Refused(format!("cannot write the output: {error}")))
}

/// Pretty JSON to standard output.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}"))
}

/// One complaint to standard error, with our name before it; several lines stand for themselves, so that the places in
/// files at their beginnings stay what editors look for. If nobody listens there, the exit code still tells.
pub(super) fn complain(text: &str) {
    let name = if text.trim_end().contains('\n') { "" } else { "tollgate: " };
    if write_to(io::stderr().lock(), &format!("{name}{text}")).is_err() {
        // The exit code tells.
    }
}

fn write_to(mut out: impl Write, text: &str) -> io::Result<()> {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The array `member` of an answer; empty if it is missing.
pub(super) fn rows<'a>(answer: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    answer.get(member).and_then(Value::as_array).into_iter().flatten()
}

/// A member for a table's cell; `-` where there is nothing.
pub(super) fn cell(object: &Value, member: &str) -> String {
    object.get(member).map_or_else(|| "-".to_owned(), text)
}

/// A value for people: strings bare, lists with commas, nothing as `-`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// An object's members, one per line, values aligned.
pub(super) fn members(object: &Value) -> String {
    let members = || object.as_object().into_iter().flatten();
    let width = members().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = members().map(|(name, value)| format!("{name:<width$}  {}\n", text(value))).collect();
    lines.concat()
}

/// How to get the next page of a list, if there is one.
pub(super) fn more(listed: &Value) -> String {
    let next = listed.get("next").and_then(Value::as_str);
    next.map(|cursor| format!("more: --after {cursor}\n")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_but_a_full_disk_is() {
        assert!(write_to(Fails(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_to(Fails(io::ErrorKind::StorageFull), "x").is_err());
    }

    #[test]
    fn exactly_one_newline_ends_the_output() {
        let mut out = Vec::new();
        write_to(&mut out, "a").expect("memory");
        write_to(&mut out, "b\n").expect("memory");
        assert_eq!(out, b"a\nb\n");
    }
}
