//! Two data planes end to end: application, TUN, ESP, a wire, ESP, TUN, application, each in network namespaces of its
//! own. Needs root; without it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crypto::{Cipher, Integrity, Secret, Suite};
use dataplane::{
    Activate, Config, Domain, Encap, Holder, Limits, SaPair, WorkerCommand, WorkerCounters, WorkerEvent,
    WorkerHandle,
};
use ip::Selector;

const PATIENCE: Duration = Duration::from_secs(10);

/// Network namespaces that are gone when this is.
struct Namespaces {
    prefix: String,
    names: Vec<String>,
}

fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

impl Namespaces {
    /// None without root.
    fn new() -> Option<Self> {
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

    fn add(&mut self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        ip(&format!("netns add {name}"));
        self.names.push(name.clone());
        ip(&format!("-n {name} link set lo up"));
        name
    }

    /// Two namespaces joined by a wire with addresses 192.0.2.1 and .2, fd00:2::1 and ::2.
    fn wire(&mut self) -> [String; 2] {
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

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs something on a thread inside a namespace.
fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = File::open(format!("/var/run/netns/{name}")).unwrap();
    std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(file.as_fd(), None).unwrap();
        work()
    })
}

/// One end: a holder, its workers and what they said.
struct End {
    holder: Holder,
    workers: Vec<WorkerHandle>,
    events: Vec<Receiver<WorkerEvent>>,
    address: IpAddr,
}

impl End {
    fn new(netns: &str, address: &str, workers: u8) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let holder = Holder::open(Config {
            listen: vec![address],
            workers,
            netns: Some(netns.into()),
            ..Config::default()
        })
        .unwrap();
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

    fn start(&self, index: u8) -> (WorkerHandle, Receiver<WorkerEvent>) {
        let (sender, events) = channel();
        let worker = self
            .holder
            .start_worker(index, Box::new(move |event| drop(sender.send(event))))
            .unwrap();
        (worker, events)
    }

    fn attach(&self, id: u32, netns: &str, addresses: &[&str]) {
        let mut domain = Domain::new(id, format!("domain {id}"), format!("vpn{id}"));
        domain.netns = Some(netns.into());
        domain.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let report = self.holder.attach_domain(domain).unwrap();
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert!(report.offloads.tcp && report.offloads.udp);
        assert_eq!(report.steering, self.workers.len() > 1);
    }

    fn counters(&self, worker: usize) -> WorkerCounters {
        let (sender, receiver) = channel();
        self.workers[worker]
            .send(WorkerCommand::ReadCounters(Box::new(move |c| {
                drop(sender.send(c))
            })))
            .unwrap();
        receiver.recv_timeout(PATIENCE).unwrap()
    }
}

fn selectors(list: &[&str]) -> Vec<Selector> {
    list.iter().map(|s| s.parse().unwrap()).collect()
}

fn suites() -> [Suite; 3] {
    [
        Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap(),
        Suite::new(Cipher::ChaCha20Poly1305, None).unwrap(),
        Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap(),
    ]
}

/// What both ends agree on. The SPI towards the left end is `spis[0]`, towards the right `spis[1]`.
#[derive(Clone)]
struct Agreement {
    session: u64,
    slot: u8,
    domain: u32,
    spis: [u32; 2],
    suite: Suite,
    encap: Encap,
    selectors: [Vec<Selector>; 2],
    first_seq: u64,
}

impl Agreement {
    /// The pair of the end `side` (0 left, 1 right).
    fn pair(&self, side: usize, ends: [&End; 2]) -> SaPair {
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
            path_mtu: None,
        }
    }

    fn install(&self, side: usize, ends: [&End; 2]) {
        let worker = usize::from(dataplane::worker_of_spi(self.spis[side]));
        ends[side].workers[worker]
            .send(WorkerCommand::Install(Box::new(self.pair(side, ends))))
            .unwrap();
    }

    fn install_both(&self, ends: [&End; 2]) {
        self.install(0, ends);
        self.install(1, ends);
    }
}

fn agreement(spi: u32, suite: Suite, encap: Encap) -> Agreement {
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
fn tcp_echo(server: &str, client: &str, address: SocketAddr, octets: usize) {
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
fn udp_echo(server: &str, client: &str, address: SocketAddr, sizes: &'static [usize]) {
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

fn everything_passes(encap: Encap, outer: [&str; 2], workers: u8, spi: u32) {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::new(&wire[0], outer[0], workers);
    let right = End::new(&wire[1], outer[1], workers);
    left.attach(1, &inner[0], &["10.7.1.1/24", "fd07:1::1/64"]);
    right.attach(1, &inner[1], &["10.7.2.1/24", "fd07:2::1/64"]);
    for (end, nets) in [
        (&left, ["10.7.2.0/24", "fd07:2::/64"]),
        (&right, ["10.7.1.0/24", "fd07:1::/64"]),
    ] {
        for net in nets {
            end.holder.add_route(1, net.parse().unwrap()).unwrap();
        }
    }
    let mut spi = spi;
    for suite in suites() {
        let agreed = agreement(spi, suite, encap);
        agreed.install_both([&left, &right]);
        for address in ["10.7.2.1:900", "[fd07:2::1]:900"] {
            let address: SocketAddr = address.parse().unwrap();
            tcp_echo(&inner[1], &inner[0], address, 3_000_000);
            udp_echo(
                &inner[1],
                &inner[0],
                address,
                &[0, 1, 500, 1352, 1372, 4000, 9000],
            );
        }
        for (end, spi_in) in [(&left, agreed.spis[0]), (&right, agreed.spis[1])] {
            let worker = usize::from(dataplane::worker_of_spi(spi_in));
            end.workers[worker]
                .send(WorkerCommand::Remove { spi_in })
                .unwrap();
        }
        spi += 1;
    }
    for end in [&left, &right] {
        let handed: u64 = (0..end.workers.len())
            .map(|worker| end.counters(worker).handed_over)
            .sum();
        let is_misplaced =
            dataplane::worker_for([10, 7, 2, 1].into(), workers) != dataplane::worker_of_spi(spi);
        assert!(if is_misplaced { handed > 100 } else { handed == 0 }, "{handed}");
        let owner = end.counters(usize::from(dataplane::worker_of_spi(spi)));
        println!("{owner:?}");
        assert!(owner.outer_in > 2000 && owner.outer_out > 2000);
        assert!(
            owner.inner_out > 4 * owner.inner_writes || encap == Encap::Raw,
            "received bursts were joined"
        );
        if encap == Encap::Udp {
            assert!(owner.outer_out > 4 * owner.outer_writes, "bursts left whole");
        }
        assert_eq!(owner.drops.get(esp::DropReason::NotAuthentic), 0);
        assert_eq!(owner.drops.get(esp::DropReason::SelectorMismatch), 0);
    }
}

#[test]
fn tcp_and_udp_pass_over_udp_encapsulation() {
    everything_passes(Encap::Udp, ["192.0.2.1", "192.0.2.2"], 1, 0x1234);
}

#[test]
fn tcp_and_udp_pass_over_udp_on_ipv6() {
    everything_passes(Encap::Udp, ["fd00:2::1", "fd00:2::2"], 1, 0x1234);
}

#[test]
fn tcp_and_udp_pass_over_raw_esp() {
    everything_passes(Encap::Raw, ["192.0.2.1", "192.0.2.2"], 1, 0x1234);
}

#[test]
fn tcp_and_udp_pass_over_raw_esp_on_ipv6() {
    everything_passes(Encap::Raw, ["fd00:2::1", "fd00:2::2"], 1, 0x1234);
}

#[test]
fn packets_that_arrive_at_the_wrong_worker_are_handed_over() {
    // Inner destinations end in 1, so their queue is worker 1's; the SAs are worker 0's.
    everything_passes(Encap::Udp, ["192.0.2.1", "192.0.2.2"], 2, 0x1234);
}

#[test]
fn packets_of_a_well_placed_sa_arrive_at_its_worker() {
    everything_passes(Encap::Udp, ["192.0.2.1", "192.0.2.2"], 2, 0x2000_1234);
}

#[test]
fn a_wire_too_narrow_for_the_tunnel_fragments_its_packets() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    for end in &wire {
        ip(&format!("-n {end} link set wire mtu 1300"));
    }
    for (number, outer) in [["192.0.2.1", "192.0.2.2"], ["fd00:2::1", "fd00:2::2"]]
        .into_iter()
        .enumerate()
    {
        let inner = [
            namespaces.add(&format!("li{number}")),
            namespaces.add(&format!("ri{number}")),
        ];
        let left = End::new(&wire[0], outer[0], 1);
        let right = End::new(&wire[1], outer[1], 1);
        left.attach(1, &inner[0], &["10.7.1.1/16"]);
        right.attach(1, &inner[1], &["10.7.2.1/16"]);
        let [gcm, ..] = suites();
        agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);
        tcp_echo(&inner[1], &inner[0], "10.7.2.1:903".parse().unwrap(), 1_000_000);
        let counters = left.counters(0);
        assert_eq!(counters.drops.get(esp::DropReason::SendFailed), 0);
        assert!(counters.outer_out > 500);
    }
}

#[test]
fn domains_with_the_same_prefixes_live_side_by_side() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let left = End::new(&wire[0], "192.0.2.1", 1);
    let right = End::new(&wire[1], "192.0.2.2", 1);
    let mut inner = Vec::new();
    for id in 1..=2u32 {
        let both = [
            namespaces.add(&format!("li{id}")),
            namespaces.add(&format!("ri{id}")),
        ];
        left.attach(id, &both[0], &["10.7.1.1/16"]);
        right.attach(id, &both[1], &["10.7.2.1/16"]);
        let [gcm, ..] = suites();
        let spi = 0x700 + id;
        let agreed = Agreement {
            domain: id,
            session: u64::from(id),
            ..agreement(spi, gcm, Encap::Udp)
        };
        agreed.install_both([&left, &right]);
        inner.push(both);
    }
    let address: SocketAddr = "10.7.2.1:901".parse().unwrap();
    // Both servers listen on the same address and say who they are.
    let (ready, is_ready) = channel();
    let servers: Vec<_> = (1u8..)
        .zip(&inner)
        .map(|(id, both)| {
            let ready = ready.clone();
            inside(&both[1], move || {
                let listener = TcpListener::bind(address).unwrap();
                ready.send(()).unwrap();
                listener.accept().unwrap().0.write_all(&[id]).unwrap();
            })
        })
        .collect();
    for _ in &inner {
        is_ready.recv_timeout(PATIENCE).unwrap();
    }
    for (id, both) in (1u8..=2).zip(&inner).rev() {
        let call = inside(&both[0], move || {
            let mut answer = Vec::new();
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, [id]);
        });
        call.join().unwrap();
    }
    for server in servers {
        server.join().unwrap();
    }
    // With one domain gone the other goes on, and it can come back at once.
    left.holder.detach_domain(1).unwrap();
    assert!(left.holder.add_route(1, "10.0.0.0/8".parse().unwrap()).is_err());
    left.attach(1, &inner[0][0], &["10.7.1.1/16"]);
    tcp_echo(&inner[0][1], &inner[0][0], address, 100_000);
    tcp_echo(&inner[1][1], &inner[1][0], address, 100_000);
    // Routes are counted, and a device that somebody else deletes is reported.
    let (net, other) = ("10.99.0.0/16".parse().unwrap(), "10.7.0.0/16".parse().unwrap());
    for _ in 0..2 {
        left.holder.add_route(1, net).unwrap();
    }
    assert!(left.holder.add_route(1, other).is_err(), "the kernel's own");
    for _ in 0..2 {
        left.holder.del_route(1, net).unwrap();
    }
    assert!(left.holder.del_route(1, net).is_err());
    ip(&format!("-n {} link del vpn1", inner[0][0]));
    let is_lost = |e: WorkerEvent| matches!(e, WorkerEvent::DeviceLost { domain: 1, .. });
    assert!(std::iter::from_fn(|| left.events[0].recv_timeout(PATIENCE).ok()).any(is_lost));
    left.holder.detach_domain(1).unwrap();
    left.attach(1, &inner[0][0], &["10.7.1.1/16"]);
    tcp_echo(&inner[0][1], &inner[0][0], address, 100_000);
}

#[test]
fn a_worker_that_panics_under_traffic_starts_again_with_its_sockets() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let mut left = End::new(&wire[0], "192.0.2.1", 2);
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    // The left end is worker 1 of 2.
    let agreed = Agreement {
        spis: [0x2000_0777, 0x777],
        ..agreement(0x777, gcm, Encap::Udp)
    };
    agreed.install_both([&left, &right]);

    let echo = inside(&inner[1], move || {
        let socket = UdpSocket::bind("10.7.2.1:902").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            if len == 0 {
                break;
            }
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    let (report, answers) = channel();
    let pinger = inside(&inner[0], move || {
        let socket = UdpSocket::bind("10.7.1.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let until = Instant::now() + 2 * PATIENCE;
        for number in 0u32.. {
            let _ = socket.send_to(&number.to_be_bytes(), "10.7.2.1:902");
            let mut buffer = [0; 4];
            let answered = socket.recv(&mut buffer).is_ok();
            if report.send(answered).is_err() || Instant::now() > until {
                break;
            }
        }
        let _ = socket.send_to(&[], "10.7.2.1:902");
    });
    let wait_for = |wanted: bool| {
        let until = Instant::now() + PATIENCE;
        while answers.recv_timeout(PATIENCE).unwrap() != wanted {
            assert!(Instant::now() < until, "no {wanted} in time");
        }
    };
    wait_for(true);
    for round in 1..=3 {
        left.workers[1].send(WorkerCommand::Panic).unwrap();
        let died = loop {
            if let WorkerEvent::Died { worker, message } = left.events[1].recv_timeout(PATIENCE).unwrap() {
                break (worker, message);
            }
        };
        assert_eq!(died, (1, "panic requested by fault injection".to_owned()));
        wait_for(false);
        let (worker, events) = left.start(1);
        left.workers[1] = worker;
        left.events[1] = events;
        // The peer's window has seen what was sent before: numbers go on above.
        Agreement {
            first_seq: round * 1_000_000,
            ..agreed.clone()
        }
        .install(0, [&left, &right]);
        wait_for(true);
    }
    // The steering still knows the sockets: the other worker sees none of it.
    assert_eq!(left.counters(0).outer_in, 0);
    drop(answers);
    pinger.join().unwrap();
    echo.join().unwrap();
    left.holder.stop_worker(1);
    assert!(left.workers[1].send(WorkerCommand::Shutdown).is_err());
}
