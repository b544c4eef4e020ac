//! What authentication is asked, and what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use crypto::{HashAlgorithm, Prf, Secret};

use crate::config::{Assigned, ConfigRequest};
use crate::types::{ChildPolicy, Identity, IkeSuite, Lifetime, NatFindings, Role};
use crate::wire::{AuthMethod, Identification, NotifyType, SaPayload, TrafficSelector};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthPhase {
    /// Initiator, before IKE_AUTH: sign. Answer with [`AuthVerdict::Signed`].
    Local,
    /// Initiator, after the gateway answered: verify. Answer with [`AuthVerdict::Verified`].
    Peer,
    /// Responder: verify, decide, sign. Answer with [`AuthVerdict::Accept`].
    Both,
}

/// The octets that one side signs, but for its identity: `message | nonce | prf(SK_p, ID')`.
#[derive(Clone, Debug)]
pub struct AuthOctets {
    /// The side's IKE_SA_INIT message, whole.
    pub message: Vec<u8>,
    /// The OTHER side's nonce.
    pub nonce: Vec<u8>,
    /// The IKE SA's PRF.
    pub prf: Prf,
    /// The side's SK_p.
    pub sk_p: Secret,
}

impl AuthOctets {
    /// The signed octets of the side if it is `id`.
    //= rfc7296#section-2.15
    //# It is critical to the security of the exchange
    //# that each side sign the other side's nonce.
    #[must_use]
    pub fn octets(&self, id: &Identity) -> Vec<u8> {
        let maced = self
            .prf
            .compute(self.sk_p.expose(), &[&Identification::from(id).body()]);
        let mut octets = Vec::with_capacity(self.message.len() + self.nonce.len() + maced.len());
        octets.extend_from_slice(&self.message);
        octets.extend_from_slice(&self.nonce);
        octets.extend_from_slice(maced.expose());
        octets
    }
}

/// How the IKE SA's algorithms were found; for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// What the initiator offered, one text a proposal.
    pub offered: Vec<String>,
    /// What was chosen.
    pub chosen: IkeSuite,
}

/// One authentication: everything that the decision needs. Owned, and sent to wherever the work is done.
#[derive(Clone, Debug)]
pub struct AuthJob {
    /// Our role.
    pub role: Role,
    /// What is asked for.
    pub phase: AuthPhase,
    /// Our outer address.
    pub local: SocketAddr,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// Who the peer says it is. In phase `Local`: whom we expect, or [`Identity::none`].
    pub peer_id: Identity,
    /// Whom the peer wants to talk to (the IDr of a request).
    pub wanted_local_id: Option<Identity>,
    /// The peer's certificates in DER, its own first. Unverified.
    pub peer_certs: Vec<Vec<u8>>,
    /// The peer's CERTREQ: SHA-1 of the SubjectPublicKeyInfo of the authorities it trusts.
    pub cert_authorities: Vec<[u8; 20]>,
    /// The peer asked for a certificate (a CERTREQ, with or without authorities).
    pub cert_requested: bool,
    /// Method and data of the peer's AUTH payload. `None`: it wants EAP (or, in phase `Local`, has not spoken).
    pub peer_auth: Option<(AuthMethod, Vec<u8>)>,
    /// The peer's SIGNATURE_HASH_ALGORITHMS; `None` if it sent none: then only methods 1, 2 and 9–11 may be used
    /// towards it.
    pub peer_hashes: Option<Vec<HashAlgorithm>>,
    /// Hashes that we announced, hence accept in method 14.
    pub our_hashes: Vec<HashAlgorithm>,
    /// What the peer signed.
    pub peer_octets: AuthOctets,
    /// What we sign.
    pub local_octets: AuthOctets,
    /// The peer says that it has no other SA with us (INITIAL_CONTACT).
    pub initial_contact: bool,
    /// The peer's CP(CFG_REQUEST).
    pub config_request: Option<ConfigRequest>,
    /// The offered child proposals.
    pub child_offer: Option<SaPayload>,
    /// Offered selectors of the initiator's side.
    pub ts_i: Vec<TrafficSelector>,
    /// Offered selectors of the responder's side.
    pub ts_r: Vec<TrafficSelector>,
    /// NAT findings.
    pub nat: NatFindings,
    /// The IKE SA's algorithms.
    pub negotiation: Negotiation,
    /// Vendor IDs of the peer. For records only: nothing may depend on them.
    pub vendor_ids: Vec<Vec<u8>>,
    /// The peer can MOBIKE (RFC 4555); for records.
    pub mobike: bool,
}

/// Our own proof of identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalAuth {
    /// Who we are.
    pub id: Identity,
    /// Certificates in DER, our own first.
    pub certs: Vec<Vec<u8>>,
    /// AUTH method.
    pub method: AuthMethod,
    /// AUTH data.
    pub data: Vec<u8>,
}

/// A peer that proved its identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedPeer {
    /// Who it is.
    pub id: Identity,
    /// How, in words: "RSA-PSS with SHA2-256, certificate CN=… issued by CN=…".
    pub how: String,
    /// The certificate's subject, if there was one.
    pub certificate: Option<String>,
}

/// The answer to an [`AuthJob`].
#[derive(Clone, Debug)]
pub enum AuthVerdict {
    /// Responder: the peer may come in, and this is what it gets.
    Accept(Box<Grant>),
    /// Initiator, phase `Local`: our signature.
    Signed(LocalAuth),
    /// Initiator, phase `Peer`: the gateway is who it should be.
    Verified(VerifiedPeer),
    /// No.
    Reject(Rejection),
}

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// What the peer is told: AUTHENTICATION_FAILED for everything that is about who it is.
    pub notify: NotifyType,
    /// Why, in words, for the operator. Never sent.
    pub reason: String,
}

/// What a responder gives an authenticated peer.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Connection that was chosen.
    pub connection: String,
    /// Its tenant.
    pub tenant: String,
    /// Our own proof.
    pub local_auth: LocalAuth,
    /// What child SAs are allowed.
    pub policy: ChildPolicy,
    /// Addresses and the like for the peer.
    pub assigned: Assigned,
    /// A child that cannot be made, known already (no address free…): error notify and reason. The IKE SA comes up
    /// without a child.
    pub child_refused: Option<Rejection>,
    /// Lifetime of the IKE SA.
    pub ike_lifetime: Lifetime,
    /// Silence after which the peer is probed; `None`: never.
    pub liveness: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    //= rfc7296#section-2.15
    //= type=test
    //# InitiatorSignedOctets = RealMessage1 | NonceRData | MACedIDForI
    #[test]
    fn signed_octets_are_message_nonce_and_maced_identity() {
        let sk_p = Secret::from(vec![7; 32]);
        let octets = AuthOctets {
            message: b"message".to_vec(),
            nonce: b"nonce".to_vec(),
            prf: Prf::HmacSha256,
            sk_p: sk_p.clone(),
        };
        let maced = Prf::HmacSha256.compute(sk_p.expose(), &[&[2, 0, 0, 0], b"gw"]);
        let wanted = [b"message", &b"nonce"[..], maced.expose()].concat();
        assert_eq!(octets.octets(&Identity::fqdn("gw")), wanted);
    }
}
