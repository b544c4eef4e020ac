//! Pairs by the SPI that the peer chose: what an ICMP error quotes is a packet of ours.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::shard::Place;

/// Places of pairs by outbound SPI. Peers choose theirs on their own, so two may have the same.
#[derive(Debug, Default)]
pub(crate) struct ByOutbound(FxHashMap<u32, Places>);

#[derive(Debug)]
enum Places {
    One(Place),
    More(Vec<Place>),
}

impl ByOutbound {
    pub(crate) fn add(&mut self, spi: u32, place: Place) {
        match self.0.entry(spi) {
            Entry::Vacant(entry) => drop(entry.insert(Places::One(place))),
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Places::One(first) => *entry.get_mut() = Places::More(vec![*first, place]),
                Places::More(places) => places.push(place),
            },
        }
    }

    pub(crate) fn remove(&mut self, spi: u32, place: Place) {
        let Entry::Occupied(mut entry) = self.0.entry(spi) else {
            return;
        };
        let is_empty = match entry.get_mut() {
            Places::One(only) => *only == place,
            Places::More(places) => {
                places.retain(|p| *p != place);
                places.is_empty()
            }
        };
        if is_empty {
            entry.remove();
        }
    }

    /// The places of the pairs that send with an SPI.
    pub(crate) fn get(&self, spi: u32) -> &[Place] {
        match self.0.get(&spi) {
            None => &[],
            Some(Places::One(place)) => std::slice::from_ref(place),
            Some(Places::More(places)) => places,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_with_one_spi_are_told_apart() {
        let mut index = ByOutbound::default();
        index.add(7, 1);
        index.add(8, 2);
        index.add(7, 3);
        index.add(7, 4);
        assert_eq!((index.get(7), index.get(8)), (&[1, 3, 4][..], &[2][..]));
        index.remove(7, 3);
        index.remove(8, 9);
        index.remove(9, 9);
        assert_eq!((index.get(7), index.get(8)), (&[1, 4][..], &[2][..]));
        for place in [1, 4, 4] {
            index.remove(7, place);
        }
        index.remove(8, 2);
        assert!(index.get(7).is_empty() && index.0.is_empty());
    }
}
