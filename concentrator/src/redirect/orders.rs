//! Orders of operators, from what a request says to what is in force; told to those who watch.

use std::sync::Arc;
use std::time::Duration;

use tenants::BackendError;

use super::{Order, TARGETS_MAX, Target};
use crate::cluster::Shared;
use crate::node::Node;

/// How long an order is waited for that does not say so.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients with sessions a second, at most.
const PER_SEC_MAX: u32 = 10_000;

/// How long an order is waited for.
#[must_use]
pub fn patience(seconds: u32) -> Duration {
    match seconds {
        0 => PATIENCE,
        seconds => Duration::from_secs(seconds.into()),
    }
}

/// Puts an order into force. `per_sec`: clients with sessions are sent, too; 0: at the configured rate.
///
/// # Errors
/// What is no gateway, too many of them, too fast, or the cluster where there is none.
pub fn begin(
    node: &Node,
    cluster: Option<&Shared>,
    to: &[String],
    per_sec: Option<u32>,
) -> Result<Arc<Order>, BackendError> {
    if to.len() > TARGETS_MAX {
        let text = format!("to: {} gateways, {TARGETS_MAX} at most", to.len());
        return Err(BackendError::Invalid(text));
    }
    if let Some(fast) = per_sec.filter(|fast| *fast > PER_SEC_MAX) {
        let text = format!("per_sec is {fast}, it must be at most {PER_SEC_MAX}");
        return Err(BackendError::Invalid(text));
    }
    let targets: Result<Vec<Target>, _> = to.iter().map(|text| text.parse()).collect();
    let targets = targets.map_err(|error| BackendError::Invalid(format!("to: {error}")))?;
    if cluster.is_none() && targets.contains(&Target::Cluster) {
        return Err(BackendError::Refused(
            "this node is not part of a cluster".to_owned(),
        ));
    }
    let per_sec = per_sec.map(|fast| match fast {
        0 => node.config.redirect.per_sec,
        fast => fast,
    });
    let order = Order::new(targets, per_sec);
    node.redirects.order(Some(Arc::clone(&order)));
    told(cluster, Some(order.places()));
    Ok(order)
}

/// No order is in force any more.
pub fn stop(node: &Node, cluster: Option<&Shared>) {
    if node.redirects.ordered().is_some() {
        node.redirects.order(None);
        told(cluster, None);
    }
}

fn told(cluster: Option<&Shared>, to: Option<String>) {
    match (cluster, to) {
        (Some(shared), to) => shared.happened(cluster::Event::Redirecting { to }),
        (None, Some(to)) => tracing::info!(to, "clients that follow are sent away"),
        (None, None) => tracing::info!("nobody is sent away any more"),
    }
}
