//! One daemon at a time: over a state directory, and at an address and port.
//!
//! The kernel takes a moment to close the sockets of a killed process. A successor that joined their SO_REUSEPORT
//! groups meanwhile would find the places of its own sockets shifted when the old ones go, and packets steered by SPI
//! would reach the wrong worker: so it waits until they are gone.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How long a predecessor may take to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Somebody else is there.
#[derive(Debug, thiserror::Error)]
pub enum ExclusiveError {
    /// Another process works over the state directory.
    #[error("another process works over {path}")]
    State {
        /// The lock file.
        path: PathBuf,
    },
    /// Another process has the port.
    #[error("{address} is in use by another process")]
    Port {
        /// Where.
        address: SocketAddr,
    },
    /// The lock file cannot be made.
    #[error("{path}: {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The right to work over a state directory, given back when the process ends or this is dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Takes the right to work over `directory`; waits for a predecessor that is ending.
///
/// # Errors
/// Another process keeps it.
pub async fn lock_state(directory: &Path) -> Result<StateLock, ExclusiveError> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| ExclusiveError::Lock {
            path: path.clone(),
            source,
        })?;
    let free = wait(|| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()).await;
    if free {
        Ok(StateLock { _file: file })
    } else {
        Err(ExclusiveError::State { path })
    }
}

/// Waits until nobody has `ports` at `addresses`. Addresses that are not configured yet are nobody's.
///
/// # Errors
/// Another process keeps one.
pub async fn wait_for_ports(addresses: &[IpAddr], ports: &[u16]) -> Result<(), ExclusiveError> {
    for address in addresses {
        for port in ports {
            let address = SocketAddr::new(*address, *port);
            // Without SO_REUSEPORT: refused as long as any other socket is there.
            let free = wait(|| match UdpSocket::bind(address) {
                Ok(_) => true,
                Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
            });
            if !free.await {
                return Err(ExclusiveError::Port { address });
            }
        }
    }
    Ok(())
}

async fn wait(mut free: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !free() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_successor_waits_for_its_predecessor() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock_state(directory.path()).await.unwrap();
        let path = directory.path().to_owned();
        let second = tokio::spawn(async move { lock_state(&path).await });
        tokio::time::sleep(PAUSE * 4).await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_is_free_when_its_last_socket_has_gone() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let waiting =
            tokio::spawn(async move { wait_for_ports(&["127.0.0.1".parse().unwrap()], &[port]).await });
        tokio::time::sleep(PAUSE * 4).await;
        assert!(!waiting.is_finished());
        drop(taken);
        waiting.await.unwrap().unwrap();
    }
}
