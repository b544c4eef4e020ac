//! The internal model: values that validation has made, complete with defaults.
//!
//! Everything here can be used without further checks. Their serde form is what the store holds.

use std::net::IpAddr;
use std::time::Duration;

use ip::Selector;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::identity::IdPattern;
use crate::range::AddressRange;

/// A customer of the provider: trust, users, pools, routes and limits of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Unique name: `[a-z][a-z0-9-]*`, at most 63 characters.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// No login while set.
    pub disabled: bool,
    /// Where decrypted traffic comes out.
    pub routing_domain: RoutingDomain,
    /// What the tenant may use at most.
    pub limits: Limits,
    /// Gateway addresses of this tenant alone; empty: shared ones.
    pub local_addresses: Vec<IpAddr>,
    /// Identities (IDr) that ask for this tenant.
    pub gateway_ids: Vec<IdPattern>,
    /// CA credentials trusted by connections that name none.
    pub trust_anchors: Vec<String>,
    /// Whether proposals may name weak algorithms (modp1024).
    pub allow_weak_algorithms: bool,
}

/// The host's routing domain or a network namespace, and the TUN device in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingDomain {
    /// Name under `/run/netns`; `None`: the host's.
    pub netns: Option<String>,
    /// Name of the TUN device, at most 15 octets.
    pub device: String,
    /// Inner MTU in octets.
    pub mtu: u16,
    /// Addresses on the device.
    pub addresses: Vec<IpNet>,
    /// The DF bit of outer headers, where a connection does not say.
    #[serde(default)]
    pub df: Df,
}

/// The DF bit of outer IPv4 headers (RFC 4301 section 8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Df {
    /// Never set.
    #[default]
    Clear,
    /// Always set.
    Set,
    /// As the inner packet has it.
    Copy,
}

/// Limits of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Established IKE SAs.
    pub max_sessions: u32,
    /// IKE SAs that are still authenticating.
    pub max_half_open: u32,
    /// Sessions of one identity.
    pub max_sessions_per_user: u32,
    /// What happens at that limit.
    pub user_limit: UserLimit,
    /// Child SAs of one session.
    pub max_children: u32,
    /// What may be carried in a second.
    #[serde(default)]
    pub rates: Rates,
}

/// What may be carried in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// All sessions together, from clients and sites.
    pub all_in: Rate,
    /// All sessions together, to them.
    pub all_out: Rate,
    /// Each session, from its peer.
    pub session_in: Rate,
    /// Each session, to its peer.
    pub session_out: Rate,
}

/// Inner packets in a second; 0 is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Their octets.
    pub octets: u64,
    /// Their number.
    pub packets: u64,
}

/// What happens when an identity has all its sessions and logs in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserLimit {
    /// The limit is not applied.
    Keep,
    /// The oldest session ends.
    ReplaceOldest,
    /// The login is refused.
    Refuse,
}

/// How both sides authenticate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Auth {
    /// Pre-shared keys.
    Psk {
        /// Credentials to look in; empty: all of the tenant's.
        credentials: Vec<String>,
    },
    /// Certificates and signatures.
    Certificate {
        /// Credential with the gateway's key and chain.
        certificate: String,
        /// CA credentials; empty: the tenant's.
        trust_anchors: Vec<String>,
    },
}

impl Auth {
    /// `"psk"` or `"certificate"`.
    pub fn name(&self) -> &'static str {
        match self {
            Auth::Psk { .. } => "psk",
            Auth::Certificate { .. } => "certificate",
        }
    }
}

/// Whether this gateway starts rekeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RekeyPolicy {
    /// At the soft lifetime.
    Initiate,
    /// Only when the peer has not until shortly before the hard lifetime.
    LastResort,
    /// Never.
    Never,
}

/// How many child SAs with the same selectors a peer may have beside the first one (RFC 9611).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerResourceSas {
    /// None.
    #[default]
    Off,
    /// As many as the node has workers.
    Auto,
    /// So many, 1 to [`PerResourceSas::MAX`].
    Number(u8),
}

impl PerResourceSas {
    /// The most for one peer and one set of selectors.
    pub const MAX: u8 = 8;

    /// How many at a node with `workers` workers.
    pub fn count(self, workers: u8) -> u8 {
        match self {
            Self::Off => 0,
            Self::Auto => workers.min(Self::MAX),
            Self::Number(number) => number.min(Self::MAX),
        }
    }
}

impl std::fmt::Display for PerResourceSas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// Lifetimes of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    /// Hard lifetime of an IKE SA in seconds.
    pub ike_secs: u32,
    /// Hard lifetime of a child SA in seconds.
    pub child_secs: u32,
    /// Hard limit of a child SA in octets; `None`: the cipher's.
    pub child_octets: Option<u64>,
    /// Seconds before the hard lifetime at which rekeying starts.
    pub rekey_margin_secs: u32,
}

impl Lifetimes {
    /// Hard lifetime of an IKE SA.
    pub fn ike(&self) -> Duration {
        Duration::from_secs(self.ike_secs.into())
    }

    /// Hard lifetime of a child SA.
    pub fn child(&self) -> Duration {
        Duration::from_secs(self.child_secs.into())
    }

    /// Time before a hard lifetime at which rekeying starts.
    pub fn rekey_margin(&self) -> Duration {
        Duration::from_secs(self.rekey_margin_secs.into())
    }
}

/// A profile: which peers, how they authenticate, what they get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Tenant it belongs to.
    pub tenant: String,
    /// Name, unique in the tenant.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// No login while set.
    pub disabled: bool,
    /// Gateway addresses it answers on; empty: all of the tenant's.
    pub local_addresses: Vec<IpAddr>,
    /// The gateway's identity; `None`: from the certificate, or the address the peer called.
    pub local_id: Option<IdPattern>,
    /// Peers it is for; never empty.
    pub remote_ids: Vec<IdPattern>,
    /// How both sides authenticate.
    pub auth: Auth,
    /// Proposal texts; empty: the gateway's defaults.
    pub ike_proposals: Vec<String>,
    /// Proposal texts; empty: the gateway's defaults.
    pub esp_proposals: Vec<String>,
    /// Protected networks; never empty.
    pub local_ts: Vec<Selector>,
    /// Networks behind the peer; empty: its virtual addresses.
    pub remote_ts: Vec<Selector>,
    /// Pools of virtual addresses.
    pub pools: Vec<String>,
    /// DNS servers given to the peer.
    pub dns: Vec<IpAddr>,
    /// Networks told to the peer.
    pub split_subnets: Vec<IpNet>,
    /// Lifetimes of keys.
    pub lifetimes: Lifetimes,
    /// Seconds of silence before a liveness check; `None`: never.
    pub dpd_secs: Option<u32>,
    /// Replay window in packets, 32 to 4096.
    pub replay_window: u32,
    /// Whether this gateway starts rekeys.
    pub rekey_policy: RekeyPolicy,
    /// Reserved for MOBIKE.
    pub mobike: bool,
    /// Child SAs with the same selectors, for peers that ask for them.
    #[serde(default)]
    pub per_resource_sas: PerResourceSas,
    /// The DF bit of outer headers; `None`: as the tenant has it.
    #[serde(default)]
    pub df: Option<Df>,
}

/// A range of virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    /// Tenant it belongs to.
    pub tenant: String,
    /// Name, unique in the tenant.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// Addresses that may be given out: a prefix has lost its network and broadcast addresses here.
    pub range: AddressRange,
    /// The range as it was written.
    pub range_text: String,
    /// Never given out.
    pub exclusions: Vec<AddressRange>,
    /// Whether an identity gets its last address again while that is free.
    pub sticky: bool,
}

/// Keys and certificates. Secret parts are sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Tenant it belongs to.
    pub tenant: String,
    /// Name, unique in the tenant.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// What it is.
    pub kind: CredentialKind,
    /// Digest of the secret part under a key of this installation; empty when there is none.
    pub secret_digest: String,
}

/// The three kinds of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CredentialKind {
    /// A pre-shared key.
    Psk {
        /// Identities it is for; never empty.
        ids: Vec<IdPattern>,
        /// The sealed key.
        sealed: Vec<u8>,
    },
    /// Certificates of authorities.
    CaCertificate {
        /// PEM.
        certificates: String,
    },
    /// The gateway's key and chain.
    PrivateKey {
        /// PEM, leaf first.
        certificates: String,
        /// The sealed PEM of the key.
        sealed: Vec<u8>,
    },
}

impl CredentialKind {
    /// `"psk"`, `"ca_certificate"` or `"private_key"`.
    pub fn name(&self) -> &'static str {
        match self {
            CredentialKind::Psk { .. } => "psk",
            CredentialKind::CaCertificate { .. } => "ca_certificate",
            CredentialKind::PrivateKey { .. } => "private_key",
        }
    }
}
