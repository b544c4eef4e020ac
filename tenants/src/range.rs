//! Inclusive ranges of addresses of one family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An inclusive, non-empty range of IPv4 or of IPv6 addresses. Text: `10.0.0.1-10.0.0.9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    start: IpAddr,
    end: IpAddr,
}

/// Why a text is not a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither an address, a prefix nor a range.
    #[error("is neither an address, a prefix (10.1.0.0/16) nor a range (10.1.0.10-10.1.0.99)")]
    Syntax,
    /// One end is IPv4, the other IPv6.
    #[error("has ends of two address families")]
    Families,
    /// The end lies before the start.
    #[error("ends before it starts")]
    Order,
    /// A prefix with host bits set.
    #[error("has host bits set")]
    HostBits,
}

impl AddressRange {
    /// From both ends, inclusive.
    ///
    /// # Errors
    /// When the families differ or the end lies before the start.
    pub fn new(start: IpAddr, end: IpAddr) -> Result<Self, RangeError> {
        if start.is_ipv4() != end.is_ipv4() {
            Err(RangeError::Families)
        } else if to_u128(end) < to_u128(start) {
            Err(RangeError::Order)
        } else {
            Ok(Self { start, end })
        }
    }

    /// Every address of a prefix.
    pub fn prefix(net: IpNet) -> Self {
        Self {
            start: net.network(),
            end: net.broadcast(),
        }
    }

    /// What a pool gives out of a written range: of a prefix shorter than /31 (/127), the network and (IPv4) the
    /// broadcast address are left out; for IPv6 the first address, which is the subnet router's anycast address.
    ///
    /// # Errors
    /// As for parsing.
    pub fn for_pool(text: &str) -> Result<Self, RangeError> {
        let range: Self = text.parse()?;
        let Ok(net) = text.trim().parse::<IpNet>() else {
            return Ok(range);
        };
        let host_bits = net.max_prefix_len() - net.prefix_len();
        if host_bits < 2 {
            return Ok(range);
        }
        let start = range.start_number() + 1;
        let end = if range.is_ipv4() {
            to_u128(range.end) - 1
        } else {
            to_u128(range.end)
        };
        Ok(Self {
            start: from_u128(start, range.is_ipv4()),
            end: from_u128(end, range.is_ipv4()),
        })
    }

    /// First address.
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address.
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.start.is_ipv4()
    }

    /// Number of addresses; saturates for all of IPv6.
    pub fn size(&self) -> u128 {
        (to_u128(self.end) - to_u128(self.start)).saturating_add(1)
    }

    /// Whether an address lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && (to_u128(self.start)..=to_u128(self.end)).contains(&to_u128(address))
    }

    /// Whether another range lies inside.
    pub fn contains_range(&self, other: &Self) -> bool {
        self.contains(other.start) && self.contains(other.end)
    }

    /// Whether both have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    /// The address at an offset from the start; `None` past the end.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        let number = to_u128(self.start).checked_add(offset)?;
        (number <= to_u128(self.end)).then(|| from_u128(number, self.is_ipv4()))
    }

    /// Offset of an address from the start; `None` when it lies outside.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| to_u128(address) - to_u128(self.start))
    }

    /// The smallest prefix that all of it lies in.
    pub fn enclosing(&self) -> Self {
        let (start, end) = (to_u128(self.start), to_u128(self.end));
        // Every bit below the highest one that differs.
        let hosts = (u128::MAX)
            .checked_shr((start ^ end).leading_zeros())
            .unwrap_or(0);
        Self {
            start: from_u128(start & !hosts, self.is_ipv4()),
            end: from_u128(start | hosts, self.is_ipv4()),
        }
    }

    /// One of `1 << bits` consecutive parts that are as equal as can be, the earlier ones larger; `None` when it is
    /// empty.
    pub fn part(&self, index: u128, bits: u32) -> Option<Self> {
        if (index, bits) == (0, 0) {
            return Some(*self);
        }
        let cut = self.cut(bits);
        let length = cut.size + u128::from(index < cut.larger);
        if length == 0 || index >= 1_u128.checked_shl(bits)? {
            return None;
        }
        let offset = cut.size.checked_mul(index)?.checked_add(index.min(cut.larger))?;
        let start = to_u128(self.start).checked_add(offset)?;
        Some(Self {
            start: from_u128(start, self.is_ipv4()),
            end: from_u128(start.checked_add(length - 1)?, self.is_ipv4()),
        })
    }

    /// Which of `1 << bits` parts an address lies in; `None` outside.
    pub fn part_of(&self, address: IpAddr, bits: u32) -> Option<u128> {
        let (offset, cut) = (self.offset(address)?, self.cut(bits));
        if bits == 0 {
            return Some(0);
        }
        let in_larger = cut.larger.saturating_mul(cut.size + 1);
        if offset < in_larger || cut.size == 0 {
            Some(offset / (cut.size + 1))
        } else {
            Some(cut.larger + (offset - in_larger) / cut.size)
        }
    }

    fn cut(&self, bits: u32) -> Cut {
        // The number of addresses may be 2^128, its last address is not.
        let last = to_u128(self.end) - to_u128(self.start);
        let below = 1_u128.checked_shl(bits).map_or(u128::MAX, |parts| parts - 1);
        let whole = last & below == below;
        let size = last.checked_shr(bits).unwrap_or(0);
        Cut {
            size: size.saturating_add(u128::from(whole)),
            larger: if whole { 0 } else { (last & below) + 1 },
        }
    }

    /// The fewest prefixes that make it up, in order.
    pub fn prefixes(&self) -> Vec<IpNet> {
        let width = if self.is_ipv4() { 32 } else { 128 };
        let (mut next, end) = (to_u128(self.start), to_u128(self.end));
        let mut prefixes = Vec::new();
        loop {
            // As many host bits as the alignment and what is left allow.
            let aligned = next.trailing_zeros().min(width);
            let left = (end - next).checked_add(1).map_or(128, u128::ilog2);
            let bits = aligned.min(left);
            let length = u8::try_from(width.saturating_sub(bits)).unwrap_or(u8::MAX);
            let Ok(net) = IpNet::new(from_u128(next, self.is_ipv4()), length) else {
                return prefixes;
            };
            prefixes.push(net);
            let size = 1_u128.checked_shl(bits);
            match size.and_then(|size| next.checked_add(size)) {
                Some(after) if after <= end => next = after,
                _ => return prefixes,
            }
        }
    }

    fn start_number(&self) -> u128 {
        to_u128(self.start)
    }
}

/// How a range is cut into parts.
struct Cut {
    /// Addresses of a part.
    size: u128,
    /// So many of the first parts have one more.
    larger: u128,
}

fn to_u128(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_u128(number: u128, ipv4: bool) -> IpAddr {
    if ipv4 {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end {
            self.start.fmt(f)
        } else {
            write!(f, "{}-{}", self.start, self.end)
        }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        if let Ok(net) = text.parse::<IpNet>() {
            return if net.addr() == net.network() {
                Ok(Self::prefix(net))
            } else {
                Err(RangeError::HostBits)
            };
        }
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| RangeError::Syntax);
        Self::new(parse(start)?, parse(end)?)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn texts() {
        assert_eq!(range("10.0.0.0/30").to_string(), "10.0.0.0-10.0.0.3");
        assert_eq!(range("10.0.0.7").to_string(), "10.0.0.7");
        assert_eq!(range("2001:db8::1 - 2001:db8::f").size(), 15);
        assert_eq!("10.0.0.1/24".parse::<AddressRange>(), Err(RangeError::HostBits));
        assert_eq!(
            "10.0.0.9-10.0.0.1".parse::<AddressRange>(),
            Err(RangeError::Order)
        );
        assert_eq!("10.0.0.9-::1".parse::<AddressRange>(), Err(RangeError::Families));
        assert_eq!("ten".parse::<AddressRange>(), Err(RangeError::Syntax));
    }

    #[test]
    fn pools_leave_out_network_and_broadcast() {
        assert_eq!(
            AddressRange::for_pool("10.0.0.0/29").unwrap().to_string(),
            "10.0.0.1-10.0.0.6"
        );
        assert_eq!(AddressRange::for_pool("10.0.0.0/31").unwrap().size(), 2);
        assert_eq!(AddressRange::for_pool("10.0.0.1/32").unwrap().size(), 1);
        assert_eq!(AddressRange::for_pool("10.0.0.1-10.0.0.4").unwrap().size(), 4);
        assert_eq!(
            AddressRange::for_pool("2001:db8::/126").unwrap().to_string(),
            "2001:db8::1-2001:db8::3"
        );
    }

    #[test]
    fn arithmetic() {
        let pool = range("10.0.0.0/24");
        assert_eq!(pool.at(255), Some("10.0.0.255".parse().unwrap()));
        assert_eq!(pool.at(256), None);
        assert_eq!(pool.offset("10.0.0.9".parse().unwrap()), Some(9));
        assert_eq!(pool.offset("10.0.1.9".parse().unwrap()), None);
        assert_eq!(pool.offset("::9".parse().unwrap()), None);
        assert!(pool.overlaps(&range("10.0.0.255-10.0.1.4")) && range("10.0.0.0/8").overlaps(&pool));
        assert!(!pool.overlaps(&range("10.0.1.0/24")));
        assert_eq!(range("::/0").size(), u128::MAX);
    }

    #[test]
    fn prefixes_and_what_encloses() {
        let texts =
            |text: &str| -> Vec<String> { range(text).prefixes().iter().map(ToString::to_string).collect() };
        assert_eq!(texts("10.0.0.0/24"), ["10.0.0.0/24"]);
        assert_eq!(
            texts("10.0.0.1-10.0.0.10"),
            [
                "10.0.0.1/32",
                "10.0.0.2/31",
                "10.0.0.4/30",
                "10.0.0.8/31",
                "10.0.0.10/32"
            ]
        );
        assert_eq!(texts("255.255.255.255"), ["255.255.255.255/32"]);
        assert_eq!(texts("0.0.0.0/0"), ["0.0.0.0/0"]);
        assert_eq!(texts("::/0"), ["::/0"]);
        assert_eq!(
            texts("2001:db8::-2001:db8::2:ffff"),
            ["2001:db8::/111", "2001:db8::2:0/112"]
        );
        assert_eq!(range("10.0.0.1-10.0.0.6").enclosing(), range("10.0.0.0/29"));
        assert_eq!(range("10.0.0.7").enclosing(), range("10.0.0.7"));
        assert_eq!(range("0.0.0.1-255.0.0.0").enclosing(), range("0.0.0.0/0"));
        assert_eq!(range("::1-ffff::").enclosing(), range("::/0"));
    }

    #[test]
    fn parts_are_even_and_hold_every_address_once() {
        for (text, bits) in [
            ("10.0.0.0/24", 3),
            ("10.0.0.10-10.0.0.99", 2),
            ("10.0.0.1-10.0.0.5", 3),
            ("10.0.0.1", 7),
            ("10.0.0.0/24", 0),
            ("10.0.255.250-10.1.0.6", 1),
        ] {
            let whole = range(text);
            let mut next = 0;
            let sizes: Vec<u128> = (0..1_u128 << bits)
                .filter_map(|index| {
                    let part = whole.part(index, bits)?;
                    for offset in 0..part.size() {
                        let address = part.at(offset).unwrap();
                        assert_eq!(whole.offset(address), Some(next), "{text}/{bits}");
                        assert_eq!(
                            whole.part_of(address, bits),
                            Some(index),
                            "{text}/{bits} {address}"
                        );
                        next += 1;
                    }
                    Some(part.size())
                })
                .collect();
            assert_eq!(next, whole.size(), "{text}/{bits}");
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            assert_eq!(whole.part(1 << bits, bits), None);
        }
        let all = range("::/0");
        assert_eq!(all.part(0, 0), Some(all));
        assert_eq!(all.part(127, 7).unwrap(), range("fe00::/7"));
        assert_eq!(all.part_of("fe00::1".parse().unwrap(), 7), Some(127));
        assert_eq!(range("0.0.0.0/0").part(1, 1).unwrap(), range("128.0.0.0/1"));
    }
}
