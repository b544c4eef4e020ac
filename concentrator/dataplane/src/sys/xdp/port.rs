//! The sockets: for each queue of a device one memory for frames, and for each worker a port with rings of its own.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpRingOffset, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::memory::{FRAME, Frame, Mapping, Umem};
use super::program::{self, Facts, Maps};
use super::ring::{Consumer, Descriptor, Entry, Producer, octets};
use crate::sys::announce::Mac;
use crate::sys::ebpf;
use crate::sys::socket::{set_int, set_send_buffer};

pub(crate) use super::program::FRAME_LIMIT;

/// Queues of a device that are served; packets of further ones stay with the kernel.
pub(crate) const MAX_QUEUES: u32 = 16;
/// Frames of a queue for packets in, and as many for packets out.
const FRAMES_IN: u32 = 4096;
const FRAMES_OUT: u32 = 4096;
/// Packets that may wait for a worker, and that a worker may have waiting for the device.
const RING_IN: u32 = 2048;
const RING_OUT: u32 = 1024;
/// Frames that a port takes from its pool at a time.
const SPARE: usize = 64;
/// Frames that a port keeps before it gives them back.
const SPENT: usize = 256;
/// Octets of packets on their way out, for each port.
const SEND_BUFFER: usize = 8 << 20;

/// A device whose ESP comes this way, until this is dropped.
pub(crate) struct Interface {
    /// Packets are written to our memory by the device itself.
    pub(crate) zero_copy: bool,
    /// Queues that are served.
    pub(crate) queues: u32,
    /// The program's attachment: the kernel undoes it when this is closed.
    link: OwnedFd,
}

impl Interface {
    /// Ends it: packets go to the sockets again.
    pub(crate) fn detach(self) {
        drop(self.link);
    }
}

/// What a device is to be opened for.
pub(crate) struct Plan<'a> {
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    pub(crate) workers: u8,
    /// Our addresses with the UDP port of ESP.
    pub(crate) addresses: &'a [(IpAddr, u16)],
    pub(crate) raw_esp: bool,
    /// Only if the driver does it without copying.
    pub(crate) only_zero_copy: bool,
}

/// Opens the sockets of every queue and attaches the program; gives the ports by worker, each worker's in the order of the
/// queues. To be called in the network namespace of the device.
pub(crate) fn open(plan: &Plan<'_>) -> io::Result<(Interface, Vec<Vec<Port>>)> {
    let workers = plan.workers.max(1);
    let mut by_worker: Vec<Vec<Port>> = (0..workers).map(|_| Vec::new()).collect();
    let maps = Maps::new(MAX_QUEUES)?;
    let (mut queues, mut zero_copy) = (0, true);
    while queues < MAX_QUEUES {
        let ports = match open_queue(plan.index, queues, workers) {
            Ok(ports) => ports,
            // The device has no more of them.
            Err(e) if queues > 0 && e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e),
        };
        for ((worker, all), port) in (0..).zip(&mut by_worker).zip(ports) {
            zero_copy &= port.zero_copy;
            maps.add_socket(queues, worker, &port)?;
            all.push(port);
        }
        queues += 1;
        if plan.only_zero_copy && !zero_copy {
            return Err(io::Error::other("the driver has no zero-copy"));
        }
    }
    for (address, port) in plan.addresses {
        maps.add_address(*address, *port)?;
    }
    let facts = Facts {
        mac: plan.mac,
        queues,
        workers,
        raw_esp: plan.raw_esp,
    };
    let program = program::load(&facts, &maps)?;
    let attached = ebpf::attach_xdp(&program, plan.index);
    for port in by_worker.iter().flatten() {
        port.wake();
    }
    let link = attached.map_err(|e| io::Error::new(e.kind(), format!("attaching the program: {e}")))?;
    let interface = Interface {
        zero_copy,
        queues,
        link,
    };
    Ok((interface, by_worker))
}

/// Frames of a queue that are neither lent to the kernel nor held by a port, and the rings to lend them by.
struct Pool {
    fill: Producer<u64>,
    completion: Consumer<u64>,
    free: Vec<Frame>,
}

impl Pool {
    /// Lends frames to the kernel for packets in; true if it has to be told by a call.
    fn lend(&mut self, frames: &mut Vec<Frame>) -> bool {
        // There is room for all that exist.
        while let Some(frame) = frames.pop() {
            if !self.fill.put(frame.address()) {
                frames.push(frame);
                break;
            }
        }
        self.fill.publish();
        self.fill.wants_wakeup()
    }

    /// Frames for packets out.
    fn take(&mut self, want: usize, to: &mut Vec<Frame>) {
        while let Some(address) = self.completion.take() {
            self.free.push(Frame::returned(address));
        }
        self.completion.release();
        to.extend(self.free.drain(self.free.len().saturating_sub(want)..));
    }
}

/// A packet that was received.
#[derive(Debug)]
pub(crate) struct Packet {
    frame: Frame,
    address: u64,
    /// Octets.
    pub(crate) len: usize,
}

/// One worker's end of one queue.
pub(crate) struct Port {
    socket: OwnedFd,
    umem: Arc<Umem>,
    pool: Arc<Mutex<Pool>>,
    rx: Consumer<Descriptor>,
    tx: Producer<Descriptor>,
    /// Frames of packets that were read.
    spent: Vec<Frame>,
    /// Frames to write packets to.
    spare: Vec<Frame>,
    zero_copy: bool,
}

impl Port {
    /// The next packet; it is to be given back.
    pub(crate) fn take(&mut self) -> Option<Packet> {
        let Descriptor { address, len, .. } = self.rx.take()?;
        Some(Packet {
            frame: Frame::returned(address),
            address,
            len: len as usize,
        })
    }

    /// Copies octets of a packet from `at` on; false if it has not so many.
    pub(crate) fn read(&self, packet: &Packet, at: usize, to: &mut [u8]) -> bool {
        at.checked_add(to.len()).is_some_and(|end| end <= packet.len)
            && self.umem.read(&packet.frame, packet.address + at as u64, to)
    }

    /// The packet is done with.
    pub(crate) fn give_back(&mut self, packet: Packet) {
        self.spent.push(packet.frame);
        if self.spent.len() >= SPENT {
            self.settle();
        }
    }

    /// How full the ring of received packets is, 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        self.rx.fill()
    }

    /// Lends what was given back to the kernel again.
    pub(crate) fn settle(&mut self) {
        if !self.spent.is_empty() {
            self.rx.release();
            let wants_wakeup = lock(&self.pool).lend(&mut self.spent);
            if wants_wakeup {
                self.wake();
            }
        }
    }

    /// Has the driver look for frames, where it waits for a call (without copying).
    fn wake(&self) {
        // Whatever it answers: the next frames are told in the same way.
        let _ = rustix::net::recv(&self.socket, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
    }

    /// Puts a packet of two parts in line; false if there is no room. It leaves with [`Port::kick`].
    pub(crate) fn put(&mut self, head: &[u8], body: &[u8]) -> bool {
        if self.spare.is_empty() {
            lock(&self.pool).take(SPARE, &mut self.spare);
        }
        let Some(mut frame) = self.spare.pop() else {
            return false;
        };
        let descriptor = Descriptor {
            address: frame.address(),
            len: (head.len() + body.len()) as u32,
            options: 0,
        };
        let written = self.umem.write(&mut frame, 0, head) && self.umem.write(&mut frame, head.len(), body);
        if written && self.tx.put(descriptor) {
            return true;
        }
        self.spare.push(frame);
        false
    }

    /// Packets in line.
    pub(crate) fn in_line(&self) -> u32 {
        self.tx.unpublished()
    }

    /// Takes everything in line back; gives the number of packets.
    pub(crate) fn withdraw(&mut self) -> u64 {
        let frames = std::iter::from_fn(|| self.tx.take_back());
        let before = self.spare.len();
        self.spare.extend(frames.map(|d| Frame::returned(d.address)));
        (self.spare.len() - before) as u64
    }

    /// Sends what is in line, with one call for many packets. What the device does not take now goes with the next ones.
    pub(crate) fn kick(&mut self) {
        self.tx.publish();
        let mut before = self.tx.waiting();
        while before > 0 && self.tx.wants_wakeup() {
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) => break,
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {}
                // The device is down or gone.
                Err(_) => break,
            }
            // The kernel takes so many a call; without progress it is full.
            let now = self.tx.waiting();
            if now >= before {
                break;
            }
            before = now;
        }
    }

    /// Whether packets go out without being copied by the kernel.
    pub(crate) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Packets lost so far because no frame was free or nobody read them in time.
    pub(crate) fn lost(&self) -> u64 {
        let statistics = sockopt::xdp_statistics(&self.socket);
        statistics.map_or(0, |s| s.rx_dropped + s.rx_ring_full.unwrap_or(0))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_queue(index: u32, queue: u32, workers: u8) -> io::Result<Vec<Port>> {
    let umem = Arc::new(Umem::new(FRAMES_IN + FRAMES_OUT)?);
    let first = new_socket()?;
    sockopt::set_xdp_umem_reg(
        &first,
        XdpUmemReg {
            addr: umem.address(),
            len: umem.len(),
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        },
    )?;
    sockopt::set_xdp_umem_fill_ring_size(&first, FRAMES_IN)?;
    sockopt::set_xdp_umem_completion_ring_size(&first, FRAMES_OUT)?;
    let (rx, tx) = rings(&first)?;
    let offsets = sockopt::xdp_mmap_offsets(&first)?;
    let memory = ring_memory::<u64>(&first, &offsets.fr, FRAMES_IN, XDP_UMEM_PGOFF_FILL_RING)?;
    let mut fill = Producer::new(memory, &offsets.fr, FRAMES_IN)?;
    let memory = ring_memory::<u64>(&first, &offsets.cr, FRAMES_OUT, XDP_UMEM_PGOFF_COMPLETION_RING)?;
    let completion = Consumer::new(memory, &offsets.cr, FRAMES_OUT)?;
    let address = |number: u32| u64::from(number) * FRAME as u64;
    for number in 0..FRAMES_IN {
        fill.put(address(number));
    }
    fill.publish();
    let out = FRAMES_IN..FRAMES_IN + FRAMES_OUT;
    let pool = Pool {
        fill,
        completion,
        free: out.map(|number| Frame::returned(address(number))).collect(),
    };
    let pool = Arc::new(Mutex::new(pool));

    // Without a demand either way the kernel takes zero-copy where the driver has it.
    let at = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP, index, queue);
    rustix::net::bind(&first, &at)?;
    let options = sockopt::xdp_options(&first)?;
    let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    let port = |socket, rx, tx| Port {
        socket,
        umem: Arc::clone(&umem),
        pool: Arc::clone(&pool),
        rx,
        tx,
        spent: Vec::with_capacity(SPENT),
        spare: Vec::with_capacity(SPARE),
        zero_copy,
    };
    let mut ports = vec![port(first, rx, tx)];
    for _ in 1..workers {
        let socket = new_socket()?;
        let (rx, tx) = rings(&socket)?;
        let owner = ports.first().ok_or(io::ErrorKind::NotFound)?;
        let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, index, queue);
        let at = SocketAddrXdpWithSharedUmem {
            addr,
            shared_umem_fd: owner.socket.as_fd(),
        };
        rustix::net::bind(&socket, &at)?;
        ports.push(port(socket, rx, tx));
    }
    Ok(ports)
}

fn new_socket() -> io::Result<OwnedFd> {
    /// The most packets that one call may send, of linux/if_xdp.h; 32 where the kernel does not know it.
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
    set_send_buffer(&socket, SEND_BUFFER);
    let _ = set_int(&socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, 256);
    Ok(socket)
}

/// The rings for packets of a socket.
fn rings(socket: &OwnedFd) -> io::Result<(Consumer<Descriptor>, Producer<Descriptor>)> {
    sockopt::set_xdp_rx_ring_size(socket, RING_IN)?;
    sockopt::set_xdp_tx_ring_size(socket, RING_OUT)?;
    let offsets = sockopt::xdp_mmap_offsets(socket)?;
    let memory = ring_memory::<Descriptor>(socket, &offsets.rx, RING_IN, XDP_PGOFF_RX_RING)?;
    let rx = Consumer::new(memory, &offsets.rx, RING_IN)?;
    let memory = ring_memory::<Descriptor>(socket, &offsets.tx, RING_OUT, XDP_PGOFF_TX_RING)?;
    Ok((rx, Producer::new(memory, &offsets.tx, RING_OUT)?))
}

fn ring_memory<T: Entry>(
    socket: &OwnedFd,
    offsets: &XdpRingOffset,
    size: u32,
    at: u64,
) -> io::Result<Arc<Mapping>> {
    Mapping::of(socket, octets::<T>(offsets, size), at).map(Arc::new)
}
