//! The Internet checksum (RFC 1071): whole, with a pseudo header, and updated in place (RFC 1624).
//!
//! Partial sums are not folded: `fold(sum(a) + sum(b))` works as long as `a` has an even length. A sum of 64 KiB stays
//! far below the 64 bits that hold it.

use std::net::IpAddr;

/// The sum of big-endian 16-bit words, not folded; an odd last octet counts as the upper half of a word.
#[must_use]
pub fn sum(data: &[u8]) -> u64 {
    let mut total = 0u64;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        // 32-bit words add up to the same once folded to 16 bits: 2^16 is 1 modulo 2^16 - 1.
        total += u64::from(u32::from_be_bytes(*word));
    }
    match rest {
        [] => total,
        [a] => total + (u64::from(*a) << 8),
        [a, b] => total + u64::from(u16::from_be_bytes([*a, *b])),
        [a, b, c, ..] => total + u64::from(u16::from_be_bytes([*a, *b])) + (u64::from(*c) << 8),
    }
}

/// Folds a sum to 16 bits with end-around carry.
#[must_use]
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum of `data`: the complement of the folded sum. Zero over data that contains its right checksum.
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The checksum after one 16-bit word changed from `old` to `new`: equation 3 of RFC 1624, `~(~HC + ~m + m')`.
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1). `length` is that of
/// the upper-layer header and data in octets. Addresses of different families give a sum that fits no packet.
#[must_use]
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: u32) -> u64 {
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    };
    address(src) + address(dst) + u64::from(protocol) + u64::from(length)
}

/// The checksum of an upper-layer segment whose checksum field is zero (or, over a right one, 0).
#[must_use]
pub fn transport(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
    !fold(pseudo_header(src, dst, protocol, length) + sum(segment))
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

    fn slow(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
            if total > 0xffff {
                total -= 0xffff;
            }
        }
        !(total as u16)
    }

    /// Both zeros of one's complement are the same number.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn equals_the_slow_sum(data in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(same(checksum(&data), slow(&data)));
        }

        #[test]
        fn update_equals_recomputing(mut data in prop::collection::vec(any::<u8>(), 20..21), at in 0usize..10, new: u16) {
            let before = checksum(&data);
            let old = u16::from_be_bytes([data[at * 2], data[at * 2 + 1]]);
            data[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert!(same(update(before, old, new), checksum(&data)));
        }

        #[test]
        fn data_with_its_checksum_sums_to_zero(mut data in prop::collection::vec(any::<u8>(), 2..80)) {
            data[0] = 0;
            data[1] = 0;
            let c = checksum(&data);
            data[..2].copy_from_slice(&c.to_be_bytes());
            prop_assert_eq!(checksum(&data), 0);
        }
    }

    /// The example of RFC 1624 section 4.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn ipv4_header_and_udp() {
        let header = hex::decode("450000730000400040110000c0a80001c0a800c7").unwrap();
        assert_eq!(checksum(&header), 0xb861);
        let (src, dst) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut udp = hex::decode("0035003500090000ff").unwrap();
        let c = transport(src, dst, 17, &udp);
        udp[6..8].copy_from_slice(&c.to_be_bytes());
        assert_eq!(transport(src, dst, 17, &udp), 0);
    }
}
