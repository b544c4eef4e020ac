//! Reads the IKE sockets, has every datagram screened, and hands it to the actor of its IKE SA.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::prelude::SendError;
use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, StreamHandler};
use futures::stream;
use ike::gate::{Gate, Load, Verdict};
use ike::wire::Spi;
use tokio::io::Interest;

use super::{Datagram, Fault, Forwarded, Gone, NewSa, Who, fail, panicked};
use crate::dispatch::Opening;
use crate::node::Node;
use crate::records::{WAIT_CLOSED, WAIT_COOKIE};
use crate::slot::{Slot, Standing};
use crate::sockets::{IkeSocket, NAT_PORT, RECEIVE_MAX};

/// Datagrams read from one socket before the others have their turn.
const BATCH: usize = 64;

/// Messages that workers may leave for the Listener.
const MAILBOX: usize = 1_024;
/// Between two looks at the wall clock.
const CLOCK: Duration = Duration::from_secs(60);

/// One datagram as it was read.
struct Received {
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// What one socket had to read.
struct Batch {
    to: SocketAddr,
    received: Vec<Received>,
}

/// Reads the IKE sockets.
pub struct Listener {
    node: Arc<Node>,
    gate: Gate,
}

impl Listener {
    /// Supervised by Root. The sockets belong to the node: they outlive this actor.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let gate = node.gate();
        Self { node, gate }
    }

    /// `is_forwarded`: another node of the cluster sent it on; it is not sent on again.
    fn screen(&mut self, now: Instant, to: SocketAddr, datagram: Received, is_forwarded: bool) {
        let Received { from, bytes } = datagram;
        let Some(slot) = self.served(to) else {
            if !is_forwarded {
                self.send_on(to, from, &bytes);
            }
            return;
        };
        let half_open = self.node.half_open.load(Ordering::Relaxed) as usize;
        match self.gate.screen(
            now,
            from,
            to,
            &bytes,
            Load {
                half_open,
                busy: self.node.authenticator.busy() || slot.records.oldest_wait() > WAIT_COOKIE,
            },
        ) {
            Verdict::Drop(reason) => self.node.metrics.gate_drop(reason.name()),
            Verdict::Reply(answer) => self.node.sockets.answer(to, from, &answer),
            Verdict::Existing {
                spi_i,
                spi_r,
                is_from_initiator,
            } => {
                let ours = if is_from_initiator { spi_r } else { spi_i };
                self.existing(
                    ours,
                    Datagram {
                        local: to,
                        remote: from,
                        bytes,
                    },
                );
            }
            Verdict::Initial { spi_i, .. } => {
                self.initial(
                    spi_i,
                    Datagram {
                        local: to,
                        remote: from,
                        bytes,
                    },
                    now,
                    slot,
                );
            }
        }
    }

    /// The slot of a service address, if it is served here. Nothing is said for one that is not: another node may.
    fn served(&self, to: SocketAddr) -> Option<Arc<Slot>> {
        let slot = self.node.slots.of_address(to.ip());
        let standing = match slot.as_ref().map(|slot| slot.standing()) {
            Some(Standing::Serving | Standing::Holding) => return slot,
            Some(Standing::Restoring) => "restoring",
            Some(Standing::Frozen) => "frozen",
            Some(Standing::Down) | None => "absent",
        };
        self.node.metrics.unserved(standing);
        None
    }

    /// Behind a router that spreads packets over all nodes: to the owner of the slot, if it is known where.
    fn send_on(&self, to: SocketAddr, from: SocketAddr, message: &[u8]) {
        let slot = self.node.slots.number_of_address(to.ip());
        let Some(slot) = slot.filter(|slot| self.node.slots.get(*slot).is_none()) else {
            return;
        };
        if let Err(error) = self.node.holder.forward_ike_to_owner(slot, to, from, message) {
            tracing::debug!(slot, %error, "a stray IKE message is lost");
            self.node.metrics.refusal("forward");
        }
    }

    fn existing(&mut self, ours: Spi, datagram: Datagram) {
        let Some(addr) = self.node.dispatch.find(ours) else {
            match self.gate.unknown_spi(Instant::now(), &datagram.bytes) {
                Verdict::Reply(answer) => self.node.sockets.answer(datagram.local, datagram.remote, &answer),
                Verdict::Drop(reason) => self.node.metrics.gate_drop(reason.name()),
                Verdict::Existing { .. } | Verdict::Initial { .. } => {}
            }
            return;
        };
        match addr.try_send(datagram) {
            Ok(()) => {}
            Err(SendError::Full(_)) => self.node.metrics.refusal("ike_sa"),
            // It panicked and its successor is on the way: the peer sends again.
            Err(SendError::Closed(_)) => self.node.metrics.gate_drop("restarting"),
        }
    }

    fn initial(&self, spi_i: Spi, datagram: Datagram, arrived: Instant, slot: Arc<Slot>) {
        let Datagram { local, remote, bytes } = datagram;
        let opening = Opening { spi_i, local, remote };
        if let Some(addr) = self.node.dispatch.opening(&opening) {
            if addr.try_send(Datagram { local, remote, bytes }).is_err() {
                self.node.metrics.refusal("ike_sa");
            }
            return;
        }
        if slot.standing() == Standing::Holding {
            // The client repeats it, and its next owner answers.
            self.node.metrics.unserved("holding");
            return;
        }
        if self.node.draining.load(Ordering::Relaxed) {
            self.node.metrics.gate_drop("draining");
            return;
        }
        if slot.records.oldest_wait() > WAIT_CLOSED && !slot.records.is_static() {
            self.node.metrics.gate_drop("store_slow");
            return;
        }
        let refused = match self.node.pending.load_full() {
            Some(pending) => pending
                .try_send(NewSa {
                    opening,
                    bytes,
                    arrived,
                    slot,
                })
                .is_err(),
            None => true,
        };
        if refused {
            self.node.metrics.refusal("pending");
        }
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
        // Cookies that all nodes of a cluster understand are made of the wall clock.
        context.run_interval(CLOCK, |listener, _| {
            listener.gate.set_clock(Instant::now(), crate::node::since_1970());
        });
        for socket in self.node.sockets.all() {
            match socket.tokio() {
                Ok(reader) => {
                    context.add_stream(batches(reader, Arc::clone(socket)));
                }
                Err(error) => {
                    tracing::error!(local = %socket.local(), %error, "a socket cannot be read");
                    context.stop();
                }
            }
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.tell_root(Gone {
            who: Who::Listener,
            panicked: panicked(),
        });
    }
}

impl StreamHandler<Batch> for Listener {
    fn handle(&mut self, batch: Batch, _: &mut Context<Self>) {
        let now = Instant::now();
        for received in batch.received {
            self.screen(now, batch.to, received, false);
        }
    }

    // One socket that ended is no reason for the others to end.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

/// An IKE message that arrived at an ESP socket, within a burst of ESP packets.
impl Handler<Datagram> for Listener {
    type Result = ();

    fn handle(&mut self, stray: Datagram, _: &mut Context<Self>) {
        let to = SocketAddr::new(stray.local.ip(), NAT_PORT);
        self.screen(
            Instant::now(),
            to,
            Received {
                from: stray.remote,
                bytes: stray.bytes,
            },
            false,
        );
    }
}

/// An IKE message that another node of the cluster sent on.
impl Handler<Forwarded> for Listener {
    type Result = ();

    fn handle(&mut self, Forwarded(datagram): Forwarded, _: &mut Context<Self>) {
        self.screen(
            Instant::now(),
            datagram.local,
            Received {
                from: datagram.remote,
                bytes: datagram.bytes,
            },
            true,
        );
    }
}

impl Handler<Fault> for Listener {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}

/// What a socket has to read, batch after batch.
fn batches(reader: tokio::net::UdpSocket, socket: Arc<IkeSocket>) -> impl futures::Stream<Item = Batch> {
    let buffer = vec![0; RECEIVE_MAX];
    stream::unfold(
        (reader, socket, buffer),
        |(reader, socket, mut buffer)| async move {
            loop {
                if reader.readable().await.is_err() {
                    return None;
                }
                let received = read(&reader, &socket, &mut buffer);
                if !received.is_empty() {
                    let batch = Batch {
                        to: socket.canonical(),
                        received,
                    };
                    return Some((batch, (reader, socket, buffer)));
                }
            }
        },
    )
}

/// What is there to read, up to a batch. The kernel may join datagrams of one peer to a burst.
fn read(reader: &tokio::net::UdpSocket, socket: &IkeSocket, buffer: &mut [u8]) -> Vec<Received> {
    let mut received = Vec::new();
    for _ in 0..BATCH {
        let burst = match reader.try_io(Interest::READABLE, || dataplane::receive_burst(reader, buffer)) {
            Ok(burst) => burst,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            // An error of an earlier answer (ICMP): the next datagram is read all the same.
            Err(_) => continue,
        };
        let octets = buffer.get(..burst.len).unwrap_or_default();
        for datagram in octets.chunks(burst.segment.max(1)) {
            if let Some(bytes) = socket.strip(datagram) {
                received.push(Received {
                    from: burst.from,
                    bytes: bytes.to_vec(),
                });
            }
        }
    }
    received
}
