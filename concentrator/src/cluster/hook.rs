//! The operator's program that is called when a slot comes or goes: for routes, BGP announcements, cloud addresses.
//!
//! ```text
//! HOOK acquire|release SLOT GENERATION
//!   SLOT_ADDRESSES="192.0.2.100/24@eth0 …"   SLOT_POOLS="10.77.0.0/25 …"   NODE="a"
//! ```
//! It is not waited for when a slot comes: its routes follow the addresses. What it does in vain is told in the log.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One call.
pub struct Call {
    /// The program.
    pub program: PathBuf,
    /// `acquire` or `release`.
    pub action: &'static str,
    /// The slot.
    pub slot: u8,
    /// Its generation.
    pub generation: u64,
    /// The slot's addresses.
    pub addresses: String,
    /// The slot's blocks of all pools.
    pub pools: String,
    /// This node.
    pub node: String,
}

impl Call {
    /// Calls it and waits for its end, at most ten seconds.
    pub async fn run(self) {
        let (slot, action) = (self.slot, self.action);
        let child = Command::new(&self.program)
            .args([action, &slot.to_string(), &self.generation.to_string()])
            .env("SLOT_ADDRESSES", &self.addresses)
            .env("SLOT_POOLS", &self.pools)
            .env("NODE", &self.node)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let outcome = match child {
            Ok(mut child) => timeout(PATIENCE, child.wait()).await,
            Err(error) => Ok(Err(error)),
        };
        match outcome {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::error!(slot, action, %status, "the hook failed"),
            Ok(Err(error)) => tracing::error!(slot, action, %error, "the hook cannot be run"),
            Err(_) => tracing::error!(slot, action, "the hook took too long and was ended"),
        }
    }
}
