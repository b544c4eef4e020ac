//! Records of login attempts: what happened at each, and the most likely fix in words.

use std::net::SocketAddr;
use std::time::SystemTime;

use api::time::timestamp;
use api::v1;

/// One login attempt, successful or not. Texts are cut at [`MAX_TEXT`] octets and lists at [`MAX_LIST`] entries
/// when it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// When it ended.
    pub time: SystemTime,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// The gateway's address.
    pub local: SocketAddr,
    /// `None` while the tenant was not known.
    pub tenant: Option<String>,
    /// The chosen connection.
    pub connection: Option<String>,
    /// Connections that were looked at, and why they were rejected or chosen.
    pub candidates: Vec<CandidateNote>,
    /// The identity the peer claimed.
    pub peer_id: String,
    /// The identity the peer asked for.
    pub wanted_id: String,
    /// Proposals offered, as text.
    pub offered: Vec<String>,
    /// The proposal accepted.
    pub accepted: String,
    /// The first difference between offered and accepted, in words.
    pub difference: String,
    /// What was found about the certificate, in words.
    pub certificate_verdict: String,
    /// What was found about address translation, in words.
    pub nat: String,
    /// Timings of the steps.
    pub steps: Vec<Step>,
    /// How it ended.
    pub outcome: Outcome,
    /// The initiator's SPI, 16 hexadecimal digits.
    pub spi_i: String,
}

/// Longest text in a record, in octets.
pub const MAX_TEXT: usize = 512;
/// Most entries in a list of a record.
pub const MAX_LIST: usize = 32;

/// A connection that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateNote {
    /// Its tenant.
    pub tenant: String,
    /// Its name.
    pub connection: String,
    /// Whether it was chosen.
    pub chosen: bool,
    /// Why it was or was not, in words.
    pub reason: String,
}

/// A step and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Like `sa_init`, `dh`, `signature`, `chain`, `store`.
    pub name: &'static str,
    /// Microseconds.
    pub micros: u64,
    /// More, in words.
    pub detail: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a session.
    Established {
        /// Its id.
        session_id: String,
    },
    /// With a failure.
    Failed {
        /// What failed.
        kind: FailureKind,
        /// Why, in words.
        reason: String,
        /// The notify that was sent, like `AUTHENTICATION_FAILED`.
        notify: String,
    },
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No common IKE proposal.
    IkeProposal,
    /// No common child proposal.
    ChildProposal,
    /// No connection for this peer.
    NoConnection,
    /// No pre-shared key for this identity.
    UnknownIdentity,
    /// The pre-shared key differs.
    PskMismatch,
    /// The signature is wrong.
    Signature,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate's authority is not trusted.
    CertificateUntrusted,
    /// The identity is not in the certificate.
    CertificateName,
    /// The certificate lacks a needed key usage.
    CertificateUsage,
    /// The certificate is damaged or otherwise not acceptable.
    CertificateOther,
    /// The peer used another authentication method than the connection wants.
    AuthMethod,
    /// The gateway's own credential is missing or damaged.
    LocalCredential,
    /// No traffic selectors in common.
    TrafficSelectors,
    /// No virtual address left.
    PoolExhausted,
    /// The peer asked for a virtual address and the connection has none.
    NoPool,
    /// A limit of the tenant or the user is reached.
    Limit,
    /// The tenant or the connection is disabled.
    Disabled,
    /// The peer stopped answering.
    Timeout,
    /// The peer sent something wrong.
    Protocol,
    /// The peer gave up, with a notify of its own.
    PeerRefused,
    /// The peer speaks IKEv1.
    IkeV1,
    /// Trouble inside the gateway.
    Internal,
}

impl FailureKind {
    /// A short stable word for programs.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// The most likely fix, in words.
    pub fn likely_fix(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::IkeProposal => (
                "ike_proposal",
                "add one of the offered proposals to the connection's ike_proposals, or set the client to one of the accepted ones",
            ),
            Self::ChildProposal => (
                "child_proposal",
                "add one of the offered proposals to the connection's esp_proposals; mind the key exchange group (PFS), which must be absent or equal on both sides",
            ),
            Self::NoConnection => (
                "no_connection",
                "see why each candidate was rejected: the client's identity (IDi), the identity it asks for (IDr) and the address it calls must fit one enabled connection",
            ),
            Self::UnknownIdentity => (
                "unknown_identity",
                "create a credential of kind psk whose ids contain this identity, or correct the identity in the client",
            ),
            Self::PskMismatch => (
                "psk_mismatch",
                "the pre-shared key of the client differs from the credential's: set the same on both sides (mind blanks, quotes and 0x or 0s in front)",
            ),
            Self::Signature => (
                "signature",
                "the client's private key does not belong to the certificate it sent: install the matching pair",
            ),
            Self::CertificateExpired => (
                "certificate_expired",
                "issue a new certificate for the client, or correct the clock that is wrong",
            ),
            Self::CertificateNotYetValid => (
                "certificate_not_yet_valid",
                "compare the clocks: the certificate's validity begins in this gateway's future",
            ),
            Self::CertificateUntrusted => (
                "certificate_untrusted",
                "add the issuing authority as a credential of kind ca_certificate and name it in trust_anchors, or give the client a certificate of a trusted one; intermediate certificates must be sent by the client",
            ),
            Self::CertificateName => (
                "certificate_name",
                "the client's identity must stand in its certificate: as subjectAltName (dns, email, ip) or as the whole subject; set the client's identity so, or issue a certificate with that name",
            ),
            Self::CertificateUsage => (
                "certificate_usage",
                "issue the certificate with extended key usage clientAuth (serverAuth for gateways)",
            ),
            Self::CertificateOther => (
                "certificate_other",
                "the verdict says what is wrong with the chain: issue a correct certificate",
            ),
            Self::AuthMethod => (
                "auth_method",
                "set the client to the connection's authentication method, or make another connection with the client's",
            ),
            Self::LocalCredential => (
                "local_credential",
                "check the credential that the connection names: key and certificate must be there and belong together",
            ),
            Self::TrafficSelectors => (
                "traffic_selectors",
                "the networks that the client asks for do not overlap local_ts and remote_ts of the connection: set both sides to overlap",
            ),
            Self::PoolExhausted => (
                "pool_exhausted",
                "enlarge the address pool, add another to the connection, or end stale sessions",
            ),
            Self::NoPool => (
                "no_pool",
                "give the connection an address pool of the family that the client asks for, or stop asking for a virtual address in the client",
            ),
            Self::Limit => (
                "limit",
                "raise the limit that the reason names, or end sessions that are not needed",
            ),
            Self::Disabled => (
                "disabled",
                "enable the tenant or the connection that the reason names",
            ),
            Self::Timeout => (
                "timeout",
                "the client's packets stopped arriving: look for a firewall that drops UDP 4500 or fragments, and switch IKE fragmentation on in the client",
            ),
            Self::Protocol => (
                "protocol",
                "the client sent something that RFC 7296 does not allow: update it, or report it with a capture",
            ),
            Self::PeerRefused => (
                "peer_refused",
                "the client refused the gateway: its log says why; often it does not trust the gateway's certificate, or misses the gateway's name in its subjectAltName",
            ),
            Self::IkeV1 => (
                "ikev1",
                "set the client to IKEv2: this gateway does not speak IKEv1",
            ),
            Self::Internal => ("internal", "look for warnings in the gateway's log at this time"),
        }
    }
}

impl AttemptRecord {
    /// An empty record of an attempt that has just failed inside the gateway, to be filled in.
    pub fn new(time: SystemTime, remote: SocketAddr, local: SocketAddr) -> Self {
        Self {
            time,
            remote,
            local,
            tenant: None,
            connection: None,
            candidates: Vec::new(),
            peer_id: String::new(),
            wanted_id: String::new(),
            offered: Vec::new(),
            accepted: String::new(),
            difference: String::new(),
            certificate_verdict: String::new(),
            nat: String::new(),
            steps: Vec::new(),
            outcome: Outcome::Failed {
                kind: FailureKind::Internal,
                reason: String::new(),
                notify: String::new(),
            },
            spi_i: String::new(),
        }
    }

    /// Whether it ended with a failure.
    pub fn is_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }

    /// The external form, with the likely fix.
    pub fn to_api(&self, id: u64) -> v1::Attempt {
        let mut attempt = v1::Attempt {
            id,
            time: Some(timestamp(self.time)),
            tenant: self.tenant.clone().unwrap_or_default(),
            connection: self.connection.clone().unwrap_or_default(),
            remote_address: self.remote.to_string(),
            local_address: self.local.to_string(),
            peer_id: self.peer_id.clone(),
            wanted_id: self.wanted_id.clone(),
            candidates: self.candidates.iter().map(CandidateNote::to_api).collect(),
            offered_proposals: self.offered.clone(),
            accepted_proposal: self.accepted.clone(),
            proposal_difference: self.difference.clone(),
            certificate_verdict: self.certificate_verdict.clone(),
            nat: self.nat.clone(),
            steps: self.steps.iter().map(Step::to_api).collect(),
            spi_i: self.spi_i.clone(),
            ..v1::Attempt::default()
        };
        match &self.outcome {
            Outcome::Established { session_id } => {
                attempt.set_outcome(v1::AttemptOutcome::Established);
                attempt.session_id.clone_from(session_id);
            }
            Outcome::Failed { kind, reason, notify } => {
                attempt.set_outcome(v1::AttemptOutcome::Failed);
                attempt.failure = kind.name().to_owned();
                attempt.likely_fix = kind.likely_fix().to_owned();
                attempt.reason.clone_from(reason);
                attempt.notify.clone_from(notify);
            }
        }
        attempt
    }

    /// The external form for somebody who may see one tenant only (`None`: all): candidates of other tenants are left out.
    pub fn to_api_within(&self, id: u64, tenant: Option<&str>) -> v1::Attempt {
        let mut attempt = self.to_api(id);
        if let Some(tenant) = tenant {
            attempt.candidates.retain(|candidate| candidate.tenant == tenant);
        }
        attempt
    }

    /// Cuts texts and lists to their limits: what a peer sends must not fill the memory.
    pub(crate) fn bound(&mut self) {
        self.candidates.truncate(MAX_LIST);
        self.offered.truncate(MAX_LIST);
        self.steps.truncate(MAX_LIST);
        let texts = [
            &mut self.peer_id,
            &mut self.wanted_id,
            &mut self.accepted,
            &mut self.difference,
            &mut self.certificate_verdict,
            &mut self.nat,
            &mut self.spi_i,
        ];
        texts.into_iter().for_each(cut);
        self.offered.iter_mut().for_each(cut);
        self.candidates
            .iter_mut()
            .for_each(|candidate| cut(&mut candidate.reason));
        self.steps.iter_mut().for_each(|step| cut(&mut step.detail));
        if let Outcome::Failed { reason, notify, .. } = &mut self.outcome {
            cut(reason);
            cut(notify);
        }
    }
}

/// Cuts a text at [`MAX_TEXT`] octets, at a character boundary, and gives unused room back.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text.shrink_to_fit();
}

impl CandidateNote {
    fn to_api(&self) -> v1::AttemptCandidate {
        v1::AttemptCandidate {
            tenant: self.tenant.clone(),
            connection: self.connection.clone(),
            chosen: self.chosen,
            reason: self.reason.clone(),
        }
    }
}

impl Step {
    fn to_api(&self) -> v1::AttemptStep {
        v1::AttemptStep {
            name: self.name.to_owned(),
            micros: self.micros,
            detail: self.detail.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_failure_carries_its_fix() {
        let mut record = AttemptRecord::new(
            SystemTime::UNIX_EPOCH,
            "192.0.2.7:4500".parse().unwrap(),
            "198.51.100.1:4500".parse().unwrap(),
        );
        record.outcome = Outcome::Failed {
            kind: FailureKind::PskMismatch,
            reason: "the AUTH payload does not verify".into(),
            notify: "AUTHENTICATION_FAILED".into(),
        };
        let attempt = record.to_api(7);
        assert_eq!((attempt.id, attempt.outcome()), (7, v1::AttemptOutcome::Failed));
        assert_eq!(attempt.failure, "psk_mismatch");
        assert!(attempt.likely_fix.contains("same on both sides"));
    }

    #[test]
    fn one_tenant_does_not_see_the_candidates_of_others() {
        let mut record = AttemptRecord::new(
            SystemTime::UNIX_EPOCH,
            "192.0.2.7:4500".parse().unwrap(),
            "198.51.100.1:4500".parse().unwrap(),
        );
        for tenant in ["acme", "globex"] {
            record.candidates.push(CandidateNote {
                tenant: tenant.into(),
                connection: "users".into(),
                chosen: false,
                reason: String::new(),
            });
        }
        let seen = |tenant| record.to_api_within(1, tenant).candidates.len();
        assert_eq!((seen(None), seen(Some("acme")), seen(Some("other"))), (2, 1, 0));
    }

    #[test]
    fn what_a_peer_sends_is_cut() {
        let mut record = AttemptRecord::new(
            SystemTime::UNIX_EPOCH,
            "192.0.2.7:4500".parse().unwrap(),
            "198.51.100.1:4500".parse().unwrap(),
        );
        record.peer_id = "é".repeat(5000);
        record.offered = vec!["x".repeat(5000); 500];
        record.bound();
        assert!(record.peer_id.len() <= MAX_TEXT + 3 && record.peer_id.ends_with('…'));
        assert_eq!(record.offered.len(), MAX_LIST);
    }
}
