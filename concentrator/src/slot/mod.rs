//! A slot: everything that belongs to one owner at a time. Its service addresses, its SPIs, its records, its generation.
//!
//! A single node has one, number 0, which answers at every address and is its own for ever. In a cluster a node holds
//! several, and each of them can come from another node and go to another one while the others carry on. Therefore
//! every live SA knows its slot, and nothing that is kept for an SA is kept outside of it.

mod fence;
mod sealer;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use actix::Addr;
use arc_swap::ArcSwapOption;
use crypto::Secret;
use dashmap::DashMap;
use ike::{SpiAllocator, Transmit};
use store::Txn;
use tenants::Share;
use tokio::sync::{RwLock, RwLockReadGuard, watch};

use crate::actors::{IkeSaActor, Replicator};
use crate::generation::{GenerationError, Generations};
use crate::records::Records;
use crate::seal::SealError;
use crate::session::{Child, Session};
use crate::sockets::Sockets;
use crate::spis::{Reclaim, Spis};

pub use fence::Fence;
pub use sealer::RecordSealer;
pub use table::Slots;

/// The largest number of slots: seven bits of every ESP SPI.
pub const SLOTS_MAX: u8 = dataplane::MAX_SLOTS;

/// The bits of a session's number above its generation.
const ID_SLOT_SHIFT: u32 = 56;
/// The bits of a session's number below its generation.
const ID_COUNTER_BITS: u32 = 40;

/// Keys older than this many generations are replaced before they are used again: 16 bits of the generation stand in
/// every IV.
pub const AGE_MAX: u64 = 1 << 15;

/// The slot that a session belongs to, by its number.
#[must_use]
pub const fn slot_of_session(id: u64) -> u8 {
    (id >> ID_SLOT_SHIFT) as u8
}

/// What a slot begins with.
pub struct SlotStart {
    /// Its generation: never had by any owner before.
    pub generation: u64,
    /// What its records' names begin with.
    pub prefix: String,
    /// What has to hold in the store for a write of its records.
    pub fence: Option<Fence>,
    /// Seals its records.
    pub sealer: Arc<dyn RecordSealer>,
    /// Takes further generations.
    pub generations: Arc<dyn Generations>,
    /// Whether its number stands in its SPIs: not on a single node.
    pub numbered: bool,
    /// Its block of every pool; `None`: the whole pool.
    pub share: Option<Share>,
    /// Between two checkpoints.
    pub checkpoint: Duration,
    /// The most records that wait for the store.
    pub records_queued: usize,
    /// Whether users may come in while the store is out of reach.
    pub logins_without_store: bool,
}

/// Whether a slot's IKE SAs may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// Its SAs are being restored: nothing is heard yet.
    Restoring = 0,
    /// It serves.
    Serving = 1,
    /// It is about to be handed over: no IKE message is processed, ESP goes on.
    Frozen = 2,
    /// Soon it will be frozen: nobody new is heard, everything else goes on.
    Holding = 4,
    /// It is over: nothing leaves any more.
    Down = 3,
}

/// One slot, from the time this node begins with it until it ends.
pub struct Slot {
    /// Its number.
    pub id: u8,
    /// Its records on their way to the store.
    pub records: Arc<Records>,
    /// Its writer of records; replaced when that one panicked.
    pub replicator: ArcSwapOption<Addr<Replicator>>,
    /// Its IKE SAs by the number of their session, half-open ones too.
    pub(crate) actors: DashMap<u64, Addr<IkeSaActor>>,
    /// Its sessions.
    pub(crate) sessions: DashMap<u64, Arc<Session>>,
    /// Its IKE SAs that are not authenticated.
    pub(crate) half_open: Arc<AtomicU32>,
    /// Its child SAs by inbound SPI.
    pub(crate) children: DashMap<u32, Arc<Child>>,
    pub(crate) checkpoint_every: Duration,
    /// Whether users may come in while the store is out of reach.
    pub logins_without_store: bool,
    prefix: String,
    generation: AtomicU64,
    next_session: AtomicU64,
    sealer: Arc<dyn RecordSealer>,
    generations: Arc<dyn Generations>,
    spis: Arc<Spis>,
    share: Option<Share>,
    fence: ArcSwapOption<Fence>,
    /// Held while a transaction runs under the fence, so that none is under way while the fence changes.
    turn: RwLock<()>,
    standing: AtomicU8,
    /// Chunks of checkpoints that were in the store when it began.
    chunks_found: AtomicUsize,
    ended: AtomicBool,
    lost: watch::Sender<bool>,
}

impl Slot {
    fn begin(id: u8, start: SlotStart) -> Arc<Self> {
        let [.., high, low] = start.generation.to_be_bytes();
        // Never repeats: the next owner, and this one after a restart, has another generation.
        let first_session = u64::from(id) << ID_SLOT_SHIFT
            | u64::from(u16::from_be_bytes([high, low])) << ID_COUNTER_BITS
            | 1;
        Arc::new(Self {
            id,
            records: Records::new(start.records_queued),
            replicator: ArcSwapOption::empty(),
            actors: DashMap::new(),
            sessions: DashMap::new(),
            half_open: Arc::default(),
            children: DashMap::new(),
            checkpoint_every: start.checkpoint,
            logins_without_store: start.logins_without_store,
            prefix: start.prefix,
            generation: AtomicU64::new(start.generation),
            next_session: AtomicU64::new(first_session),
            sealer: start.sealer,
            generations: start.generations,
            spis: Arc::new(if start.numbered {
                Spis::of_slot(id)
            } else {
                Spis::new()
            }),
            share: start.share,
            fence: ArcSwapOption::from(start.fence.map(Arc::new)),
            turn: RwLock::new(()),
            standing: AtomicU8::new(Standing::Restoring as u8),
            chunks_found: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            lost: watch::Sender::new(false),
        })
    }

    /// Its generation: rises with every owner, every start and every actor that is made again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The upper 16 bits of every IV made from here on.
    #[must_use]
    pub fn iv_generation(&self) -> u16 {
        let [.., high, low] = self.generation().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Its generation is a later one from here on; it never goes back.
    pub fn set_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::AcqRel);
    }

    /// Takes the next generation, for an actor that panicked: it may have sent messages that its record does not know
    /// of. Durable when this returns; no record is written meanwhile.
    ///
    /// # Errors
    /// It cannot be had: the store is out of reach, or the slot is another's.
    pub async fn raise(&self) -> Result<u64, GenerationError> {
        let _alone = self.turn.write().await;
        if self.records.is_closed() {
            return Err(GenerationError::Lost);
        }
        let raised = self.generations.next(self.id).await?;
        self.set_generation(raised.generation);
        if let Some(fence) = raised.fence {
            self.fence.store(Some(Arc::new(fence)));
        }
        Ok(raised.generation)
    }

    /// What its records' names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Seals a record under the name it is stored by.
    ///
    /// # Errors
    /// Only when the cipher refuses.
    pub fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SealError> {
        self.sealer.seal(name, record)
    }

    /// Opens what [`Slot::seal`] made under the same name.
    ///
    /// # Errors
    /// Another key, another name, or damaged.
    pub fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, SealError> {
        self.sealer.open(name, blob)
    }

    /// Hands out its SPIs.
    #[must_use]
    pub fn spis(&self) -> Arc<dyn SpiAllocator> {
        Arc::clone(&self.spis) as Arc<dyn SpiAllocator>
    }

    /// The same for an actor's successor: what the dead one held is its own.
    #[must_use]
    pub fn reclaim(&self) -> Arc<dyn SpiAllocator> {
        Arc::new(Reclaim(Arc::clone(&self.spis)))
    }

    /// How many ESP SPIs are taken.
    #[must_use]
    pub fn spis_taken(&self) -> usize {
        self.spis.taken()
    }

    /// A number that no session has had: the slot's number (8 bits), its generation (16), a counter (40).
    #[must_use]
    pub fn next_session_id(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Its block of every pool.
    #[must_use]
    pub fn share(&self) -> Option<Share> {
        self.share
    }

    /// What has to hold for a write; `None`: nothing.
    #[must_use]
    pub fn fence(&self) -> Option<Arc<Fence>> {
        self.fence.load_full()
    }

    /// An empty transaction under the fence, for writes of others than the records: leases of addresses.
    #[must_use]
    pub fn fenced(&self) -> Txn {
        let txn = Txn::new();
        match self.fence.load().as_ref() {
            Some(fence) => fence.apply(txn),
            None => txn,
        }
    }

    /// Writes go under another fence from here on.
    pub fn set_fence(&self, fence: Option<Fence>) {
        self.fence.store(fence.map(Arc::new));
    }

    /// Keeps the fence as it is until the guard is dropped.
    pub(crate) async fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().await
    }

    pub(crate) fn chunks_found(&self) -> usize {
        self.chunks_found.load(Ordering::Acquire)
    }

    pub(crate) fn set_chunks_found(&self, count: usize) {
        self.chunks_found.store(count, Ordering::Release);
    }

    /// Whether IKE messages are processed.
    #[must_use]
    pub fn serving(&self) -> bool {
        matches!(self.standing(), Standing::Serving | Standing::Holding)
    }

    /// How many of its IKE SAs are not authenticated.
    #[must_use]
    pub fn half_open(&self) -> u32 {
        self.half_open.load(Ordering::Acquire)
    }

    /// Whether its IKE SAs may act: not while it is doubtful whose it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            0 => Standing::Restoring,
            1 | 4 if self.is_lost() => Standing::Frozen,
            1 => Standing::Serving,
            2 => Standing::Frozen,
            4 => Standing::Holding,
            _ => Standing::Down,
        }
    }

    /// Lets its IKE SAs act, or not. One that is down stays down.
    pub fn set_standing(&self, standing: Standing) {
        let _ = self
            .standing
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now != Standing::Down as u8).then_some(standing as u8)
            });
    }

    /// Sends a message of one of its SAs, unless the slot is over: then its next owner speaks.
    pub fn send(&self, sockets: &Sockets, transmit: &Transmit) {
        if self.standing() != Standing::Down {
            sockets.send(transmit);
        }
    }

    /// A write was refused: the slot is another's, as far as the store says. Its IKE SAs stand still and what waits for
    /// the store waits on, until it is put down, or a later write is taken and `regain` is called.
    pub fn lose(&self) {
        self.lost.send_replace(true);
    }

    /// A write was taken: the slot is this node's after all.
    pub(crate) fn regain(&self) {
        self.lost.send_replace(false);
    }

    /// Whether the last write was refused.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the slot is lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.subscribe();
        // An error is impossible while the slot is there; waiting on is right then, too.
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this node has ended with it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Nothing is stored or sent for it from here on.
    fn end(&self) {
        self.set_standing(Standing::Down);
        self.ended.store(true, Ordering::Release);
        self.records.close();
    }
}
