//! A peer that several workers serve, by several pairs for the same traffic (RFC 9611): which of them a flow goes to.
//!
//! ```text
//!   flow ─► worker: the highest rank among those that can send ─► pair: bound to a resource before the first one
//! ```
//!
//! A flow keeps its worker, hence its order, for as long as the set of workers that can send stays the same. When a
//! worker comes or goes, the flows that it gets or had move, and no others. What is under way at their former worker then
//! may be overtaken by what follows: at most the batches that wait for a worker and what it is sealing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use ip::packet::{Fragment, Summary};

/// The workers that can send to one peer. Read for each packet to the peer, written when SAs come and go.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// One bit for each worker.
    can_send: AtomicU32,
}

impl Group {
    /// Says whether a worker has a pair to send by.
    pub(crate) fn set(&self, worker: u8, can_send: bool) {
        let bit = 1_u32.checked_shl(worker.into()).unwrap_or_default();
        if can_send {
            self.can_send.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.can_send.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// The workers that can send, one bit for each.
    pub(crate) fn workers(&self) -> u32 {
        self.can_send.load(Ordering::Acquire)
    }

    /// The worker that a flow goes to; `None` while nobody can send.
    pub(crate) fn worker_of(&self, flow: u32) -> Option<u8> {
        let can_send = self.can_send.load(Ordering::Acquire);
        if can_send.is_power_of_two() {
            return u8::try_from(can_send.trailing_zeros()).ok();
        }
        (0..32_u8)
            .filter(|worker| can_send >> worker & 1 == 1)
            .max_by_key(|worker| rank(flow, *worker))
    }
}

/// The factors of [`flow_of`] and of the mixing behind it, which the kernel's program shares.
pub(crate) const FLOW: (u32, u32) = (0x9e37_79b1, 0x85eb_ca6b);
/// See [`FLOW`].
pub(crate) const MIX: (u32, u32) = (0x7feb_352d, 0x846c_a68b);

/// What tells the ranks of members apart.
pub(crate) fn salt(member: u8) -> u32 {
    (u32::from(member) + 1).wrapping_mul(0x9e37_79b9)
}

/// The rank of a worker or a resource for a flow: the highest one has it, so that others do not matter to who is chosen.
pub(crate) fn rank(flow: u32, member: u8) -> u32 {
    mix(flow ^ salt(member))
}

/// What the packets of a flow have in common. Fragments have no ports to tell them apart by, so they are a flow of their
/// own for each pair of addresses.
pub(crate) fn flow_of(summary: &Summary) -> u32 {
    let ports = match (summary.fragment, summary.ports) {
        (Fragment::No, Some((src, dst))) => u32::from(src) << 16 | u32::from(dst),
        _ => 0,
    };
    let addresses = fold(summary.src)
        .wrapping_mul(FLOW.0)
        .wrapping_add(fold(summary.dst));
    mix(addresses.wrapping_mul(FLOW.1) ^ ports ^ u32::from(summary.protocol))
}

fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32
        }
    }
}

fn mix(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(MIX.0);
    word ^= word >> 15;
    word = word.wrapping_mul(MIX.1);
    word ^ word >> 16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const FLOWS: u32 = 4_000;

    fn owners(group: &Group) -> Vec<u8> {
        (0..FLOWS)
            .map(|flow| group.worker_of(mix(flow)).unwrap())
            .collect()
    }

    #[test]
    fn flows_are_spread_evenly_over_the_workers_that_can_send() {
        let group = Group::default();
        assert_eq!(group.worker_of(7), None);
        for worker in [0, 2, 3, 7] {
            group.set(worker, true);
        }
        let mut counts = [0_u32; 8];
        for owner in owners(&group) {
            counts[usize::from(owner)] += 1;
        }
        for (worker, count) in counts.into_iter().enumerate() {
            let wanted = if [0, 2, 3, 7].contains(&worker) {
                800..1200
            } else {
                0..1
            };
            assert!(wanted.contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn a_worker_that_comes_or_goes_moves_its_own_flows_alone() {
        let group = Group::default();
        group.set(0, true);
        group.set(1, true);
        let before = owners(&group);
        group.set(2, true);
        let more = owners(&group);
        assert!(before.iter().zip(&more).all(|(old, new)| old == new || *new == 2));
        let moved = more.iter().filter(|owner| **owner == 2).count();
        assert!((1_000..1_700).contains(&moved), "{moved}");
        group.set(2, false);
        assert_eq!(owners(&group), before);
        group.set(1, false);
        assert!(owners(&group).iter().all(|owner| *owner == 0));
    }

    #[test]
    fn a_flow_is_its_addresses_protocol_and_ports_and_fragments_go_together() {
        let summary = |src: &str, ports: Option<(u16, u16)>, fragment: Fragment| Summary {
            version: 4,
            src: src.parse().unwrap(),
            dst: "10.0.0.9".parse().unwrap(),
            protocol: 17,
            ports,
            fragment,
            header_len: 20,
            total_len: 100,
            traffic_class: 0,
            dont_fragment: false,
            hop_limit: 64,
        };
        let one = flow_of(&summary("10.0.0.1", Some((1, 2)), Fragment::No));
        assert_eq!(one, flow_of(&summary("10.0.0.1", Some((1, 2)), Fragment::No)));
        assert_ne!(one, flow_of(&summary("10.0.0.1", Some((1, 3)), Fragment::No)));
        assert_ne!(one, flow_of(&summary("10.0.0.2", Some((1, 2)), Fragment::No)));
        let first = flow_of(&summary("10.0.0.1", Some((1, 2)), Fragment::First));
        assert_eq!(first, flow_of(&summary("10.0.0.1", None, Fragment::Later)));
    }
}
