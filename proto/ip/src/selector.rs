//! Traffic selectors (RFC 7296 section 3.13.1, RFC 4301 section 4.4.1.1) and their narrowing (RFC 7296 section 2.9).
//!
//! A selector is a set of (address, protocol, port) triples: an inclusive address range of one family, one protocol or
//! any, and an inclusive port range. The port of a packet may be unknown (a later fragment, a protocol without ports);
//! such packets belong to selectors with every port (ANY) and to those that name exactly them (OPAQUE).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde::{Deserialize, Serialize};

/// Most selectors that [`narrow`] returns: the count of a TS payload is one octet (RFC 7296 section 3.13).
pub const MAX_NARROWED: usize = 255;

const ANY_PORTS: (u16, u16) = (0, u16::MAX);
const OPAQUE_PORTS: (u16, u16) = (u16::MAX, 0);

/// One traffic selector. Its parts are checked at construction: one address family, start not after end, and ports only
/// with a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Selector {
    protocol: u8,
    ports: (u16, u16),
    start: IpAddr,
    end: IpAddr,
}

/// The stored form of a selector: checked again when it is read back.
#[derive(Serialize, Deserialize)]
struct Parts {
    protocol: u8,
    ports: (u16, u16),
    start: IpAddr,
    end: IpAddr,
}

impl From<Selector> for Parts {
    fn from(s: Selector) -> Self {
        Self {
            protocol: s.protocol,
            ports: s.ports,
            start: s.start,
            end: s.end,
        }
    }
}

impl TryFrom<Parts> for Selector {
    type Error = SelectorError;

    fn try_from(p: Parts) -> Result<Self, SelectorError> {
        Self::new(p.protocol, p.ports, p.start, p.end)
    }
}

/// Why a selector is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SelectorError {
    /// The ends of the range are of different address families.
    #[error("the range mixes IPv4 and IPv6")]
    MixedFamilies,
    /// The first address is above the last.
    #[error("the range ends before it starts")]
    ReversedAddresses,
    /// The first port is above the last, and it is not the OPAQUE pair 65535, 0.
    #[error("the port range ends before it starts")]
    ReversedPorts,
    /// Ports are restricted although every protocol is meant.
    #[error("ports without a protocol")]
    PortsWithoutProtocol,
    /// The text form cannot be read.
    #[error("not a selector: expected ADDRESS, PREFIX or FIRST-LAST, then optionally [PROTOCOL/PORTS]")]
    Text,
}

impl Selector {
    /// Every IPv4 packet.
    pub const ANY_V4: Self = Self {
        protocol: 0,
        ports: ANY_PORTS,
        start: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        end: IpAddr::V4(Ipv4Addr::BROADCAST),
    };
    /// Every IPv6 packet.
    pub const ANY_V6: Self = Self {
        protocol: 0,
        ports: ANY_PORTS,
        start: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        end: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    };

    /// A selector of `protocol` (0 = any), the inclusive `ports` and the inclusive addresses `start..=end`.
    ///
    /// Ports are (0, 65535) for every port and (65535, 0) for OPAQUE. For ICMP and ICMPv6 a port is the message type in
    /// the upper octet and the code in the lower (RFC 7296 section 3.13.1).
    ///
    /// # Errors
    /// Mixed families, reversed ranges, or a port restriction with protocol 0.
    pub fn new(protocol: u8, ports: (u16, u16), start: IpAddr, end: IpAddr) -> Result<Self, SelectorError> {
        if start.is_ipv4() != end.is_ipv4() {
            return Err(SelectorError::MixedFamilies);
        }
        if start > end {
            return Err(SelectorError::ReversedAddresses);
        }
        if ports.0 > ports.1 && ports != OPAQUE_PORTS {
            return Err(SelectorError::ReversedPorts);
        }
        if protocol == 0 && ports != ANY_PORTS {
            return Err(SelectorError::PortsWithoutProtocol);
        }
        Ok(Self {
            protocol,
            ports,
            start,
            end,
        })
    }

    /// Every packet of a prefix (host bits of `net` are ignored).
    #[must_use]
    pub fn prefix(net: IpNet) -> Self {
        let end = match net {
            IpNet::V4(n) => IpAddr::V4(n.broadcast()),
            IpNet::V6(n) => IpAddr::V6(n.broadcast()),
        };
        Self {
            protocol: 0,
            ports: ANY_PORTS,
            start: net.network(),
            end,
        }
    }

    /// Every packet of one address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self {
            protocol: 0,
            ports: ANY_PORTS,
            start: addr,
            end: addr,
        }
    }

    /// The next-layer protocol; 0 means any.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// First and last port; (65535, 0) means OPAQUE.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address (inclusive).
    #[must_use]
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// Whether the range is of IPv4 addresses.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.start.is_ipv4()
    }

    /// Whether every port belongs to it, known or not.
    #[must_use]
    #[inline]
    pub fn is_any_port(&self) -> bool {
        self.ports == ANY_PORTS
    }

    /// Whether it means packets whose ports cannot be read (RFC 4301 section 4.4.1.1).
    #[must_use]
    #[inline]
    pub fn is_opaque_port(&self) -> bool {
        self.ports == OPAQUE_PORTS
    }

    /// Whether the address alone belongs to the range.
    #[must_use]
    #[inline]
    pub fn contains_addr(&self, addr: IpAddr) -> bool {
        match (self.start, self.end, addr) {
            (IpAddr::V4(start), IpAddr::V4(end), IpAddr::V4(addr)) => {
                (start.to_bits()..=end.to_bits()).contains(&addr.to_bits())
            }
            (IpAddr::V6(start), IpAddr::V6(end), IpAddr::V6(addr)) => start <= addr && addr <= end,
            _ => false,
        }
    }

    /// Whether a packet end (source or destination) belongs to the set. `port` is None when the packet shows none, as
    /// later fragments and protocols without ports: it then belongs to ANY and OPAQUE only.
    #[must_use]
    #[inline]
    pub fn matches(&self, addr: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.contains_addr(addr)
            && match port {
                Some(port) => self.ports.0 <= port && port <= self.ports.1,
                None => self.is_any_port() || self.is_opaque_port(),
            }
    }

    /// As [`Selector::matches`] for an IPv4 address in host order, and a port that is only asked for where it counts: for
    /// hot paths.
    #[must_use]
    #[inline(always)]
    pub fn matches_v4(&self, addr: u32, protocol: u8, port: impl FnOnce() -> Option<u16>) -> bool {
        let (IpAddr::V4(start), IpAddr::V4(end)) = (self.start, self.end) else {
            return false;
        };
        (self.protocol == 0 || self.protocol == protocol)
            && start.to_bits() <= addr
            && addr <= end.to_bits()
            && (self.is_any_port()
                || match port() {
                    Some(port) => self.ports.0 <= port && port <= self.ports.1,
                    None => self.is_opaque_port(),
                })
    }

    /// Whether every packet of `other` belongs to this one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        (self.protocol == 0 || self.protocol == other.protocol)
            && self.contains_addr(other.start)
            && self.contains_addr(other.end)
            && (self.is_any_port()
                || self.ports == other.ports
                || (!self.is_opaque_port()
                    && !other.is_opaque_port()
                    && self.ports.0 <= other.ports.0
                    && other.ports.1 <= self.ports.1))
    }

    /// The packets that belong to both, if there are any.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (0, p) | (p, 0) => p,
            (a, b) if a == b => a,
            _ => return None,
        };
        let ports = intersect_ports(self.ports, other.ports)?;
        if self.is_ipv4() != other.is_ipv4() {
            return None;
        }
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start <= end).then_some(Self {
            protocol,
            ports,
            start,
            end,
        })
    }

    /// The fewest prefixes that together are exactly the address range: at most 62 for IPv4, 254 for IPv6.
    #[must_use]
    pub fn to_prefixes(&self) -> Vec<IpNet> {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(start), IpAddr::V6(end)) => Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }

    /// The prefix that the address range is, if it is one.
    #[must_use]
    pub fn as_prefix(&self) -> Option<IpNet> {
        let bits = match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => 32 - (start.to_bits() ^ end.to_bits()).count_ones(),
            (IpAddr::V6(start), IpAddr::V6(end)) => 128 - (start.to_bits() ^ end.to_bits()).count_ones(),
            _ => return None,
        };
        let net = IpNet::new(self.start, u8::try_from(bits).ok()?).ok()?;
        let whole = Self::prefix(net);
        (whole.start == self.start && whole.end == self.end).then_some(net)
    }
}

fn intersect_ports(a: (u16, u16), b: (u16, u16)) -> Option<(u16, u16)> {
    if a == ANY_PORTS || a == b {
        return Some(b);
    }
    if b == ANY_PORTS {
        return Some(a);
    }
    if a == OPAQUE_PORTS || b == OPAQUE_PORTS {
        return None;
    }
    let (first, last) = (a.0.max(b.0), a.1.min(b.1));
    (first <= last).then_some((first, last))
}

/// Narrows what a peer wants to what policy permits (RFC 7296 section 2.9): every pairwise intersection, without
/// duplicates and without those contained in another, in the order of `wanted`. At most [`MAX_NARROWED`].
#[must_use]
pub fn narrow(wanted: &[Selector], policy: &[Selector]) -> Vec<Selector> {
    let mut kept: Vec<Selector> = Vec::new();
    for want in wanted {
        for permit in policy {
            let Some(both) = want.intersect(permit) else {
                continue;
            };
            if kept.iter().any(|k| k.contains(&both)) {
                continue;
            }
            kept.retain(|k| !both.contains(k));
            if kept.len() < MAX_NARROWED {
                kept.push(both);
            }
        }
    }
    kept
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

    fn v4(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    /// A small universe, so that a selector is a set that can be listed: 16 addresses of each family, protocols 1..=3,
    /// ports 0..=7, 65535 and "unknown".
    const PORTS: [Option<u16>; 10] = [
        None,
        Some(0),
        Some(1),
        Some(2),
        Some(3),
        Some(4),
        Some(5),
        Some(6),
        Some(7),
        Some(65535),
    ];

    fn address(family4: bool, n: u8) -> IpAddr {
        if family4 {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
        } else {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()))
        }
    }

    fn universe() -> impl Iterator<Item = (IpAddr, u8, Option<u16>)> {
        [true, false].into_iter().flat_map(|f| {
            (0..16).flat_map(move |n| {
                (1..=3).flat_map(move |p| PORTS.into_iter().map(move |port| (address(f, n), p, port)))
            })
        })
    }

    fn set(selectors: &[Selector]) -> Vec<bool> {
        universe()
            .map(|(a, p, port)| selectors.iter().any(|s| s.matches(a, p, port)))
            .collect()
    }

    prop_compose! {
        fn selector()(family4 in any::<bool>(), protocol in 0u8..4, a in 0u8..16, b in 0u8..16, kind in 0u8..4, p in 0u16..8, q in 0u16..8)
            -> Selector {
            let ports = match kind {
                0 | 1 => (p.min(q), p.max(q)),
                2 => ANY_PORTS,
                _ => OPAQUE_PORTS,
            };
            let ports = if protocol == 0 { ANY_PORTS } else { ports };
            Selector::new(protocol, ports, address(family4, a.min(b)), address(family4, a.max(b))).unwrap()
        }
    }

    proptest! {
        #[test]
        fn intersection_is_that_of_the_sets(a in selector(), b in selector()) {
            let expect: Vec<bool> = set(&[a]).iter().zip(set(&[b])).map(|(x, y)| *x && y).collect();
            let both: Vec<Selector> = a.intersect(&b).into_iter().collect();
            prop_assert_eq!(set(&both), expect);
            prop_assert_eq!(a.intersect(&b), b.intersect(&a));
        }

        #[test]
        fn containment_is_that_of_the_sets(a in selector(), b in selector()) {
            // Protocol 0 reaches beyond the small universe: ask about it only against itself.
            prop_assume!(b.protocol() != 0 || a.protocol() == 0);
            let subset = set(&[b]).iter().zip(set(&[a])).all(|(x, y)| !x || y);
            prop_assert_eq!(a.contains(&b), subset);
        }

        #[test]
        fn narrowing_is_the_intersection_of_the_unions(w in prop::collection::vec(selector(), 0..6), p in prop::collection::vec(selector(), 0..6)) {
            let narrowed = narrow(&w, &p);
            let expect: Vec<bool> = set(&w).iter().zip(set(&p)).map(|(x, y)| *x && y).collect();
            prop_assert_eq!(set(&narrowed), expect);
            for (i, a) in narrowed.iter().enumerate() {
                for (j, b) in narrowed.iter().enumerate() {
                    prop_assert!(i == j || !a.contains(b), "{} contains {}", a, b);
                }
                prop_assert!(w.iter().any(|w| w.contains(a)) && p.iter().any(|p| p.contains(a)));
            }
        }

        #[test]
        fn prefixes_cover_the_range_exactly(a in any::<u32>(), b in any::<u32>()) {
            let s = Selector::new(0, ANY_PORTS, Ipv4Addr::from(a.min(b)).into(), Ipv4Addr::from(a.max(b)).into()).unwrap();
            let mut next = Some(u64::from(a.min(b)));
            for net in s.to_prefixes() {
                let part = Selector::prefix(net);
                let (IpAddr::V4(first), IpAddr::V4(last)) = (part.start(), part.end()) else { panic!() };
                prop_assert_eq!(next, Some(u64::from(first.to_bits())));
                next = Some(u64::from(last.to_bits()) + 1);
            }
            prop_assert_eq!(next, Some(u64::from(a.max(b)) + 1));
        }
    }

    #[test]
    fn order_of_the_wanted_is_kept() {
        let wanted: Vec<Selector> = ["10.9.0.0/16", "10.1.0.0/16"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        let policy: Vec<Selector> = ["10.0.0.0/8", "10.1.2.0/24", "fd00::/8"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        assert_eq!(narrow(&wanted, &policy), wanted);
    }

    #[test]
    fn narrowing_stops_at_the_count_of_a_payload() {
        let hosts: Vec<Selector> = (0..600u32)
            .map(|n| Selector::host(Ipv4Addr::from(0x0a00_0000 + n * 2).into()))
            .collect();
        assert_eq!(narrow(&hosts, &[Selector::ANY_V4]).len(), MAX_NARROWED);
    }

    #[test]
    fn bad_parts_are_refused() {
        let (a, b) = (v4("10.0.0.1"), v4("10.0.0.2"));
        assert_eq!(
            Selector::new(0, ANY_PORTS, a, v4("fd00::1")),
            Err(SelectorError::MixedFamilies)
        );
        assert_eq!(
            Selector::new(0, ANY_PORTS, b, a),
            Err(SelectorError::ReversedAddresses)
        );
        assert_eq!(Selector::new(6, (9, 8), a, b), Err(SelectorError::ReversedPorts));
        assert_eq!(
            Selector::new(0, (8, 9), a, b),
            Err(SelectorError::PortsWithoutProtocol)
        );
        assert!(Selector::new(6, OPAQUE_PORTS, a, b).is_ok());
    }

    #[test]
    fn a_fragment_belongs_to_any_and_opaque_only() {
        let tcp: Selector = "10.0.0.0/24[tcp/0-65534]".parse().unwrap();
        let opaque: Selector = "10.0.0.0/24[tcp/opaque]".parse().unwrap();
        let any: Selector = "10.0.0.0/24[tcp]".parse().unwrap();
        let host = v4("10.0.0.7");
        assert!(!tcp.matches(host, 6, None) && opaque.matches(host, 6, None) && any.matches(host, 6, None));
        assert!(
            tcp.matches(host, 6, Some(7))
                && !opaque.matches(host, 6, Some(7))
                && any.matches(host, 6, Some(7))
        );
        assert!(!opaque.matches(host, 6, Some(0)) && !opaque.matches(host, 6, Some(65535)));
    }

    #[test]
    fn a_range_knows_whether_it_is_a_prefix() {
        for (text, net) in [
            ("10.0.0.0-10.255.255.255", Some("10.0.0.0/8")),
            ("0.0.0.0-255.255.255.255", Some("0.0.0.0/0")),
            ("10.0.0.1-10.0.0.2", None),
            ("10.0.0.2-10.0.0.4", None),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("::/0")),
            ("fd00::1", Some("fd00::1/128")),
        ] {
            let s: Selector = text.parse().unwrap();
            assert_eq!(s.as_prefix(), net.map(|n| n.parse().unwrap()), "{text}");
        }
    }
}
