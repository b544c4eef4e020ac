//! The data plane: sockets, TUN devices and the threads that carry ESP between them. Knows nothing of IKE, tenants or the
//! store; is told what to do by commands and says what happened by events, never a packet at a time.
//!
//! ```text
//!            Holder: owns all sockets and TUN queues, outlives the workers
//!   ┌──────────────────────────────┼───────────────────────────────┐
//!   │ UDP 500, 4500 member 0       │ worker i (a thread)           │ domain d (a TUN device, its queue i)
//!   ▼                              ▼                               ▼
//!  IKE: std sockets     4500 member 1+i, raw ESP  ◄──── Shard ────► virtio_net_hdr + bursts
//!                         GRO in, GSO out          commands, events
//! ```
//! One worker owns a peer's SAs in both directions. The kernel brings packets to the right one: inbound by the top bits
//! of the SPI ([`worker_of_spi`]), outbound by the inner destination ([`worker_for`]); what arrives elsewhere is handed
//! over in batches. With [`OuterMode::Xdp`] ESP comes and goes by AF_XDP beside the sockets.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dataplane::{Config, Domain, Holder};
//! let holder = Holder::open(Config { listen: vec!["192.0.2.1".parse()?], ..Config::default() })?;
//! holder.attach_domain(Domain::new(1, "blue", "vpn-blue"))?;
//! let worker = holder.start_worker(0, Box::new(|event| drop(event)))?;
//! // worker.send(WorkerCommand::Install(..))
//! # drop(worker); Ok(()) }
//! ```

mod address;
mod coalesce;
mod config;
mod fair;
mod fast;
mod forward;
mod forward_io;
mod groups;
mod handover;
mod holder;
mod icmp;
mod io;
mod kernel_io;
mod message;
mod mss;
mod pmtu;
mod routes;
mod segment;
mod shard;
mod sys;
mod vnet;
mod worker;

pub use address::{Address, AddressError, addresses};
pub use config::{
    Config, Domain, DomainReport, Forward, MAX_SLOTS, MAX_WORKERS, MssClamp, Offloads, Outer, OuterMode,
    OuterReport, OuterWay, SLOT_BITS, WORKER_BITS, serving_worker, slot_of_spi, worker_for, worker_of_spi,
};
pub use fair::{Rate, Rates, SharedRates};
pub use handover::{Batch, Origin, Parcel};
pub use holder::{DomainError, Holder, IkeSocket, OpenError, StartError};
pub use io::{Arrival, Lost, PacketIo, PathError, PortId, Refused};
pub use message::{
    Activate, Encap, Limits, Reply, Resource, SaDrops, SaPair, SaStats, WorkerCommand, WorkerCounters,
    WorkerEvent,
};
pub use pmtu::{LEAST_V4, LEAST_V6, PathCounters, PathEvent, PathMtu};
pub use routes::Owners;
pub use segment::{Burst, SegmentError};
pub use shard::{DomainFacts, Flow, Shard};
pub use sys::process::{Watched, boot_time, realtime, wait_for_end};
pub use sys::socket::{Received, allow_bursts, receive_burst};
pub use vnet::{Gso, VnetHeader};
pub use worker::{SendError, WorkerHandle};
