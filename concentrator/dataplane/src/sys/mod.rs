//! The system calls, and what needs particular instructions: the only module with `unsafe`. Each function is a safe,
//! narrow wrapper of one facility.

#![allow(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why it is sound"
)]

pub(crate) mod announce;
pub(crate) mod bpf;
pub(crate) mod ebpf;
pub(crate) mod event;
pub(crate) mod gate;
pub(crate) mod icmp;
pub(crate) mod interfaces;
pub(crate) mod links;
pub(crate) mod neighbours;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod queues;
pub(crate) mod socket;
pub(crate) mod tun;
pub(crate) mod wide;
pub(crate) mod xdp;

use std::io;

/// The result of a system call that says -1 for "see errno".
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for calls that return a size.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
