//! Child SAs as the shells see them: policy in, installable SA out.

use std::net::SocketAddr;
use std::time::Duration;

use crypto::{Secret, Suite};
use ip::Selector;
use serde::{Deserialize, Serialize};

use crate::wire::proposal::ChildProposal;

/// Keys of one direction of a child SA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildKeys {
    /// Encryption key, followed by the salt of a counter-mode cipher.
    pub enc: Secret,
    /// Integrity key; empty for AEAD suites.
    pub integ: Secret,
}

/// Security protocol of a child SA. AH is not offered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum SecurityProtocol {
    /// RFC 4303.
    Esp,
}

/// Encapsulation mode of a child SA.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// Whole inner packets inside outer ones (RFC 4301 section 4.1).
    Tunnel,
}

/// When the outbound half of a child SA may carry traffic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Activate {
    /// The peer is known to have it.
    Now,
    /// A rekey that we answered: the peer may not have it yet, so the older outbound SA stays in use until a packet
    /// arrives on the new inbound one or the older one goes.
    OnFirstInbound,
}

/// The place of a child SA among those with the same selectors (RFC 9611).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Resource {
    /// None: a younger one for the same traffic takes over what is sent.
    #[default]
    None,
    /// The first of a group. It is bound to nothing, and carries what no other one of the group is for.
    Fallback,
    /// Bound to a resource of this side: the number is an index of [`ChildPolicy::resources`].
    Bound(u8),
}

impl Resource {
    /// Whether it belongs to a group.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::None)
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fallback => f.write_str("fallback"),
            Self::Bound(number) => write!(f, "{number}"),
        }
    }
}

/// Limits of an SA's life. At `soft` it is replaced, at `hard` it ends. `None` means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lifetime {
    /// Age at which a rekey starts.
    pub soft: Option<Duration>,
    /// Age at which the SA is deleted.
    pub hard: Option<Duration>,
    /// Octets (of either direction) at which a rekey starts.
    pub soft_octets: Option<u64>,
    /// Octets (of either direction) at which the SA is deleted.
    pub hard_octets: Option<u64>,
}

/// Who starts rekeys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RekeyPolicy {
    /// At the soft limits.
    #[default]
    AtSoftLimit,
    /// Only just before the hard limit: for clients that refuse rekeys started by the gateway (Windows behind NAT).
    BeforeHardLimit,
    /// Never: at the hard limit the SA is deleted.
    Never,
}

/// What we allow in child SAs of one IKE SA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildPolicy {
    /// Acceptable proposals, preferred first.
    pub proposals: Vec<ChildProposal>,
    /// What we protect.
    pub ts_local: Vec<Selector>,
    /// What the peer may protect; for a client with a virtual address, exactly the assigned addresses.
    pub ts_remote: Vec<Selector>,
    /// Lifetime of each child SA.
    pub lifetime: Lifetime,
    /// Replay window in packets.
    pub replay_window: u32,
    /// ESP worker that owns the peer: the top bits of every inbound SPI, but for those of `resources`.
    pub worker: u8,
    /// The ESP worker of each resource that a further child SA with the same selectors may be bound to (RFC 9611), so as
    /// many of them are made or accepted; empty: none. At most 255 are used.
    pub resources: Vec<u8>,
    /// Who starts rekeys of children and of the IKE SA.
    pub rekey: RekeyPolicy,
    /// The most child SAs that this IKE SA may have at once.
    pub max_children: u16,
}

impl ChildPolicy {
    /// The ESP worker that the inbound SPI of a child SA names.
    #[must_use]
    pub fn worker_of(&self, resource: Resource) -> u8 {
        match resource {
            Resource::None | Resource::Fallback => self.worker,
            Resource::Bound(number) => {
                let bound = self.resources.get(usize::from(number)).copied();
                bound.unwrap_or(self.worker)
            }
        }
    }
}

/// A negotiated child SA, ready to be installed in a data plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildSa {
    /// Security protocol.
    pub protocol: SecurityProtocol,
    /// Encapsulation mode.
    pub mode: Mode,
    /// Cipher and integrity algorithm.
    pub suite: Suite,
    /// 64-bit extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// SPI of packets that arrive here: the child's name on our side.
    pub spi_in: u32,
    /// SPI of packets that we send.
    pub spi_out: u32,
    /// Keys of packets that arrive here.
    pub keys_in: ChildKeys,
    /// Keys of packets that we send.
    pub keys_out: ChildKeys,
    /// Inner addresses on our side.
    pub ts_local: Vec<Selector>,
    /// Inner addresses on the peer's side.
    pub ts_remote: Vec<Selector>,
    /// Our outer address and port.
    pub local: SocketAddr,
    /// The peer's outer address and port.
    pub remote: SocketAddr,
    /// ESP in UDP (RFC 3948) between the two; raw ESP otherwise.
    pub encap: bool,
    /// When the outbound half may be used.
    pub activate: Activate,
    /// Limits of its life.
    pub lifetime: Lifetime,
    /// Replay window in packets.
    pub replay_window: u32,
    /// We started the exchange that made it.
    pub initiator: bool,
    /// Its place among those with the same selectors.
    pub resource: Resource,
}

/// Why a child SA ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ChildEnd {
    /// Replaced by a newer one.
    Rekeyed,
    /// The peer sent a DELETE for it.
    DeletedByPeer,
    /// We deleted it.
    DeletedByUs,
    /// Its IKE SA ended.
    IkeGone,
    /// It was announced, and could not be completed.
    Failed,
}
