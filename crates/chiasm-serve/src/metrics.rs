//! What the server did, as Prometheus reads it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::queue::{Counts, ModelQueue};

/// A path as it is routed, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    path: String,
}

/// Upper ends of the classes of how long an answer took, in seconds.
const SECONDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

type Seconds = Family<Path, Histogram, fn() -> Histogram>;

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    seconds: Seconds,
    pub(crate) in_flight: Gauge,
}

impl Metrics {
    /// For a server of some models.
    pub(crate) fn new(models: Vec<std::sync::Arc<ModelQueue>>) -> Self {
        let mut registry = Registry::with_prefix("chiasm");
        let answered = Family::default();
        let seconds = Seconds::new_with_constructor(|| Histogram::new(SECONDS));
        let in_flight = Gauge::default();
        registry.register(
            "http_requests",
            "Requests that were answered, by path and status",
            answered.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "How long answers took, by path",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests that are being answered",
            in_flight.clone(),
        );
        registry.register_collector(Box::new(Models(models)));
        registry.register_collector(Box::new(Resident));
        Self {
            registry,
            answered,
            seconds,
            in_flight,
        }
    }

    pub(crate) fn answered(&self, path: &str, status: u16, took: Duration) {
        let path = path.to_owned();
        let own = Path { path: path.clone() };
        self.seconds.get_or_create(&own).observe(took.as_secs_f64());
        self.answered
            .get_or_create(&Answered { path, status })
            .inc();
    }

    /// In the text format of OpenMetrics.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Counts of the models' queues, read when somebody asks.
struct Models(Vec<std::sync::Arc<ModelQueue>>);

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Models")
    }
}

impl Collector for Models {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Read = fn(&Counts) -> &AtomicU64;
        let counters: [(&str, &str, Read); 6] = [
            ("model_runs", "Batches that ran", |counts| &counts.runs),
            ("model_items", "Items in batches", |counts| &counts.items),
            ("model_tokens", "Tokens in batches", |counts| &counts.tokens),
            (
                "model_busy_microseconds",
                "How long the model worked",
                |counts| &counts.busy_micros,
            ),
            (
                "model_cancelled",
                "Items whose client went away",
                |counts| &counts.cancelled,
            ),
            ("model_expired", "Items that waited too long", |counts| {
                &counts.expired
            }),
        ];
        for (name, help, read) in counters {
            let mut family = encoder.encode_descriptor(
                name,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?;
            for model in &self.0 {
                let labels = [("model", model.card().id.as_str())];
                let own = family.encode_family(&labels)?;
                ConstCounter::new(read(model.counts()).load(Ordering::Relaxed)).encode(own)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "model_waiting_tokens",
            "Tokens that wait or run",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for model in &self.0 {
            let labels = [("model", model.card().id.as_str())];
            let own = family.encode_family(&labels)?;
            let tokens = i64::try_from(model.waiting_tokens()).unwrap_or(i64::MAX);
            ConstGauge::new(tokens).encode(own)?;
        }
        Ok(())
    }
}

/// Memory of the process, where the system says so.
#[derive(Debug)]
struct Resident;

impl Collector for Resident {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(bytes) = resident_bytes() else {
            return Ok(());
        };
        let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let own = encoder.encode_descriptor(
            "process_resident_memory",
            "Memory of the process",
            Some(&Unit::Bytes),
            gauge.metric_type(),
        )?;
        gauge.encode(own)
    }
}

/// Resident memory, from `/proc` where there is one.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}
