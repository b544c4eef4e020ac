//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod long;

pub use long::{Ctl, Echo, Merge, Stamp, Steady, Watch};

/// Simulated users of a VPN concentrator.
#[derive(Parser, Debug)]
#[command(version, about, long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Log users in, pass traffic through their tunnels, report.
    ///
    /// Ends with 0 if every user was served, 1 if one was not, 2 if the test could not be run.
    Connect(Connect),
    /// Log one user in and let its tunnel end in a TUN device, until interrupted. Needs CAP_NET_ADMIN.
    Tunnel(Tunnel),
    /// Log users in and keep their tunnels for the whole run; tell how long traffic was silent, and who had to log in again.
    ///
    /// Ends with 0 if every user kept its tunnel (and no silence was longer than --max-silence-ms), 1 if not, 2 if the run
    /// was not possible.
    Steady(Box<Steady>),
    /// Send the packets of `steady` from a plain UDP socket, and report alike: for a host whose tunnel another client made.
    Stamp(Stamp),
    /// Answer the packets of `steady`, `stamp` and `connect --probe udp`, and nothing else; statistics at the end.
    Echo(Echo),
    /// Join what several runs at the same time have written.
    Merge(Merge),
    /// Give an order to a run that has --control.
    Ctl(Ctl),
}

/// How the report is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What is sent through the tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProbeKind {
    /// ICMP echo requests; any host answers.
    Icmp,
    /// UDP datagrams to an echo service.
    Udp,
}

/// Who a user is and how it proves that; common to all commands.
#[derive(Args, Clone, Debug)]
pub struct Identity {
    /// The gateway's address. Users of `steady` may have several: user n stays with address n modulo their number.
    #[arg(long, required = true, value_name = "ADDRESS", value_delimiter = ',')]
    pub gateway: Vec<IpAddr>,
    /// The gateway's port for the first messages.
    #[arg(long, default_value_t = 500)]
    pub ike_port: u16,
    /// The gateway's port for everything else.
    #[arg(long, default_value_t = 4500)]
    pub nat_port: u16,
    /// A user's identity; {user} is its number in five digits.
    #[arg(long, default_value = "user-{user}@{domain}")]
    pub id: String,
    /// Domain of the identities.
    #[arg(long, default_value = "load.example")]
    pub domain: String,
    /// The identity that the gateway must prove to have.
    #[arg(long)]
    pub remote_id: Option<String>,
    /// Pre-shared secret; {user} is replaced.
    #[arg(long, conflicts_with_all = ["psk_file", "cert"])]
    pub psk: Option<String>,
    /// File with the pre-shared secret (a final line break is cut off).
    #[arg(long, conflicts_with = "cert")]
    pub psk_file: Option<PathBuf>,
    /// Certificate chain in PEM, own certificate first; {user} is replaced.
    #[arg(long, requires = "key", requires = "ca")]
    pub cert: Option<String>,
    /// Private key in PEM; {user} is replaced.
    #[arg(long)]
    pub key: Option<String>,
    /// Authorities (PEM) that the gateway's certificate must lead to. With --psk: the gateway uses a certificate.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// IKE proposal.
    #[arg(long, default_value = "aes256gcm16-prfsha256-curve25519")]
    pub ike: String,
    /// ESP proposal.
    #[arg(long, default_value = "aes256gcm16-noesn")]
    pub esp: String,
    /// Networks behind the gateway to ask for, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0/0")]
    pub remote_ts: Vec<String>,
    /// Ask for an IPv6 address too.
    #[arg(long)]
    pub ipv6: bool,
}

/// Options of `connect`.
#[derive(Args, Clone, Debug)]
pub struct Connect {
    /// Who the users are.
    #[command(flatten)]
    pub identity: Identity,
    /// How many users.
    #[arg(long, default_value_t = 1)]
    pub users: u32,
    /// Number of the first user.
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Logins started per second; 0: all at once.
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Own addresses; users take them in turn.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub local: Vec<IpAddr>,
    /// Seconds of traffic once all have logged in; 0: none.
    #[arg(long, default_value_t = 0, value_name = "SECONDS", requires = "target")]
    pub traffic: u64,
    /// Packets per second and user.
    #[arg(long, default_value_t = 10.0)]
    pub pps: f64,
    /// Octets of each inner packet.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Inner address that answers.
    #[arg(long, value_name = "ADDRESS")]
    pub target: Option<IpAddr>,
    /// What is sent.
    #[arg(long, value_enum, default_value_t = ProbeKind::Icmp)]
    pub probe: ProbeKind,
    /// Port of the UDP echo service.
    #[arg(long, default_value_t = 7)]
    pub echo_port: u16,
    /// Stay connected until interrupted; with --traffic, keep sending too.
    #[arg(long)]
    pub hold: bool,
    /// Part of the packets that may be lost, in percent, before the test counts as failed.
    #[arg(long, default_value_t = 100.0, value_name = "PERCENT")]
    pub max_loss: f64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Probability that a datagram is lost on its way, in each direction.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Milliseconds that a datagram takes, in each direction, beside the network's own.
    #[arg(long, default_value_t = 0)]
    pub delay: u64,
    /// Seed of the losses.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The report's form.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Options of `tunnel`.
#[derive(Args, Clone, Debug)]
pub struct Tunnel {
    /// Who the user is.
    #[command(flatten)]
    pub identity: Identity,
    /// Own address.
    #[arg(long, value_name = "ADDRESS")]
    pub local: Option<IpAddr>,
    /// Name of the TUN device.
    #[arg(long, default_value = "vpn0")]
    pub tun: String,
    /// MTU of the TUN device.
    #[arg(long, default_value_t = 1400)]
    pub mtu: u16,
    /// Do without UDP encapsulation where no NAT is in the way.
    #[arg(long)]
    pub raw: bool,
    /// Threads that carry packets, 1 to 8. With more than one the gateway is asked for a child SA for each (RFC 9611).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub workers: u8,
    /// Library of the packets' AEAD by name; auto: the one that is measured to be the fastest here.
    #[arg(long, default_value = "auto", value_name = "LIBRARY")]
    pub aead: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
