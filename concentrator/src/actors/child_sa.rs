//! The shell of one child SA: has it installed at its worker, reserves its sequence numbers, reports its limits.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorContext as _, Addr, AsyncContext as _, Context, Handler, Message};
use dataplane::{WorkerCommand, WorkerEvent};
use tenants::model::RekeyPolicy;

use super::{Fault, Gone, IkeSaActor, Order, Resave, Who, fail, panicked};
use crate::ceiling::{self, Ceiling};
use crate::install;
use crate::node::{Node, WorkerSlot};
use crate::records::{Full, Stored, Waiter};
use crate::sa_record;
use crate::session::{Child, Outer};
use crate::slot::Slot;

/// Messages that wait for one child SA.
const MAILBOX: usize = 64;
/// Wait before a ceiling that a full queue refused is offered again.
const RETRY: Duration = Duration::from_millis(100);

/// Something that the worker says of this SA.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ChildNews(pub WorkerEvent);

/// The worker was started anew and has lost the SA.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Reinstall;

/// The SA is over: take it from the worker.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Retire;

/// The peer has deleted the SA that it had replaced: only late packets are taken.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct StopSending;

/// The slot is another node's: take the SA from the worker, delete nothing.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Vanish;

/// The IKE SA is served by a new actor.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Follow {
    /// The new one.
    pub parent: Addr<IkeSaActor>,
}

/// The IKE SA has found its peer elsewhere.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct SetPeer {
    /// Our outer address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// What the actor does first.
enum Beginning {
    /// The SA is new.
    Install,
    /// The worker has it: only the actor is new.
    Resume,
    /// The process is new; the worker has it, unless it may send no more.
    Restored,
    /// Who knows: carry on above everything that was reserved.
    Reinstall,
}

/// What waits for a record.
enum AfterStore {
    Raise(u64),
    Install { first_seq: u64, ceiling: u64 },
}

/// The shell of one child SA.
pub struct ChildSaActor {
    node: Arc<Node>,
    slot: Arc<Slot>,
    parent: Addr<IkeSaActor>,
    child: Arc<Child>,
    worker: u8,
    beginning: Beginning,
    /// The peer has deleted it.
    leaving: bool,
    serial: u64,
    waiting: VecDeque<(u64, AfterStore)>,
}

impl ChildSaActor {
    /// Starts the actor of a new SA beside its parent.
    pub fn install(
        node: &Arc<Node>,
        slot: &Arc<Slot>,
        parent: Addr<IkeSaActor>,
        child: Arc<Child>,
    ) -> Addr<Self> {
        Self::launch(node, slot, parent, child, Beginning::Install)
    }

    /// Starts the successor of an actor that panicked.
    pub fn resume(
        node: &Arc<Node>,
        slot: &Arc<Slot>,
        parent: Addr<IkeSaActor>,
        child: Arc<Child>,
    ) -> Addr<Self> {
        Self::launch(node, slot, parent, child, Beginning::Resume)
    }

    /// Starts the first actor of an SA that is carried on from its record, or one more after several have panicked.
    pub fn restored(
        node: &Arc<Node>,
        slot: &Arc<Slot>,
        parent: Addr<IkeSaActor>,
        child: Arc<Child>,
    ) -> Addr<Self> {
        let beginning = match child.addr.load().as_ref() {
            None => Beginning::Restored,
            Some(_) => Beginning::Reinstall,
        };
        Self::launch(node, slot, parent, child, beginning)
    }

    fn launch(
        node: &Arc<Node>,
        slot: &Arc<Slot>,
        parent: Addr<IkeSaActor>,
        child: Arc<Child>,
        beginning: Beginning,
    ) -> Addr<Self> {
        let actor = Self {
            node: Arc::clone(node),
            slot: Arc::clone(slot),
            parent,
            worker: node.serving_worker(child.sa.spi_in),
            child: Arc::clone(&child),
            beginning,
            leaving: false,
            serial: 0,
            waiting: VecDeque::new(),
        };
        let addr = actor.start();
        child.addr.store(Some(Arc::new(addr.clone())));
        slot.children.insert(child.sa.spi_in, Arc::clone(&child));
        node.children.insert(child.sa.spi_in, child);
        addr
    }

    /// Reserves numbers up to `value`; what follows happens when that is durable.
    fn reserve(&mut self, value: u64, then: AfterStore, context: &mut Context<Self>) {
        self.serial += 1;
        let waiter = Waiter {
            who: context.address().recipient(),
            serial: self.serial,
        };
        match self.write(value, Some(waiter)) {
            Ok(()) => {
                self.child.ceiling.fetch_max(value, Ordering::AcqRel);
                self.waiting.push_back((self.serial, then));
            }
            // The worker asks again; an SA that waits to be installed again does by itself.
            Err(full) => {
                tracing::warn!(%full, "a block of sequence numbers could not be reserved");
                if let AfterStore::Install { .. } = then {
                    context.run_later(RETRY, |this, context| {
                        this.reinstall_above(context);
                    });
                }
            }
        }
    }

    fn write(&self, value: u64, waiter: Option<Waiter>) -> Result<(), Full> {
        let ceiling = Ceiling {
            value,
            generation: self.slot.generation(),
            block: self.node.config.limits.sequence_block,
        };
        // Before it is queued, so that whoever removes the child never overlooks it.
        self.child.has_ceiling.store(true, Ordering::Release);
        sa_record::put_ceiling(&self.slot, self.child.sa.spi_in, ceiling, waiter)
    }

    /// A block above `used`, as far as the SA has numbers; `None`: it has none.
    fn above(&self, used: u64) -> Option<u64> {
        let last = ceiling::last_number(self.child.sa.esn);
        let block = u64::from(self.node.config.limits.sequence_block);
        (used < last).then(|| used.saturating_add(block).min(last))
    }

    /// Everything up to the ceiling may have been used: go on above it.
    fn reinstall_above(&mut self, context: &mut Context<Self>) {
        let used = self.child.ceiling.load(Ordering::Acquire);
        match self.above(used).filter(|_| !self.child.is_spent()) {
            Some(ceiling) => {
                let first_seq = used + 1;
                self.reserve(ceiling, AfterStore::Install { first_seq, ceiling }, context);
            }
            None => self.replace("numbers"),
        }
    }

    /// Whether the thread that the worker has now was given the SA. One that starts from here on finds this actor.
    fn was_given(&self) -> bool {
        let starts = self.node.worker(self.worker).map(WorkerSlot::starts);
        starts == Some(self.child.given.load(Ordering::Acquire))
    }

    /// It has no numbers to send with, or its keys are too old: a new SA takes its place before anything is sent. A
    /// client that does not take rekeys makes a new one itself.
    fn replace(&self, reason: &'static str) {
        let spi_in = self.child.sa.spi_in;
        self.node.metrics.spent(reason);
        let session = self.slot.sessions.get(&self.child.session);
        let connection = session.and_then(|session| {
            let facts = &session.facts;
            self.node.registry.connection(&facts.tenant, &facts.connection)
        });
        let rekeys = connection.is_some_and(|connection| connection.rekey_policy == RekeyPolicy::Initiate);
        tracing::info!(spi_in = %format_args!("{spi_in:08x}"), reason, rekeys, "an SA is replaced before it sends again");
        self.order(if rekeys {
            ike::Command::RekeyChild { spi_in, group: None }
        } else {
            ike::Command::DeleteChild { spi_in }
        });
    }

    fn install_now(&self, first_seq: u64, ceiling: u64) {
        let pair = install::pair(&self.node, &self.slot, &self.child, first_seq, ceiling);
        self.node
            .command(self.worker, WorkerCommand::Install(Box::new(pair)));
    }

    /// Takes the SA from the worker and ends.
    fn leave(&self, context: &mut Context<Self>) {
        self.forget();
        let spi_in = self.child.sa.spi_in;
        self.node.command(self.worker, WorkerCommand::Remove { spi_in });
        context.stop();
    }

    fn forget(&self) {
        let spi_in = self.child.sa.spi_in;
        let own = |_: &u32, child: &Arc<Child>| Arc::ptr_eq(child, &self.child);
        self.node.children.remove_if(&spi_in, own);
        self.slot.children.remove_if(&spi_in, own);
    }

    fn order(&self, command: ike::Command) {
        // At most one of each kind for each limit or move that the worker reports.
        if self.parent.try_send(Order(command)).is_err() {
            self.node.metrics.refusal("ike_sa");
        }
    }
}

impl Actor for ChildSaActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
        match std::mem::replace(&mut self.beginning, Beginning::Resume) {
            // The first block is reserved by the SA record, which is stored before the peer is answered.
            Beginning::Install => self.install_now(1, ceiling::FIRST),
            Beginning::Restored if self.child.is_spent() => self.replace("restored"),
            Beginning::Restored if !self.was_given() => self.reinstall_above(context),
            Beginning::Resume | Beginning::Restored => {}
            Beginning::Reinstall => self.reinstall_above(context),
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        // Bounded: once in the life of an actor.
        self.parent.do_send(Gone {
            who: Who::ChildSa(self.child.sa.spi_in),
            panicked: panicked(),
        });
    }
}

impl Handler<ChildNews> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, ChildNews(event): ChildNews, context: &mut Context<Self>) {
        let spi_in = self.child.sa.spi_in;
        match event {
            WorkerEvent::CeilingNeeded { used, .. } => {
                let ceiling = self.child.ceiling.load(Ordering::Acquire);
                match self.above(ceiling.max(used)) {
                    Some(next) => self.reserve(next, AfterStore::Raise(next), context),
                    // Its last block is half used.
                    None => self.replace("numbers"),
                }
            }
            WorkerEvent::PeerMoved { remote, .. } => {
                self.child.move_to(Outer {
                    remote,
                    ..self.child.outer()
                });
                self.order(ike::Command::PeerMoved { remote });
            }
            WorkerEvent::SoftLimit { .. } => self.order(ike::Command::RekeyChild { spi_in, group: None }),
            WorkerEvent::HardLimit { .. } => self.order(ike::Command::DeleteChild { spi_in }),
            WorkerEvent::InstallFailed { reason, .. } => {
                tracing::error!(spi_in = %format_args!("{spi_in:08x}"), reason, "a worker refuses an SA");
                self.order(ike::Command::DeleteChild { spi_in });
            }
            WorkerEvent::FirstInbound { .. }
            | WorkerEvent::StrayIke { .. }
            | WorkerEvent::ForwardedIke { .. }
            | WorkerEvent::DeviceLost { .. }
            | WorkerEvent::OuterLost { .. }
            | WorkerEvent::Idle { .. }
            | WorkerEvent::Acquire { .. }
            | WorkerEvent::Died { .. }
            | WorkerEvent::Stats(_) => {}
        }
    }
}

impl Handler<Stored> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, stored: Stored, _: &mut Context<Self>) {
        while self
            .waiting
            .front()
            .is_some_and(|(serial, _)| *serial <= stored.serial)
        {
            let Some((_, then)) = self.waiting.pop_front() else {
                return;
            };
            match then {
                AfterStore::Raise(ceiling) => {
                    let spi_in = self.child.sa.spi_in;
                    self.node
                        .command(self.worker, WorkerCommand::RaiseCeiling { spi_in, ceiling });
                }
                AfterStore::Install { first_seq, ceiling } => self.install_now(first_seq, ceiling),
            }
        }
    }
}

impl Handler<Reinstall> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, _: Reinstall, context: &mut Context<Self>) {
        // For late packets alone it is not worth it.
        if !self.leaving {
            self.reinstall_above(context);
        }
    }
}

impl Handler<StopSending> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, _: StopSending, _: &mut Context<Self>) {
        self.leaving = true;
        let spi_in = self.child.sa.spi_in;
        self.node
            .command(self.worker, WorkerCommand::StopSending { spi_in });
    }
}

impl Handler<SetPeer> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, peer: SetPeer, _: &mut Context<Self>) {
        self.child.move_to(Outer {
            local: peer.local,
            remote: peer.remote,
        });
        let command = WorkerCommand::UpdatePeer {
            spi_in: self.child.sa.spi_in,
            remote: peer.remote,
            local: Some(self.node.sockets.real_local(peer.local)),
        };
        self.node.command(self.worker, command);
    }
}

impl Handler<Follow> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, Follow { parent }: Follow, _: &mut Context<Self>) {
        self.parent = parent;
    }
}

impl Handler<Retire> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, _: Retire, context: &mut Context<Self>) {
        self.leave(context);
    }
}

impl Handler<Vanish> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, _: Vanish, context: &mut Context<Self>) {
        // The worker has lost it already, with its whole slot.
        self.waiting.clear();
        self.forget();
        context.stop();
    }
}

impl Handler<Resave> for ChildSaActor {
    type Result = ();

    /// What is reserved is reserved under the new fence too, if it is more than the SA record says.
    fn handle(&mut self, Resave(receipt): Resave, context: &mut Context<Self>) {
        let ceiling = self.child.ceiling.load(Ordering::Acquire);
        let said = self.child.born.generation == self.slot.generation() && ceiling <= ceiling::FIRST;
        if said || self.child.is_spent() || self.write(ceiling, None).is_ok() {
            receipt.queued();
        } else {
            context.notify_later(Resave(receipt), RETRY);
        }
    }
}

impl Handler<Fault> for ChildSaActor {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}
