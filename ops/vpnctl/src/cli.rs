//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cluster::arguments::{ClusterArguments, Wait};

/// Steers a concentrator: tenants, connections, pools, credentials, sessions, the cluster.
#[derive(Debug, Parser)]
#[command(
    name = "vpnctl",
    version,
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 not reached."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How the answer is written.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the daemon.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// `unix:PATH`, or `https://HOST:PORT` with the three files below.
    #[arg(
        long,
        global = true,
        env = "VPNCTL_ENDPOINT",
        default_value = "unix:/run/concentrator/api.sock"
    )]
    pub(crate) endpoint: String,
    /// The authority of the server's certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The own certificate, PEM: says who you are.
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The own private key, PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Seconds until an unanswered call is given up.
    #[arg(long, global = true, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout_secs: u64,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// YAML documents, which `apply` reads again.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the stored resources equal to those in files; the same set again changes nothing.
    Apply(ApplyArguments),
    /// Show resources of a kind, or one of them.
    Get(ListArguments),
    /// The same as `get`.
    List(ListArguments),
    /// Show all of one resource.
    Describe(OneArguments),
    /// Delete a resource.
    Delete(DeleteArguments),
    /// Show the live sessions.
    Sessions(SessionsArguments),
    /// End sessions with a DELETE to their peers.
    Disconnect(DisconnectArguments),
    /// Start a rekey of a session's child SAs, or of its IKE SA.
    Rekey(RekeyArguments),
    /// Show login attempts, with the reason of each failure in words.
    Attempts(AttemptsArguments),
    /// Show who changed what.
    Audit(AuditArguments),
    /// Show how the node is.
    Status,
    /// Show and steer the cluster that the node is part of.
    Cluster(ClusterArguments),
    /// Send clients to another gateway, as far as they follow (RFC 5685).
    Redirect(RedirectArguments),
    /// Have the daemon read its configuration file again.
    Reload {
        /// Only check it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a part of the daemon fail (only where its configuration allows it).
    #[command(hide = true)]
    Fault(FaultArguments),
    /// Print a completion script.
    Completions {
        /// For which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Seconds that an answer may take because it was asked to wait.
    pub(crate) fn patience(&self) -> u64 {
        if let Self::Cluster(arguments) = self {
            arguments.command.patience()
        } else if let Self::Redirect(arguments) = self {
            arguments.wait.seconds()
        } else {
            0
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// YAML files; `-` is standard input.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Only say what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A customer of the provider.
    #[value(alias = "tenants")]
    Tenant,
    /// Who may connect, and how.
    #[value(alias = "connections", alias = "conn")]
    Connection,
    /// Virtual addresses.
    #[value(alias = "pools", alias = "addresspool", alias = "addresspools")]
    Pool,
    /// Keys and certificates.
    #[value(alias = "credentials", alias = "cred")]
    Credential,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// What.
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// Only this one.
    pub(crate) name: Option<String>,
    /// Only of this tenant.
    #[arg(long, short)]
    pub(crate) tenant: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    /// What.
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// Which.
    pub(crate) name: String,
    /// Of which tenant.
    #[arg(long, short, required_if_eq_any([("kind", "connection"), ("kind", "pool"), ("kind", "credential")]))]
    pub(crate) tenant: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    pub(crate) one: OneArguments,
    /// A tenant with all that it has.
    #[arg(long)]
    pub(crate) cascade: bool,
    /// Only check whether it could be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArguments {
    /// Only this session, in full.
    pub(crate) id: Option<String>,
    /// Only of this tenant.
    #[arg(long, short)]
    pub(crate) tenant: Option<String>,
    /// Only identities that contain this.
    #[arg(long)]
    pub(crate) identity: Option<String>,
    /// Only with this outer or virtual address.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// Go on showing changes as they happen.
    #[arg(long, short, conflicts_with_all = ["id", "identity", "address"])]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DisconnectArguments {
    /// Sessions.
    #[arg(required_unless_present_any = ["identity", "all"])]
    pub(crate) ids: Vec<String>,
    /// Only of this tenant.
    #[arg(long, short, required_if_eq("all", "true"))]
    pub(crate) tenant: Option<String>,
    /// Every session of exactly this identity.
    #[arg(long)]
    pub(crate) identity: Option<String>,
    /// Every session of the tenant.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only say which.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RekeyArguments {
    /// The session.
    pub(crate) id: String,
    /// Its IKE SA, instead of its child SAs.
    #[arg(long, conflicts_with = "child")]
    pub(crate) ike: bool,
    /// Only the child SA with this inbound SPI.
    #[arg(long, value_name = "SPI")]
    pub(crate) child: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttemptsArguments {
    /// Only of this tenant.
    #[arg(long, short)]
    pub(crate) tenant: Option<String>,
    /// Only from this address.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// Only identities that contain this.
    #[arg(long)]
    pub(crate) identity: Option<String>,
    /// Only since then: RFC 3339, or a time ago such as `15m`, `2h`, `1d`.
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only those that failed.
    #[arg(long)]
    pub(crate) failed: bool,
    /// At most so many, the newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    /// Go on showing new ones.
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// Only of this tenant.
    #[arg(long, short)]
    pub(crate) tenant: Option<String>,
    /// Only since then: RFC 3339, or a time ago such as `15m`, `2h`, `1d`.
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// At most so many, the newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "New clients are sent away in the answer to their first message. Clients that do not follow are served on.\n\
                  In force until `vpnctl redirect --stop` or the daemon's end."
)]
pub(crate) struct RedirectArguments {
    /// Where to: addresses, host names, or `cluster` for what the other nodes of the cluster serve; taken in turn.
    #[arg(required_unless_present = "stop")]
    pub(crate) to: Vec<String>,
    /// Those with sessions too, and not only new clients.
    #[arg(long)]
    pub(crate) sessions: bool,
    /// Sessions a second, instead of the configured number.
    #[arg(long, requires = "sessions", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) per_sec: Option<u32>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Send nobody away any more.
    #[arg(long, conflicts_with_all = ["to", "sessions"])]
    pub(crate) stop: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FaultArguments {
    /// What fails.
    pub(crate) target: String,
    /// Which one.
    #[arg(default_value = "")]
    pub(crate) selector: String,
    /// How.
    #[arg(long, default_value = "panic")]
    pub(crate) how: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_resource_of_a_tenant_needs_its_tenant() {
        assert!(Cli::try_parse_from(["vpnctl", "describe", "pool", "v4"]).is_err());
        assert!(Cli::try_parse_from(["vpnctl", "describe", "pools", "v4", "-t", "acme"]).is_ok());
        assert!(Cli::try_parse_from(["vpnctl", "describe", "tenant", "acme"]).is_ok());
        assert!(Cli::try_parse_from(["vpnctl", "disconnect"]).is_err());
        assert!(Cli::try_parse_from(["vpnctl", "disconnect", "--all"]).is_err());
        assert!(Cli::try_parse_from(["vpnctl", "disconnect", "--all", "-t", "acme"]).is_ok());
    }

    #[test]
    fn where_clients_are_sent_has_to_be_said_unless_nowhere() {
        for (words, good) in [
            ("192.0.2.7", true),
            ("192.0.2.7 2001:db8::7 --sessions --per-sec 20 --no-wait", true),
            ("--stop", true),
            ("", false),
            ("--stop cluster", false),
            ("cluster --per-sec 20", false),
            ("cluster --sessions --per-sec 0", false),
        ] {
            let all = ["vpnctl", "redirect"].into_iter().chain(words.split_whitespace());
            assert_eq!(Cli::try_parse_from(all).is_ok(), good, "{words}");
        }
    }

    #[test]
    fn orders_to_the_cluster_are_read() {
        for words in [
            "status",
            "slots",
            "slots 3 --node a",
            "drain",
            "drain a --no-wait",
            "drain --redirect cluster --redirect vpn2.example.org",
            "undrain a",
            "move 3 b",
            "move 3 b --wait-secs 5",
            "drain --wait",
            "leave",
            "join",
            "forget c",
            "backup x.bak --force",
            "restore - --replace",
            "rotate-keys --slot 1 --slot 2 --wrap-only",
            "events",
        ] {
            let all = ["vpnctl", "cluster"].into_iter().chain(words.split(' '));
            assert!(Cli::try_parse_from(all).is_ok(), "{words}");
        }
        for words in [
            "",
            "move 3",
            "move 128 b",
            "move x b",
            "forget",
            "backup",
            "drain --no-wait --wait-secs 5",
            "drain --wait --no-wait",
        ] {
            let all = ["vpnctl", "cluster"].into_iter().chain(words.split_whitespace());
            assert!(Cli::try_parse_from(all).is_err(), "{words}");
        }
    }
}
