//! Authentication of the IKE SA (RFC 7296 section 2.15, RFC 7427): the job that leaves the state machine, and the pure
//! functions that do it.
//!
//! ```text
//!   IkeSa ──Event::Authenticate{ticket, job}──► shell ──► verify(&job, &PeerCredential)   who is the peer?
//!                                                   └──► sign(&job, &LocalCredential)     who are we?
//!   IkeSa ◄──Input::AuthResult{ticket, verdict}───┘
//! ```
//! Both functions may take milliseconds (RSA, chains): run them away from the state machines.

mod failure;
mod job;
mod sign;
mod verify;

pub use failure::AuthFailure;
pub use job::{
    AuthJob, AuthOctets, AuthPhase, AuthVerdict, Grant, LocalAuth, Negotiation, Rejection, VerifiedPeer,
};
pub use sign::{LocalCredential, LocalKind, sign};
pub use verify::{PeerCredential, names, verify};
