//! The node itself: status, reload, audit trail, faults.

use anyhow::Result;
use api::v1::audit_service_client::AuditServiceClient;
use api::v1::node_service_client::NodeServiceClient;
use api::v1::{InjectFaultRequest, ListAuditRequest, NodeStatusRequest, RedirectRequest, ReloadRequest};
use tonic::transport::Channel;

use crate::cli::{AuditArguments, FaultArguments, RedirectArguments};
use crate::output::{Output, ago, moment, octets, table};

/// The three commonest reasons, the first one first.
fn drops(by_reason: &std::collections::BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = by_reason.iter().filter(|(_, count)| **count > 0).collect();
    all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let words = all
        .iter()
        .take(3)
        .map(|(reason, count)| format!("{reason} {count}"));
    words.collect::<Vec<_>>().join(", ")
}

/// Shows how the node is.
pub(crate) async fn status(channel: Channel, output: &Output) -> Result<()> {
    let status = NodeServiceClient::new(channel)
        .status(NodeStatusRequest {})
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&status);
    }
    output.line(&format!(
        "{} {}: {}, up {}, generation {}\n{} sessions, {} half open, listening on {}",
        status.node,
        status.version,
        status.state,
        ago(status.start_time.as_ref()),
        status.generation,
        status.sessions,
        status.half_open,
        status.listen_addresses.join(", "),
    ))?;
    let rows = status.tenants.iter().map(|t| {
        vec![
            t.tenant.clone(),
            t.state.clone(),
            t.sessions.to_string(),
            t.half_open.to_string(),
            t.restarts.to_string(),
            drops(&t.drops),
        ]
    });
    output.line(&format!(
        "\n{}",
        table(
            &["TENANT", "STATE", "SESSIONS", "HALF OPEN", "RESTARTS", "DROPS"],
            rows.collect()
        )
    ))?;
    let rows = status.workers.iter().map(|w| {
        vec![
            w.index.to_string(),
            w.sas.to_string(),
            octets(w.octets_in),
            octets(w.octets_out),
            w.drops.to_string(),
            w.restarts.to_string(),
        ]
    });
    output.line(&format!(
        "\n{}",
        table(
            &["WORKER", "SAS", "IN", "OUT", "DROPS", "RESTARTS"],
            rows.collect()
        )
    ))?;
    let counters: Vec<_> = status
        .counters
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(k, n)| vec![k.clone(), n.to_string()])
        .collect();
    if !counters.is_empty() {
        output.line(&format!("\n{}", table(&["COUNTER", "VALUE"], counters)))?;
    }
    for warning in &status.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Has the configuration read again.
pub(crate) async fn reload(channel: Channel, dry_run: bool, output: &Output) -> Result<()> {
    let answer = NodeServiceClient::new(channel)
        .reload(ReloadRequest {
            validate_only: dry_run,
        })
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&answer);
    }
    for change in &answer.changes {
        output.line(change)?;
    }
    for change in &answer.needs_restart {
        output.line(&format!("needs a restart: {change}"))?;
    }
    if answer.changes.is_empty() && answer.needs_restart.is_empty() {
        eprintln!("nothing has changed");
    }
    Ok(())
}

/// Sends clients to another gateway, or no longer.
pub(crate) async fn redirect(channel: Channel, arguments: &RedirectArguments, output: &Output) -> Result<()> {
    let (wait, timeout_secs) = arguments.wait.request();
    let request = RedirectRequest {
        to: arguments.to.clone(),
        sessions: arguments.sessions,
        per_sec: arguments.per_sec.unwrap_or_default(),
        wait,
        timeout_secs,
    };
    let answer = NodeServiceClient::new(channel)
        .redirect(request)
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&answer);
    }
    output.line(&answer.detail)
}

/// Shows the audit trail.
pub(crate) async fn audit(channel: Channel, arguments: &AuditArguments, output: &Output) -> Result<()> {
    let request = ListAuditRequest {
        tenant: arguments.tenant.clone().unwrap_or_default(),
        page_size: arguments.limit,
        since: arguments.since.as_deref().map(moment).transpose()?,
        ..ListAuditRequest::default()
    };
    let records = AuditServiceClient::new(channel)
        .list(request)
        .await?
        .into_inner()
        .records;
    if !output.is_table() {
        return output.value(&records);
    }
    let rows = records.iter().map(|r| {
        let change = r.change.clone().unwrap_or_default();
        let fields: Vec<_> = change.fields.iter().map(|f| f.path.clone()).collect();
        vec![
            r.time.as_ref().map(api::time::to_rfc3339).unwrap_or_default(),
            r.actor.clone(),
            api::words::word(&change.action()),
            change.kind.clone(),
            if change.tenant.is_empty() {
                change.name.clone()
            } else {
                format!("{}/{}", change.tenant, change.name)
            },
            fields.join(", "),
        ]
    });
    output.table(&["TIME", "WHO", "DID", "KIND", "NAME", "FIELDS"], rows.collect())
}

/// Makes a part fail.
pub(crate) async fn fault(channel: Channel, arguments: &FaultArguments, output: &Output) -> Result<()> {
    let request = InjectFaultRequest {
        target: arguments.target.clone(),
        selector: arguments.selector.clone(),
        fault: arguments.how.clone(),
    };
    let answer = NodeServiceClient::new(channel)
        .inject_fault(request)
        .await?
        .into_inner();
    output.line(&answer.detail)
}
