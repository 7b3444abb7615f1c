//! Metrics, in the `OpenMetrics` text form.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chiton_lifecycle::Engine;
use chiton_lifecycle::journal::{ObligationStatus, StepKey};
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    phase: String,
    extension: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExtensionLabels {
    extension: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriverLabels {
    driver: String,
}

/// What is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    seconds: Family<StepLabels, Histogram>,
    failures: Family<StepLabels, Counter>,
    obligations: Family<StatusLabels, Gauge>,
    oldest: Gauge<f64, AtomicU64>,
    attempts: Family<ExtensionLabels, Counter>,
    held: Gauge,
    requests: Counter,
    lost: Family<DriverLabels, Counter>,
    reachable: Family<DriverLabels, Gauge>,
}

/// 50 µs to about 100 s, in factors of four: a hook is microseconds, an image pull minutes.
fn buckets() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_2, 0.000_8, 0.003_2, 0.012_8, 0.051_2, 0.204_8, 0.819_2, 3.276_8, 13.107_2, 52.428_8,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("chiton");
        let seconds = Family::<StepLabels, Histogram>::new_with_constructor(buckets);
        let (failures, obligations, oldest) =
            (Family::default(), Family::default(), Gauge::<f64, AtomicU64>::default());
        let (attempts, held, requests) = (Family::default(), Gauge::default(), Counter::default());
        registry.register("step_seconds", "Duration of lifecycle steps by phase and extension", seconds.clone());
        registry.register("step_failures", "Lifecycle steps that failed", failures.clone());
        registry.register(
            "obligations",
            "Cleanups that could not be paid, by what becomes of them",
            obligations.clone(),
        );
        registry.register(
            "obligations_oldest_seconds",
            "Age of the oldest open obligation; 0 without one",
            oldest.clone(),
        );
        registry.register(
            "obligation_attempts",
            "Cleanups that were tried and left something owed, since the gateway started",
            attempts.clone(),
        );
        registry.register("held_sandboxes", "Sandboxes that wait for something that is missing", held.clone());
        registry.register("requests", "API requests", requests.clone());
        let lost = Family::<DriverLabels, Counter>::default();
        registry.register(
            "log_dropped_bytes",
            "Output of main processes that could not be written, since the gateway started",
            lost.clone(),
        );
        let reachable = Family::<DriverLabels, Gauge>::default();
        registry.register("driver_reachable", "1 when the driver can be asked, 0 when not", reachable.clone());
        Self {
            registry: Mutex::new(registry),
            seconds,
            failures,
            obligations,
            oldest,
            attempts,
            held,
            requests,
            lost,
            reachable,
        }
    }
}

impl Metrics {
    pub(crate) fn step(&self, step: &StepKey, took: Duration, failed: bool) {
        let labels = match step {
            StepKey::Hook { phase, extension } => {
                StepLabels { phase: phase.to_string(), extension: extension.to_string() }
            }
            StepKey::Driver(call) => {
                StepLabels { phase: format!("driver_{}", call.as_str()), extension: String::new() }
            }
        };
        if failed {
            self.failures.get_or_create(&labels).inc();
        }
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A cleanup was tried and left something owed.
    pub(crate) fn obligation_attempt(&self, extension: &str) {
        self.attempts.get_or_create(&ExtensionLabels { extension: extension.to_owned() }).inc();
    }

    /// Takes in what the engine knows at this moment.
    fn look(&self, engine: &Engine, now: Timestamp) {
        let obligations = engine.obligations();
        let of = |status| obligations.iter().filter(move |obligation| obligation.status == status);
        for (label, status) in [("open", ObligationStatus::Open), ("abandoned", ObligationStatus::Abandoned)] {
            let count = i64::try_from(of(status).count()).unwrap_or(i64::MAX);
            self.obligations.get_or_create(&StatusLabels { status: label }).set(count);
        }
        let oldest = of(ObligationStatus::Open).map(|obligation| obligation.opened_at).min();
        // The wall clock may have been set back since.
        self.oldest.set(oldest.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0)));
        let unreachable = engine.unreachable();
        for driver in engine.drivers() {
            let labels = DriverLabels { driver: driver.capabilities().id.to_string() };
            self.lost.get_or_create(&labels).inner().store(driver.lost_output(), Ordering::Relaxed);
            let reachable = !unreachable.contains_key(&driver.capabilities().id);
            self.reachable.get_or_create(&labels).set(i64::from(reachable));
        }
        self.held.set(i64::try_from(engine.held()).unwrap_or(i64::MAX));
    }

    pub(crate) fn request(&self) {
        self.requests.inc();
    }

    /// All of it as of now, as text.
    pub(crate) fn text(&self, engine: &Engine) -> String {
        self.look(engine, Timestamp::now());
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# the metrics could not be written: {error}\n"),
        }
    }
}
