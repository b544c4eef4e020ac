//! A path that misbehaves between a client and its gateway: loses, doubles and reorders datagrams on both ports. To the
//! gateway it looks like a NAT, to the client like the gateway.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netem::{Link, Profile};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Result;
use crate::net::Host;

/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// How long it sleeps when nothing is to be done.
const IDLE: Duration = Duration::from_micros(500);

/// A running relay; ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays ports 500 and 4500 of `listen`, an address of `host`, to the same ports of `gateway`.
    pub fn start(host: &Host, listen: IpAddr, gateway: IpAddr, profile: Profile, seed: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, started) = std::sync::mpsc::channel();
        let namespace = format!("/run/netns/{}", host.name());
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let opened = open(&namespace, listen);
            match opened {
                Ok(sockets) => {
                    let _ = ready.send(Ok(()));
                    let lines: Result<Vec<Line>> = [500, 4500]
                        .into_iter()
                        .zip(sockets)
                        .map(|(port, socket)| {
                            Line::new(socket, SocketAddr::new(gateway, port), profile, seed)
                        })
                        .collect();
                    let Ok(mut lines) = lines else { return };
                    while !flag.load(Ordering::Relaxed) {
                        let busy = lines.iter_mut().map(Line::turn).fold(false, |a, b| a | b);
                        if !busy {
                            std::thread::sleep(IDLE);
                        }
                    }
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        started.recv().context("the relay has ended")??;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Enters the namespace with this thread alone and opens both ports.
fn open(namespace: &str, listen: IpAddr) -> Result<Vec<UdpSocket>> {
    let file = std::fs::File::open(namespace).with_context(|| namespace.to_owned())?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
    [500, 4500]
        .into_iter()
        .map(|port| {
            let socket = UdpSocket::bind(SocketAddr::new(listen, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

/// One port.
struct Line {
    socket: UdpSocket,
    gateway: SocketAddr,
    clients: HashMap<SocketAddr, UdpSocket>,
    /// Towards the gateway, with the client that it comes from.
    up: Link<(SocketAddr, Vec<u8>)>,
    /// Towards a client.
    down: Link<(SocketAddr, Vec<u8>)>,
}

impl Line {
    fn new(socket: UdpSocket, gateway: SocketAddr, profile: Profile, seed: u64) -> Result<Self> {
        Ok(Self {
            socket,
            gateway,
            clients: HashMap::new(),
            up: Link::new(profile, seed)?,
            down: Link::new(profile, seed ^ 1)?,
        })
    }

    /// Takes what is there and sends what is due; whether there was anything.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let mut busy = false;
        let mut buffer = [0; 4096];
        while let Some((length, from)) = receive(&self.socket, &mut buffer) {
            busy = true;
            if !self.clients.contains_key(&from) && self.clients.len() < CLIENTS_MAX {
                let any = SocketAddr::new(self.socket.local_addr().map_or(self.gateway.ip(), |a| a.ip()), 0);
                if let Ok(socket) = UdpSocket::bind(any)
                    && socket.set_nonblocking(true).is_ok()
                {
                    self.clients.insert(from, socket);
                }
            }
            let datagram = buffer.get(..length).unwrap_or_default().to_vec();
            let _ = self.up.send(now, length, (from, datagram));
        }
        for (client, socket) in &self.clients {
            while let Some((length, _)) = receive(socket, &mut buffer) {
                busy = true;
                let datagram = buffer.get(..length).unwrap_or_default().to_vec();
                let _ = self.down.send(now, length, (*client, datagram));
            }
        }
        while let Some((client, datagram)) = self.up.poll(now) {
            busy = true;
            if let Some(socket) = self.clients.get(&client) {
                let _ = socket.send_to(&datagram, self.gateway);
            }
        }
        while let Some((client, datagram)) = self.down.poll(now) {
            busy = true;
            let _ = self.socket.send_to(&datagram, client);
        }
        busy
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Ok(found) => return Some(found),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // ICMP errors of an earlier send.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}
