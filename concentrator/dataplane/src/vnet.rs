//! The `virtio_net_hdr` in front of each packet of a TUN device with offloads, and the internet checksum over bursts.

/// Octets of the header.
pub(crate) const LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a packet still needs done before it can go on a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// The transport checksum is to be summed from `csum_start` and stored at `csum_start + csum_offset`.
    pub needs_checksum: bool,
    /// The packet is a burst to be cut into segments of `gso_size` octets of payload.
    pub gso: Gso,
    /// Octets of the network and transport headers (a hint of the kernel's, not relied upon).
    pub header_len: u16,
    /// Payload octets of each segment.
    pub gso_size: u16,
    /// Where the transport header begins.
    pub csum_start: u16,
    /// Where in the transport header the checksum is.
    pub csum_offset: u16,
}

/// The kind of burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gso {
    /// A single packet.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
    /// Something that was not asked for.
    Other(u8),
}

impl VnetHeader {
    /// Reads a header; `None` if there are not `LEN` octets. Integers are in host order.
    pub fn read(octets: &[u8]) -> Option<Self> {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1] = *octets.first_chunk::<LEN>()?;
        Some(Self {
            needs_checksum: flags & F_NEEDS_CSUM != 0,
            gso: match gso & !GSO_ECN {
                0 => Gso::None,
                GSO_TCPV4 => Gso::Tcp4,
                GSO_TCPV6 => Gso::Tcp6,
                GSO_UDP_L4 => Gso::Udp,
                other => Gso::Other(other),
            },
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([s0, s1]),
            csum_start: u16::from_ne_bytes([c0, c1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The header's octets.
    pub fn octets(&self) -> [u8; LEN] {
        let gso = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
            Gso::Other(other) => other,
        };
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [s0, s1] = self.gso_size.to_ne_bytes();
        let [c0, c1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [u8::from(self.needs_checksum), gso, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

/// The sum of 16-bit words of RFC 1071, not yet folded; an odd last octet counts as the high half of a word. Sums of
/// parts of even length may be added.
pub(crate) fn sum(octets: &[u8]) -> u64 {
    if octets.len() < 64 {
        in_order(sum_words(octets))
    } else {
        crate::sys::wide::sum(octets)
    }
}

/// Copies `from` to the start of `to` and gives its [`sum`]; as much of it as there is room for.
pub(crate) fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u64 {
    let len = from.len().min(to.len());
    match (from.get(..len), to.get_mut(..len)) {
        (Some(from), Some(to)) => crate::sys::wide::copy_and_sum(from, to),
        _ => 0,
    }
}

/// [`sum`], written so that the compiler makes vector instructions of it, of whatever width its caller is compiled for.
#[inline(always)]
pub(crate) fn sum_in_lanes(octets: &[u8]) -> u64 {
    let (blocks, rest) = octets.as_chunks::<64>();
    let mut lanes = [0u64; 16];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = 0;
    for lane in lanes {
        // 2^32 and 2^16 are both 1 modulo 2^16 - 1: folding early keeps the total far from overflow.
        total += (lane & 0xffff_ffff) + (lane >> 32);
    }
    in_order(total + sum_words(rest))
}

/// The sum word by word, in host order.
fn sum_words(octets: &[u8]) -> u64 {
    let (words, tail) = octets.as_chunks::<2>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u16::from_ne_bytes(*word)))
        .sum();
    if let [last] = tail {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Words may be read in host order, which the sum does not mind (RFC 1071 section 2.B) if it is put right at the end.
pub(crate) fn in_order(total: u64) -> u64 {
    u64::from(u16::from_be_bytes(fold(total).to_ne_bytes()))
}

/// Folds a sum to 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn slow(octets: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in octets.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn sum_equals_the_slow_model(octets in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (fast, slow) = (fold(sum(&octets)), slow(&octets));
            prop_assert!(fast == slow || (fast % 0xffff == 0 && slow % 0xffff == 0));
        }

        #[test]
        fn what_is_copied_is_whole_and_its_sum_is_that_of_the_source(
            octets in proptest::collection::vec(any::<u8>(), 0..3000),
            room in 0usize..3000,
        ) {
            let mut copy = vec![0xaa; room];
            let len = room.min(octets.len());
            prop_assert_eq!(fold(copy_and_sum(&octets, &mut copy)), fold(sum(&octets[..len])));
            prop_assert_eq!(&copy[..len], &octets[..len]);
            prop_assert!(copy[len..].iter().all(|b| *b == 0xaa));
        }

        #[test]
        fn headers_survive_a_round_trip(octets: [u8; LEN]) {
            let mut octets = octets;
            octets[0] &= F_NEEDS_CSUM;
            octets[1] &= !GSO_ECN;
            prop_assert_eq!(VnetHeader::read(&octets).unwrap().octets(), octets);
        }
    }

    #[test]
    fn a_short_header_is_none() {
        assert_eq!(VnetHeader::read(&[0; LEN - 1]), None);
    }
}
