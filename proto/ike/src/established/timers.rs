//! Everything that happens because time passes, as one table of deadlines.

use std::time::{Duration, Instant};

use super::Core;
use super::children::State;
use super::link::{Fate, LinkId};
use super::queue::Work;
use super::tasks::Task;
use super::window::Due;
use crate::types::{ChildEnd, CloseReason, Output, Transmit};

/// Silence after which a host behind a NAT refreshes its mapping (RFC 3948 section 4).
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);

/// The NAT keepalive: one octet, without the non-ESP marker (RFC 3948 section 2.3).
pub(super) const KEEPALIVE_OCTETS: [u8; 1] = [0xff];

impl Core {
    /// When to hand in [`Input::Timeout`](crate::Input::Timeout), and for what.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        if self.closed {
            return None;
        }
        let idle = self.current.window.pending.is_none() && !self.is_unsure();
        let mut table: Vec<(Option<Instant>, &'static str)> = vec![
            (self.current.window.deadline(), "retransmit"),
            (self.queue.deadline().filter(|_| idle), "request"),
            (self.takeover_at(), "takeover"),
            (self.redirected_until, "redirected"),
            (self.clock.soft_at, "rekey-ike"),
            (self.clock.hard_at, "expire-ike"),
            (self.liveness_at(), "liveness"),
            (self.keepalive_at(), "keepalive"),
        ];
        for child in self.children.iter() {
            table.push((child.soft_at, "rekey-child"));
            table.push((child.hard_at, "expire-child"));
            table.push((child.until, "leave-child"));
        }
        for link in std::iter::once(&self.current).chain(&self.others) {
            table.push((link.requests.deadline(), "fragments"));
            table.push((link.responses.deadline(), "fragments"));
        }
        for link in &self.others {
            table.push((link.window.deadline(), "retransmit-old"));
            table.push((forget_at(link.fate), "forget-old"));
        }
        table.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    /// Does whatever is due.
    pub(super) fn timeout(&mut self, now: Instant) {
        self.expire_requests(now);
        self.expire_takeover(now);
        self.expire_links(now);
        self.expire_children(now);
        if self.closed {
            return;
        }
        if take_due(&mut self.clock.soft_at, now) && self.closing.is_none() {
            self.want(now, Work::RekeyIke { group: None });
        }
        if take_due(&mut self.clock.hard_at, now) {
            self.start_close(now, CloseReason::Expired);
        }
        if take_due(&mut self.redirected_until, now) {
            self.start_close(now, CloseReason::Redirected);
        }
        if self.liveness_at().is_some_and(|at| at <= now) {
            //= rfc7296#section-2.4
            //# If no cryptographically protected messages have been received on an IKE SA or any of its Child SAs recently, the system needs to perform a liveness check in order to prevent sending messages to a dead peer.
            self.want(now, Work::Liveness);
        }
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.spoke = now;
            let (local, remote) = (self.local, self.remote);
            self.outputs.push_back(Output::Transmit(Transmit {
                local,
                remote,
                bytes: KEEPALIVE_OCTETS.to_vec(),
                durable: false,
            }));
        }
    }

    fn liveness_at(&self) -> Option<Instant> {
        let idle = self.current.window.pending.is_none() && self.closing.is_none() && !self.is_unsure();
        let asked = self.queue.contains(&Work::Liveness);
        self.liveness
            .filter(|_| idle && !asked)
            .map(|silence| self.heard + silence)
    }

    fn keepalive_at(&self) -> Option<Instant> {
        let needed = self.nat.local && self.caller && self.local.port() != 500;
        needed.then(|| self.spoke + KEEPALIVE)
    }

    fn expire_requests(&mut self, now: Instant) {
        let ids: Vec<LinkId> = std::iter::once(&self.current)
            .chain(&self.others)
            .map(|l| l.id)
            .collect();
        for id in ids {
            let Some(link) = super::link::find(&mut self.current, &mut self.others, id) else {
                continue;
            };
            link.requests.expire(now);
            link.responses.expire(now);
            match link.window.expire(now, &self.context.timing) {
                None => {}
                Some(Due::Again(_)) if self.is_in_vain(id) => self.withdraw(now),
                Some(Due::Again(datagrams)) => {
                    self.counters.retransmits_out += 1;
                    self.transmit(now, self.local, self.remote, datagrams, false);
                }
                Some(Due::GivenUp) => self.given_up(now, id),
            }
        }
    }

    /// The peer did not answer a request of ours on a link.
    fn given_up(&mut self, now: Instant, id: LinkId) {
        if id != self.current.id {
            return self.drop_link(id);
        }
        let candidate = match self.current.window.pending.as_ref().map(|pending| &pending.task) {
            Some(Task::RekeyIke(task)) => task.theirs.as_ref().map(|(candidate, _)| *candidate),
            Some(_) | None => None,
        };
        let alive = |candidate: &LinkId| self.link(*candidate).is_some_and(|l| l.fate == Fate::Candidate);
        if let Some(candidate) = candidate.filter(alive) {
            // The peer has gone over to the link that it made itself, and its DELETE of this one was lost.
            self.adopt(now, candidate);
            return self.drop_link(id);
        }
        //= rfc7296#section-2.1
        //# In the latter case, the initiator discards all state associated with the IKE SA and any Child SAs that were negotiated using that IKE SA.
        let reason = self.closing.take().unwrap_or(CloseReason::PeerDead);
        self.close(reason);
    }

    fn expire_links(&mut self, now: Instant) {
        let due = |fate| forget_at(fate).is_some_and(|at| at <= now);
        let gone: Vec<LinkId> = self
            .others
            .iter()
            .filter(|link| due(link.fate))
            .map(|link| link.id)
            .collect();
        for id in gone {
            self.drop_link(id);
        }
    }

    fn expire_children(&mut self, now: Instant) {
        let mut wishes = Vec::new();
        let mut gone = Vec::new();
        for child in self.children.iter_mut() {
            let spi_in = child.sa.spi_in;
            let state = child.state;
            if take_due(&mut child.until, now) {
                match state {
                    State::Leaving => gone.push(spi_in),
                    // The peer forgot to delete what it replaced.
                    State::Replaced => wishes.push((spi_in, Some(ChildEnd::Rekeyed))),
                    State::Installed | State::Rekeying | State::Deleting => {}
                }
            }
            if take_due(&mut child.hard_at, now) {
                match state {
                    State::Installed | State::Rekeying => {
                        wishes.push((spi_in, Some(ChildEnd::DeletedByUs)));
                    }
                    // The peer is about to delete it, and may not have our answer to its rekey yet.
                    State::Replaced => gone.push(spi_in),
                    State::Deleting | State::Leaving => {}
                }
            }
            if take_due(&mut child.soft_at, now) && state == State::Installed {
                wishes.push((spi_in, None));
            }
        }
        for (spi_in, end) in wishes {
            match end {
                Some(end) => self.want_delete(now, spi_in, end),
                None if self.closing.is_none() => self.want(now, Work::RekeyChild { spi_in, group: None }),
                None => {}
            }
        }
        for spi_in in gone {
            self.drop_child(spi_in, ChildEnd::Rekeyed);
        }
    }
}

/// When a link is forgotten without further words.
fn forget_at(fate: Fate) -> Option<Instant> {
    match fate {
        Fate::Replaced(at) | Fate::Answered(at) => Some(at),
        Fate::Current | Fate::Candidate | Fate::Closing => None,
    }
}

/// Whether a deadline has come; it is cleared then.
fn take_due(at: &mut Option<Instant>, now: Instant) -> bool {
    at.take_if(|at| *at <= now).is_some()
}
