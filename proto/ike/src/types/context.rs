//! What a state machine is given: randomness, SPIs, timing, policy.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crypto::{Group, HashAlgorithm, Prf, Random, Suite};
use serde::{Deserialize, Serialize};

use super::{ChildPolicy, GatewayId, Identity, Lifetime};
use crate::config::ConfigRequest;
use crate::wire::Spi;
use crate::wire::proposal::IkeProposal;

/// Which side of an exchange or of an IKE SA we are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Sent the first request.
    Initiator,
    /// Answered it.
    Responder,
}

impl Role {
    /// The other side.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }

    /// Whether this is the initiator.
    #[must_use]
    pub const fn is_initiator(self) -> bool {
        matches!(self, Self::Initiator)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initiator => "initiator",
            Self::Responder => "responder",
        })
    }
}

/// How far an IKE SA has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Phase {
    /// IKE_SA_INIT is not complete.
    SaInit,
    /// Keys exist, nobody is authenticated.
    Auth,
    /// Both sides are authenticated.
    Established,
    /// Over: outputs may be left to drain, inputs are ignored.
    Closed,
}

/// The algorithms of an IKE SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IkeSuite {
    /// Cipher and integrity algorithm of SK payloads.
    pub suite: Suite,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange method.
    pub group: Group,
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.suite.cipher)?;
        if let Some(integrity) = self.suite.integrity {
            write!(f, "/{integrity}")?;
        }
        write!(f, "/{}/{}", self.prf, self.group)
    }
}

/// What NAT detection found (RFC 7296 section 2.23).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NatFindings {
    /// The peer sent NAT detection payloads.
    pub supported: bool,
    /// Our address is translated on the way (or we claimed so, to force UDP encapsulation).
    pub local: bool,
    /// The peer's address is translated on the way (or it claimed so).
    pub remote: bool,
}

impl NatFindings {
    /// Whether ESP goes in UDP.
    //= rfc7296#section-2.23
    //# However, if a NAT
    //# is detected, both devices MUST use UDP encapsulation for ESP.
    #[must_use]
    pub const fn encap(self) -> bool {
        self.supported && (self.local || self.remote)
    }
}

impl fmt::Display for NatFindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.supported, self.local, self.remote) {
            (false, ..) => "peer does not support NAT traversal",
            (true, false, false) => "no NAT",
            (true, true, false) => "we are behind NAT",
            (true, false, true) => "peer is behind NAT",
            (true, true, true) => "both are behind NAT",
        })
    }
}

/// Hands out SPIs that are unique where they have to be. Shared by every SA of a process.
pub trait SpiAllocator: Send + Sync {
    /// A fresh, unpredictable, non-zero IKE SPI.
    fn ike(&self) -> Spi;
    /// A fresh inbound ESP SPI (at least 256) whose top bits name `worker`; stays taken until released.
    fn esp(&self, worker: u8) -> u32;
    /// Gives an inbound ESP SPI back.
    fn release_esp(&self, spi: u32);
    /// Takes a particular SPI (restore of a snapshot); false if somebody has it.
    fn claim_esp(&self, spi: u32) -> bool;
}

/// Timers of the protocol.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// Wait before the first retransmission of a request.
    pub retransmit_base: Duration,
    /// Each later wait is this many times the one before.
    pub retransmit_factor: f64,
    /// Retransmissions before the peer counts as dead.
    pub retransmit_tries: u8,
    /// A responder's SA that is not authenticated by then is dropped.
    pub half_open: Duration,
    /// Incomplete sets of fragments are dropped after this.
    pub reassembly: Duration,
    /// How long a replaced or deleted SA still answers retransmissions.
    pub linger: Duration,
    /// Wait before a request that met TEMPORARY_FAILURE is tried again.
    pub retry_temporary: Duration,
    /// How long a client that was redirected out of a session has to set up the other one and to delete this one.
    pub redirected: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retransmit_base: Duration::from_secs(2),
            retransmit_factor: 1.8,
            retransmit_tries: 5,
            half_open: Duration::from_secs(30),
            reassembly: Duration::from_secs(30),
            linger: Duration::from_secs(10),
            retry_temporary: Duration::from_secs(5),
            redirected: Duration::from_secs(30),
        }
    }
}

impl Timing {
    /// Wait after transmission number `sent` (1 for the first) before the next one, or before giving up.
    #[must_use]
    pub fn retransmit_after(&self, sent: u8) -> Duration {
        let factor = self.retransmit_factor.powi(i32::from(sent.saturating_sub(1)));
        self.retransmit_base.mul_f64(factor.clamp(1.0, 1000.0))
    }
}

/// Everything a state machine needs from outside.
pub struct Context {
    /// Source of nonces, key pairs, IVs.
    pub random: Box<dyn Random>,
    /// Source of SPIs.
    pub spis: Arc<dyn SpiAllocator>,
    /// First 16 bits of every IV of counter-mode ciphers; never used twice by a slot.
    pub generation: u16,
    /// Emit [`Event::KeyLog`](super::Event::KeyLog). Reveals every key; for debugging.
    pub key_log: bool,
    /// Timers.
    pub timing: Timing,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("generation", &self.generation)
            .field("key_log", &self.key_log)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// What a responder accepts before it knows who is calling.
#[derive(Clone, Debug)]
pub struct InitPolicy {
    /// IKE proposals, preferred first: the union over all connections reachable at this address.
    pub proposals: Vec<IkeProposal>,
    /// SHA-1 of the SubjectPublicKeyInfo of each trust anchor, sent as CERTREQ; empty sends none, and more than 24 send
    /// one that names nobody.
    pub certreq: Vec<[u8; 20]>,
    /// Hashes announced in SIGNATURE_HASH_ALGORITHMS and accepted in digital signatures (RFC 7427).
    pub hashes: Vec<HashAlgorithm>,
    /// Announce and use IKE fragmentation (RFC 7383).
    pub fragmentation: bool,
    /// Largest IKE datagram (octets, without IP and UDP headers) sent unfragmented.
    pub fragment_size: usize,
    /// Claim a NAT so that ESP always goes in UDP.
    pub force_encap: bool,
    /// Send clients that can be redirected (RFC 5685) to this gateway, before anything is computed for them. One that another
    /// gateway has sent is served.
    pub redirect: Option<GatewayId>,
}

impl InitPolicy {
    /// A policy with `proposals` and the usual rest.
    #[must_use]
    pub fn new(proposals: Vec<IkeProposal>) -> Self {
        Self {
            proposals,
            certreq: Vec::new(),
            hashes: default_hashes(),
            fragmentation: true,
            fragment_size: DEFAULT_FRAGMENT_SIZE,
            force_encap: false,
            redirect: None,
        }
    }
}

/// Fits IPv6's minimum MTU of 1280 with UDP and IP headers.
pub(crate) const DEFAULT_FRAGMENT_SIZE: usize = 1232;

fn default_hashes() -> Vec<HashAlgorithm> {
    use HashAlgorithm::{Identity, Sha256, Sha384, Sha512};
    vec![Sha256, Sha384, Sha512, Identity]
}

/// What an initiator wants.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// IKE proposals, preferred first.
    pub proposals: Vec<IkeProposal>,
    /// The group of the first KE payload; the first proposal's first group if absent.
    pub first_group: Option<Group>,
    /// Sent as IDr.
    pub remote_id: Option<Identity>,
    /// Refuse a gateway that answers with another identity than `remote_id`.
    pub require_remote_id: bool,
    /// SHA-1 of the SubjectPublicKeyInfo of each trust anchor, sent as CERTREQ; empty sends none.
    pub certreq: Vec<[u8; 20]>,
    /// Hashes announced in SIGNATURE_HASH_ALGORITHMS; empty sends none.
    pub hashes: Vec<HashAlgorithm>,
    /// Announce and use IKE fragmentation.
    pub fragmentation: bool,
    /// Largest IKE datagram sent unfragmented.
    pub fragment_size: usize,
    /// Send a false NAT_DETECTION_SOURCE_IP hash, so that ESP goes in UDP.
    pub force_encap: bool,
    /// Say INITIAL_CONTACT.
    pub initial_contact: bool,
    /// Ask for addresses; absent sends no CP payload.
    pub config_request: Option<ConfigRequest>,
    /// The first child SA. With `config_request`, TSi is offered as `ts_local` says and narrowed by the gateway.
    pub child: ChildPolicy,
    /// Lifetime of the IKE SA.
    pub ike_lifetime: Lifetime,
    /// Silence after which the peer is probed.
    pub liveness: Option<Duration>,
    /// Announce that message IDs can be synchronized (RFC 6311): the gateway may be a cluster.
    pub message_id_sync: bool,
    /// Announce that we can be redirected (RFC 5685). Where to is told by [`Event::Redirected`](super::Event::Redirected);
    /// following it is the shell's part.
    pub redirect: bool,
    /// The gateway that redirected us to this one.
    pub redirected_from: Option<IpAddr>,
}

impl InitiatorConfig {
    /// A configuration with `proposals` and `child` and the usual rest.
    #[must_use]
    pub fn new(proposals: Vec<IkeProposal>, child: ChildPolicy) -> Self {
        Self {
            proposals,
            first_group: None,
            remote_id: None,
            require_remote_id: false,
            certreq: Vec::new(),
            hashes: default_hashes(),
            fragmentation: true,
            fragment_size: DEFAULT_FRAGMENT_SIZE,
            force_encap: false,
            initial_contact: true,
            config_request: None,
            child,
            ike_lifetime: Lifetime::default(),
            liveness: None,
            message_id_sync: true,
            redirect: false,
            redirected_from: None,
        }
    }
}

/// What one IKE SA has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Datagrams handed in.
    pub datagrams_in: u64,
    /// Datagrams handed out, retransmissions included.
    pub datagrams_out: u64,
    /// Requests sent again by us.
    pub retransmits_out: u64,
    /// Requests received again and answered from the cache.
    pub retransmits_in: u64,
    /// Messages whose integrity check failed.
    pub integrity_failures: u64,
    /// Messages that could not be decoded.
    pub malformed: u64,
    /// Messages that decode and do not belong: wrong message ID, exchange, SPI, direction.
    pub unexpected: u64,
    /// Fragments received (RFC 7383).
    pub fragments_in: u64,
    /// Fragments dropped: duplicate, inconsistent, over a limit.
    pub fragments_dropped: u64,
    /// Liveness probes sent.
    pub liveness_checks: u64,
    /// Child SAs made by rekeying.
    pub child_rekeys: u64,
    /// Times the IKE SA was rekeyed.
    pub ike_rekeys: u64,
    /// Rekey collisions resolved.
    pub collisions: u64,
    /// Message IDs synchronized after a takeover (RFC 6311), by us or by the peer.
    pub message_id_syncs: u64,
    /// Requests of the peer that were ahead of what we had known after a takeover, and were accepted.
    pub message_id_gaps: u64,
    /// Message IDs tried after a takeover because the peer's window was not known.
    pub message_id_probes: u64,
    /// Further child SAs with the same selectors (RFC 9611) that were refused, by us or by the peer.
    pub resources_refused: u64,
}
