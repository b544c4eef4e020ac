//! Packets that arrived at a worker which does not own their SA, on the way to the one that does: in batches.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::io::PortId;
use crate::sys::event::Waker;

/// Batches that may wait for one worker.
const MAX_BATCHES: usize = 64;
/// Octets of packets in one batch.
const MAX_OCTETS: usize = 256 << 10;

/// One packet or burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parcel<'a> {
    /// Where it came from.
    pub origin: Origin,
    /// Its octets, as they arrived.
    pub data: &'a [u8],
}

/// Where a handed-over packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A TUN device: a `virtio_net_hdr` and an inner packet.
    Inner {
        /// The routing domain.
        domain: u32,
    },
    /// A peer: ESP packets.
    Outer {
        /// The peer.
        from: SocketAddr,
        /// The socket, numbered alike at every worker.
        port: PortId,
        /// Octets of each ESP packet.
        segment: usize,
        /// Outer type of service.
        tos: u8,
        /// Another node of the cluster sent it on.
        forwarded: bool,
    },
    /// A router on the way to a peer: an ICMP message about a packet that was too big.
    PathError {
        /// Of ICMP for IPv4, not of ICMPv6.
        is_v4: bool,
    },
}

/// Packets for one worker, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    data: Vec<u8>,
    items: Vec<(Origin, usize)>,
}

impl Batch {
    /// Adds a packet; false when the batch is full.
    pub fn push(&mut self, parcel: Parcel<'_>) -> bool {
        if self.data.len() + parcel.data.len() > MAX_OCTETS {
            return false;
        }
        self.data.extend_from_slice(parcel.data);
        self.items.push((parcel.origin, parcel.data.len()));
        true
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The packets.
    pub fn parcels(&self) -> impl Iterator<Item = Parcel<'_>> {
        let mut rest = &self.data[..];
        self.items.iter().filter_map(move |(origin, len)| {
            let (data, behind) = rest.split_at_checked(*len)?;
            rest = behind;
            Some(Parcel {
                origin: *origin,
                data,
            })
        })
    }
}

/// Where the batches for one worker wait; it outlives the worker's thread.
#[derive(Debug)]
pub(crate) struct Mailbox {
    batches: Mutex<VecDeque<Batch>>,
    pub(crate) waker: Waker,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            batches: Mutex::new(VecDeque::with_capacity(MAX_BATCHES)),
            waker: Waker::new()?,
        })
    }

    /// Leaves a batch and wakes the worker; gives the number of packets lost because too many wait.
    pub(crate) fn post(&self, batch: Batch) -> u64 {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if batches.len() >= MAX_BATCHES {
            return batch.items.len() as u64;
        }
        batches.push_back(batch);
        drop(batches);
        self.waker.wake();
        0
    }

    /// Takes the oldest batch.
    pub(crate) fn take(&self) -> Option<Batch> {
        self.batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        self.batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let mut batch = Batch::default();
        let origin = Origin::Inner { domain: 7 };
        assert!(batch.push(Parcel { origin, data: b"one" }));
        assert!(batch.push(Parcel { origin, data: b"" }));
        assert!(batch.push(Parcel {
            origin,
            data: b"three"
        }));
        let data: Vec<&[u8]> = batch.parcels().map(|p| p.data).collect();
        assert_eq!(data, [&b"one"[..], b"", b"three"]);
        assert!(!batch.push(Parcel {
            origin,
            data: &vec![0; MAX_OCTETS]
        }));
    }

    #[test]
    fn a_full_mailbox_says_how_much_was_lost() {
        let mailbox = Mailbox::new().unwrap();
        let mut batch = Batch::default();
        batch.push(Parcel {
            origin: Origin::Inner { domain: 0 },
            data: b"x",
        });
        for _ in 0..MAX_BATCHES {
            assert_eq!(mailbox.post(batch.clone()), 0);
        }
        assert_eq!(mailbox.post(batch), 1);
        assert_eq!(std::iter::from_fn(|| mailbox.take()).count(), MAX_BATCHES);
    }
}
