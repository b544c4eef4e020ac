//! Multi-queue TUN devices with checksum and segmentation offloads.

use std::ffi::{c_int, c_uint};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use ipnet::IpNet;

use super::queues;
use crate::config::Offloads;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;

const IFF_TUN_EXCL: c_int = 0x8000;
const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
const TUN_F_TSO_ECN: c_uint = 0x08;
const TUN_F_USO4: c_uint = 0x20;
const TUN_F_USO6: c_uint = 0x40;

/// One queue of a TUN device. Each packet is preceded by a `virtio_net_hdr` of [`crate::vnet::LEN`] octets.
#[derive(Debug)]
pub(crate) struct Queue(File);

/// A device and what the kernel granted.
pub(crate) struct Device {
    pub(crate) queues: Vec<Queue>,
    pub(crate) name: String,
    pub(crate) offloads: Offloads,
    pub(crate) steering: bool,
    pub(crate) notes: Vec<String>,
}

/// Creates the device with `queues` queues in the calling thread's network namespace. It lives until its last queue
/// is closed.
pub(crate) fn create(name: &str, queues: u8) -> io::Result<Device> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', '%', ' ']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device name"));
    }
    let mut opened = Vec::with_capacity(usize::from(queues));
    for index in 0..queues {
        // The first must make the device: joining one of somebody else's would mix up the queues.
        opened.push(if index == 0 {
            make_device(name)?
        } else {
            open_queue(name, false)?
        });
    }
    let mut device = Device {
        queues: opened,
        name: name.to_owned(),
        offloads: Offloads::default(),
        steering: false,
        notes: Vec::new(),
    };
    device.negotiate(queues);
    Ok(device)
}

/// Opens the first queue. One of ours that was just closed may be there a moment longer: a process that is being started
/// has copies of all our descriptors until it executes its program.
fn make_device(name: &str) -> io::Result<Queue> {
    const TRIES: usize = 20;
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 1..TRIES {
        match open_queue(name, true) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    open_queue(name, true)
}

fn open_queue(name: &str, is_first: bool) -> io::Result<Queue> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|e| io::Error::new(e.kind(), format!("/dev/net/tun: {e}")))?;
    // SAFETY: an ifreq is plain data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let exclusive = if is_first { IFF_TUN_EXCL } else { 0 };
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | exclusive;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives across the call.
    super::check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })
        .map_err(|e| io::Error::new(e.kind(), format!("TUN device {name}: {e}")))?;
    let size = crate::vnet::LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ takes a pointer to an int, which lives across the call.
    super::check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })?;
    Ok(Queue(file))
}

impl Device {
    /// Asks for as much as the kernel gives and notes what it refuses.
    fn negotiate(&mut self, workers: u8) {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        let steps = [
            (
                tcp | TUN_F_USO4 | TUN_F_USO6,
                Offloads {
                    checksum: true,
                    tcp: true,
                    udp: true,
                },
                "UDP segmentation",
            ),
            (
                tcp,
                Offloads {
                    checksum: true,
                    tcp: true,
                    udp: false,
                },
                "TCP segmentation",
            ),
            (
                TUN_F_CSUM,
                Offloads {
                    checksum: true,
                    tcp: false,
                    udp: false,
                },
                "checksum offload",
            ),
        ];
        let Some(first) = self.queues.first() else { return };
        for (bits, offloads, what) in steps {
            // SAFETY: TUNSETOFFLOAD takes its flags by value.
            match super::check(unsafe {
                libc::ioctl(first.0.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(bits))
            }) {
                Ok(_) => {
                    self.offloads = offloads;
                    break;
                }
                Err(e) => self.notes.push(format!("{what} refused: {e}")),
            }
        }
        if workers < 2 {
            return;
        }
        match first.steer(workers, &[]) {
            Ok(()) => self.steering = true,
            Err(e) => self.notes.push(format!("queue steering refused: {e}")),
        }
    }
}

impl Queue {
    /// Has the device choose queues by inner destination, and by flow for the destinations in `spread`.
    pub(crate) fn steer(&self, workers: u8, spread: &[(IpNet, u32)]) -> io::Result<()> {
        let program = queues::load_queue_program(workers, spread)?;
        let fd: c_int = program.as_raw_fd();
        // SAFETY: TUNSETSTEERINGEBPF takes a pointer to an int (the descriptor of a program), which lives across the
        // call; the device keeps its own reference to the program.
        super::check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const fd) }).map(drop)
    }

    /// Reads one `virtio_net_hdr` and packet; `None` when nothing waits.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.0).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes one packet; the first slice is its `virtio_net_hdr`.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.0).write_vectored(parts).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
