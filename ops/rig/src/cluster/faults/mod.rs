//! What can go wrong, each fault as a function that breaks something, mends it again, and says whom it hit.

pub mod backup;
pub mod machine;
pub mod network;
pub mod peers;
pub mod planned;
pub mod process;
pub mod split;
pub mod store;
pub mod traffic;

use super::scene::Scene;
use crate::Result;

/// Pseudo-random numbers: the same seed gives the same run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `limit` (0 for a limit of 0).
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33)
            .unwrap_or(0)
            .checked_rem(limit)
            .unwrap_or(0)
    }

    /// One of a list.
    pub fn choose<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

/// The bar that a fault's silences are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A process was killed: 0.7 s.
    Killed,
    /// A node or its link died: 1 s.
    Died,
    /// The leader of etcd died with the node: 3 s.
    WithLeader,
    /// A planned hand-over: 0.1 s.
    Planned,
    /// Nobody may notice; what is below the generator's threshold counts as nothing. 0.25 s, for a busy machine.
    Unnoticed,
    /// No bar for the silence: afterwards all must be well again.
    Recovers,
}

impl Class {
    /// Milliseconds that the 99th of a hundred flows may be silent.
    pub fn bar_ms(self) -> Option<f64> {
        match self {
            Self::Killed => Some(700.0),
            Self::Died => Some(1000.0),
            Self::WithLeader => Some(3000.0),
            Self::Planned => Some(100.0),
            Self::Unnoticed => Some(250.0),
            Self::Recovers => None,
        }
    }
}

/// Whom a fault has hit.
#[derive(Debug, Clone, Default)]
pub struct Hit {
    /// Slots whose flows are held to the bar; flows of the others are to be spared.
    pub slots: Vec<u8>,
    /// What was done to whom, in words.
    pub note: String,
    /// What was wrong, seen by the fault itself.
    pub wrong: Vec<String>,
    /// Whether flows of other slots are spared (not so where the network itself is bad).
    pub spares_others: bool,
}

impl Hit {
    /// The flows of these slots are held to the bar, the others must not notice.
    pub fn slots(slots: Vec<u8>, note: String) -> Self {
        Self {
            slots,
            note,
            wrong: Vec::new(),
            spares_others: true,
        }
    }

    /// Everybody is hit alike.
    pub fn all(scene: &Scene, note: String) -> Self {
        Self {
            slots: (0..scene.world.plan.slots).collect(),
            note,
            wrong: Vec::new(),
            spares_others: false,
        }
    }
}

/// What breaks something and mends it again.
pub type Run = fn(&mut Scene, &mut Random) -> Result<Hit>;

/// A fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name on the command line.
    pub name: &'static str,
    /// What has to happen.
    pub expected: &'static str,
    /// Its bar.
    pub class: Class,
    /// Breaks and mends.
    pub run: Run,
    /// Whether it takes longer than a minute, or much of the machine: only on demand.
    pub long: bool,
}

/// All faults.
pub fn all() -> Vec<Fault> {
    [
        process::FAULTS,
        split::FAULTS,
        network::FAULTS,
        store::FAULTS,
        backup::FAULTS,
        planned::FAULTS,
        machine::FAULTS,
        peers::FAULTS,
        traffic::FAULTS,
    ]
    .concat()
}

/// The fault of a name.
pub fn named(name: &str) -> Result<Fault> {
    all()
        .into_iter()
        .find(|f| f.name == name)
        .ok_or_else(|| anyhow::anyhow!("no fault {name:?}; chaos --list tells their names"))
}

/// A slot with its owner and all slots of that owner, by chance.
fn victim(scene: &Scene, random: &mut Random) -> Result<(usize, Vec<u8>)> {
    let slot = u8::try_from(random.below(usize::from(scene.world.plan.slots)))?;
    let node = scene.owner(slot)?;
    Ok((node, scene.slots_of(node)))
}
