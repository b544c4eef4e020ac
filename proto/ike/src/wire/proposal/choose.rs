//! Choosing one of the offered proposals (RFC 7296 sections 2.7 and 3.3.6), by our order of preference.

use crypto::{Cipher, Group, Integrity, Prf, Suite};

use super::explain::{Mismatch, Subject, difference};
use super::{ChildProposal, IkeProposal, cipher_transform, esn_id, integrity_none};
use crate::wire::numbers::{IntegId, KeId, ProtocolId, Spi, TransformType};
use crate::wire::sa::{Proposal, SaPayload, Transform};

/// The smallest SPI of ESP and AH that is not reserved (RFC 4303 section 2.1).
const MIN_CHILD_SPI: u32 = 256;

/// What both ends use for an IKE SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChosenIke {
    /// Number of the peer's proposal.
    pub number: u8,
    /// The peer's SPI, in rekeys.
    pub spi: Option<Spi>,
    /// Encryption and integrity.
    pub suite: Suite,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange group. If the KE payload is of another one, INVALID_KE_PAYLOAD is the answer.
    pub group: Group,
    /// "NONE" transforms that were offered and taken, to be repeated in the answer.
    nones: Vec<Transform>,
}

/// What both ends use for a child SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChosenChild {
    /// Number of the peer's proposal.
    pub number: u8,
    /// ESP or AH.
    pub protocol: ProtocolId,
    /// The peer's inbound SPI.
    pub spi: u32,
    /// Encryption and integrity.
    pub suite: Suite,
    /// Group of the child's own key exchange. If the KE payload is of another one, INVALID_KE_PAYLOAD is the answer.
    pub group: Option<Group>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// "NONE" transforms that were offered and taken, to be repeated in the answer.
    nones: Vec<Transform>,
}

/// What to do about key exchange groups in the proposals of a child SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeRule {
    /// IKE_AUTH: no key exchange is possible, groups in a proposal are not looked at.
    Ignore,
    /// CREATE_CHILD_SA: the peer decides whether there is one; this is the group of its KE payload.
    Mirror(Option<KeId>),
}

impl ChosenIke {
    /// The SA payload that tells the peer; `spi` is ours, in rekeys.
    pub fn to_payload(&self, spi: Option<Spi>) -> SaPayload {
        let mut transforms = vec![cipher_transform(self.suite.cipher)];
        transforms.push(Transform::new(TransformType::PRF, self.prf.id()));
        if let Some(integrity) = self.suite.integrity {
            transforms.push(Transform::new(TransformType::INTEG, integrity.id()));
        }
        transforms.push(Transform::new(TransformType::KE, self.group.id()));
        transforms.extend_from_slice(&self.nones);
        SaPayload {
            proposals: vec![Proposal {
                number: self.number,
                protocol: ProtocolId::IKE,
                spi: spi.map_or_else(Vec::new, |spi| spi.to_bytes().to_vec()),
                transforms,
            }],
        }
    }
}

impl ChosenChild {
    /// The SA payload that tells the peer; `spi` is our inbound one.
    pub fn to_payload(&self, spi: u32) -> SaPayload {
        let mut transforms = vec![cipher_transform(self.suite.cipher)];
        if let Some(integrity) = self.suite.integrity {
            transforms.push(Transform::new(TransformType::INTEG, integrity.id()));
        }
        if let Some(group) = self.group {
            transforms.push(Transform::new(TransformType::KE, group.id()));
        }
        transforms.push(Transform::new(TransformType::ESN, esn_id(self.esn).0));
        transforms.extend_from_slice(&self.nones);
        SaPayload {
            proposals: vec![Proposal {
                number: self.number,
                protocol: self.protocol,
                spi: spi.to_be_bytes().to_vec(),
                transforms,
            }],
        }
    }
}

/// Chooses for an IKE SA. `ke` is the group of the peer's KE payload: where policy and offer share it, it is taken and a
/// round trip saved, unless it is a legacy group and a better one is shared too.
pub fn select_ike(
    offer: &SaPayload,
    policy: &[IkeProposal],
    ke: Option<KeId>,
) -> Result<ChosenIke, Mismatch> {
    select(offer, policy, |theirs, ours| match_ike(theirs, ours, ke))
}

/// Chooses for a child SA.
pub fn select_child(
    offer: &SaPayload,
    policy: &[ChildProposal],
    ke: KeRule,
) -> Result<ChosenChild, Mismatch> {
    select(offer, policy, |theirs, ours| match_child(theirs, ours, ke))
}

/// Checks the answer to an offer for an IKE SA: one proposal, one transform of each type, all of them offered.
pub fn accept_ike(
    answer: &SaPayload,
    offered: &[IkeProposal],
    ke: Option<KeId>,
) -> Result<ChosenIke, Mismatch> {
    //= rfc7296#section-3.3.6
    //# The initiator of an exchange MUST check that the accepted offer is consistent with one of its proposals, and if not MUST terminate the exchange.
    select(answer, offered, |theirs, ours| {
        single(answer, theirs)?;
        match_ike(theirs, ours, ke)
    })
}

/// Checks the answer to an offer for a child SA: one proposal, one transform of each type, all of them offered.
pub fn accept_child(
    answer: &SaPayload,
    offered: &[ChildProposal],
    ke: KeRule,
) -> Result<ChosenChild, Mismatch> {
    select(answer, offered, |theirs, ours| {
        single(answer, theirs)?;
        match_child(theirs, ours, ke)
    })
}

/// A choice among proposals, comparable by our preference.
trait Choice<P> {
    /// Places of the chosen algorithms in our proposal; smaller is better.
    fn rank(&self, ours: &P) -> [usize; 4];
}

fn place<T: PartialEq>(list: &[T], item: &T) -> usize {
    list.iter().position(|one| one == item).unwrap_or(list.len())
}

fn suite_rank(suite: &Suite, ciphers: &[Cipher], integrities: &[Integrity]) -> [usize; 2] {
    let integrity = suite
        .integrity
        .map_or(0, |integrity| place(integrities, &integrity));
    [place(ciphers, &suite.cipher), integrity]
}

impl Choice<IkeProposal> for ChosenIke {
    fn rank(&self, ours: &IkeProposal) -> [usize; 4] {
        let [cipher, integrity] = suite_rank(&self.suite, &ours.ciphers, &ours.integrities);
        [
            cipher,
            integrity,
            place(&ours.prfs, &self.prf),
            place(&ours.groups, &self.group),
        ]
    }
}

impl Choice<ChildProposal> for ChosenChild {
    fn rank(&self, ours: &ChildProposal) -> [usize; 4] {
        let [cipher, integrity] = suite_rank(&self.suite, &ours.ciphers, &ours.integrities);
        let group = self.group.map_or(0, |group| place(&ours.groups, &group));
        [cipher, integrity, group, place(&ours.esn, &self.esn)]
    }
}

/// The best of theirs for our first proposal that any of theirs fits; else how far each of theirs came. Windows sends a
/// proposal for each combination, so that the first that fits is not the one we like best.
fn select<P, C>(
    offer: &SaPayload,
    policy: &[P],
    fits: impl Fn(&Proposal, &P) -> Result<C, Subject>,
) -> Result<C, Mismatch>
where
    P: super::explain::Accepts,
    C: Choice<P>,
{
    let mut differences = Vec::with_capacity(policy.len());
    for ours in policy {
        let mut reached = Vec::new();
        let mut best: Option<C> = None;
        for theirs in &offer.proposals {
            match fits(theirs, ours) {
                Ok(chosen) => {
                    if best
                        .as_ref()
                        .is_none_or(|best| chosen.rank(ours) < best.rank(ours))
                    {
                        best = Some(chosen);
                    }
                }
                Err(subject) => reached.push((theirs, subject)),
            }
        }
        match best {
            Some(chosen) => return Ok(chosen),
            None => differences.push(difference(ours, &reached)),
        }
    }
    Err(Mismatch { differences })
}

/// An answer is one proposal with at most one transform of each type.
fn single(answer: &SaPayload, proposal: &Proposal) -> Result<(), Subject> {
    let mut kinds: Vec<_> = proposal.transforms.iter().map(|t| t.kind).collect();
    kinds.sort_unstable();
    let repeated = kinds.windows(2).any(|pair| pair.first() == pair.last());
    if answer.proposals.len() == 1 && !repeated {
        Ok(())
    } else {
        Err(Subject::Choice)
    }
}

fn match_ike(theirs: &Proposal, ours: &IkeProposal, ke: Option<KeId>) -> Result<ChosenIke, Subject> {
    if theirs.protocol != ProtocolId::IKE {
        return Err(Subject::Protocol);
    }
    if !theirs.spi.is_empty() && theirs.spi_ike().is_none_or(Spi::is_zero) {
        return Err(Subject::Spi);
    }
    known_types(theirs, |kind| matches!(kind.0, 1..=4 | 6..=12))?;
    let mut nones = Vec::new();
    let suite = match_suite(theirs, &ours.ciphers, &ours.integrities, &mut nones)?;
    let prf = first_shared(theirs, TransformType::PRF, &ours.prfs, |t| {
        plain(t).then(|| Prf::from_id(t.id))?
    })
    .ok_or(Subject::Prf)?;
    let group = shared_group(theirs, &ours.groups, ke).ok_or(Subject::Group)?;
    additional(theirs, &mut nones)?;
    Ok(ChosenIke {
        number: theirs.number,
        spi: theirs.spi_ike(),
        suite,
        prf,
        group,
        nones,
    })
}

fn match_child(theirs: &Proposal, ours: &ChildProposal, ke: KeRule) -> Result<ChosenChild, Subject> {
    if theirs.protocol != ours.protocol {
        return Err(Subject::Protocol);
    }
    let spi = theirs
        .spi_u32()
        .filter(|spi| *spi >= MIN_CHILD_SPI)
        .ok_or(Subject::Spi)?;
    known_types(theirs, |kind| matches!(kind.0, 1 | 3..=12))?;
    let mut nones = Vec::new();
    let suite = match_suite(theirs, &ours.ciphers, &ours.integrities, &mut nones)?;
    let group = match ke {
        KeRule::Ignore => None,
        KeRule::Mirror(ke) => mirror_group(theirs, ours, ke, &mut nones)?,
    };
    additional(theirs, &mut nones)?;
    let esn = first_shared(theirs, TransformType::ESN, &ours.esn, |t| match t.id {
        0 if plain(t) => Some(false),
        1 if plain(t) => Some(true),
        _ => None,
    })
    .ok_or(Subject::Esn)?;
    Ok(ChosenChild {
        number: theirs.number,
        protocol: theirs.protocol,
        spi,
        suite,
        group,
        esn,
        nones,
    })
}

/// A proposal with a transform type that is not understood is not understood itself.
fn known_types(theirs: &Proposal, known: impl Fn(TransformType) -> bool) -> Result<(), Subject> {
    //= rfc7296#section-3.3.6
    //# If the responder receives a proposal that contains a Transform Type it does not understand, or a proposal that is missing a mandatory Transform Type, it MUST consider this proposal unacceptable; however, other proposals in the same SA payload are processed as usual.
    if theirs.transforms.iter().all(|t| known(t.kind)) {
        Ok(())
    } else {
        Err(Subject::TransformType)
    }
}

/// The first of ours that they offer in a form that is understood.
fn first_shared<T: Copy + PartialEq>(
    theirs: &Proposal,
    kind: TransformType,
    ours: &[T],
    read: impl Fn(&Transform) -> Option<T>,
) -> Option<T> {
    let offered = |wanted: &&T| theirs.of_kind(kind).any(|t| read(t) == Some(**wanted));
    ours.iter().find(offered).copied()
}

/// A transform without key length and unknown attributes.
fn plain(transform: &Transform) -> bool {
    transform.key_bits.is_none() && transform.unknown_attributes.is_empty()
}

fn is_none(transform: &Transform) -> bool {
    transform.id == 0 && plain(transform)
}

fn match_suite(
    theirs: &Proposal,
    ciphers: &[Cipher],
    integrities: &[Integrity],
    nones: &mut Vec<Transform>,
) -> Result<Suite, Subject> {
    //= rfc7296#section-3.3.6
    //# Similarly, if the responder receives a transform that it does not understand, or one that contains a Transform Attribute it does not understand, it MUST consider this transform unacceptable; other transforms with the same Transform Type are processed as usual.
    let cipher = first_shared(theirs, TransformType::ENCR, ciphers, |t| {
        t.unknown_attributes
            .is_empty()
            .then(|| Cipher::from_transform(t.id, t.key_bits))?
    })
    .ok_or(Subject::Encryption)?;
    if cipher.is_aead() {
        // Integrity algorithms beside an AEAD are what some clients send when they put all their ciphers into one
        // proposal. They say nothing about the AEAD and are passed over.
        if theirs.of_kind(TransformType::INTEG).any(is_none) {
            nones.push(integrity_none());
        }
        return Suite::new(cipher, None).map_err(|_| Subject::Encryption);
    }
    let integrity = first_shared(theirs, TransformType::INTEG, integrities, |t| {
        plain(t).then(|| Integrity::from_id(t.id))?
    })
    .ok_or(Subject::Integrity)?;
    Suite::new(cipher, Some(integrity)).map_err(|_| Subject::Integrity)
}

fn group_of(transform: &Transform) -> Option<Group> {
    plain(transform).then(|| Group::try_from(transform.id).ok())?
}

/// Our first group that they offer, or the one of their KE payload if it will do.
fn shared_group(theirs: &Proposal, ours: &[Group], ke: Option<KeId>) -> Option<Group> {
    let best = first_shared(theirs, TransformType::KE, ours, group_of)?;
    let sent = ke
        .and_then(|ke| Group::try_from(ke.0).ok())
        .filter(|group| {
            ours.contains(group)
                && theirs
                    .of_kind(TransformType::KE)
                    .any(|t| group_of(t) == Some(*group))
        })
        .filter(|group| !group.is_legacy());
    Some(sent.unwrap_or(best))
}

/// The group of a child's own key exchange. The peer decides whether there is one: its offer without groups is accepted
/// by a policy with groups, and its offer with groups by a policy without them.
fn mirror_group(
    theirs: &Proposal,
    ours: &ChildProposal,
    ke: Option<KeId>,
    nones: &mut Vec<Transform>,
) -> Result<Option<Group>, Subject> {
    let mut offered = theirs.of_kind(TransformType::KE).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let strong: Vec<Group>;
    let acceptable = if ours.groups.is_empty() {
        strong = Group::ALL
            .into_iter()
            .filter(|group| !group.is_legacy())
            .collect();
        &strong
    } else {
        &ours.groups
    };
    let none = offered.any(is_none);
    if none && (ke.is_none() || ours.groups.is_empty()) {
        nones.push(Transform::new(TransformType::KE, KeId::NONE.0));
        return Ok(None);
    }
    match shared_group(theirs, acceptable, ke) {
        Some(group) => Ok(Some(group)),
        None if none => {
            nones.push(Transform::new(TransformType::KE, KeId::NONE.0));
            Ok(None)
        }
        None => Err(Subject::Group),
    }
}

/// Additional key exchanges are declined where the peer allows it by offering NONE (RFC 9370).
fn additional(theirs: &Proposal, nones: &mut Vec<Transform>) -> Result<(), Subject> {
    for kind in (6..=12).map(TransformType) {
        if theirs.of_kind(kind).next().is_none() {
            continue;
        }
        if !theirs.of_kind(kind).any(is_none) {
            return Err(Subject::AdditionalGroup);
        }
        nones.push(Transform::new(kind, KeId::NONE.0));
    }
    Ok(())
}

const _: () = assert!(IntegId::NONE.0 == 0 && KeId::NONE.0 == 0);
