//! Telemetry: OTLP traces, metrics and logs, a Prometheus endpoint, and the log on standard error.
//!
//! [`Telemetry::start`] builds the three providers from the configuration. The same instruments feed OTLP and
//! Prometheus. Nothing here is on the packet path: workers count by themselves and are asked once a second.

mod metrics;
mod prometheus;
mod redact;
mod trace;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub use metrics::{Metrics, TenantLabels};
pub use prometheus::serve as serve_prometheus;
pub use redact::{Redacted, set_redaction};
pub use trace::{SetupTrace, Span};

use crate::config::{Config, LogFormat, Signal};

/// The name of everything that the daemon measures.
const SCOPE: &str = "concentrator";

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter refused its endpoint.
    #[error("OTLP exporter: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The Prometheus registry refused.
    #[error("prometheus: {0}")]
    Prometheus(String),
    /// The filter is not one.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
}

/// The providers. Kept until the end of the process, then [`Telemetry::shutdown`].
pub struct Telemetry {
    traces: SdkTracerProvider,
    meters: SdkMeterProvider,
    logs: Option<SdkLoggerProvider>,
    registry: ::prometheus::Registry,
}

impl Telemetry {
    /// Builds the providers. Must be called within a tokio runtime, which the OTLP exporters use.
    ///
    /// # Errors
    /// An endpoint that is not one.
    pub fn start(config: &Config) -> Result<Self, TelemetryError> {
        let resource = Resource::builder()
            .with_service_name(SCOPE)
            .with_attribute(KeyValue::new("service.instance.id", config.node_name.clone()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = |signal| {
            config
                .telemetry
                .otlp_endpoint
                .clone()
                .filter(|_| config.telemetry.otlp_signals.contains(&signal))
        };
        let mut traces = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                config.telemetry.trace_ratio,
            ))));
        if let Some(endpoint) = endpoint(Signal::Traces) {
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()?;
            traces = traces.with_batch_exporter(exporter);
        }
        let registry = ::prometheus::Registry::new();
        let scrape = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(|error| TelemetryError::Prometheus(error.to_string()))?;
        let mut meters = SdkMeterProvider::builder()
            .with_resource(resource.clone())
            .with_reader(scrape);
        if let Some(endpoint) = endpoint(Signal::Metrics) {
            let exporter = opentelemetry_otlp::MetricExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()?;
            meters = meters.with_reader(
                PeriodicReader::builder(exporter)
                    .with_interval(Duration::from_millis(config.telemetry.metrics_interval_ms))
                    .build(),
            );
        }
        let logs = match endpoint(Signal::Logs) {
            Some(endpoint) => {
                let exporter = opentelemetry_otlp::LogExporter::builder()
                    .with_tonic()
                    .with_endpoint(endpoint)
                    .build()?;
                Some(
                    SdkLoggerProvider::builder()
                        .with_resource(resource)
                        .with_batch_exporter(exporter)
                        .build(),
                )
            }
            None => None,
        };
        Ok(Self {
            traces: traces.build(),
            meters: meters.build(),
            logs,
            registry,
        })
    }

    /// Sends `tracing` events to standard error and to OTLP. Once a process; later calls do nothing.
    ///
    /// # Errors
    /// The filter is not one.
    pub fn install_log(&self, config: &Config) -> Result<(), TelemetryError> {
        set_redaction(config.log.redact);
        let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let stderr = match config.log.format {
            LogFormat::Text => stderr.with_target(false).with_ansi(false).boxed(),
            LogFormat::Json => stderr.json().boxed(),
        };
        // What the exporter's own libraries log must not be exported again.
        let otlp = self.logs.as_ref().map(|provider| {
            opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(provider).with_filter(
                EnvFilter::new("info,hyper=off,tonic=off,h2=off,opentelemetry=off,tower=off"),
            )
        });
        let _ = tracing_subscriber::registry()
            .with(otlp)
            .with(stderr.with_filter(EnvFilter::try_new(&config.log.filter)?))
            .try_init();
        Ok(())
    }

    /// Makes the spans of the daemon.
    #[must_use]
    pub fn tracer(&self) -> SdkTracer {
        self.traces.tracer(SCOPE)
    }

    /// The instruments of the daemon.
    #[must_use]
    pub fn metrics(&self, tenant_labels: u32) -> Metrics {
        Metrics::new(&self.meters.meter(SCOPE), TenantLabels::new(tenant_labels))
    }

    /// Makes further instruments.
    #[must_use]
    pub fn meter(&self) -> opentelemetry::metrics::Meter {
        self.meters.meter(SCOPE)
    }

    /// What Prometheus scrapes.
    #[must_use]
    pub fn registry(&self) -> ::prometheus::Registry {
        self.registry.clone()
    }

    /// Sends what is buffered. Blocks: not on an arbiter.
    pub fn flush(&self) {
        let _ = self.traces.force_flush();
        let _ = self.meters.force_flush();
        if let Some(logs) = &self.logs {
            let _ = logs.force_flush();
        }
    }

    /// Sends what is buffered and ends the exporters. Blocks for at most 3 seconds a signal.
    pub fn shutdown(&self) {
        let patience = Duration::from_secs(3);
        let _ = self.traces.shutdown_with_timeout(patience);
        let _ = self.meters.shutdown_with_timeout(patience);
        if let Some(logs) = &self.logs {
            let _ = logs.shutdown_with_timeout(patience);
        }
    }
}
