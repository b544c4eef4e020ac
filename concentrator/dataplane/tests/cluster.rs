//! The data plane as part of a cluster, with real sockets: the deadline, also across a process that was stopped; packets
//! sent on to the node that owns them; a takeover under traffic. Needs root; without it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Agreement, End, Namespaces, PATIENCE, agreement, inside, ip, suites};
use crypto::Secret;
use dataplane::{Address, Encap, Forward, SaPair, WorkerCommand, WorkerEvent, addresses, boot_time};
use esp::DropReason;

/// Sends numbered datagrams from one inner network to the other until told to stop.
fn flood(netns: &str, to: &str, every: Duration, is_over: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (to, is_over): (SocketAddr, _) = (to.parse().unwrap(), Arc::clone(is_over));
    inside(netns, move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let mut sent = 0u64;
        while !is_over.load(Ordering::Relaxed) {
            sent += 1;
            let _ = socket.send_to(&sent.to_be_bytes(), to);
            std::thread::sleep(every);
        }
        sent
    })
}

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Packets that the kernel took from us at the TUN device.
fn delivered(netns: &str, device: &str) -> u64 {
    let path = format!("/sys/class/net/{device}/statistics/rx_packets");
    let out = Command::new("ip")
        .args(["netns", "exec", netns, "cat", &path])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[test]
fn past_the_deadline_nothing_goes_either_way_until_it_is_raised() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let deadline = Arc::new(AtomicU64::new(0));
    let left = End::with(&wire[0], "192.0.2.1", 1, |c| {
        c.until = Some(Arc::clone(&deadline))
    });
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);
    let is_over = Arc::default();
    let every = Duration::from_micros(500);
    let floods = [
        flood(&inner[0], "10.7.2.1:9", every, &is_over),
        flood(&inner[1], "10.7.1.1:9", every, &is_over),
    ];
    let carried = || {
        let counters = left.counters(0);
        (counters.outer_out, counters.inner_out)
    };
    let refused = || left.counters(0).drops.get(DropReason::NotOwner);
    until("refused from the start", || refused() > 100);
    assert_eq!(carried(), (0, 0));

    deadline.store(u64::MAX, Ordering::Relaxed);
    until("carried for ever", || carried().0 > 100 && carried().1 > 100);
    deadline.store(nanos(boot_time() + Duration::from_millis(100)), Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(110));
    let (at_deadline, refused_before) = (carried(), refused());
    until("refused again", || refused() > refused_before + 100);
    assert_eq!(carried(), at_deadline, "nothing past the deadline");
    deadline.store(nanos(boot_time() + Duration::from_secs(60)), Ordering::Relaxed);
    until("carried again", || {
        carried().0 > at_deadline.0 + 100 && carried().1 > at_deadline.1 + 100
    });
    is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
}

const CHILD: &str = "DATAPLANE_TEST_CHILD";

/// Not a test of its own: the process that the next test stops and continues. Its environment names the namespaces.
#[test]
fn child_process_with_a_deadline() {
    let Ok(words) = std::env::var(CHILD) else {
        return;
    };
    let words: Vec<&str> = words.split(' ').collect();
    let (wire, inner, until) = (words[0], words[1], words[2].parse().unwrap());
    let deadline = Arc::new(AtomicU64::new(until));
    let left = End::with(wire, "192.0.2.1", 1, |c| c.until = Some(deadline));
    left.attach(1, inner, &["10.7.1.1/16"]);
    let [gcm, ..] = suites();
    let mut pair = agreement(0x900, gcm, Encap::Udp).pair(0, [&left, &left]);
    pair.peer = "192.0.2.2:4500".parse().unwrap();
    left.workers[0]
        .send(WorkerCommand::Install(Box::new(pair)))
        .unwrap();
    // Ended by its parent.
    std::thread::sleep(4 * PATIENCE);
}

#[test]
fn a_process_that_was_stopped_past_its_deadline_lets_nothing_out_when_it_goes_on() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let right = End::new(&wire[1], "192.0.2.2", 1);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    let mut pair = agreement(0x900, gcm, Encap::Udp).pair(1, [&right, &right]);
    pair.peer = "192.0.2.1:4500".parse().unwrap();
    right.workers[0]
        .send(WorkerCommand::Install(Box::new(pair)))
        .unwrap();

    let lasts = Duration::from_secs(3);
    let deadline = boot_time() + lasts;
    let words = format!("{} {} {}", wire[0], inner[0], nanos(deadline));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_with_a_deadline"])
        .env(CHILD, words)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let signal = |name: &str| {
        let done = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    };
    let is_over = Arc::default();
    let every = Duration::from_micros(300);
    let floods = [
        flood(&inner[0], "10.7.2.1:9", every, &is_over),
        flood(&inner[1], "10.7.1.1:9", every, &is_over),
    ];
    let arrived = || right.counters(0).outer_in;
    until("traffic both ways", || {
        arrived() > 200 && delivered(&inner[0], "vpn1") > 200
    });
    assert!(boot_time() < deadline, "too slow a machine for this test");
    signal("-STOP");
    // Packets pile up in the device's queue and in the socket, all from before and after the deadline.
    std::thread::sleep((deadline + Duration::from_millis(100)).saturating_sub(boot_time()));
    let before = (arrived(), delivered(&inner[0], "vpn1"));
    signal("-CONT");
    std::thread::sleep(Duration::from_millis(700));
    let after = (arrived(), delivered(&inner[0], "vpn1"));
    is_over.store(true, Ordering::Relaxed);
    child.kill().unwrap();
    child.wait().unwrap();
    for flood in floods {
        assert!(flood.join().unwrap() > 1000);
    }
    assert_eq!(before, after, "packets from a node whose time is over");
}

const VIP: &str = "192.0.2.100";

/// A node of the cluster: it has the service address but does not say so, as behind an equal-cost route.
fn node(netns: &str, forward: &str, workers: u8) -> End {
    let address: Address = format!("{VIP}/32@lo").parse().unwrap();
    assert!(
        inside(netns, move || addresses::add(&address).unwrap())
            .join()
            .unwrap()
    );
    let forward = Forward {
        listen: forward.parse().unwrap(),
        key: Secret::from(vec![3; 32]),
    };
    End::with(netns, VIP, workers, |c| c.forward = Some(forward))
}

#[test]
fn a_packet_that_came_to_the_wrong_node_reaches_its_sa_and_the_answer_the_client() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let ([a, b, c], _) = namespaces.bridge(["a", "b", "c"]);
    let inner = [namespaces.add("bi"), namespaces.add("ci")];
    let mut stranger = node(&a, "192.0.2.1:4600", 1);
    let owner = node(&b, "192.0.2.2:4600", 2);
    let client = End::new(&c, "192.0.2.3", 1);
    // All that the client sends to the service address comes to the wrong node.
    let show = Command::new("ip")
        .args(["-n", &a, "-br", "link", "show", "eth0"])
        .output()
        .unwrap();
    let show = String::from_utf8(show.stdout).unwrap();
    let mac = show.split_whitespace().nth(2).unwrap();
    ip(&format!(
        "-n {c} neigh replace {VIP} lladdr {mac} dev eth0 nud permanent"
    ));

    owner.attach(1, &inner[0], &["10.7.1.1/16"]);
    client.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    for (encap, spi) in [
        (Encap::Udp, 5 << 22 | 0x1234),
        (Encap::Raw, 1 << 29 | 5 << 22 | 0x1234),
    ] {
        let agreed = Agreement {
            slot: 5,
            ..agreement(spi, gcm, encap)
        };
        agreed.install_both([&owner, &client]);
        let to = "192.0.2.2:4600".parse().unwrap();
        stranger.holder.forward_slot(5, Some(to));
        // A worker that starts again knows it too.
        stranger.holder.stop_worker(0);
        let (worker, _events) = stranger.start(0);
        stranger.workers[0] = worker;
        common::udp_echo(
            &inner[0],
            &inner[1],
            "10.7.1.1:900".parse().unwrap(),
            &[0, 1, 500, 1352, 1372, 4000, 9000],
        );
        let worker = usize::from(dataplane::serving_worker(spi, 2));
        let (sent_on, got) = (stranger.counters(0), owner.counters(worker));
        println!(
            "{encap:?}: {} sent on, {} received",
            sent_on.forwarded_out, got.forwarded_in
        );
        assert!(got.forwarded_in >= 10 && got.outer_out >= 10);
        // TCP, whose bursts stay bursts on the way between the nodes.
        let start = Instant::now();
        common::tcp_echo(&inner[0], &inner[1], "10.7.1.1:901".parse().unwrap(), 10_000_000);
        let after = owner.counters(worker);
        let packets = after.forwarded_in - got.forwarded_in;
        let reads = after.outer_reads - got.outer_reads;
        println!(
            "{encap:?}: 10 MB there and back in {:?}: {packets} packets sent on, in {reads} reads",
            start.elapsed()
        );
        assert_eq!(after.drops.get(DropReason::BadForward), 0);
        assert!(encap == Encap::Raw || packets > 4 * reads);
    }
    // Both sides think that the other one is the owner: the packets end there.
    owner.workers[0]
        .send(WorkerCommand::RemoveSlot { slot: 5 })
        .unwrap();
    owner.workers[1]
        .send(WorkerCommand::RemoveSlot { slot: 5 })
        .unwrap();
    for worker in &owner.workers {
        let to = Some("192.0.2.1:4600".parse().unwrap());
        worker.send(WorkerCommand::Forward { slot: 5, to }).unwrap();
    }
    let is_over = Arc::default();
    let flood = flood(&inner[1], "10.7.1.1:9", Duration::from_millis(1), &is_over);
    let lost = || owner.counters(1).drops.get(DropReason::UnknownSpi);
    until("packets at a node that has no SA", || lost() > 50);
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert_eq!(
        owner.counters(0).forwarded_out + owner.counters(1).forwarded_out,
        0
    );

    // An IKE message takes the same way; what no node sent is refused.
    let [local, remote] = [&format!("{VIP}:500"), "192.0.2.3:12345"].map(|a| a.parse().unwrap());
    let to = "192.0.2.2:4600".parse().unwrap();
    stranger
        .holder
        .forward_ike(to, local, remote, b"an IKE message")
        .unwrap();
    let is_it = |event: WorkerEvent| {
        matches!(event, WorkerEvent::ForwardedIke { local: l, remote: r, bytes }
            if (l, r, &bytes[..]) == (local, remote, b"an IKE message"))
    };
    assert!(std::iter::from_fn(|| owner.events[0].recv_timeout(PATIENCE).ok()).any(is_it));
    let [known, unknown] = [5, 6].map(|slot| {
        let sent = stranger
            .holder
            .forward_ike_to_owner(slot, local, remote, b"one more");
        sent.unwrap()
    });
    assert!(known && !unknown);
    let is_it = |event| matches!(event, WorkerEvent::ForwardedIke { bytes, .. } if bytes == b"one more");
    assert!(std::iter::from_fn(|| owner.events[0].recv_timeout(PATIENCE).ok()).any(is_it));
    assert!(
        client.holder.forward_ike(to, local, remote, b"").is_err(),
        "no cluster"
    );
    inside(&c, move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        for len in [0usize, 3, 60, 100] {
            socket.send_to(&vec![0; len], to).unwrap();
        }
    })
    .join()
    .unwrap();
    until("forgeries counted", || {
        owner.counters(0).drops.get(DropReason::BadForward) == 4
    });
}

#[test]
fn a_takeover_of_thousands_of_pairs_does_not_stop_the_packets_of_others() {
    const PAIRS: u32 = 20_000;
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let wire = namespaces.wire();
    let inner = [namespaces.add("li"), namespaces.add("ri")];
    let left = End::new(&wire[0], "192.0.2.1", 1);
    let right = End::new(&wire[1], "192.0.2.2", 1);
    left.attach(1, &inner[0], &["10.7.1.1/16"]);
    right.attach(1, &inner[1], &["10.7.2.1/16"]);
    let [gcm, ..] = suites();
    agreement(0x900, gcm, Encap::Udp).install_both([&left, &right]);

    let (report, gaps) = channel();
    let is_over: Arc<AtomicBool> = Arc::default();
    let is_done = Arc::clone(&is_over);
    let receiver = inside(&inner[1], move || {
        let socket = UdpSocket::bind("10.7.2.1:9").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (mut last, mut longest) = (None::<Instant>, Duration::ZERO);
        while !is_done.load(Ordering::Relaxed) {
            if socket.recv(&mut [0; 16]).is_ok() {
                longest = longest.max(last.map_or(Duration::ZERO, |at| at.elapsed()));
                if last.replace(Instant::now()).is_none() {
                    report.send(()).unwrap();
                }
            }
        }
        longest
    });
    let flood = flood(&inner[0], "10.7.2.1:9", Duration::from_millis(1), &is_over);
    gaps.recv_timeout(PATIENCE).unwrap();

    let pairs: Vec<SaPair> = (0..PAIRS)
        .map(|n| {
            let mut pair = agreement(3 << 22 | n, gcm, Encap::Udp).pair(0, [&left, &right]);
            pair.slot = 3;
            pair.ts_remote = vec![ip::Selector::host([10, 8, (n >> 8) as u8, n as u8].into())];
            pair
        })
        .collect();
    let start = Instant::now();
    left.workers[0].send(WorkerCommand::InstallMany(pairs)).unwrap();
    // The commands behind it are obeyed when all are in.
    let (answer, stats) = channel();
    let reply = Box::new(move |stats: Vec<_>| answer.send(stats.len()).unwrap_or_default());
    left.workers[0].send(WorkerCommand::ReadStats(reply)).unwrap();
    assert_eq!(stats.recv_timeout(6 * PATIENCE).unwrap(), PAIRS as usize + 1);
    let installed = start.elapsed();
    let start = Instant::now();
    left.workers[0]
        .send(WorkerCommand::RemoveSlot { slot: 3 })
        .unwrap();
    left.counters(0);
    let removed = start.elapsed();
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let longest = receiver.join().unwrap();
    println!("{PAIRS} pairs installed in {installed:?}, removed in {removed:?}; longest gap {longest:?}");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}
