//! What users say and send.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crypto::Random;
use esp::DropCounters;
use ike::SpiAllocator;
use ike::wire::Spi;

use crate::probe::Counts;

/// Start of an IKE message at port 4500 (RFC 3948 section 2.2).
pub(super) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Which port of the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Port {
    /// 500.
    Ike,
    /// 4500.
    Nat,
}

/// What a user sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// To which port.
    pub port: Port,
    /// The payload of the UDP datagram.
    pub bytes: Vec<u8>,
}

/// How far a user has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Logging in.
    Connecting,
    /// Logged in, with a child SA.
    Up,
    /// Login failed.
    Failed(Fault),
    /// Lost the connection after login.
    Lost(Fault),
    /// Logged out.
    Closed,
}

/// Why a user was not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// One of few words, for counting.
    pub kind: &'static str,
    /// Everything.
    pub detail: String,
}

/// What one user has to tell at the end.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its number.
    pub number: u32,
    /// How it ended.
    pub state: State,
    /// From the first message to the child SA.
    pub login: Option<Duration>,
    /// Its traffic.
    pub counts: Option<Counts>,
    /// ESP packets that it dropped.
    pub drops: DropCounters,
    /// Child SAs replaced.
    pub rekeys: u64,
    /// IKE requests sent again.
    pub retransmits: u64,
}

/// Something that happened to a user after its login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// A child SA was replaced.
    ChildRekeyed,
    /// The IKE SA was replaced.
    IkeRekeyed,
    /// An SA could not be replaced yet: in words.
    RekeyFailed(String),
    /// The gateway deleted a child SA that nothing replaces.
    ChildDeleted,
    /// Something else that is odd: in words.
    Odd(String),
}

/// What goes before an IKE message at port 4500; nothing before the single octet of a NAT keep-alive.
#[must_use]
pub fn marker(message: &[u8]) -> &'static [u8] {
    if message == [0xff] { &[] } else { &NON_ESP_MARKER }
}

/// SPIs at random: a user's inbound ones need to be unique for its own socket only.
pub(super) struct Spis(Mutex<Box<dyn Random>>);

impl Spis {
    /// SPIs from a source.
    pub(super) fn new(random: Box<dyn Random>) -> Self {
        Self(Mutex::new(random))
    }
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        Spi(self.0.lock().unwrap_or_else(PoisonError::into_inner).u64().max(1))
    }

    fn esp(&self, _worker: u8) -> u32 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .u32()
            .max(256)
    }

    fn release_esp(&self, _spi: u32) {}

    fn claim_esp(&self, _spi: u32) -> bool {
        true
    }
}
