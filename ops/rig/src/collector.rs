//! A small OTLP receiver that prints each finished trace as a tree: what an operator would see in a trace viewer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

use crate::Result;

/// Traces kept while their root has not come; the oldest is given up beyond that.
const MAX_OPEN: usize = 256;
/// Spans kept for one trace.
const MAX_SPANS: usize = 512;

type Traces = BTreeMap<Vec<u8>, Vec<Span>>;

#[derive(Debug, Clone, Default)]
struct Collector {
    open: Arc<Mutex<Traces>>,
    /// Nothing is printed.
    quiet: bool,
}

impl Collector {
    async fn serve(self, address: SocketAddr) -> Result<()> {
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .add_service(LogsServiceServer::new(self))
            .serve(address)
            .await?;
        Ok(())
    }
}

/// Receives traces at `address` until the process ends; metrics and logs are taken and dropped.
pub async fn serve(address: SocketAddr) -> Result<()> {
    Collector::default().serve(address).await
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> std::result::Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|r| r.scope_spans)
            .flat_map(|s| s.spans);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut finished = Vec::new();
        for span in spans {
            let id = span.trace_id.clone();
            if span.parent_span_id.is_empty() {
                finished.push(id.clone());
            }
            let trace = open.entry(id).or_default();
            if trace.len() < MAX_SPANS {
                trace.push(span);
            }
        }
        for id in finished {
            if let Some(trace) = open.remove(&id)
                && !self.quiet
            {
                print(&tree(&trace));
            }
        }
        while open.len() > MAX_OPEN {
            open.pop_first();
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> std::result::Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        _: Request<ExportLogsServiceRequest>,
    ) -> std::result::Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[allow(clippy::print_stdout, reason = "the tree is what this program is for")]
fn print(text: &str) {
    print!("{text}");
}

/// Receives at `address` inside a namespace, in a thread of its own that ends with the process, and prints nothing.
pub fn serve_inside(namespace: &str, address: SocketAddr) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let entered =
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (Ok(()), Ok(runtime)) = (entered, runtime) else {
            return;
        };
        let _ = ready.send(());
        let quiet = Collector {
            quiet: true,
            ..Collector::default()
        };
        let _ = runtime.block_on(quiet.serve(address));
    });
    Ok(started.recv()?)
}

/// A trace as indented text: name, duration, attributes.
pub fn tree(spans: &[Span]) -> String {
    let mut out = String::new();
    let start = spans.iter().map(|s| s.start_time_unix_nano).min().unwrap_or(0);
    let mut ordered: Vec<&Span> = spans.iter().collect();
    ordered.sort_by_key(|s| s.start_time_unix_nano);
    for root in ordered
        .iter()
        .filter(|s| !spans.iter().any(|p| p.span_id == s.parent_span_id))
    {
        branch(&mut out, root, &ordered, start, "", "");
    }
    out
}

fn branch(out: &mut String, span: &Span, all: &[&Span], start: u64, head: &str, indent: &str) {
    let micros = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1000;
    let at = span.start_time_unix_nano.saturating_sub(start) / 1000;
    let name = format!("{head}{}", span.name);
    let mut line = format!(
        "{name:<34}{:>9}.{:03} ms  +{}.{:03}",
        micros / 1000,
        micros % 1000,
        at / 1000,
        at % 1000
    );
    for attribute in &span.attributes {
        let hidden = ["code.", "thread.", "busy_ns", "idle_ns", "target"]
            .iter()
            .any(|p| attribute.key.starts_with(p));
        if let (false, Some(text)) = (
            hidden,
            attribute.value.as_ref().and_then(|v| v.value.as_ref()).map(text),
        ) {
            let _ = write!(line, "  {}={text}", attribute.key);
        }
    }
    let _ = writeln!(out, "{line}");
    let children: Vec<&&Span> = all.iter().filter(|s| s.parent_span_id == span.span_id).collect();
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let head = format!("{indent}{}", if last { "└─ " } else { "├─ " });
        let below = format!("{indent}{}", if last { "   " } else { "│  " });
        branch(out, child, all, start, &head, &below);
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other @ (Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_)) => {
            format!("{other:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, id: u8, parent: u8, start: u64, end: u64) -> Span {
        Span {
            name: name.to_owned(),
            span_id: vec![id],
            parent_span_id: if parent == 0 { Vec::new() } else { vec![parent] },
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            ..Span::default()
        }
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_in_order_of_time() {
        let spans = [
            span("b", 3, 1, 5_000, 6_000),
            span("root", 1, 0, 0, 9_000_000),
            span("a", 2, 1, 1_000, 4_000),
        ];
        let text = tree(&spans);
        let drawn: Vec<_> = text
            .lines()
            .map(|l| l.split("  ").next().unwrap_or_default())
            .collect();
        assert_eq!(drawn, ["root", "├─ a", "└─ b"]);
        assert!(text.contains("9.000 ms"), "{text}");
    }
}
