//! The way of one SA to its peer: the MTU that was learned of it, and the largest inner packet that fits.

use std::time::{Duration, Instant};

use esp::{Encapsulation, Layout};

use super::{LEAST_V4, LEAST_V6, PathMtu};

/// The way of an SA, with its overhead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    layout: Layout,
    encapsulation: Encapsulation,
    /// A limit for inner packets that was given; `u16::MAX`: none.
    given: u16,
    learned: Option<Learned>,
    /// The largest inner packet; `u16::MAX` while nothing is known.
    limit: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Learned {
    mtu: u16,
    /// The path may be smaller than what is believed.
    is_floor: bool,
    at: Instant,
}

impl Path {
    pub(crate) fn new(layout: Layout, encapsulation: Encapsulation, given: Option<u16>) -> Self {
        let given = given.unwrap_or(u16::MAX);
        Self {
            layout,
            encapsulation,
            given,
            learned: None,
            limit: given,
        }
    }

    fn is_v4(&self) -> bool {
        matches!(self.encapsulation, Encapsulation::RawV4 | Encapsulation::UdpV4)
    }

    /// Largest inner packet in octets.
    #[inline]
    pub(crate) fn limit(&self) -> u16 {
        self.limit
    }

    /// The outer MTU that was learned.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.learned.map(|learned| learned.mtu)
    }

    /// Whether outer packets that fit may have the DF bit: not where the path may be smaller than is believed.
    #[inline]
    pub(crate) fn allows_df(&self) -> bool {
        self.learned.is_none_or(|learned| !learned.is_floor)
    }

    /// A link on the way has this MTU. Whether that is news.
    //= rfc4301#section-6.1.1
    //# For example, there could be the ability to establish a minimum PMTU for traffic (on a per destination basis), to
    //# prevent receipt of an unauthenticated ICMP from setting the PMTU to a trivial size.
    pub(crate) fn learn(&mut self, mtu: u16, config: &PathMtu, now: Instant) -> bool {
        let least = if self.is_v4() { LEAST_V4 } else { LEAST_V6 };
        let floor = config.floor.max(least);
        let known = self.mtu().unwrap_or(u16::MAX);
        if mtu > known {
            // Never up: only time says that (RFC 8201 section 4).
            return false;
        }
        let believed = mtu.max(floor);
        let is_floor = mtu < floor || (mtu == known && !self.allows_df());
        let is_news = believed < known || is_floor == self.allows_df();
        self.set(Some(Learned {
            mtu: believed,
            is_floor,
            at: now,
        }));
        is_news
    }

    /// The peer is elsewhere.
    pub(crate) fn forget(&mut self) {
        self.set(None);
    }

    /// The peer is elsewhere, perhaps reached by another IP version.
    pub(crate) fn reroute(&mut self, encapsulation: Encapsulation) {
        self.encapsulation = encapsulation;
        self.forget();
    }

    /// Takes over what another SA of the same session has learned of the same way.
    pub(crate) fn inherit(&mut self, other: &Self) {
        if std::mem::discriminant(&self.encapsulation) == std::mem::discriminant(&other.encapsulation) {
            self.set(other.learned);
        }
    }

    /// Forgets what was learned `age` ago. Whether it did.
    //= rfc4301#section-8.2.2
    //# In all IPsec implementations, the PMTU associated with an SA MUST be "aged" and some mechanism is required to update
    //# the PMTU in a timely manner, especially for discovering if the PMTU is smaller than required by current network
    //# conditions.
    pub(crate) fn grow_old(&mut self, age: Duration, now: Instant) -> bool {
        let is_old = |learned: Learned| now.saturating_duration_since(learned.at) >= age;
        let is_over = self.learned.is_some_and(is_old);
        if is_over {
            self.forget();
        }
        is_over
    }

    fn set(&mut self, learned: Option<Learned>) {
        self.learned = learned;
        //= rfc4301#section-8.2.1
        //# The PMTU determined by this message is used to update the SAD PMTU field, taking into account the size of the AH
        //# or ESP header that will be applied, any crypto synchronization data, and the overhead imposed by an additional IP
        //# header, in the case of a tunnel mode SA.
        let fits = |learned: Learned| self.layout.inner_mtu(learned.mtu.into(), self.encapsulation);
        let fits = learned.map_or(usize::from(u16::MAX), |learned| fits(learned).unwrap_or(0));
        self.limit = u16::try_from(fits).unwrap_or(u16::MAX).min(self.given);
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
