//! Cookies that need no state (RFC 7296 section 2.6): a version octet and a MAC over nonce, address and SPI.
//!
//! The secrets are either random and this gate's own, or derived, one for each step of the wall clock, from a secret that
//! several nodes share: then each of them accepts the cookies of all.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crypto::{Integrity, MacKey, Prf, Random, Secret};

use crate::wire::Spi;

const MAC_OCTETS: usize = 16;

/// What the shared secret is used for here.
const LABEL: &[u8] = b"ike cookie";

/// Secrets that make and check cookies.
pub(super) struct Cookies {
    lifetime: Duration,
    source: Source,
    version: u8,
    current: MacKey,
    previous: Option<MacKey>,
    /// Of a node whose clock is ahead.
    next: Option<MacKey>,
}

/// Where secrets come from.
enum Source {
    /// Drawn here; this one since then.
    Own { random: Box<dyn Random>, since: Instant },
    /// Derived by the step of the wall clock, which was `since_epoch` at `at`.
    Shared {
        secret: Secret,
        at: Instant,
        since_epoch: Duration,
        step: u64,
    },
}

impl Cookies {
    pub(super) fn new(
        now: Instant,
        lifetime: Duration,
        shared: Option<Secret>,
        mut random: Box<dyn Random>,
    ) -> Self {
        let Some(secret) = shared else {
            let current = fresh(&mut *random);
            let [version] = octets(&mut *random);
            return Self {
                lifetime,
                source: Source::Own { random, since: now },
                version,
                current,
                previous: None,
                next: None,
            };
        };
        let mut cookies = Self {
            lifetime,
            version: 0,
            current: derived(&secret, 0),
            previous: None,
            next: None,
            source: Source::Shared {
                secret,
                at: now,
                since_epoch: Duration::ZERO,
                step: u64::MAX,
            },
        };
        cookies.rotate(now);
        cookies
    }

    /// Says what the wall clock shows. Own secrets do not ask for it.
    pub(super) fn set_clock(&mut self, now: Instant, shown: Duration) {
        if let Source::Shared { at, since_epoch, .. } = &mut self.source {
            (*at, *since_epoch) = (now, shown);
        }
        self.rotate(now);
    }

    /// Changes the secret when its time is over; the one before stays valid for one more lifetime.
    pub(super) fn rotate(&mut self, now: Instant) {
        match &mut self.source {
            Source::Own { random, since } => {
                let age = now.saturating_duration_since(*since);
                if age < self.lifetime {
                    return;
                }
                //= rfc7296#section-2.6
                //# The responder should not accept cookies indefinitely after <secret> is changed, since that would defeat part of the DoS protection.
                let retired = std::mem::replace(&mut self.current, fresh(&mut **random));
                self.previous = (age < self.lifetime * 2).then_some(retired);
                self.version = self.version.wrapping_add(1);
                *since = now;
            }
            Source::Shared {
                secret,
                at,
                since_epoch,
                step,
            } => {
                let shown = *since_epoch + now.saturating_duration_since(*at);
                let present = shown.as_secs() / self.lifetime.as_secs().max(1);
                if present == *step {
                    return;
                }
                *step = present;
                self.version = low_octet(present);
                self.current = derived(secret, present);
                self.previous = present.checked_sub(1).map(|step| derived(secret, step));
                self.next = present.checked_add(1).map(|step| derived(secret, step));
            }
        }
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
        } else if *version == self.version.wrapping_add(1) {
            self.next.as_ref()
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

/// The key of one step of the wall clock.
fn derived(secret: &Secret, step: u64) -> MacKey {
    let key = Prf::HmacSha256.compute(secret.expose(), &[LABEL, &step.to_be_bytes()]);
    MacKey::new(Integrity::HmacSha256_128, key.expose())
}

fn low_octet(step: u64) -> u8 {
    let [.., low] = step.to_be_bytes();
    low
}

fn fresh(random: &mut dyn Random) -> MacKey {
    MacKey::new(Integrity::HmacSha256_128, &octets::<32>(random))
}

fn octets<const N: usize>(random: &mut dyn Random) -> [u8; N] {
    let mut octets = [0; N];
    random.fill(&mut octets);
    octets
}
