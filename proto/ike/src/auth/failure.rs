//! Why an authentication was refused: in words for the operator, as one and the same notify for the peer.

use crypto::HashAlgorithm;
use crypto::cert::{CertError, ChainError};
use crypto::sign::{IdentifierError, KeyKind, SignError};

use crate::types::Identity;
use crate::wire::{AuthMethod, NotifyType};

/// Why a peer was not believed, or why we could not sign.
///
/// `Display` is for the operator. The peer is told AUTHENTICATION_FAILED whatever the reason: whether a name exists and
/// its key is wrong must look the same from outside.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthFailure {
    /// The peer sent no AUTH payload: it wants EAP.
    #[error("the peer wants EAP, and this connection has no EAP")]
    EapWanted,
    /// The method does not go with the credential.
    #[error("the peer authenticates by {method}, this connection wants {wanted}")]
    Method {
        /// What the peer does.
        method: AuthMethod,
        /// What it should do.
        wanted: &'static str,
    },
    /// The MAC under a shared key is wrong.
    #[error("the pre-shared key does not match for {0}")]
    WrongKey(Identity),
    /// A shared key without octets.
    #[error("the pre-shared key is empty")]
    EmptyKey,
    /// No certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// A certificate that cannot be read.
    #[error("certificate {position} of the peer cannot be read: {reason}")]
    BadCertificate {
        /// From 1.
        position: usize,
        /// Why.
        reason: CertError,
    },
    /// No path to a trusted authority.
    #[error("{}", chain_text(.error, *.now_unix))]
    Chain {
        /// Why.
        error: ChainError,
        /// The gateway's clock, seconds since 1970.
        now_unix: i64,
    },
    /// The certificate is somebody else's.
    #[error("identity {id} is not in the certificate, which names {names}")]
    NameMismatch {
        /// Whom the peer says to be.
        id: Identity,
        /// Whom the certificate names.
        names: String,
    },
    /// The certificate's key cannot make such signatures.
    #[error("method {method} does not go with a key of kind {key}")]
    KeyKind {
        /// The method.
        method: AuthMethod,
        /// The key.
        key: KeyKind,
    },
    /// Method 14 with an AlgorithmIdentifier that is not understood.
    #[error("signature algorithm of the peer: {0}")]
    Algorithm(#[from] IdentifierError),
    /// Method 14 with a hash that was not announced.
    #[error("the peer signed with {0}, which was not announced")]
    HashNotOffered(HashAlgorithm),
    /// The AUTH data is cut short.
    #[error("the AUTH payload is too short")]
    Truncated,
    /// The signature is wrong.
    #[error("the signature does not verify: the peer does not have the key of certificate {0}")]
    Signature(String),
    /// We have a key that no method known to the peer can use.
    #[error("our {0} key needs hash algorithms that the peer did not announce")]
    NoCommonHash(KeyKind),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Sign(#[from] SignError),
}

impl AuthFailure {
    /// What the peer is told.
    #[must_use]
    pub const fn notify(&self) -> NotifyType {
        NotifyType::AUTHENTICATION_FAILED
    }
}

fn chain_text(error: &ChainError, now_unix: i64) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others speak for themselves")]
    match error {
        ChainError::Expired { subject, not_after } => {
            format!(
                "certificate {subject:?} expired {} ago",
                span(now_unix.saturating_sub(*not_after))
            )
        }
        ChainError::NotYetValid { subject, not_before } => format!(
            "certificate {subject:?} is not valid for another {}: is a clock wrong?",
            span(not_before.saturating_sub(now_unix))
        ),
        other => other.to_string(),
    }
}

/// A length of time in its largest fitting unit.
fn span(secs: i64) -> String {
    let (count, unit) = match secs {
        i64::MIN..=119 => (secs, "seconds"),
        120..=7199 => (secs / 60, "minutes"),
        7200..=172_799 => (secs / 3600, "hours"),
        172_800.. => (secs / 86_400, "days"),
    };
    format!("{count} {unit}")
}
