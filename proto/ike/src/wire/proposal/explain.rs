//! Why no proposal of a peer was acceptable, in words that an operator can act on.

use std::fmt;

use super::{ChildProposal, IkeProposal};
use crate::wire::numbers::{EncrId, EsnId, IntegId, KeId, PrfId, TransformType};
use crate::wire::sa::{Proposal, SaPayload, Transform};

/// Words of the hint for clients whose only group is the 1024-bit one.
const HINT_MODP1024: &str = "the client offers only the 1024-bit group, as Windows does by default: set stronger \
                             algorithms with Set-VpnConnectionIPsecConfiguration, or allow modp1024 for this tenant";

/// No proposal of the peer fits any of ours.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct Mismatch {
    /// The first difference for each of our proposals, in their order.
    pub differences: Vec<Difference>,
}

/// Where the best of the peer's proposals first differs from one of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Our proposal, as text.
    pub policy: String,
    /// What differs.
    pub subject: Subject,
    /// What the peer offers of it.
    pub offered: Vec<String>,
    /// What we accept of it.
    pub accepted: Vec<String>,
}

/// What two proposals can differ in, in the order of comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// IKE, AH or ESP.
    Protocol,
    /// The size or value of the SPI.
    Spi,
    /// A transform type that is not understood.
    TransformType,
    /// Encryption.
    Encryption,
    /// Integrity.
    Integrity,
    /// Pseudorandom function.
    Prf,
    /// Key exchange group.
    Group,
    /// Additional key exchanges (RFC 9370).
    AdditionalGroup,
    /// Extended sequence numbers.
    Esn,
    /// An answer that is not a choice: several proposals, or several transforms of a type.
    Choice,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Protocol => "protocol",
            Self::Spi => "SPI",
            Self::TransformType => "transform type",
            Self::Encryption => "encryption",
            Self::Integrity => "integrity",
            Self::Prf => "PRF",
            Self::Group => "key exchange group",
            Self::AdditionalGroup => "additional key exchange",
            Self::Esn => "sequence numbers",
            Self::Choice => "choice",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[String]| {
            if items.is_empty() {
                "nothing".to_owned()
            } else {
                items.join(", ")
            }
        };
        let verb = if self.accepted.len() == 1 { "is" } else { "are" };
        let (offered, accepted) = (list(&self.offered), list(&self.accepted));
        write!(
            f,
            "{}: client offers {offered}; accepted {verb} {accepted}",
            self.subject
        )
    }
}

impl Mismatch {
    /// Every difference once, joined by "; or ".
    fn text(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for difference in &self.differences {
            let text = difference.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.is_empty() {
            true => "no proposal is configured".to_owned(),
            false => texts.join("; or "),
        }
    }

    /// The difference for the proposal of ours that the peer came closest to.
    pub fn closest(&self) -> Option<&Difference> {
        self.differences
            .iter()
            .rev()
            .max_by_key(|difference| difference.subject)
    }

    /// True when the peer fails only because the 1024-bit MODP group is all it has.
    pub fn only_modp1024(&self) -> bool {
        self.closest().is_some_and(|difference| {
            difference.subject == Subject::Group && difference.offered == [ke_name(KeId::MODP_1024)]
        })
    }

    /// The most likely way out, where there is a known one.
    pub fn hint(&self) -> Option<&'static str> {
        self.only_modp1024().then_some(HINT_MODP1024)
    }
}

fn ke_name(id: KeId) -> String {
    describe(&Transform::new(TransformType::KE, id.0))
}

/// One transform in words: "AES-CBC-128", "MODP-2048"; what is not understood says so.
pub fn describe(transform: &Transform) -> String {
    let id = transform.id;
    let mut text = match transform.kind {
        TransformType::ENCR => EncrId(id).to_string(),
        TransformType::PRF => PrfId(id).to_string(),
        TransformType::INTEG => IntegId(id).to_string(),
        TransformType::ESN => EsnId(id).to_string(),
        TransformType(4 | 6..=12) => KeId(id).to_string(),
        TransformType(kind) => format!("{kind}:{id}"),
    };
    match transform.key_bits {
        Some(bits) => text.push_str(&format!("-{bits}")),
        None if transform.kind == TransformType::ENCR && needs_key_bits(EncrId(id)) => {
            text.push_str(" without key length");
        }
        None => {}
    }
    if !transform.unknown_attributes.is_empty() {
        text.push_str(" with unknown attributes");
    }
    text
}

fn needs_key_bits(id: EncrId) -> bool {
    matches!(id.0, 12..=16 | 18..=21 | 23..=27 | 29 | 30)
}

/// Everything a peer offers, a line for each proposal, for attempt records.
pub fn offered(sa: &SaPayload) -> Vec<String> {
    sa.proposals.iter().map(one_proposal).collect()
}

fn one_proposal(proposal: &Proposal) -> String {
    let mut words: Vec<String> = Vec::new();
    for transform in &proposal.transforms {
        let word = describe(transform);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    format!("{}: {}", proposal.protocol, words.join(", "))
}

/// The values of one subject in a wire proposal, in words.
pub(super) fn values(proposal: &Proposal, subject: Subject) -> Vec<String> {
    let of = |kind| proposal.of_kind(kind).map(describe).collect();
    match subject {
        Subject::Protocol => vec![proposal.protocol.to_string()],
        Subject::Spi => vec![format!("an SPI of {} octets", proposal.spi.len())],
        Subject::TransformType => {
            let unknown = proposal.transforms.iter().filter(|t| t.kind.name().is_none());
            unknown.map(|t| t.kind.to_string()).collect()
        }
        Subject::Encryption => of(TransformType::ENCR),
        Subject::Integrity => of(TransformType::INTEG),
        Subject::Prf => of(TransformType::PRF),
        Subject::Group => of(TransformType::KE),
        Subject::AdditionalGroup => {
            let additional = proposal
                .transforms
                .iter()
                .filter(|t| (6..=12).contains(&t.kind.0));
            additional.map(describe).collect()
        }
        Subject::Esn => of(TransformType::ESN),
        Subject::Choice => vec![format!("{} transforms", proposal.transforms.len())],
    }
}

/// What one of our proposals accepts of a subject, in words.
pub(super) trait Accepts: fmt::Display {
    /// The proposal on the wire, with everything that it could be.
    fn wire(&self) -> Proposal;

    fn accepts(&self, subject: Subject) -> Vec<String> {
        match subject {
            Subject::Spi => vec!["an SPI of its protocol's size".to_owned()],
            Subject::TransformType => vec!["the known types".to_owned()],
            Subject::AdditionalGroup => vec!["none".to_owned()],
            Subject::Choice => vec!["one of each type".to_owned()],
            Subject::Protocol
            | Subject::Encryption
            | Subject::Integrity
            | Subject::Prf
            | Subject::Group
            | Subject::Esn => values(&self.wire(), subject),
        }
    }
}

impl Accepts for IkeProposal {
    fn wire(&self) -> Proposal {
        self.to_wire(1, None)
    }
}

impl Accepts for ChildProposal {
    fn wire(&self) -> Proposal {
        self.to_wire(1, 0, true)
    }
}

/// The difference of one of ours from all of the peer's, given how far each of the peer's came.
pub(super) fn difference(ours: &impl Accepts, theirs: &[(&Proposal, Subject)]) -> Difference {
    let subject = theirs
        .iter()
        .map(|(_, subject)| *subject)
        .max()
        .unwrap_or(Subject::Protocol);
    let mut offered: Vec<String> = Vec::new();
    for (proposal, _) in theirs.iter().filter(|(_, reached)| *reached == subject) {
        for value in values(proposal, subject) {
            if !offered.contains(&value) {
                offered.push(value);
            }
        }
    }
    Difference {
        policy: ours.to_string(),
        subject,
        offered,
        accepted: ours.accepts(subject),
    }
}
