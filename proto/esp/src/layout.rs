//! Where the parts of an ESP packet lie, for one suite: every length that sealing, segmentation and MTUs need.

use crypto::Suite;

/// Octets of SPI and sequence number.
pub const ESP_HEADER: usize = 8;
/// Head room that is enough for every suite: header and a 16-octet IV.
pub const HEAD_ROOM: usize = ESP_HEADER + 16;
/// Tail room that is enough for every suite without TFC padding: 15 octets of padding, pad length, next header, ICV.
pub const TAIL_ROOM: usize = 15 + 2 + 32;

/// What carries ESP between the gateways, with the octets it costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encapsulation {
    /// IP protocol 50 over IPv4.
    RawV4,
    /// IP protocol 50 over IPv6.
    RawV6,
    /// UDP over IPv4 (RFC 3948).
    UdpV4,
    /// UDP over IPv6.
    UdpV6,
}

impl Encapsulation {
    /// Octets before the ESP header.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self {
            Self::RawV4 => 20,
            Self::RawV6 => 40,
            Self::UdpV4 => 28,
            Self::UdpV6 => 48,
        }
    }
}

/// The lengths of one suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Octets of IV on the wire.
    pub iv: usize,
    /// Octets of ICV on the wire.
    pub icv: usize,
    /// Payload, padding, pad length and next header together are a multiple of this, a power of two.
    pub align: usize,
}

impl Layout {
    /// The layout of a suite.
    #[must_use]
    pub fn of(suite: Suite) -> Self {
        //= rfc4303#section-2.4
        //# Specifically, the Pad Length and Next Header fields must be right aligned within a 4-byte word, as illustrated
        //# in the ESP packet format figures above, to ensure that the ICV field (if present) is aligned on a 4-byte
        //# boundary.
        Self {
            iv: suite.iv_len(),
            icv: suite.icv_len(),
            align: suite.block().max(4).next_power_of_two(),
        }
    }

    /// Octets before the payload: SPI, sequence number, IV.
    #[must_use]
    pub const fn head(&self) -> usize {
        ESP_HEADER + self.iv
    }

    /// Octets of padding behind `payload` octets.
    #[must_use]
    pub const fn padding(&self, payload: usize) -> usize {
        self.body_len(payload) - payload - 2
    }

    /// Octets that are encrypted for `payload` octets: with padding, pad length and next header.
    #[must_use]
    #[inline(always)]
    pub const fn body_len(&self, payload: usize) -> usize {
        // A division by what the compiler does not know would be the longest step of sealing.
        let mask = self.align - 1;
        (payload + 2 + mask) & !mask
    }

    /// Whether so many octets can be the encrypted part of a packet.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn is_aligned(&self, body: usize) -> bool {
        body & (self.align - 1) == 0
    }

    /// Octets of the ESP packet around `payload` octets, without TFC padding.
    #[must_use]
    pub const fn sealed_len(&self, payload: usize) -> usize {
        self.head() + self.body_len(payload) + self.icv
    }

    /// The largest payload whose ESP packet has at most `esp` octets; None if there is none.
    #[must_use]
    pub const fn max_payload(&self, esp: usize) -> Option<usize> {
        match esp.checked_sub(self.head() + self.icv) {
            Some(body) => (body - body % self.align).checked_sub(2),
            None => None,
        }
    }

    /// The MTU for inner packets over a path with an MTU of `path` octets.
    #[must_use]
    pub const fn inner_mtu(&self, path: usize, encapsulation: Encapsulation) -> Option<usize> {
        match path.checked_sub(encapsulation.octets()) {
            Some(esp) => self.max_payload(esp),
            None => None,
        }
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
    use crypto::{Cipher, Integrity};

    const INTEGRITY: [Integrity; 4] = [
        Integrity::HmacSha1_96,
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ];

    fn suites() -> impl Iterator<Item = Suite> {
        Cipher::ALL.into_iter().flat_map(|cipher| {
            let aead = Suite::new(cipher, None).ok();
            aead.into_iter().chain(
                INTEGRITY
                    .into_iter()
                    .filter_map(move |i| Suite::new(cipher, Some(i)).ok()),
            )
        })
    }

    #[test]
    fn lengths_agree_with_each_other_for_every_suite() {
        assert_eq!(suites().count(), 4 + 6 * 4);
        for suite in suites() {
            let layout = Layout::of(suite);
            assert!(layout.head() <= HEAD_ROOM);
            for payload in 0..200 {
                let sealed = layout.sealed_len(payload);
                assert!(sealed - layout.head() - payload <= TAIL_ROOM);
                assert!(layout.padding(payload) < layout.align);
                assert_eq!((sealed - layout.head() - layout.icv) % layout.align, 0);
                // The largest payload that fits is at least this one, and is one that fits.
                let most = layout.max_payload(sealed).unwrap();
                assert!(most >= payload && layout.sealed_len(most) <= sealed);
                assert!(layout.sealed_len(most + 1) > sealed);
            }
            assert_eq!(layout.max_payload(layout.head() + layout.icv + 1), None);
        }
    }

    #[test]
    fn inner_mtu_of_an_ethernet_path() {
        let gcm = Layout::of(Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap());
        assert_eq!(gcm.inner_mtu(1500, Encapsulation::UdpV4), Some(1438));
        assert_eq!(gcm.inner_mtu(1500, Encapsulation::RawV6), Some(1426));
        assert_eq!(gcm.inner_mtu(20, Encapsulation::UdpV4), None);
    }
}
