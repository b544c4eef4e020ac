//! AF_XDP: the program that picks ESP out of a device's packets, and the sockets and memory by which it gets here without
//! a system call a packet.
//!
//! ```text
//!   device, queue q ──► program: ESP of ours? ──no──► the kernel as ever (IKE, ARP, fragments, …)
//!                            │ yes: map[q · 8 + worker of the SPI]
//!                            ▼
//!     Port of (q, worker 0)   Port of (q, worker 1)      each with rings of its own for frames in and out
//!                 └───────── Pool of q ─────────┘         one memory for frames, rings to lend it to the kernel
//! ```

mod memory;
mod port;
pub(crate) mod program;
mod ring;

pub(crate) use port::{FRAME_LIMIT, Interface, Plan, Port, open};
