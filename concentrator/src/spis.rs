//! SPIs: unpredictable, unique on this node, and for ESP with the worker in the top bits.

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
    esp: DashSet<u32>,
    random: Mutex<SystemRandom>,
}

impl Spis {
    /// None is taken.
    #[must_use]
    pub fn new() -> Self {
        Self {
            esp: DashSet::new(),
            random: Mutex::new(SystemRandom),
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
            let spi = u64::from_be_bytes(self.random());
            if spi != 0 {
                return Spi(spi);
            }
        }
    }

    fn esp(&self, worker: u8) -> u32 {
        let high = u32::from(worker) << (u32::BITS - dataplane::WORKER_BITS);
        loop {
            let spi = high | (u32::from_be_bytes(self.random()) & ESP_LOW_BITS);
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
    fn ike_spis_are_never_zero() {
        let spis = Spis::new();
        assert_ne!(spis.ike(), Spi(0));
        assert_ne!(spis.ike(), spis.ike());
    }
}
