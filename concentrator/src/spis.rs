//! SPIs: unpredictable, unique, and such that they tell where a packet belongs.
//!
//! ```text
//! ESP   worker (3) | random (29)               on a single node
//!       worker (3) | slot (7) | random (22)    in a cluster
//! IKE   random (64)                            on a single node
//!       slot (8) | random (56)                 in a cluster
//! ```

use std::sync::Mutex;
use std::sync::PoisonError;

use crypto::{Random as _, SystemRandom};
use dashmap::DashSet;
use ike::SpiAllocator;
use ike::wire::Spi;

/// SPIs 1 to 255 are reserved (RFC 4303 section 2.1).
const ESP_SPI_MIN: u32 = 256;
/// The bits of an ESP SPI below those of the worker.
const ESP_LOW_BITS: u32 = u32::MAX >> dataplane::WORKER_BITS;

/// Hands out SPIs. At most one for each live SA is taken.
pub struct Spis {
    slot: Option<u8>,
    esp: DashSet<u32>,
    random: Mutex<SystemRandom>,
}

impl Spis {
    /// None is taken.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slot: None,
            esp: DashSet::new(),
            random: Mutex::new(SystemRandom),
        }
    }

    /// None is taken; the slot's number stands in each.
    #[must_use]
    pub fn of_slot(slot: u8) -> Self {
        Self {
            slot: Some(slot),
            ..Self::new()
        }
    }

    /// How many ESP SPIs are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.esp.len()
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut octets = [0; N];
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill(&mut octets);
        octets
    }
}

/// Claims of an actor's successor: what the dead one held is its own.
pub struct Reclaim(pub std::sync::Arc<Spis>);

impl SpiAllocator for Reclaim {
    fn ike(&self) -> Spi {
        self.0.ike()
    }

    fn esp(&self, worker: u8) -> u32 {
        self.0.esp(worker)
    }

    fn release_esp(&self, spi: u32) {
        self.0.release_esp(spi);
    }

    fn claim_esp(&self, spi: u32) -> bool {
        self.0.claim_esp(spi);
        true
    }
}

impl Default for Spis {
    fn default() -> Self {
        Self::new()
    }
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        loop {
            let mut octets: [u8; 8] = self.random();
            if let (Some(slot), [first, ..]) = (self.slot, &mut octets) {
                *first = slot;
            }
            let spi = u64::from_be_bytes(octets);
            if spi != 0 {
                return Spi(spi);
            }
        }
    }

    fn esp(&self, worker: u8) -> u32 {
        let (mut high, mut low) = (
            u32::from(worker) << (u32::BITS - dataplane::WORKER_BITS),
            ESP_LOW_BITS,
        );
        if let Some(slot) = self.slot {
            high |= u32::from(slot) << (u32::BITS - dataplane::WORKER_BITS - dataplane::SLOT_BITS);
            low >>= dataplane::SLOT_BITS;
        }
        loop {
            let spi = high | (u32::from_be_bytes(self.random()) & low);
            if spi >= ESP_SPI_MIN && self.esp.insert(spi) {
                return spi;
            }
        }
    }

    fn release_esp(&self, spi: u32) {
        self.esp.remove(&spi);
    }

    fn claim_esp(&self, spi: u32) -> bool {
        spi >= ESP_SPI_MIN && self.esp.insert(spi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn esp_spis_name_their_worker_and_are_taken_once() {
        let spis = Spis::new();
        for worker in 0..8 {
            let spi = spis.esp(worker);
            assert_eq!(dataplane::worker_of_spi(spi), worker);
            assert!(spi >= ESP_SPI_MIN);
            assert!(!spis.claim_esp(spi));
        }
        assert_eq!(spis.taken(), 8);
        let spi = spis.esp(3);
        spis.release_esp(spi);
        assert!(spis.claim_esp(spi));
        assert!(!spis.claim_esp(255));
    }

    #[test]
    fn a_successor_claims_what_is_taken() {
        let spis = std::sync::Arc::new(Spis::new());
        let spi = spis.esp(1);
        assert!(!spis.claim_esp(spi));
        assert!(Reclaim(std::sync::Arc::clone(&spis)).claim_esp(spi));
        assert_eq!(spis.taken(), 1);
    }

    #[test]
    fn spis_of_a_slot_name_it() {
        for slot in [0, 1, 77, 127] {
            let spis = Spis::of_slot(slot);
            let esp = spis.esp(5);
            assert_eq!(dataplane::worker_of_spi(esp), 5);
            assert_eq!(dataplane::slot_of_spi(esp), slot);
            assert_eq!(spis.ike().0.to_be_bytes().first(), Some(&slot));
        }
    }

    #[test]
    fn ike_spis_are_never_zero() {
        let spis = Spis::new();
        assert_ne!(spis.ike(), Spi(0));
        assert_ne!(spis.ike(), spis.ike());
    }
}
