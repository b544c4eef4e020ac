//! Why an IKE SA did not come up, or ended: in words and in numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Identity, NatFindings};
use crate::wire::NotifyType;

/// The exchange in which something failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// IKE_SA_INIT.
    SaInit,
    /// IKE_AUTH.
    Auth,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SaInit => "IKE_SA_INIT",
            Self::Auth => "IKE_AUTH",
        })
    }
}

/// The kind of a failure: a bounded set, fit for a metric's label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FailureKind {
    /// No offered proposal is acceptable.
    NoProposal,
    /// The key exchange method or its public value was refused.
    KeyExchange,
    /// The peer's message breaks the protocol.
    Protocol,
    /// We refused the peer's authentication.
    PeerRefused,
    /// The peer refused ours.
    RefusedByPeer,
    /// The gateway's own authentication could not be made or verified.
    Authentication,
    /// No answer.
    Timeout,
    /// The half-open limit of time passed.
    HalfOpen,
    /// Closed by our side before it was up.
    Closed,
    /// Something of ours failed.
    Internal,
}

impl FailureKind {
    /// Short stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoProposal => "no_proposal",
            Self::KeyExchange => "key_exchange",
            Self::Protocol => "protocol",
            Self::PeerRefused => "peer_refused",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Authentication => "authentication",
            Self::Timeout => "timeout",
            Self::HalfOpen => "half_open",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }
}

/// A set-up that failed, with what an attempt record needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// What.
    pub kind: FailureKind,
    /// Why, in words for the operator. Never sent to the peer.
    pub reason: String,
    /// The error notify that was sent or received.
    pub notify: Option<NotifyType>,
    /// IKE proposals that the peer (or we, as initiator) offered.
    pub offered: Vec<String>,
    /// What we would have accepted, or what was chosen.
    pub accepted: Vec<String>,
    /// The first difference between the two, in words.
    pub difference: Option<String>,
    /// Who the peer said it was.
    pub peer_id: Option<Identity>,
    /// Whom the peer asked for.
    pub wanted_id: Option<Identity>,
    /// NAT findings, once known.
    pub nat: Option<NatFindings>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.reason)?;
        match &self.difference {
            Some(difference) => write!(f, " ({difference})"),
            None => Ok(()),
        }
    }
}

/// Why an IKE SA ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// It never came up; a `Failed` event went before.
    SetupFailed,
    /// We were told to.
    Requested,
    /// The peer sent a DELETE.
    DeletedByPeer,
    /// No answer to our requests.
    PeerDead,
    /// The hard limit of its life passed.
    Expired,
    /// The peer said AUTHENTICATION_FAILED or the like on an established SA.
    RefusedByPeer(String),
    /// The peer broke the protocol on an established SA.
    Protocol(String),
    /// Replaced by another IKE SA in a way that left nothing here.
    Replaced,
    /// Sent to another gateway (RFC 5685).
    Redirected,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetupFailed => f.write_str("set-up failed"),
            Self::Requested => f.write_str("closed by this side"),
            Self::DeletedByPeer => f.write_str("deleted by the peer"),
            Self::PeerDead => f.write_str("the peer does not answer"),
            Self::Expired => f.write_str("lifetime expired"),
            Self::RefusedByPeer(why) => write!(f, "refused by the peer: {why}"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::Replaced => f.write_str("replaced"),
            Self::Redirected => f.write_str("redirected to another gateway"),
        }
    }
}
