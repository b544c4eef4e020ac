//! How a session ends by our own decision: replaced by a newer one of its user, revoked, or ended by an operator.
//!
//! None of them waits for the peer, which may be gone, hostile, or not yet found again after a takeover. While the slot stands
//! still the decision is kept: it is carried out if the slot stays, and the next owner makes it anew if it goes.

use std::time::Duration;

use actix::{ActorContext as _, AsyncContext as _, Context, Handler, Message};
use ike::{Command, Input};

use super::IkeSaActor;

/// Time that the peer of a revoked session has to be told.
const LAST_WORD: Duration = Duration::from_millis(500);
/// The same for a session that an operator ends.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// The session gives way to another one of its user: it ends at once, without a word to a peer that may be gone.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Evict {
    /// Why, for the operator.
    pub reason: String,
}

/// The peer is told, and the session ends shortly after, whatever the peer says.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) enum Dismiss {
    /// Its tenant, its connection or its user's key is gone.
    Revoked,
    /// An operator wants it.
    Disconnected,
}

impl Dismiss {
    /// Time that the peer has to answer.
    const fn patience(self) -> Duration {
        match self {
            Self::Revoked => LAST_WORD,
            Self::Disconnected => FAREWELL,
        }
    }

    /// Why, for the operator.
    const fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Disconnected => "disconnected",
        }
    }
}

/// What waits for the slot to go on.
#[derive(Debug)]
pub(super) enum Ending {
    Evict(Evict),
    Dismiss(Dismiss),
}

impl IkeSaActor {
    /// Carries out what was decided while the slot stood still.
    pub(super) fn end_as_decided(&mut self, context: &mut Context<Self>) {
        match self.ending.take() {
            Some(Ending::Evict(evict)) => Handler::<Evict>::handle(self, evict, context),
            Some(Ending::Dismiss(dismiss)) => Handler::<Dismiss>::handle(self, dismiss, context),
            None => {}
        }
    }
}

impl Handler<Evict> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, evict: Evict, context: &mut Context<Self>) {
        if !self.acts() {
            self.ending = Some(Ending::Evict(evict));
            return;
        }
        self.close(&evict.reason);
        context.stop();
    }
}

impl Handler<Dismiss> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, dismiss: Dismiss, context: &mut Context<Self>) {
        if !self.acts() {
            self.ending = Some(Ending::Dismiss(dismiss));
            return;
        }
        self.feed(Input::Command(Command::Close), context);
        if !self.closed {
            context.run_later(dismiss.patience(), move |this, context| {
                if !this.closed {
                    let reason = dismiss.reason().to_owned();
                    Handler::<Evict>::handle(this, Evict { reason }, context);
                }
            });
        }
    }
}
