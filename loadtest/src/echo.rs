//! `loadtest echo`: sends stamped UDP packets back to where they came from, and answers nothing else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli;
use crate::inner::Stamp;

/// Senders whose packets are followed one by one; those of others are answered and counted in sum.
const MAX_SENDERS: usize = 65_536;
/// Packets read before other sockets get their turn.
const READ_BURST: usize = 64;

/// What a server has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Packets answered.
    pub answered: u64,
    /// Answers that could not be sent.
    pub failed: u64,
    /// Packets without a right stamp.
    pub foreign: u64,
    /// Packets of senders that are not followed, because there are too many.
    pub unfollowed: u64,
    /// Each sender, by address and user.
    pub senders: Vec<Sender>,
}

/// What came from one sender: the way from it to here.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    /// Its address.
    pub from: SocketAddr,
    /// The user in its stamps.
    pub user: u32,
    /// Packets.
    pub received: u64,
    /// Numbers between the first and the last that never came.
    pub missing: u64,
    /// Longest time from packet to packet (ms).
    pub longest_silence_ms: f64,
    #[serde(skip)]
    first: u64,
    #[serde(skip)]
    last: u64,
    #[serde(skip)]
    heard: Instant,
}

#[derive(Default)]
struct Ledger {
    totals: Statistics,
    senders: HashMap<(SocketAddr, u32), Sender>,
}

impl Ledger {
    /// Whether to answer a packet.
    fn note(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) -> bool {
        let Some(stamp) = Stamp::read(packet) else {
            self.totals.foreign += 1;
            return false;
        };
        let key = (from, stamp.user);
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&key) {
            self.totals.unfollowed += 1;
            return true;
        }
        let sender = self.senders.entry(key).or_insert(Sender {
            from,
            user: stamp.user,
            received: 0,
            missing: 0,
            longest_silence_ms: 0.0,
            first: stamp.number,
            last: stamp.number,
            heard: now,
        });
        let silence = now.saturating_duration_since(sender.heard).as_secs_f64() * 1000.0;
        sender.longest_silence_ms = sender.longest_silence_ms.max(silence);
        sender.received += 1;
        sender.first = sender.first.min(stamp.number);
        sender.last = sender.last.max(stamp.number);
        sender.heard = now;
        true
    }

    fn finish(&self) -> Statistics {
        let mut statistics = self.totals.clone();
        statistics.senders = self.senders.values().cloned().collect();
        for sender in &mut statistics.senders {
            sender.missing = (sender.last - sender.first + 1).saturating_sub(sender.received);
        }
        statistics
            .senders
            .sort_by_key(|sender| (sender.user, sender.from));
        statistics
    }
}

/// Answers until SIGTERM or SIGINT; then prints what it has seen.
///
/// # Errors
/// If an address cannot be listened on.
pub fn echo(options: &cli::Echo) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    let statistics = LocalSet::new().block_on(&runtime, serve(options))?;
    let mut text = serde_json::to_string(&statistics)?;
    text.push('\n');
    match &options.json {
        Some(path) => std::fs::write(path, text).with_context(|| format!("statistics {}", path.display()))?,
        // A reader that went away is no failure.
        None => drop(std::io::stdout().write_all(text.as_bytes())),
    }
    Ok(true)
}

async fn serve(options: &cli::Echo) -> Result<Statistics> {
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    for address in &options.listen {
        let socket = UdpSocket::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        tokio::task::spawn_local(answer(socket, Rc::clone(&ledger)));
    }
    let mut interrupts = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("SIGTERM")?;
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    Ok(ledger.borrow().finish())
}

async fn answer(socket: UdpSocket, ledger: Rc<RefCell<Ledger>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..READ_BURST {
            let (len, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                // Also an ICMP error that some answer met.
                Err(_) => break,
            };
            let Some(packet) = buffer.get(..len) else { break };
            let mut ledger = ledger.borrow_mut();
            if ledger.note(Instant::now(), from, packet) {
                match socket.try_send_to(packet, from) {
                    Ok(_) => ledger.totals.answered += 1,
                    Err(_) => ledger.totals.failed += 1,
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn stamped_packets_are_followed_and_others_left_alone() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let from: SocketAddr = "10.9.0.1:40007".parse().unwrap();
        for number in [5, 6, 9, 8] {
            let mut packet = [0; 40];
            let stamp = Stamp {
                user: 3,
                number,
                sent_at: 0,
            };
            stamp.write(&mut packet);
            assert!(ledger.note(start + Duration::from_millis(50 * number), from, &packet));
            packet[39] ^= 1;
            assert!(!ledger.note(start, from, &packet));
        }
        assert!(!ledger.note(start, from, b"hello"));
        let statistics = ledger.finish();
        let sender = &statistics.senders[0];
        assert_eq!((sender.received, sender.missing, statistics.foreign), (4, 1, 5));
        assert_eq!(sender.longest_silence_ms, 150.0);
    }
}
