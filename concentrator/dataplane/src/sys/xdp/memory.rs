//! Memory shared with the kernel: mappings, and the frames of a UMEM.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Octets of a frame; a driver keeps the first 256 for itself.
pub(crate) const FRAME: usize = 2048;

/// A mapping of memory, undone when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to no thread; access to it goes through atomics or through frames, each of which has one
// owner.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory, present from the start.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        Self::made(start, len)
    }

    /// What a socket shares at `offset`.
    pub(super) fn of(socket: &impl AsFd, len: usize, offset: u64) -> io::Result<Self> {
        let offset =
            libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_fd().as_raw_fd(),
                offset,
            )
        };
        Self::made(start, len)
    }

    fn made(start: *mut libc::c_void, len: usize) -> io::Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>());
        start
            .map(|start| Self { start, len })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    /// Its address, for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Where `count` values of `T` lie, `offset` octets into it; an error if they do not all lie within, or not aligned.
    pub(super) fn place<T>(&self, offset: u64, count: usize) -> io::Result<NonNull<T>> {
        let outside = || io::Error::from(io::ErrorKind::InvalidData);
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        let size = count.checked_mul(size_of::<T>()).ok_or_else(outside)?;
        let end = offset.checked_add(size).ok_or_else(outside)?;
        if end > self.len {
            return Err(outside());
        }
        // SAFETY: `offset` is at most the length of the mapping, as just seen.
        let place = unsafe { self.start.add(offset) }.cast::<T>();
        if place.is_aligned() {
            Ok(place)
        } else {
            Err(outside())
        }
    }

    /// A counter shared with the kernel.
    pub(super) fn counter(&self, offset: u64) -> io::Result<NonNull<AtomicU32>> {
        self.place(offset, 1)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whatever points into it keeps it alive.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A piece of a UMEM that this process owns at the moment: given by the kernel's rings or never lent. There are no two of
/// one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame(u64);

impl Frame {
    /// The one that a ring has given back, or that was never lent: `address` may point anywhere into it.
    pub(super) fn returned(address: u64) -> Self {
        Self(address - address % FRAME as u64)
    }

    /// Its first octet in the UMEM.
    pub(super) fn address(&self) -> u64 {
        self.0
    }
}

/// The memory for frames.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Mapping,
    frames: u32,
}

impl Umem {
    pub(super) fn new(frames: u32) -> io::Result<Self> {
        Ok(Self {
            memory: Mapping::anonymous(frames as usize * FRAME)?,
            frames,
        })
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn len(&self) -> u64 {
        u64::from(self.frames) * FRAME as u64
    }

    /// Copies octets of a frame, from `from` in the UMEM on, to `to`; false if they are not all in it.
    pub(super) fn read(&self, frame: &Frame, from: u64, to: &mut [u8]) -> bool {
        let Some(place) = self.within(frame, from, to.len()) else {
            return false;
        };
        // SAFETY: `place` is followed by so many octets of the frame, which nobody else uses while its owner holds it;
        // `to` is memory of the process's own.
        unsafe { std::ptr::copy_nonoverlapping(place.as_ptr(), to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies octets into a frame, `at` octets behind its start; false if there is no room for all.
    pub(super) fn write(&self, frame: &mut Frame, at: usize, from: &[u8]) -> bool {
        let Some(place) = self.within(frame, frame.0 + at as u64, from.len()) else {
            return false;
        };
        // SAFETY: as for reading, and the frame is exclusively the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place.as_ptr(), from.len()) };
        true
    }

    fn within(&self, frame: &Frame, from: u64, len: usize) -> Option<NonNull<u8>> {
        let end = from.checked_add(len as u64)?;
        if from < frame.0 || end > frame.0 + FRAME as u64 {
            return None;
        }
        self.memory.place(from, len).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn frames_hold_what_is_written_and_nothing_beyond_their_end() {
        let umem = Umem::new(4).unwrap();
        let mut second = Frame::returned(FRAME as u64 + 300);
        assert_eq!(second.address(), FRAME as u64);
        assert!(umem.write(&mut second, 10, b"hello"));
        assert!(umem.write(&mut second, FRAME - 1, b"x"));
        assert!(!umem.write(&mut second, FRAME - 1, b"xy"));
        let mut octets = [0; 5];
        assert!(umem.read(&second, FRAME as u64 + 10, &mut octets));
        assert_eq!(&octets, b"hello");
        assert!(!umem.read(&second, FRAME as u64 - 1, &mut octets));
        assert!(!umem.read(&second, 2 * FRAME as u64 - 4, &mut octets));
        assert!(!umem.read(&Frame::returned(4 * FRAME as u64), 4 * FRAME as u64, &mut octets));
    }

    #[test]
    fn places_outside_or_not_aligned_are_refused() {
        let memory = Mapping::anonymous(4096).unwrap();
        assert!(memory.place::<u64>(4088, 1).is_ok());
        for (offset, count) in [(4096, 1), (4090, 1), (0, 513), (u64::MAX, 1), (4, 1)] {
            assert!(memory.place::<u64>(offset, count).is_err(), "{offset} {count}");
        }
    }
}
