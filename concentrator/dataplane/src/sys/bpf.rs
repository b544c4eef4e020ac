//! Classic BPF programs that let the kernel choose the right socket, and their attachment.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::config::WORKER_BITS;

type Op = libc::sock_filter;

const LD_LEN: u16 = 0x80; // A = length
const LD_W_ABS: u16 = 0x20; // A = word at k
const LD_W_IND: u16 = 0x40; // A = word at X + k
const LD_H_IND: u16 = 0x48; // A = half-word at X + k
const LD_B_ABS: u16 = 0x30; // A = octet at k
const LDX_MSH: u16 = 0xb1; // X = 4 * (octet at k & 15)
const RSH: u16 = 0x74; // A >>= k
const MOD: u16 = 0x94; // A %= k
const ADD: u16 = 0x04; // A += k
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const RET: u16 = 0x06; // return k
const RET_A: u16 = 0x16; // return A

const fn op(code: u16, k: u32) -> Op {
    Op {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Op {
    Op { code, jt, jf, k }
}

/// Chooses the member of the port 4500 group: member 0 (IKE) for a first word of zero (the non-ESP marker of RFC 3948
/// section 2.2) and for anything shorter than a word (keepalives), else the one behind that of the worker that serves the
/// SPI.
pub(crate) fn steering_program(workers: u8) -> Vec<Op> {
    vec![
        op(LD_LEN, 0),
        jump(JGE, 4, 0, 6),
        op(LD_W_ABS, 0),
        jump(JEQ, 0, 4, 0),
        op(RSH, 32 - WORKER_BITS),
        op(MOD, u32::from(workers.max(1))),
        op(ADD, 1),
        op(RET_A, 0),
        op(RET, 0),
    ]
}

/// Chooses the member of a group that has one for each worker: the one that serves the SPI at the start.
pub(crate) fn forward_program(workers: u8) -> Vec<Op> {
    vec![
        op(LD_LEN, 0),
        jump(JGE, 4, 0, 4),
        op(LD_W_ABS, 0),
        op(RSH, 32 - WORKER_BITS),
        op(MOD, u32::from(workers.max(1))),
        op(RET_A, 0),
        op(RET, 0),
    ]
}

/// Passes to a raw ESP socket over IPv4 (where the packet begins with its IP header) only the SPIs that its worker serves.
pub(crate) fn raw_filter_v4(worker: u8, workers: u8) -> Vec<Op> {
    let mut program = vec![op(LDX_MSH, 0), op(LD_W_IND, 0)];
    program.extend(worker_tail(worker, workers));
    program
}

/// The same over IPv6, where the packet begins with the ESP header.
pub(crate) fn raw_filter_v6(worker: u8, workers: u8) -> Vec<Op> {
    let mut program = vec![op(LD_W_ABS, 0)];
    program.extend(worker_tail(worker, workers));
    program
}

/// Passes to a raw ICMP socket (where the packet begins with its IP header) "fragmentation needed" alone: type 3, code 4.
pub(crate) fn too_big_filter_v4() -> Vec<Op> {
    vec![
        op(LDX_MSH, 0),
        op(LD_H_IND, 0),
        jump(JEQ, 0x0304, 0, 1),
        op(RET, u32::MAX),
        op(RET, 0),
    ]
}

/// Passes to a raw ICMPv6 socket (where the packet begins with the ICMPv6 header) "packet too big" alone: type 2.
pub(crate) fn too_big_filter_v6() -> Vec<Op> {
    vec![op(LD_B_ABS, 0), jump(JEQ, 2, 0, 1), op(RET, u32::MAX), op(RET, 0)]
}

fn worker_tail(worker: u8, workers: u8) -> [Op; 5] {
    [
        op(RSH, 32 - WORKER_BITS),
        op(MOD, u32::from(workers.max(1))),
        jump(JEQ, u32::from(worker), 0, 1),
        op(RET, u32::MAX),
        op(RET, 0),
    ]
}

/// Attaches the steering program to the SO_REUSEPORT group that the socket belongs to.
pub(crate) fn attach_steering(socket: &impl AsFd, program: &[Op]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Attaches a filter to one socket.
pub(crate) fn attach_filter(socket: &impl AsFd, program: &[Op]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

fn attach(socket: &impl AsFd, option: libc::c_int, program: &[Op]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let prog = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter`, which points at that many and is not written to.
    super::check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const prog).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// A classic BPF machine of just the instructions used here.
    fn run(program: &[Op], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
        let word = |at: usize| {
            packet
                .get(at..at + 4)
                .map(|w| u32::from_be_bytes(w.try_into().unwrap()))
        };
        loop {
            let i = program[pc];
            pc += 1;
            match i.code {
                LD_LEN => a = packet.len() as u32,
                LD_W_ABS => match word(i.k as usize) {
                    Some(w) => a = w,
                    None => return 0,
                },
                LD_W_IND => match word((x + i.k) as usize) {
                    Some(w) => a = w,
                    None => return 0,
                },
                LD_H_IND => match packet.get((x + i.k) as usize..(x + i.k) as usize + 2) {
                    Some(h) => a = u32::from(u16::from_be_bytes(h.try_into().unwrap())),
                    None => return 0,
                },
                LD_B_ABS => match packet.get(i.k as usize) {
                    Some(b) => a = u32::from(*b),
                    None => return 0,
                },
                LDX_MSH => match packet.get(i.k as usize) {
                    Some(b) => x = u32::from(b & 15) * 4,
                    None => return 0,
                },
                RSH => a >>= i.k,
                MOD => a %= i.k,
                ADD => a += i.k,
                JEQ => pc += usize::from(if a == i.k { i.jt } else { i.jf }),
                JGE => pc += usize::from(if a >= i.k { i.jt } else { i.jf }),
                RET => return i.k,
                RET_A => return a,
                other => unreachable!("{other:#x}"),
            }
        }
    }

    #[test]
    fn steering_sends_ike_and_keepalives_to_member_zero() {
        let program = steering_program(4);
        assert_eq!(run(&program, &[]), 0);
        assert_eq!(run(&program, &[0xff]), 0);
        assert_eq!(run(&program, &[0xff, 1, 2]), 0);
        assert_eq!(run(&program, &[0, 0, 0, 0, 1, 2, 3, 4]), 0);
    }

    #[test]
    fn steering_sends_esp_to_its_worker() {
        for workers in 1..=8u8 {
            let program = steering_program(workers);
            let forward = forward_program(workers);
            for worker in 0..8u8 {
                let spi = u32::from(worker) << 29 | 0x123;
                let serving = u32::from(crate::serving_worker(spi, workers));
                assert_eq!(run(&program, &spi.to_be_bytes()), serving + 1);
                assert_eq!(run(&forward, &spi.to_be_bytes()), serving);
                assert_eq!(run(&forward, &[spi as u8]), 0);
            }
        }
    }

    #[test]
    fn of_icmp_only_what_was_too_big_passes() {
        let mut v4 = vec![0u8; 32];
        v4[0] = 0x46;
        for (kind, code, pass) in [(3, 4, true), (3, 3, false), (8, 4, false), (0, 0, false)] {
            v4[24..26].copy_from_slice(&[kind, code]);
            assert_eq!(run(&too_big_filter_v4(), &v4) != 0, pass);
            assert_eq!(run(&too_big_filter_v6(), &[kind, code]), 0);
        }
        assert_ne!(run(&too_big_filter_v6(), &[2, 0]), 0);
        assert_eq!(run(&too_big_filter_v4(), &v4[..25]), 0);
    }

    #[test]
    fn raw_filters_pass_only_their_own_worker() {
        let mut v4 = vec![0u8; 24 + 8];
        v4[0] = 0x46;
        for worker in 0..8u8 {
            let spi = (u32::from(worker) << 29 | 0x1000).to_be_bytes();
            v4[24..28].copy_from_slice(&spi);
            for (filter, workers) in (1..=8u8).flat_map(|n| (0..n).map(move |filter| (filter, n))) {
                let pass = if filter == worker % workers { u32::MAX } else { 0 };
                assert_eq!(run(&raw_filter_v4(filter, workers), &v4), pass);
                assert_eq!(run(&raw_filter_v6(filter, workers), &spi), pass);
            }
        }
    }
}
