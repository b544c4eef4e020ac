//! AF_XDP on the outer side, against an end with sockets and against itself, over a veth pair. Needs root; without it the
//! tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::net::SocketAddr;
use std::process::Command;

use common::{End, Namespaces, agreement, ip, suites, tcp_echo, udp_echo};
use dataplane::{Config, Encap, Outer, OuterMode, OuterWay, WorkerCommand, WorkerCounters, WorkerEvent};

fn with(mode: OuterMode, interfaces: &[&str]) -> impl FnOnce(&mut Config) {
    let interfaces = interfaces.iter().map(|i| (*i).to_owned()).collect();
    move |config| config.outer = Outer { mode, interfaces }
}

fn sum(end: &End) -> WorkerCounters {
    let mut all = WorkerCounters::default();
    for worker in 0..end.workers.len() {
        let one = end.counters(worker);
        all.drops.merge(&one.drops);
        all.fast_in += one.fast_in;
        all.fast_out += one.fast_out;
        all.fast_left += one.fast_left;
        all.fast_lost += one.fast_lost;
        all.outer_in += one.outer_in;
        all.outer_out += one.outer_out;
        all.handed_over += one.handed_over;
    }
    println!("{all:?}");
    all
}

/// Traffic both ways between an end with AF_XDP and one that may have it.
fn everything_passes(encap: Encap, outer: [&str; 2], workers: u8, right_too: bool) {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::with(&wire[0], outer[0], workers, with(OuterMode::Xdp, &[]));
    let mode = if right_too {
        OuterMode::Xdp
    } else {
        OuterMode::Socket
    };
    let right = End::with(&wire[1], outer[1], workers, with(mode, &["wire"]));
    let report = left.holder.outer();
    assert_eq!(report.len(), 1);
    assert_eq!(
        (report[0].interface.as_str(), report[0].way),
        ("wire", OuterWay::XdpCopy)
    );
    assert_eq!((&report[0].reason, report[0].queues), (&None, 1));
    left.attach(1, &inner[0], &["10.7.1.1/16", "fd07:1::1/32"]);
    right.attach(1, &inner[1], &["10.7.2.1/16", "fd07:2::1/32"]);
    for (end, net) in [(&left, "fd07:2::/64"), (&right, "fd07:1::/64")] {
        end.holder.add_route(1, net.parse().unwrap()).unwrap();
    }
    for (suite, spi) in suites().into_iter().zip([0x1234u32, 0x2000_1234, 0x1236]) {
        let agreed = agreement(spi, suite, encap);
        agreed.install_both([&left, &right]);
        for address in ["10.7.2.1:900", "[fd07:2::1]:900"] {
            let address: SocketAddr = address.parse().unwrap();
            // TCP first: it repeats what comes before the SAs are there.
            tcp_echo(&inner[1], &inner[0], address, 1_000_000);
            udp_echo(
                &inner[1],
                &inner[0],
                address,
                &[0, 1, 2, 3, 100, 500, 1352, 1372, 4000],
            );
        }
        for (end, spi_in) in [(&left, agreed.spis[0]), (&right, agreed.spis[1])] {
            let worker = usize::from(dataplane::serving_worker(spi_in, workers));
            end.workers[worker]
                .send(WorkerCommand::Remove { spi_in })
                .unwrap();
        }
    }
    for end in [&left, &right] {
        let counters = sum(end);
        for reason in [
            esp::DropReason::NotAuthentic,
            esp::DropReason::OuterMalformed,
            esp::DropReason::SendFailed,
            esp::DropReason::ReplayDuplicate,
        ] {
            assert_eq!(counters.drops.get(reason), 0, "{reason}");
        }
    }
    let counters = sum(&left);
    assert!(counters.fast_in > 1000 && counters.fast_in <= counters.outer_in);
    // Few, since bursts of TCP go by the socket.
    assert!(counters.fast_out > 30 && counters.fast_out + counters.fast_left == counters.outer_out);
    assert_eq!(counters.fast_lost, 0);
}

#[test]
fn udp_encapsulation_passes() {
    everything_passes(Encap::Udp, ["192.0.2.1", "192.0.2.2"], 1, false);
}

#[test]
fn udp_encapsulation_passes_on_ipv6_between_two_workers() {
    everything_passes(Encap::Udp, ["fd00:2::1", "fd00:2::2"], 2, false);
}

#[test]
fn raw_esp_passes_between_two_fast_ends() {
    everything_passes(Encap::Raw, ["192.0.2.1", "192.0.2.2"], 2, true);
}

#[test]
fn raw_esp_passes_on_ipv6() {
    everything_passes(Encap::Raw, ["fd00:2::1", "fd00:2::2"], 1, false);
}

fn is_attached(netns: &str) -> bool {
    let args = ["-n", netns, "-d", "link", "show", "wire"];
    let out = Command::new("ip").args(args).output().unwrap();
    String::from_utf8_lossy(&out.stdout).contains("xdp")
}

#[test]
fn what_cannot_be_had_is_said_and_the_sockets_do_it() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let cases = [
        (OuterMode::Auto, vec!["wire"], "the driver has no zero-copy"),
        (OuterMode::Xdp, vec!["nowhere"], "No such device"),
        (OuterMode::Xdp, vec!["lo"], "attaching the program"),
    ];
    for (number, (mode, interfaces, reason)) in cases.into_iter().enumerate() {
        let left = End::with(&wire[0], "192.0.2.1", 1, with(mode, &interfaces));
        let [report] = left.holder.outer() else {
            panic!("{:?}", left.holder.outer())
        };
        assert_eq!((report.way, report.queues), (OuterWay::Socket, 0));
        let told = report.reason.as_deref().unwrap();
        assert!(told.contains(reason), "{told}");
        assert!(!is_attached(&wire[0]));
        let right = End::new(&wire[1], "192.0.2.2", 1);
        let inner = ["li", "ri"].map(|name| namespaces.add(&format!("{name}{number}")));
        left.attach(1, &inner[0], &["10.7.1.1/16"]);
        right.attach(1, &inner[1], &["10.7.2.1/16"]);
        let [gcm, ..] = suites();
        agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);
        tcp_echo(&inner[1], &inner[0], "10.7.2.1:900".parse().unwrap(), 100_000);
    }
}

#[test]
fn it_survives_its_worker_and_ends_with_the_holder() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let mut left = End::with(&wire[0], "192.0.2.1", 1, with(OuterMode::Xdp, &[]));
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    let address: SocketAddr = "10.7.2.1:900".parse().unwrap();
    for round in 0..3u32 {
        agreement(0x900 + round, gcm, Encap::Udp).install_both([&left, &right]);
        tcp_echo(&inner[1], &inner[0], address, 100);
        udp_echo(&inner[1], &inner[0], address, &[1, 1000, 10, 20, 30]);
        assert!(left.counters(0).fast_in >= 5);
        assert!(is_attached(&wire[0]));
        left.workers[0].send(WorkerCommand::Panic).unwrap();
        left.events[0]
            .iter()
            .find(|event| matches!(event, WorkerEvent::Died { .. }))
            .unwrap();
        let (worker, events) = left.start(0);
        (left.workers[0], left.events[0]) = (worker, events);
    }
    drop(left);
    assert!(!is_attached(&wire[0]));
}

/// What the kernel learns of neighbours and routes counts at once: a router takes over, and the link's MTU shrinks.
#[test]
fn it_follows_neighbours_and_the_mtu() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::with(&wire[0], "192.0.2.1", 1, with(OuterMode::Xdp, &[]));
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);
    let address: SocketAddr = "10.7.2.1:900".parse().unwrap();
    tcp_echo(&inner[1], &inner[0], address, 100);
    udp_echo(&inner[1], &inner[0], address, &[1, 2, 3, 1300]);
    let before = left.counters(0);
    assert!(before.fast_out > 0);
    // The peer has another Ethernet address now, and says so.
    ip(&format!("-n {} link set wire address 02:00:00:00:77:01", wire[1]));
    ip(&format!(
        "-n {} neigh replace 192.0.2.2 lladdr 02:00:00:00:77:01 dev wire nud reachable",
        wire[0]
    ));
    std::thread::sleep(std::time::Duration::from_millis(150));
    udp_echo(&inner[1], &inner[0], address, &[1, 2, 3, 1300]);
    let after = left.counters(0);
    assert!(after.fast_out > before.fast_out);
    // What does not fit any more is cut by the kernel, the rest goes on.
    for end in &wire {
        ip(&format!("-n {end} link set wire mtu 1280"));
    }
    std::thread::sleep(std::time::Duration::from_millis(150));
    udp_echo(&inner[1], &inner[0], address, &[1300, 1, 2, 1300]);
    let narrow = left.counters(0);
    assert!(
        narrow.fast_left > after.fast_left && narrow.fast_out > after.fast_out,
        "{narrow:?}"
    );
}

#[test]
fn an_interface_that_goes_is_told_and_the_sockets_go_on_without_it() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::with(&wire[0], "192.0.2.1", 1, with(OuterMode::Xdp, &[]));
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);
    let address: SocketAddr = "10.7.2.1:900".parse().unwrap();
    tcp_echo(&inner[1], &inner[0], address, 100_000);
    let before = left.counters(0);
    assert!(before.fast_in > 0);

    ip(&format!("-n {} link del wire", wire[0]));
    left.events[0]
        .iter()
        .find(|event| matches!(event, WorkerEvent::OuterLost { interface } if interface == "wire"))
        .unwrap();
    ip(&format!(
        "-n {} link add wire type veth peer name wire netns {}",
        wire[0], wire[1]
    ));
    for (end, last) in wire.iter().zip(1..) {
        ip(&format!("-n {end} addr add 192.0.2.{last}/24 dev wire"));
        ip(&format!("-n {end} link set wire up"));
    }
    tcp_echo(&inner[1], &inner[0], address, 100_000);
    let after = left.counters(0);
    assert!(after.outer_in > before.outer_in && after.outer_out > before.outer_out);
    assert_eq!(after.fast_in, before.fast_in);
}
