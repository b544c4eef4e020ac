//! Rules for the outer header of a tunnel-mode packet, and for what it may change in the inner one: RFC 4301 section
//! 5.1.2 for DSCP and DF, RFC 6040 for ECN. Pure functions of header fields.

use ip::packet::{self, Summary};
use ip::{Selector, Usual};

use crate::DropReason;

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable transport, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable transport, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// Where the outer DSCP comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DscpRule {
    /// From the inner header.
    #[default]
    Copy,
    /// Always this value, 0..=63.
    Fixed(u8),
}

/// Where the outer DF bit comes from (RFC 4301 section 8.1). IPv6 has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DfRule {
    /// From an inner IPv4 header; set for IPv6, whose routers never fragment.
    #[default]
    Copy,
    /// Never set: routers may fragment.
    Clear,
    /// Always set.
    Set,
}

/// Whether the outer header takes part in ECN (RFC 6040 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EcnRule {
    /// Copy the inner field: for peers that decapsulate as RFC 4301 or RFC 6040 say, which IKEv2 implies.
    #[default]
    Normal,
    /// Not-ECT outside: for peers that lose congestion marks.
    Compatibility,
}

/// How an SA builds outer headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelRules {
    /// DSCP.
    pub dscp: DscpRule,
    /// Don't Fragment.
    pub df: DfRule,
    /// ECN.
    pub ecn: EcnRule,
    /// TTL or hop limit: constructed, never copied.
    pub hop_limit: u8,
}

impl Default for TunnelRules {
    fn default() -> Self {
        Self {
            dscp: DscpRule::Copy,
            df: DfRule::Copy,
            ecn: EcnRule::Normal,
            hop_limit: 64,
        }
    }
}

/// The fields of an outer header that depend on the inner one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outer {
    /// DSCP (upper six bits) and ECN (lower two).
    pub traffic_class: u8,
    /// DF, if the outer header is IPv4.
    pub dont_fragment: bool,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

/// The outer fields for an inner packet.
#[inline]
#[must_use]
pub fn encapsulate(rules: &TunnelRules, traffic_class: u8, dont_fragment: bool) -> Outer {
    let dscp = match rules.dscp {
        DscpRule::Copy => traffic_class & !3,
        DscpRule::Fixed(dscp) => dscp << 2,
    };
    //= rfc6040#section-4.1
    //# In normal mode, an encapsulator compliant with this specification MUST construct the outer encapsulating IP header
    //# by copying the two-bit ECN field of the incoming IP header.
    let ecn = match rules.ecn {
        EcnRule::Normal => traffic_class & 3,
        EcnRule::Compatibility => NOT_ECT,
    };
    let dont_fragment = match rules.df {
        DfRule::Copy => dont_fragment,
        DfRule::Clear => false,
        DfRule::Set => true,
    };
    Outer {
        traffic_class: dscp | ecn,
        dont_fragment,
        hop_limit: rules.hop_limit,
    }
}

/// What becomes of the inner ECN field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decapsulated {
    /// The field to forward.
    pub ecn: u8,
    /// The combination should not occur: worth a (rate-limited) count.
    pub suspicious: bool,
}

/// The inner ECN field after decapsulation: figure 4 of RFC 6040. Only the two ECN bits of the arguments count.
///
/// # Errors
/// [`DropReason::EcnIllegal`] for a congestion mark on a packet whose ends would not understand it.
#[inline]
pub fn decapsulate_ecn(inner: u8, outer: u8) -> Result<Decapsulated, DropReason> {
    let (ecn, suspicious) = match (inner & 3, outer & 3) {
        //= rfc6040#section-4.2
        //# If the inner ECN field is Not-ECT and the outer ECN field is CE, the decapsulator MUST drop the packet.
        (NOT_ECT, CE) => return Err(DropReason::EcnIllegal),
        //= rfc6040#section-4.2
        //# If the inner ECN field is Not-ECT and the outer ECN field is Not-ECT, ECT(0), or ECT(1), the decapsulator MUST
        //# forward the outgoing packet with the ECN field cleared to Not-ECT.
        (NOT_ECT, outer) => (NOT_ECT, outer != NOT_ECT),
        (CE, outer) => (CE, outer == ECT_1),
        (_, CE) => (CE, false),
        (ECT_0, ECT_1) => (ECT_1, false),
        (inner, outer) => (inner, inner == ECT_1 && outer == ECT_0),
    };
    Ok(Decapsulated { ecn, suspicious })
}

/// Applies [`decapsulate_ecn`] to an opened inner packet in place, with its checksum. True if the combination of marks
/// was suspicious.
///
/// # Errors
/// [`DropReason::EcnIllegal`], as there.
#[inline]
pub fn apply_ecn(inner: &mut [u8], summary: &Summary, outer_traffic_class: u8) -> Result<bool, DropReason> {
    let result = decapsulate_ecn(summary.traffic_class, outer_traffic_class)?;
    if result.ecn != summary.ecn() {
        packet::set_ecn(inner, result.ecn);
    }
    Ok(result.suspicious)
}

/// Checks an opened inner packet against its SA's selectors: its source must lie in `ts_remote`, its destination in
/// `ts_local` (RFC 4301 section 5.2, step 4). `usual` is `Usual::of(ts_remote, ts_local)`, made once, or `None`: it
/// changes the time that this takes, not the answer.
///
/// # Errors
/// [`DropReason::InnerMalformed`] or [`DropReason::SelectorMismatch`].
#[inline(always)]
pub fn check_inner(
    inner: &[u8],
    usual: Option<&Usual>,
    ts_remote: &[Selector],
    ts_local: &[Selector],
) -> Result<Summary, DropReason> {
    match packet::summarize_among(inner, usual, ts_remote, ts_local) {
        Ok((summary, true)) => Ok(summary),
        Ok((_, false)) => Err(DropReason::SelectorMismatch),
        Err(_) => Err(DropReason::InnerMalformed),
    }
}

/// Whether an inner packet of `summary` must not be sent because it exceeds the tunnel's MTU, and its sender is to be
/// told (ICMP "fragmentation needed", ICMPv6 "packet too big"). IPv4 packets without DF may be fragmented instead.
#[inline]
#[must_use]
pub fn exceeds_mtu(summary: &Summary, mtu: usize) -> bool {
    summary.total_len > mtu && summary.dont_fragment
}

/// The next header that announces an inner packet: 4 or 41; None for what is no IP packet.
#[inline]
#[must_use]
pub fn next_header_of(inner: &[u8]) -> Option<u8> {
    match inner.first().map(|b| b >> 4) {
        Some(4) => Some(ip::protocol::IPV4),
        Some(6) => Some(ip::protocol::IPV6),
        _ => None,
    }
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

    /// Figure 4, row by row: inner Not-ECT, ECT(0), ECT(1), CE; columns outer in the same order. None is drop; the flag
    /// is the figure's exclamation marks.
    const FIGURE_4: [[Option<(u8, bool)>; 4]; 4] = [
        [
            Some((NOT_ECT, false)),
            Some((NOT_ECT, true)),
            Some((NOT_ECT, true)),
            None,
        ],
        [
            Some((ECT_0, false)),
            Some((ECT_0, false)),
            Some((ECT_1, false)),
            Some((CE, false)),
        ],
        [
            Some((ECT_1, false)),
            Some((ECT_1, true)),
            Some((ECT_1, false)),
            Some((CE, false)),
        ],
        [
            Some((CE, false)),
            Some((CE, false)),
            Some((CE, true)),
            Some((CE, false)),
        ],
    ];
    const ORDER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];

    //= rfc6040#section-4.2
    //= type=test
    //# If the inner ECN field is Not-ECT and the outer ECN field is CE, the decapsulator MUST drop the packet.
    #[test]
    fn decapsulation_is_figure_4_whatever_the_dscp() {
        for (row, inner) in FIGURE_4.iter().zip(ORDER) {
            for (cell, outer) in row.iter().zip(ORDER) {
                let got = decapsulate_ecn(inner | 0xb8, outer | 0x28);
                let want = cell.map(|(ecn, suspicious)| Decapsulated { ecn, suspicious });
                assert_eq!(got, want.ok_or(DropReason::EcnIllegal), "{inner:02b} {outer:02b}");
            }
        }
    }

    //= rfc6040#section-4.1
    //= type=test
    //# In normal mode, an encapsulator compliant with this specification MUST construct the outer encapsulating IP header
    //# by copying the two-bit ECN field of the incoming IP header.
    #[test]
    fn outer_header_follows_the_rules() {
        let outer = encapsulate(&TunnelRules::default(), 0xb8 | CE, true);
        assert_eq!(
            outer,
            Outer {
                traffic_class: 0xb8 | CE,
                dont_fragment: true,
                hop_limit: 64
            }
        );
        let rules = TunnelRules {
            dscp: DscpRule::Fixed(10),
            df: DfRule::Clear,
            ecn: EcnRule::Compatibility,
            hop_limit: 9,
        };
        let outer = encapsulate(&rules, 0xb8 | CE, true);
        assert_eq!(
            outer,
            Outer {
                traffic_class: 40,
                dont_fragment: false,
                hop_limit: 9
            }
        );
        assert!(
            encapsulate(
                &TunnelRules {
                    df: DfRule::Set,
                    ..rules
                },
                0,
                false
            )
            .dont_fragment
        );
        assert!(!encapsulate(&TunnelRules::default(), 0, false).dont_fragment);
    }

    #[test]
    fn inner_packets_are_checked_both_ways() {
        let packet = hex::decode("4500001c000000004011000a0a0000010a000002003500350008000000").unwrap();
        let sel = |s: &str| [s.parse::<Selector>().unwrap()];
        assert!(check_inner(&packet, None, &sel("10.0.0.1"), &sel("10.0.0.2")).is_ok());
        assert_eq!(
            check_inner(&packet, None, &sel("10.0.0.2"), &sel("10.0.0.2")),
            Err(DropReason::SelectorMismatch)
        );
        assert_eq!(
            check_inner(&packet, None, &sel("10.0.0.1"), &sel("10.0.0.1")),
            Err(DropReason::SelectorMismatch)
        );
        assert_eq!(
            check_inner(&packet[..19], None, &sel("10.0.0.1"), &sel("10.0.0.2")),
            Err(DropReason::InnerMalformed)
        );
        assert_eq!(
            (
                next_header_of(&packet),
                next_header_of(&[0x60]),
                next_header_of(&[])
            ),
            (Some(4), Some(41), None)
        );
    }

    #[test]
    fn congestion_reaches_the_inner_packet() {
        let mut packet = hex::decode("4502001c0000000040110000c0a80001c0a800c7003500350008000000").unwrap();
        let summary = packet::summarize(&packet).unwrap();
        assert_eq!(apply_ecn(&mut packet, &summary, CE), Ok(false));
        assert_eq!(packet::summarize(&packet).unwrap().ecn(), CE);
    }
}
