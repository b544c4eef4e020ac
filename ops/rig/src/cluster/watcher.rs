//! Watches who has the service addresses, all the time: no address may stay on two live interfaces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::world::Eyes;

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Found {
    /// Longest time that a slot's address was on two nodes.
    longest: BTreeMap<u8, Duration>,
    /// Changes of hands, as (slot, node).
    moves: Vec<(u8, usize)>,
    looks: u64,
}

/// The watcher's thread.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Found>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts watching.
    pub fn start(eyes: Eyes) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let found = Arc::new(Mutex::new(Found::default()));
        let thread = std::thread::spawn({
            let (stop, found) = (Arc::clone(&stop), Arc::clone(&found));
            move || watch(&eyes, &stop, &found)
        });
        Self {
            stop,
            found,
            thread: Some(thread),
        }
    }

    /// Ends an interval: the longest double presence in it, in milliseconds, and how often an address changed hands.
    pub fn take(&self) -> (f64, usize) {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        let longest = found.longest.values().max().copied().unwrap_or_default();
        (longest.as_secs_f64() * 1e3, found.moves.len())
    }
}

fn watch(eyes: &Eyes, stop: &AtomicBool, found: &Mutex<Found>) {
    let mut double: BTreeMap<u8, Instant> = BTreeMap::new();
    let mut last: BTreeMap<u8, usize> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let holders = eyes.all_holders();
        {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.looks += 1;
            for (slot, nodes) in (0_u8..).zip(&holders) {
                if nodes.len() > 1 {
                    let since = *double.entry(slot).or_insert(now);
                    let longest = found.longest.entry(slot).or_default();
                    *longest = (*longest).max(now - since + INTERVAL);
                } else {
                    double.remove(&slot);
                }
                if let [node] = nodes.as_slice()
                    && last.insert(slot, *node).is_some_and(|before| before != *node)
                {
                    found.moves.push((slot, *node));
                }
            }
        }
        std::thread::sleep(INTERVAL);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
