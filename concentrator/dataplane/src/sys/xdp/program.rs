//! The XDP program of one device: ESP to the worker of its SPI, everything else to the kernel.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use crate::config::WORKER_BITS;
use crate::sys::announce::Mac;
use crate::sys::ebpf::{self, Assembler, Insn, Map, code};

/// Octets of the longest frame that is taken; longer ones stay with the kernel. An MTU of 1,500 and the Ethernet header
/// fit, and so does the frame behind what a driver keeps of it.
pub(crate) const FRAME_LIMIT: u16 = 1536;
/// Places of the socket map for each queue, one a worker.
pub(super) const PLACES_A_QUEUE: u32 = 1 << WORKER_BITS;
const PLACES_LOG: i32 = WORKER_BITS as i32;
/// Addresses of ours, at most.
const MAX_ADDRESSES: u32 = 128;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const UDP: i32 = 17;
const ESP: i32 = 50;

/// What the program must know.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The device's own address: frames for others are none of our business.
    pub(crate) mac: Mac,
    /// Queues that have sockets, from 0 on.
    pub(crate) queues: u32,
    pub(crate) workers: u8,
    /// ESP without UDP is taken too.
    pub(crate) raw_esp: bool,
}

/// The maps of one device's program.
pub(crate) struct Maps {
    /// Addresses of ours, with the UDP port of ESP as it stands in a packet.
    addresses: Map<16>,
    sockets: Map<4>,
}

impl Maps {
    pub(crate) fn new(queues: u32) -> io::Result<Self> {
        Ok(Self {
            addresses: ebpf::create_map(ebpf::MAP_TYPE_HASH, MAX_ADDRESSES)?,
            sockets: ebpf::create_map(ebpf::MAP_TYPE_XSKMAP, queues * PLACES_A_QUEUE)?,
        })
    }

    /// Packets to this address are ours, on that UDP port.
    pub(crate) fn add_address(&self, address: IpAddr, port: u16) -> io::Result<()> {
        let key = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let [high, low] = port.to_be_bytes();
        ebpf::set_entry(&self.addresses, key, [high, low, 0, 0])
    }

    /// Packets of this queue for that worker go to the socket.
    pub(crate) fn add_socket(&self, queue: u32, worker: u8, socket: &impl AsFd) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let key = queue * PLACES_A_QUEUE + u32::from(worker);
        let fd = socket.as_fd().as_raw_fd();
        ebpf::set_entry(&self.sockets, key.to_ne_bytes(), fd.to_ne_bytes())
    }
}

/// Loads the program.
pub(crate) fn load(facts: &Facts, maps: &Maps) -> io::Result<OwnedFd> {
    ebpf::load(ebpf::PROG_TYPE_XDP, &program(facts, maps)?)
}

/// A constant as a 16-bit load of a packet in network order gives it.
fn be16(value: u16) -> i32 {
    i32::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// The length guard keeps the keep-alive of one octet (RFC 3948 section 2.3) with the kernel, as do a first word of zero
/// (an IKE message, section 2.2), fragments, IP options, extension headers, VLAN tags, and lengths that are odd in any way:
/// what is not taken here is taken by the sockets, or refused by whoever knows better.
fn program(facts: &Facts, maps: &Maps) -> io::Result<Vec<Insn>> {
    use code::*;
    const PASS: i32 = 2;
    const LOOKUP: i32 = 1;
    const REDIRECT: i32 = 51;
    /// In the register of the destination port: there is none.
    const NO_PORT: i32 = 1 << 16;
    let [m0, m1, m2, m3, m4, m5] = facts.mac;
    let mut p = Assembler::default();
    // r6: context, r2: first octet, r3: behind the last.
    p.op(MOV_REG, 6, 1, 0, 0)
        .op(LDX_W, 2, 1, 0, 0)
        .op(LDX_W, 3, 1, 4, 0)
        .op(MOV_REG, 4, 2, 0, 0)
        .op(ADD_IMM, 4, 0, 0, 14 + 20 + 8 + 4)
        .jump(JGT_REG, 4, 3, 0, "pass")
        .op(MOV_REG, 4, 2, 0, 0)
        .op(ADD_IMM, 4, 0, 0, i32::from(FRAME_LIMIT) + 1)
        .jump(JLE_REG, 4, 3, 0, "pass")
        .op(LDX_W, 4, 2, 0, 0)
        .jump(JNE32_IMM, 4, 0, i32::from_ne_bytes([m0, m1, m2, m3]), "pass")
        .op(LDX_H, 4, 2, 4, 0)
        .jump(JNE_IMM, 4, 0, i32::from(u16::from_ne_bytes([m4, m5])), "pass")
        .op(LDX_H, 4, 2, 12, 0)
        .jump(JEQ_IMM, 4, 0, be16(ETHERTYPE_IPV4), "v4")
        .jump(JNE_IMM, 4, 0, be16(ETHERTYPE_IPV6), "pass")
        // IPv6. r7: behind the IP header, r8: protocol; the key on the stack is the destination.
        .op(MOV_REG, 4, 2, 0, 0)
        .op(ADD_IMM, 4, 0, 0, 14 + 40 + 8 + 4)
        .jump(JGT_REG, 4, 3, 0, "pass");
    for word in 0..4 {
        p.op(LDX_W, 4, 2, 14 + 24 + 4 * word, 0)
            .op(STX_W, 10, 4, -16 + 4 * word, 0);
    }
    p.op(LDX_B, 8, 2, 14 + 6, 0)
        .op(MOV_REG, 7, 2, 0, 0)
        .op(ADD_IMM, 7, 0, 0, 14 + 40)
        .jump(JA, 0, 0, 0, "protocol")
        .label("v4")
        .op(LDX_B, 4, 2, 14, 0)
        .jump(JNE_IMM, 4, 0, 0x45, "pass")
        // More fragments, or not the first.
        .op(LDX_H, 4, 2, 14 + 6, 0)
        .op(AND_IMM, 4, 0, 0, be16(0x3fff))
        .jump(JNE_IMM, 4, 0, 0, "pass")
        .op(ST_DW, 10, 0, -16, 0)
        .op(ST_W, 10, 0, -8, i32::from_ne_bytes([0, 0, 0xff, 0xff]))
        .op(LDX_W, 4, 2, 14 + 16, 0)
        .op(STX_W, 10, 4, -4, 0)
        .op(LDX_B, 8, 2, 14 + 9, 0)
        .op(MOV_REG, 7, 2, 0, 0)
        .op(ADD_IMM, 7, 0, 0, 14 + 20)
        // r9: destination port, r8 from here on: SPI.
        .label("protocol")
        .jump(JEQ_IMM, 8, 0, UDP, "udp");
    if facts.raw_esp {
        p.jump(JNE_IMM, 8, 0, ESP, "pass")
            .op(LDX_W, 8, 7, 0, 0)
            .op(MOV_IMM, 9, 0, 0, NO_PORT)
            .jump(JA, 0, 0, 0, "spi");
    } else {
        p.jump(JA, 0, 0, 0, "pass");
    }
    p.label("udp")
        .op(LDX_H, 4, 7, 4, 0)
        .op(TO_BE, 4, 0, 0, 16)
        .jump(JLT_IMM, 4, 0, 8 + 4, "pass")
        .op(LDX_H, 9, 7, 2, 0)
        .op(LDX_W, 8, 7, 8, 0)
        .label("spi")
        .jump(JEQ_IMM, 8, 0, 0, "pass")
        .map(1, &maps.addresses)
        .op(MOV_REG, 2, 10, 0, 0)
        .op(ADD_IMM, 2, 0, 0, -16)
        .op(CALL, 0, 0, 0, LOOKUP)
        .jump(JEQ_IMM, 0, 0, 0, "pass")
        .jump(JEQ_IMM, 9, 0, NO_PORT, "steer")
        .op(LDX_W, 4, 0, 0, 0)
        .jump(JNE_REG, 4, 9, 0, "pass")
        .label("steer")
        .op(TO_BE, 8, 0, 0, 32)
        .op(RSH_IMM, 8, 0, 0, (u32::BITS - WORKER_BITS) as i32)
        .op(MOD_IMM, 8, 0, 0, i32::from(facts.workers.max(1)))
        // The queue that it came by.
        .op(LDX_W, 4, 6, 16, 0)
        .jump(
            JGE_IMM,
            4,
            0,
            i32::try_from(facts.queues).unwrap_or(i32::MAX),
            "pass",
        )
        .op(LSH_IMM, 4, 0, 0, PLACES_LOG)
        .op(ADD_REG, 8, 4, 0, 0)
        .map(1, &maps.sockets)
        .op(MOV_REG, 2, 8, 0, 0)
        // Where no socket is, the kernel's.
        .op(MOV_IMM, 3, 0, 0, PASS)
        .op(CALL, 0, 0, 0, REDIRECT)
        .op(EXIT, 0, 0, 0, 0)
        .label("pass")
        .op(MOV_IMM, 0, 0, 0, PASS)
        .op(EXIT, 0, 0, 0, 0);
    p.finish()
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
