//! Who carries packets to an inner destination: exact hosts by hash, prefixes by trie, in each the newest last.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use ip::Selector;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

use crate::groups::Group;

/// Groups that the kernel is told of.
const MAX_SPREAD: usize = 256;

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
pub struct Owners(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By domain.
    routes: FxHashMap<u32, Routes<Owner>>,
    groups: FxHashMap<u32, Arc<Group>>,
    numbers: FxHashMap<GroupKey, u32>,
    last: u32,
}

/// Who serves a destination: a worker, alone or with others of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owner {
    worker: u8,
    group: Option<u32>,
}

/// What the pairs of a group have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct GroupKey {
    pub(crate) session: u64,
    pub(crate) domain: u32,
    pub(crate) ts_local: Vec<Selector>,
    pub(crate) ts_remote: Vec<Selector>,
}

/// A pair's part in a group.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) group: Arc<Group>,
    number: u32,
}

impl Owners {
    fn table(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a pair one of its group, which is new if nobody else is in it.
    pub(crate) fn join(&self, key: GroupKey) -> Membership {
        let table = &mut *self.table();
        let number = *table.numbers.entry(key).or_insert_with(|| {
            table.last = table.last.wrapping_add(1);
            table.last
        });
        let group = Arc::clone(table.groups.entry(number).or_default());
        Membership { group, number }
    }

    /// Gives groups up that no pair is in any more.
    fn tidy(table: &mut Table) {
        table.groups.retain(|_, group| Arc::strong_count(group) > 1);
        let groups = &table.groups;
        table.numbers.retain(|_, number| groups.contains_key(number));
    }

    /// Ends a pair's part in its group.
    pub(crate) fn leave(&self, membership: Membership) {
        let table = &mut *self.table();
        let Membership { group, number } = membership;
        drop(group);
        let is_last = table
            .groups
            .get(&number)
            .is_some_and(|group| Arc::strong_count(group) == 1);
        if is_last {
            Self::tidy(table);
        }
    }

    pub(crate) fn add(
        &self,
        domain: u32,
        selectors: &[Selector],
        worker: u8,
        membership: Option<&Membership>,
    ) {
        let group = membership.map(|membership| membership.number);
        let routes = &mut self.table().routes;
        let routes = routes.entry(domain).or_default();
        routes.insert(selectors, Owner { worker, group });
    }

    pub(crate) fn remove(
        &self,
        domain: u32,
        selectors: &[Selector],
        worker: u8,
        membership: Option<&Membership>,
    ) {
        let group = membership.map(|membership| membership.number);
        if let Some(routes) = self.table().routes.get_mut(&domain) {
            routes.remove(selectors, Owner { worker, group });
        }
    }

    /// Forgets everything of a worker that ended.
    pub(crate) fn forget(&self, worker: u8) {
        let table = &mut *self.table();
        for routes in table.routes.values_mut() {
            routes.retain(|owner| owner.worker != worker);
        }
        for group in table.groups.values() {
            group.set(worker, false);
        }
        Self::tidy(table);
    }

    /// The destinations that several workers serve: domain, prefix, a bit for each worker that can send; sorted, of the
    /// first [`MAX_SPREAD`] groups that have been made.
    pub(crate) fn spread(&self) -> Vec<(u32, IpNet, u32)> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut groups: Vec<(&GroupKey, u32, u32)> = table
            .numbers
            .iter()
            .filter_map(|(key, number)| Some((key, *number, table.groups.get(number)?.workers())))
            .filter(|(_, _, workers)| *workers != 0)
            .collect();
        groups.sort_unstable_by_key(|(_, number, _)| *number);
        let mut spread: Vec<(u32, IpNet, u32)> = groups
            .into_iter()
            .take(MAX_SPREAD)
            .flat_map(|(key, _, workers)| {
                let nets = key.ts_remote.iter().flat_map(Selector::to_prefixes);
                nets.map(move |net| (key.domain, net, workers))
            })
            .collect();
        spread.sort_unstable();
        spread
    }

    /// The worker of a flow among those that serve a peer together; each of them has said itself that it can send.
    pub(crate) fn of_group(&self, domain: u32, addr: IpAddr, flow: impl Fn() -> u32) -> Option<u8> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.routes.get(&domain)?.find(addr, |owners| {
            let number = owners.last()?.group?;
            table.groups.get(&number)?.worker_of(flow())
        })
    }

    /// The worker that owns the most specific entry for a destination: the one of a `flow` if several serve the peer
    /// together, otherwise `mine` if it is one of several.
    pub(crate) fn of(&self, domain: u32, addr: IpAddr, mine: u8, flow: impl Fn() -> u32) -> Option<u8> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.routes.get(&domain)?.find(addr, |owners| {
            let newest = owners.last()?;
            let group = newest.group.and_then(|number| table.groups.get(&number));
            if let Some(worker) = group.and_then(|group| group.worker_of(flow())) {
                return Some(worker);
            }
            let own = owners.iter().find(|owner| owner.worker == mine);
            Some(own.unwrap_or(newest).worker)
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
        owners.add(1, &wide, 0, None);
        owners.add(1, &host, 1, None);
        assert_eq!(
            owners.of(1, addr, 0, || 0),
            Some(1),
            "the host entry is more specific"
        );
        assert_eq!(owners.of(2, addr, 0, || 0), None, "another domain");
        owners.forget(1);
        assert_eq!(owners.of(1, addr, 1, || 0), Some(0));
        owners.remove(1, &wide, 0, None);
        assert_eq!(owners.of(1, addr, 1, || 0), None);
    }

    #[test]
    fn a_group_lasts_as_long_as_one_pair_is_in_it() {
        let owners = Owners::default();
        let key = |session: u64| GroupKey {
            session,
            domain: 1,
            ts_local: selectors(&["10.0.0.0/8"]),
            ts_remote: selectors(&["10.9.0.0/16"]),
        };
        let (one, two, other) = (owners.join(key(1)), owners.join(key(1)), owners.join(key(2)));
        assert!(Arc::ptr_eq(&one.group, &two.group) && !Arc::ptr_eq(&one.group, &other.group));
        let addr = "10.9.0.1".parse().unwrap();
        owners.add(1, &selectors(&["10.9.0.0/16"]), 0, Some(&one));
        owners.add(1, &selectors(&["10.9.0.0/16"]), 1, Some(&two));
        assert_eq!(
            owners.of(1, addr, 0, || 5),
            Some(0),
            "nobody can send yet: as without groups"
        );
        one.group.set(0, true);
        one.group.set(1, true);
        let mut seen: Vec<_> = (0..64)
            .filter_map(|flow| owners.of(1, addr, 0, || flow))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1]);
        owners.forget(1);
        assert!((0..64).all(|flow| owners.of(1, addr, 1, || flow) == Some(0)));
        owners.leave(two);
        owners.leave(one);
        owners.leave(other);
        assert!(owners.table().groups.is_empty() && owners.table().numbers.is_empty());
    }
}
