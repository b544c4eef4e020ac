//! The daemon as the management services see it: sessions, status, reload, faults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::v1;
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tenants::{BackendError, SessionBackend, SessionFilter};
use tokio::sync::broadcast::error::RecvError;

use crate::actors::{Dismiss, Fault, Order};
use crate::cluster::Shared;
use crate::config::Config;
use crate::directory::Change;
use crate::node::Node;
use crate::redirect::{Redirects, orders};
use crate::session::{Session, timestamp};

/// Sessions looked at in one step of a listing.
const STEP: usize = 1_000;

/// Answers the management services.
pub struct Backend {
    node: Arc<Node>,
    config_path: Option<PathBuf>,
    cluster: Option<Arc<Shared>>,
}

impl Backend {
    /// `config_path` is what a reload reads again; `cluster` the one that the node is part of.
    #[must_use]
    pub fn new(node: Arc<Node>, config_path: Option<PathBuf>, cluster: Option<Arc<Shared>>) -> Self {
        Self {
            node,
            config_path,
            cluster,
        }
    }

    fn message(&self, session: &Session) -> v1::Session {
        session.message(&self.node.config.node_name)
    }

    fn find(&self, id: &str) -> Result<Arc<Session>, BackendError> {
        number(id)
            .and_then(|number| self.node.sessions.get(number))
            .ok_or_else(|| BackendError::NotFound(format!("session {id}")))
    }

    /// `own_slot N`: this node believes that it owns a slot, whatever the others say. `None`: it is another fault.
    async fn fail_cluster(&self, request: &v1::InjectFaultRequest) -> Result<Option<String>, BackendError> {
        if request.target != "own_slot" {
            return Ok(None);
        }
        let shared = self
            .cluster
            .as_ref()
            .ok_or_else(|| BackendError::Refused("this node is not part of a cluster".to_owned()))?;
        let slot = request
            .selector
            .parse()
            .map_err(|_| BackendError::Invalid(format!("no slot {:?}", request.selector)))?;
        shared
            .order(cluster::Order::ForceOwn { slot })
            .await
            .map(Some)
            .map_err(BackendError::Refused)
    }

    /// Makes the target of `request` panic.
    fn fail(&self, request: &v1::InjectFaultRequest) -> Result<String, BackendError> {
        let gone = || BackendError::NotFound(format!("{} {}", request.target, request.selector));
        let target = request.target.as_str();
        match target {
            "ike_sa" => {
                let session = self.find(&request.selector)?;
                session.addr.load_full().ok_or_else(gone)?.do_send(Fault);
            }
            "child_sa" => {
                let session = self.find(&request.selector)?;
                let child = session.children().into_iter().next().ok_or_else(gone)?;
                child.addr.load_full().ok_or_else(gone)?.do_send(Fault);
            }
            "tenant" => {
                let share = self.node.tenants.find(&request.selector).ok_or_else(gone)?;
                share.supervisor.load_full().ok_or_else(gone)?.do_send(Fault);
            }
            "worker" | "worker_actor" => {
                let index: u8 = request.selector.parse().map_err(|_| gone())?;
                let slot = self.node.worker(index).ok_or_else(gone)?;
                if target == "worker" {
                    self.node.command(index, dataplane::WorkerCommand::Panic);
                } else {
                    slot.actor.load_full().ok_or_else(gone)?.do_send(Fault);
                }
            }
            "listener" => self.node.listener.load_full().ok_or_else(gone)?.do_send(Fault),
            "replicator" => {
                // Without a number: every one of them.
                let wanted: Option<u8> = match request.selector.as_str() {
                    "" => None,
                    text => Some(text.parse().map_err(|_| gone())?),
                };
                let slots = self.node.slots.all().into_iter();
                let writers: Vec<_> = slots
                    .filter(|slot| wanted.is_none_or(|wanted| wanted == slot.id))
                    .filter_map(|slot| slot.replicator.load_full())
                    .collect();
                if writers.is_empty() {
                    return Err(gone());
                }
                for writer in writers {
                    writer.do_send(Fault);
                }
            }
            "pending" => self.node.pending.load_full().ok_or_else(gone)?.do_send(Fault),
            _ => {
                return Err(BackendError::Invalid(format!(
                    "target {target:?} is none of ike_sa, child_sa, tenant, worker, worker_actor, listener, replicator, pending"
                )));
            }
        }
        Ok(format!("{target} {} was made to panic", request.selector))
    }
}

#[async_trait]
impl SessionBackend for Backend {
    async fn list(
        &self,
        filter: &SessionFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<v1::Session>, BackendError> {
        let mut cursor = match after {
            Some(text) => {
                Some(number(text).ok_or_else(|| BackendError::Invalid(format!("no session id: {text}")))?)
            }
            None => None,
        };
        let mut found = Vec::new();
        loop {
            let page = self.node.sessions.page(cursor, STEP);
            let Some(last) = page.last() else { return Ok(found) };
            cursor = Some(last.facts.id);
            for session in page {
                if filter
                    .tenant
                    .as_ref()
                    .is_some_and(|tenant| *tenant != session.facts.tenant)
                {
                    continue;
                }
                let message = self.message(&session);
                if filter.matches(&message) {
                    found.push(message);
                    if found.len() >= limit {
                        return Ok(found);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn get(&self, id: &str) -> Result<v1::Session, BackendError> {
        self.find(id).map(|session| self.message(&session))
    }

    fn watch(&self) -> BoxStream<'static, v1::SessionEvent> {
        let node = Arc::clone(&self.node);
        let changes = node.sessions.watch();
        let present = everything(&node);
        stream::unfold(
            (node, changes, present),
            |(node, mut changes, mut queue)| async move {
                loop {
                    if let Some(event) = queue.pop_front() {
                        return Some((event, (node, changes, queue)));
                    }
                    match changes.recv().await {
                        Ok(change) => queue.push_back(event(&node, &change)),
                        // Too slow: what there is now stands for what was missed.
                        Err(RecvError::Lagged(_)) => queue = everything(&node),
                        Err(RecvError::Closed) => return None,
                    }
                }
            },
        )
        .boxed()
    }

    async fn disconnect(&self, ids: &[String], reason: &str) -> Result<Vec<String>, BackendError> {
        let mut ending = Vec::new();
        for id in ids {
            let Ok(session) = self.find(id) else { continue };
            let Some(addr) = session.addr.load_full() else {
                continue;
            };
            session.update(|standing| standing.state = "closing");
            self.node.sessions.changed(&session);
            tracing::info!(session = id, reason, "disconnected by the operator");
            addr.do_send(Dismiss::Disconnected);
            ending.push(id.clone());
        }
        Ok(ending)
    }

    async fn rekey(&self, request: v1::RekeyRequest) -> Result<u32, BackendError> {
        let session = self.find(&request.id)?;
        let addr = session
            .addr
            .load_full()
            .ok_or_else(|| BackendError::Unavailable(format!("session {} is restarting", request.id)))?;
        if request.ike {
            addr.do_send(Order(ike::Command::RekeyIke));
            return Ok(1);
        }
        let wanted = match request.child_spi.as_str() {
            "" => None,
            text => Some(
                u32::from_str_radix(text.trim_start_matches("0x"), 16)
                    .map_err(|_| BackendError::Invalid(format!("child_spi {text:?} is not hexadecimal")))?,
            ),
        };
        let mut started = 0;
        for child in session.children() {
            let spi_in = child.sa.spi_in;
            if wanted.is_none_or(|wanted| wanted == spi_in) {
                addr.do_send(Order(ike::Command::RekeyChild { spi_in, group: None }));
                started += 1;
            }
        }
        if started == 0 {
            return Err(BackendError::NotFound(format!("child SA {}", request.child_spi)));
        }
        Ok(started)
    }

    async fn node_status(&self) -> Result<v1::NodeStatus, BackendError> {
        let node = &self.node;
        let mut sas = vec![0_u64; node.workers().len()];
        let mut totals = vec![[0_u64; 4]; node.workers().len()];
        for child in &node.children {
            let index = usize::from(node.serving_worker(*child.key()));
            if let (Some(count), Some(sum)) = (sas.get_mut(index), totals.get_mut(index)) {
                *count += 1;
                for (cell, value) in sum.iter_mut().zip(child.totals.read()) {
                    *cell += value;
                }
            }
        }
        let workers = node
            .workers()
            .iter()
            .zip(sas.into_iter().zip(totals))
            .zip(0_u32..)
            .map(
                |((slot, (sas, [packets_in, octets_in, packets_out, octets_out])), index)| v1::WorkerStatus {
                    index,
                    sas,
                    packets_in,
                    octets_in,
                    packets_out,
                    octets_out,
                    drops: slot
                        .counted
                        .last()
                        .map_or(0, |drops| drops.load(Ordering::Relaxed)),
                    restarts: slot.restarts.load(Ordering::Relaxed),
                },
            )
            .collect();
        let tenants = node
            .tenants
            .all()
            .into_iter()
            .map(|share| v1::TenantStatus {
                tenant: share.name.clone(),
                sessions: share.sessions.load(Ordering::Relaxed).into(),
                drops: share
                    .drops()
                    .into_iter()
                    .map(|(reason, count)| (reason.to_owned(), count))
                    .collect(),
                half_open: share.opening.load(Ordering::Relaxed).into(),
                restarts: share.restarts.load(Ordering::Relaxed),
                state: match share.supervisor.load().as_ref() {
                    Some(addr) if addr.connected() => "up",
                    Some(_) | None => "restarting",
                }
                .to_owned(),
            })
            .collect();
        let mut counters = BTreeMap::new();
        counters.insert("records_waiting".to_owned(), node.slots.records_waiting() as u64);
        let (spis, openings) = node.dispatch.len();
        counters.extend(node.path_counters());
        counters.insert("dispatch_spis".to_owned(), spis as u64);
        counters.insert("dispatch_openings".to_owned(), openings as u64);
        let [at_init, in_session] = node.redirects.counts();
        counters.insert("redirected_at_init".to_owned(), at_init);
        counters.insert("redirected_in_session".to_owned(), in_session);
        let mut warnings = node.domains.troubles();
        for report in node.holder.outer() {
            let name = format!("outer_{}_{}_queues", report.interface, report.way.name());
            counters.insert(name, report.queues.into());
            if let Some(reason) = &report.reason {
                let interface = &report.interface;
                warnings.push(format!(
                    "ESP of {interface:?} goes by sockets instead of AF_XDP: {reason}"
                ));
            }
        }
        if node.key_log.is_some() {
            warnings.push("debug.key_log is on: the keys of every session are written to disk".to_owned());
        }
        if node.config.debug.fault_injection {
            warnings.push("debug.fault_injection is on".to_owned());
        }
        let mut draining = node.draining.load(Ordering::Relaxed);
        if let Some(shared) = &self.cluster
            && let Some(status) = shared.pacemaker().status().await
        {
            draining |= status.draining;
            warnings.extend(crate::cluster::backend::warnings(shared, &status));
        }
        Ok(v1::NodeStatus {
            node: node.config.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(timestamp(node.started)),
            generation: node.start.generation.into(),
            sessions: node.sessions.len() as u64,
            half_open: node.half_open.load(Ordering::Relaxed).into(),
            listen_addresses: node
                .sockets
                .all()
                .iter()
                .map(|socket| socket.local().to_string())
                .collect(),
            workers,
            tenants,
            state: match (draining, node.redirects.ordered()) {
                (true, _) => "draining",
                (false, Some(_)) => "redirecting",
                (false, None) => "serving",
            }
            .to_owned(),
            counters,
            warnings,
        })
    }

    async fn reload(&self, validate_only: bool) -> Result<v1::ReloadResponse, BackendError> {
        let Some(path) = &self.config_path else {
            return Err(BackendError::Refused(
                "this daemon was started without a file".to_owned(),
            ));
        };
        let config = Config::load(path).map_err(|error| BackendError::Invalid(error.to_string()))?;
        let mut response = v1::ReloadResponse::default();
        let before = &self.node.config;
        if config.log.redact != before.log.redact {
            response.changes.push("log.redact".to_owned());
            if !validate_only {
                crate::telemetry::set_redaction(config.log.redact);
            }
        }
        for (name, same) in [
            ("node_name", config.node_name == before.node_name),
            (
                "state_directory",
                config.state_directory == before.state_directory,
            ),
            ("listen", config.listen == before.listen),
            ("threads", config.threads == before.threads),
            ("limits", config.limits == before.limits),
            ("path_mtu", config.path_mtu == before.path_mtu),
            ("seal", config.seal == before.seal),
            ("api", config.api == before.api),
            ("telemetry", config.telemetry == before.telemetry),
            (
                "log.filter",
                config.log.filter == before.log.filter && config.log.format == before.log.format,
            ),
            ("shutdown", config.shutdown == before.shutdown),
            ("redirect", config.redirect == before.redirect),
            ("debug", config.debug == before.debug),
            ("cluster", config.cluster == before.cluster),
        ] {
            if !same {
                response.needs_restart.push(name.to_owned());
            }
        }
        if let Some(shared) = self.cluster.as_ref().filter(|_| !validate_only) {
            crate::cluster::rotation::read_again(shared).await?;
        }
        if !validate_only {
            let node = Arc::clone(&self.node);
            let complete = self
                .node
                .authenticator
                .block(move || node.domains.reconcile(&node.registry, &node.holder))
                .await
                .map_err(BackendError::Unavailable)?;
            if !complete {
                response.changes.extend(self.node.domains.troubles());
            }
        }
        Ok(response)
    }

    async fn redirect(&self, request: v1::RedirectRequest) -> Result<v1::RedirectResponse, BackendError> {
        if request.to.is_empty() {
            orders::stop(&self.node, self.cluster.as_deref());
            return Ok(v1::RedirectResponse {
                detail: "nobody is sent away".to_owned(),
            });
        }
        let per_sec = request.sessions.then_some(request.per_sec);
        let order = orders::begin(&self.node, self.cluster.as_deref(), &request.to, per_sec)?;
        let places = order.places();
        let node = Arc::clone(&self.node);
        // It goes on when nobody waits for it any more.
        let runs = tokio::spawn(async move { Redirects::sessions(&node, &order).await });
        if !request.sessions || !request.wait {
            let whom = if request.sessions {
                "clients"
            } else {
                "new clients"
            };
            return Ok(v1::RedirectResponse {
                detail: format!("{whom} that follow are sent to {places}"),
            });
        }
        let patience = orders::patience(request.timeout_secs);
        match tokio::time::timeout(patience, runs).await {
            Ok(Ok(outcome)) => Ok(v1::RedirectResponse {
                detail: outcome.to_string(),
            }),
            Ok(Err(error)) => Err(BackendError::Unavailable(error.to_string())),
            Err(_) => Err(BackendError::Unavailable(format!(
                "not done within {} s, it goes on; {} sessions are here",
                patience.as_secs(),
                self.node.sessions.len()
            ))),
        }
    }

    async fn inject_fault(
        &self,
        request: v1::InjectFaultRequest,
    ) -> Result<v1::InjectFaultResponse, BackendError> {
        if !self.node.config.debug.fault_injection {
            return Err(BackendError::Refused(
                "faults can be injected only with debug.fault_injection = true".to_owned(),
            ));
        }
        if !request.fault.is_empty() && request.fault != "panic" {
            return Err(BackendError::Invalid(format!(
                "fault {:?} is not known, panic is",
                request.fault
            )));
        }
        if let Some(detail) = self.fail_cluster(&request).await? {
            return Ok(v1::InjectFaultResponse { detail });
        }
        self.fail(&request)
            .map(|detail| v1::InjectFaultResponse { detail })
    }
}

fn number(id: &str) -> Option<u64> {
    (id.len() == 16)
        .then(|| u64::from_str_radix(id, 16).ok())
        .flatten()
}

fn everything(node: &Node) -> std::collections::VecDeque<v1::SessionEvent> {
    node.sessions
        .page(None, usize::MAX)
        .into_iter()
        .map(|session| event(node, &Change::Added(session)))
        .collect()
}

fn event(node: &Node, change: &Change) -> v1::SessionEvent {
    let (kind, session, reason) = match change {
        Change::Added(session) => (v1::SessionEventKind::Added, session, ""),
        Change::Changed(session) => (v1::SessionEventKind::Changed, session, ""),
        Change::Removed(session, reason) => (v1::SessionEventKind::Removed, session, reason.as_str()),
    };
    v1::SessionEvent {
        kind: kind.into(),
        session: Some(session.message(&node.config.node_name)),
        reason: reason.to_owned(),
    }
}
