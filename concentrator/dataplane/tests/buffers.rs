//! What waits in the sockets while nobody reads them. Needs root; without it the test says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::net::UdpSocket;

use dataplane::{Config, Holder};

#[test]
fn two_thousand_clients_may_speak_at_once() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let holder = Holder::open(Config {
        listen: vec!["127.0.0.1".parse().unwrap()],
        workers: 1,
        ike_port: 0,
        nat_port: 0,
        raw_esp: false,
        ..Config::default()
    })
    .unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    // A request to delete an IKE SA, as long as one is.
    let message = [0; 4 + 28 + 61];
    for socket in holder.ike_sockets().unwrap() {
        for _ in 0..2000 {
            client.send_to(&message, socket.local).unwrap();
        }
        let mut buffer = [0; 256];
        let mut waiting = 0;
        while socket.socket.recv(&mut buffer).is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, 2000, "port {}", socket.local.port());
    }
}
