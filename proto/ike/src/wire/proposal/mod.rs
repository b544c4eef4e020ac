//! Proposals as policies state them, as texts write them and as SA payloads carry them; selection, and mismatches in words.
//!
//! ```text
//!  "aes256gcm16-prfsha384-ecp384" ──FromStr──► IkeProposal ──offer_ike──► SaPayload ─── to the peer
//!  SaPayload ─── from the peer ──select_ike──► ChosenIke ──to_payload──► SaPayload ─── to the peer
//!                                         └──► Mismatch: "encryption: client offers 3DES; accepted are AES-GCM-256"
//! ```

mod choose;
mod explain;
mod text;

pub use choose::{ChosenChild, ChosenIke, KeRule, accept_child, accept_ike, select_child, select_ike};
pub use explain::{Difference, Mismatch, Subject, describe, offered};
pub use text::{TextError, parse_child_list, parse_ike_list};

use crypto::{Cipher, Group, Integrity, Prf};
use serde::{Deserialize, Serialize};

use super::numbers::{EsnId, IntegId, ProtocolId, Spi, TransformType};
use super::sa::{Proposal, SaPayload, Transform};

/// Algorithms for an IKE SA, in order of preference. Ciphers are all AEADs or none is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct IkeProposal {
    /// Encryption.
    pub ciphers: Vec<Cipher>,
    /// Integrity; empty with AEADs.
    pub integrities: Vec<Integrity>,
    /// Pseudorandom functions.
    pub prfs: Vec<Prf>,
    /// Key exchange groups.
    pub groups: Vec<Group>,
}

/// Algorithms for a child SA, in order of preference. Ciphers are all AEADs or none is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChildProposal {
    /// ESP or AH.
    pub protocol: ProtocolId,
    /// Encryption.
    pub ciphers: Vec<Cipher>,
    /// Integrity; empty with AEADs.
    pub integrities: Vec<Integrity>,
    /// Groups for a key exchange of the child's own (perfect forward secrecy). Empty: none is asked for.
    pub groups: Vec<Group>,
    /// Extended sequence numbers: true for them, false for 32-bit ones.
    pub esn: Vec<bool>,
}

impl IkeProposal {
    /// What is offered and accepted where a policy says nothing: AES-GCM or AES-CBC with SHA-2, and groups of 128 bits of
    /// security or the 2048-bit MODP group that clients still come with (RFC 8247).
    pub fn defaults() -> Vec<Self> {
        let prfs = vec![Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
        let groups = vec![
            Group::Curve25519,
            Group::Ecp256,
            Group::Ecp384,
            Group::Ecp521,
            Group::Modp3072,
            Group::Modp4096,
            Group::Modp2048,
        ];
        vec![
            Self {
                ciphers: default_aeads(),
                integrities: Vec::new(),
                prfs: prfs.clone(),
                groups: groups.clone(),
            },
            Self {
                ciphers: default_cbc(),
                integrities: default_integrities(),
                prfs,
                groups,
            },
        ]
    }

    /// The proposal on the wire.
    pub fn to_wire(&self, number: u8, spi: Option<Spi>) -> Proposal {
        let mut transforms = Vec::new();
        transforms.extend(self.ciphers.iter().map(|c| cipher_transform(*c)));
        transforms.extend(
            self.prfs
                .iter()
                .map(|p| Transform::new(TransformType::PRF, p.id())),
        );
        transforms.extend(
            self.integrities
                .iter()
                .map(|i| Transform::new(TransformType::INTEG, i.id())),
        );
        transforms.extend(
            self.groups
                .iter()
                .map(|g| Transform::new(TransformType::KE, g.id())),
        );
        Proposal {
            number,
            protocol: ProtocolId::IKE,
            spi: spi.map_or_else(Vec::new, |spi| spi.to_bytes().to_vec()),
            transforms,
        }
    }
}

impl ChildProposal {
    /// What is offered and accepted for ESP where a policy says nothing. No key exchange of its own, as clients do it.
    pub fn defaults() -> Vec<Self> {
        let esn = vec![false, true];
        vec![
            Self {
                protocol: ProtocolId::ESP,
                ciphers: default_aeads(),
                integrities: Vec::new(),
                groups: Vec::new(),
                esn: esn.clone(),
            },
            Self {
                protocol: ProtocolId::ESP,
                ciphers: default_cbc(),
                integrities: default_integrities(),
                groups: Vec::new(),
                esn,
            },
        ]
    }

    /// The proposal on the wire; `with_groups` only where a KE payload may go along, which is never in IKE_AUTH.
    pub fn to_wire(&self, number: u8, spi: u32, with_groups: bool) -> Proposal {
        let mut transforms = Vec::new();
        transforms.extend(self.ciphers.iter().map(|c| cipher_transform(*c)));
        transforms.extend(
            self.integrities
                .iter()
                .map(|i| Transform::new(TransformType::INTEG, i.id())),
        );
        if with_groups {
            transforms.extend(
                self.groups
                    .iter()
                    .map(|g| Transform::new(TransformType::KE, g.id())),
            );
        }
        transforms.extend(
            self.esn
                .iter()
                .map(|esn| Transform::new(TransformType::ESN, esn_id(*esn).0)),
        );
        Proposal {
            number,
            protocol: self.protocol,
            spi: spi.to_be_bytes().to_vec(),
            transforms,
        }
    }
}

fn default_aeads() -> Vec<Cipher> {
    vec![
        Cipher::AesGcm16 { key_bits: 256 },
        Cipher::AesGcm16 { key_bits: 128 },
        Cipher::ChaCha20Poly1305,
    ]
}

fn default_cbc() -> Vec<Cipher> {
    vec![Cipher::AesCbc { key_bits: 256 }, Cipher::AesCbc { key_bits: 128 }]
}

fn default_integrities() -> Vec<Integrity> {
    vec![
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ]
}

/// An SA payload that offers proposals for an IKE SA, numbered from 1; `spi` in rekeys only.
pub fn offer_ike(proposals: &[IkeProposal], spi: Option<Spi>) -> SaPayload {
    //= rfc7296#section-3.3
    //# The first Proposal in the initiator's SA payload MUST have a Proposal Num of one (1).
    let proposals = (1..=u8::MAX).zip(proposals);
    SaPayload {
        proposals: proposals.map(|(number, p)| p.to_wire(number, spi)).collect(),
    }
}

/// An SA payload that offers proposals for a child SA, numbered from 1, all with the same inbound SPI.
pub fn offer_child(proposals: &[ChildProposal], spi: u32, with_groups: bool) -> SaPayload {
    let proposals = (1..=u8::MAX).zip(proposals);
    SaPayload {
        proposals: proposals
            .map(|(number, p)| p.to_wire(number, spi, with_groups))
            .collect(),
    }
}

fn cipher_transform(cipher: Cipher) -> Transform {
    let (id, key_bits) = cipher.transform();
    Transform {
        key_bits,
        ..Transform::new(TransformType::ENCR, id)
    }
}

fn integrity_none() -> Transform {
    Transform::new(TransformType::INTEG, IntegId::NONE.0)
}

fn esn_id(esn: bool) -> EsnId {
    if esn { EsnId::ESN } else { EsnId::NO_ESN }
}
