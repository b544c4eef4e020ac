//! Who carries packets to an inner destination: exact hosts by hash, prefixes by trie, in each the newest last.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use ip::Selector;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

/// Values by the destinations that selectors cover.
#[derive(Debug)]
pub(crate) struct Routes<V> {
    hosts: FxHashMap<IpAddr, Vec<V>>,
    v4: PrefixMap<Ipv4Net, Vec<V>>,
    v6: PrefixMap<Ipv6Net, Vec<V>>,
}

impl<V> Default for Routes<V> {
    fn default() -> Self {
        Self {
            hosts: FxHashMap::default(),
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
        }
    }
}

impl<V: Copy + PartialEq> Routes<V> {
    /// Adds a value for everything that the selectors cover.
    pub(crate) fn insert(&mut self, selectors: &[Selector], value: V) {
        for net in selectors.iter().flat_map(Selector::to_prefixes) {
            match net {
                _ if net.prefix_len() == net.max_prefix_len() => {
                    self.hosts.entry(net.addr()).or_default().push(value)
                }
                IpNet::V4(net) => self.v4.entry(net).or_default().push(value),
                IpNet::V6(net) => self.v6.entry(net).or_default().push(value),
            }
        }
    }

    /// Removes it again, once for each time it was added.
    pub(crate) fn remove(&mut self, selectors: &[Selector], value: V) {
        let take = |values: &mut Vec<V>| {
            if let Some(at) = values.iter().rposition(|v| *v == value) {
                values.remove(at);
            }
            values.is_empty()
        };
        for net in selectors.iter().flat_map(Selector::to_prefixes) {
            match net {
                _ if net.prefix_len() == net.max_prefix_len() => {
                    if self.hosts.get_mut(&net.addr()).is_some_and(take) {
                        self.hosts.remove(&net.addr());
                    }
                }
                IpNet::V4(net) => {
                    if self.v4.get_mut(&net).is_some_and(take) {
                        self.v4.remove(&net);
                    }
                }
                IpNet::V6(net) => {
                    if self.v6.get_mut(&net).is_some_and(take) {
                        self.v6.remove(&net);
                    }
                }
            }
        }
    }

    /// Removes every value for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        let trim = |values: &mut Vec<V>| {
            values.retain(|v| keep(v));
            !values.is_empty()
        };
        self.hosts.retain(|_, values| trim(values));
        for (_, values) in self.v4.iter_mut() {
            trim(values);
        }
        self.v4.retain(|_, values| !values.is_empty());
        for (_, values) in self.v6.iter_mut() {
            trim(values);
        }
        self.v6.retain(|_, values| !values.is_empty());
    }

    /// The values of exactly this host.
    pub(crate) fn host(&self, addr: IpAddr) -> &[V] {
        self.hosts.get(&addr).map_or(&[], Vec::as_slice)
    }

    /// The first answer of `choose` to the values of the host, then of each prefix that holds it, longest first.
    pub(crate) fn find<T>(&self, addr: IpAddr, mut choose: impl FnMut(&[V]) -> Option<T>) -> Option<T> {
        if let Some(found) = self.hosts.get(&addr).and_then(|values| choose(values)) {
            return Some(found);
        }
        match addr {
            IpAddr::V4(addr) => longest_first(&self.v4, &Ipv4Net::from(addr), choose),
            IpAddr::V6(addr) => longest_first(&self.v6, &Ipv6Net::from(addr), choose),
        }
    }
}

fn longest_first<P: prefix_trie::Prefix, V, T>(
    map: &PrefixMap<P, Vec<V>>,
    host: &P,
    mut choose: impl FnMut(&[V]) -> Option<T>,
) -> Option<T> {
    let (_, longest) = map.get_lpm(host)?;
    if let Some(found) = choose(longest) {
        return Some(found);
    }
    // Rare: the longest prefix has other selectors (protocol, port, source).
    let all: Vec<&Vec<V>> = map.cover_values(host).collect();
    all.into_iter().rev().skip(1).find_map(|values| choose(values))
}

/// Which worker owns the SAs of which destination, for all workers. Locked only for packets that the worker at which they
/// arrived has no exact host entry for.
#[derive(Debug, Default)]
pub struct Owners(RwLock<FxHashMap<u32, Routes<u8>>>);

impl Owners {
    pub(crate) fn add(&self, domain: u32, selectors: &[Selector], worker: u8) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(domain)
            .or_default()
            .insert(selectors, worker);
    }

    pub(crate) fn remove(&self, domain: u32, selectors: &[Selector], worker: u8) {
        if let Some(routes) = self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&domain)
        {
            routes.remove(selectors, worker);
        }
    }

    /// Forgets everything of a worker that ended.
    pub(crate) fn forget(&self, worker: u8) {
        for routes in self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .values_mut()
        {
            routes.retain(|owner| *owner != worker);
        }
    }

    /// The worker that owns the most specific entry for a destination, `mine` if it is one of several.
    pub(crate) fn of(&self, domain: u32, addr: IpAddr, mine: u8) -> Option<u8> {
        let owners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(&domain)?.find(addr, |workers| {
            workers
                .iter()
                .copied()
                .find(|w| *w == mine)
                .or(workers.last().copied())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn selectors(list: &[&str]) -> Vec<Selector> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    fn order(routes: &Routes<u32>, addr: &str) -> Vec<u32> {
        let mut seen = Vec::new();
        routes.find(addr.parse().unwrap(), |values| {
            seen.extend_from_slice(values);
            None::<()>
        });
        seen
    }

    #[test]
    fn hosts_come_before_longer_prefixes_before_shorter_ones() {
        let mut routes = Routes::default();
        routes.insert(&selectors(&["0.0.0.0/0", "::/0"]), 1);
        routes.insert(&selectors(&["10.1.0.0/16", "10.1.2.0/24"]), 2);
        routes.insert(&selectors(&["10.1.2.3/32"]), 3);
        assert_eq!(order(&routes, "10.1.2.3"), [3, 2, 2, 1]);
        assert_eq!(order(&routes, "10.1.9.9"), [2, 1]);
        assert_eq!(order(&routes, "fd00::1"), [1]);
        routes.remove(&selectors(&["10.1.0.0/16", "10.1.2.0/24"]), 2);
        routes.remove(&selectors(&["10.1.2.3/32"]), 3);
        assert_eq!(order(&routes, "10.1.2.3"), [1]);
        assert!(routes.host("10.1.2.3".parse().unwrap()).is_empty());
    }

    #[test]
    fn a_range_is_covered_by_prefixes_and_hosts() {
        let mut routes = Routes::default();
        routes.insert(&selectors(&["10.0.0.1-10.0.0.6"]), 9);
        assert_eq!(order(&routes, "10.0.0.0"), Vec::<u32>::new());
        for last in 1..=6 {
            assert_eq!(order(&routes, &format!("10.0.0.{last}")), [9]);
        }
        assert_eq!(order(&routes, "10.0.0.7"), Vec::<u32>::new());
    }

    #[test]
    fn owners_forget_a_worker_and_only_it() {
        let owners = Owners::default();
        let (wide, host) = (selectors(&["10.0.0.0/8"]), selectors(&["10.0.0.5"]));
        let addr = "10.0.0.5".parse().unwrap();
        owners.add(1, &wide, 0);
        owners.add(1, &host, 1);
        assert_eq!(owners.of(1, addr, 0), Some(1), "the host entry is more specific");
        assert_eq!(owners.of(2, addr, 0), None, "another domain");
        owners.forget(1);
        assert_eq!(owners.of(1, addr, 1), Some(0));
        owners.remove(1, &wide, 0);
        assert_eq!(owners.of(1, addr, 1), None);
    }
}
