//! One timer wheel for each arbiter: deadlines of thousands of actors, one sleeping task.
//!
//! A tokio timer for each SA costs 700 octets and starves behind a full mailbox; here an armed deadline is one entry
//! of a map, and the wheel's task runs beside the actors. A deadline fires at its time rounded up to [`TICK`], late
//! by what the arbiter is late (the lag is a metric).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use tokio::sync::Notify;

use crate::telemetry::Metrics;

/// Deadlines are rounded up to a multiple of this, so that close ones share a wake-up.
pub const TICK: Duration = Duration::from_millis(10);

/// What an actor gets when its deadline has come.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Wake;

/// Delivers a wake-up; false when the mailbox was full and it must be tried again.
type Deliver = Box<dyn Fn() -> bool>;

struct Entry {
    asked: Instant,
    deliver: Deliver,
}

struct Inner {
    epoch: Instant,
    entries: BTreeMap<(u64, u64), Entry>,
    next: u64,
    running: bool,
    metrics: Option<Metrics>,
}

/// The wheel of the arbiter that this thread is. Cheap to clone, does not leave its thread.
#[derive(Clone)]
pub struct Wheel {
    inner: Rc<RefCell<Inner>>,
    earlier: Rc<Notify>,
}

/// A deadline that was armed; give it back to [`Wheel::disarm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    tick: u64,
    serial: u64,
}

thread_local! {
    static WHEEL: Wheel = Wheel::new();
}

impl Wheel {
    /// The wheel of the current thread. Arm it only where an arbiter runs.
    #[must_use]
    pub fn here() -> Self {
        WHEEL.with(Clone::clone)
    }

    /// Measures the lag of this thread's wheel from here on.
    pub fn measure(&self, metrics: Metrics) {
        self.inner.borrow_mut().metrics = Some(metrics);
    }

    fn new() -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                epoch: Instant::now(),
                entries: BTreeMap::new(),
                next: 0,
                running: false,
                metrics: None,
            })),
            earlier: Rc::new(Notify::new()),
        }
    }

    /// Sends [`Wake`] to `addr` at `deadline`.
    pub fn arm<A>(&self, deadline: Instant, addr: Addr<A>) -> Armed
    where
        A: Actor + Handler<Wake>,
        A::Context: ToEnvelope<A, Wake>,
    {
        self.arm_with(
            deadline,
            Box::new(move || match addr.try_send(Wake) {
                Ok(()) | Err(actix::prelude::SendError::Closed(_)) => true,
                Err(actix::prelude::SendError::Full(_)) => false,
            }),
        )
    }

    fn arm_with(&self, deadline: Instant, deliver: Deliver) -> Armed {
        let (armed, first, start) = {
            let mut inner = self.inner.borrow_mut();
            let tick = tick_of(inner.epoch, deadline);
            let serial = inner.next;
            inner.next = inner.next.wrapping_add(1);
            let first = inner
                .entries
                .keys()
                .next()
                .is_none_or(|(earliest, _)| tick < *earliest);
            inner.entries.insert(
                (tick, serial),
                Entry {
                    asked: deadline,
                    deliver,
                },
            );
            let start = !inner.running;
            inner.running = true;
            (Armed { tick, serial }, first, start)
        };
        if start {
            tokio::task::spawn_local(self.clone().run());
        } else if first {
            self.earlier.notify_one();
        }
        armed
    }

    /// Takes a deadline back. One that has fired already is no error.
    pub fn disarm(&self, armed: Armed) {
        self.inner
            .borrow_mut()
            .entries
            .remove(&(armed.tick, armed.serial));
    }

    /// How many deadlines are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.borrow().entries.len()
    }

    /// Whether none is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn run(self) {
        loop {
            let next = {
                let mut inner = self.inner.borrow_mut();
                match inner.entries.keys().next() {
                    Some((tick, _)) => time_of(inner.epoch, *tick),
                    None => {
                        inner.running = false;
                        return;
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.earlier.notified() => continue,
            }
            self.fire();
        }
    }

    /// Delivers everything that is due. What a full mailbox refuses is tried again a tick later.
    fn fire(&self) {
        let now = Instant::now();
        let (due, metrics) = {
            let mut inner = self.inner.borrow_mut();
            let tick = elapsed_ticks(inner.epoch, now);
            let later = inner.entries.split_off(&(tick + 1, 0));
            (
                std::mem::replace(&mut inner.entries, later),
                inner.metrics.clone(),
            )
        };
        for ((_, serial), entry) in due {
            if let Some(metrics) = &metrics {
                metrics.timer_lag(now.saturating_duration_since(entry.asked).as_secs_f64());
            }
            if !(entry.deliver)() {
                if let Some(metrics) = &metrics {
                    metrics.refusal("timer");
                }
                let mut inner = self.inner.borrow_mut();
                let tick = elapsed_ticks(inner.epoch, now) + 1;
                inner.entries.insert((tick, serial), entry);
            }
        }
    }
}

fn tick_millis() -> u128 {
    TICK.as_millis().max(1)
}

fn tick_of(epoch: Instant, deadline: Instant) -> u64 {
    let millis = deadline
        .saturating_duration_since(epoch)
        .as_micros()
        .div_ceil(1_000);
    u64::try_from(millis.div_ceil(tick_millis())).unwrap_or(u64::MAX / 2)
}

fn elapsed_ticks(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis() / tick_millis()).unwrap_or(u64::MAX / 2)
}

fn time_of(epoch: Instant, tick: u64) -> Instant {
    let wait = TICK.saturating_mul(u32::try_from(tick).unwrap_or(u32::MAX));
    epoch
        .checked_add(wait)
        .unwrap_or_else(|| epoch + Duration::from_secs(86_400))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn counting(count: &Rc<Cell<u32>>) -> Deliver {
        let count = Rc::clone(count);
        Box::new(move || {
            count.set(count.get() + 1);
            true
        })
    }

    fn local(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn what_is_due_fires_once_and_what_was_taken_back_never() {
        local(async {
            let wheel = Wheel::new();
            let count = Rc::new(Cell::new(0));
            let now = Instant::now();
            let first = wheel.arm_with(now, counting(&count));
            wheel.arm_with(now, counting(&count));
            let later = wheel.arm_with(now + Duration::from_secs(3_600), counting(&count));
            wheel.disarm(first);
            std::thread::sleep(TICK * 2);
            wheel.fire();
            assert_eq!(count.get(), 1);
            assert_eq!(wheel.len(), 1);
            wheel.fire();
            assert_eq!(count.get(), 1);
            wheel.disarm(later);
            assert!(wheel.is_empty());
        });
    }

    #[test]
    fn a_full_mailbox_is_tried_again() {
        local(async {
            let wheel = Wheel::new();
            let attempts = Rc::new(Cell::new(0));
            let seen = Rc::clone(&attempts);
            wheel.arm_with(
                Instant::now(),
                Box::new(move || {
                    seen.set(seen.get() + 1);
                    seen.get() > 1
                }),
            );
            std::thread::sleep(TICK * 2);
            wheel.fire();
            assert_eq!((attempts.get(), wheel.len()), (1, 1));
            std::thread::sleep(TICK * 2);
            wheel.fire();
            assert_eq!((attempts.get(), wheel.len()), (2, 0));
        });
    }

    #[test]
    fn an_armed_wheel_wakes_by_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let wheel = Wheel::new();
            let (send, receive) = tokio::sync::oneshot::channel();
            let send = RefCell::new(Some(send));
            wheel.arm_with(Instant::now() + Duration::from_secs(3_600), Box::new(|| true));
            wheel.arm_with(
                Instant::now() + Duration::from_millis(5),
                Box::new(move || {
                    if let Some(send) = send.borrow_mut().take() {
                        let _ = send.send(());
                    }
                    true
                }),
            );
            tokio::time::timeout(Duration::from_secs(5), receive)
                .await
                .unwrap()
                .unwrap();
        });
    }
}
