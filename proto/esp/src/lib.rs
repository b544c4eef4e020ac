//! Sans-IO ESP in tunnel mode (RFC 4303): seals inner packets and opens received ones in place, alone or in batches.
//! Performs no I/O, knows no clock, allocates nothing per packet, and answers everything it cannot use with a
//! [`DropReason`] instead of a panic.
//!
//! ```text
//!  buf   ├── head room ──┤├──────── inner packet ────────┤├───────────── tail room ─────────────┤
//!        ┌─────┬─────┬────┬──────────────────────────────┬─────┬─────┬─────┬──────┬────────────┐
//!  ESP   │ SPI │ seq │ IV │ inner packet                 │ TFC │ pad │ len │ next │ ICV        │
//!        └─────┴─────┴────┴──────────────────────────────┴─────┴─────┴─────┴──────┴────────────┘
//!          4     4    8/16                                                           12..32
//! ```
//! * [`OutboundSa::seal`] takes the range of an inner packet in a buffer and gives that of the ESP packet around it;
//!   [`InboundSa::open`] goes the other way.
//! * `seal_batch` and `open_batch` take packets in buffers of their own ([`PacketBuf`]).
//! * `seal_burst` and `open_burst` take one slab of equal segments that touch each other, as UDP_SEGMENT sends them and
//!   UDP_GRO delivers them; [`Layout::sealed_len`] gives the distance from one to the next.
//!
//! [`tunnel`] holds the rules for outer headers, [`ReplayWindow`] the window, [`DropCounters`] the counts.
#![deny(clippy::indexing_slicing, missing_docs)]

mod batch;
mod drop_reason;
mod inbound;
mod layout;
mod outbound;
mod replay;
pub mod tunnel;

pub use batch::{BATCH, PacketBuf};
pub use drop_reason::{DropCounters, DropReason};
pub use inbound::{InboundParams, InboundSa, Opened};
pub use layout::{ESP_HEADER, Encapsulation, HEAD_ROOM, Layout, TAIL_ROOM};
pub use outbound::{Burst, OutboundParams, OutboundSa, Usage, last_sequence};
pub use replay::{MAX_WINDOW, MIN_WINDOW, ReplayWindow};
