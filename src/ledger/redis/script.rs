//! Scripts, sent by their hash; in full where the server does not know them.

use redis::{Cmd, Value};

use super::Bucket;
use super::link::{Failure, Link};

/// A script and its hash.
pub(super) struct Script {
    body: &'static str,
    sha1: String,
}

/// The scripts of the ledger.
pub(super) struct Scripts {
    pub(super) settle: Script,
    pub(super) begin: Script,
    pub(super) confirm: Script,
    pub(super) open: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            settle: Script::new(include_str!("settle.lua")),
            begin: Script::new(include_str!("begin.lua")),
            confirm: Script::new(include_str!("confirm.lua")),
            open: Script::new(include_str!("open.lua")),
        }
    }
}

impl Script {
    fn new(body: &'static str) -> Self {
        Self { body, sha1: redis::Script::new(body).get_hash().to_owned() }
    }

    /// Runs it once. A server that does not know it has done nothing yet.
    pub(super) async fn run(
        &self,
        link: &Link,
        bucket: Bucket,
        keys: &[String],
        args: &[String],
    ) -> Result<Value, Failure> {
        match link.run(bucket, &call("EVALSHA", &self.sha1, keys, args)).await {
            Err(Failure::NoScript) => link.run(bucket, &call("EVAL", self.body, keys, args)).await,
            answered => answered,
        }
    }
}

fn call(verb: &str, script: &str, keys: &[String], args: &[String]) -> Cmd {
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(keys.len()).arg(keys).arg(args);
    cmd
}
