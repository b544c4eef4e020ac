//! The extended BPF program by which a TUN device chooses the queue for a packet: the worker that owns the inner
//! destination, the same as [`crate::worker_for`].

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// One instruction: code, destination (low) and source (high) register, offset, immediate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: src << 4 | dst,
        offset,
        immediate,
    }
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Loads the program; needs CAP_BPF or CAP_SYS_ADMIN (or unprivileged BPF).
pub(crate) fn load_queue_program(workers: u8) -> io::Result<OwnedFd> {
    const LD_ABS_B: u8 = 0x30; // r0 = octet of the packet
    const LD_ABS_W: u8 = 0x20; // r0 = word of the packet in host order
    const MOV_REG: u8 = 0xbf;
    const MOV_IMM: u8 = 0xb7;
    const RSH_IMM: u8 = 0x77;
    const MOD_IMM: u8 = 0x97;
    const JEQ_IMM: u8 = 0x15;
    const JA: u8 = 0x05;
    const EXIT: u8 = 0x95;
    let program = [
        insn(MOV_REG, 6, 1, 0, 0),
        insn(LD_ABS_B, 0, 0, 0, 0),
        insn(RSH_IMM, 0, 0, 0, 4),
        insn(JEQ_IMM, 0, 0, 4, 4),
        insn(JEQ_IMM, 0, 0, 1, 6),
        insn(JA, 0, 0, 5, 0),
        insn(LD_ABS_W, 0, 0, 0, 36), // IPv6: the last word of the destination
        insn(JA, 0, 0, 1, 0),
        insn(LD_ABS_W, 0, 0, 0, 16), // IPv4: the destination
        insn(MOD_IMM, 0, 0, 0, i32::from(workers.max(1))),
        insn(EXIT, 0, 0, 0, 0),
        insn(MOV_IMM, 0, 0, 0, 0),
        insn(EXIT, 0, 0, 0, 0),
    ];
    let license = c"Apache-2.0";
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` and what it points at (program, license) live across the call; the kernel only reads them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<LoadAttr>(),
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    super::check(fd)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
