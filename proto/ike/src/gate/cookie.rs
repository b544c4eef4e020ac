//! Cookies that need no state (RFC 7296 section 2.6): a version octet and a MAC over nonce, address and SPI.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crypto::{Integrity, MacKey, Random};

use crate::wire::Spi;

const MAC_OCTETS: usize = 16;

/// Secrets that make and check cookies.
pub(super) struct Cookies {
    random: Box<dyn Random>,
    lifetime: Duration,
    since: Instant,
    version: u8,
    current: MacKey,
    previous: Option<MacKey>,
}

impl Cookies {
    pub(super) fn new(now: Instant, lifetime: Duration, mut random: Box<dyn Random>) -> Self {
        let current = fresh(&mut *random);
        let [version] = octets(&mut *random);
        Self {
            random,
            lifetime,
            since: now,
            version,
            current,
            previous: None,
        }
    }

    /// Changes the secret when its time is over; the one before stays valid for one more lifetime.
    pub(super) fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < self.lifetime {
            return;
        }
        //= rfc7296#section-2.6
        //# The responder should not accept cookies indefinitely after <secret> is changed, since that would defeat part of the DoS protection.
        let retired = std::mem::replace(&mut self.current, fresh(&mut *self.random));
        self.previous = (age < self.lifetime * 2).then_some(retired);
        self.version = self.version.wrapping_add(1);
        self.since = now;
    }

    /// The cookie of a request: `VersionIDofSecret | MAC(secret, Ni | IPi | SPIi)`.
    pub(super) fn make(&self, from: IpAddr, spi_i: Spi, nonce: &[u8]) -> Vec<u8> {
        let mut cookie = vec![self.version; 1 + MAC_OCTETS];
        let signed = match cookie.get_mut(1..) {
            Some(mac) => with_parts(from, spi_i, nonce, |parts| self.current.sign(parts, mac)),
            None => false,
        };
        debug_assert!(signed, "the MAC has the length of its field");
        cookie
    }

    /// Whether a request came with the cookie that was made for it.
    pub(super) fn check(&self, cookie: &[u8], from: IpAddr, spi_i: Spi, nonce: &[u8]) -> bool {
        let Some((version, mac)) = cookie.split_first() else {
            return false;
        };
        let key = if *version == self.version {
            Some(&self.current)
        } else if *version == self.version.wrapping_sub(1) {
            self.previous.as_ref()
        } else {
            None
        };
        key.is_some_and(|key| with_parts(from, spi_i, nonce, |parts| key.verify(parts, mac)))
    }
}

/// Calls `f` with the octets that a cookie vouches for. The address is written as IPv6, so that every field but the nonce
/// has a fixed length.
fn with_parts<T>(from: IpAddr, spi_i: Spi, nonce: &[u8], f: impl FnOnce(&[&[u8]]) -> T) -> T {
    let address = match from {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    f(&[nonce, &address.octets(), &spi_i.to_bytes()])
}

fn fresh(random: &mut dyn Random) -> MacKey {
    MacKey::new(Integrity::HmacSha256_128, &octets::<32>(random))
}

fn octets<const N: usize>(random: &mut dyn Random) -> [u8; N] {
    let mut octets = [0; N];
    random.fill(&mut octets);
    octets
}
