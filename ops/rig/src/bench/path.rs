//! The path of all end-to-end benchmarks: hosts joined to the gateway by a cable each, and a server behind it.
//!
//! ```text
//!   client 0 ── 172.31.0.0/30 ──┐
//!   client 1 ── 172.31.1.0/30 ──┤ gw ── TUN ── 10.20.0.0/24 ── server
//! ```
//! Whatever the tunnel, a packet crosses the same two cables and is forwarded once between them.

use std::time::Duration;

use anyhow::Context as _;

use super::wireguard::{self, WireGuard};
use crate::Result;
use crate::daemon::{Settings, program};
use crate::gateway::{Gateway, secret};
use crate::net::{Folder, Host};
use crate::pki::Key;
use crate::process::{Process, run, wait_for};
use crate::swan::Swan;
use crate::world::{GATEWAY_V4, SERVER_V4, World};

/// The secret of all users of the strongSwan gateway.
pub(super) const SWAN_SECRET: &str = "correct horse";
/// The name of the strongSwan gateway.
pub(super) const SWAN_ID: &str = "gw.example";
/// strongSwan without its log.
const QUIET: &str = "dos_protection = no\n filelog { log { default = -1\n ike = -1\n cfg = -1\n } }";

/// What stands at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// This concentrator; as client the same data plane.
    Ours,
    /// The same programs with AES-GCM replaced by functions that do nothing.
    OursWithoutCipher,
    /// strongSwan's kernel-libipsec.
    StrongSwan,
    /// boringtun-cli.
    BoringTun,
    /// wireguard-go.
    WireGuardGo,
    /// Plain forwarding over the same hops.
    Plain,
}

impl Kind {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "this concentrator",
            Self::OursWithoutCipher => "the same without a cipher",
            Self::StrongSwan => "strongSwan kernel-libipsec",
            Self::BoringTun => "boringtun",
            Self::WireGuardGo => "wireguard-go",
            Self::Plain => "no tunnel",
        }
    }

    /// Why it cannot be measured here, if it cannot.
    pub(super) fn obstacle(self) -> Option<String> {
        match self {
            Self::OursWithoutCipher => without_cipher_obstacle(),
            Self::BoringTun => wireguard::boringtun().err().map(|error| format!("{error:#}")),
            Self::WireGuardGo => run(&["wireguard-go", "--version"])
                .err()
                .map(|error| format!("{error:#}")),
            Self::Ours | Self::StrongSwan | Self::Plain => None,
        }
    }
}

/// How the cables treat bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Super-packets pass whole, as they do between virtual machines.
    Whole,
    /// A NIC without segmentation of its own: packets are cut before the cable, and coalesced behind it.
    Nic,
    /// As `Nic`, without coalescing: each packet arrives alone.
    Single,
}

impl Wire {
    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Whole => "super-packets whole",
            Self::Nic => "NIC model",
            Self::Single => "packet by packet",
        }
    }

    fn apply(self, host: &Host, device: &str) -> Result<()> {
        let (segmentation, coalescing) = match self {
            Self::Whole => ("on", "off"),
            Self::Nic => ("off", "on"),
            Self::Single => ("off", "off"),
        };
        host.run(&["ethtool", "-K", device, "gro", coalescing])?;
        host.run(&[
            "ethtool",
            "-K",
            device,
            "tso",
            segmentation,
            "tx-udp-segmentation",
            segmentation,
        ])
        .map(drop)
    }
}

/// A path that is up.
pub(super) struct Path {
    // Programs end before the hosts that they are in.
    processes: Vec<Process>,
    swans: Vec<Swan>,
    tunnels: Vec<WireGuard>,
    base: Base,
    more: Vec<Host>,
    folder: Folder,
    kind: Kind,
    wire: Wire,
    /// Workers of our gateway and of our clients.
    workers: u8,
}

enum Base {
    Ours(Box<Gateway>),
    Other { server: Host, world: Box<World> },
}

impl Path {
    /// Builds it; `clients` of them have a tunnel, and there is at least one host for them.
    pub(super) fn up(kind: Kind, wire: Wire, clients: usize) -> Result<Self> {
        Self::with_workers(kind, wire, clients, 1)
    }

    /// The same with so many workers at both ends where they are ours, and as many child SAs between them.
    pub(super) fn with_workers(kind: Kind, wire: Wire, clients: usize, workers: u8) -> Result<Self> {
        let base = match kind {
            Kind::Ours | Kind::OursWithoutCipher => Base::Ours(Box::new(our_gateway(kind, workers)?)),
            Kind::StrongSwan | Kind::BoringTun | Kind::WireGuardGo | Kind::Plain => {
                let world = World::new(&[])?;
                let server = server_behind(&world.gateway)?;
                Base::Other {
                    server,
                    world: Box::new(world),
                }
            }
        };
        let mut path = Self {
            processes: Vec::new(),
            swans: Vec::new(),
            tunnels: Vec::new(),
            base,
            more: Vec::new(),
            folder: Folder::new("path")?,
            kind,
            wire,
            workers,
        };
        for _ in 1..clients.max(1) {
            path.add_host()?;
        }
        path.cable(0)?;
        path.start_gateway()?;
        for number in 0..clients {
            path.connect(number, "acme")?;
        }
        Ok(path)
    }

    /// One more host with a cable, without a tunnel; returns its number.
    pub(super) fn add_host(&mut self) -> Result<usize> {
        let number = self.more.len() + 1;
        self.more.push(Host::new(&format!("client{number}"))?);
        self.cable(number)?;
        Ok(number)
    }

    /// A client's host.
    pub(super) fn client(&self, number: usize) -> Result<&Host> {
        match number.checked_sub(1) {
            None => Ok(&self.world().direct),
            Some(index) => self.more.get(index).context("no such client"),
        }
    }

    /// All hosts.
    fn world(&self) -> &World {
        match &self.base {
            Base::Ours(gateway) => &gateway.world,
            Base::Other { world, .. } => world,
        }
    }

    /// The gateway's host.
    pub(super) fn gateway(&self) -> &Host {
        &self.world().gateway
    }

    /// The server's host.
    pub(super) fn server(&self) -> Result<&Host> {
        match &self.base {
            Base::Ours(gateway) => Ok(&gateway.world.site("acme")?.server),
            Base::Other { server, .. } => Ok(server),
        }
    }

    /// The concentrator, where the gateway is one.
    pub(super) fn ours(&self) -> Result<&Gateway> {
        match &self.base {
            Base::Ours(gateway) => Ok(gateway),
            Base::Other { .. } => anyhow::bail!("the gateway is another one"),
        }
    }

    /// The same, to be changed.
    pub(super) fn ours_mut(&mut self) -> Result<&mut Gateway> {
        match &mut self.base {
            Base::Ours(gateway) => Ok(gateway),
            Base::Other { .. } => anyhow::bail!("the gateway is another one"),
        }
    }

    /// The process that is the gateway.
    pub(super) fn gateway_process(&mut self) -> Result<u32> {
        match &self.base {
            Base::Ours(gateway) => gateway.daemon.id().context("the concentrator has ended"),
            Base::Other { .. } => {
                let swan = self.swans.first_mut().map(|swan| swan.process().id());
                let tunnel = self.tunnels.first().map(WireGuard::id);
                swan.or(tunnel).context("no process is the gateway")
            }
        }
    }

    /// The gateway's TUN device: its host, and its name there.
    pub(super) fn device(&self) -> Result<(&Host, &'static str)> {
        match (&self.base, self.kind) {
            (Base::Ours(gateway), _) => Ok((&gateway.world.site("acme")?.domain, "vpn0")),
            (Base::Other { world, .. }, Kind::StrongSwan) => Ok((&world.gateway, "ipsec0")),
            (Base::Other { world, .. }, Kind::Plain) => Ok((&world.gateway, "lan")),
            (Base::Other { world, .. }, _) => Ok((&world.gateway, wireguard::DEVICE)),
        }
    }

    /// A folder for what belongs to this path.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Keeps a program until the path is taken down.
    pub(super) fn keep(&mut self, process: Process) {
        self.processes.push(process);
    }

    fn cable(&self, number: usize) -> Result<()> {
        let (host, gateway) = (self.client(number)?, self.gateway());
        let name = format!("cable{number}");
        host.link(&name, gateway, &name)?;
        host.address(&name, &format!("172.31.{number}.2/30"))?;
        gateway.address(&name, &format!("172.31.{number}.1/30"))?;
        host.run(&[
            "ip",
            "route",
            "replace",
            GATEWAY_V4,
            "via",
            &format!("172.31.{number}.1"),
        ])?;
        self.wire.apply(host, &name)?;
        self.wire.apply(gateway, &name)
    }

    fn start_gateway(&mut self) -> Result<()> {
        match self.kind {
            Kind::Ours | Kind::OursWithoutCipher => Ok(()),
            Kind::StrongSwan => {
                let swan = Swan::start(self.gateway(), QUIET)?;
                swan.load(&format!(
                    "connections {{ c {{ pools = p\n unique = never\n encap = yes\n proposals = \
                     aes256gcm16-prfsha256-curve25519\n local {{ auth = psk\n id = {SWAN_ID} }}\n remote {{ auth = psk }}\n \
                     children {{ n {{ local_ts = 10.20.0.0/24\n esp_proposals = aes256gcm16 }} }} }} }}\n \
                     pools {{ p {{ addrs = 10.30.0.0/16 }} }}\n {}",
                    swan_secret()
                ))?;
                self.swans.push(swan);
                Ok(())
            }
            Kind::BoringTun | Kind::WireGuardGo => {
                let boring = self.kind == Kind::BoringTun;
                let tunnel = WireGuard::start(self.gateway(), boring, &self.folder.join("gateway.log"))?;
                tunnel.listen(self.gateway())?;
                self.tunnels.push(tunnel);
                Ok(())
            }
            Kind::Plain => self.gateway().forward(),
        }
    }

    /// Brings the tunnel of one client up. The name of the tenant counts at our gateway only.
    pub(super) fn connect(&mut self, number: usize, tenant: &str) -> Result<()> {
        match self.kind {
            Kind::Ours | Kind::OursWithoutCipher => {
                let process = self.our_client(number, tenant)?;
                self.processes.push(process);
            }
            Kind::StrongSwan => {
                let swan = Swan::start(self.client(number)?, QUIET)?;
                swan.load(&format!(
                    "connections {{ c {{ remote_addrs = {GATEWAY_V4}\n encap = yes\n vips = 0.0.0.0\n proposals = \
                     aes256gcm16-prfsha256-curve25519\n local {{ auth = psk\n id = dave{number} }}\n remote {{ auth = psk\n \
                     id = {SWAN_ID} }}\n children {{ n {{ remote_ts = 10.20.0.0/24\n esp_proposals = aes256gcm16 }} }} }} }}\n {}",
                    swan_secret()
                ))?;
                swan.initiate("n")?;
                self.swans.push(swan);
            }
            Kind::BoringTun | Kind::WireGuardGo => {
                let boring = self.kind == Kind::BoringTun;
                let log = self.folder.join(&format!("client{number}.log"));
                let tunnel = WireGuard::start(self.client(number)?, boring, &log)?;
                let gateway = self.tunnels.first().context("no gateway")?;
                tunnel.join(self.client(number)?, gateway, number)?;
                self.tunnels.push(tunnel);
            }
            Kind::Plain => {
                let via = format!("172.31.{number}.1");
                self.client(number)?.route("10.20.0.0/24", &via)?;
            }
        }
        let client = self.client(number)?;
        wait_for("an answer of the server", Duration::from_secs(20), || {
            Ok(client.ping(SERVER_V4, 1, "0.2")? == 1)
        })
        .with_context(|| {
            let log = |process: &Process| process.output();
            self.processes.iter().map(log).collect::<String>()
        })
        .context(self.kind.name())
    }

    fn our_client(&self, number: usize, tenant: &str) -> Result<Process> {
        let program = program("loadtest")?.display().to_string();
        let log = self.folder.join(&format!("tunnel{number}.log"));
        let id = format!("dave{number}@corp.example");
        let (remote, secret) = (format!("{tenant}.vpn.example"), secret(tenant));
        let aead = aead(self.kind);
        let workers = self.workers.to_string();
        let mut command: Vec<String> = environment(self.kind)?;
        let words = [
            &program,
            "tunnel",
            "--gateway",
            GATEWAY_V4,
            "--id",
            &id,
            "--remote-id",
            &remote,
            "--psk",
            &secret,
            "--tun",
            "vpn1",
            "--aead",
            &aead,
            "--workers",
            &workers,
            "--ike",
            "aes256gcm16-prfsha384-ecp384",
        ];
        command.extend(words.map(str::to_owned));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut process = self.client(number)?.start("loadtest", &command, &[], &log)?;
        process
            .expect_output("tunnel up", Duration::from_secs(20))
            .with_context(|| self.ours().map_or(String::new(), |gateway| gateway.daemon.log()))?;
        Ok(process)
    }
}

fn swan_secret() -> String {
    format!("secrets {{ ike-1 {{ secret = \"{SWAN_SECRET}\" }} }}")
}

fn our_gateway(kind: Kind, workers: u8) -> Result<Gateway> {
    let settings = Settings {
        // The table of threads is written here: it has more than the number of workers.
        extra: format!("[threads]\nworkers = {workers}\naead = \"{}\"\n", aead(kind)),
        wrapper: environment(kind)?,
        ..Settings::default()
    };
    Gateway::start(Key::Ecdsa(256), settings)
}

/// The library of both ends' AEAD: the fastest one, or the one that the environment names.
fn aead(kind: Kind) -> String {
    if kind == Kind::OursWithoutCipher {
        return "ipsec-mb".to_owned();
    }
    std::env::var("RIG_AEAD").unwrap_or_else(|_| "auto".to_owned())
}

/// The words before the command of one of our programs.
fn environment(kind: Kind) -> Result<Vec<String>> {
    if kind != Kind::OursWithoutCipher {
        return Ok(Vec::new());
    }
    let library = library_without_cipher()?.display().to_string();
    Ok(vec!["env".to_owned(), format!("LD_PRELOAD={library}")])
}

fn library_without_cipher() -> Result<std::path::PathBuf> {
    let library =
        std::env::var_os("RIG_NO_CIPHER").context("RIG_NO_CIPHER names no library; ops/bench builds it")?;
    Ok(library.into())
}

fn without_cipher_obstacle() -> Option<String> {
    if let Err(error) = library_without_cipher() {
        return Some(format!("{error:#}"));
    }
    for name in ["concentrator", "loadtest"] {
        let linked = program(name)
            .and_then(|path| run(&["ldd", &path.display().to_string()]))
            .is_ok_and(|text| text.contains("libIPSec_MB"));
        if !linked {
            return Some(format!(
                "{name} was built without ipsec-mb, whose functions would be replaced"
            ));
        }
    }
    None
}

/// A server one hop behind a gateway, as our tenants have it.
fn server_behind(gateway: &Host) -> Result<Host> {
    let server = Host::new("server")?;
    gateway.forward()?;
    gateway.link("lan", &server, "eth0")?;
    gateway.address("lan", "10.20.0.1/24")?;
    server.address("eth0", "10.20.0.2/24")?;
    server.route("default", "10.20.0.1")?;
    Ok(server)
}
