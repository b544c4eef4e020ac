//! Which packet of ours an ICMP error quotes, and whether it quotes one that was just sent.
//!
//! Anybody can write such a message. What it takes to be believed: the addresses, protocol and ports of the SA, its SPI,
//! a sequence number of the last ones sent, and a length that does not fit the MTU that is claimed. Who does not see the
//! traffic has to guess 32 bits of SPI at least.

use std::net::SocketAddr;

use ip::icmp::{self, TooBig};
use ip::packet::{Fragment, Summary};
use ip::protocol;

use super::PathEvent;
use crate::message::Encap;

/// How many packets back a quoted one may lie: what is on its way at 10 Gbit/s in a tenth of a second.
const WINDOW: u32 = 1 << 17;
const UDP_HEADER: usize = 8;

/// An ICMP error about an ESP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    /// The packet's outer headers.
    outer: Summary,
    /// SPI and sequence number.
    pub(crate) spi: u32,
    sequence: u32,
    /// The MTU that it claims.
    mtu: u16,
}

/// What of an SA a quoted packet must agree with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) encap: Encap,
    /// The number of the next packet.
    pub(crate) next_sequence: u64,
}

impl Quote {
    /// Reads an ICMP message; `None` for what is no error about a packet that is too big, or quotes too little of it.
    pub(crate) fn read(message: &[u8], is_v4: bool) -> Option<Self> {
        let TooBig { mtu, quote } = if is_v4 {
            icmp::too_big_v4(message)?
        } else {
            icmp::too_big_v6(message)?
        };
        let outer = ip::packet::summarize_quoted(quote).ok()?;
        let at = match outer.protocol {
            protocol::UDP => outer.header_len + UDP_HEADER,
            protocol::ESP => outer.header_len,
            _ => return None,
        };
        let [spi, sequence] = *quote.get(at..)?.as_chunks::<4>().0.first_chunk::<2>()?;
        if (outer.version == 4) != is_v4 || outer.fragment != Fragment::No {
            return None;
        }
        let mtu = match mtu {
            // A router older than RFC 1191.
            0 if is_v4 => icmp::plateau(outer.total_len),
            mtu => u16::try_from(mtu).unwrap_or(u16::MAX),
        };
        Some(Self {
            outer,
            spi: u32::from_be_bytes(spi),
            sequence: u32::from_be_bytes(sequence),
            mtu,
        })
    }
}

/// Judges a message that quotes the SPI of an SA: the MTU to believe, or why it is not believed.
//= rfc4301#section-8.2.1
//# This mapping is effected by extracting the header information from the payload of the PMTU message and applying the
//# procedure described in Section 5.2.
pub(crate) fn judge(quote: &Quote, expected: &Expected) -> Result<u16, PathEvent> {
    let Quote {
        outer, sequence, mtu, ..
    } = quote;
    let (protocol, ports) = match expected.encap {
        Encap::Raw => (protocol::ESP, None),
        Encap::Udp => (protocol::UDP, Some((expected.local.port(), expected.peer.port()))),
    };
    let is_ours = outer.src == expected.local.ip()
        && outer.dst == expected.peer.ip()
        && outer.protocol == protocol
        && outer.ports == ports
        // Without DF nobody says that a packet was too big. IPv6 always has it.
        && outer.dont_fragment;
    if !is_ours {
        return Err(PathEvent::Forged);
    }
    // Of extended numbers the lower half is sent.
    let ago = ((expected.next_sequence as u32).wrapping_sub(1)).wrapping_sub(*sequence);
    if ago >= WINDOW || u64::from(ago) + 1 >= expected.next_sequence {
        return Err(PathEvent::Stale);
    }
    if usize::from(*mtu) >= outer.total_len {
        return Err(PathEvent::Absurd);
    }
    Ok(*mtu)
}

#[cfg(test)]
#[path = "quote_tests.rs"]
mod tests;
