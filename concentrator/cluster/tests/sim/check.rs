//! The invariants, over everything that happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub faults: Vec<String>,
    pub inputs: u64,
    pub serves: u64,
    pub claims: u64,
    pub handed_over: u64,
    pub thaws: u64,
    pub refences: u64,
    pub epochs: u64,
    pub deadlines: u64,
    pub statics: u64,
    pub packets: u64,
    pub exchanges: u64,
    pub logins: u64,
    pub relogins: u64,
    pub damped: u64,
    /// After healing: until everything was well.
    pub healed_after: Duration,
}

/// Watches for what may never happen. The first violation stays.
#[derive(Debug, Default)]
pub struct Checker {
    pub violation: Option<String>,
    /// (key, generation, counter) of every packet.
    ivs: HashSet<(u64, u16, u64)>,
    /// (slot, generation) → who served it.
    served: HashMap<(u8, u64), String>,
    /// (process, slot) → highest generation that it has put down.
    dropped: HashMap<(String, u8), u64>,
    /// Highest generation that was ever committed, over all restores.
    committed: BTreeMap<u8, u64>,
    /// (client, (store, session), message ID) → answer. What a restored store has forgotten is answered anew.
    answers: HashMap<(usize, (u64, u64), u64), u64>,
}

impl Checker {
    pub fn fail(&mut self, now: Duration, what: String) {
        self.violation
            .get_or_insert(format!("at {:.4} s: {what}", now.as_secs_f64()));
    }

    /// S1.
    pub fn packet(&mut self, now: Duration, node: &str, key: u64, generation: u64, counter: u64) {
        let short = (generation & 0xffff) as u16;
        if !self.ivs.insert((key, short, counter)) {
            self.fail(
                now,
                format!("S1: {node} used key {key:x} generation {generation} counter {counter} again"),
            );
        }
    }

    /// S3: no two processes serve the same generation.
    pub fn served(&mut self, now: Duration, process: &str, slot: u8, generation: u64) {
        let first = self
            .served
            .entry((slot, generation))
            .or_insert_with(|| process.to_owned())
            .clone();
        if first != process {
            self.fail(
                now,
                format!("S3: {first} and {process} both held slot {slot} with generation {generation}"),
            );
        }
        let dropped = self.dropped.get(&(process.to_owned(), slot)).copied();
        if dropped >= Some(generation) {
            self.fail(
                now,
                format!("order: {process} serves slot {slot} with generation {generation} after it has put down {dropped:?}"),
            );
        }
    }

    /// The shell never serves this generation again: its addresses do not come up for it.
    pub fn dropped(&mut self, process: &str, slot: u8, generation: u64) {
        let highest = self.dropped.entry((process.to_owned(), slot)).or_default();
        *highest = (*highest).max(generation);
    }

    /// S3: generations rise, over restores too.
    pub fn committed(&mut self, now: Duration, slot: u8, generation: u64) {
        let highest = self.committed.entry(slot).or_default();
        let before = *highest;
        *highest = before.max(generation);
        if generation <= before {
            self.fail(
                now,
                format!("S3: slot {slot} got generation {generation} after {before}"),
            );
        }
    }

    /// S5: a request is answered in one way.
    pub fn answered(&mut self, now: Duration, client: usize, session: (u64, u64), id: u64, answer: u64) {
        let first = *self.answers.entry((client, session, id)).or_insert(answer);
        if first != answer {
            self.fail(
                now,
                format!("S5: client {client} got two answers to request {id} of session {session:x?}"),
            );
        }
    }
}
