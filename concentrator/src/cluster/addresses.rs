//! The slots' addresses on this node's interfaces: one thread that adds, announces, removes and watches over them.
//!
//! **Invariant:** an address is added only while packets may be carried, and never for a generation that was dropped.
//!
//! ```text
//!  up ──► add ──► announce, often at first, for 40 s ──► look every second: put back what somebody removed
//!  down ─► remove; again until it is gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::{SlotAddress, SlotTable};

/// When a new owner announces its addresses, after it has them. The last ones are for a network that was split: who asked
/// for the address while the old owner still answered, at most some ten seconds, would go on sending there until it
/// looks again, which takes a Linux host half a minute.
const ANNOUNCE: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1_200),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
];
/// Between two looks at what the interfaces have.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the links.
const LINKS: Duration = Duration::from_millis(100);

/// What the thread is told.
enum Order {
    Up {
        slot: u8,
        generation: u64,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Down {
        slot: u8,
        generation: u64,
    },
    Done(oneshot::Sender<()>),
    Check,
    Stop,
}

/// Told when the links of the service addresses go down or come up.
pub type OnLink = Box<dyn Fn(bool) + Send + Sync>;

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub struct Addresses {
    sender: Sender<Order>,
    /// How often an address was found missing and put back.
    pub put_back: Arc<AtomicU64>,
    linked: Arc<AtomicBool>,
}

impl Addresses {
    /// Starts the thread. First it removes what an earlier run has left on the interfaces; it has done so when this
    /// returns.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        slots: &[SlotTable],
        until: Arc<AtomicU64>,
    ) -> std::io::Result<(Self, Arc<std::sync::OnceLock<OnLink>>)> {
        let (sender, receiver) = channel();
        let put_back = Arc::new(AtomicU64::new(0));
        let on_link = Arc::new(std::sync::OnceLock::new());
        let linked = Arc::new(AtomicBool::new(true));
        let mut keeper = Keeper {
            slots: slots
                .iter()
                .map(|slot| (slot.id, Held::new(slot.addresses.clone())))
                .collect(),
            services: services(slots),
            until,
            announcements: Vec::new(),
            put_back: Arc::clone(&put_back),
            link: true,
            linked: Arc::clone(&linked),
            on_link: Arc::clone(&on_link),
            link_known: AtomicBool::new(false),
        };
        keeper.clear();
        std::thread::Builder::new()
            .name("addresses".to_owned())
            .spawn(move || keeper.run(&receiver))?;
        let this = Self {
            sender,
            put_back,
            linked,
        };
        Ok((this, on_link))
    }

    /// Puts a slot's addresses on the interfaces and announces them.
    ///
    /// # Errors
    /// In words: the system refuses, the time is over, or the generation was dropped.
    pub async fn up(&self, slot: u8, generation: u64) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let _ = self.sender.send(Order::Up {
            slot,
            generation,
            reply,
        });
        answer
            .await
            .unwrap_or_else(|_| Err("the node is ending".to_owned()))
    }

    /// Removes a slot's addresses; generations up to `generation` never come up again.
    pub fn down(&self, slot: u8, generation: u64) {
        let _ = self.sender.send(Order::Down { slot, generation });
    }

    /// Waits until what was ordered before is done.
    pub async fn done(&self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.sender.send(Order::Done(reply));
        let _ = answer.await;
    }

    /// Whether clients can reach the service addresses, as far as the links say.
    #[must_use]
    pub fn linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Looks at the interfaces soon.
    pub fn check(&self) {
        let _ = self.sender.send(Order::Check);
    }

    /// Removes everything and ends the thread.
    pub fn stop(&self) {
        let _ = self.sender.send(Order::Stop);
    }
}

/// The interfaces of the service addresses.
fn services(slots: &[SlotTable]) -> BTreeSet<String> {
    slots
        .iter()
        .flat_map(|slot| {
            let service = slot.service_addresses();
            slot.addresses
                .iter()
                .filter(move |address| service.contains(&address.net.addr()))
                .map(|address| address.interface.clone())
        })
        .collect()
}

/// One slot's addresses.
struct Held {
    addresses: Vec<SlotAddress>,
    /// The generation that they are up for.
    up: Option<u64>,
    /// The highest generation that was dropped.
    dropped: Option<u64>,
    /// Some could not be removed: to be tried again.
    stuck: bool,
}

impl Held {
    const fn new(addresses: Vec<SlotAddress>) -> Self {
        Self {
            addresses,
            up: None,
            dropped: None,
            stuck: false,
        }
    }

    fn remove(&mut self) {
        self.stuck = false;
        for address in &self.addresses {
            if let Err(error) = dataplane::addresses::remove(&plane(address))
                && dataplane::addresses::present(&plane(address)).unwrap_or(true)
            {
                self.stuck = true;
                tracing::error!(%address, %error, "an address cannot be removed");
            }
        }
    }
}

/// The thread's own.
struct Keeper {
    slots: BTreeMap<u8, Held>,
    services: BTreeSet<String>,
    until: Arc<AtomicU64>,
    /// When which slot's generation is announced.
    announcements: Vec<(Duration, u8, u64)>,
    put_back: Arc<AtomicU64>,
    link: bool,
    /// The same for others.
    linked: Arc<AtomicBool>,
    link_known: AtomicBool,
    on_link: Arc<std::sync::OnceLock<OnLink>>,
}

impl Keeper {
    /// Removes what an earlier run has left.
    fn clear(&mut self) {
        for held in self.slots.values_mut() {
            for address in &held.addresses {
                match dataplane::addresses::remove(&plane(address)) {
                    Ok(true) => tracing::warn!(%address, "removed an address that an earlier run has left"),
                    Ok(false) => {}
                    Err(error) => {
                        held.stuck = dataplane::addresses::present(&plane(address)).unwrap_or(false);
                        tracing::warn!(%address, %error, "an address cannot be looked at");
                    }
                }
            }
        }
    }

    fn run(mut self, receiver: &Receiver<Order>) {
        let mut looked = dataplane::boot_time();
        let mut links = Duration::ZERO;
        loop {
            let now = dataplane::boot_time();
            let next = self
                .announcements
                .iter()
                .map(|(at, ..)| *at)
                .chain([links + LINKS])
                .min()
                .unwrap_or(now);
            match receiver.recv_timeout(next.saturating_sub(now)) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    for held in self.slots.values_mut().filter(|held| held.up.is_some()) {
                        held.remove();
                    }
                    return;
                }
                Ok(order) => self.carry_out(order),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = dataplane::boot_time();
            self.announce(now);
            if now.saturating_sub(links) >= LINKS {
                links = now;
                self.links();
            }
            if now.saturating_sub(looked) >= LOOK {
                looked = now;
                self.look();
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Up {
                slot,
                generation,
                reply,
            } => {
                let result = self.up(slot, generation);
                let _ = reply.send(result);
            }
            Order::Down { slot, generation } => {
                self.announcements.retain(|(_, of, _)| *of != slot);
                if let Some(held) = self.slots.get_mut(&slot) {
                    held.dropped = held.dropped.max(Some(generation));
                    held.up = None;
                    held.remove();
                }
            }
            Order::Done(reply) => {
                let _ = reply.send(());
            }
            Order::Check => self.look(),
            Order::Stop => {}
        }
    }

    fn up(&mut self, slot: u8, generation: u64) -> Result<(), String> {
        let allowed = self.allowed();
        let held = self.slots.get_mut(&slot).ok_or("the slot is not in the table")?;
        if held.dropped >= Some(generation) {
            return Err(format!("generation {generation} was dropped meanwhile"));
        }
        if !allowed {
            return Err("the time up to which packets may be carried is over".to_owned());
        }
        let mut trouble = None;
        for address in &held.addresses {
            if let Err(error) = dataplane::addresses::add(&plane(address)) {
                trouble.get_or_insert(format!("{address}: {error}"));
            }
        }
        if let Some(trouble) = trouble {
            held.remove();
            return Err(trouble);
        }
        held.up = Some(generation);
        let now = dataplane::boot_time();
        self.announcements
            .extend(ANNOUNCE.iter().map(|after| (now + *after, slot, generation)));
        self.announce(now);
        Ok(())
    }

    fn announce(&mut self, now: Duration) {
        let mut due = Vec::new();
        self.announcements.retain(|(at, slot, generation)| {
            let is = *at <= now;
            if is {
                due.push((*slot, *generation));
            }
            !is
        });
        for (slot, generation) in due {
            let Some(held) = self.slots.get(&slot).filter(|held| held.up == Some(generation)) else {
                continue;
            };
            for address in &held.addresses {
                if let Err(error) = dataplane::addresses::announce(&plane(address)) {
                    tracing::warn!(%address, %error, "an address could not be announced");
                }
            }
        }
    }

    /// Puts back what somebody removed; removes what would not go.
    fn look(&mut self) {
        let allowed = self.allowed();
        for (slot, held) in &mut self.slots {
            if held.stuck && held.up.is_none() {
                held.remove();
            }
            let Some(generation) = held.up.filter(|_| allowed) else {
                continue;
            };
            let mut missing = false;
            for address in &held.addresses {
                match dataplane::addresses::add(&plane(address)) {
                    Ok(true) => missing = true,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%address, %error, "an address that is missing cannot be put back")
                    }
                }
            }
            if missing {
                self.put_back.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(slot, "addresses of the slot were missing and are back");
                let now = dataplane::boot_time();
                self.announcements.push((now, *slot, generation));
                self.announcements
                    .push((now + Duration::from_millis(200), *slot, generation));
            }
        }
    }

    /// The service links count as up while one of them has a carrier or none can be asked.
    fn links(&mut self) {
        let mut asked = 0;
        let mut up = false;
        for interface in &self.services {
            if let Ok(carrier) = dataplane::addresses::carrier(interface) {
                asked += 1;
                up |= carrier;
            }
        }
        let up = up || (asked == 0 && self.services.is_empty());
        self.linked.store(up, Ordering::Release);
        let first = !self.link_known.load(Ordering::Relaxed);
        if (first || up != self.link)
            && let Some(tell) = self.on_link.get()
        {
            self.link = up;
            self.link_known.store(true, Ordering::Relaxed);
            tell(up);
        }
    }

    fn allowed(&self) -> bool {
        let until = Duration::from_nanos(self.until.load(Ordering::Acquire));
        dataplane::boot_time() < until
    }
}

fn plane(address: &SlotAddress) -> dataplane::Address {
    dataplane::Address {
        net: address.net,
        interface: address.interface.clone(),
    }
}
