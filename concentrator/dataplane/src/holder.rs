//! The owner of every socket and TUN queue. Workers borrow; when one dies, what it used is still open and in place, so
//! its successor gets the same: reopening one socket of a SO_REUSEPORT group would reorder the others.

mod open;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::OuterReport;
use crate::config::{Config, Domain, DomainReport, MAX_SLOTS, MAX_WORKERS};
use crate::fair::{Rates, SharedRates};
use crate::fast::Place;
use crate::fast::open::{self as fast, Opened};
use crate::forward::{Envelope, Kind};
use crate::forward_io::ForwardPort;
use crate::handover::Mailbox;
use crate::message::{WorkerCommand, WorkerEvent};
use crate::pmtu::PathMtu;
use crate::routes::Owners;
use crate::shard::DomainFacts;
use crate::sys::icmp::{IcmpSocket, LinkProbe};
use crate::sys::netlink::{self, Netlink};
use crate::sys::xdp::Interface;
use crate::sys::{netns, tun};
use crate::worker::{self, Control, DomainQueue, Running, WorkerHandle, WorkerPorts};

/// How long workers may take to let go of a routing domain.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// A socket could not be opened.
    #[error("{what} on {address}: {source}")]
    Socket {
        /// What it was for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Why a routing domain cannot be served or changed.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// There is one with the number.
    #[error("routing domain {0} is attached already")]
    Exists(u32),
    /// There is none with the number.
    #[error("no routing domain {0}")]
    Unknown(u32),
    /// The system refused.
    #[error("routing domain {name}: {source}")]
    System {
        /// Its name.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has fewer.
    #[error("no worker {0}")]
    Unknown(u8),
    /// It runs.
    #[error("worker {0} is running")]
    Running(u8),
    /// The system refused a thread or what it needs.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A socket for IKE.
#[derive(Debug)]
pub struct IkeSocket {
    /// Non-blocking.
    pub socket: UdpSocket,
    /// Where it is bound.
    pub local: SocketAddr,
    /// It is of the port with NAT traversal: messages have four zero octets in front, in both directions, and
    /// keepalives of one octet 0xFF arrive too.
    pub nat: bool,
}

/// Sockets, TUN queues and threads of the data plane.
pub struct Holder {
    workers: u8,
    cores: Vec<usize>,
    busy_wait: Duration,
    ike: Vec<IkeSocket>,
    until: Option<Arc<AtomicU64>>,
    /// Sockets for ICMP errors, which the first worker reads.
    errors: Arc<[IcmpSocket]>,
    link_probe: Arc<LinkProbe>,
    path_mtu: PathMtu,
    path_mtu_trouble: Option<io::Error>,
    /// The socket of each worker for packets that came to the wrong node.
    forwards: Vec<Arc<ForwardPort>>,
    /// The sockets of each worker.
    ports: Vec<Arc<WorkerPorts>>,
    mailboxes: Arc<[Mailbox]>,
    owners: Arc<Owners>,
    state: Mutex<State>,
    /// AF_XDP's part for each worker, where it is used.
    fast: Vec<Place>,
    outer: Vec<OuterReport>,
    /// Keeps AF_XDP's programs attached.
    _interfaces: Vec<Interface>,
    /// By slot: where its owner takes what came to the wrong node.
    slot_owners: Mutex<[Option<SocketAddr>; MAX_SLOTS as usize]>,
}

#[derive(Default)]
struct State {
    domains: BTreeMap<u32, Attached>,
    running: BTreeMap<u8, Running>,
}

struct Attached {
    name: String,
    facts: DomainFacts,
    netlink: Netlink,
    index: u32,
    queues: Vec<Arc<tun::Queue>>,
    /// Each route with the number of times it was added.
    routes: BTreeMap<IpNet, usize>,
}

impl Holder {
    /// Opens every socket.
    ///
    /// # Errors
    /// [`OpenError`], with nothing left open.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        if config.workers == 0 || config.workers > MAX_WORKERS {
            return Err(OpenError::Config("the number of workers must be 1 to 8"));
        }
        let name = config.netns.clone();
        let (mut sockets, mut opened) = (None, Opened::default());
        let (mut errors, mut link_probe) = (Ok(Vec::new()), None);
        // What failed inside is wanted whole, not as an io::Error.
        netns::within(name.as_deref(), || {
            let all = open::sockets(&config);
            if let Ok((ike, ..)) = &all {
                let local: Vec<SocketAddr> = ike.iter().filter(|s| s.nat).map(|s| s.local).collect();
                opened = fast::open(&config, &local);
            }
            sockets = Some(all);
            if config.path_mtu.learn {
                errors = [true, false].into_iter().map(IcmpSocket::open).collect();
            }
            link_probe = Some(LinkProbe::open());
            Ok(())
        })?;
        let (errors, path_mtu_trouble) = match errors {
            Ok(errors) => (errors, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let (ike, ports, forwards) = sockets.unwrap_or(Err(OpenError::Config("no sockets")))?;
        let mailboxes = (0..config.workers)
            .map(|_| Mailbox::new())
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            workers: config.workers,
            cores: config.cores,
            busy_wait: config.busy_wait,
            ike,
            until: config.until,
            errors: errors.into(),
            link_probe: Arc::new(link_probe.unwrap_or_else(LinkProbe::open)),
            path_mtu: config.path_mtu,
            path_mtu_trouble,
            forwards: forwards.into_iter().map(Arc::new).collect(),
            ports: ports.into_iter().map(Arc::new).collect(),
            mailboxes: mailboxes.into(),
            owners: Arc::default(),
            state: Mutex::default(),
            fast: opened.places,
            outer: opened.reports,
            _interfaces: opened.interfaces,
            slot_owners: Mutex::new([None; MAX_SLOTS as usize]),
        })
    }

    /// How many workers there may be.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// What became of [`Config::outer`], for each interface; empty with sockets alone.
    pub fn outer(&self) -> &[OuterReport] {
        &self.outer
    }

    /// Why path MTUs are not learned although [`PathMtu::learn`] says so: the system refused the sockets for ICMP.
    pub fn path_mtu_trouble(&self) -> Option<&io::Error> {
        self.path_mtu_trouble.as_ref()
    }

    /// The sockets for IKE: further descriptors of those the holder keeps. Whoever reads those of the port with NAT
    /// traversal should [`allow_bursts`](crate::allow_bursts).
    ///
    /// # Errors
    /// If the process has too many open files.
    pub fn ike_sockets(&self) -> io::Result<Vec<IkeSocket>> {
        let copy = |s: &IkeSocket| {
            Ok(IkeSocket {
                socket: s.socket.try_clone()?,
                local: s.local,
                nat: s.nat,
            })
        };
        self.ike.iter().map(copy).collect()
    }

    /// Creates the TUN device of a routing domain, sets it up, and gives each worker its queue.
    ///
    /// # Errors
    /// [`DomainError`]; the device is gone then.
    pub fn attach_domain(&self, domain: Domain) -> Result<DomainReport, DomainError> {
        let mut state = self.state();
        if state.domains.contains_key(&domain.id) {
            return Err(DomainError::Exists(domain.id));
        }
        let failed = |source| DomainError::System {
            name: domain.name.clone(),
            source,
        };
        let (netlink, index, mut device, notes) = netns::within(domain.netns.as_deref(), || {
            let device = tun::create(&domain.device, self.workers)?;
            let netlink = Netlink::open()?;
            let index = netlink::device_index(&device.name)?;
            let notes = netlink.set_up(index, domain.mtu)?;
            for address in &domain.addresses {
                netlink.add_address(index, *address)?;
            }
            Ok((netlink, index, device, notes))
        })
        .map_err(failed)?;
        device.notes.extend(notes);
        let mut routes = BTreeMap::new();
        for route in domain.routes.iter().map(IpNet::trunc) {
            if routes.insert(route, 1).is_none() {
                netlink.add_route(index, route).map_err(failed)?;
            }
        }
        let facts = DomainFacts {
            id: domain.id,
            mtu: domain.mtu,
            offloads: device.offloads,
            mss_clamp: domain.mss_clamp,
            addresses: domain.addresses.clone(),
            rates: Arc::new(SharedRates::new(domain.rates)),
        };
        let queues: Vec<_> = device.queues.into_iter().map(Arc::new).collect();
        let attached = Attached {
            name: domain.name,
            facts,
            netlink,
            index,
            queues,
            routes,
        };
        for (worker, running) in &state.running {
            running.control(attached.queue_of(*worker).map(Control::Attach));
        }
        state.domains.insert(domain.id, attached);
        Ok(DomainReport {
            device: device.name,
            offloads: device.offloads,
            steering: device.steering,
            notes: device.notes,
        })
    }

    /// Takes a routing domain away from the workers, and waits for them to let go of its device, which is gone then. Not
    /// to be called from their events.
    ///
    /// # Errors
    /// [`DomainError::Unknown`].
    pub fn detach_domain(&self, id: u32) -> Result<(), DomainError> {
        let (done, all_done) = channel();
        {
            let mut state = self.state();
            state.domains.remove(&id).ok_or(DomainError::Unknown(id))?;
            for running in state.running.values() {
                running.control(Some(Control::Detach {
                    domain: id,
                    done: done.clone(),
                }));
            }
        }
        drop(done);
        // Nothing is sent: the channel closes when the last worker drops its end.
        let _ = all_done.recv_timeout(PATIENCE);
        Ok(())
    }

    /// Adds a route towards a domain's device. Routes are counted: one that was added twice stays until removed twice.
    ///
    /// # Errors
    /// [`DomainError`], for one if something else has a route for the same prefix.
    pub fn add_route(&self, id: u32, net: IpNet) -> Result<(), DomainError> {
        self.change_route(id, |domain| {
            let net = net.trunc();
            if !domain.routes.contains_key(&net) {
                domain.netlink.add_route(domain.index, net)?;
            }
            *domain.routes.entry(net).or_default() += 1;
            Ok(())
        })
    }

    /// Removes a route that was added.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn del_route(&self, id: u32, net: IpNet) -> Result<(), DomainError> {
        self.change_route(id, |domain| {
            let net = net.trunc();
            match domain.routes.get_mut(&net) {
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
                Some(count) if *count > 1 => {
                    *count -= 1;
                    Ok(())
                }
                Some(_) => {
                    domain.routes.remove(&net);
                    domain.netlink.del_route(domain.index, net)
                }
            }
        })
    }

    /// Sets the rates of a domain and of its sessions. Packets from here on are measured by them, at every worker.
    ///
    /// # Errors
    /// [`DomainError::Unknown`].
    pub fn set_rates(&self, id: u32, rates: Rates) -> Result<(), DomainError> {
        let state = self.state();
        let domain = state.domains.get(&id).ok_or(DomainError::Unknown(id))?;
        domain.facts.rates.set(rates);
        Ok(())
    }

    fn change_route(
        &self,
        id: u32,
        change: impl FnOnce(&mut Attached) -> io::Result<()>,
    ) -> Result<(), DomainError> {
        let mut state = self.state();
        let domain = state.domains.get_mut(&id).ok_or(DomainError::Unknown(id))?;
        change(domain).map_err(|source| DomainError::System {
            name: domain.name.clone(),
            source,
        })
    }

    /// Starts a worker, for the first time or again after it died. Events are delivered on its thread and must not block.
    /// It starts without SAs: they are to be installed again.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_worker(
        &self,
        index: u8,
        events: Box<dyn Fn(WorkerEvent) + Send>,
    ) -> Result<WorkerHandle, StartError> {
        let mut state = self.state();
        let ports = self
            .ports
            .get(usize::from(index))
            .ok_or(StartError::Unknown(index))?;
        match state.running.get_mut(&index) {
            Some(running) if !running.has_ended() => return Err(StartError::Running(index)),
            Some(_) => drop(state.running.remove(&index)),
            None => {}
        }
        let seat = worker::Seat {
            index,
            workers: self.workers,
            core: self.cores.get(usize::from(index)).copied(),
            busy_wait: self.busy_wait,
            ports: Arc::clone(ports),
            forward: self.forwards.get(usize::from(index)).map(Arc::clone),
            until: self.until.clone(),
            errors: if index == 0 {
                Arc::clone(&self.errors)
            } else {
                Arc::default()
            },
            link_probe: Arc::clone(&self.link_probe),
            path_mtu: self.path_mtu,
            mailboxes: Arc::clone(&self.mailboxes),
            owners: Arc::clone(&self.owners),
            fast: self.fast.get(usize::from(index)).and_then(Place::lend),
        };
        let queues = state.domains.values().filter_map(|d| d.queue_of(index)).collect();
        let (running, handle) = worker::start(seat, queues, events)?;
        for (slot, to) in (0..).zip(*self.slot_owners()) {
            if to.is_some() {
                running.control(Some(Control::Command(WorkerCommand::Forward { slot, to })));
            }
        }
        state.running.insert(index, running);
        Ok(handle)
    }

    /// Ends a worker and waits for its thread. Does nothing if it does not run. Not to be called from its events.
    pub fn stop_worker(&self, index: u8) {
        let running = self.state().running.remove(&index);
        // Dropped outside the lock: the thread may want to deliver events first.
        drop(running);
    }

    /// Says where what comes here for a slot of another node is sent on to ([`Forward::listen`](crate::Forward) of its
    /// owner), or that it is not. Every worker is told, also one that starts later.
    pub fn forward_slot(&self, slot: u8, to: Option<SocketAddr>) {
        let state = self.state();
        {
            let mut owners = self.slot_owners();
            match owners.get_mut(usize::from(slot)) {
                Some(known) if *known != to => *known = to,
                _ => return,
            }
        }
        for running in state.running.values() {
            running.control(Some(Control::Command(WorkerCommand::Forward { slot, to })));
        }
    }

    /// Sends an IKE message on to the owner of a slot, as [`Holder::forward_ike`] does; false if nobody is known.
    ///
    /// # Errors
    /// Those of [`Holder::forward_ike`].
    pub fn forward_ike_to_owner(
        &self,
        slot: u8,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> io::Result<bool> {
        let to = self.slot_owners().get(usize::from(slot)).copied().flatten();
        match to {
            None => Ok(false),
            Some(to) => self.forward_ike(to, local, remote, message).map(|()| true),
        }
    }

    /// Sends an IKE message on to the node of the cluster that should have got it, without its non-ESP marker. There it
    /// comes out as [`WorkerEvent::ForwardedIke`]. `local` is our address that the peer at `remote` sent it to.
    ///
    /// # Errors
    /// The system's reason, `WouldBlock` for one, and `Unsupported` without [`Config::forward`]. The message is lost then;
    /// the peer repeats it.
    pub fn forward_ike(
        &self,
        to: SocketAddr,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> io::Result<()> {
        let port = self
            .forwards
            .first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let envelope = Envelope {
            kind: Kind::Ike,
            tos: 0,
            source: remote,
            destination: local,
        };
        port.send(to, &envelope, message)
    }

    fn slot_owners(&self) -> MutexGuard<'_, [Option<SocketAddr>; MAX_SLOTS as usize]> {
        self.slot_owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    fn queue_of(&self, worker: u8) -> Option<DomainQueue> {
        let queue = self.queues.get(usize::from(worker))?;
        Some(DomainQueue {
            facts: self.facts.clone(),
            queue: Arc::clone(queue),
        })
    }
}
