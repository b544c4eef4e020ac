//! `[dataplane]`: how ESP reaches the workers.

use serde::{Deserialize, Serialize};

/// The largest number of interfaces that `dataplane.interfaces` may name.
pub const INTERFACES_MAX: usize = 16;

/// `[dataplane]`: how ESP reaches the workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Dataplane {
    /// `socket`, `xdp` or `auto`. With `xdp` ESP comes and goes by AF_XDP, without copying where the driver can: for many
    /// users with little traffic each. `auto` uses it only where the driver can do it without copying. What cannot be had
    /// is said in the log, in the node's status and in `vpn.outer.queues`, and the sockets do it. Packets that go this way
    /// pass neither nftables nor connection tracking. It takes 16 MiB for each queue of an interface (up to 16 queues), for
    /// 4,096 packets in and as many out. Default: `socket`.
    pub outer: OuterMode,
    /// The interfaces for AF_XDP, up to 16. Default: those that have one of `listen.addresses` at the start.
    pub interfaces: Vec<String>,
}

/// What carries ESP to and from the peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum OuterMode {
    /// Sockets alone.
    #[default]
    Socket,
    /// AF_XDP, where it can be had.
    Xdp,
    /// AF_XDP, where the driver needs no copies.
    Auto,
}

impl From<&Dataplane> for ::dataplane::Outer {
    fn from(config: &Dataplane) -> Self {
        Self {
            mode: match config.outer {
                OuterMode::Socket => ::dataplane::OuterMode::Socket,
                OuterMode::Xdp => ::dataplane::OuterMode::Xdp,
                OuterMode::Auto => ::dataplane::OuterMode::Auto,
            },
            interfaces: config.interfaces.clone(),
        }
    }
}
