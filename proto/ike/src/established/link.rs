//! One set of IKE keys under one pair of SPIs. A rekeyed IKE SA has several for a while: the current one, those it
//! replaced, and one whose place a collision has yet to decide.

use std::time::Instant;

use crypto::{KeyError, Opener, Random, Sealer};
use serde::{Deserialize, Serialize};

use super::Core;
use super::children::PATIENCE;
use super::lifetimes::Clock;
use super::queue::Work;
use super::tasks::Task;
use super::tasks::delete::build_ike;
use super::window::{Pending, Window};
use crate::keys::IkeKeys;
use crate::types::{CloseReason, Event, IkeSuite, Role};
use crate::wire::Reassembler;
use crate::wire::protect::{self, IvSource, ProtectError};
use crate::wire::{EncodeError, ExchangeType, Flags, Header, Payload, Spi, encode_payloads};

/// SPIs of the initiator and of the responder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(super) struct LinkId(pub(super) Spi, pub(super) Spi);

/// What becomes of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// In use: our requests go here.
    Current,
    /// Made by the peer while our own rekey is under way: the nonces will tell.
    Candidate,
    /// Replaced; the peer is to delete it, and if it does not, it is forgotten at this time.
    Replaced(Instant),
    /// Replaced; our DELETE is under way.
    Closing,
    /// The peer deleted it; its DELETE is answered again until this time.
    Answered(Instant),
}

/// Keys, SPIs, windows.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    /// Our role in the exchange that made it: who sets the Initiator flag, and whose keys are whose.
    pub(super) role: Role,
    pub(super) suite: IkeSuite,
    pub(super) keys: IkeKeys,
    pub(super) ivs: IvSource,
    pub(super) window: Window,
    pub(super) fate: Fate,
    /// Fragments of the peer's next request.
    pub(super) requests: Reassembler,
    /// Fragments of the response that we wait for.
    pub(super) responses: Reassembler,
    sealer: Sealer,
    opener: Opener,
}

impl Link {
    /// Makes the ciphers of a link.
    pub(super) fn new(
        id: LinkId,
        role: Role,
        suite: IkeSuite,
        keys: IkeKeys,
        ivs: IvSource,
        window: Window,
        fate: Fate,
    ) -> Result<Self, KeyError> {
        let (enc, integ) = keys.sent_by(role);
        let sealer = Sealer::new(suite.suite, enc.expose(), integ.expose())?;
        let (enc, integ) = keys.sent_by(role.peer());
        let opener = Opener::new(suite.suite, enc.expose(), integ.expose())?;
        Ok(Self {
            id,
            role,
            suite,
            keys,
            ivs,
            window,
            fate,
            requests: Reassembler::new(),
            responses: Reassembler::new(),
            sealer,
            opener,
        })
    }

    /// Whether the Initiator flag of a message says that the peer sent it.
    pub(super) fn is_from_peer(&self, header: &Header) -> bool {
        header.flags.initiator != self.role.is_initiator()
    }

    /// Opens a datagram of the peer.
    pub(super) fn open(&self, datagram: &[u8]) -> Result<protect::Opened, ProtectError> {
        protect::open(datagram, &self.opener)
    }

    /// Seals a message of ours into one datagram, or into fragments of at most `limit` octets.
    pub(super) fn seal(
        &mut self,
        exchange: ExchangeType,
        direction: Direction,
        payloads: &[Payload],
        limit: Option<usize>,
        random: &mut dyn Random,
    ) -> Result<Vec<Vec<u8>>, SealFailure> {
        let message_id = match direction {
            Direction::Request => self.window.next_send,
            Direction::Response => self.window.next_recv,
        };
        self.seal_as(message_id, exchange, direction, payloads, limit, random)
    }

    /// Seals a message of ours under a message ID that is not the next one.
    pub(super) fn seal_as(
        &mut self,
        message_id: u32,
        exchange: ExchangeType,
        direction: Direction,
        payloads: &[Payload],
        limit: Option<usize>,
        random: &mut dyn Random,
    ) -> Result<Vec<Vec<u8>>, SealFailure> {
        let initiator = self.role.is_initiator();
        let flags = match direction {
            Direction::Request => Flags::request(initiator),
            Direction::Response => Flags::response(initiator),
        };
        let header = Header::new(self.id.0, self.id.1, exchange, flags, message_id);
        let (first, plaintext) = encode_payloads(payloads)?;
        let limit = limit.unwrap_or(usize::MAX);
        Ok(protect::seal_fragmented(
            &header,
            first,
            &plaintext,
            &self.sealer,
            &mut self.ivs,
            random,
            limit,
        )?)
    }
}

/// Which message is sealed: our next request, or the answer to the request that was fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Request,
    Response,
}

/// A message of ours that cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum SealFailure {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Protect(#[from] ProtectError),
}

impl Core {
    pub(super) fn link(&self, id: LinkId) -> Option<&Link> {
        std::iter::once(&self.current)
            .chain(&self.others)
            .find(|link| link.id == id)
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        find(&mut self.current, &mut self.others, id)
    }

    pub(super) fn add_link(&mut self, link: Link) {
        self.changed = true;
        self.others.push(link);
    }

    /// Makes a link the current one. The one before is for the peer to delete, unless we do.
    pub(super) fn promote(&mut self, now: Instant, id: LinkId) {
        let Some(index) = self.others.iter().position(|link| link.id == id) else {
            return;
        };
        let mut new = self.others.remove(index);
        new.fate = Fate::Current;
        let mut old = std::mem::replace(&mut self.current, new);
        old.fate = Fate::Replaced(now + PATIENCE);
        let undecided = |pending: &Pending| matches!(pending.task, Task::RekeyIke(_));
        old.window.pending = old.window.pending.filter(undecided);
        self.others.push(old);
        self.queue
            .retain(|work| !matches!(work, Work::RekeyIke { .. } | Work::Liveness));
        self.takeover = None;
        self.restart_clock(now);
        self.refused_since = None;
        self.counters.ike_rekeys += 1;
        self.changed = true;
        self.say_current();
    }

    pub(super) fn say_current(&mut self) {
        let LinkId(new_spi_i, new_spi_r) = self.current.id;
        self.event(Event::IkeRekeyed { new_spi_i, new_spi_r });
    }

    /// The link that the peer's rekey made is the one that stays.
    pub(super) fn adopt(&mut self, now: Instant, id: LinkId) {
        match self.link(id).map(|link| link.fate) {
            Some(Fate::Candidate) => self.promote(now, id),
            Some(Fate::Current) => self.say_current(),
            // The peer deleted what was to stay.
            Some(Fate::Replaced(_) | Fate::Closing | Fate::Answered(_)) | None => {
                self.close(CloseReason::DeletedByPeer);
            }
        }
    }

    /// The peer goes on with a link that its rekey replaced: a synchronization of message IDs made it forget the rekey
    /// (RFC 6311 section 8.3), and it does not have the new link. A new request proves it: a peer that has the answer sends
    /// nothing but a DELETE here.
    pub(super) fn revive_forgotten(&mut self, now: Instant, id: LinkId) {
        let unused = self.current.role == Role::Responder && self.current.window.next_recv == 0;
        let replaced = |link: &Link| link.id == id && matches!(link.fate, Fate::Replaced(_));
        if !self.mid_sync || !unused || self.closing.is_some() || !self.others.iter().any(replaced) {
            return;
        }
        self.abandon_pending(now);
        let Some(index) = self.others.iter().position(replaced).filter(|_| !self.closed) else {
            return;
        };
        let mut old = self.others.remove(index);
        old.fate = Fate::Current;
        let LinkId(spi_i, spi_r) = std::mem::replace(&mut self.current, old).id;
        self.takeover = None;
        self.restart_clock(now);
        self.changed = true;
        self.say_current();
        self.event(Event::OldSpisGone { spi_i, spi_r });
    }

    /// A candidate turned out redundant; the peer is to delete it.
    pub(super) fn retire(&mut self, now: Instant, id: LinkId) {
        let candidate = self.link_mut(id).filter(|link| link.fate == Fate::Candidate);
        if let Some(link) = candidate {
            link.fate = Fate::Replaced(now + PATIENCE);
        }
    }

    /// Sends the DELETE of a replaced link.
    pub(super) fn delete_link(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.others.iter_mut().find(|link| link.id == id) else {
            return;
        };
        if matches!(link.fate, Fate::Answered(_)) {
            return;
        }
        link.fate = Fate::Closing;
        self.send(now, id, build_ike());
    }

    /// Forgets a link that is not the current one.
    pub(super) fn drop_link(&mut self, id: LinkId) {
        let before = self.others.len();
        self.others.retain(|link| link.id != id);
        if self.others.len() < before {
            self.changed = true;
            let LinkId(spi_i, spi_r) = id;
            self.event(Event::OldSpisGone { spi_i, spi_r });
        }
    }

    pub(super) fn restart_clock(&mut self, now: Instant) {
        let random = &mut *self.context.random;
        self.clock = Clock::start(now, &self.ike_lifetime, self.policy.rekey, random);
    }
}

/// A link by its SPIs, borrowing no more than the links.
pub(super) fn find<'a>(current: &'a mut Link, others: &'a mut [Link], id: LinkId) -> Option<&'a mut Link> {
    std::iter::once(current).chain(others).find(|link| link.id == id)
}
