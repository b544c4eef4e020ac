//! Service addresses: put on and taken from interfaces, announced so that a third host follows at once, the carrier
//! watched. Needs root; without it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Namespaces, PATIENCE, inside, ip};
use dataplane::addresses::LinkEvent;
use dataplane::{Address, addresses};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 7007;

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

/// Runs something on an address inside a namespace.
fn on<T: Send + 'static>(netns: &str, text: &str, work: fn(&Address) -> T) -> T {
    let address = address(text);
    inside(netns, move || work(&address)).join().unwrap()
}

/// Answers every datagram to an address, which need not be there yet, with one letter.
fn answer(netns: &str, to: IpAddr, letter: u8, is_over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let is_over = Arc::clone(is_over);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = inside(netns, move || {
        let to = SocketAddr::new(to, PORT);
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).unwrap();
        if to.is_ipv4() {
            socket.set_freebind_v4(true).unwrap();
        } else {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&to.into()).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        ready.send(()).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                let _ = socket.send_to(&[letter], from);
            }
        }
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    thread
}

/// Asks every 2 ms until `letter` has answered or the time is over; says how long it took.
fn ask(netns: &str, to: IpAddr, letter: u8, patience: Duration) -> Option<Duration> {
    inside(netns, move || {
        let any: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let start = Instant::now();
        while start.elapsed() < patience {
            let _ = socket.send_to(b"?", (to, PORT));
            let mut buffer = [0; 16];
            if socket.recv(&mut buffer).is_ok() && buffer.starts_with(&[letter]) {
                return Some(start.elapsed());
            }
        }
        None
    })
    .join()
    .unwrap()
}

#[test]
fn an_announced_address_takes_its_traffic_along_and_an_unannounced_one_does_not() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let ([a, b, client], _) = namespaces.bridge(["a", "b", "c"]);
    for text in ["192.0.2.100/24@eth0", "2001:db8:2::100/64@eth0"] {
        let vip = address(text).ip();
        let is_over = Arc::default();
        let servers = [(&a, b'a'), (&b, b'b')].map(|(ns, letter)| answer(ns, vip, letter, &is_over));
        assert!(on(&a, text, addresses::add).unwrap(), "new");
        assert!(ask(&client, vip, b'a', PATIENCE).is_some());

        assert!(on(&a, text, addresses::remove).unwrap());
        assert!(on(&b, text, addresses::add).unwrap());
        let unannounced = ask(&client, vip, b'b', Duration::from_millis(400));
        assert_eq!(unannounced, None, "the client still asks the old node");
        on(&b, text, addresses::announce).unwrap();
        let silence = ask(&client, vip, b'b', PATIENCE).expect("the client follows the announcement");
        println!("{text}: {silence:?} from the announcement to the first answer");
        assert!(silence < Duration::from_millis(500), "{silence:?}");

        // And back, in one go as a hand-over does it.
        let start = Instant::now();
        assert!(on(&b, text, addresses::remove).unwrap());
        assert!(on(&a, text, addresses::add).unwrap());
        on(&a, text, addresses::announce).unwrap();
        ask(&client, vip, b'a', PATIENCE).unwrap();
        println!("{text}: {:?} for a whole move", start.elapsed());
        is_over.store(true, Ordering::Relaxed);
        for server in servers {
            server.join().unwrap();
        }
    }
}

#[test]
fn adding_and_removing_may_be_repeated_and_leaves_what_is_not_ours() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let ([a], switch) = namespaces.bridge(["a"]);
    for text in ["192.0.2.100/24@eth0", "2001:db8:2::100/64@eth0"] {
        assert!(!on(&a, text, addresses::present).unwrap());
        assert!(!on(&a, text, addresses::remove).unwrap(), "nothing there");
        assert!(on(&a, text, addresses::add).unwrap());
        assert!(!on(&a, text, addresses::add).unwrap(), "there already");
        assert!(on(&a, text, addresses::present).unwrap());
        let other = text.replace("eth0", "lo");
        assert!(!on(&a, &other, addresses::present).unwrap(), "another interface");
        assert!(on(&a, text, addresses::remove).unwrap());
        assert!(!on(&a, text, addresses::present).unwrap());
    }
    for own in ["192.0.2.1/24@eth0", "2001:db8:2::1/64@eth0"] {
        assert!(on(&a, own, addresses::present).unwrap());
    }
    let nowhere = "192.0.2.100/24@eth9";
    let error = on(&a, nowhere, addresses::add).unwrap_err().to_string();
    assert!(error.contains(nowhere), "{error}");
    assert!(on(&a, nowhere, addresses::announce).is_err());
    assert!(!on(&a, nowhere, addresses::remove).unwrap());
    assert!(!on(&a, nowhere, addresses::present).unwrap());

    // Where the node has no address of its own in the prefix, the first service address must not take the others along.
    ip(&format!("-n {switch} addr flush dev br0"));
    let vips = [1, 2, 3].map(|n| format!("198.51.100.{n}/24@br0"));
    for vip in &vips {
        assert!(on(&switch, vip, addresses::add).unwrap());
    }
    assert!(on(&switch, &vips[0], addresses::remove).unwrap());
    let left = [0, 1, 2].map(|n: usize| on(&switch, &vips[n], addresses::present).unwrap());
    assert_eq!(left, [false, true, true]);
}

#[test]
fn all_of_it_is_quick_also_with_hundreds_of_addresses() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let ([a], _) = namespaces.bridge(["a"]);
    let spent = inside(&a, || {
        let all: Vec<Address> = (0..256u32)
            .map(|n| address(&format!("10.9.{}.{}/16@eth0", n / 128, 1 + n % 128)))
            .collect();
        let each = |work: &dyn Fn(&Address)| {
            let start = Instant::now();
            all.iter().for_each(work);
            start.elapsed() / all.len() as u32
        };
        let added = each(&|a| assert!(addresses::add(a).unwrap()));
        let seen = each(&|a| assert!(addresses::present(a).unwrap()));
        let told = each(&|a| addresses::announce(a).unwrap());
        let asked = each(&|_| assert!(addresses::carrier("eth0").unwrap()));
        let removed = each(&|a| assert!(addresses::remove(a).unwrap()));
        [added, seen, told, asked, removed]
    })
    .join()
    .unwrap();
    println!("add, present, announce, carrier, remove: {spent:?} each");
    assert!(spent.iter().all(|t| *t < Duration::from_millis(20)), "{spent:?}");
    let [_, _, told, ..] = spent;
    assert!(told < Duration::from_millis(1), "{told:?} for an announcement");
}

#[test]
fn a_lost_carrier_is_seen_and_told() {
    let Some(mut namespaces) = Namespaces::new() else {
        return;
    };
    let ([a], switch) = namespaces.bridge(["a"]);
    let carrier = |netns: &str| {
        inside(netns, || addresses::carrier("eth0").unwrap())
            .join()
            .unwrap()
    };
    let mut events = inside(&a, || addresses::link_events().unwrap()).join().unwrap();
    assert!(carrier(&a));
    let mut wait_for = |wanted: LinkEvent| {
        let until = Instant::now() + PATIENCE;
        while events.wait(Duration::from_millis(100)).unwrap().as_ref() != Some(&wanted) {
            assert!(Instant::now() < until, "no {wanted:?} in time");
        }
    };
    for is_up in [false, true] {
        let state = if is_up { "up" } else { "down" };
        ip(&format!("-n {switch} link set to-a {state}"));
        wait_for(LinkEvent::Link {
            interface: "eth0".into(),
            carrier: is_up,
        });
        assert_eq!(carrier(&a), is_up);
    }
    ip(&format!("-n {switch} link del to-a"));
    wait_for(LinkEvent::Gone {
        interface: "eth0".into(),
    });
    let gone = inside(&a, || addresses::carrier("eth0").unwrap_err().to_string());
    assert!(gone.join().unwrap().starts_with("eth0: "));
}
