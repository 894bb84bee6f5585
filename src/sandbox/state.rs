//! The account in a file: every call that changed something, one JSON line each, done again at the next start.
//!
//! Everything the sandbox does follows from its calls, their times and the salt of its ids; so the calls are the
//! state. A line is in the file before its answer is given. What faults did to answers is not kept.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};

use super::answer::Request;
use super::collect::DunningEnd;
use super::meter_events::Validation;
use super::outbox::Delivering;

/// One thing that changed the account; times are the sandbox's, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first line.
    Begin { salt: String },
    /// A call of the API.
    Call {
        at_ms: i64,
        method: String,
        target: String,
        body: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A form sent by a hosted page.
    Visit { at_ms: i64, path: String, body: String },
    /// Late errors became thin events.
    Report { at_ms: i64 },
    /// An endpoint acknowledged an event.
    Acknowledged { event: String, endpoint: String },
    /// The sandbox runs ahead of the system's clock by so much more.
    Ahead { by_ms: i64 },
    /// A change of `/_sandbox/settings`.
    Settings(Settings),
}

/// What `/_sandbox/settings` takes; what is not named stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) validation: Option<Validation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dunning_end: Option<DunningEnd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) webhooks: Option<Delivering>,
}

impl Entry {
    /// A call as it came in.
    pub(super) fn of(request: &Request, at_ms: i64) -> Self {
        Self::Call {
            at_ms,
            method: request.method.to_string(),
            target: request.target.clone(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            key: request.idempotency_key.clone(),
            version: request.stripe_version.clone(),
        }
    }
}

/// The call of an entry, to be done again.
pub(super) fn request(
    method: &str,
    target: String,
    body: String,
    key: Option<String>,
    version: Option<String>,
) -> Request {
    Request {
        method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::POST),
        target,
        authorization: None,
        idempotency_key: key,
        stripe_version: version,
        content_type: None,
        body: Bytes::from(body),
    }
}

/// The file, open for the next line.
#[derive(Debug)]
pub(super) struct StateFile(File);

impl StateFile {
    /// Opens or makes the file; what it holds is the answer. A last line that was cut off by a crash is removed: its
    /// call was never answered.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let (entries, whole) = read(&file)?;
        file.set_len(whole)?;
        file.flush()?;
        Ok((Self(file), entries))
    }

    /// Appends a line.
    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// The entries, and the bytes of the whole lines.
fn read(file: &File) -> io::Result<(Vec<Entry>, u64)> {
    let (mut entries, mut whole) = (Vec::new(), 0_u64);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.last() != Some(&b'\n') {
            break;
        }
        let entry = serde_json::from_slice(&line).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {} of the state file: {error}", entries.len() + 1))
        })?;
        entries.push(entry);
        whole += u64::try_from(line.len()).unwrap_or(u64::MAX);
        line.clear();
    }
    Ok((entries, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_crash_cut_off_is_gone_and_the_next_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut file, entries) = StateFile::open(&path).unwrap();
        assert!(entries.is_empty());
        file.append(&Entry::Begin { salt: "s".into() }).unwrap();
        file.append(&Entry::Ahead { by_ms: 5 }).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let (mut file, entries) = StateFile::open(&path).unwrap();
        assert!(matches!(entries.as_slice(), [Entry::Begin { .. }]), "{entries:?}");
        file.append(&Entry::Ahead { by_ms: 7 }).unwrap();
        let (_, entries) = StateFile::open(&path).unwrap();
        assert!(matches!(entries.as_slice(), [Entry::Begin { .. }, Entry::Ahead { by_ms: 7 }]), "{entries:?}");
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        std::fs::write(&path, "dear diary\n").unwrap();
        assert_eq!(StateFile::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary\n");
    }
}
