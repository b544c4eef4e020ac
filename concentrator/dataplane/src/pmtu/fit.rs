//! What becomes of an inner packet, by its length and the limit of its SA.

use ip::packet::Summary;

use super::LEAST_V6;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fit {
    /// It fits.
    Whole,
    /// It is cut before encryption, so that the peer has nothing to put together.
    Inside,
    /// It is dropped, and its sender told this MTU.
    Answer(u16),
    /// It goes as it is, and what carries it is fragmented.
    Outside,
}

/// Decides for a packet of `len` octets (of a burst, the longest) where inner packets may have `limit`.
pub(crate) fn fit(summary: &Summary, len: usize, limit: u16) -> Fit {
    if len <= usize::from(limit) {
        return Fit::Whole;
    }
    match (summary.version, summary.dont_fragment) {
        //= rfc4301#section-8.2.1
        //# Case 1: Original (cleartext) packet is IPv4 and has the DF bit set.  The implementation SHOULD discard the packet
        //# and send a PMTU ICMP message.
        (4, true) => Fit::Answer(limit),
        //= rfc4301#section-8.2.1
        //# Case 2: Original (cleartext) packet is IPv4 and has the DF bit clear.  The implementation SHOULD fragment (before
        //# or after encryption per its configuration) and then forward the fragments.  It SHOULD NOT send a PMTU ICMP message.
        (4, false) => Fit::Inside,
        // A link of IPv6, as a tunnel is one, has an MTU of at least 1280 (RFC 8200 section 5): below, what carries the
        // packet has to be fragmented.
        _ if len <= usize::from(LEAST_V6) => Fit::Outside,
        //= rfc4301#section-8.2.1
        //# Case 3: Original (cleartext) packet is IPv6.  The implementation SHOULD discard the packet and send a PMTU ICMP
        //# message.
        _ => Fit::Answer(limit.max(LEAST_V6)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn summary(v4: bool, df: bool) -> Summary {
        let mut packet = vec![0; 40];
        packet[0] = if v4 { 0x45 } else { 0x60 };
        packet[3] = if v4 { 40 } else { 0 };
        packet[6] = if v4 && df { 0x40 } else { 0 };
        if !v4 {
            packet[6] = 59;
        }
        ip::packet::summarize(&packet).unwrap()
    }

    //= rfc4301#section-8.2.1
    //= type=test
    //# Case 1: Original (cleartext) packet is IPv4 and has the DF bit set.  The implementation SHOULD discard the packet and
    //# send a PMTU ICMP message.
    #[test]
    fn the_three_cases_and_the_smallest_mtu_of_ipv6() {
        for (v4, df, len, limit, expected) in [
            (true, true, 1300, 1300, Fit::Whole),
            (true, true, 1301, 1300, Fit::Answer(1300)),
            (true, false, 1301, 1300, Fit::Inside),
            (false, true, 1301, 1300, Fit::Answer(1300)),
            (false, true, 1281, 1000, Fit::Answer(1280)),
            (false, true, 1280, 1000, Fit::Outside),
        ] {
            assert_eq!(
                fit(&summary(v4, df), len, limit),
                expected,
                "{v4} {df} {len} {limit}"
            );
        }
    }
}
