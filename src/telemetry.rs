//! Logs and metrics of this process. Both are set up once per process, however many gateways it starts.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub mod names;

/// Which records are logged when `TOLLGATE_LOG` does not say.
const DEFAULT_FILTER: &str = "info";

/// How often histograms are folded; between two beats each sample waits in memory.
const UPKEEP: Duration = Duration::from_secs(1);

/// Upper bounds of `tollgate_request_seconds`, from a cached answer on loopback to a slow export.
pub const REQUEST_BUCKETS_S: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Upper bounds of `tollgate_overhead_seconds`: microseconds in the common case, a settle's wait at worst.
pub const OVERHEAD_BUCKETS_S: &[f64] =
    &[0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.025, 0.06, 0.1];

/// Why logs or metrics could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SetupError {
    /// `TOLLGATE_LOG` is not a filter.
    #[error(
        "TOLLGATE_LOG={value:?} is not a log filter: {reason}; allowed: error, warn, info, debug, trace, or `target=level` separated by commas"
    )]
    Filter {
        /// As given.
        value: String,
        /// What the parser said.
        reason: String,
    },
    /// `TOLLGATE_LOG_FORMAT` is neither of the two.
    #[error("TOLLGATE_LOG_FORMAT={0:?} is unknown; allowed: text, json")]
    Format(String),
    /// Another metrics recorder was installed in this process first.
    #[error("metrics are already recorded by something else in this process")]
    Recorder,
}

/// How log records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Starts logging to standard error: text on a terminal, JSON lines otherwise or as `TOLLGATE_LOG_FORMAT=text|json` says;
/// which records, as `TOLLGATE_LOG` says (`info` by default).
///
/// Only the first call of a process has an effect; later ones answer as the first did.
///
/// # Errors
/// [`SetupError::Filter`] and [`SetupError::Format`] for an environment variable that cannot be understood.
pub fn init_logs() -> Result<(), SetupError> {
    static DONE: OnceLock<Result<(), SetupError>> = OnceLock::new();
    DONE.get_or_init(|| {
        let spec = std::env::var("TOLLGATE_LOG").ok();
        let format = std::env::var("TOLLGATE_LOG_FORMAT").ok();
        let filter = filter(spec.as_deref().unwrap_or(DEFAULT_FILTER))?;
        install_logs(filter, format_of(format.as_deref(), std::io::stderr().is_terminal())?);
        Ok(())
    })
    .clone()
}

fn filter(spec: &str) -> Result<EnvFilter, SetupError> {
    EnvFilter::builder()
        .parse(spec)
        .map_err(|error| SetupError::Filter { value: spec.to_owned(), reason: error.to_string() })
}

fn format_of(name: Option<&str>, terminal: bool) -> Result<Format, SetupError> {
    match name {
        Some("text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        Some(other) => Err(SetupError::Format(other.to_owned())),
        None if terminal => Ok(Format::Text),
        None => Ok(Format::Json),
    }
}

fn install_logs(filter: EnvFilter, format: Format) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Err(error) = installed {
        // A test harness that logs by its own subscriber keeps it.
        tracing::debug!(%error, "logs are already written by something else");
    }
}

/// The process's metrics. Cheap to clone; every clone shows the same numbers.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Installs the recorder behind the `metrics` macros and describes every name; later calls give the same one.
    ///
    /// # Errors
    /// [`SetupError::Recorder`] when the process records its metrics elsewhere.
    pub fn install() -> Result<Self, SetupError> {
        static INSTALLED: OnceLock<Result<Metrics, SetupError>> = OnceLock::new();
        INSTALLED.get_or_init(install_recorder).clone()
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps memory bounded while nobody scrapes, until `cancel`. One per process is enough; more do no harm.
    pub async fn upkeep(self, cancel: CancellationToken) {
        let mut beat = tokio::time::interval(UPKEEP);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(beat.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }
}

fn install_recorder() -> Result<Metrics, SetupError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(names::REQUEST_SECONDS.to_owned()), REQUEST_BUCKETS_S)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Full(names::OVERHEAD_SECONDS.to_owned()), OVERHEAD_BUCKETS_S))
        .expect("the lists of buckets are not empty")
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| SetupError::Recorder)?;
    names::describe();
    Ok(Metrics { handle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_twice_gives_the_same_numbers() {
        let first = Metrics::install().expect("nothing else records");
        let second = Metrics::install().expect("the same again");
        metrics::counter!(names::REFUSALS_TOTAL, "code" => "telemetry_test").increment(3);
        let line = "tollgate_refusals_total{code=\"telemetry_test\"} 3";
        assert!(first.render().contains(line), "{}", first.render());
        assert!(second.render().contains(line));
        assert!(second.render().contains("# HELP tollgate_refusals_total "));
    }

    #[test]
    fn durations_are_classic_histograms() {
        let metrics = Metrics::install().expect("nothing else records");
        metrics::histogram!(names::OVERHEAD_SECONDS).record(0.000_03);
        let text = metrics.render();
        assert!(text.contains("# TYPE tollgate_overhead_seconds histogram"), "{text}");
        assert!(text.contains("tollgate_overhead_seconds_bucket{le=\"0.000025\"} 0"), "{text}");
        assert!(text.contains("tollgate_overhead_seconds_bucket{le=\"0.00005\"} 1"), "{text}");
    }

    #[test]
    fn the_format_follows_the_variable_then_the_terminal() {
        assert_eq!(format_of(None, true).expect("known"), Format::Text);
        assert_eq!(format_of(None, false).expect("known"), Format::Json);
        assert_eq!(format_of(Some("text"), false).expect("known"), Format::Text);
        assert_eq!(format_of(Some("json"), true).expect("known"), Format::Json);
        let error = format_of(Some("xml"), true).expect_err("unknown").to_string();
        assert_eq!(error, "TOLLGATE_LOG_FORMAT=\"xml\" is unknown; allowed: text, json");
    }

    #[test]
    fn a_wrong_filter_names_the_variable_and_what_is_allowed() {
        let error = filter("tollgate=loud").expect_err("no such level").to_string();
        assert!(error.starts_with("TOLLGATE_LOG=\"tollgate=loud\" is not a log filter"), "{error}");
        assert!(error.contains("error, warn, info, debug, trace"), "{error}");
        assert!(filter("info,tollgate::journal=debug").is_ok());
    }
}
