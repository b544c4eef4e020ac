//! The actors, one a file, and the messages that several of them know.
//!
//! Supervision: `stopped()` runs while a panic unwinds, tells the supervisor, and the supervisor makes a new actor.
//! The supervisor of everything is [`Root`]; tenants supervise their IkeSaActors, an IkeSaActor its ChildSaActors.

mod child_sa;
mod esp_worker;
mod ike_sa;
mod listener;
mod pending;
mod replicator;
mod root;
mod tenant_supervisor;

use std::net::SocketAddr;

use actix::Message;

pub use child_sa::{ChildNews, ChildSaActor, Follow, Reinstall, Retire, SetPeer};
pub(crate) use child_sa::{StopSending, Vanish};
pub use esp_worker::{EspWorker, News};
pub(crate) use ike_sa::Dismiss;
pub use ike_sa::{Begin, Evict, IkeSaActor};
pub(crate) use ike_sa::{PutDown, Resave, Resume};
pub use listener::Listener;
pub(crate) use pending::Vacated;
pub use pending::{NewSa, PendingSupervisor};
pub(crate) use replicator::CheckpointNow;
pub use replicator::Replicator;
pub use root::{EnsureReplicator, EnsureTenant, Root};
pub(crate) use root::{Serve, Stop};
pub use tenant_supervisor::{Admit, TenantSupervisor};

/// An IKE datagram for one SA, without the non-ESP marker.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Datagram {
    /// Where it arrived.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// The IKE message.
    pub bytes: Vec<u8>,
}

/// An IKE datagram that came to another node of the cluster, which sent it on.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Forwarded(pub Datagram);

/// An order to an IKE SA from this node.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Order(pub ike::Command);

/// An actor is gone.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Gone {
    /// Which one.
    pub who: Who,
    /// Whether it was a panic: then a new one is wanted.
    pub panicked: bool,
}

/// Names an actor to its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// The reader of the IKE sockets.
    Listener,
    /// The writer of a slot's records.
    Replicator(u8),
    /// The supervisor of one worker thread.
    EspWorker(u8),
    /// The supervisor of SAs whose tenant is not known.
    Pending,
    /// The supervisor of a tenant.
    Tenant(String),
    /// The shell of an IKE SA: the number of its session.
    IkeSa(u64),
    /// The shell of a child SA: its inbound SPI.
    ChildSa(u32),
}

impl Who {
    /// The kind, for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Replicator(_) => "replicator",
            Self::EspWorker(_) => "worker",
            Self::Pending => "pending",
            Self::Tenant(_) => "tenant",
            Self::IkeSa(_) => "ike_sa",
            Self::ChildSa(_) => "child_sa",
        }
    }
}

/// Makes the actor panic: fault injection, allowed by `debug.fault_injection` alone.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Fault;

/// Panics, because the operator asked for it.
#[allow(clippy::panic, reason = "a panic is what was asked for")]
pub(crate) fn fail() -> ! {
    std::panic::panic_any("injected fault")
}

/// Whether the current actor is stopping because it panicked.
pub(crate) fn panicked() -> bool {
    std::thread::panicking()
}
