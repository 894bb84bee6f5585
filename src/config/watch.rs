//! Changed files: both are watched, and what they say now is handed on, right or wrong.
//!
//! A change is taken only when two readings a quarter of a second apart agree, so that a file in the middle of being
//! written is never taken for a shorter one. Events of the operating system only make it quick: the files are also
//! compared twice a second, which is what notices a Kubernetes `..data` symlink, a network file system, or a file that
//! is a link into another directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::{ConfigErrors, Env, Loaded, fingerprint, load_with_hash, read_source};

/// A changed configuration. On `Err` the receiver keeps what it has: a bad file is refused whole.
pub type Change = Result<Loaded, ConfigErrors>;

/// How long a file must lie still before it is read.
const STILL: Duration = Duration::from_millis(250);

/// How often the files are compared when no event came.
const POLL: Duration = Duration::from_millis(500);

/// Watches the files of one [`Loaded`] configuration.
pub struct Watch {
    settings_path: PathBuf,
    pricing_path: PathBuf,
    env: Env,
    /// Content that was handed on last.
    known: String,
    /// Set by an event.
    touched: Arc<Notify>,
    events: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches from the content of `loaded` on; `env` is used for each reload.
    #[must_use]
    pub fn new(loaded: &Loaded, env: Env) -> Self {
        let touched = Arc::new(Notify::new());
        let mut watch = Self {
            settings_path: loaded.settings_path.clone(),
            pricing_path: loaded.pricing_path.clone(),
            env,
            known: loaded.sha256.clone(),
            events: events(Arc::clone(&touched)),
            touched,
        };
        watch.follow();
        watch
    }

    /// Hands each change on, at most 1 s after the file was written, until the receiver is gone. A full queue waits:
    /// what is sent then is what the files said when they were read, and later changes follow.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        while !changes.is_closed() {
            // Both outcomes mean the same: look.
            if timeout(POLL, self.touched.notified()).await.is_err() && self.is_known() {
                continue;
            }
            if let Some(change) = self.settled().await
                && changes.send(change).await.is_err()
            {
                return;
            }
        }
    }

    /// What the files say once they lie still, if that is new.
    async fn settled(&mut self) -> Option<Change> {
        let mut before = self.current();
        loop {
            if before == self.known {
                return None;
            }
            sleep(STILL).await;
            let now = self.current();
            if now == before {
                break;
            }
            before = now;
        }
        let (sha256, change) = load_with_hash(&self.settings_path, &self.env);
        self.adopt(sha256, &change);
        Some(change)
    }

    fn adopt(&mut self, sha256: String, change: &Change) {
        self.known = sha256;
        if let Ok(loaded) = change {
            self.pricing_path.clone_from(&loaded.pricing_path);
            self.follow();
        }
        // A bad settings file may name another pricing file; its content then differs from what `current` compares.
        // Take the comparison's own view, so that one content is reported once.
        self.known = if change.is_ok() { std::mem::take(&mut self.known) } else { self.current() };
    }

    fn is_known(&self) -> bool {
        self.current() == self.known
    }

    /// The files' content now. Two small local files: not worth a thread.
    fn current(&self) -> String {
        let (settings, pricing) = (read_source(&self.settings_path), read_source(&self.pricing_path));
        match &settings {
            Ok(settings) => fingerprint([Ok(settings), pricing.as_ref()]),
            Err(error) => fingerprint([Err(error)]),
        }
    }

    /// Watches the directories: editors and Kubernetes replace files, and a watch on the old file would go deaf.
    fn follow(&mut self) {
        let Some(events) = &mut self.events else { return };
        for path in [&self.settings_path, &self.pricing_path] {
            let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            if let Err(error) = events.watch(directory, RecursiveMode::NonRecursive) {
                tracing::warn!(directory = %directory.display(), %error, "no events for this directory; polling only");
            }
        }
    }
}

fn events(touched: Arc<Notify>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Our own reading is an access; it must not wake us again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            touched.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(on_event);
    watcher.inspect_err(|error| tracing::warn!(%error, "no file events here; polling only")).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::config::load;

    const SETTINGS: &str = "upstreams: [{ name: api, origins: ['http://127.0.0.1:9000'] }]\n";
    const PRICING: &str = "plans: { free: { monthly: 0, included: { api_units: 100 } } }\n";

    struct Setup {
        directory: tempfile::TempDir,
        changes: mpsc::Receiver<Change>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Setup {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("tollgate.yaml"), SETTINGS).unwrap();
            fs::write(directory.path().join("pricing.yaml"), PRICING).unwrap();
            Self::watch(directory)
        }

        fn watch(directory: tempfile::TempDir) -> Self {
            let loaded = load(&directory.path().join("tollgate.yaml"), &Env::empty()).unwrap();
            let (sender, changes) = mpsc::channel(1);
            let task = tokio::spawn(Watch::new(&loaded, Env::empty()).run(sender));
            Self { directory, changes, task }
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.directory.path().join(file), text).unwrap();
        }

        async fn next(&mut self) -> Change {
            timeout(Duration::from_secs(10), self.changes.recv()).await.expect("a change in time").expect("still open")
        }

        /// Nothing more comes for longer than a poll and a debounce.
        async fn quiet(&mut self) {
            let more = timeout(Duration::from_millis(900), self.changes.recv()).await;
            assert!(more.is_err(), "{more:?}");
        }

        async fn end(self) {
            drop(self.changes);
            timeout(Duration::from_secs(10), self.task).await.expect("ends with its receiver").unwrap();
        }
    }

    fn included(change: &Change) -> u64 {
        let plan = &change.as_ref().unwrap().pricing.plans["free"];
        plan.included[&crate::pricing::MeterIndex(0)]
    }

    #[tokio::test]
    async fn a_change_is_handed_on_and_a_bad_one_once() {
        let mut setup = Setup::start();
        setup.write("pricing.yaml", &PRICING.replace("100", "200"));
        let before = Instant::now();
        assert_eq!(included(&setup.next().await), 200);
        assert!(before.elapsed() >= STILL, "not before the file lay still");

        setup.write("pricing.yaml", &PRICING.replace("100", "many"));
        let errors = setup.next().await.unwrap_err();
        assert_eq!(errors.errors[0].path, "plans.free.included.api_units");
        setup.quiet().await;

        setup.write("pricing.yaml", &PRICING.replace("100", "300"));
        assert_eq!(included(&setup.next().await), 300);
        setup.end().await;
    }

    #[tokio::test]
    async fn a_bad_settings_file_is_reported_once_and_recovers() {
        let mut setup = Setup::start();
        setup.write("tollgate.yaml", &format!("{SETTINGS}pricing: elsewhere.yaml\n"));
        assert!(setup.next().await.is_err());
        setup.quiet().await;
        setup.write("elsewhere.yaml", &PRICING.replace("100", "7"));
        setup.write("tollgate.yaml", &format!("{SETTINGS}pricing: elsewhere.yaml # there now\n"));
        assert_eq!(included(&setup.next().await), 7);
        setup.write("elsewhere.yaml", &PRICING.replace("100", "8"));
        assert_eq!(included(&setup.next().await), 8);
        setup.end().await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_swapped_kubernetes_link_is_seen() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, units) in [("v1", "100"), ("v2", "900")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tollgate.yaml"), SETTINGS).unwrap();
            fs::write(at(version).join("pricing.yaml"), PRICING.replace("100", units)).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/tollgate.yaml", at("tollgate.yaml")).unwrap();
        symlink("..data/pricing.yaml", at("pricing.yaml")).unwrap();
        let (swap, target) = (at("..data_tmp"), at("..data"));
        let mut setup = Setup::watch(directory);
        symlink("v2", &swap).unwrap();
        fs::rename(&swap, &target).unwrap();
        assert_eq!(included(&setup.next().await), 900);
        setup.end().await;
    }
}
