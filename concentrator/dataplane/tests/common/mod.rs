//! Two ends in network namespaces: what the tests with real traffic have in common.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests, none of which uses all of it"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crypto::{Cipher, Integrity, Secret, Suite};
use dataplane::{
    Activate, Config, Domain, Encap, Holder, Limits, SaPair, WorkerCommand, WorkerCounters, WorkerEvent,
    WorkerHandle,
};
use ip::Selector;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Network namespaces that are gone when this is.
pub(crate) struct Namespaces {
    pub(crate) prefix: String,
    pub(crate) names: Vec<String>,
}

pub(crate) fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

impl Namespaces {
    /// None without root.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let prefix = format!(
            "dp{}x{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Some(Self {
            prefix,
            names: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        ip(&format!("netns add {name}"));
        self.names.push(name.clone());
        ip(&format!("-n {name} link set lo up"));
        name
    }

    /// Two namespaces joined by a wire with addresses 192.0.2.1 and .2, fd00:2::1 and ::2.
    pub(crate) fn wire(&mut self) -> [String; 2] {
        let ends = [self.add("l"), self.add("r")];
        ip(&format!(
            "-n {} link add wire type veth peer name wire netns {}",
            ends[0], ends[1]
        ));
        for (end, last) in ends.iter().zip(1..) {
            ip(&format!("-n {end} addr add 192.0.2.{last}/24 dev wire"));
            ip(&format!("-n {end} addr add fd00:2::{last}/64 dev wire nodad"));
            ip(&format!("-n {end} link set wire up"));
        }
        ends
    }
}

impl Namespaces {
    /// Namespaces whose interfaces `eth0` are ports of one bridge, with the addresses 192.0.2.1 and so on,
    /// 2001:db8:2::1 and so on. The last one returned is that of the bridge, its ports are named `to-` and the others' names.
    pub(crate) fn bridge<const N: usize>(&mut self, names: [&str; N]) -> ([String; N], String) {
        let switch = self.add("sw");
        ip(&format!("-n {switch} link add br0 type bridge"));
        ip(&format!("-n {switch} link set br0 up"));
        let mut last = 0;
        let hosts = names.map(|name| {
            last += 1;
            let host = self.add(name);
            ip(&format!(
                "-n {switch} link add name to-{name} type veth peer name eth0 netns {host}"
            ));
            ip(&format!("-n {switch} link set to-{name} master br0 up"));
            ip(&format!("-n {host} addr add 192.0.2.{last}/24 dev eth0"));
            ip(&format!(
                "-n {host} addr add 2001:db8:2::{last}/64 dev eth0 nodad"
            ));
            ip(&format!("-n {host} link set eth0 up"));
            host
        });
        (hosts, switch)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs something on a thread inside a namespace.
pub(crate) fn inside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let file = File::open(format!("/var/run/netns/{name}")).unwrap();
    std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(file.as_fd(), None).unwrap();
        work()
    })
}

/// One end: a holder, its workers and what they said.
pub(crate) struct End {
    pub(crate) holder: Holder,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) events: Vec<Receiver<WorkerEvent>>,
    pub(crate) address: IpAddr,
}

impl End {
    pub(crate) fn new(netns: &str, address: &str, workers: u8) -> Self {
        Self::with(netns, address, workers, |_| {})
    }

    /// One whose configuration is changed before it is used.
    pub(crate) fn with(netns: &str, address: &str, workers: u8, change: impl FnOnce(&mut Config)) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let mut config = Config {
            listen: vec![address],
            workers,
            netns: Some(netns.into()),
            ..Config::default()
        };
        change(&mut config);
        let holder = Holder::open(config).unwrap();
        let mut end = Self {
            holder,
            workers: Vec::new(),
            events: Vec::new(),
            address,
        };
        for index in 0..workers {
            let (worker, events) = end.start(index);
            end.workers.push(worker);
            end.events.push(events);
        }
        end
    }

    pub(crate) fn start(&self, index: u8) -> (WorkerHandle, Receiver<WorkerEvent>) {
        let (sender, events) = channel();
        let worker = self
            .holder
            .start_worker(index, Box::new(move |event| drop(sender.send(event))))
            .unwrap();
        (worker, events)
    }

    pub(crate) fn attach(&self, id: u32, netns: &str, addresses: &[&str]) {
        let mut domain = Domain::new(id, format!("domain {id}"), format!("vpn{id}"));
        domain.netns = Some(netns.into());
        domain.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let report = self.holder.attach_domain(domain).unwrap();
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert!(report.offloads.tcp && report.offloads.udp);
        assert_eq!(report.steering, self.workers.len() > 1);
    }

    pub(crate) fn counters(&self, worker: usize) -> WorkerCounters {
        let (sender, receiver) = channel();
        self.workers[worker]
            .send(WorkerCommand::ReadCounters(Box::new(move |c| {
                drop(sender.send(c))
            })))
            .unwrap();
        receiver.recv_timeout(PATIENCE).unwrap()
    }
}

pub(crate) fn selectors(list: &[&str]) -> Vec<Selector> {
    list.iter().map(|s| s.parse().unwrap()).collect()
}

pub(crate) fn suites() -> [Suite; 3] {
    [
        Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap(),
        Suite::new(Cipher::ChaCha20Poly1305, None).unwrap(),
        Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap(),
    ]
}

/// What both ends agree on. The SPI towards the left end is `spis[0]`, towards the right `spis[1]`.
#[derive(Clone)]
pub(crate) struct Agreement {
    pub(crate) session: u64,
    pub(crate) slot: u8,
    pub(crate) domain: u32,
    pub(crate) spis: [u32; 2],
    pub(crate) suite: Suite,
    pub(crate) encap: Encap,
    pub(crate) selectors: [Vec<Selector>; 2],
    pub(crate) first_seq: u64,
}

impl Agreement {
    /// The pair of the end `side` (0 left, 1 right).
    pub(crate) fn pair(&self, side: usize, ends: [&End; 2]) -> SaPair {
        let key = |spi: u32, len: usize| Secret::from(vec![spi as u8 ^ 0x5a; len]);
        let keys = |spi| {
            (
                key(spi, self.suite.enc_key_len()),
                key(spi + 1, self.suite.integ_key_len()),
            )
        };
        let (spi_in, spi_out) = (self.spis[side], self.spis[1 - side]);
        let (enc_in, integ_in) = keys(spi_in);
        let (enc_out, integ_out) = keys(spi_out);
        let port = if self.encap == Encap::Udp { 4500 } else { 0 };
        SaPair {
            session: self.session,
            slot: self.slot,
            domain: self.domain,
            inbound: esp::InboundParams {
                spi: spi_in,
                suite: self.suite,
                enc_key: enc_in,
                integ_key: integ_in,
                esn: true,
                window: 1024,
                checkpoint: 0,
            },
            outbound: esp::OutboundParams {
                spi: spi_out,
                suite: self.suite,
                enc_key: enc_out,
                integ_key: integ_out,
                esn: true,
                generation: 1,
                first_seq: self.first_seq,
                ceiling: u64::MAX,
                tfc_pad_to: 0,
            },
            ts_local: self.selectors[side].clone(),
            ts_remote: self.selectors[1 - side].clone(),
            peer: SocketAddr::new(ends[1 - side].address, port),
            local: SocketAddr::new(ends[side].address, port),
            encap: self.encap,
            activate: Activate::Now,
            limits: Limits::default(),
            resource: dataplane::Resource::None,
            path_mtu: None,
            df: esp::tunnel::DfRule::Clear,
            fragments_too: true,
        }
    }

    pub(crate) fn install(&self, side: usize, ends: [&End; 2]) {
        let workers = ends[side].workers.len() as u8;
        let worker = usize::from(dataplane::serving_worker(self.spis[side], workers));
        ends[side].workers[worker]
            .send(WorkerCommand::Install(Box::new(self.pair(side, ends))))
            .unwrap();
    }

    pub(crate) fn install_both(&self, ends: [&End; 2]) {
        self.install(0, ends);
        self.install(1, ends);
    }
}

pub(crate) fn agreement(spi: u32, suite: Suite, encap: Encap) -> Agreement {
    Agreement {
        session: u64::from(spi),
        slot: 0,
        domain: 1,
        spis: [spi, spi + 0x1000],
        suite,
        encap,
        selectors: [
            selectors(&["10.7.1.0/24", "fd07:1::/64"]),
            selectors(&["10.7.2.0/24", "fd07:2::/64"]),
        ],
        first_seq: 1,
    }
}

/// Sends octets through TCP both ways and has them compared.
pub(crate) fn tcp_echo(server: &str, client: &str, address: SocketAddr, octets: usize) {
    let (ready, is_ready) = channel();
    let serve = inside(server, move || {
        let listener = TcpListener::bind(address).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        stream.write_all(&data).unwrap();
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    let call = inside(client, move || {
        let data: Vec<u8> = (0..octets).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&data).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == data, "{} octets came back of {}", back.len(), data.len());
    });
    call.join().unwrap();
    serve.join().unwrap();
}

/// Sends datagrams of many sizes, each of which must come back.
pub(crate) fn udp_echo(server: &str, client: &str, address: SocketAddr, sizes: &'static [usize]) {
    let (ready, is_ready) = channel();
    let serve = inside(server, move || {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = vec![0; 65536];
        for _ in sizes {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    let call = inside(client, move || {
        let any: IpAddr = if address.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 65536];
        for size in sizes {
            let data: Vec<u8> = (0..*size).map(|i| i as u8).collect();
            socket.send_to(&data, address).unwrap();
            let (len, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], &data[..]);
        }
    });
    call.join().unwrap();
    serve.join().unwrap();
}
