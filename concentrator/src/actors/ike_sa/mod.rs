//! The shell of one [`IkeSa`]: feeds inputs, drains outputs, keeps one deadline, holds durable answers back.
//!
//! It acts only while its slot serves: before and after that it keeps what it is told to do, and hears nothing.
//!
//! It lives under the pending supervisor until its peer is authenticated, then under its tenant's.

mod ending;
mod events;
mod handlers;
mod standing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::{Actor, ActorContext as _, Addr, AsyncContext as _, Context};
use ike::wire::Spi;
use ike::{IkeSa, Input, Transmit};

use super::{ChildSaActor, Datagram, Gone, Vacated, Who, panicked};
use crate::authenticator::{AuthDone, Granted};
use crate::dispatch::Opening;
use crate::login::Login;
use crate::node::Node;
use crate::records::{Change, Priority, Waiter};
use crate::recovery::{Arrival, Receipt, Revived};
use crate::sa_record::SaRecord;
use crate::session::Session;
use crate::slot::Slot;
use crate::tenant::Counted;
use crate::wheel::{Armed, Wheel};

pub(crate) use ending::Dismiss;
use ending::Ending;
pub use ending::Evict;
pub(crate) use standing::{PutDown, Resave, Resume};

/// Wait before a record that a full queue refused is offered again.
const UNSAVED_RETRY: Duration = Duration::from_millis(50);

/// Everything for a new IKE SA.
pub struct Begin {
    /// The number of the session to be.
    pub id: u64,
    /// Names the set-up.
    pub opening: Opening,
    /// The IKE_SA_INIT request.
    pub first: Datagram,
    /// When it was read.
    pub arrived: Instant,
    /// Its unit of the half-open limit, and of what its slot has half-open.
    pub half_open: [Counted; 2],
    /// Whose service address was called.
    pub slot: Arc<Slot>,
}

/// How far the shell is.
enum Stage {
    /// Not authenticated.
    Opening {
        login: Box<Login>,
        granted: Option<Box<Granted>>,
        _half_open: [Counted; 2],
    },
    /// Up. `login` stays until the record is stored, to end the trace with it.
    Open {
        session: Arc<Session>,
        login: Option<Box<Login>>,
        _counted: Counted,
    },
    /// Over.
    Ended,
}

/// The shell of one IKE SA.
pub struct IkeSaActor {
    node: Arc<Node>,
    slot: Arc<Slot>,
    id: u64,
    sa: IkeSa,
    stage: Stage,
    wheel: Wheel,
    armed: Option<(Instant, Armed)>,
    /// Our SPIs that lead here.
    spis: Vec<Spi>,
    opening: Option<Opening>,
    children: HashMap<u32, Addr<ChildSaActor>>,
    /// Answers that wait for a record. Bounded by the core's window of one request and one answer.
    held: VecDeque<(u64, Transmit)>,
    serial: u64,
    unsaved: bool,
    closed: bool,
    first: Option<Datagram>,
    /// When the core was last told of inbound ESP.
    told_inbound: SystemTime,
    /// Orders that came while the slot did not serve.
    orders: Vec<ike::Command>,
    /// An end that was decided meanwhile.
    ending: Option<Ending>,
    /// A verdict that came then.
    verdict: Option<Box<AuthDone>>,
    /// Told when the record is queued again.
    receipt: Option<Arc<Receipt>>,
    /// Dropped when the session can be reached.
    arrival: Option<Arrival>,
}

impl IkeSaActor {
    /// Starts the actor of a new IKE SA under the pending supervisor.
    pub fn begin(node: &Arc<Node>, begin: Begin) {
        let opening = begin.opening;
        let shared = Arc::clone(node);
        let addr = Self::start_in_arbiter(&node.arbiters.of(begin.id), move |_| {
            let policy = shared.init_policy(begin.opening.local);
            let context = shared.ike_context(&begin.slot);
            let sa = IkeSa::respond(
                Instant::now(),
                context,
                policy,
                begin.opening.local,
                begin.opening.remote,
            );
            let login = Box::new(Login::begin(&shared, &begin.opening, begin.arrived));
            let stage = Stage::Opening {
                login,
                granted: None,
                _half_open: begin.half_open,
            };
            Self {
                opening: Some(begin.opening),
                first: Some(begin.first),
                ..Self::new(shared, begin.slot, begin.id, sa, stage)
            }
        });
        node.dispatch.enter_opening(opening, addr);
    }

    /// Starts the actor of a session that is carried on from its record, on the session's arbiter.
    pub fn revive(node: &Arc<Node>, slot: &Arc<Slot>, revived: Revived) {
        let (shared, slot) = (Arc::clone(node), Arc::clone(slot));
        let _ = Self::start_in_arbiter(&node.arbiters.of(revived.session.facts.id), move |_| {
            Self::revived(&shared, &slot, revived, None)
        });
    }

    /// The same on the arbiter that this is called on. `arrival` is dropped when it can be reached.
    pub(crate) fn revive_here(node: &Arc<Node>, slot: &Arc<Slot>, revived: Revived, arrival: Arrival) {
        let _ = Self::revived(node, slot, revived, Some(arrival)).start();
    }

    fn revived(node: &Arc<Node>, slot: &Arc<Slot>, revived: Revived, arrival: Option<Arrival>) -> Self {
        let Revived { session, sa } = revived;
        session.set_follows(sa.supports_redirect());
        let counted = Counted::force(&node.tenants.share(&session.facts.tenant).sessions);
        let id = session.facts.id;
        let stage = Stage::Open {
            session,
            login: None,
            _counted: counted,
        };
        Self {
            arrival,
            ..Self::new(Arc::clone(node), Arc::clone(slot), id, sa, stage)
        }
    }

    fn new(node: Arc<Node>, slot: Arc<Slot>, id: u64, sa: IkeSa, stage: Stage) -> Self {
        Self {
            node,
            slot,
            id,
            sa,
            stage,
            wheel: Wheel::here(),
            armed: None,
            spis: Vec::new(),
            opening: None,
            children: HashMap::new(),
            held: VecDeque::new(),
            serial: 0,
            unsaved: false,
            closed: false,
            first: None,
            told_inbound: SystemTime::now(),
            orders: Vec::new(),
            ending: None,
            verdict: None,
            receipt: None,
            arrival: None,
        }
    }

    /// Feeds one input and does what comes of it.
    fn feed(&mut self, input: Input, context: &mut Context<Self>) {
        let begun = (SystemTime::now(), Instant::now());
        self.sa.handle(begun.1, input);
        self.drain(begun, context);
    }

    /// Does everything that the core wants done, then stores, sends and arms.
    fn drain(&mut self, begun: (SystemTime, Instant), context: &mut Context<Self>) {
        let mut sends = Vec::new();
        let mut changed = self.unsaved;
        let mut stored = false;
        while let Some(output) = self.sa.poll() {
            match output {
                ike::Output::Transmit(transmit) => sends.push(transmit),
                ike::Output::Event(event) => changed |= self.event(event, begun, context),
            }
        }
        let durable = sends.iter().any(|transmit| transmit.durable);
        if (changed || durable) && !self.closed {
            stored = self.save(durable, context);
        }
        if !self.unsaved
            && let Some(receipt) = self.receipt.take()
        {
            receipt.queued();
        }
        if let Stage::Open { session, .. } = &self.stage {
            session.note_ids(self.sa.message_ids(), stored && !self.unsaved);
        }
        for transmit in sends {
            // Before the SA is up there is no record: a refusal leaves at once.
            if transmit.durable && stored {
                self.held.push_back((self.serial, transmit));
            } else if self.held.iter().any(|(_, held)| held.bytes == transmit.bytes) {
                // A repetition of what waits for its record waits with it.
            } else {
                self.slot.send(&self.node.sockets, &transmit);
            }
        }
        if self.closed {
            context.stop();
        } else {
            self.rearm(context);
        }
    }

    /// Queues a record of the SA as it is; false when there is nothing to wait for. `awaited`: an answer waits for it.
    fn save(&mut self, awaited: bool, context: &mut Context<Self>) -> bool {
        let Stage::Open { session, login, .. } = &mut self.stage else {
            return false;
        };
        let Some(snapshot) = self.sa.snapshot(Instant::now()) else {
            return false;
        };
        self.serial += 1;
        let waiter = Waiter {
            who: context.address().recipient(),
            serial: self.serial,
        };
        let priority = match (&login, awaited) {
            (Some(_), _) => Priority::Login,
            (None, true) => Priority::Rekey,
            (None, false) => Priority::Bookkeeping,
        };
        let name = SaRecord::name(&self.slot, self.id);
        self.unsaved = match SaRecord::new(session, snapshot).seal(&self.slot) {
            Ok(blob) => self
                .slot
                .records
                .submit(name, Change::Put(blob), priority, Some(waiter))
                .is_err(),
            Err(error) => {
                tracing::error!(%error, "an SA record could not be made");
                true
            }
        };
        if let Some(login) = login {
            login.submitted();
        }
        true
    }

    fn rearm(&mut self, context: &mut Context<Self>) {
        let retry = self.unsaved.then(|| Instant::now() + UNSAVED_RETRY);
        let deadline = match (self.sa.deadline().map(|(at, _)| at), retry) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if self.armed.map(|(at, _)| at) == deadline {
            return;
        }
        if let Some((_, armed)) = self.armed.take() {
            self.wheel.disarm(armed);
        }
        self.armed = deadline.map(|at| (at, self.wheel.arm(at, context.address())));
    }

    /// Authentic ESP is a sign of life: the core hears of it before it decides on a liveness check.
    fn tell_inbound(&mut self, now: (SystemTime, Instant)) {
        let Stage::Open { session, .. } = &self.stage else {
            return;
        };
        let silence = session
            .children()
            .iter()
            .filter_map(|child| child.silent_for(now.0))
            .min();
        let Some(silence) = silence else { return };
        let (Some(seen), Some(at)) = (now.0.checked_sub(silence), now.1.checked_sub(silence)) else {
            return;
        };
        if seen > self.told_inbound {
            self.told_inbound = seen;
            self.sa
                .handle(now.1, Input::Command(ike::Command::InboundSeen { at }));
        }
    }
}

impl Actor for IkeSaActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(self.node.config.limits.mailbox as usize);
        self.slot.actors.insert(self.id, context.address());
        self.enter(self.sa.local_spi(), context);
        if let Some(Datagram { local, remote, bytes }) = self.first.take() {
            if !self.acts() {
                // Its client repeats the message to whoever has the slot then.
                context.stop();
                return;
            }
            self.feed(Input::Datagram { local, remote, bytes }, context);
        } else {
            self.take_over(context);
            self.drain((SystemTime::now(), Instant::now()), context);
        }
    }

    fn stopped(&mut self, context: &mut Context<Self>) {
        let panicked = panicked();
        if let Some((_, armed)) = self.armed.take() {
            self.wheel.disarm(armed);
        }
        let gone = Gone {
            who: Who::IkeSa(self.id),
            panicked,
        };
        if let (Stage::Open { session, .. }, true) = (&self.stage, panicked) {
            // The successor enters the same SPIs; until then what arrives for them is lost, not misled.
            session.fell();
            self.node.tell_tenant(&session.facts.tenant, gone);
            return;
        }
        let own = context.address();
        self.slot.actors.remove_if(&self.id, |_, addr| *addr == own);
        let opening = self.opening;
        self.leave(context);
        if let Stage::Opening { .. } = &self.stage {
            if let Some(opening) = opening {
                self.node.tell_pending(Vacated { opening, addr: own });
            }
            self.node.authenticator.give_back(&self.node, self.id);
            self.node.tell_pending(gone);
        }
    }
}
