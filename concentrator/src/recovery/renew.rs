//! After a takeover busy child SAs are replaced, in good order.
//!
//! The last checkpoint of an inbound window is up to a second old. What came after it the last owner has accepted, and
//! this one would accept once more until its own window is past it: the replay of packets that somebody has recorded.
//! A new child SA has new keys and a new window. Replaced are those that carried packets at the last checkpoint or
//! carry some soon after the takeover; the others have nothing open. How much was open at most is counted
//! ([`Child::exposed`]).
//!
//! ```text
//!  served ─ look ─► the busy ones, in an order nobody can foresee ─► spread over a minute, N a second on the whole node
//! ```
//! While the store is slow or out of reach nothing is replaced: that is work which can wait, clients' own cannot.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tenants::model::RekeyPolicy;
use tokio::time::Instant;

use crate::actors::Order;
use crate::node::Node;
use crate::session::Child;
use crate::slot::{Slot, Standing};

/// The store is slow when a record waits for longer.
const SLOW: Duration = Duration::from_millis(100);
/// Between two looks whether it is quick again.
const PAUSE: Duration = Duration::from_secs(1);

/// How many child SAs are replaced in a second, all slots of the node together.
pub struct Pace {
    gap: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// `None`: nothing is replaced.
    #[must_use]
    pub fn new(per_second: u32) -> Option<Arc<Self>> {
        let gap = Duration::from_secs(1).checked_div(per_second)?;
        Some(Arc::new(Self {
            gap,
            next: Mutex::new(None),
        }))
    }

    /// When the next one may be replaced.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + self.gap);
        at
    }
}

/// When what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long after the takeover it is looked who carries packets.
    pub look: Duration,
    /// What the rekeys of a slot are spread over, at least.
    pub spread: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(3),
            spread: Duration::from_secs(60),
        }
    }
}

/// Replaces the busy child SAs of a slot that was taken over; gives how many. Ends with the slot.
pub async fn renew(node: Arc<Node>, slot: Arc<Slot>, pace: Arc<Pace>, times: Times) -> usize {
    tokio::time::sleep(times.look).await;
    let now = SystemTime::now();
    // Those whose own rekey is near need none of ours.
    let soon = now + times.spread * 2;
    let mut busy: Vec<Arc<Child>> = slot
        .children
        .iter()
        .filter(|child| is_busy(child, now) && !is_due(child, soon) && is_ours(&node, &slot, child))
        .map(|child| Arc::clone(&child))
        .collect();
    // The low bits of an SPI are random.
    busy.sort_unstable_by_key(|child| child.sa.spi_in.reverse_bits());
    let share = times.spread / u32::try_from(busy.len().max(1)).unwrap_or(u32::MAX);
    let begun = Instant::now();
    let mut renewed = 0;
    for (number, child) in (0_u32..).zip(&busy) {
        let jitter = f64::from(child.sa.spi_in & 0xffff) / f64::from(0x1_0000);
        tokio::time::sleep_until(begun + share * number + share.mul_f64(jitter)).await;
        while !slot.is_ended() && must_wait(&slot) {
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep_until(pace.turn(Instant::now())).await;
        if slot.is_ended() {
            break;
        }
        renewed += usize::from(replace(&node, &slot, child));
    }
    if renewed > 0 {
        tracing::info!(
            slot = slot.id,
            renewed,
            "busy child SAs are replaced after the takeover"
        );
    }
    renewed
}

/// Whether it has carried packets since shortly before the takeover.
fn is_busy(child: &Child, now: SystemTime) -> bool {
    let since = || child.silent_for(now).is_some();
    child.restored.is_some_and(|window| window.busy || since()) && !child.is_spent()
}

/// Whether it is replaced before `soon` anyway.
fn is_due(child: &Child, soon: SystemTime) -> bool {
    child
        .sa
        .lifetime
        .soft
        .is_some_and(|soft| child.made + soft <= soon)
}

/// Whether its connection lets us replace it.
fn is_ours(node: &Node, slot: &Slot, child: &Child) -> bool {
    let Some(session) = slot
        .sessions
        .get(&child.session)
        .map(|session| Arc::clone(&session))
    else {
        return false;
    };
    let facts = &session.facts;
    node.registry
        .connection(&facts.tenant, &facts.connection)
        .is_some_and(|connection| connection.rekey_policy == RekeyPolicy::Initiate)
}

/// The slot is about to go, or its records are written slowly or not at all.
fn must_wait(slot: &Slot) -> bool {
    slot.standing() != Standing::Serving || slot.records.is_static() || slot.records.oldest_wait() > SLOW
}

/// Orders its rekey, if it is still there.
fn replace(node: &Node, slot: &Slot, child: &Arc<Child>) -> bool {
    let spi_in = child.sa.spi_in;
    let is_there = slot
        .children
        .get(&spi_in)
        .is_some_and(|found| Arc::ptr_eq(&found, child));
    let addr = slot
        .sessions
        .get(&child.session)
        .and_then(|session| session.addr.load_full());
    let Some(addr) = addr.filter(|_| is_there) else {
        return false;
    };
    let order = Order(ike::Command::RekeyChild { spi_in, group: None });
    if addr.try_send(order).is_err() {
        node.metrics.refusal("ike_sa");
        return false;
    }
    node.metrics.renewed();
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn turns_are_a_gap_apart_and_none_is_saved_up() {
        assert!(Pace::new(0).is_none());
        let pace = Pace::new(100).unwrap();
        let begun = Instant::now();
        let gap = Duration::from_millis(10);
        for number in 0..5 {
            assert_eq!(pace.turn(begun), begun + gap * number);
        }
        let later = begun + Duration::from_secs(9);
        assert_eq!(pace.turn(later), later);
        assert_eq!(pace.turn(later), later + gap);
    }
}
