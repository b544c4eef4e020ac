//! Inputs and outputs of the state machine.

use std::net::SocketAddr;
use std::time::Instant;

use crypto::Group;
use ip::Selector;
use serde::{Deserialize, Serialize};

use super::{ChildEnd, ChildSa, CloseReason, Failure, GatewayId, Identity, NatFindings};
use crate::auth::{AuthJob, AuthVerdict};
use crate::config::Assigned;
use crate::wire::Spi;

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// A datagram arrived for this SA.
    Datagram {
        /// Where it arrived. Port 4500 means that the non-ESP marker was stripped.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// The IKE message, from the header on.
        bytes: Vec<u8>,
    },
    /// The time of [`deadline`](crate::IkeSa::deadline) has come.
    Timeout,
    /// The answer to [`Event::Authenticate`].
    AuthResult {
        /// The event's ticket.
        ticket: u64,
        /// What came of it.
        verdict: Box<AuthVerdict>,
    },
    /// An order of this side.
    Command(Command),
}

/// An order to an IKE SA.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// End it: sends a DELETE where there is a peer to tell.
    Close,
    /// Replace the IKE SA's keys.
    RekeyIke,
    /// Replace a child SA.
    RekeyChild {
        /// The child's inbound SPI.
        spi_in: u32,
        /// Fresh key exchange with this group; `None` follows the policy.
        group: Option<Group>,
    },
    /// Make another child SA.
    CreateChild {
        /// Selectors of our side.
        ts_local: Vec<Selector>,
        /// Selectors of the peer's side.
        ts_remote: Vec<Selector>,
    },
    /// Delete a child SA.
    DeleteChild {
        /// The child's inbound SPI.
        spi_in: u32,
    },
    /// Probe the peer with an empty INFORMATIONAL.
    CheckLiveness,
    /// Authentic traffic of the peer was seen then; counts as a sign of life.
    InboundSeen {
        /// When.
        at: Instant,
    },
    /// Authentic ESP came from a new address.
    PeerMoved {
        /// The new address.
        remote: SocketAddr,
    },
    /// Gateway: ask the client to go to another one (RFC 5685 section 5). It is to delete this SA; after
    /// [`Timing::redirected`](super::Timing::redirected) we do. Ignored with a warning unless
    /// [`IkeSa::supports_redirect`](crate::IkeSa::supports_redirect).
    Redirect {
        /// Where to.
        to: GatewayId,
    },
}

/// Something for the shell to do.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Transmit(Transmit),
    /// Know this.
    Event(Event),
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// From which of our addresses and ports. Port 4500: prepend the non-ESP marker.
    pub local: SocketAddr,
    /// To where.
    pub remote: SocketAddr,
    /// The IKE message, from the header on.
    pub bytes: Vec<u8>,
    /// Hold it back until a snapshot taken now is stored.
    pub durable: bool,
}

/// Where the message IDs of an IKE SA are: what a checkpoint keeps besides the record, because liveness is not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MessageIds {
    /// Of our next request.
    pub send: u32,
    /// Of the peer's next request.
    pub receive: u32,
    /// Names the pair of SPIs that they are of: a rekey starts both at zero again.
    pub link: u32,
}

/// Something that happened inside.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Slow work: run it elsewhere, come back with [`Input::AuthResult`].
    Authenticate {
        /// Names the job.
        ticket: u64,
        /// The job.
        job: Box<AuthJob>,
    },
    /// A step was done; for traces.
    Step {
        /// Stable short name: `sa_init`, `dh`, `auth`, `config`, `child`…
        name: &'static str,
        /// In words. Holds no secret.
        detail: String,
    },
    /// Both sides are authenticated.
    Established {
        /// What came of it.
        ike: Box<IkeSummary>,
    },
    /// Initiator: what the gateway assigned. Comes before the child SA that uses it.
    Configured(Box<Assigned>),
    /// A new child SA.
    ChildUp(Box<ChildSa>),
    /// A child SA ended.
    ChildDown {
        /// Its inbound SPI.
        spi_in: u32,
        /// Why.
        reason: ChildEnd,
    },
    /// The peer has deleted a child SA that has a successor. Nothing is to be sent by it any more; packets of the peer that
    /// are still on their way are to be taken until [`Event::ChildDown`].
    ChildLeaving {
        /// Its inbound SPI.
        spi_in: u32,
    },
    /// A child SA was replaced: install `new` before the old one goes (by a later [`Event::ChildDown`]).
    ChildRekeyed {
        /// Inbound SPI of the child that `new` replaces.
        old_spi_in: u32,
        /// Its successor.
        new: Box<ChildSa>,
    },
    /// The first child SA could not be made; the IKE SA is up without it.
    ChildFailed {
        /// Why, in words.
        reason: String,
    },
    /// This IKE SA goes on under new SPIs; the old ones are answered until [`Event::OldSpisGone`].
    IkeRekeyed {
        /// New SPI of the (new) initiator.
        new_spi_i: Spi,
        /// New SPI of the (new) responder.
        new_spi_r: Spi,
    },
    /// Initiator: the gateway sends us to another one. During set-up [`Event::Closed`] follows; in a session the SA stays up
    /// until this side closes it.
    Redirected {
        /// Where to.
        to: GatewayId,
    },
    /// Forget these SPIs.
    OldSpisGone {
        /// The old initiator's.
        spi_i: Spi,
        /// The old responder's.
        spi_r: Spi,
    },
    /// The peer's outer address changed (or the SA moved to port 4500).
    PeerAddress {
        /// The new address.
        remote: SocketAddr,
    },
    /// Set-up failed. [`Event::Closed`] follows.
    Failed(Box<Failure>),
    /// The end; nothing but queued transmits follows.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// A line for tshark's key tables; only with [`Context::key_log`](super::Context::key_log).
    KeyLog(KeyLog),
    /// Odd, and survived.
    Warning {
        /// In words. Holds no secret, and nothing unescaped from the peer.
        detail: String,
    },
    /// A snapshot taken now differs from the last one in something worth storing.
    StateChanged,
}

/// What an established IKE SA is, for people and records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeSummary {
    /// The initiator's SPI.
    pub spi_i: Spi,
    /// The responder's SPI.
    pub spi_r: Spi,
    /// Algorithms.
    pub suite: String,
    /// Who the peer proved to be.
    pub peer_id: Identity,
    /// Who we proved to be.
    pub local_id: Identity,
    /// NAT findings: `nat.local`, `nat.remote`.
    pub nat: NatFindings,
    /// Our outer address.
    pub local: SocketAddr,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// SPIs of the IKE SA that this one replaced.
    pub rekeyed_from: Option<(Spi, Spi)>,
}

/// One line of a key table.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyLog {
    /// Which table.
    pub table: KeyLogTable,
    /// The line, without a newline.
    pub line: String,
}

impl std::fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyLog")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Wireshark's user-accessible tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyLogTable {
    /// `ikev2_decryption_table`.
    Ike,
    /// `esp_sa`.
    Esp,
}
