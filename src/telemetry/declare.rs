//! Creates and registers metrics, and keeps their descriptions for the documentation.

use std::cell::RefCell;

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// 1, 2, 4 … 16384: up to the largest batch there can be, and one beyond.
pub fn message_buckets() -> Vec<f64> {
    (0..15).map(|power| f64::from(1 << power)).collect()
}

/// 0.5 ms to 10 s.
pub fn second_buckets() -> Vec<f64> {
    vec![
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    ]
}

/// 1 ms to 5 min.
pub fn delivery_buckets() -> Vec<f64> {
    vec![
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
        300.0,
    ]
}

/// A metric as its documentation shows it.
#[derive(Clone, Debug)]
pub struct Description {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
    pub help: String,
}

/// Creates and registers metrics.
#[derive(Default)]
pub struct Declare {
    registry: Registry,
    described: RefCell<Vec<Description>>,
}

impl Declare {
    /// The registry with every metric, and their descriptions in the order of declaration.
    pub fn finish(self) -> (Registry, Vec<Description>) {
        (self.registry, self.described.into_inner())
    }

    fn register<M: Collector + Clone + 'static>(
        &self,
        kind: &'static str,
        metric: prometheus::Result<M>,
    ) -> M {
        let metric = metric
            .expect("names, labels and buckets are constants above: the unit test makes them all");
        let described = metric.desc().into_iter().map(|desc| Description {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        });
        self.described.borrow_mut().extend(described);
        self.registry
            .register(Box::new(metric.clone()))
            .expect("each name is declared once: the unit test registers them all");
        metric
    }

    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register("counter", IntCounter::new(name, help))
    }

    pub fn float_counter(&self, name: &str, help: &str) -> Counter {
        self.register("counter", Counter::new(name, help))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register("counter", IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register("gauge", IntGauge::new(name, help))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register("gauge", IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register("gauge", Gauge::new(name, help))
    }

    /// A gauge that has no series until it is set.
    pub fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register("gauge", GaugeVec::new(Opts::new(name, help), labels))
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.register("histogram", Histogram::with_opts(options))
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.register("histogram", HistogramVec::new(options, labels))
    }
}
