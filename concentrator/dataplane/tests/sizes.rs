//! Packets that are too big for the way, and very big ones that are not: two data planes with a router or a wire between
//! them. Needs root; without it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{Agreement, End, Namespaces, PATIENCE, agreement, ip, suites, tcp_echo, udp_echo};
use dataplane::{Domain, Encap, PathEvent, SaStats, WorkerCommand};
use esp::tunnel::DfRule;

/// The MTU of the link to the right end.
const NARROW: u16 = 1300;

/// Left end, router, right end: 192.0.2.1 and fd00:2::1, 198.51.100.2 and fd00:3::2.
fn routed(namespaces: &mut Namespaces) -> [String; 2] {
    let [left, router, right] = ["l", "x", "r"].map(|name| namespaces.add(name));
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let order = format!("echo 1 > /proc/sys/{key}");
        let done = Command::new("ip")
            .args(["netns", "exec", &router, "sh", "-c", &order])
            .status();
        assert!(done.unwrap().success());
    }
    for (end, device, net4, net6, last) in [
        (&left, "to-l", "192.0.2", "fd00:2::", 1),
        (&right, "to-r", "198.51.100", "fd00:3::", 2),
    ] {
        ip(&format!(
            "-n {router} link add {device} type veth peer name wire netns {end}"
        ));
        ip(&format!("-n {router} addr add {net4}.9/24 dev {device}"));
        ip(&format!("-n {router} addr add {net6}9/64 dev {device} nodad"));
        ip(&format!("-n {router} link set {device} up"));
        ip(&format!("-n {end} addr add {net4}.{last}/24 dev wire"));
        ip(&format!("-n {end} addr add {net6}{last}/64 dev wire nodad"));
        ip(&format!("-n {end} link set wire up"));
        ip(&format!("-n {end} route add default via {net4}.9"));
        ip(&format!("-n {end} -6 route add default via {net6}9"));
    }
    ip(&format!("-n {router} link set to-r mtu {NARROW}"));
    ip(&format!("-n {right} link set wire mtu {NARROW}"));
    [left, right]
}

fn stats(end: &End) -> SaStats {
    let (sender, receiver) = channel();
    let ask = WorkerCommand::ReadStats(Box::new(move |stats| drop(sender.send(stats))));
    end.workers[0].send(ask).unwrap();
    receiver.recv_timeout(PATIENCE).unwrap()[0]
}

/// A worker's next turn is not long away, but away.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether an echo request with DF and so many octets of payload is answered, and what was said.
fn ping(netns: &str, to: &str, payload: usize) -> (bool, String) {
    let payload = payload.to_string();
    let out = Command::new("ip")
        .args(["netns", "exec", netns, "ping", "-n", "-M", "do", "-c", "2"])
        .args(["-i", "0.2", "-W", "1", "-s", &payload, to])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    (said.contains(" 2 received"), said)
}

fn install(agreed: &Agreement, df: DfRule, ends: [&End; 2]) {
    for (side, end) in ends.iter().enumerate() {
        let mut pair = agreed.pair(side, ends);
        pair.df = df;
        let install = WorkerCommand::Install(Box::new(pair));
        end.workers[0].send(install).unwrap();
    }
}

#[test]
fn the_narrow_link_behind_a_router_is_learned_for_every_encapsulation() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = routed(&mut namespaces);
    let v4 = ["192.0.2.1", "198.51.100.2"];
    let v6 = ["fd00:2::1", "fd00:3::2"];
    for (number, (encap, outer, overhead)) in [
        (Encap::Udp, v4, 28),
        (Encap::Raw, v4, 20),
        (Encap::Udp, v6, 48),
        (Encap::Raw, v6, 40),
    ]
    .into_iter()
    .enumerate()
    {
        // Over IPv6 the kernel remembers from the case before, and would fragment: no router would say anything.
        for end in &wire {
            ip(&format!("-n {end} -6 route flush cache"));
        }
        let inner = ["li", "ri"].map(|name| namespaces.add(&format!("{name}{number}")));
        let ends = [End::new(&wire[0], outer[0], 1), End::new(&wire[1], outer[1], 1)];
        assert!(ends[0].holder.path_mtu_trouble().is_none());
        ends[0].attach(1, &inner[0], &["10.7.1.1/16"]);
        ends[1].attach(1, &inner[1], &["10.7.2.1/16"]);
        let [_, _, cbc] = suites();
        install(&agreement(0x900, cbc, encap), DfRule::Copy, [&ends[0], &ends[1]]);
        tcp_echo(&inner[0], &inner[1], "10.7.1.1:905".parse().unwrap(), 1_000_000);
        eventually("the MTU is learned", || stats(&ends[0]).path_mtu == Some(NARROW));
        // AES-CBC with HMAC-SHA2-256: 8 of header, 16 of IV, 16 of ICV, blocks of 16, two of which octets end the padding.
        let limit = (usize::from(NARROW) - overhead - 40) / 16 * 16 - 2;
        assert_eq!(
            stats(&ends[0]).inner_mtu,
            Some(limit as u16),
            "{encap:?} {outer:?}"
        );
        assert!(ping(&inner[0], "10.7.2.1", limit - 28).0);
        let (answered, said) = ping(&inner[0], "10.7.2.1", limit + 1 - 28);
        assert!(!answered && said.contains(&limit.to_string()), "{said}");
        // Without DF inside, nothing is lost: it is cut before encryption.
        udp_echo(
            &inner[1],
            &inner[0],
            "10.7.2.1:906".parse().unwrap(),
            &[1372, 1200, 4000],
        );
        let paths = ends[0].counters(0).paths;
        assert_eq!(paths.get(PathEvent::Forged), 0);
        assert!(paths.get(PathEvent::Learned) >= 1, "{paths:?}");
    }
}

#[test]
fn outer_fragments_of_raw_esp_are_put_together_too() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = routed(&mut namespaces);
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::new(&wire[0], "192.0.2.1", 1);
    let right = End::new(&wire[1], "198.51.100.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    for (spi, encap) in [(0x900, Encap::Raw), (0x901, Encap::Udp)] {
        // DF is clear: the router fragments.
        install(&agreement(spi, gcm, encap), DfRule::Clear, [&left, &right]);
        assert!(ping(&inner[0], "10.7.2.1", 1372).0, "{encap:?}");
        tcp_echo(&inner[1], &inner[0], "10.7.2.1:907".parse().unwrap(), 300_000);
        assert_eq!(stats(&left).path_mtu, None);
        left.workers[0]
            .send(WorkerCommand::Remove { spi_in: spi })
            .unwrap();
        let spi_in = spi + 0x1000;
        right.workers[0].send(WorkerCommand::Remove { spi_in }).unwrap();
    }
}

#[test]
fn jumbo_packets_pass_whole_and_our_own_narrow_link_is_noticed() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    for end in &wire {
        ip(&format!("-n {end} link set wire mtu 9100"));
    }
    let [gcm, ..] = suites();
    for (number, outer) in [["192.0.2.1", "192.0.2.2"], ["fd00:2::1", "fd00:2::2"]]
        .into_iter()
        .enumerate()
    {
        let inner = ["li", "ri"].map(|name| namespaces.add(&format!("{name}{number}")));
        let ends = [End::new(&wire[0], outer[0], 1), End::new(&wire[1], outer[1], 1)];
        let addresses = [["10.7.1.1/16", "fd07::1/64"], ["10.7.2.1/16", "fd07::2/64"]];
        for ((end, netns), addresses) in ends.iter().zip(&inner).zip(addresses) {
            let mut domain = Domain::new(1, "jumbo", "vpn1");
            domain.netns = Some(netns.clone());
            domain.mtu = 9000;
            domain.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            end.holder.attach_domain(domain).unwrap();
        }
        let agreed = Agreement {
            selectors: [
                common::selectors(&["10.7.1.0/24", "fd07::1"]),
                common::selectors(&["10.7.2.0/24", "fd07::2"]),
            ],
            ..agreement(0x900, gcm, Encap::Udp)
        };
        install(&agreed, DfRule::Set, [&ends[0], &ends[1]]);
        assert!(ping(&inner[0], "10.7.2.1", 9000 - 28).0);
        assert!(ping(&inner[0], "fd07::2", 9000 - 48).0);
        for address in ["10.7.2.1:908", "[fd07::2]:908"] {
            let address = address.parse().unwrap();
            tcp_echo(&inner[1], &inner[0], address, 5_000_000);
            udp_echo(&inner[1], &inner[0], address, &[1400, 8972, 8952, 20_000]);
        }
        let left = ends[0].counters(0);
        assert_eq!(left.drops.get(esp::DropReason::SendFailed), 0);
        assert!(left.outer_out < 4_000, "segments of 9000 octets: {left:?}");
        assert!(
            left.outer_out > 2 * left.outer_writes,
            "and several a call: {left:?}"
        );
        if number > 0 {
            continue;
        }
        // With DF, what our own link cannot take is not sent, and the sender told from then on.
        for end in &wire {
            ip(&format!("-n {end} link set wire mtu 5000"));
        }
        tcp_echo(&inner[1], &inner[0], "10.7.2.1:909".parse().unwrap(), 1_000_000);
        assert_eq!(stats(&ends[0]).path_mtu, Some(5000));
        for end in &wire {
            ip(&format!("-n {end} link set wire mtu 9100"));
        }
    }
}
