//! Shares: in a cluster every slot hands out addresses of its own part of each pool, so that no two nodes ever write
//! the same lease, and inner routes move with the slot.
//!
//! A pool is cut into contiguous blocks. One that is written as a prefix is cut into prefixes: of 10.1.0.0/16 and 16
//! shares, share 3 has 10.1.48.0/20. The network and broadcast addresses belong to the first and the last block, but
//! are not handed out.

use ipnet::IpNet;

use crate::range::AddressRange;

/// Most shares.
pub const MAX_SHARES: u8 = 128;

/// One of equal parts of every pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// Which one, from 0.
    pub index: u8,
    /// How many there are: a power of two, at most [`MAX_SHARES`].
    pub of: u8,
}

impl Share {
    /// The share with the index of a slot, of as many as the highest slot id asks for; `None` for slots of 128 and
    /// more and for one above the highest.
    pub fn of_slot(slot: u8, highest: u8) -> Option<Self> {
        let of = highest.checked_add(1)?.checked_next_power_of_two()?;
        let share = Self { index: slot, of };
        share.bits().map(|_| share)
    }

    /// Binary logarithm of the number of shares; `None` when this is not a share.
    pub(super) fn bits(self) -> Option<u32> {
        let valid = self.of.is_power_of_two() && self.of <= MAX_SHARES && self.index < self.of;
        valid.then(|| self.of.trailing_zeros())
    }

    /// Its addresses of a pool's range; `None`: the pool has fewer addresses than there are shares.
    pub fn block(self, range: &AddressRange) -> Option<AddressRange> {
        let part = self.part(range)?;
        let (first, last) = (range.start().max(part.start()), range.end().min(part.end()));
        AddressRange::new(first, last).ok()
    }

    /// What to route to the share's owner: its block as prefixes, with the pool's network and broadcast addresses.
    pub fn prefixes(self, range: &AddressRange) -> Vec<IpNet> {
        // A block without an address to hand out needs no route.
        self.block(range)
            .and_then(|_| self.part(range))
            .map_or_else(Vec::new, |part| part.prefixes())
    }

    fn part(self, range: &AddressRange) -> Option<AddressRange> {
        whole(range).part(u128::from(self.index), self.bits()?)
    }
}

/// Which of `1 << bits` shares an address of a pool's range is of.
pub(super) fn share_of(range: &AddressRange, address: std::net::IpAddr, bits: u32) -> Option<u8> {
    let index = whole(range).part_of(address, bits)?;
    u8::try_from(index).ok()
}

/// What is cut: the prefix that the range was written as, without whose ends it is handed out, or else the range.
fn whole(range: &AddressRange) -> AddressRange {
    let enclosing = range.enclosing();
    if enclosing.size() - range.size() <= 2 {
        enclosing
    } else {
        *range
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn range(text: &str) -> AddressRange {
        AddressRange::for_pool(text).unwrap()
    }

    fn block(text: &str, index: u8, of: u8) -> Option<String> {
        Share { index, of }
            .block(&range(text))
            .map(|block| block.to_string())
    }

    fn routes(text: &str, index: u8, of: u8) -> Vec<String> {
        let prefixes = Share { index, of }.prefixes(&range(text));
        prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn prefixes_are_cut_into_prefixes() {
        assert_eq!(block("10.1.0.0/16", 3, 16).unwrap(), "10.1.48.0-10.1.63.255");
        assert_eq!(routes("10.1.0.0/16", 3, 16), ["10.1.48.0/20"]);
        assert_eq!(block("10.1.0.0/16", 0, 16).unwrap(), "10.1.0.1-10.1.15.255");
        assert_eq!(routes("10.1.0.0/16", 0, 16), ["10.1.0.0/20"]);
        assert_eq!(block("10.1.0.0/16", 15, 16).unwrap(), "10.1.240.0-10.1.255.254");
        assert_eq!(routes("2001:db8::/64", 127, 128), ["2001:db8:0:0:fe00::/71"]);
        assert_eq!(block("10.1.0.0/16", 0, 1).unwrap(), "10.1.0.1-10.1.255.254");
    }

    #[test]
    fn other_ranges_are_cut_evenly() {
        assert_eq!(block("10.0.0.10-10.0.0.19", 0, 4).unwrap(), "10.0.0.10-10.0.0.12");
        assert_eq!(block("10.0.0.10-10.0.0.19", 1, 4).unwrap(), "10.0.0.13-10.0.0.15");
        assert_eq!(block("10.0.0.10-10.0.0.19", 3, 4).unwrap(), "10.0.0.18-10.0.0.19");
        assert_eq!(
            routes("10.0.0.10-10.0.0.19", 0, 4),
            ["10.0.0.10/31", "10.0.0.12/32"]
        );
    }

    #[test]
    fn a_small_pool_leaves_shares_without_addresses() {
        assert_eq!(block("10.0.0.0/30", 0, 4), None, "the network address alone");
        assert_eq!(block("10.0.0.0/30", 1, 4).unwrap(), "10.0.0.1");
        assert!(routes("10.0.0.0/30", 0, 4).is_empty());
        assert_eq!(block("10.0.0.1", 1, 2), None);
    }

    #[test]
    fn what_is_no_share_has_nothing() {
        assert_eq!(block("10.1.0.0/16", 3, 3), None);
        assert_eq!(block("10.1.0.0/16", 4, 4), None);
        assert_eq!(block("10.1.0.0/16", 0, 0), None);
        assert_eq!(Share::of_slot(0, 0), Some(Share { index: 0, of: 1 }));
        assert_eq!(Share::of_slot(2, 5), Some(Share { index: 2, of: 8 }));
        assert_eq!(Share::of_slot(127, 127), Some(Share { index: 127, of: 128 }));
        assert_eq!(Share::of_slot(128, 128), None);
        assert_eq!(Share::of_slot(255, 255), None);
    }

    #[test]
    fn every_address_is_of_the_share_whose_block_it_is_in() {
        for text in [
            "10.0.0.0/26",
            "10.0.0.10-10.0.0.99",
            "10.0.0.250-10.0.1.9",
            "10.0.0.1-10.0.0.3",
        ] {
            let range = range(text);
            for bits in 0..8 {
                let mut seen = 0;
                for index in 0..1_u8 << bits {
                    let share = Share { index, of: 1 << bits };
                    let Some(block) = share.block(&range) else {
                        continue;
                    };
                    seen += block.size();
                    for offset in 0..block.size() {
                        let address = block.at(offset).unwrap();
                        assert!(range.contains(address));
                        assert_eq!(share_of(&range, address, bits), Some(index));
                    }
                }
                assert_eq!(seen, range.size(), "{text} by {}", 1 << bits);
            }
        }
    }
}
