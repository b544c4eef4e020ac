//! Extended BPF: a small assembler with labels, and the few commands of bpf(2) that are needed: programs, maps, links.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
/// Of `enum bpf_prog_type`.
pub(crate) const PROG_TYPE_SOCKET_FILTER: u32 = 1;
pub(crate) const PROG_TYPE_XDP: u32 = 6;
/// Of `enum bpf_map_type`.
pub(crate) const MAP_TYPE_HASH: u32 = 1;
pub(crate) const MAP_TYPE_XSKMAP: u32 = 17;
/// Of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;

/// Instruction codes of the kernel's `Documentation/bpf/standardization`; `imm` stands for a constant operand.
pub(crate) mod code {
    /// r0 = octet, word of the packet (socket filters only).
    pub(crate) const LD_ABS_B: u8 = 0x30;
    pub(crate) const LD_ABS_W: u8 = 0x20;
    /// dst = octet, half, word at src + offset.
    pub(crate) const LDX_B: u8 = 0x71;
    pub(crate) const LDX_H: u8 = 0x69;
    pub(crate) const LDX_W: u8 = 0x61;
    /// Word or double word at dst + offset = src, or = imm.
    pub(crate) const STX_W: u8 = 0x63;
    pub(crate) const ST_W: u8 = 0x62;
    pub(crate) const ST_DW: u8 = 0x7a;
    /// dst = 64 bits over two instructions.
    pub(crate) const LD_IMM64: u8 = 0x18;
    pub(crate) const MOV_REG: u8 = 0xbf;
    pub(crate) const MOV_IMM: u8 = 0xb7;
    pub(crate) const ADD_REG: u8 = 0x0f;
    pub(crate) const ADD_IMM: u8 = 0x07;
    pub(crate) const AND_IMM: u8 = 0x57;
    pub(crate) const LSH_IMM: u8 = 0x67;
    pub(crate) const RSH_IMM: u8 = 0x77;
    pub(crate) const MOD_IMM: u8 = 0x97;
    /// dst to big-endian; imm says of how many bits.
    pub(crate) const TO_BE: u8 = 0xdc;
    pub(crate) const JA: u8 = 0x05;
    pub(crate) const JEQ_IMM: u8 = 0x15;
    pub(crate) const JGE_IMM: u8 = 0x35;
    pub(crate) const JLT_IMM: u8 = 0xa5;
    pub(crate) const JNE_IMM: u8 = 0x55;
    pub(crate) const JGT_REG: u8 = 0x2d;
    pub(crate) const JLE_REG: u8 = 0xbd;
    pub(crate) const JNE_REG: u8 = 0x5d;
    /// The same of the lower 32 bits.
    pub(crate) const JNE32_IMM: u8 = 0x56;
    pub(crate) const CALL: u8 = 0x85;
    pub(crate) const EXIT: u8 = 0x95;
    /// Source register of LD_IMM64: the constant is the descriptor of a map.
    pub(crate) const PSEUDO_MAP_FD: u8 = 1;
}

/// One instruction: code, destination (low) and source (high) register, offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    /// One that goes nowhere.
    pub(crate) const fn new(code: u8, dst: u8, src: u8, immediate: i32) -> Self {
        Self {
            code,
            registers: src << 4 | dst,
            offset: 0,
            immediate,
        }
    }

    /// A jump over so many instructions.
    pub(crate) fn go(&mut self, distance: i16) {
        self.offset = distance;
    }
}

/// A program under construction; jumps name labels, which may come later.
#[derive(Default)]
pub(crate) struct Assembler {
    program: Vec<Insn>,
    labels: Vec<(&'static str, usize)>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembler {
    /// One instruction.
    pub(crate) fn op(&mut self, code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> &mut Self {
        self.program.push(Insn {
            code,
            registers: src << 4 | dst,
            offset,
            immediate,
        });
        self
    }

    /// A jump to a label.
    pub(crate) fn jump(
        &mut self,
        code: u8,
        dst: u8,
        src: u8,
        immediate: i32,
        label: &'static str,
    ) -> &mut Self {
        self.jumps.push((self.program.len(), label));
        self.op(code, dst, src, 0, immediate)
    }

    /// The place that jumps may name.
    pub(crate) fn label(&mut self, label: &'static str) -> &mut Self {
        self.labels.push((label, self.program.len()));
        self
    }

    /// dst = the map of a descriptor.
    pub(crate) fn map(&mut self, dst: u8, map: &impl AsFd) -> &mut Self {
        let fd = map.as_fd().as_raw_fd();
        self.op(code::LD_IMM64, dst, code::PSEUDO_MAP_FD, 0, fd)
            .op(0, 0, 0, 0, 0)
    }

    /// The program, its jumps resolved.
    pub(crate) fn finish(mut self) -> io::Result<Vec<Insn>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
        for (at, label) in self.jumps {
            let mut places = self.labels.iter().filter(|(name, _)| *name == label);
            let (_, to) = places.next().ok_or_else(wrong)?;
            let distance =
                i64::try_from(*to).map_err(|_| wrong())? - i64::try_from(at).map_err(|_| wrong())? - 1;
            let insn = self.program.get_mut(at).ok_or_else(wrong)?;
            insn.offset = i16::try_from(distance).map_err(|_| wrong())?;
        }
        Ok(self.program)
    }
}

/// One command of bpf(2).
///
/// # Safety
/// `attr` is the variant of `union bpf_attr` that belongs to `command`, of plain data; what its addresses point at has the
/// size that the command expects, lives until the call returns, and may be written to where the command writes.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is exclusively ours and of the stated size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    super::check(libc::c_int::try_from(result).unwrap_or(-1))
}

fn descriptor(result: io::Result<libc::c_int>) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
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

/// Loads a program; needs CAP_BPF (and CAP_NET_ADMIN for XDP) or CAP_SYS_ADMIN. What the verifier refuses is told with its
/// last words.
pub(crate) fn load(prog_type: u32, program: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `program` and `license` live across the call; the kernel only reads them.
    let loaded = unsafe { bpf(BPF_PROG_LOAD, &mut attr) };
    let first = match descriptor(loaded) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => e,
        done => return done,
    };
    let mut log = vec![0u8; 64 << 10];
    attr.log_level = 1;
    attr.log_size = log.len() as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    // SAFETY: as above, and `log` is memory of the stated size to write to.
    let second = descriptor(unsafe { bpf(BPF_PROG_LOAD, &mut attr) });
    second.map_err(|_| {
        let text = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("processed")).collect();
        let last = lines.last().copied().unwrap_or("the verifier gave no reason");
        io::Error::new(first.kind(), format!("{first}: {last}"))
    })
}

/// The head of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// A map whose keys have `K` octets and whose values have four.
#[derive(Debug)]
pub(crate) struct Map<const K: usize>(OwnedFd);

impl<const K: usize> AsFd for Map<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a map.
pub(crate) fn create_map<const K: usize>(map_type: u32, entries: u32) -> io::Result<Map<K>> {
    let mut attr = MapAttr {
        map_type,
        key_size: K as u32,
        value_size: 4,
        max_entries: entries,
        map_flags: 0,
    };
    // SAFETY: nothing is pointed at.
    descriptor(unsafe { bpf(BPF_MAP_CREATE, &mut attr) }).map(Map)
}

/// `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct UpdateAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Sets an entry of a map.
pub(crate) fn set_entry<const K: usize>(map: &Map<K>, key: [u8; K], value: [u8; 4]) -> io::Result<()> {
    let mut attr = UpdateAttr {
        map_fd: map.0.as_raw_fd() as u32,
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value live across the call and have the sizes that the map was made with; they are only read.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches an XDP program to a device, as part of its driver. It stays until the descriptor is closed, if need be by the
/// end of the process.
pub(crate) fn attach_xdp(program: &impl AsFd, index: u32) -> io::Result<OwnedFd> {
    const DRIVER_MODE: u32 = 1 << 2;
    let mut attr = LinkAttr {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        target_ifindex: index,
        attach_type: ATTACH_XDP,
        flags: DRIVER_MODE,
    };
    // SAFETY: nothing is pointed at.
    descriptor(unsafe { bpf(BPF_LINK_CREATE, &mut attr) })
}

/// `union bpf_attr` for BPF_PROG_TEST_RUN.
#[cfg(test)]
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx: [u32; 2],
    ctx_data: [u64; 2],
}

/// What a program answers to a packet.
#[cfg(test)]
pub(crate) fn run(program: &impl AsFd, packet: &[u8]) -> io::Result<u32> {
    let mut attr = RunAttr {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..RunAttr::default()
    };
    // SAFETY: `packet` lives across the call and is only read.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }.map(|_| attr.retval)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn jumps_reach_their_labels_in_both_directions_and_unknown_ones_are_refused() {
        let mut program = Assembler::default();
        program
            .label("start")
            .jump(code::JA, 0, 0, 0, "end")
            .op(code::MOV_IMM, 0, 0, 0, 1)
            .jump(code::JA, 0, 0, 0, "start")
            .label("end")
            .op(code::EXIT, 0, 0, 0, 0);
        let offsets: Vec<i16> = program.finish().unwrap().iter().map(|i| i.offset).collect();
        assert_eq!(offsets, [2, 0, -3, 0]);
        let mut program = Assembler::default();
        program.jump(code::JA, 0, 0, 0, "nowhere");
        assert!(program.finish().is_err());
    }
}
