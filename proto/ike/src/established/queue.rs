//! What we want to do next. One request is under way at a time, so wishes wait here.

use std::time::Instant;

use crypto::Group;
use ip::Selector;
use serde::{Deserialize, Serialize};

use crate::types::{ChildEnd, GatewayId, Resource};

/// The most wishes that wait; more are refused.
pub(super) const MAX_JOBS: usize = 256;

/// Something that takes a request of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// A further child SA.
    CreateChild {
        ts_local: Vec<Selector>,
        ts_remote: Vec<Selector>,
        group: Option<Group>,
        resource: Resource,
    },
    /// A successor for a child SA.
    RekeyChild { spi_in: u32, group: Option<Group> },
    /// A successor for the IKE SA.
    RekeyIke { group: Option<Group> },
    /// The end of a child SA.
    DeleteChild { spi_in: u32, end: ChildEnd },
    /// The end of a child SA that only the peer has.
    DeleteStray { spi_in: u32 },
    /// The end of the IKE SA.
    Close,
    /// A sign of life.
    Liveness,
    /// Word of a request outside the window.
    Report { message_id: u32 },
    /// The peer is to go to another gateway.
    Redirect { to: GatewayId },
}

impl Work {
    /// Whether both are about the same thing, so that one of them is enough.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::RekeyChild { spi_in: a, .. }, Self::RekeyChild { spi_in: b, .. })
            | (Self::DeleteChild { spi_in: a, .. }, Self::DeleteChild { spi_in: b, .. })
            | (Self::DeleteStray { spi_in: a }, Self::DeleteStray { spi_in: b }) => a == b,
            (Self::RekeyIke { .. }, Self::RekeyIke { .. })
            | (Self::Close, Self::Close)
            | (Self::Liveness, Self::Liveness)
            | (Self::Report { .. }, Self::Report { .. })
            | (Self::Redirect { .. }, Self::Redirect { .. }) => true,
            _ => self == other,
        }
    }

    /// Inbound SPI of the child SA that it is about, if it is about one that we have.
    pub(super) fn child(&self) -> Option<u32> {
        match self {
            Self::RekeyChild { spi_in, .. } | Self::DeleteChild { spi_in, .. } => Some(*spi_in),
            Self::CreateChild { .. }
            | Self::RekeyIke { .. }
            | Self::DeleteStray { .. }
            | Self::Close
            | Self::Liveness
            | Self::Report { .. }
            | Self::Redirect { .. } => None,
        }
    }

    /// Lower goes first.
    fn rank(&self) -> u8 {
        match self {
            Self::Close => 0,
            Self::DeleteChild { .. } | Self::DeleteStray { .. } => 1,
            Self::CreateChild { .. }
            | Self::RekeyChild { .. }
            | Self::RekeyIke { .. }
            | Self::Liveness
            | Self::Report { .. }
            | Self::Redirect { .. } => 2,
        }
    }
}

/// A wish with its history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    /// Not before then.
    pub(super) at: Instant,
    /// Key exchange groups that the peer has refused.
    pub(super) tries: u8,
}

impl Job {
    /// A new wish.
    pub(super) fn new(work: Work, at: Instant) -> Self {
        Self { work, at, tries: 0 }
    }
}

/// Wishes in the order they came.
#[derive(Debug, Default)]
pub(super) struct Queue(Vec<Job>);

impl Queue {
    /// Adds a wish unless the same one waits already; false if there is no room.
    pub(super) fn push(&mut self, job: Job) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.work.same_as(&job.work)) {
            known.at = known.at.min(job.at);
            if matches!(job.work, Work::DeleteChild { .. }) {
                // The latest reason counts: a child that has a successor by now was rekeyed.
                known.work = job.work;
            }
            return true;
        }
        let room = self.0.len() < MAX_JOBS;
        if room {
            self.0.push(job);
        }
        room
    }

    /// The next wish whose time has come: ends before beginnings, otherwise first come, first served.
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
        let due = self.0.iter().enumerate().filter(|(_, job)| job.at <= now);
        let (index, _) = due.min_by_key(|(index, job)| (job.work.rank(), *index))?;
        Some(self.0.remove(index))
    }

    /// When the first wish's time comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|job| job.at).min()
    }

    /// Forgets wishes.
    pub(super) fn retain(&mut self, keep: impl Fn(&Work) -> bool) {
        self.0.retain(|job| keep(&job.work));
    }

    /// All wishes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.0.iter()
    }

    /// Whether a wish waits.
    pub(super) fn contains(&self, work: &Work) -> bool {
        self.0.iter().any(|job| job.work.same_as(work))
    }
}
