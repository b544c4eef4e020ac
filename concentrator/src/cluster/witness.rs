//! The witness: a second, tiny process that watches the daemon and speaks for it when it cannot.
//!
//! ```text
//!  daemon ──ticks, peers──► witness: pidfd, 350 ms without a tick
//!     ended    ─► addresses off the interfaces ─► authenticated death notice to all peers ─► exit
//!     stalled  ─► addresses off the interfaces ─► waits; a daemon that goes on puts them back if it may
//! ```
//! A killed daemon leaves its addresses behind, and peers would wait for three missed heartbeats: the witness takes the
//! first away and spares the second. It holds the key of the heartbeats and no other, and it never outlives the
//! daemon.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crypto::Secret;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::config::SlotAddress;

/// Silence of a daemon that lives, after which its addresses go.
const STALL: Duration = Duration::from_millis(350);
/// Times that a death notice is sent, for networks that lose packets.
const NOTICES: u64 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Peers that are told.
const PEERS_MAX: usize = 256;

/// What the witness has to know, given as one line of JSON on its standard input.
#[derive(Serialize, Deserialize)]
pub struct Charge {
    /// The daemon.
    pub pid: u32,
    /// The node's name.
    pub name: String,
    /// The daemon's incarnation.
    pub incarnation: u64,
    /// The key of the heartbeats, hexadecimal.
    pub key: String,
    /// Our addresses of the paths.
    pub paths: Vec<SocketAddr>,
    /// Every address of every slot.
    pub addresses: Vec<SlotAddress>,
}

/// The daemon's end of the pipe.
pub struct Ticks {
    pipe: OwnedFd,
}

impl Ticks {
    /// Says that the daemon is at work. A full pipe means that the witness is not: nothing to wait for.
    pub fn tick(&mut self) {
        let _ = rustix::io::write(&self.pipe, b".\n");
    }

    /// Names an address of a peer.
    pub fn peer(&mut self, peer: SocketAddr) {
        let _ = rustix::io::write(&self.pipe, format!("{peer}\n").as_bytes());
    }
}

/// A witness that runs. It ends with the daemon, and not before: also a daemon that was told to stop is seen off.
pub struct Witness {
    child: Child,
    program: PathBuf,
    charge: Charge,
}

impl Witness {
    /// Starts `program --witness` with its charge.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(program: PathBuf, charge: Charge) -> std::io::Result<(Self, Ticks)> {
        let (child, ticks) = spawn(&program, &charge)?;
        let witness = Self {
            child,
            program,
            charge,
        };
        Ok((witness, ticks))
    }

    /// Starts it again if it has ended; the ticks have to go to the new one then.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep(&mut self) -> std::io::Result<Option<Ticks>> {
        if self.child.try_wait()?.is_none() {
            return Ok(None);
        }
        let (child, ticks) = spawn(&self.program, &self.charge)?;
        self.child = child;
        Ok(Some(ticks))
    }
}

/// Starts `program --witness` with its charge.
fn spawn(program: &Path, charge: &Charge) -> std::io::Result<(Child, Ticks)> {
    let mut child = Command::new(program)
        .arg("--witness")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let Some(mut pipe) = child.stdin.take() else {
        return Err(std::io::Error::other("the witness has no pipe"));
    };
    let line = serde_json::to_vec(charge).map_err(std::io::Error::other)?;
    pipe.write_all(&line)?;
    pipe.write_all(b"\n")?;
    let pipe = non_blocking(pipe)?;
    Ok((child, Ticks { pipe }))
}

fn non_blocking(pipe: ChildStdin) -> std::io::Result<OwnedFd> {
    let pipe = OwnedFd::from(pipe);
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(pipe)
}

/// What `concentrator --witness` does. Returns when the daemon has ended.
///
/// # Errors
/// The charge cannot be read, or there is no such process.
pub fn watch() -> anyhow::Result<()> {
    // Signals for the daemon's group and terminal are not for us: it ends when the daemon ends.
    let _ = rustix::process::setsid();
    // A descriptor of its own: the standard one has a buffer that poll does not see.
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = std::io::BufReader::new(std::fs::File::from(stdin));
    let mut line = String::new();
    input.read_line(&mut line)?;
    let charge: Charge = serde_json::from_str(&line)?;
    let pid = i32::try_from(charge.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| anyhow::anyhow!("no process {}", charge.pid))?;
    let daemon = pidfd_open(pid, PidfdFlags::empty())?;
    if rustix::process::getppid() != Some(pid) {
        // It ended before it could be watched.
        clear(&charge);
        return Ok(());
    }
    let mut peers = BTreeSet::new();
    let mut stalled = false;
    loop {
        if input.buffer().is_empty() {
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: STALL.subsec_nanos().into(),
            };
            let mut descriptors = [
                PollFd::new(&daemon, PollFlags::IN),
                PollFd::new(input.get_ref(), PollFlags::IN),
            ];
            let ready = match poll(&mut descriptors, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready?,
            };
            let [ended, _] = &descriptors;
            if ended.revents().contains(PollFlags::IN) {
                clear(&charge);
                tell(&charge, &peers);
                return Ok(());
            }
            if ready == 0 {
                if !stalled {
                    stalled = true;
                    clear(&charge);
                }
                continue;
            }
        }
        line.clear();
        if input.read_line(&mut line)? == 0 {
            // The pipe is closed: the daemon is ending, the descriptor will say when.
            wait(&daemon)?;
            clear(&charge);
            tell(&charge, &peers);
            return Ok(());
        }
        stalled = false;
        if let Ok(peer) = line.trim().parse::<SocketAddr>()
            && peers.len() < PEERS_MAX
        {
            peers.insert(peer);
        }
    }
}

fn wait(daemon: &OwnedFd) -> std::io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(daemon, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.map(|_| ()).map_err(Into::into),
        }
    }
}

/// Takes every address of every slot off the interfaces.
fn clear(charge: &Charge) {
    for address in &charge.addresses {
        // Those that are not there are not removed, and there is nobody to tell of a failure.
        let _ = dataplane::addresses::remove(&dataplane::Address {
            net: address.net,
            interface: address.interface.clone(),
        });
    }
}

/// Tells every peer on every path that the daemon has ended.
fn tell(charge: &Charge, peers: &BTreeSet<SocketAddr>) {
    let Some(key) = from_hex(&charge.key) else { return };
    let sockets: Vec<(SocketAddr, UdpSocket)> = charge
        .paths
        .iter()
        .filter_map(|path| {
            let socket = UdpSocket::bind(SocketAddr::new(path.ip(), 0)).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((*path, socket))
        })
        .collect();
    for number in 0..NOTICES {
        let notice = cluster::death_notice(&key, &charge.name, charge.incarnation, number);
        for (path, socket) in &sockets {
            for peer in peers.iter().filter(|peer| peer.is_ipv4() == path.is_ipv4()) {
                let _ = socket.send_to(&notice, peer);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// A key as text, for the witness's pipe.
#[must_use]
pub fn to_hex(key: &Secret) -> String {
    key.expose().iter().map(|octet| format!("{octet:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Secret> {
    let octets: Option<Vec<u8>> = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect();
    octets.map(Secret::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_pipe() {
        let key = Secret::from([0, 1, 0xfe, 0xff].as_slice());
        assert_eq!(from_hex(&to_hex(&key)).unwrap().expose(), key.expose());
        assert!(from_hex("0").is_none());
        assert!(from_hex("zz").is_none());
    }
}
