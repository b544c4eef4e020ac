//! Everything after authentication: further child SAs, rekeying, deletion, liveness. Performs no I/O.
//!
//! ```text
//!  datagram ─► receive ─► window (fresh? again?) ─► table ─► handler of a request ─► answer
//!                                               └─► task whose response it is ─► events, further wishes
//!  wishes (commands, lifetimes, tasks) ─► queue ─► one request at a time ─► window (retransmission)
//! ```
//!
//! Exchanges of ours are `tasks`, one file each. The keys of the IKE SA are a `link`; a rekey makes another
//! one, and the old one goes on answering until it has been deleted.

mod children;
mod collision;
mod keyex;
mod lifetimes;
mod link;
mod parts;
mod queue;
mod receive;
mod resources;
mod respond;
mod snapshot;
mod sync;
mod takeover;
mod tasks;
#[cfg(test)]
mod tests;
mod timers;
mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::{Group, KeyError};
use ip::Selector;
use serde::{Deserialize, Serialize};

pub use parts::{CachedResponse, EstablishedParts};
pub use snapshot::{CoreSnapshot, RestoreError};

use crate::keylog;
use crate::types::{
    ChildEnd, ChildPolicy, ChildSa, CloseReason, Command, Context, Counters, Event, GatewayId, Identity,
    IkeSuite, Input, Lifetime, NatFindings, Output, RekeyPolicy, Role, Transmit,
};
use crate::wire::proposal::IkeProposal;
use crate::wire::{Notify, Spi};
use children::{Child, Children, State};
use lifetimes::Clock;
use link::{Direction, Fate, Link, LinkId, find};
use queue::{Job, Queue, Work};
use takeover::Takeover;
use tasks::{Request, Task};
use window::Window;

/// Wait before a rekey that the peer refused outright is tried again.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// A peer that says TEMPORARY_FAILURE for longer than this has another idea of the state than we have.
const TEMPORARY_LIMIT: Duration = Duration::from_secs(180);

/// Key exchange groups tried for one SA.
const MAX_GROUPS: u8 = 3;

/// Who talks to whom, and under which policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Names {
    peer_id: Identity,
    local_id: Identity,
    connection: String,
    tenant: String,
}

/// An established IKE SA.
#[derive(Debug)]
pub struct Core {
    context: Context,
    current: Link,
    /// Replaced links, and candidates of a collision.
    others: Vec<Link>,
    children: Children,
    queue: Queue,
    outputs: VecDeque<Output>,
    local: SocketAddr,
    remote: SocketAddr,
    nat: NatFindings,
    fragment_size: Option<usize>,
    proposals: Vec<IkeProposal>,
    policy: ChildPolicy,
    ike_lifetime: Lifetime,
    clock: Clock,
    liveness: Option<Duration>,
    mobike: bool,
    /// Message IDs may be synchronized: both sides said so.
    mid_sync: bool,
    /// The peer said that it can be redirected.
    redirectable: bool,
    /// Another node had this SA; what that leaves open.
    takeover: Option<Takeover>,
    /// How old the record was that this core was restored from.
    restored_age: Duration,
    /// The peer was sent to another gateway, and has until then to delete this SA.
    redirected_until: Option<Instant>,
    /// We called, in the first place: rekeys change roles, but not who sits behind whose NAT.
    caller: bool,
    names: Names,
    /// When the peer last proved that it is alive.
    heard: Instant,
    /// When we last sent something.
    spoke: Instant,
    /// Since when the peer has been saying TEMPORARY_FAILURE.
    refused_since: Option<Instant>,
    /// When we last complained about a message ID.
    reported: Option<Instant>,
    /// Outbound SPIs that the peer deleted before we knew them.
    early_deletes: Vec<u32>,
    /// Set once the end has been decided; no further SAs are made.
    closing: Option<CloseReason>,
    closed: bool,
    /// Something worth storing changed, and no durable transmit says so.
    changed: bool,
    counters: Counters,
}

impl Core {
    /// Takes over from the set-up. Emits nothing.
    ///
    /// # Errors
    /// Keys that do not fit the algorithms.
    pub fn new(now: Instant, context: Context, parts: EstablishedParts) -> Result<Self, KeyError> {
        let id = LinkId(parts.spi_i, parts.spi_r);
        let window = Window::new(parts.next_send_id, parts.next_recv_id, parts.last_response);
        let current = Link::new(
            id,
            parts.role,
            parts.suite,
            parts.keys,
            parts.ivs,
            window,
            Fate::Current,
        )?;
        let mut core = Self {
            context,
            current,
            others: Vec::new(),
            children: Children::default(),
            queue: Queue::default(),
            outputs: VecDeque::new(),
            local: parts.local,
            remote: parts.remote,
            nat: parts.nat,
            fragment_size: parts.fragment_size,
            proposals: parts.proposals,
            policy: parts.policy,
            ike_lifetime: parts.ike_lifetime,
            clock: Clock::default(),
            liveness: parts.liveness,
            mobike: parts.mobike,
            mid_sync: parts.message_id_sync,
            redirectable: parts.redirect,
            takeover: None,
            restored_age: Duration::ZERO,
            redirected_until: None,
            caller: parts.role.is_initiator(),
            names: Names {
                peer_id: parts.peer_id,
                local_id: parts.local_id,
                connection: parts.connection,
                tenant: parts.tenant,
            },
            heard: now,
            spoke: now,
            refused_since: None,
            reported: None,
            early_deletes: Vec::new(),
            closing: None,
            closed: false,
            changed: false,
            counters: parts.counters,
        };
        core.restart_clock(now);
        if let Some(child) = parts.child {
            core.spread(now, &child);
            core.install(now, child, None, State::Installed);
        }
        core.changed = false;
        Ok(core)
    }

    /// Takes an input. [`Input::AuthResult`] has no meaning any more and is ignored.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.closed {
            return;
        }
        match input {
            Input::Datagram { local, remote, bytes } => self.datagram(now, local, remote, &bytes),
            Input::Timeout => self.timeout(now),
            Input::Command(command) => self.command(now, command),
            Input::AuthResult { .. } => {}
        }
        self.pump(now);
        if std::mem::take(&mut self.changed) && !self.closed {
            self.outputs.push_back(Output::Event(Event::StateChanged));
        }
    }

    /// The next output; call until it is `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// SPI of the current IKE SA's initiator.
    #[must_use]
    pub fn spi_i(&self) -> Spi {
        self.current.id.0
    }

    /// SPI of the current IKE SA's responder.
    #[must_use]
    pub fn spi_r(&self) -> Spi {
        self.current.id.1
    }

    /// Our role in the exchange that made the current IKE SA; a rekey may change it.
    #[must_use]
    pub fn role(&self) -> Role {
        self.current.role
    }

    /// Algorithms of the current IKE SA.
    #[must_use]
    pub fn suite(&self) -> IkeSuite {
        self.current.suite
    }

    /// Our outer address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The peer's outer address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// What was counted, set-up included.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who the peer proved to be.
    #[must_use]
    pub fn peer_id(&self) -> &Identity {
        &self.names.peer_id
    }

    /// Who we proved to be.
    #[must_use]
    pub fn local_id(&self) -> &Identity {
        &self.names.local_id
    }

    /// Name of the connection.
    #[must_use]
    pub fn connection(&self) -> &str {
        &self.names.connection
    }

    /// Name of the tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.names.tenant
    }

    /// NAT findings.
    #[must_use]
    pub fn nat(&self) -> NatFindings {
        self.nat
    }

    /// Whether the peer said that it can be redirected to another gateway (RFC 5685), so that [`Command::Redirect`] works.
    #[must_use]
    pub fn supports_redirect(&self) -> bool {
        self.redirectable && !self.caller
    }

    /// Whether message IDs can be synchronized with the peer (RFC 6311).
    #[must_use]
    pub fn supports_message_id_sync(&self) -> bool {
        self.mid_sync
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The child SAs that a data plane should have installed, oldest first.
    pub fn children(&self) -> impl Iterator<Item = &ChildSa> {
        self.children.iter().map(|child| &child.sa)
    }

    /// Our own SPI of each of these pairs, in the same order.
    #[must_use]
    pub fn local_spis(&self) -> Vec<Spi> {
        let own = |link: &Link| match link.role {
            Role::Initiator => link.id.0,
            Role::Responder => link.id.1,
        };
        std::iter::once(&self.current)
            .chain(&self.others)
            .map(own)
            .collect()
    }

    /// SPI pairs under which datagrams are for this IKE SA, the current one first.
    pub fn spis(&self) -> impl Iterator<Item = (Spi, Spi)> {
        std::iter::once(&self.current)
            .chain(&self.others)
            .map(|link| (link.id.0, link.id.1))
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Close => self.start_close(now, CloseReason::Requested),
            Command::RekeyIke => self.want(now, Work::RekeyIke { group: None }),
            Command::RekeyChild { spi_in, group } => match self.policy.rekey {
                RekeyPolicy::AtSoftLimit => self.want(now, Work::RekeyChild { spi_in, group }),
                RekeyPolicy::BeforeHardLimit | RekeyPolicy::Never => {
                    self.warn(format!(
                        "child SA {spi_in:08x} not rekeyed: this client does not take rekeys"
                    ));
                }
            },
            Command::CreateChild { ts_local, ts_remote } => self.create_child(now, ts_local, ts_remote),
            Command::DeleteChild { spi_in } => match self.children.by_in(spi_in).map(|child| child.state) {
                // The peer is about to delete it, and may not have our answer to its rekey yet.
                Some(State::Replaced) => self.drop_child(spi_in, ChildEnd::Rekeyed),
                Some(_) => self.want_delete(now, spi_in, ChildEnd::DeletedByUs),
                None => {}
            },
            Command::CheckLiveness => self.want(now, Work::Liveness),
            Command::InboundSeen { at } => self.heard = self.heard.max(at),
            Command::PeerMoved { remote } => self.peer_at(remote),
            Command::Redirect { to } => self.redirect(now, to),
        }
    }

    /// Sends the client to another gateway, if it can be sent.
    fn redirect(&mut self, now: Instant, to: GatewayId) {
        //= rfc5685#section-10
        //# But this protocol is asymmetric, meaning that only the original responder can redirect the original initiator to another server.
        //= rfc5685#section-3
        //# If the IKE_SA_INIT request did not indicate support for the redirect mechanism, the responder MUST NOT send the REDIRECT payload to the VPN client.
        if self.caller || !self.redirectable {
            return self.warn(format!("not redirected to {to}: the peer does not follow"));
        }
        if self.closing.is_none() {
            self.want(now, Work::Redirect { to });
        }
    }

    fn create_child(&mut self, now: Instant, ts_local: Vec<Selector>, ts_remote: Vec<Selector>) {
        let work = Work::CreateChild {
            ts_local,
            ts_remote,
            group: None,
            resource: self.first_resource(),
        };
        self.want(now, work);
    }

    /// Sends what waits, if the window is open.
    fn pump(&mut self, now: Instant) {
        while !self.closed && self.current.window.pending.is_none() && !self.is_unsure() {
            let Some(job) = self.queue.take(now) else {
                return;
            };
            if let Some(request) = Task::build(self, now, job) {
                self.send(now, self.current.id, request);
            }
        }
    }

    /// Seals a request, remembers it, and sends it for the first time.
    fn send(&mut self, now: Instant, id: LinkId, request: Request) {
        let limit = self.fragment_size;
        let Some(link) = find(&mut self.current, &mut self.others, id) else {
            return;
        };
        let Request {
            exchange,
            payloads,
            task,
        } = request;
        let durable = !matches!(task, Task::Liveness);
        match link.seal(
            exchange,
            Direction::Request,
            &payloads,
            limit,
            &mut *self.context.random,
        ) {
            Ok(datagrams) => {
                link.window
                    .request(now, &self.context.timing, exchange, datagrams.clone(), task);
                link.responses.clear();
                let nearly_used_up = link.window.next_send > window::LAST_COMFORTABLE_ID;
                self.transmit(now, self.local, self.remote, datagrams, durable);
                if nearly_used_up && id == self.current.id && self.closing.is_none() {
                    //= rfc7296#section-2.2
                    //# In the unlikely event that Message IDs grow too large to fit in 32 bits, the IKE SA MUST be closed or rekeyed.
                    self.want(now, Work::RekeyIke { group: None });
                }
            }
            Err(error) => self.close(CloseReason::Protocol(error.to_string())),
        }
    }

    fn transmit(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        datagrams: Vec<Vec<u8>>,
        durable: bool,
    ) {
        self.spoke = now;
        if durable {
            self.changed = false;
        }
        for bytes in datagrams {
            self.counters.datagrams_out += 1;
            self.outputs.push_back(Output::Transmit(Transmit {
                local,
                remote,
                bytes,
                durable,
            }));
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn warn(&mut self, detail: String) {
        self.event(Event::Warning { detail });
    }

    fn step(&mut self, name: &'static str, detail: String) {
        self.event(Event::Step { name, detail });
    }

    /// Adds a wish.
    fn want(&mut self, now: Instant, work: Work) {
        if !self.queue.push(Job::new(work, now)) {
            self.warn("too many requests wait; one was dropped".to_owned());
        }
    }

    /// Wishes the end of a child.
    fn want_delete(&mut self, now: Instant, spi_in: u32, end: ChildEnd) {
        if self.children.by_in(spi_in).is_some() {
            self.queue
                .retain(|work| !matches!(work, Work::RekeyChild { spi_in: other, .. } if *other == spi_in));
            self.want(now, Work::DeleteChild { spi_in, end });
        }
    }

    /// Tries again what met TEMPORARY_FAILURE, after a while.
    fn retry_later(&mut self, now: Instant, work: Work) {
        //= rfc7296#section-2.25
        //# If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD conclude that the state information is out of sync and close the IKE SA.
        let since = *self.refused_since.get_or_insert(now);
        if now.saturating_duration_since(since) > TEMPORARY_LIMIT {
            let reason = "the peer has been saying TEMPORARY_FAILURE for minutes";
            return self.start_close(now, CloseReason::Protocol(reason.to_owned()));
        }
        //= rfc7296#section-2.25
        //# When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT immediately retry the operation; it MUST wait so that the sender may complete whatever operation caused the temporary condition.
        self.retry_after(now, self.context.timing.retry_temporary, work);
    }

    /// Tries again what the peer refused for good; it may be configured anew by then.
    fn retry_failed(&mut self, now: Instant, work: Work) {
        self.retry_after(now, RETRY_REFUSED, work);
    }

    fn retry_after(&mut self, now: Instant, wait: Duration, work: Work) {
        let wait = wait + lifetimes::jitter(wait / 2, &mut *self.context.random);
        self.queue.push(Job::new(work, now + wait));
    }

    /// The group of a child's own key exchange that the policy asks for.
    fn policy_group(&self) -> Option<Group> {
        self.policy.proposals.first()?.groups.first().copied()
    }

    /// The group of the IKE SA's next key exchange.
    fn ike_group(&self) -> Option<Group> {
        let used = self.current.suite.group;
        let known = self
            .proposals
            .iter()
            .any(|proposal| proposal.groups.contains(&used));
        if known {
            Some(used)
        } else {
            self.proposals.first()?.groups.first().copied()
        }
    }

    /// The group of an INVALID_KE_PAYLOAD about a child SA, if it will do.
    fn acceptable_group(&self, notify: &Notify, tries: u8) -> Option<Group> {
        let group = tasks::offer::wanted_group(notify)?;
        let known = self
            .policy
            .proposals
            .iter()
            .any(|proposal| proposal.groups.contains(&group));
        (known && tries < MAX_GROUPS).then_some(group)
    }

    /// The group of an INVALID_KE_PAYLOAD about the IKE SA, if it will do.
    fn acceptable_ike_group(&self, notify: &Notify, tries: u8) -> Option<Group> {
        let group = tasks::offer::wanted_group(notify)?;
        let known = self
            .proposals
            .iter()
            .any(|proposal| proposal.groups.contains(&group));
        (known && tries < MAX_GROUPS).then_some(group)
    }

    // The end.

    /// Ends the IKE SA by a DELETE.
    fn start_close(&mut self, now: Instant, reason: CloseReason) {
        if self.closing.is_none() {
            self.closing = Some(reason);
            self.queue = Queue::default();
            self.want(now, Work::Close);
        }
    }

    /// Gives back the inbound SPI of a child that will not be made.
    fn release_offer(&self, task: &Task) {
        if let Some(spi_in) = task.offered() {
            self.context.spis.release_esp(spi_in);
        }
    }

    /// The end, without further words to the peer.
    fn close(&mut self, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.queue = Queue::default();
        for link in std::iter::once(&self.current).chain(&self.others) {
            if let Some(pending) = &link.window.pending {
                self.release_offer(&pending.task);
            }
        }
        //= rfc7296#section-1.4.1
        //# Deleting an IKE SA implicitly closes any remaining Child SAs negotiated under it.
        let children: Vec<Child> = self.children.drain().collect();
        for child in children {
            let (spi_in, reason) = (child.sa.spi_in, child.end(ChildEnd::IkeGone));
            self.context.spis.release_esp(spi_in);
            self.event(Event::ChildDown { spi_in, reason });
        }
        self.current.window.pending = None;
        for link in std::mem::take(&mut self.others) {
            let LinkId(spi_i, spi_r) = link.id;
            self.event(Event::OldSpisGone { spi_i, spi_r });
        }
        self.event(Event::Closed { reason });
    }

    // Key log.

    fn log_child_keys(&mut self, sa: &ChildSa) {
        if self.context.key_log {
            let lines = keylog::esp_lines(sa).into_iter();
            self.outputs.extend(lines.map(Event::KeyLog).map(Output::Event));
        }
    }

    fn log_ike_keys(&mut self, link: &Link) {
        if self.context.key_log {
            let line = keylog::ike_line(link.id.0, link.id.1, link.suite, &link.keys);
            self.outputs.extend(line.map(Event::KeyLog).map(Output::Event));
        }
    }
}
