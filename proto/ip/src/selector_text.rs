//! The text form of a selector: `10.0.0.0/8`, `10.0.0.1-10.0.0.9`, `10.0.0.0/8[tcp/443]`, `fd00::/8[udp/opaque]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::protocol;
use crate::selector::{Selector, SelectorError};

const NAMES: [(u8, &str); 8] = [
    (protocol::ICMP, "icmp"),
    (protocol::TCP, "tcp"),
    (protocol::UDP, "udp"),
    (protocol::ESP, "esp"),
    (protocol::AH, "ah"),
    (protocol::ICMPV6, "icmpv6"),
    (protocol::SCTP, "sctp"),
    (protocol::MOBILITY, "mobility"),
];

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_prefix() {
            Some(net) => write!(f, "{net}")?,
            None => write!(f, "{}-{}", self.start(), self.end())?,
        }
        if self.protocol() == protocol::ANY {
            return Ok(());
        }
        match NAMES.iter().find(|(number, _)| *number == self.protocol()) {
            Some((_, name)) => write!(f, "[{name}")?,
            None => write!(f, "[{}", self.protocol())?,
        }
        match self.ports() {
            _ if self.is_any_port() => {}
            _ if self.is_opaque_port() => f.write_str("/opaque")?,
            (first, last) if first == last => write!(f, "/{first}")?,
            (first, last) => write!(f, "/{first}-{last}")?,
        }
        f.write_str("]")
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (addresses, rest) = match text.split_once('[') {
            Some((a, r)) => (a, Some(r.strip_suffix(']').ok_or(SelectorError::Text)?)),
            None => (text, None),
        };
        let (start, end) = parse_addresses(addresses.trim())?;
        let (protocol, ports) = rest.map_or(Ok((protocol::ANY, (0, u16::MAX))), parse_protocol)?;
        Self::new(protocol, ports, start, end)
    }
}

fn parse_addresses(text: &str) -> Result<(IpAddr, IpAddr), SelectorError> {
    let address = |s: &str| s.trim().parse::<IpAddr>().map_err(|_| SelectorError::Text);
    if let Some((first, last)) = text.split_once('-') {
        return Ok((address(first)?, address(last)?));
    }
    if text.contains('/') {
        let whole = Selector::prefix(text.parse::<IpNet>().map_err(|_| SelectorError::Text)?);
        return Ok((whole.start(), whole.end()));
    }
    let host = address(text)?;
    Ok((host, host))
}

fn parse_protocol(text: &str) -> Result<(u8, (u16, u16)), SelectorError> {
    let (name, ports) = match text.split_once('/') {
        Some((n, p)) => (n.trim(), Some(p.trim())),
        None => (text.trim(), None),
    };
    let number = match NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)) {
        Some((number, _)) => *number,
        None => name.parse().map_err(|_| SelectorError::Text)?,
    };
    let port = |s: &str| s.trim().parse::<u16>().map_err(|_| SelectorError::Text);
    let ports = match ports {
        None => (0, u16::MAX),
        Some(p) if p.eq_ignore_ascii_case("opaque") => (u16::MAX, 0),
        Some(p) => match p.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                if first > last {
                    return Err(SelectorError::ReversedPorts);
                }
                (first, last)
            }
            None => (port(p)?, port(p)?),
        },
    };
    Ok((number, ports))
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

    #[test]
    fn text_forms() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9"),
            ("10.0.0.0/8[tcp/443]", "10.0.0.0/8[tcp/443]"),
            ("10.0.0.0/8[ TCP / 1-9 ]", "10.0.0.0/8[tcp/1-9]"),
            ("fd00::/8[47]", "fd00::/8[47]"),
            ("fd00::1[udp/opaque]", "fd00::1/128[udp/opaque]"),
            ("::/0[icmpv6/32768]", "::/0[icmpv6/32768]"),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-fd00::1",
            "10.0.0.0/8[",
            "10.0.0.0/8[foo]",
            "10.0.0.0/8[tcp/9-1]",
            "10.0.0.0/8[tcp/70000]",
            "10.0.0.0/8[0/5]",
            "10.0.0.0/8[tcp/65535-0]",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_survives_a_round_trip(protocol: u8, p: u16, q: u16, a: u128, b: u128, v4: bool) {
            let address = |n: u128| if v4 { IpAddr::V4((n as u32).into()) } else { IpAddr::V6(n.into()) };
            let (start, end) = (address(a).min(address(b)), address(a).max(address(b)));
            let ports = if protocol == 0 { (0, u16::MAX) } else { (p.min(q), p.max(q)) };
            let s = Selector::new(protocol, ports, start, end).unwrap();
            prop_assert_eq!(s.to_string().parse::<Selector>().unwrap(), s);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Selector>();
        }
    }
}
