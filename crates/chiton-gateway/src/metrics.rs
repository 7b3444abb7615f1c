//! Metrics, in the `OpenMetrics` text form.

use std::time::Duration;

use chiton_lifecycle::journal::StepKey;
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

/// What is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    seconds: Family<StepLabels, Histogram>,
    failures: Family<StepLabels, Counter>,
    obligations: Gauge,
    requests: Counter,
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
        let (failures, obligations, requests) = (Family::default(), Gauge::default(), Counter::default());
        registry.register("step_seconds", "Duration of lifecycle steps by phase and extension", seconds.clone());
        registry.register("step_failures", "Lifecycle steps that failed", failures.clone());
        registry.register("obligations", "Cleanups that are owed and could not be paid", obligations.clone());
        registry.register("requests", "API requests", requests.clone());
        Self { registry: Mutex::new(registry), seconds, failures, obligations, requests }
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

    pub(crate) fn obligation(&self, open: bool) {
        if open {
            self.obligations.inc()
        } else {
            self.obligations.dec()
        };
    }

    /// The obligations that were open at start-up.
    pub(crate) fn set_obligations(&self, count: usize) {
        self.obligations.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn request(&self) {
        self.requests.inc();
    }

    /// All of it, as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# the metrics could not be written: {error}\n"),
        }
    }
}
