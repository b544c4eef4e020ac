//! What can happen in the world, and when.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use cluster::Input;
use store::{LeaseId, StoreError, Txn, TxnOutcome};

use crate::shell::Job;

/// What a node asks the store.
#[derive(Clone, Debug)]
pub enum Request {
    Txn { from: Asker, txn: Txn },
    Grant { sent: Duration },
    Keep { lease: LeaseId, sent: Duration },
    Revoke { lease: LeaseId },
    List { slot: u8, generation: u64 },
}

/// Who wants the answer.
#[derive(Clone, Debug)]
pub enum Asker {
    Core(u64),
    Shell(Job),
}

/// What happens next.
#[derive(Clone, Debug)]
pub enum What {
    Datagram {
        to: usize,
        from: SocketAddr,
        bytes: Rc<Vec<u8>>,
    },
    Timer {
        node: usize,
    },
    Input {
        node: usize,
        life: u32,
        input: Input,
    },
    Follow {
        node: usize,
        life: u32,
        follower: u64,
        input: Input,
    },
    Arrive {
        node: usize,
        life: u32,
        id: u64,
        request: Request,
    },
    GiveUp {
        node: usize,
        life: u32,
        id: u64,
    },
    TxnDone {
        node: usize,
        life: u32,
        from: Asker,
        txn: Txn,
        outcome: Result<TxnOutcome, StoreError>,
    },
    /// A later try finds out what a lost answer said, if the store is still the same.
    FoundOut {
        node: usize,
        identity: u64,
        done: Box<What>,
    },
    Listed {
        node: usize,
        life: u32,
        slot: u8,
        generation: u64,
        records: Option<Vec<Vec<u8>>>,
    },
    Up {
        node: usize,
        life: u32,
        slot: u8,
        generation: u64,
    },
    Client(usize),
    Answer {
        client: usize,
        store: u64,
        session: u64,
        id: u64,
        answer: u64,
    },
    Packets,
    Store,
    Fault(usize),
    Heal(usize),
    Boot {
        node: usize,
    },
}

/// When it happens; in the order of making where at the same time.
pub struct Event {
    pub at: Duration,
    pub order: u64,
    pub what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
