//! The extended BPF program by which a TUN device chooses the queue for a packet: the worker that owns the inner
//! destination, the same as [`crate::worker_for`]; for a peer that several workers serve, the one of the flow.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;

use super::ebpf::code::{EXIT, JA, JNE32_IMM, LD_ABS_B, LD_ABS_W, MOV_IMM, MOV_REG};
use super::ebpf::{self, Insn};
use crate::groups;

/// The most peers that several workers serve in one domain whose packets the kernel spreads; those of others are handed
/// over between the workers.
pub(crate) const MAX_SPREAD: usize = 16;

// Codes beside those of `ebpf::code`: r0 = half word, and word behind a register, of the packet; 32 bits of registers.
const LD_ABS_H: u8 = 0x28;
const LD_IND_W: u8 = 0x40;
const MOV32_REG: u8 = 0xbc;
const AND32_IMM: u8 = 0x54;
const LSH32_IMM: u8 = 0x64;
const RSH32_IMM: u8 = 0x74;
const MOD32_IMM: u8 = 0x94;
const MUL32_IMM: u8 = 0x24;
const ADD32_REG: u8 = 0x0c;
const XOR32_REG: u8 = 0xac;
const XOR32_IMM: u8 = 0xa4;
const JEQ32_IMM: u8 = 0x16;
const JLT32_REG: u8 = 0xae;

/// A program under way: jumps go to places that are told later.
#[derive(Default)]
struct Assembly {
    insns: Vec<Insn>,
    /// Jumps by index, with the names of where they go.
    jumps: Vec<(usize, u16)>,
    labels: Vec<(u16, usize)>,
}

const V4: u16 = 0;
const V6: u16 = 1;
const PLAIN: u16 = 2;
const HASH: u16 = 3;
const PORTS: u16 = 4;
const NO_PORTS: u16 = 5;
const OTHER: u16 = 6;
const FIRST_FREE: u16 = 7;

impl Assembly {
    fn op(&mut self, code: u8, dst: u8, src: u8, immediate: u32) {
        self.insns
            .push(Insn::new(code, dst, src, immediate.cast_signed()));
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, immediate: u32, to: u16) {
        self.jumps.push((self.insns.len(), to));
        self.op(code, dst, src, immediate);
    }

    fn label(&mut self, name: u16) {
        self.labels.push((name, self.insns.len()));
    }

    fn finish(mut self) -> Vec<Insn> {
        for (at, to) in self.jumps {
            let target = self.labels.iter().find(|(name, _)| *name == to);
            let distance = target.map(|(_, place)| *place as isize - at as isize - 1);
            if let (Some(jump), Some(distance)) = (self.insns.get_mut(at), distance) {
                jump.go(distance as i16);
            }
        }
        self.insns
    }

    /// The mixing of [`crate::groups`] on a register, by r5.
    fn mix(&mut self, register: u8) {
        for (shift, factor) in [(16, Some(groups::MIX.0)), (15, Some(groups::MIX.1)), (16, None)] {
            self.op(MOV32_REG, 5, register, 0);
            self.op(RSH32_IMM, 5, 0, shift);
            self.op(XOR32_REG, register, 5, 0);
            if let Some(factor) = factor {
                self.op(MUL32_IMM, register, 0, factor);
            }
        }
    }

    /// r0 = the words of the packet at these octets, one exclusive or the other, by r7.
    fn fold(&mut self, words: &[u32]) {
        self.op(MOV_IMM, 7, 0, 0);
        for at in words {
            self.op(LD_ABS_W, 0, 0, *at);
            self.op(XOR32_REG, 7, 0, 0);
        }
    }
}

/// The program for `workers` workers: the worker of the inner destination as [`crate::worker_for`] has it, but for the
/// destinations of `spread`, which have several workers each (a bit for each of them): there the flow tells which, as in
/// [`crate::groups`]. Protocols without the ports of TCP and UDP are told apart by their addresses alone.
fn program(workers: u8, spread: &[(IpNet, u32)]) -> Vec<Insn> {
    let mut spread: Vec<(IpNet, u32)> = spread.to_vec();
    spread.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    spread.truncate(MAX_SPREAD);
    let mut asm = Assembly::default();
    asm.op(MOV_REG, 6, 1, 0);
    asm.op(LD_ABS_B, 0, 0, 0);
    asm.op(RSH32_IMM, 0, 0, 4);
    asm.jump(JEQ32_IMM, 0, 0, 4, V4);
    asm.jump(JEQ32_IMM, 0, 0, 6, V6);
    asm.op(MOV_IMM, 0, 0, 0);
    asm.op(EXIT, 0, 0, 0);
    for (version, label, dst) in [(4, V4, 16), (6, V6, 24)] {
        asm.label(label);
        let nets = spread.iter().enumerate();
        for (index, (net, mask)) in nets.filter(|(_, (net, _))| net.network().is_ipv4() == (version == 4)) {
            let next = FIRST_FREE + index as u16;
            let address = match net.network() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            for (word, octets) in address.chunks_exact(4).enumerate() {
                let left = u32::from(net.prefix_len())
                    .saturating_sub(32 * word as u32)
                    .min(32);
                let netmask = u32::MAX.checked_shl(32 - left).unwrap_or(0);
                if let (1.., Ok(octets)) = (left, <[u8; 4]>::try_from(octets)) {
                    asm.op(LD_ABS_W, 0, 0, dst + 4 * word as u32);
                    asm.op(AND32_IMM, 0, 0, netmask);
                    asm.jump(JNE32_IMM, 0, 0, u32::from_be_bytes(octets) & netmask, next);
                }
            }
            if net.prefix_len() == 0 {
                // Always so; but what follows must not look as if nothing led there.
                asm.op(LD_ABS_B, 0, 0, 0);
                asm.op(RSH32_IMM, 0, 0, 4);
                asm.jump(JNE32_IMM, 0, 0, version, next);
            }
            asm.op(MOV_IMM, 8, 0, *mask);
            asm.jump(JA, 0, 0, 0, HASH);
            asm.label(next);
        }
        asm.op(LD_ABS_W, 0, 0, if version == 4 { 16 } else { 36 });
        asm.jump(JA, 0, 0, 0, PLAIN);
    }
    asm.label(PLAIN);
    asm.op(MOD32_IMM, 0, 0, u32::from(workers.max(1)));
    asm.op(EXIT, 0, 0, 0);
    if !spread.is_empty() {
        flow(&mut asm);
        rank(&mut asm, workers);
    }
    asm.finish()
}

/// r9 = the flow's number.
fn flow(asm: &mut Assembly) {
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    asm.label(HASH);
    asm.op(LD_ABS_B, 0, 0, 0);
    asm.op(RSH32_IMM, 0, 0, 4);
    asm.jump(JEQ32_IMM, 0, 0, 6, OTHER);
    // IPv4: r9 = addresses and protocol.
    asm.op(LD_ABS_W, 0, 0, 12);
    asm.op(MOV32_REG, 9, 0, 0);
    asm.op(MUL32_IMM, 9, 0, groups::FLOW.0);
    asm.op(LD_ABS_W, 0, 0, 16);
    asm.op(ADD32_REG, 9, 0, 0);
    asm.op(MUL32_IMM, 9, 0, groups::FLOW.1);
    asm.op(LD_ABS_B, 0, 0, 0);
    asm.op(AND32_IMM, 0, 0, 15);
    asm.op(LSH32_IMM, 0, 0, 2);
    asm.op(MOV32_REG, 7, 0, 0);
    asm.op(LD_ABS_B, 0, 0, 9);
    asm.op(XOR32_REG, 9, 0, 0);
    // A fragment has no ports that count.
    asm.op(LD_ABS_H, 0, 0, 6);
    asm.op(AND32_IMM, 0, 0, 0x3fff);
    asm.jump(JNE32_IMM, 0, 0, 0, NO_PORTS);
    asm.op(LD_ABS_B, 0, 0, 9);
    asm.jump(JEQ32_IMM, 0, 0, TCP, PORTS);
    asm.jump(JEQ32_IMM, 0, 0, UDP, PORTS);
    asm.jump(JA, 0, 0, 0, NO_PORTS);
    asm.label(OTHER);
    asm.fold(&[8, 12, 16, 20]);
    asm.op(MOV32_REG, 9, 7, 0);
    asm.op(MUL32_IMM, 9, 0, groups::FLOW.0);
    asm.fold(&[24, 28, 32, 36]);
    asm.op(ADD32_REG, 9, 7, 0);
    asm.op(MUL32_IMM, 9, 0, groups::FLOW.1);
    asm.op(LD_ABS_B, 0, 0, 6);
    asm.op(XOR32_REG, 9, 0, 0);
    asm.op(MOV_IMM, 7, 0, 40);
    asm.jump(JEQ32_IMM, 0, 0, TCP, PORTS);
    asm.jump(JEQ32_IMM, 0, 0, UDP, PORTS);
    asm.jump(JA, 0, 0, 0, NO_PORTS);
    asm.label(PORTS);
    asm.op(LD_IND_W, 0, 7, 0);
    asm.op(XOR32_REG, 9, 0, 0);
    asm.label(NO_PORTS);
    asm.mix(9);
}

/// The worker of the highest rank among those of r8.
fn rank(asm: &mut Assembly, workers: u8) {
    let first = FIRST_FREE + MAX_SPREAD as u16;
    asm.op(MOV_IMM, 0, 0, 0);
    asm.op(MOV_IMM, 2, 0, 0);
    for worker in 0..workers {
        let next = first + u16::from(worker);
        asm.op(MOV32_REG, 1, 8, 0);
        asm.op(AND32_IMM, 1, 0, 1 << worker);
        asm.jump(JEQ32_IMM, 1, 0, 0, next);
        asm.op(MOV32_REG, 1, 9, 0);
        asm.op(XOR32_IMM, 1, 0, groups::salt(worker));
        asm.mix(1);
        asm.jump(JLT32_REG, 1, 2, 0, next);
        asm.op(MOV32_REG, 2, 1, 0);
        asm.op(MOV_IMM, 0, 0, u32::from(worker));
        asm.label(next);
    }
    asm.op(EXIT, 0, 0, 0);
}

/// Loads the program; needs CAP_BPF or CAP_SYS_ADMIN (or unprivileged BPF). The first [`MAX_SPREAD`] of `spread` count, the
/// longest prefixes before others.
pub(crate) fn load_queue_program(workers: u8, spread: &[(IpNet, u32)]) -> io::Result<OwnedFd> {
    let program = program(workers, spread);
    ebpf::load(ebpf::PROG_TYPE_SOCKET_FILTER, &program)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::groups::{Group, flow_of};

    /// What the kernel makes of an IP packet.
    fn run(program: &OwnedFd, packet: &[u8]) -> io::Result<u32> {
        ebpf::run(program, &[&[0; 12][..], &[8, 0], packet].concat())
    }

    fn packet(dst: &str, port: u16, protocol: u8, fragment: u16) -> Vec<u8> {
        let dst: IpAddr = dst.parse().unwrap();
        let mut packet = match dst {
            IpAddr::V4(dst) => {
                let mut head = vec![0x45, 0, 0, 48, 0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 9];
                head[6..8].copy_from_slice(&fragment.to_be_bytes());
                head.extend(dst.octets());
                head
            }
            IpAddr::V6(dst) => {
                let mut head = vec![0x60, 0, 0, 0, 0, 28, protocol, 64];
                head.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9]);
                head.extend(dst.octets());
                head
            }
        };
        packet.extend(port.to_be_bytes());
        packet.extend([0, 53, 0, 28, 0, 0]);
        packet.extend([0; 20]);
        packet
    }

    #[test]
    fn the_kernel_chooses_the_worker_that_the_workers_choose() {
        let group = Group::default();
        for worker in [0, 2, 3] {
            group.set(worker, true);
        }
        let nets =
            ["10.7.0.0/16", "2001:db8:7::/48", "10.8.0.9/32"].map(|net| (net.parse().unwrap(), 0b1101));
        let program = match load_queue_program(4, &nets) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return,
            loaded => loaded.unwrap(),
        };
        let mut seen = [0; 4];
        for port in 1_000..1_200 {
            for dst in ["10.7.2.9", "2001:db8:7:1::9", "10.8.0.9"] {
                for (protocol, fragment) in [(6, 0), (17, 0), (17, 0x2000), (17, 7)] {
                    if dst.contains(':') && fragment > 0 {
                        continue;
                    }
                    let packet = packet(dst, port, protocol, fragment);
                    let wanted = group.worker_of(flow_of(&ip::packet::summarize(&packet).unwrap()));
                    let worker = run(&program, &packet).unwrap();
                    assert_eq!(
                        wanted.map(u32::from),
                        Some(worker),
                        "{dst} {port} {protocol} {fragment}"
                    );
                    seen[worker as usize] += 1;
                }
            }
            for dst in ["10.9.2.7", "10.8.0.10", "2001:db8:8::7"] {
                let worker = crate::worker_for(dst.parse().unwrap(), 4);
                assert_eq!(
                    run(&program, &packet(dst, port, 17, 0)).unwrap(),
                    u32::from(worker)
                );
            }
        }
        assert!(
            seen[1] == 0 && seen[0] > 400 && seen[2] > 400 && seen[3] > 400,
            "{seen:?}"
        );
    }

    #[test]
    fn as_many_peers_as_the_program_has_room_for_are_accepted_and_more_do_no_harm() {
        let nets: Vec<(IpNet, u32)> = (0..40)
            .map(|n| (format!("2001:db8:{n}::/48").parse().unwrap(), 0xff))
            .collect();
        let all: Vec<(IpNet, u32)> = ["0.0.0.0/0", "::/0"]
            .map(|net| (net.parse().unwrap(), 3))
            .to_vec();
        match load_queue_program(2, &all) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            loaded => drop(loaded.unwrap()),
        }
        match load_queue_program(8, &nets) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            loaded => drop(loaded.unwrap()),
        }
    }
}
