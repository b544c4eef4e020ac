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

    fn start_number(&self) -> u128 {
        to_u128(self.start)
    }
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
}
