//! What IKE_AUTH hands over: the starting point of an established IKE SA.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::keys::IkeKeys;
use crate::types::{ChildPolicy, ChildSa, Counters, Identity, IkeSuite, Lifetime, NatFindings, Role};
use crate::wire::Spi;
use crate::wire::proposal::IkeProposal;
use crate::wire::protect::IvSource;

/// A response that is kept, octet by octet, for requests that come again (RFC 7296 section 2.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CachedResponse {
    /// Message ID of the exchange.
    pub message_id: u32,
    /// One datagram, or one for each fragment.
    pub datagrams: Vec<Vec<u8>>,
}

/// Everything that exists when both sides are authenticated.
#[derive(Clone, Debug)]
pub struct EstablishedParts {
    /// Our side of IKE_SA_INIT.
    pub role: Role,
    /// The initiator's SPI.
    pub spi_i: Spi,
    /// The responder's SPI.
    pub spi_r: Spi,
    /// Algorithms.
    pub suite: IkeSuite,
    /// Keys.
    pub keys: IkeKeys,
    /// IVs for our messages; goes on where IKE_AUTH stopped.
    pub ivs: IvSource,
    /// Our outer address.
    pub local: SocketAddr,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// NAT findings.
    pub nat: NatFindings,
    /// Message ID of our next request.
    pub next_send_id: u32,
    /// Message ID of the peer's next request.
    pub next_recv_id: u32,
    /// Our last response, if we are the responder.
    pub last_response: Option<CachedResponse>,
    /// Largest IKE message in octets before it is fragmented; `None` if the peer cannot put fragments together.
    pub fragment_size: Option<usize>,
    /// Who the peer proved to be.
    pub peer_id: Identity,
    /// Who we proved to be.
    pub local_id: Identity,
    /// Name of the connection.
    pub connection: String,
    /// Name of the tenant.
    pub tenant: String,
    /// What child SAs may be.
    pub policy: ChildPolicy,
    /// IKE proposals that rekeys offer and accept, preferred first.
    pub proposals: Vec<IkeProposal>,
    /// The child SA made by IKE_AUTH.
    pub child: Option<ChildSa>,
    /// Lifetime of the IKE SA's keys.
    pub ike_lifetime: Lifetime,
    /// Silence after which the peer is probed.
    pub liveness: Option<Duration>,
    /// Both sides speak MOBIKE.
    pub mobike: bool,
    /// Both sides announced that message IDs can be synchronized (RFC 6311).
    pub message_id_sync: bool,
    /// The peer announced that it can be redirected (RFC 5685).
    pub redirect: bool,
    /// What the set-up counted.
    pub counters: Counters,
}
