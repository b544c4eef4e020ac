//! The command line of `vpnctl cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    after_help = "A slot is a service address with the sessions that came in by it and its share of every address pool.\n\
                  Each slot is owned by one node at a time; it moves with its live sessions, clients notice nothing but\n\
                  a short silence. Orders for a node are given to that node: use --endpoint."
)]
pub(crate) struct ClusterArguments {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show nodes, slots and etcd as the asked node sees them.
    Status,
    /// Show the slots: owner, generation, sessions, addresses, pool blocks.
    Slots(SlotsArguments),
    /// Hand all slots of this node over to others, live sessions included: before maintenance.
    Drain(DrainArguments),
    /// Let this node own slots again.
    Undrain(ThisNodeArguments),
    /// Move one slot to another node, live sessions included.
    Move(MoveArguments),
    /// Hand all slots over and take this node out of the cluster, until `join` or its next start.
    Leave(NodeArguments),
    /// Take this node, which has left, back into the cluster.
    Join(ThisNodeArguments),
    /// Remove what is kept of a node that is gone for good.
    Forget {
        /// The node.
        node: String,
    },
    /// Write a backup: configuration, address leases, audit trail; not the live sessions. Sealed by the cluster key.
    Backup(BackupArguments),
    /// Write a backup back. Live sessions go on.
    Restore(RestoreArguments),
    /// Read the key file again, and make new data keys for the slots of this node.
    RotateKeys(RotateKeysArguments),
    /// Show what happens in the cluster, as it happens.
    Events,
}

impl ClusterCommand {
    /// Seconds that an answer may take because it was asked to wait.
    pub(crate) fn patience(&self) -> u64 {
        match self {
            Self::Drain(DrainArguments {
                node: NodeArguments { wait, .. },
                ..
            })
            | Self::Leave(NodeArguments { wait, .. }) => wait.seconds(),
            Self::Move(arguments) => arguments.wait.seconds(),
            Self::Restore(_) | Self::RotateKeys(_) => 3_600,
            Self::Undrain(_) | Self::Join(_) | Self::Forget { .. } => 60,
            Self::Status | Self::Slots(_) | Self::Backup(_) | Self::Events => 0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SlotsArguments {
    /// Only this one, in full.
    #[arg(value_parser = clap::value_parser!(u32).range(0..=127))]
    pub(crate) slot: Option<u32>,
    /// Only those of this node.
    #[arg(long)]
    pub(crate) node: Option<String>,
}

/// Whether to wait for the end of an order.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until it is done, which is the default.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not wait until it is done.
    #[arg(long, conflicts_with_all = ["wait", "wait_secs"])]
    pub(crate) no_wait: bool,
    /// Wait at most so long; the order stays in force.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) wait_secs: u32,
}

impl Wait {
    /// Whether to wait, and how long.
    pub(crate) fn request(&self) -> (bool, u32) {
        (!self.no_wait, self.wait_secs)
    }

    /// Seconds that the answer may take.
    pub(crate) fn seconds(&self) -> u64 {
        if self.no_wait { 0 } else { self.wait_secs.into() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// The name of the node that is asked, for safety: another one refuses.
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    pub(crate) node: NodeArguments,
    /// First send clients that follow (RFC 5685) to this gateway: an address, a host name, or `cluster` for what the other
    /// nodes serve. May be given several times. All others go along with the slots.
    #[arg(long, value_name = "GATEWAY")]
    pub(crate) redirect: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ThisNodeArguments {
    /// The name of the node that is asked, for safety: another one refuses.
    pub(crate) node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArguments {
    /// The slot.
    #[arg(value_parser = clap::value_parser!(u32).range(0..=127))]
    pub(crate) slot: u32,
    /// The node to move it to.
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// The file to write; `-` is standard output.
    pub(crate) file: PathBuf,
    /// Replace the file when it is there.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The file of a backup; `-` is standard input.
    pub(crate) file: PathBuf,
    /// Replace the configuration that is there; without this the cluster has to have none.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Read and check all of it, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateKeysArguments {
    /// Only this slot; may be given several times.
    #[arg(long = "slot", value_name = "SLOT", value_parser = clap::value_parser!(u32).range(0..=127))]
    pub(crate) slots: Vec<u32>,
    /// Keep the data keys, and only wrap them with the first key of the key file.
    #[arg(long)]
    pub(crate) wrap_only: bool,
}
