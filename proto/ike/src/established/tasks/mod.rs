//! Exchanges of ours that are under way, one file for each kind: `build` makes the request, `process` takes the response,
//! `handle` answers the peer's request of the same kind.
//!
//! A task holds what its response needs and nothing else, and it can be stored: after a restart the same request goes out
//! again, octet by octet, and its response finds the task as it was.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Core;
use super::link::LinkId;
use super::queue::{Job, Work};
use crate::wire::{ExchangeType, Notify, Payload, Payloads};

pub(super) mod create_child;
pub(super) mod delete;
pub(super) mod liveness;
pub(super) mod offer;
pub(super) mod redirect;
pub(super) mod rekey_child;
pub(super) mod rekey_ike;

/// A request of ours under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Task {
    CreateChild(Box<create_child::CreateChild>),
    RekeyChild(Box<rekey_child::RekeyChild>),
    RekeyIke(Box<rekey_ike::RekeyIke>),
    DeleteChildren(delete::DeleteChildren),
    DeleteIke,
    Liveness,
    Report,
    Redirect,
}

/// A request, ready to be sealed.
pub(super) struct Request {
    pub(super) exchange: ExchangeType,
    pub(super) payloads: Vec<Payload>,
    pub(super) task: Task,
}

/// An answer, ready to be sealed, and what follows once it is on its way.
pub(super) struct Answer {
    pub(super) payloads: Vec<Payload>,
    pub(super) then: Then,
}

/// What follows an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// Nothing more.
    Continue,
    /// The IKE SA ends.
    Close(crate::types::CloseReason),
}

impl Answer {
    /// These payloads and nothing more.
    pub(super) fn of(payloads: Vec<Payload>) -> Self {
        let then = Then::Continue;
        Self { payloads, then }
    }

    /// One notify.
    pub(super) fn refuse(notify: Notify) -> Self {
        Self::of(vec![Payload::Notify(notify)])
    }
}

impl Task {
    /// Makes the request for a wish; `None` if there is nothing left to do about it.
    pub(super) fn build(core: &mut Core, now: Instant, job: Job) -> Option<Request> {
        match job.work.clone() {
            Work::CreateChild {
                ts_local,
                ts_remote,
                group,
                resource,
            } => create_child::build(core, &job, ts_local, ts_remote, group, resource),
            Work::RekeyChild { spi_in, group } => rekey_child::build(core, &job, spi_in, group),
            Work::RekeyIke { group } => rekey_ike::build(core, &job, group),
            Work::DeleteChild { spi_in, end } => delete::build_child(core, now, spi_in, end),
            Work::DeleteStray { spi_in } => Some(delete::build_stray(spi_in)),
            Work::Close => Some(delete::build_ike()),
            Work::Liveness => Some(liveness::build(core)),
            Work::Report { message_id } => Some(liveness::build_report(message_id)),
            Work::Redirect { to } => Some(redirect::build(core, &to)),
        }
    }

    /// Takes the response that arrived on a link.
    pub(super) fn process(self, core: &mut Core, now: Instant, link: LinkId, response: Payloads<'_>) {
        match self {
            Self::CreateChild(task) => task.process(core, now, response),
            Self::RekeyChild(task) => task.process(core, now, response),
            Self::RekeyIke(task) => task.process(core, now, link, response),
            Self::DeleteChildren(task) => task.process(core, now),
            Self::DeleteIke => delete::process_ike(core, now, link),
            Self::Redirect => redirect::process(core, now),
            Self::Liveness | Self::Report => {}
        }
    }

    /// The inbound SPI that it offers for a new child SA.
    pub(super) fn offered(&self) -> Option<u32> {
        match self {
            Self::CreateChild(task) => Some(task.spi_in()),
            Self::RekeyChild(task) => Some(task.spi_in()),
            Self::RekeyIke(_)
            | Self::DeleteChildren(_)
            | Self::DeleteIke
            | Self::Liveness
            | Self::Report
            | Self::Redirect => None,
        }
    }

    /// Whether it makes, replaces or ends a child SA.
    pub(super) fn concerns_children(&self) -> bool {
        match self {
            Self::CreateChild(_) | Self::RekeyChild(_) | Self::DeleteChildren(_) => true,
            Self::RekeyIke(_) | Self::DeleteIke | Self::Liveness | Self::Report | Self::Redirect => false,
        }
    }
}
