//! The rings between this process and the kernel: one side puts, the other takes, each with a counter of its own that runs
//! through 2^32 and round again.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::xdp::XdpRingOffset;

use super::memory::Mapping;

/// `struct xdp_desc`: a packet in the UMEM.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

/// What may stand in a ring: plain data that is valid whatever its bits are.
pub(super) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for Descriptor {}

#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the memory of all of them.
    _memory: Arc<Mapping>,
    _entry: PhantomData<T>,
}

// SAFETY: what is pointed at belongs to no thread, and the counters are atomic.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn new(memory: Arc<Mapping>, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        if !size.is_power_of_two() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(Self {
            producer: memory.counter(offsets.producer)?,
            consumer: memory.counter(offsets.consumer)?,
            flags: offsets.flags.map(|at| memory.counter(at)).transpose()?,
            entries: memory.place(offsets.desc, size as usize)?,
            size,
            _memory: memory,
            _entry: PhantomData,
        })
    }

    fn produced(&self) -> &AtomicU32 {
        // SAFETY: a counter in the mapping that `_memory` keeps, zeroed by the kernel, changed by atomic stores only.
        unsafe { self.producer.as_ref() }
    }

    fn consumed(&self) -> &AtomicU32 {
        // SAFETY: as for the other counter.
        unsafe { self.consumer.as_ref() }
    }

    /// The place of the entry with a number.
    fn entry(&self, number: u32) -> NonNull<T> {
        let index = number & (self.size - 1);
        // SAFETY: `entries` is followed by `size` of them, a power of two, and the index is smaller.
        unsafe { self.entries.add(index as usize) }
    }
}

/// The octets to map for a ring.
pub(super) fn octets<T>(offsets: &XdpRingOffset, size: u32) -> usize {
    usize::try_from(offsets.desc).unwrap_or(usize::MAX / 2) + size as usize * size_of::<T>()
}

/// The end where this process puts.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Number of the next entry.
    next: u32,
    /// Entries below are the kernel's.
    published: u32,
    /// How far the kernel was when last looked.
    taken: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn new(memory: Arc<Mapping>, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::new(memory, offsets, size)?;
        let (next, taken) = (
            ring.produced().load(Ordering::Relaxed),
            ring.consumed().load(Ordering::Acquire),
        );
        Ok(Self {
            ring,
            next,
            published: next,
            taken,
        })
    }

    /// Puts an entry, which the kernel does not see yet; false if there is no room.
    pub(super) fn put(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.taken) >= self.ring.size {
            self.taken = self.ring.consumed().load(Ordering::Acquire);
            if self.next.wrapping_sub(self.taken) >= self.ring.size {
                return false;
            }
        }
        // SAFETY: the place is within the ring, and the kernel has taken what was in it and does not read it before it is
        // published.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Entries that the kernel does not see yet.
    pub(super) fn unpublished(&self) -> u32 {
        self.next.wrapping_sub(self.published)
    }

    /// Lets the kernel see what was put.
    pub(super) fn publish(&mut self) {
        self.published = self.next;
        self.ring.produced().store(self.next, Ordering::Release);
    }

    /// Takes the entry put last back, if the kernel has not seen it yet.
    pub(super) fn take_back(&mut self) -> Option<T> {
        if self.unpublished() == 0 {
            return None;
        }
        self.next = self.next.wrapping_sub(1);
        // SAFETY: the place is within the ring, was written by `put`, and the kernel does not know of it.
        Some(unsafe { self.ring.entry(self.next).read() })
    }

    /// Published entries that the kernel has not taken yet.
    pub(super) fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumed().load(Ordering::Acquire);
        self.published.wrapping_sub(self.taken)
    }

    /// Whether the kernel wants a call to go on.
    pub(super) fn wants_wakeup(&self) -> bool {
        // SAFETY: a word in the mapping that `_memory` keeps, changed atomically.
        let flags = self.ring.flags.map(|flags| unsafe { flags.as_ref() });
        flags.is_none_or(|flags| flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0)
    }
}

/// The end where this process takes.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Number of the next entry.
    next: u32,
    /// How far the kernel was when last looked.
    put: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn new(memory: Arc<Mapping>, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let ring = Ring::new(memory, offsets, size)?;
        let next = ring.consumed().load(Ordering::Relaxed);
        Ok(Self {
            ring,
            next,
            put: next,
        })
    }

    /// Takes the next entry. Its place is the kernel's again after [`Consumer::release`].
    pub(super) fn take(&mut self) -> Option<T> {
        if self.next == self.put {
            self.put = self.ring.produced().load(Ordering::Acquire);
            if self.next == self.put {
                return None;
            }
        }
        // SAFETY: the place is within the ring, and the kernel has filled it and leaves it alone until it is released.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// The part of the places that the kernel has filled and nobody has taken, 0 to 1.
    pub(super) fn fill(&self) -> f64 {
        let waiting = self
            .ring
            .produced()
            .load(Ordering::Relaxed)
            .wrapping_sub(self.next);
        f64::from(waiting) / f64::from(self.ring.size)
    }

    /// Gives the places of what was taken back.
    pub(super) fn release(&mut self) {
        self.ring.consumed().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use proptest::prelude::*;
    use std::collections::VecDeque;

    use super::*;

    /// Both ends of one ring whose counters begin anywhere: each as the process sees it, the other one playing the kernel.
    fn ends(size: u32, begin: u32) -> (Producer<u64>, Consumer<u64>) {
        let offsets = XdpRingOffset {
            producer: 0,
            consumer: 64,
            desc: 192,
            flags: Some(128),
        };
        let memory = Arc::new(Mapping::anonymous(octets::<u64>(&offsets, size)).unwrap());
        for at in [0, 64] {
            let counter = memory.counter(at).unwrap();
            // SAFETY: the counter is in the mapping, which is alive.
            unsafe { counter.as_ref() }.store(begin, Ordering::Relaxed);
        }
        (
            Producer::new(Arc::clone(&memory), &offsets, size).unwrap(),
            Consumer::new(memory, &offsets, size).unwrap(),
        )
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Put,
        TakeBack,
        Publish,
        Take,
        Release,
    }

    proptest! {
        /// A ring is a bounded queue: whatever the order of the steps and wherever its counters begin (they wrap).
        #[test]
        fn a_ring_is_a_bounded_queue(
            power in 0u32..6,
            begin in prop_oneof![Just(0), (u32::MAX - 40)..=u32::MAX, any::<u32>()],
            steps in prop::collection::vec(prop_oneof![
                4 => Just(Step::Put), 1 => Just(Step::TakeBack), 2 => Just(Step::Publish),
                4 => Just(Step::Take), 2 => Just(Step::Release)
            ], 0..300),
        ) {
            let size = 1 << power;
            let (mut producer, mut consumer) = ends(size, begin);
            let (mut hidden, mut visible, mut held) = (Vec::new(), VecDeque::new(), 0);
            for (number, step) in (0u64..).zip(steps) {
                match step {
                    Step::Put => {
                        let room = hidden.len() + visible.len() + held < size as usize;
                        prop_assert_eq!(producer.put(number), room);
                        hidden.extend(room.then_some(number));
                    }
                    Step::TakeBack => prop_assert_eq!(producer.take_back(), hidden.pop()),
                    Step::Publish => {
                        producer.publish();
                        visible.extend(hidden.drain(..));
                    }
                    Step::Take => {
                        let expected = visible.pop_front();
                        held += usize::from(expected.is_some());
                        prop_assert_eq!(consumer.take(), expected);
                    }
                    Step::Release => {
                        consumer.release();
                        held = 0;
                    }
                }
                prop_assert_eq!(producer.unpublished() as usize, hidden.len());
                prop_assert_eq!(producer.waiting() as usize, visible.len() + held);
                prop_assert_eq!(consumer.fill(), visible.len() as f64 / f64::from(size));
            }
        }
    }

    #[test]
    fn a_size_that_is_no_power_of_two_is_refused() {
        let offsets = XdpRingOffset {
            producer: 0,
            consumer: 64,
            desc: 128,
            flags: None,
        };
        let memory = Arc::new(Mapping::anonymous(4096).unwrap());
        assert!(Producer::<u64>::new(Arc::clone(&memory), &offsets, 3).is_err());
        assert!(Consumer::<u64>::new(Arc::clone(&memory), &offsets, 0).is_err());
        let producer = Producer::<u64>::new(memory, &offsets, 4).unwrap();
        assert!(
            producer.wants_wakeup(),
            "an old kernel has no such flag and is always to be called"
        );
    }
}
