//! The gate before a worker's UDP sockets: an extended BPF program that drops a part of the packets of some classes before
//! they are queued, where a drop costs the worker nothing at all.
//!
//! ```text
//!  SPI ─► map `classes` ─► class (0: not in it) ─► array `table`: chance of a drop, packets and octets dropped
//! ```
//! The array is mapped into the process: a chance is changed by one store, and what was dropped is read without a call.
//!
//! One draw counts for [`RUN`] packets of a class in a row. Packets that follow each other are joined before they are written
//! to the TUN device, if none is missing between them; drawn one by one, those that are let in would cost twice as much.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::Lost;

/// Classes, with that of what is in no map.
pub(crate) const CLASSES: usize = 1024;
/// Packets of a class that are let in or dropped together.
pub(crate) const RUN: u64 = 1 << RUN_BITS;
const RUN_BITS: i32 = 5;
/// SPIs that have a class; more are in class 0.
const SPIS: u32 = 1 << 18;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const MAP_HASH: u32 = 1;
const MAP_ARRAY: u32 = 2;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// From asm-generic/socket.h; `SO_DETACH_FILTER` ends either kind.
const SO_ATTACH_BPF: libc::c_int = 50;

/// One class, as the program and the process see it.
#[repr(C)]
struct Class {
    /// Of 2^32 packets so many are dropped.
    chance: AtomicU64,
    /// Calls that dropped packets would have taken to receive.
    bursts: AtomicU64,
    packets: AtomicU64,
    octets: AtomicU64,
    /// Packets that came while there was a chance, and the number drawn for the present run of them: the program's own. Two
    /// processors may count one packet once.
    _came: AtomicU64,
    _drawn: AtomicU64,
}

/// The gate of one worker's sockets.
#[derive(Debug)]
pub(crate) struct Gate {
    program: OwnedFd,
    classes: OwnedFd,
    table: Table,
}

/// The mapped array.
#[derive(Debug)]
struct Table {
    start: NonNull<[Class; CLASSES]>,
    // Kept so that the map lives at least as long as what is mapped of it.
    _map: OwnedFd,
}

// SAFETY: all fields of the mapped classes are atomic, and the mapping ends only when the last owner drops the table.
unsafe impl Send for Table {}
// SAFETY: as for `Send`; shared access is by atomic operations alone.
unsafe impl Sync for Table {}

const TABLE_OCTETS: usize = CLASSES * size_of::<Class>();

impl Gate {
    /// Makes the maps and loads the program; needs CAP_BPF or CAP_SYS_ADMIN.
    pub(crate) fn new() -> io::Result<Self> {
        let classes = create_map(MAP_HASH, 4, 4, SPIS, NO_PREALLOC)?;
        let map = create_map(MAP_ARRAY, 4, size_of::<Class>() as u32, CLASSES as u32, MMAPABLE)?;
        let program = load(&program(classes.as_raw_fd(), map.as_raw_fd()))?;
        let table = Table::new(map)?;
        Ok(Self {
            program,
            classes,
            table,
        })
    }

    /// Puts the gate before a UDP socket.
    pub(crate) fn close(&self, socket: &impl AsFd) -> io::Result<()> {
        super::socket::set_int(socket, libc::SOL_SOCKET, SO_ATTACH_BPF, self.program.as_raw_fd())
    }

    /// Takes it away; everything comes through.
    pub(crate) fn open(socket: &impl AsFd) -> io::Result<()> {
        super::socket::set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
    }

    /// Puts an SPI into a class. Fails when the map is full.
    pub(crate) fn assign(&self, spi: u32, class: u16) -> io::Result<()> {
        let value = u32::from(class);
        self.element(BPF_MAP_UPDATE_ELEM, spi, Some(&value))
    }

    /// The SPI is gone. One that was never there is no error.
    pub(crate) fn forget(&self, spi: u32) {
        let _ = self.element(BPF_MAP_DELETE_ELEM, spi, None);
    }

    /// Of 2^32 packets of the class, `chance` are dropped from now on.
    pub(crate) fn set(&self, class: u16, chance: u64) {
        if let Some(class) = self.table.get(class) {
            class.chance.store(chance, Ordering::Relaxed);
        }
    }

    /// What the class has lost since the gate was made.
    pub(crate) fn lost(&self, class: u16) -> Lost {
        self.table.get(class).map_or(Lost::default(), |class| Lost {
            bursts: class.bursts.load(Ordering::Relaxed),
            packets: class.packets.load(Ordering::Relaxed),
            octets: class.octets.load(Ordering::Relaxed),
        })
    }

    fn element(&self, command: libc::c_long, key: u32, value: Option<&u32>) -> io::Result<()> {
        /// `union bpf_attr` for operations on elements.
        #[repr(C)]
        struct ElementAttr {
            map: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let attr = ElementAttr {
            map: self.classes.as_raw_fd() as u32,
            pad: 0,
            key: (&raw const key) as u64,
            value: value.map_or(0, |value| (&raw const *value) as u64),
            flags: 0,
        };
        // SAFETY: `attr`, the key and the value (both of the four octets that the map was made for) live across the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ElementAttr>()) };
        super::check(i32::try_from(result).unwrap_or(-1)).map(drop)
    }
}

impl Table {
    fn new(map: OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; its length is that of the map.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                TABLE_OCTETS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, _map: map })
    }

    fn get(&self, class: u16) -> Option<&Class> {
        // SAFETY: the mapping has CLASSES elements of this layout, aligned to a page, zeroed by the kernel; it lives as
        // long as `self`, and kernel and process change it by atomic operations alone.
        unsafe { self.start.as_ref() }.get(usize::from(class))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped, with the same length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), TABLE_OCTETS) };
    }
}

/// One instruction: code, destination (low) and source (high) register, offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
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

fn program(classes: RawFd, table: RawFd) -> Vec<Insn> {
    const LD_ABS_W: u8 = 0x20; // r0 = word of the packet in host order
    const LD_IMM64: u8 = 0x18;
    const LDX_W: u8 = 0x61;
    const LDX_DW: u8 = 0x79;
    const STX_W: u8 = 0x63;
    const STX_DW: u8 = 0x7b;
    const ADD_ATOMIC_DW: u8 = 0xdb;
    const MOV_REG: u8 = 0xbf;
    const MOV_IMM: u8 = 0xb7;
    const ADD_IMM: u8 = 0x07;
    const ADD_REG: u8 = 0x0f;
    const RSH_IMM: u8 = 0x77;
    const JEQ_REG: u8 = 0x1d;
    const JEQ_IMM: u8 = 0x15;
    const JNE_IMM: u8 = 0x55;
    const JLT_IMM: u8 = 0xa5;
    const JGE_REG: u8 = 0x3d;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const MAP_FD: u8 = 1; // source register of LD_IMM64: the immediate is a map's descriptor
    const LOOKUP: i32 = 1;
    const RANDOM: i32 = 7;
    // Of struct __sk_buff.
    const LEN: i16 = 0;
    const GSO_SEGS: i16 = 164;
    // A filter of a UDP socket sees the packet from its UDP header on.
    const SPI: i32 = 8;
    const PASS: i16 = 99;
    let mut code = vec![
        insn(MOV_REG, 6, 1, 0, 0),
        insn(LDX_W, 7, 6, LEN, 0),
        insn(JLT_IMM, 7, 0, PASS, SPI + 4),
        insn(LD_ABS_W, 0, 0, 0, SPI),
        insn(JEQ_IMM, 0, 0, PASS, 0), // IKE
        insn(STX_W, 10, 0, -4, 0),
        insn(LD_IMM64, 1, MAP_FD, 0, classes),
        insn(0, 0, 0, 0, 0),
        insn(MOV_REG, 2, 10, 0, 0),
        insn(ADD_IMM, 2, 0, 0, -4),
        insn(CALL, 0, 0, 0, LOOKUP),
        insn(MOV_IMM, 8, 0, 0, 0),
        insn(JEQ_IMM, 0, 0, 1, 0),
        insn(LDX_W, 8, 0, 0, 0),
        insn(STX_W, 10, 8, -8, 0),
        insn(LD_IMM64, 1, MAP_FD, 0, table),
        insn(0, 0, 0, 0, 0),
        insn(MOV_REG, 2, 10, 0, 0),
        insn(ADD_IMM, 2, 0, 0, -8),
        insn(CALL, 0, 0, 0, LOOKUP),
        insn(JEQ_IMM, 0, 0, PASS, 0),
        insn(MOV_REG, 9, 0, 0, 0),
        insn(LDX_DW, 8, 9, 0, 0),
        insn(JEQ_IMM, 8, 0, PASS, 0),
        insn(LDX_W, 6, 6, GSO_SEGS, 0), // from here on, packets in this burst
        insn(JNE_IMM, 6, 0, 1, 0),
        insn(MOV_IMM, 6, 0, 0, 1),
        insn(LDX_DW, 1, 9, 32, 0),
        insn(MOV_REG, 2, 1, 0, 0),
        insn(ADD_REG, 2, 6, 0, 0),
        insn(STX_DW, 9, 2, 32, 0),
        insn(RSH_IMM, 1, 0, 0, RUN_BITS),
        insn(RSH_IMM, 2, 0, 0, RUN_BITS),
        insn(JEQ_REG, 1, 2, 2, 0), // still the same run
        insn(CALL, 0, 0, 0, RANDOM),
        insn(STX_DW, 9, 0, 40, 0),
        insn(LDX_DW, 0, 9, 40, 0),
        insn(JGE_REG, 0, 8, PASS, 0),
        insn(MOV_IMM, 1, 0, 0, 1),
        insn(ADD_ATOMIC_DW, 9, 1, 8, 0),
        insn(ADD_ATOMIC_DW, 9, 6, 16, 0),
        insn(ADD_ATOMIC_DW, 9, 7, 24, 0),
        insn(MOV_IMM, 0, 0, 0, 0),
        insn(EXIT, 0, 0, 0, 0),
        // The whole packet.
        insn(MOV_IMM, 0, 0, 0, i32::MAX),
        insn(EXIT, 0, 0, 0, 0),
    ];
    let pass = code.len() as i16 - 2;
    for (at, one) in (0..).zip(&mut code) {
        if one.offset == PASS {
            one.offset = pass - at - 1;
        }
    }
    code
}

fn load(code: &[Insn]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct LoadAttr {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
    }
    let attr = LoadAttr {
        kind: PROG_TYPE_SOCKET_FILTER,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
    };
    // SAFETY: `attr` and what it points at (program, license) live across the call; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<LoadAttr>(),
        )
    };
    descriptor(result)
}

fn create_map(kind: u32, key: u32, value: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for BPF_MAP_CREATE.
    #[repr(C)]
    struct CreateAttr {
        kind: u32,
        key: u32,
        value: u32,
        entries: u32,
        flags: u32,
    }
    let attr = CreateAttr {
        kind,
        key,
        value,
        entries,
        flags,
    };
    // SAFETY: `attr` lives across the call; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            &raw const attr,
            size_of::<CreateAttr>(),
        )
    };
    descriptor(result)
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = super::check(i32::try_from(result).unwrap_or(-1))?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::net::UdpSocket;

    /// How many of `count` datagrams with this SPI come through.
    fn through(to: &UdpSocket, spi: u32, count: usize) -> usize {
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut data = [0u8; 40];
        let (head, _) = data.split_at_mut(4);
        head.copy_from_slice(&spi.to_be_bytes());
        let mut got = 0;
        for _ in 0..count {
            from.send_to(&data, to.local_addr().unwrap()).unwrap();
            // What is sent to oneself is there at once.
            got += usize::from(to.recv(&mut [0; 64]).is_ok());
        }
        got
    }

    #[test]
    fn classes_are_dropped_by_chance_and_counted() {
        let gate = match Gate::new() {
            Ok(gate) => gate,
            // Without the privilege there is no gate, and the worker does the same by itself.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return,
            Err(e) => unreachable!("{e}"),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        gate.close(&socket).unwrap();
        gate.assign(0x1234, 7).unwrap();
        gate.assign(0x9999, 8).unwrap();
        assert_eq!(through(&socket, 0x1234, 20), 20);
        gate.set(7, 1 << 32);
        gate.set(8, 1 << 31);
        assert_eq!(through(&socket, 0x1234, 20), 0);
        assert_eq!(
            gate.lost(7),
            Lost {
                bursts: 20,
                packets: 20,
                octets: 20 * 48
            }
        );
        let half = through(&socket, 0x9999, 6_400);
        assert!((2_200..4_200).contains(&half), "{half}");
        assert_eq!(gate.lost(8).packets, 6_400 - half as u64);
        // Runs are let in or dropped as one. Each begins with its number drawn.
        through(&socket, 0x9999, RUN as usize - 1);
        let runs: Vec<usize> = (0..40).map(|_| through(&socket, 0x9999, RUN as usize)).collect();
        assert!(runs.iter().all(|run| [0, RUN as usize].contains(run)), "{runs:?}");
        // What has no class, and IKE beside it.
        assert_eq!(through(&socket, 0x5678, 20), 20);
        gate.set(0, 1 << 32);
        assert_eq!(through(&socket, 0x5678, 20), 0);
        assert_eq!(through(&socket, 0, 20), 20);
        gate.forget(0x1234);
        gate.forget(0x1234);
        gate.set(0, 0);
        assert_eq!(through(&socket, 0x1234, 20), 20);
        Gate::open(&socket).unwrap();
        assert_eq!(through(&socket, 0x9999, 20), 20);
        assert!(Gate::open(&socket).is_err());
    }
}
