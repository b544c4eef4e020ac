//! What exists once IKE_SA_INIT is complete, in both roles: keys, the two messages and nonces that AUTH covers, hints.

use crypto::HashAlgorithm;

use super::Base;
use super::channel::Channel;
use crate::auth::{AuthJob, AuthOctets, AuthPhase, Negotiation};
use crate::types::{Identity, NatFindings, Role};
use crate::wire::{CertEncoding, ExchangeType, Flags, Header, NotifyType, Payload, Payloads};

/// Vendor IDs kept for the record, and octets of each.
const VENDOR_IDS: usize = 16;
const VENDOR_ID_OCTETS: usize = 64;
/// Authorities of CERTREQ payloads that are kept.
const AUTHORITIES: usize = 256;
/// Authorities that we name in a CERTREQ at most.
const CERTREQ_AUTHORITIES: usize = 24;
/// Octets of an authority's name in CERTREQ.
const AUTHORITY_OCTETS: usize = 20;

/// After IKE_SA_INIT.
pub(crate) struct Keyed {
    pub(crate) channel: Channel,
    /// The initiator's IKE_SA_INIT.
    pub(crate) message_i: Vec<u8>,
    /// The responder's.
    pub(crate) message_r: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) nat: NatFindings,
    /// Hashes that we announced.
    pub(crate) our_hashes: Vec<HashAlgorithm>,
    pub(crate) hints: Hints,
    pub(crate) negotiation: Negotiation,
}

/// What the peer's IKE_SA_INIT says besides.
#[derive(Default)]
pub(crate) struct Hints {
    pub(crate) hashes: Option<Vec<HashAlgorithm>>,
    pub(crate) vendor_ids: Vec<Vec<u8>>,
    pub(crate) fragmentation: bool,
    pub(crate) cert_authorities: Vec<[u8; AUTHORITY_OCTETS]>,
    pub(crate) cert_requested: bool,
    /// Can be redirected to another gateway, or was.
    pub(crate) redirect: bool,
}

impl Hints {
    pub(crate) fn read(payloads: &[Payload]) -> Self {
        let view = Payloads(payloads);
        let hashes = view.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).map(|notify| {
            let (ids, _) = notify.data.as_chunks::<2>();
            ids.iter()
                .filter_map(|id| HashAlgorithm::from_id(u16::from_be_bytes(*id)))
                .collect()
        });
        let vendor_ids = payloads.iter().filter_map(|payload| {
            let Payload::VendorId(id) = payload else {
                return None;
            };
            Some(id.iter().copied().take(VENDOR_ID_OCTETS).collect())
        });
        let (cert_requested, cert_authorities) = authorities(payloads);
        Self {
            hashes,
            vendor_ids: vendor_ids.take(VENDOR_IDS).collect(),
            fragmentation: view.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).is_some(),
            cert_authorities,
            cert_requested,
            redirect: follows_redirect(view),
        }
    }
}

/// Whether a client can be redirected.
pub(crate) fn follows_redirect(request: Payloads<'_>) -> bool {
    //= rfc5685#section-3
    //# The presence of the REDIRECT_FROM payload in the IKE_SA_INIT exchange with the new gateway indicates to the new gateway that the client supports the redirect mechanism.
    let says = |kind| request.notify(kind).is_some();
    says(NotifyType::REDIRECT_SUPPORTED) || says(NotifyType::REDIRECTED_FROM)
}

/// Whether there is a CERTREQ for X.509 certificates, and the authorities in all of them.
pub(crate) fn authorities(payloads: &[Payload]) -> (bool, Vec<[u8; AUTHORITY_OCTETS]>) {
    let mut requested = false;
    let mut all = Vec::new();
    for payload in payloads {
        if let Payload::CertReq {
            encoding: CertEncoding::X509_SIGNATURE,
            data,
        } = payload
        {
            requested = true;
            all.extend_from_slice(data.as_chunks::<AUTHORITY_OCTETS>().0);
        }
    }
    all.truncate(AUTHORITIES);
    (requested, all)
}

/// CERTREQ for certificates under any of these authorities. If there are more than [`CERTREQ_AUTHORITIES`], none is named:
/// IKE_SA_INIT cannot be fragmented, and is answered before the source address is known to be genuine.
pub(crate) fn certreq(authorities: &[[u8; AUTHORITY_OCTETS]]) -> Payload {
    let named = if authorities.len() > CERTREQ_AUTHORITIES {
        &[]
    } else {
        authorities
    };
    Payload::CertReq {
        encoding: CertEncoding::X509_SIGNATURE,
        data: named.concat(),
    }
}

/// The certificates in DER, the first first. URLs are never fetched, and other encodings not understood.
pub(crate) fn certificates(payloads: &[Payload]) -> Vec<Vec<u8>> {
    let x509 = Payloads(payloads)
        .certs()
        .filter(|cert| cert.encoding == CertEncoding::X509_SIGNATURE);
    x509.map(|cert| cert.data.clone()).collect()
}

/// SIGNATURE_HASH_ALGORITHMS.
pub(crate) fn hashes_data(hashes: &[HashAlgorithm]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.id().to_be_bytes()).collect()
}

impl Keyed {
    /// What `side` signs.
    pub(crate) fn octets(&self, side: Role) -> AuthOctets {
        let keys = &self.channel.keys;
        let (message, nonce, sk_p) = match side {
            Role::Initiator => (&self.message_i, &self.nonce_r, &keys.sk_pi),
            Role::Responder => (&self.message_r, &self.nonce_i, &keys.sk_pr),
        };
        AuthOctets {
            message: message.clone(),
            nonce: nonce.clone(),
            prf: self.channel.suite.prf,
            sk_p: sk_p.clone(),
        }
    }

    /// A job with what IKE_SA_INIT told.
    pub(crate) fn job(&self, base: &Base, phase: AuthPhase, peer_id: Identity) -> AuthJob {
        AuthJob {
            role: base.role,
            phase,
            local: base.local,
            remote: base.remote,
            peer_id,
            wanted_local_id: None,
            peer_certs: Vec::new(),
            cert_authorities: self.hints.cert_authorities.clone(),
            cert_requested: self.hints.cert_requested,
            peer_auth: None,
            peer_hashes: self.hints.hashes.clone(),
            our_hashes: self.our_hashes.clone(),
            peer_octets: self.octets(base.role.peer()),
            local_octets: self.octets(base.role),
            initial_contact: false,
            config_request: None,
            child_offer: None,
            ts_i: Vec::new(),
            ts_r: Vec::new(),
            nat: self.nat,
            negotiation: self.negotiation.clone(),
            vendor_ids: self.hints.vendor_ids.clone(),
            mobike: false,
        }
    }

    /// Whether a datagram is the protected message that is waited for. Nothing of it is believed yet.
    pub(crate) fn expects(
        &self,
        base: &Base,
        datagram: &[u8],
        exchange: ExchangeType,
        message_id: u32,
    ) -> bool {
        let Ok((header, _)) = Header::of_datagram(datagram) else {
            return false;
        };
        header.spi_i == base.spi_i
            && header.spi_r == base.spi_r
            && header.exchange == exchange
            && header.message_id == message_id
            && header.flags.response == base.role.is_initiator()
            && header.flags.initiator != base.role.is_initiator()
    }

    /// Header of our IKE_AUTH message (or of another one with `exchange` and `message_id`).
    pub(crate) fn header(&self, base: &Base, exchange: ExchangeType, message_id: u32) -> Header {
        let flags = match base.role {
            Role::Initiator => Flags::request(true),
            Role::Responder => Flags::response(false),
        };
        Header::new(base.spi_i, base.spi_r, exchange, flags, message_id)
    }

    /// Seals one message of ours.
    pub(crate) fn seal(
        &mut self,
        base: &mut Base,
        exchange: ExchangeType,
        message_id: u32,
        payloads: &[Payload],
    ) -> Result<Vec<Vec<u8>>, crate::wire::protect::ProtectError> {
        let header = self.header(base, exchange, message_id);
        self.channel.seal(&header, payloads, base.ctx.random.as_mut())
    }
}
