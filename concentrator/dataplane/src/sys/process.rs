//! Clock, priority and life of processes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The time since the machine started, including the time it was suspended: CLOCK_BOOTTIME, which nobody can set.
#[must_use]
pub fn boot_time() -> Duration {
    Duration::from_nanos(boot_nanos())
}

/// [`boot_time`] in nanoseconds; there are 584 years of them.
pub(crate) fn boot_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a timespec at the pointer, which is to one. The call cannot fail for this clock; if it
    // did, the time would stay 0.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// Gives the calling thread real-time priority (SCHED_FIFO), 1 (lowest) to 99. It runs before every ordinary thread until
/// it waits, so it must wait. What it starts has ordinary priority.
///
/// # Errors
/// `PermissionDenied`, saying what is needed, or the system's reason.
pub fn realtime(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // SAFETY: the kernel reads a sched_param at the pointer, which is to one; 0 is the calling thread.
    let done = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    super::check(done).map(drop).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "real-time priority {priority} is not permitted: it needs CAP_SYS_NICE or a limit on real-time \
                 priority (LimitRTPRIO=) of at least as much, and a control group that may use it"
            ),
        ),
        _ => e,
    })
}

/// A process, watched by a descriptor that stays with it: its number may be given to another one, this is not.
#[derive(Debug)]
pub struct Watched(Option<OwnedFd>);

impl Watched {
    /// Watches the process with the number `pid`. One that there is not has ended.
    ///
    /// # Errors
    /// The system's reason.
    pub fn open(pid: u32) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(invalid)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Self(Some(descriptor))),
            Err(rustix::io::Errno::SRCH) => Ok(Self(None)),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for the process to end, at most `timeout`; whether it has. All its threads are gone then, and with them what
    /// they might have sent; it may still be there for its parent to ask how it ended.
    ///
    /// # Errors
    /// The system's reason.
    pub fn wait_for_end(&self, timeout: Duration) -> io::Result<bool> {
        let Some(descriptor) = &self.0 else {
            return Ok(true);
        };
        let until = boot_time().saturating_add(timeout);
        loop {
            let left = Timespec::try_from(until.saturating_sub(boot_time())).ok();
            match poll(&mut [PollFd::new(descriptor, PollFlags::IN)], left.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Waits for the process `pid` to end, at most `timeout`; whether it has, or there is none. See [`Watched`] for watching
/// one again and again.
///
/// # Errors
/// The system's reason.
pub fn wait_for_end(pid: u32, timeout: Duration) -> io::Result<bool> {
    Watched::open(pid)?.wait_for_end(timeout)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use std::process::Command;

    #[test]
    fn the_boot_clock_goes_forward_and_agrees_with_the_kernel() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let first = boot_time();
        assert!((first.as_secs_f64() - uptime).abs() < 1.0, "{first:?}, {uptime}");
        assert!(boot_time() >= first);
    }

    #[test]
    fn the_end_of_a_process_is_noticed_at_once_and_its_life_is_not_taken_for_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let watched = Watched::open(child.id()).unwrap();
        assert!(!watched.wait_for_end(Duration::from_millis(20)).unwrap());
        assert!(!wait_for_end(child.id(), Duration::ZERO).unwrap());
        child.kill().unwrap();
        assert!(watched.wait_for_end(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(
            watched.wait_for_end(Duration::ZERO).unwrap(),
            "also when it is gone"
        );
        assert!(wait_for_end(u32::from(u16::MAX) << 14, Duration::ZERO).is_ok_and(|ended| ended));
        assert!(Watched::open(0).is_err() && Watched::open(u32::MAX).is_err());
    }

    #[test]
    fn real_time_priority_is_given_to_the_calling_thread_or_refused_with_the_reason() {
        let (given, scheduler) = std::thread::spawn(|| {
            let given = realtime(3);
            // SAFETY: no pointers.
            (given, unsafe { libc::sched_getscheduler(0) })
        })
        .join()
        .unwrap();
        match given {
            Ok(()) => assert_eq!(scheduler, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK),
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
                assert!(e.to_string().contains("CAP_SYS_NICE"), "{e}");
            }
        }
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
        assert!(realtime(100).is_err());
    }
}
