//! One trace for each set-up of an IKE SA: the root span `ike.setup`, and a child for each exchange and slow step.
//!
//! The cores have no clock, so the shell measures: a step that a core reports during one call lasted as long as the
//! call; work outside the core brings its own times. The root ends with the outcome.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

/// The most child spans of one set-up; further steps are left out.
const SPANS_MAX: u16 = 64;

/// One finished piece of work with its times, made on any thread.
#[derive(Clone, Debug)]
pub struct Span {
    /// What was done: a name from the code.
    pub name: &'static str,
    /// When it began, wall clock.
    pub start: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What came of it, without secrets. Empty: nothing to say.
    pub detail: String,
    /// Whether it failed.
    pub failed: bool,
}

impl Span {
    /// Runs `work` and measures it.
    pub fn measure<T>(name: &'static str, spans: &mut Vec<Self>, work: impl FnOnce() -> T) -> T {
        let (start, begun) = (SystemTime::now(), Instant::now());
        let result = work();
        spans.push(Self {
            name,
            start,
            took: begun.elapsed(),
            detail: String::new(),
            failed: false,
        });
        result
    }
}

/// The trace of one set-up, or of one rekey.
pub struct SetupTrace {
    tracer: SdkTracer,
    context: Context,
    spans: u16,
}

impl SetupTrace {
    /// Opens the root span.
    #[must_use]
    pub fn begin(tracer: &SdkTracer, name: &'static str, attributes: Vec<KeyValue>) -> Self {
        let root = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(tracer, &Context::new());
        Self {
            tracer: tracer.clone(),
            context: Context::new().with_span(root),
            spans: 0,
        }
    }

    /// Adds a child that has already ended.
    pub fn child(&mut self, span: &Span) {
        if self.spans >= SPANS_MAX {
            return;
        }
        self.spans += 1;
        let mut attributes = Vec::new();
        if !span.detail.is_empty() {
            attributes.push(KeyValue::new("detail", span.detail.clone()));
        }
        let mut child = self
            .tracer
            .span_builder(span.name)
            .with_start_time(span.start)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &self.context);
        if span.failed {
            child.set_status(Status::error(span.detail.clone()));
        }
        child.end_with_timestamp(span.start + span.took);
    }

    /// Adds what is known only later (tenant, connection, suite).
    pub fn attribute(&self, name: &'static str, value: impl Into<opentelemetry::Value>) {
        self.context.span().set_attribute(KeyValue::new(name, value));
    }

    /// Ends the root span. `error` is the reason of a failure in words.
    pub fn end(self, error: Option<&str>) {
        let root = self.context.span();
        root.set_status(match error {
            Some(reason) => Status::error(reason.to_owned()),
            None => Status::Ok,
        });
        root.end();
    }

    /// The identifier of the trace, 32 hexadecimal digits, for attempt records and log lines.
    #[must_use]
    pub fn id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

    use super::*;

    #[test]
    fn children_belong_to_the_root_and_carry_their_own_times() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let mut trace = SetupTrace::begin(&provider.tracer("test"), "ike.setup", vec![]);
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        trace.child(&Span {
            name: "dh",
            start,
            took: Duration::from_millis(3),
            detail: String::new(),
            failed: false,
        });
        for _ in 0..200 {
            trace.child(&Span {
                name: "sa_init",
                start,
                took: Duration::ZERO,
                detail: "bad".into(),
                failed: true,
            });
        }
        trace.end(Some("wrong key"));
        let spans = exporter.get_finished_spans().unwrap();
        assert_eq!(spans.len(), usize::from(SPANS_MAX) + 1, "bounded");
        let root = spans.iter().find(|span| span.name == "ike.setup").unwrap();
        assert_eq!(root.status, Status::error("wrong key"));
        let child = spans.iter().find(|span| span.name == "dh").unwrap();
        assert_eq!(child.parent_span_id, root.span_context.span_id());
        assert_eq!(
            child.end_time.duration_since(child.start_time).unwrap(),
            Duration::from_millis(3)
        );
        assert!(
            spans
                .iter()
                .any(|span| span.name == "sa_init" && matches!(span.status, Status::Error { .. }))
        );
    }
}
