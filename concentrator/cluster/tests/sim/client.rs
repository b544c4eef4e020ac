//! Clients: they log in, ask, ask again, and count what comes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::world::{What, World};

/// Between two tries of a request.
const AGAIN: Duration = Duration::from_millis(300);
/// After so long without an answer a client logs in anew.
const PATIENCE: Duration = Duration::from_secs(8);

/// A session as its gateway knows and writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: u64,
    pub client: usize,
    /// The last request and its answer.
    pub request: u64,
    pub answer: u64,
    pub key: u64,
    pub address: u64,
    /// Counters below this may be used…
    pub ceiling: u64,
    /// …as was written under this generation.
    pub ceiling_generation: u64,
}

impl Session {
    pub fn read(octets: &[u8]) -> Option<Self> {
        postcard::from_bytes(octets).ok()
    }

    pub fn write(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Client {
    pub slot: u8,
    /// The session; 0: not logged in.
    pub session: u64,
    /// The request that waits for its answer, since when, or none.
    pub request: u64,
    pub since: Option<Duration>,
    pub answered: Duration,
    pub received: Duration,
    pub logged_in: bool,
    next: Duration,
}

impl Client {
    pub fn new(slot: u8) -> Self {
        Self {
            slot,
            session: 0,
            request: 0,
            since: None,
            answered: Duration::ZERO,
            received: Duration::ZERO,
            logged_in: false,
            next: Duration::ZERO,
        }
    }
}

impl World {
    /// A client's next step.
    pub fn client(&mut self, index: usize) {
        self.after(AGAIN, What::Client(index));
        let (now, fresh) = (self.now, self.random.next() | 1);
        let client = &mut self.clients[index];
        match client.since {
            None if now < client.next => return,
            None => {
                client.since = Some(now);
                if client.session == 0 {
                    (client.session, client.request, client.logged_in) = (fresh, 0, false);
                } else {
                    client.request += 1;
                }
            }
            Some(since) if now >= since + PATIENCE => {
                // The tunnel is lost: a new one.
                self.report.relogins += 1;
                (client.session, client.request, client.logged_in) = (fresh, 0, false);
                client.since = Some(now);
            }
            Some(_) => {}
        }
        let (slot, session, request) = (client.slot, client.session, client.request);
        if let Some(node) = self.node_at(slot) {
            self.request(node, slot, index, session, request);
        }
    }

    /// Who has a slot's address, as the switches believe: the latest who announced it and still has it.
    pub fn node_at(&self, slot: u8) -> Option<usize> {
        let holders = self.addresses.get(&slot)?;
        let (node, _) = holders.iter().rev().find(|(node, _)| self.nodes[*node].service)?;
        self.nodes[*node].paused.is_none().then_some(*node)
    }

    /// An answer comes.
    pub fn answer(&mut self, index: usize, store: u64, session: u64, id: u64, answer: u64) {
        self.trace(|| format!("client {index} gets {answer:x} to request {id} of {session:x}"));
        self.checker
            .answered(self.now, index, (store, session), id, answer);
        let (now, pause) = (self.now, self.random.ms(100.0, 900.0));
        let client = &mut self.clients[index];
        if client.session == session && client.request == id && client.since.take().is_some() {
            client.answered = now;
            client.next = now + pause;
            if !client.logged_in {
                client.logged_in = true;
                self.report.logins += 1;
            }
            self.report.exchanges += 1;
        }
    }
}
