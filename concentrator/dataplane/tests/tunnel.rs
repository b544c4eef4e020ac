//! Two data planes end to end: application, TUN, ESP, a wire, ESP, TUN, application, each in network namespaces of its
//! own. Needs root; without it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{Agreement, End, Namespaces, PATIENCE, agreement, inside, ip, suites, tcp_echo, udp_echo};
use dataplane::{Encap, WorkerCommand, WorkerEvent};

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
