//! The whole command on real sockets of the loopback interface, against a gateway in a thread of the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests look at the events they know"
)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;
use common::{Gateway, Treat};
use loadtest::cli::{Cli, Command};
use loadtest::user::{Datagram, Port};

/// Serves until told to stop; gives the packets it answered.
fn serve(ike: &UdpSocket, nat: &UdpSocket, stop: &AtomicBool, treat: fn(u32) -> Treat) -> (u64, Vec<String>) {
    let mut gateway = Gateway::new(treat);
    // Users by the port they come from.
    let mut users: Vec<SocketAddr> = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (port, socket) in [(Port::Ike, ike), (Port::Nat, nat)] {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                idle = false;
                let i = users.iter().position(|user| *user == from).unwrap_or(users.len());
                if i == users.len() {
                    users.push(from);
                }
                gateway.arrive(
                    Instant::now(),
                    i,
                    from,
                    Datagram {
                        port,
                        bytes: buffer[..len].to_vec(),
                    },
                );
            }
        }
        for (i, user) in users.iter().enumerate() {
            if gateway.deadline(i).is_some_and(|at| at <= Instant::now()) {
                gateway.timeout(Instant::now(), i);
            }
            for Datagram { port, bytes } in gateway.take(i) {
                let socket = if port == Port::Ike { ike } else { nat };
                let _ = socket.send_to(&bytes, user);
            }
        }
        if idle {
            std::thread::yield_now();
        }
    }
    gateway.counts()
}

fn run(treat: fn(u32) -> Treat, extra: &[&str]) -> (loadtest::report::Report, (u64, Vec<String>)) {
    let bind = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (ike, nat, stop) = (bind(), bind(), Arc::new(AtomicBool::new(false)));
    let ports = [&ike, &nat].map(|socket| socket.local_addr().unwrap().port().to_string());
    let thread = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || serve(&ike, &nat, &stop, treat))
    };
    let mut line = vec![
        "loadtest",
        "connect",
        "--gateway",
        "127.0.0.1",
        "--ike-port",
        &ports[0],
        "--nat-port",
        &ports[1],
    ];
    line.extend(["--psk", "secret of {user}", "--remote-id", "gw.example"]);
    line.extend(extra);
    let Command::Connect(options) = Cli::parse_from(line).command else {
        panic!("not connect")
    };
    let report = loadtest::run::measure(&options).unwrap();
    stop.store(true, Ordering::Relaxed);
    (report, thread.join().unwrap())
}

#[test]
fn twenty_users_over_loopback() {
    let (report, (answered, faults)) = run(
        |_| Treat::Well,
        &[
            "--users",
            "20",
            "--rate",
            "0",
            "--traffic",
            "1",
            "--pps",
            "20",
            "--target",
            "10.20.0.1",
        ],
    );
    assert!(report.is_success(5.0), "{report}");
    assert_eq!((report.users, report.logged_in, report.failed), (20, 20, 0));
    let traffic = report.traffic.as_ref().unwrap();
    assert!(traffic.sent >= 300 && traffic.received <= answered, "{report}");
    assert_eq!(faults, Vec::<String>::new());
    assert!(Duration::from_secs_f64(report.login_ms.p50 / 1000.0) > Duration::ZERO);
}

#[test]
fn a_refused_user_fails_the_test_and_is_named() {
    let treat = |number| {
        if number == 101 {
            Treat::WrongSecret
        } else {
            Treat::Well
        }
    };
    let (report, _) = run(treat, &["--users", "3", "--first", "100"]);
    assert!(!report.is_success(100.0));
    assert_eq!((report.logged_in, report.failed), (2, 1), "{report}");
    assert_eq!(report.faults["refused_by_peer"].first_user, 101);
}
