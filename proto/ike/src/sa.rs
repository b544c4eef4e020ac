//! One IKE SA in either role, from its first message to its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::established::Core;
use crate::handshake::{Base, ExpectSaInit, Outbox, SaInitSent, State, Step};
use crate::snapshot::{RestoreError, Snapshot};
use crate::types::{
    ChildSa, Context, Counters, InitPolicy, InitiatorConfig, Input, MessageIds, Output, Phase, Role,
};
use crate::wire::Spi;

/// An IKE SA as a state machine: inputs in by [`handle`](Self::handle), outputs out by [`poll`](Self::poll), one timer.
///
/// After every `handle`, drain `poll` until it is empty, then arm a timer for [`deadline`](Self::deadline) and hand in
/// [`Input::Timeout`] when it fires. Time is whatever `now` says; it must not run backwards. The same inputs with the same
/// random source give the same outputs.
///
/// Never panics on any input.
pub struct IkeSa {
    state: State,
    out: Outbox,
}

impl IkeSa {
    /// A responder. Hand in the first IKE_SA_INIT request by [`handle`](Self::handle). Share one policy among many: a
    /// half-open SA then costs little.
    #[must_use]
    pub fn respond(
        now: Instant,
        ctx: Context,
        policy: impl Into<Arc<InitPolicy>>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        let base = Base::new(now, ctx, Role::Responder, local, remote);
        let state = State::ExpectSaInit(Box::new(ExpectSaInit::new(base, policy.into())));
        Self {
            state,
            out: Outbox::new(),
        }
    }

    /// An initiator. [`poll`](Self::poll) gives the first request.
    #[must_use]
    pub fn initiate(
        now: Instant,
        ctx: Context,
        config: InitiatorConfig,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        let base = Base::new(now, ctx, Role::Initiator, local, remote);
        let mut out = Outbox::new();
        let state = SaInitSent::start(now, base, config, &mut out);
        Self { state, out }
    }

    /// Takes an input. Outputs wait for [`poll`](Self::poll).
    pub fn handle(&mut self, now: Instant, input: Input) {
        let out = &mut self.out;
        let state = std::mem::replace(&mut self.state, State::Moved);
        self.state = match state {
            State::ExpectSaInit(step) => step.handle(now, input, out),
            State::ExpectAuth(step) => step.handle(now, input, out),
            State::AwaitVerdict(step) => step.handle(now, input, out),
            State::Refused(step) => step.handle(now, input, out),
            State::SaInitSent(step) => step.handle(now, input, out),
            State::AwaitSignature(step) => step.handle(now, input, out),
            State::AuthSent(step) => step.handle(now, input, out),
            State::AwaitVerification(step) => step.handle(now, input, out),
            State::Established(mut core) => {
                core.handle(now, input);
                State::Established(core)
            }
            State::Closed(base) => State::Closed(base),
            State::Moved => State::Moved,
        };
    }

    /// The next output, in order; `None` when there is none left.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front().or_else(|| {
            let State::Established(core) = &mut self.state else {
                return None;
            };
            core.poll()
        })
    }

    /// When [`Input::Timeout`] is due, and why (a short stable name). `None`: no timer is needed.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        match &self.state {
            State::ExpectSaInit(step) => step.deadline(),
            State::ExpectAuth(step) => step.deadline(),
            State::AwaitVerdict(step) => step.deadline(),
            State::Refused(step) => step.deadline(),
            State::SaInitSent(step) => step.deadline(),
            State::AwaitSignature(step) => step.deadline(),
            State::AuthSent(step) => step.deadline(),
            State::AwaitVerification(step) => step.deadline(),
            State::Established(core) => core.deadline(),
            State::Closed(_) | State::Moved => None,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::ExpectSaInit(_) | State::SaInitSent(_) => Phase::SaInit,
            State::ExpectAuth(_)
            | State::AwaitVerdict(_)
            | State::Refused(_)
            | State::AwaitSignature(_)
            | State::AuthSent(_)
            | State::AwaitVerification(_) => Phase::Auth,
            State::Established(core) if core.is_closed() => Phase::Closed,
            State::Established(_) => Phase::Established,
            State::Closed(_) | State::Moved => Phase::Closed,
        }
    }

    /// The initiator's SPI; zero in a responder that has seen no request.
    #[must_use]
    pub fn spi_i(&self) -> Spi {
        self.get(|base| base.spi_i, Core::spi_i).unwrap_or_default()
    }

    /// The responder's SPI; zero in an initiator that has seen no answer.
    #[must_use]
    pub fn spi_r(&self) -> Spi {
        self.get(|base| base.spi_r, Core::spi_r).unwrap_or_default()
    }

    /// Our SPI: the one under which messages for the present IKE SA are found.
    #[must_use]
    pub fn local_spi(&self) -> Spi {
        match self.role() {
            Role::Initiator => self.spi_i(),
            Role::Responder => self.spi_r(),
        }
    }

    /// Our SPIs, the present one and those of replaced IKE SAs that are still answered.
    #[must_use]
    pub fn local_spis(&self) -> Vec<Spi> {
        if let State::Established(core) = &self.state {
            core.local_spis()
        } else {
            vec![self.local_spi()]
        }
    }

    /// Our role in the present IKE SA; a rekey started by the other side changes it.
    #[must_use]
    pub fn role(&self) -> Role {
        self.get(|base| base.role, Core::role).unwrap_or(Role::Responder)
    }

    /// The peer's outer address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.get(|base| base.remote, Core::remote)
            .unwrap_or_else(unspecified)
    }

    /// Our outer address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.get(|base| base.local, Core::local)
            .unwrap_or_else(unspecified)
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.get(|base| base.counters, |core| *core.counters())
            .unwrap_or_default()
    }

    /// The child SAs that a data plane should have installed, oldest first; also right after [`restore`](Self::restore).
    pub fn children(&self) -> impl Iterator<Item = &ChildSa> {
        self.established().into_iter().flat_map(Core::children)
    }

    /// The established part: algorithms, identities, children. `None` before and after.
    #[must_use]
    pub fn established(&self) -> Option<&Core> {
        let State::Established(core) = &self.state else {
            return None;
        };
        (!core.is_closed()).then_some(core)
    }

    /// Everything needed to go on elsewhere or later; `None` unless established.
    ///
    /// A snapshot holds keys: seal it before it is written anywhere.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Option<Snapshot> {
        let State::Established(core) = &self.state else {
            return None;
        };
        core.snapshot(now).map(Snapshot::new)
    }

    /// Goes on from a snapshot that was taken `elapsed` ago. `generation` must never have been used with the snapshot's
    /// keys: it is what keeps IVs from repeating.
    ///
    /// # Errors
    /// [`RestoreError`] if the snapshot is of another version, or an SPI of it is taken.
    pub fn restore(
        now: Instant,
        mut ctx: Context,
        snapshot: Snapshot,
        elapsed: Duration,
        generation: u16,
    ) -> Result<Self, RestoreError> {
        ctx.generation = generation;
        let core = Core::restore(now, ctx, snapshot.into_core()?, elapsed, generation)?;
        Ok(Self {
            state: State::Established(Box::new(core)),
            out: Outbox::new(),
        })
    }

    /// To be called right after [`restore`](Self::restore): somebody else served this SA since the snapshot, a node that died
    /// or this one before it was started again, and liveness was not written. `newer` is what
    /// [`message_ids`](Self::message_ids) said there last, if that is known.
    ///
    /// Emits nothing yet. What follows depends on the peer: message IDs are synchronized (RFC 6311), or requests of the peer
    /// may skip some and ours are tried with signs of life. Until that is done, other requests of ours wait.
    pub fn taken_over(&mut self, now: Instant, newer: Option<MessageIds>) {
        if let State::Established(core) = &mut self.state {
            core.taken_over(now, newer);
        }
    }

    /// Where the message IDs are, for a checkpoint between two snapshots; zeros unless established.
    #[must_use]
    pub fn message_ids(&self) -> MessageIds {
        self.established().map(Core::message_ids).unwrap_or_default()
    }

    /// Whether the peer is a client that can be redirected to another gateway (RFC 5685).
    #[must_use]
    pub fn supports_redirect(&self) -> bool {
        self.established().is_some_and(Core::supports_redirect)
    }

    fn get<T>(&self, before: impl FnOnce(&Base) -> T, after: impl FnOnce(&Core) -> T) -> Option<T> {
        Some(match &self.state {
            State::ExpectSaInit(step) => before(step.base()),
            State::ExpectAuth(step) => before(step.base()),
            State::AwaitVerdict(step) => before(step.base()),
            State::Refused(step) => before(step.base()),
            State::SaInitSent(step) => before(step.base()),
            State::AwaitSignature(step) => before(step.base()),
            State::AuthSent(step) => before(step.base()),
            State::AwaitVerification(step) => before(step.base()),
            State::Closed(base) => before(base),
            State::Established(core) => after(core),
            State::Moved => return None,
        })
    }
}

fn unspecified() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

impl fmt::Debug for IkeSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IkeSa")
            .field("spi_i", &self.spi_i())
            .field("spi_r", &self.spi_r())
            .field("role", &self.role())
            .field("phase", &self.phase())
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
