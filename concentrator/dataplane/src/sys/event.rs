//! Waiting: an epoll set for each worker, and the eventfd that wakes it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// A wake-up call from other threads; cheap to repeat, level-triggered until [`Waker::clear`].
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Wakes the worker. A counter that is full is awake already.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets all wake-ups so far.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// Sources that one wait tells of; the others come next time.
const MAX_EVENTS: usize = 64;

/// An epoll set: each source has a number of the caller's.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn add(&self, source: &impl AsFd, number: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            source,
            epoll::EventData::new_u64(number),
            epoll::EventFlags::IN,
        )?)
    }

    pub(crate) fn add_waker(&self, waker: &Waker, number: u64) -> io::Result<()> {
        self.add(&waker.0, number)
    }

    pub(crate) fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, source)?)
    }

    /// Tells `each` the numbers of the sources with something to read, after at most `timeout`. A signal counts as
    /// nothing.
    pub(crate) fn wait(&self, timeout: Duration, mut each: impl FnMut(u64)) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut room = [MaybeUninit::uninit(); MAX_EVENTS];
        match epoll::wait(&self.0, &mut room[..], Some(&timeout)) {
            Ok((events, _)) => events.iter().for_each(|event| each(event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin_to_core(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
