//! Sending clients to another gateway (RFC 5685): whom, where to, how fast.
//!
//! ```text
//!  order of an operator ─┐                       ┌─► answer to IKE_SA_INIT   (new clients that follow)
//!  too many sessions ────┼─► Redirects ─ target ─┤
//!  another node has less ┘                       └─► INFORMATIONAL, paced    (sessions, by an order alone)
//! ```
//! Clients that do not follow are served on, and so is one that another gateway has sent here: see
//! [`ike::InitPolicy::redirect`].

pub mod orders;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ike::{GatewayId, GatewayIdError};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::actors;
use crate::config;
use crate::node::Node;

/// Gateways that one order or setting names.
pub const TARGETS_MAX: usize = 16;

/// Sessions looked at in one step.
const STEP: usize = 256;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a client may take to acknowledge, before its time begins: all retransmissions of a request.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
/// The word for what other nodes of the cluster serve.
const CLUSTER: &str = "cluster";

/// Where clients are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A service address of another node of the cluster.
    Cluster,
    /// This gateway.
    Gateway(GatewayId),
}

impl FromStr for Target {
    type Err = GatewayIdError;

    fn from_str(text: &str) -> Result<Self, GatewayIdError> {
        match text {
            CLUSTER => Ok(Self::Cluster),
            text => text.parse().map(Self::Gateway),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = GatewayIdError;

    fn try_from(text: String) -> Result<Self, GatewayIdError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str(CLUSTER),
            Self::Gateway(gateway) => gateway.fmt(f),
        }
    }
}

/// An operator's order. In force until the next one.
#[derive(Debug)]
pub struct Order {
    /// Where to, in turn.
    pub to: Vec<Target>,
    /// Clients with sessions a second; `None`: only new clients are sent.
    pub per_sec: Option<u32>,
}

impl Order {
    /// An order for new clients, and at a rate for those with sessions.
    #[must_use]
    pub fn new(to: Vec<Target>, per_sec: Option<u32>) -> Arc<Self> {
        Arc::new(Self { to, per_sec })
    }

    /// Where to, in words.
    #[must_use]
    pub fn places(&self) -> String {
        let places: Vec<String> = self.to.iter().map(ToString::to_string).collect();
        places.join(", ")
    }
}

/// Another node has fewer sessions: so many new clients may go there.
#[derive(Debug)]
pub struct Relief {
    /// Its service addresses.
    pub to: Vec<IpAddr>,
    left: AtomicU32,
}

impl Relief {
    /// `clients` to `to`.
    #[must_use]
    pub fn new(to: Vec<IpAddr>, clients: u32) -> Self {
        Self {
            to,
            left: AtomicU32::new(clients),
        }
    }
}

/// What came of an order for sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Clients that were told.
    pub told: usize,
    /// Those of them whose session is still here.
    pub left: usize,
    /// Clients that do not follow, or for whom there is no address of their family.
    pub staying: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { told, left, staying } = self;
        write!(
            f,
            "{told} clients were sent away, {left} of them are still here; {staying} cannot be sent"
        )
    }
}

/// Who is sent where. Nothing here waits but [`Redirects::sessions`].
pub struct Redirects {
    config: config::Redirect,
    order: ArcSwapOption<Order>,
    /// What other nodes of the cluster serve.
    others: ArcSwap<Vec<IpAddr>>,
    relief: ArcSwapOption<Relief>,
    turn: AtomicUsize,
    at_init: AtomicU64,
    in_session: AtomicU64,
}

impl Redirects {
    /// Nobody is sent before somebody says so.
    #[must_use]
    pub fn new(config: config::Redirect) -> Self {
        Self {
            config,
            order: ArcSwapOption::empty(),
            others: ArcSwap::default(),
            relief: ArcSwapOption::empty(),
            turn: AtomicUsize::new(0),
            at_init: AtomicU64::new(0),
            in_session: AtomicU64::new(0),
        }
    }

    /// An order is in force from here on, or none.
    pub fn order(&self, order: Option<Arc<Order>>) {
        self.order.store(order);
    }

    /// The order that is in force.
    #[must_use]
    pub fn ordered(&self) -> Option<Arc<Order>> {
        self.order.load_full()
    }

    /// Whether an order is in force still.
    #[must_use]
    pub fn in_force(&self, order: &Arc<Order>) -> bool {
        self.order
            .load()
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, order))
    }

    /// What the other nodes of the cluster serve, and whether one of them should relieve this one.
    pub fn cluster(&self, others: Vec<IpAddr>, relief: Option<Relief>) {
        self.others.store(Arc::new(others));
        self.relief.store(relief.map(Arc::new));
    }

    /// Where a new client that called `local` is to be sent, if it follows. `sessions`: how many the node has.
    #[must_use]
    pub fn at_init(&self, local: IpAddr, sessions: usize) -> Option<GatewayId> {
        if let Some(order) = self.order.load().as_ref() {
            return self.pick(&order.to, local);
        }
        let config = &self.config;
        if config.above_sessions > 0 && sessions >= config.above_sessions as usize {
            return self.pick(&config.to, local);
        }
        let relief = self.relief.load();
        let relief = relief
            .as_ref()
            .filter(|relief| relief.left.load(Ordering::Relaxed) > 0)?;
        self.choose(relief.to.iter().copied().map(GatewayId::from).collect(), local)
    }

    /// A new client was sent.
    pub fn sent_at_init(&self) {
        self.at_init.fetch_add(1, Ordering::Relaxed);
        if let Some(relief) = self.relief.load().as_ref() {
            let one_less = |left: u32| left.checked_sub(1);
            let _ = relief
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
    }

    /// Clients that were sent at IKE_SA_INIT, and out of sessions.
    #[must_use]
    pub fn counts(&self) -> [u64; 2] {
        [
            self.at_init.load(Ordering::Relaxed),
            self.in_session.load(Ordering::Relaxed),
        ]
    }

    fn pick(&self, targets: &[Target], local: IpAddr) -> Option<GatewayId> {
        let mut gateways = Vec::new();
        for target in targets {
            match target {
                Target::Gateway(gateway) => gateways.push(gateway.clone()),
                Target::Cluster => gateways.extend(self.others.load().iter().copied().map(GatewayId::from)),
            }
        }
        self.choose(gateways, local)
    }

    /// One of the gateways that a client which called `local` can reach, as far as is known; never the one it has called.
    fn choose(&self, mut gateways: Vec<GatewayId>, local: IpAddr) -> Option<GatewayId> {
        gateways.retain(|gateway| match gateway {
            GatewayId::V4(address) => local.is_ipv4() && IpAddr::from(*address) != local,
            GatewayId::V6(address) => local.is_ipv6() && IpAddr::from(*address) != local,
            GatewayId::Fqdn(_) => true,
        });
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(gateways.len())?;
        gateways.into_iter().nth(index)
    }

    /// Tells the clients of all sessions, at the order's rate, and waits until they are gone or have had their time. Ends
    /// at once when another order comes. New sessions that come meanwhile are told, too.
    pub async fn sessions(node: &Node, order: &Arc<Order>) -> Outcome {
        let this = &node.redirects;
        let mut outcome = Outcome::default();
        let Some(per_sec) = order.per_sec else {
            return outcome;
        };
        let mut told = Vec::new();
        let mut cursor = None;
        let begun = Instant::now();
        loop {
            let page = node.sessions.page(cursor, STEP);
            let Some(last) = page.last() else { break };
            cursor = Some(last.facts.id);
            for session in page {
                let local = session.standing().local.ip();
                let to = this.pick(&order.to, local).filter(|_| session.follows());
                let (Some(to), Some(addr)) = (to, session.addr.load_full()) else {
                    outcome.staying += 1;
                    continue;
                };
                tokio::time::sleep_until(begun + due(told.len(), per_sec)).await;
                if !this.in_force(order) {
                    outcome.told = told.len();
                    outcome.left = remaining(node, &told);
                    return outcome;
                }
                addr.do_send(actors::Order(ike::Command::Redirect { to }));
                this.in_session.fetch_add(1, Ordering::Relaxed);
                node.metrics.redirected("session");
                told.push(session.facts.id);
            }
        }
        outcome.told = told.len();
        tracing::info!(
            told = outcome.told,
            staying = outcome.staying,
            "clients were told to go"
        );
        let until = Instant::now() + ACKNOWLEDGED + this.config.grace();
        loop {
            outcome.left = remaining(node, &told);
            if outcome.left == 0 || !this.in_force(order) || Instant::now() >= until {
                return outcome;
            }
            sleep(LOOK).await;
        }
    }
}

/// How many of the sessions are still here.
fn remaining(node: &Node, told: &[u64]) -> usize {
    told.iter().filter(|id| node.sessions.get(**id).is_some()).count()
}

/// When client number `count` may be told, after the first.
fn due(count: usize, per_sec: u32) -> Duration {
    Duration::from_secs(1).mul_f64(count as f64 / f64::from(per_sec.max(1)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn redirects(config: config::Redirect) -> Redirects {
        Redirects::new(config)
    }

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn gateway(text: &str) -> Option<GatewayId> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn nobody_is_sent_unless_somebody_says_so() {
        let redirects = redirects(config::Redirect::default());
        redirects.cluster(vec![ip("192.0.2.2")], None);
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 1_000_000), None);
    }

    #[test]
    fn a_client_is_sent_to_its_own_family_and_never_to_where_it_calls() {
        let redirects = redirects(config::Redirect::default());
        let to = targets(&["192.0.2.1", "2001:db8::2", "192.0.2.3"]);
        redirects.order(Some(Order::new(to, None)));
        for _ in 0..4 {
            assert_eq!(redirects.at_init(ip("192.0.2.1"), 0), gateway("192.0.2.3"));
            assert_eq!(redirects.at_init(ip("2001:db8::1"), 0), gateway("2001:db8::2"));
        }
        assert_eq!(
            redirects.at_init(ip("2001:db8::2"), 0),
            None,
            "it is there already"
        );
        // A host name has both, and several are taken in turn.
        redirects.order(Some(Order::new(targets(&["gw2.example", "192.0.2.3"]), None)));
        let mut found: Vec<_> = (0..2)
            .filter_map(|_| redirects.at_init(ip("192.0.2.1"), 0))
            .map(|gateway| gateway.to_string())
            .collect();
        found.sort();
        assert_eq!(found, ["192.0.2.3", "gw2.example"]);
        redirects.order(None);
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 0), None);
    }

    #[test]
    fn an_overloaded_node_sends_new_clients_on() {
        let redirects = redirects(config::Redirect {
            to: targets(&["cluster"]),
            above_sessions: 10,
            ..config::Redirect::default()
        });
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 10), None, "nobody else serves");
        redirects.cluster(vec![ip("192.0.2.2")], None);
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 9), None);
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 10), gateway("192.0.2.2"));
    }

    #[test]
    fn a_node_that_relieves_another_is_not_buried() {
        let redirects = redirects(config::Redirect::default());
        redirects.cluster(Vec::new(), Some(Relief::new(vec![ip("192.0.2.2")], 2)));
        for _ in 0..2 {
            // Whoever does not follow is not counted.
            assert_eq!(redirects.at_init(ip("192.0.2.1"), 0), gateway("192.0.2.2"));
            assert_eq!(redirects.at_init(ip("192.0.2.1"), 0), gateway("192.0.2.2"));
            redirects.sent_at_init();
        }
        assert_eq!(redirects.at_init(ip("192.0.2.1"), 0), None);
        assert_eq!(redirects.counts(), [2, 0]);
    }

    #[test]
    fn clients_are_told_at_the_rate() {
        assert_eq!(due(0, 50), Duration::ZERO);
        assert_eq!(due(1, 50), Duration::from_millis(20));
        assert_eq!(due(100, 50), Duration::from_secs(2));
        assert_eq!(due(3, 1), Duration::from_secs(3));
    }
}
