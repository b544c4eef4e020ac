//! One user whose tunnel ends in a TUN device: the gateway's own data plane as a client. For measurements end to end.
//!
//! Unlike the simulated users it has the ports 500 and 4500, and whatever the host routes into the device goes through.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use crypto::{Cipher, Provider, Random as _, SystemRandom};
use dataplane::{
    Activate, Config, Domain, Encap, Holder, IkeSocket, Limits, Resource, SaPair, WorkerCommand, WorkerEvent,
    WorkerHandle,
};
use ike::config::Assigned;
use ike::wire::Spi;
use ike::{ChildSa, Command, Context, Event, IkeSa, Input, Output, SpiAllocator};
use ip::IpNet;
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli;
use crate::credentials::Credential;
use crate::plan::Plan;
use crate::run::own_address;
use crate::user::marker;

/// The only routing domain, the only session.
const DOMAIN: u32 = 1;
const SESSION: u64 = 1;
/// How long logging out may take.
const LOGOUT: Duration = Duration::from_secs(3);
/// Sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// Events of the worker that wait for the control side; more are lost, which costs nothing but reports.
const EVENTS: usize = 1024;
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// `loadtest tunnel`: logs in, carries packets until interrupted. False if the login failed or the tunnel was lost.
///
/// # Errors
/// If sockets, device or worker cannot be made.
pub fn tunnel(options: &cli::Tunnel) -> Result<bool> {
    let plan = Plan::new(&options.identity)?;
    ensure!(
        (plan.ike_port, plan.nat_port) == (500, 4500),
        "a tunnel speaks to the ports 500 and 4500 only"
    );
    choose_aead(&options.aead)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(run(&plan, options))
}

/// As the gateway does at its start, so that neither end is the slower one.
fn choose_aead(name: &str) -> Result<()> {
    if name == "auto" {
        let start = Instant::now();
        let table = Provider::measure(&mut || start.elapsed()).context("measure the AEAD libraries")?;
        Provider::prefer_fastest(&table);
        return Ok(());
    }
    let provider = Provider::named(name).with_context(|| format!("--aead {name}: not in this program"))?;
    for cipher in [Cipher::AesGcm16 { key_bits: 256 }, Cipher::ChaCha20Poly1305] {
        if provider.has(cipher) {
            provider.prefer(cipher);
        }
    }
    Ok(())
}

struct Tunnel {
    options: cli::Tunnel,
    plan: Plan,
    credential: Credential,
    ike: IkeSa,
    holder: Holder,
    workers: Vec<WorkerHandle>,
    sockets: Vec<(UdpSocket, SocketAddr, bool)>,
    assigned: Assigned,
    attached: bool,
    fault: Option<String>,
    closed: bool,
}

async fn run(plan: &Plan, options: &cli::Tunnel) -> Result<bool> {
    let local = match options.local {
        Some(local) => local,
        None => own_address(plan.gateway)?,
    };
    let holder = Holder::open(Config {
        listen: vec![local],
        workers: options.workers,
        ..Config::default()
    })?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let start = |index| {
        let sender = sender.clone();
        let tell = move |event| {
            // Full or closed: nobody waits for it.
            let _ = sender.try_send(event);
        };
        holder.start_worker(index, Box::new(tell))
    };
    let workers: Vec<_> = (0..options.workers).map(start).collect::<Result<_, _>>()?;
    let sockets = holder
        .ike_sockets()?
        .into_iter()
        .map(|IkeSocket { socket, local, nat }| Ok((UdpSocket::from_std(socket)?, local, nat)));
    let sockets: Vec<_> = sockets.collect::<std::io::Result<_>>().context("IKE sockets")?;
    let now = Instant::now();
    let mut config = plan.initiator();
    config.force_encap = !options.raw;
    // The first child SA is the first worker's.
    config.child.resources = (1..options.workers).collect();
    let context = Context {
        random: Box::new(SystemRandom),
        spis: Arc::new(Spis(Mutex::new(SystemRandom))),
        generation: 0,
        key_log: false,
        timing: plan.timing,
    };
    let ike = IkeSa::initiate(
        now,
        context,
        config,
        SocketAddr::new(local, 500),
        SocketAddr::new(plan.gateway, 500),
    );
    let mut tunnel = Tunnel {
        options: options.clone(),
        plan: plan.clone(),
        credential: plan.credentials.of(0, plan.identity(0)?)?,
        ike,
        holder,
        workers,
        sockets,
        assigned: Assigned::default(),
        attached: false,
        fault: None,
        closed: false,
    };
    let mut interrupts = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut close_by: Option<Instant> = None;
    while !tunnel.closed {
        let now = Instant::now();
        if tunnel.ike.deadline().is_some_and(|(at, _)| at <= now) {
            tunnel.ike.handle(now, Input::Timeout);
        }
        tunnel.drain(now).await?;
        if tunnel.closed || close_by.is_some_and(|by| by <= now) {
            break;
        }
        let deadline = [tunnel.ike.deadline().map(|(at, _)| at), close_by]
            .into_iter()
            .flatten()
            .min();
        let sleep = tokio::time::sleep_until(deadline.unwrap_or(now + IDLE).into());
        let close = tokio::select! {
            () = tunnel.readable() => false,
            event = events.recv() => {
                if let Some(event) = event {
                    tunnel.worker_event(event);
                }
                false
            }
            () = sleep => false,
            _ = interrupts.recv() => true,
            _ = terminations.recv() => true,
        };
        tunnel.read();
        if close && close_by.is_none() {
            close_by = Some(Instant::now() + LOGOUT);
            tunnel.ike.handle(Instant::now(), Input::Command(Command::Close));
        }
    }
    for index in 0..options.workers {
        tunnel.holder.stop_worker(index);
    }
    match tunnel.fault.filter(|_| close_by.is_none()) {
        Some(fault) => {
            say(&fault);
            Ok(false)
        }
        None => Ok(true),
    }
}

fn say(text: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Tunnel {
    /// Waits until a socket has something.
    async fn readable(&self) {
        let mut waits = self
            .sockets
            .iter()
            .map(|(socket, ..)| Box::pin(socket.readable()))
            .collect::<Vec<_>>();
        std::future::poll_fn(|context| {
            let ready = waits
                .iter_mut()
                .any(|wait| wait.as_mut().poll(context).is_ready());
            if ready {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }

    fn read(&mut self) {
        let mut buffer = [0; 65_536];
        let mut arrived = Vec::new();
        for (socket, local, nat) in &self.sockets {
            while let Ok((len, remote)) = socket.try_recv_from(&mut buffer) {
                let marker = if *nat { NON_ESP_MARKER.len() } else { 0 };
                if let Some(bytes) = buffer
                    .get(marker..len)
                    .filter(|_| remote.ip() == self.plan.gateway)
                {
                    arrived.push(Input::Datagram {
                        local: *local,
                        remote,
                        bytes: bytes.to_vec(),
                    });
                }
            }
        }
        for input in arrived {
            self.ike.handle(Instant::now(), input);
        }
    }

    async fn drain(&mut self, now: Instant) -> Result<()> {
        while let Some(output) = self.ike.poll() {
            match output {
                Output::Transmit(transmit) => {
                    let nat = transmit.local.port() == 4500;
                    let marker: &[u8] = if nat { marker(&transmit.bytes) } else { &[] };
                    let bytes = [marker, &transmit.bytes].concat();
                    if let Some((socket, ..)) = self.sockets.iter().find(|(_, _, is_nat)| *is_nat == nat) {
                        // What the network refuses is sent again, like what it loses.
                        let _ = socket.send_to(&bytes, transmit.remote).await;
                    }
                }
                Output::Event(event) => self.event(now, event)?,
            }
        }
        Ok(())
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "a client needs few of the events, and their list may grow"
    )]
    fn event(&mut self, now: Instant, event: Event) -> Result<()> {
        match event {
            Event::Authenticate { ticket, job } => {
                let verdict = Box::new(self.credential.answer(&job));
                self.ike.handle(now, Input::AuthResult { ticket, verdict });
            }
            Event::Configured(assigned) => self.assigned = *assigned,
            Event::ChildUp(child) => {
                self.attach(&child)?;
                let resource = child.resource;
                self.install(*child)?;
                match resource {
                    ike::Resource::Bound(number) => say(&format!("one more child SA, for resource {number}")),
                    ike::Resource::None | ike::Resource::Fallback => say("tunnel up"),
                }
            }
            Event::ChildRekeyed { new, .. } => self.install(*new)?,
            Event::ChildLeaving { spi_in } => {
                let _ = self.worker(spi_in)?.send(WorkerCommand::StopSending { spi_in });
            }
            Event::ChildDown { spi_in, .. } => {
                let _ = self.worker(spi_in)?.send(WorkerCommand::Remove { spi_in });
            }
            Event::ChildFailed { reason } => self.fault = Some(format!("no child SA: {reason}")),
            Event::Failed(failure) => self.fault = Some(failure.to_string()),
            Event::Closed { reason } => {
                self.fault.get_or_insert(reason.to_string());
                self.closed = true;
            }
            _ => {}
        }
        if self.fault.is_some() && !self.attached {
            self.closed = true;
        }
        Ok(())
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "a client needs few of the events")]
    fn worker_event(&mut self, event: WorkerEvent) {
        let now = Instant::now();
        match event {
            WorkerEvent::StrayIke { local, remote, bytes } => {
                self.ike.handle(now, Input::Datagram { local, remote, bytes });
            }
            WorkerEvent::Stats(stats) if stats.iter().any(|pair| pair.last_in.is_some()) => {
                self.ike
                    .handle(now, Input::Command(Command::InboundSeen { at: now }));
            }
            WorkerEvent::InstallFailed { reason, .. } | WorkerEvent::Died { message: reason, .. } => {
                self.fault = Some(reason);
                self.closed = true;
            }
            _ => {}
        }
    }

    /// Makes the device with the assigned addresses and the routes of the child.
    fn attach(&mut self, child: &ChildSa) -> Result<()> {
        if self.attached {
            return Ok(());
        }
        let v4 = self.assigned.v4.map(|address| IpNet::from(IpAddr::V4(address)));
        let v6 = self
            .assigned
            .v6
            .map(|(address, _)| IpNet::from(IpAddr::V6(address)));
        let addresses: Vec<IpNet> = v4.into_iter().chain(v6).collect();
        ensure!(!addresses.is_empty(), "the gateway assigned no address");
        let routes: Vec<IpNet> = child
            .ts_remote
            .iter()
            .flat_map(ip::Selector::to_prefixes)
            .collect();
        if let Some(route) = routes.iter().find(|route| route.contains(&self.plan.gateway)) {
            bail!("the route {route} would lead the tunnel into itself: ask for less by --remote-ts");
        }
        let mut domain = Domain::new(DOMAIN, "tunnel", self.options.tun.clone());
        (domain.addresses, domain.routes, domain.mtu) = (addresses, routes, self.options.mtu);
        let report = self.holder.attach_domain(domain)?;
        for note in report.notes {
            say(&note);
        }
        self.attached = true;
        Ok(())
    }

    /// The worker that an inbound SPI names.
    fn worker(&self, spi_in: u32) -> Result<&WorkerHandle> {
        let index = dataplane::serving_worker(spi_in, self.options.workers);
        self.workers.get(usize::from(index)).context("worker")
    }

    fn install(&self, child: ChildSa) -> Result<()> {
        let pair = SaPair {
            session: SESSION,
            slot: 0,
            domain: DOMAIN,
            inbound: esp::InboundParams {
                spi: child.spi_in,
                suite: child.suite,
                enc_key: child.keys_in.enc,
                integ_key: child.keys_in.integ,
                esn: child.esn,
                window: child.replay_window,
                checkpoint: 0,
            },
            outbound: esp::OutboundParams {
                spi: child.spi_out,
                suite: child.suite,
                enc_key: child.keys_out.enc,
                integ_key: child.keys_out.integ,
                esn: child.esn,
                generation: 0,
                first_seq: 1,
                ceiling: u64::MAX,
                tfc_pad_to: 0,
            },
            ts_local: child.ts_local,
            ts_remote: child.ts_remote,
            peer: child.remote,
            local: child.local,
            encap: if child.encap { Encap::Udp } else { Encap::Raw },
            activate: match child.activate {
                ike::Activate::Now => Activate::Now,
                ike::Activate::OnFirstInbound => Activate::OnFirstInbound,
            },
            limits: Limits::default(),
            resource: match child.resource {
                ike::Resource::None => Resource::None,
                ike::Resource::Fallback => Resource::Fallback,
                ike::Resource::Bound(number) => Resource::Bound(number),
            },
            path_mtu: None,
            df: esp::tunnel::DfRule::Clear,
            fragments_too: false,
        };
        self.worker(child.spi_in)?
            .send(WorkerCommand::Install(Box::new(pair)))
            .context("worker")?;
        Ok(())
    }
}

/// SPIs at random, with the worker's name.
struct Spis(Mutex<SystemRandom>);

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        Spi(self.0.lock().unwrap_or_else(PoisonError::into_inner).u64().max(1))
    }

    fn esp(&self, worker: u8) -> u32 {
        let random = self.0.lock().unwrap_or_else(PoisonError::into_inner).u32();
        let top = u32::BITS - dataplane::WORKER_BITS;
        (u32::from(worker) << top) | (random & ((1 << top) - 1)).max(256)
    }

    fn release_esp(&self, _spi: u32) {}

    fn claim_esp(&self, _spi: u32) -> bool {
        true
    }
}
