//! Options of the commands for long runs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::Identity;

/// How a long run is watched, steered and reported.
#[derive(Args, Clone, Debug, Default)]
pub struct Watch {
    /// Label of the run.
    #[arg(long, default_value = "")]
    pub name: String,
    /// Take orders (mark NAME, status, report NAME, since NAME, quit) at this Unix socket; - is standard input.
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// Write events as they happen, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Write everything that was measured.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the plots.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Seconds of the run once everybody has tried to log in; without it, until told to quit.
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Longer times without an answer are silences.
    #[arg(long, default_value_t = 60.0, value_name = "MS")]
    pub gap_ms: f64,
    /// Longest silence before the run counts as failed.
    #[arg(long, value_name = "MS")]
    pub max_silence_ms: Option<f64>,
}

/// Options of `steady`.
#[derive(Args, Clone, Debug)]
pub struct Steady {
    /// Who the users are.
    #[command(flatten)]
    pub identity: Identity,
    /// How the run is watched.
    #[command(flatten)]
    pub watch: Watch,
    /// How many users.
    #[arg(long, default_value_t = 1)]
    pub users: u32,
    /// Number of the first user.
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Logins started per second; 0: all at once.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Own addresses or prefixes; users take them in turn, each with a port of its own.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub local: Vec<String>,
    /// Users that send packets; they are spread over all users.
    #[arg(long, default_value_t = 0, requires = "target")]
    pub sample: u32,
    /// Packets per second of each of those.
    #[arg(long, default_value_t = 20.0)]
    pub pps: f64,
    /// Octets of each inner packet.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Inner address of `loadtest echo`.
    #[arg(long, value_name = "ADDRESS")]
    pub target: Option<IpAddr>,
    /// Its port.
    #[arg(long, default_value_t = 7)]
    pub echo_port: u16,
    /// Seconds without an IKE message of the gateway after which a user probes it; 0: never.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub liveness: f64,
    /// Seconds after which a user rekeys its child SA, up to a tenth less; 0: never.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub rekey_child: f64,
    /// Seconds after which a user rekeys its IKE SA, up to a tenth less; 0: never.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub rekey_ike: f64,
    /// Seconds before the first retransmission; each later wait is twice the one before.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub retransmit_base: f64,
    /// Retransmissions before the gateway counts as dead, and the user logs in again.
    #[arg(long, default_value_t = 6)]
    pub retransmit_tries: u8,
    /// End without logging out.
    #[arg(long)]
    pub stay: bool,
}

/// Options of `stamp`.
#[derive(Args, Clone, Debug)]
pub struct Stamp {
    /// `loadtest echo` servers; each gets a flow.
    #[arg(long, required = true, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub to: Vec<SocketAddr>,
    /// How the run is watched.
    #[command(flatten)]
    pub watch: Watch,
    /// Packets per second of each flow.
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Octets of each UDP payload.
    #[arg(long, default_value_t = 72)]
    pub size: usize,
    /// Own address.
    #[arg(long, value_name = "ADDRESS")]
    pub local: Option<IpAddr>,
    /// Number of the first flow.
    #[arg(long, default_value_t = 0)]
    pub first: u32,
}

/// Options of `echo`.
#[derive(Args, Clone, Debug)]
pub struct Echo {
    /// Where to listen.
    #[arg(long, required = true, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Write the statistics here instead of to standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `merge`.
#[derive(Args, Clone, Debug)]
pub struct Merge {
    /// Files that --json of other runs wrote.
    #[arg(required = true, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// Label of the whole.
    #[arg(long, default_value = "")]
    pub name: String,
    /// Write everything that was measured.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the plots.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Longest silence before the run counts as failed.
    #[arg(long, value_name = "MS")]
    pub max_silence_ms: Option<f64>,
}

/// Options of `ctl`.
#[derive(Args, Clone, Debug)]
pub struct Ctl {
    /// The socket that --control made.
    pub socket: PathBuf,
    /// The order: mark NAME, status, report NAME, since NAME, quit.
    #[arg(required = true, value_name = "ORDER")]
    pub order: Vec<String>,
}
