//! Path MTU (RFC 4301 section 8): what is learned of the way to a peer, what becomes of inner packets that do not fit, and
//! which fragments may pass an SA with ports in its selectors. Nothing here performs I/O; the worker's part is in
//! `shard/path.rs`.
//!
//! ```text
//!  router ── ICMP too big ──► quoted SPI and number are those of a packet just sent? ──► Path of the session: outer MTU
//!                                                                                          │ minus overhead of the suite
//!  inner packet too long:  IPv4 with DF, IPv6 ──► ICMP too big to its sender               ▼
//!                          IPv4 without DF    ──► cut before encryption  ◄────────── limit of inner packets
//!                          IPv6 of ≤ 1280     ──► whole; the outer packet is fragmented
//! ```

mod bucket;
mod count;
mod fit;
mod index;
mod path;
mod quote;
mod table;

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

pub(crate) use bucket::Bucket;
pub use count::{PathCounters, PathEvent};
pub(crate) use fit::{Fit, fit};
pub(crate) use index::ByOutbound;
pub(crate) use path::Path;
pub(crate) use quote::{Expected, Quote, judge};
pub(crate) use table::{Fragments, Pass, Way};

/// The smallest MTU that an IPv4 path is believed to have: what every host must take (RFC 1122 section 3.3.2).
pub const LEAST_V4: u16 = 576;
/// The smallest MTU of IPv6 (RFC 8200 section 5).
pub const LEAST_V6: u16 = 1280;
/// ICMP errors that one worker sends in a second for one domain, and for all.
const ERRORS_OF_DOMAIN: u32 = 100;
const ERRORS: u32 = 1000;
/// Domains with a bucket of their own; when there are more, all begin anew.
const DOMAINS: usize = 4096;

/// What is believed of ICMP messages from the way to a peer, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathMtu {
    /// Whether they are read at all; it needs CAP_NET_RAW.
    pub learn: bool,
    /// No smaller MTU is believed, in octets: at least [`LEAST_V4`], and [`LEAST_V6`] over IPv6. What is larger than the path
    /// then goes without DF.
    pub floor: u16,
    /// After this long what was learned is forgotten (RFC 4301 section 8.2.2).
    pub age: Duration,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self {
            learn: true,
            floor: LEAST_V4,
            //= rfc4301#section-8.2.2
            //# Implementations SHOULD use the approach described in the Path MTU Discovery document (RFC 1191 [MD90], Section
            //# 6.3), which suggests periodically resetting the PMTU to the first-hop data-link MTU and then letting the normal
            //# PMTU Discovery processes update the PMTU as necessary.
            age: Duration::from_secs(600),
        }
    }
}

/// What a worker keeps for paths.
pub(crate) struct Paths {
    pub(crate) config: PathMtu,
    pub(crate) by_outbound: ByOutbound,
    pub(crate) fragments: Fragments,
    /// Room to put a packet together that is then cut.
    pub(crate) room: Vec<u8>,
    buckets: FxHashMap<u32, Bucket>,
    all: Bucket,
}

impl Paths {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            config: PathMtu::default(),
            by_outbound: ByOutbound::default(),
            fragments: Fragments::new(),
            room: Vec::new(),
            buckets: FxHashMap::default(),
            all: Bucket::new(ERRORS, now),
        }
    }

    /// Whether one more ICMP error may be sent into a domain.
    pub(crate) fn may_answer(&mut self, domain: u32, now: Instant) -> bool {
        if self.buckets.len() >= DOMAINS {
            self.buckets.clear();
        }
        let of_domain = self
            .buckets
            .entry(domain)
            .or_insert_with(|| Bucket::new(ERRORS_OF_DOMAIN, now));
        of_domain.take(now) && self.all.take(now)
    }
}
