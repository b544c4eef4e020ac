//! From nothing to ESTABLISHED: one file a state, each consuming itself and returning the next.
//!
//! ```text
//!  responder   ExpectSaInit ──keys──► ExpectAuth ──job──► AwaitVerdict ──grant──► Core (established)
//!                   │ INVALID_KE: stays   │                    │
//!                   ▼                     ▼                    ▼
//!                Closed                Refused ◄───────────────┘   answers retransmissions for a while
//!
//!  initiator   SaInitSent ──keys──► AwaitSignature ──IKE_AUTH──► AuthSent ──job──► AwaitVerification ──► Core
//!                   │ COOKIE, INVALID_KE: again
//! ```
//! A state holds exactly what exists then: keys are never optional. Nothing here reads a clock or does I/O.

mod auth_init;
mod auth_resp;
mod base;
mod channel;
mod child;
mod establish;
mod keyed;
mod refused;
mod resend;
mod sa_init_init;
mod sa_init_resp;
mod verdict;
mod verification;

use std::collections::VecDeque;
use std::time::Instant;

pub(crate) use auth_init::{AuthSent, AwaitSignature};
pub(crate) use auth_resp::ExpectAuth;
pub(crate) use base::Base;
pub(crate) use refused::Refused;
pub(crate) use sa_init_init::SaInitSent;
pub(crate) use sa_init_resp::ExpectSaInit;
pub(crate) use verdict::AwaitVerdict;
pub(crate) use verification::AwaitVerification;

use crate::established::Core;
use crate::types::{Input, Output};

/// Outputs that wait to be polled.
pub(crate) type Outbox = VecDeque<Output>;

/// Where an IKE SA is.
pub(crate) enum State {
    ExpectSaInit(Box<ExpectSaInit>),
    ExpectAuth(Box<ExpectAuth>),
    AwaitVerdict(Box<AwaitVerdict>),
    Refused(Box<Refused>),
    SaInitSent(Box<SaInitSent>),
    AwaitSignature(Box<AwaitSignature>),
    AuthSent(Box<AuthSent>),
    AwaitVerification(Box<AwaitVerification>),
    Established(Box<Core>),
    Closed(Box<Base>),
    /// For the moment in which a step works on what was here.
    Moved,
}

/// A state before ESTABLISHED.
pub(crate) trait Step: Sized {
    /// Takes an input and says what comes next.
    fn handle(self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State;
    /// When [`Input::Timeout`] is due, and why.
    fn deadline(&self) -> Option<(Instant, &'static str)>;
    /// What all states have.
    fn base(&self) -> &Base;
}
