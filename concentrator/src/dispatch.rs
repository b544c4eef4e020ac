//! From a datagram to the actor of its IKE SA: a function over two maps, not an actor.
//!
//! Only SPIs that this node has chosen are keys: a peer cannot take another's place by choosing its SPI.

use std::net::SocketAddr;

use actix::Addr;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use ike::wire::Spi;

use crate::actors::IkeSaActor;

/// Names an IKE SA before its initiator knows our SPI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Opening {
    /// The initiator's SPI.
    pub spi_i: Spi,
    /// Where it called.
    pub local: SocketAddr,
    /// Where from.
    pub remote: SocketAddr,
}

/// The two maps. Their size is bounded by the limits of half-open and of established SAs.
#[derive(Default)]
pub struct Dispatch {
    by_spi: DashMap<Spi, Addr<IkeSaActor>>,
    openings: DashMap<Opening, Addr<IkeSaActor>>,
}

impl Dispatch {
    /// The actor that owns our SPI `spi`.
    #[must_use]
    pub fn find(&self, spi: Spi) -> Option<Addr<IkeSaActor>> {
        self.by_spi.get(&spi).map(|found| found.clone())
    }

    /// The actor of a set-up.
    #[must_use]
    pub fn opening(&self, key: &Opening) -> Option<Addr<IkeSaActor>> {
        self.openings.get(key).map(|found| found.clone())
    }

    /// Enters an actor under our SPI, in the place of its predecessor.
    pub fn enter(&self, spi: Spi, addr: Addr<IkeSaActor>) {
        self.by_spi.insert(spi, addr);
    }

    /// Enters an actor under its set-up; false when there is one already.
    pub fn enter_opening(&self, key: Opening, addr: Addr<IkeSaActor>) -> bool {
        match self.openings.entry(key) {
            Entry::Occupied(mut taken) if !taken.get().connected() => {
                taken.insert(addr);
                true
            }
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(addr);
                true
            }
        }
    }

    /// Forgets our SPI, unless another actor has taken it over.
    pub fn leave(&self, spi: Spi, addr: &Addr<IkeSaActor>) {
        self.by_spi.remove_if(&spi, |_, entered| entered == addr);
    }

    /// Forgets a set-up.
    pub fn leave_opening(&self, key: &Opening, addr: &Addr<IkeSaActor>) {
        self.openings.remove_if(key, |_, entered| entered == addr);
    }

    /// SPIs and set-ups that are entered.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.by_spi.len(), self.openings.len())
    }

    /// Whether nothing is entered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }
}
