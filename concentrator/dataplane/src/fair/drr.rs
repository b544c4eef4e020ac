//! Deficit round robin over sources that are read one burst at a time: sockets of local addresses, TUN queues of tenants.
//!
//! What a read brings is known only afterwards, and it may be one packet of 60 octets or a burst of 64 KiB. So a source is
//! read while its deficit is above zero and charged what came; its overdraft, at most one read, is what it begins its next
//! round with. Over any time, two sources that both have something to read differ by at most a quantum and a read.
//!
//! Nothing is queued here: what a source may not deliver yet waits in the kernel, in a queue of its own, and is dropped
//! there when that is full, before it has cost the worker anything.

use std::collections::VecDeque;

/// What a source may deliver in a round, in [`cost`] units.
pub(crate) const QUANTUM: i64 = 64 << 10;
/// What a read costs beside its octets: about what a call into the kernel takes, in octets that are sealed meanwhile.
const READ: i64 = 4 << 10;

/// The cost of a read of so many octets.
pub(crate) fn cost(octets: usize) -> i64 {
    READ + i64::try_from(octets).unwrap_or(i64::MAX - READ)
}

#[derive(Clone, Copy, Debug)]
struct Source<T> {
    name: T,
    deficit: i64,
    is_ready: bool,
}

/// The sources that have something, in turns.
#[derive(Debug)]
pub(crate) struct Drr<T> {
    /// The first one is being read.
    ring: VecDeque<Source<T>>,
    /// Those at the front that were left over by the last turn: they go on where they were. Usually none.
    left_over: usize,
    begun: usize,
}

impl<T: Copy + PartialEq> Drr<T> {
    pub(crate) fn new() -> Self {
        Self {
            ring: VecDeque::new(),
            left_over: 0,
            begun: 0,
        }
    }

    /// A turn begins: which sources have something is to be told again.
    pub(crate) fn clear(&mut self) {
        self.left_over = self.ring.len();
        for source in &mut self.ring {
            source.is_ready = false;
        }
    }

    /// A source has something; each is told once a turn.
    pub(crate) fn push(&mut self, name: T) {
        let known = self.ring.iter_mut().take(self.left_over);
        if let Some(source) = known.into_iter().find(|source| source.name == name) {
            source.is_ready = true;
            return;
        }
        self.ring.push_back(Source {
            name,
            deficit: QUANTUM,
            is_ready: true,
        });
    }

    /// All are known. Begins with another one each time, unless the last turn has ended in the middle of a round. Who ran
    /// dry owes nothing, and has saved nothing.
    pub(crate) fn begin(&mut self) {
        self.begun = self.begun.wrapping_add(1);
        if self.left_over > 0 {
            self.ring.retain(|source| source.is_ready);
        } else if !self.ring.is_empty() {
            self.ring.rotate_left(self.begun % self.ring.len());
        }
    }

    /// The source to read from. A single one is read without a break.
    pub(crate) fn next(&mut self) -> Option<T> {
        // Whoever owes more than a quantum sits out several rounds; nobody owes more than a read.
        for _ in 0..=self.ring.len().saturating_mul(4) {
            let front = self.ring.front_mut()?;
            if front.deficit > 0 {
                break;
            }
            front.deficit += QUANTUM;
            self.ring.rotate_left(1);
        }
        self.ring.front().map(|source| source.name)
    }

    /// The source given last has delivered something of that cost.
    pub(crate) fn charge(&mut self, cost: i64) {
        if let Some(front) = self.ring.front_mut() {
            front.deficit = front.deficit.saturating_sub(cost);
        }
    }

    /// The source given last has nothing more.
    pub(crate) fn exhausted(&mut self) {
        self.ring.pop_front();
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads of the given sizes wait at each source; turns of `budget` reads each, `turns` of them. Gives the cost that each
    /// source has delivered, and how often nothing was read although something waited.
    fn serve(waiting: &[Vec<usize>], budget: usize, turns: usize) -> (Vec<i64>, usize) {
        let mut drr = Drr::new();
        let mut at = vec![0; waiting.len()];
        let mut got = vec![0; waiting.len()];
        let mut idle = 0;
        for _ in 0..turns {
            drr.clear();
            for source in 0..waiting.len() {
                if at[source] < waiting[source].len() {
                    drr.push(source);
                }
            }
            drr.begin();
            let mut left = budget;
            while left > 0 {
                let Some(source) = drr.next() else { break };
                match waiting[source].get(at[source]) {
                    Some(octets) => {
                        at[source] += 1;
                        got[source] += cost(*octets);
                        drr.charge(cost(*octets));
                        left -= 1;
                    }
                    None => drr.exhausted(),
                }
            }
            let is_left = at.iter().zip(waiting).any(|(at, all)| *at < all.len());
            idle += usize::from(is_left && left > 0);
        }
        (got, idle)
    }

    #[test]
    fn a_flood_of_bursts_does_not_starve_single_packets() {
        let (got, _) = serve(&[vec![60_000; 10_000], vec![100; 10_000]], 32, 100);
        let ratio = got[0] as f64 / got[1] as f64;
        assert!((0.9..1.1).contains(&ratio), "{got:?}");
    }

    #[test]
    fn a_source_alone_is_read_without_a_break() {
        let (got, idle) = serve(&[vec![60_000; 320]], 32, 10);
        assert_eq!((got[0], idle), (320 * cost(60_000), 0));
    }

    #[test]
    fn each_turn_begins_with_another_source_when_all_run_dry() {
        let mut drr = Drr::new();
        let mut first = Vec::new();
        for _ in 0..6 {
            drr.clear();
            (0..3).for_each(|source| drr.push(source));
            drr.begin();
            first.extend(drr.next());
            (0..3).for_each(|_| drr.exhausted());
        }
        assert_eq!(first, [1, 2, 0, 1, 2, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn those_with_a_backlog_get_the_same_and_no_turn_is_wasted(
            sizes in prop::collection::vec(prop::collection::vec(1usize..65_000, 1..6), 2..6),
            small in 0usize..40,
            budget in 8usize..64,
        ) {
            // Everybody has a backlog that lasts, except the last one.
            let mut waiting: Vec<Vec<usize>> = sizes
                .iter()
                .map(|few| few.iter().copied().cycle().take(20_000).collect())
                .collect();
            waiting.push(vec![1_000; small]);
            let (got, idle) = serve(&waiting, budget, 200);
            prop_assert_eq!(idle, 0);
            let (others, last) = got.split_at(got.len() - 1);
            let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
            // A quantum and the largest read, at each end of the time.
            prop_assert!(most - least <= 2 * (QUANTUM + cost(65_000)), "{got:?}");
            // Whoever wants little gets all of it.
            prop_assert_eq!(last[0], small as i64 * cost(1_000));
        }
    }
}
