//! The configuration file of the daemon: TOML, unknown fields refused, every field with a default and a stated limit.
//!
//! What is here concerns the node: sockets, threads, files, limits. Who may connect is not here: tenants, connections,
//! pools and credentials live in the store and are written through the management API.
//!
//! ```toml
//! state_directory = "/var/lib/concentrator"
//!
//! [listen]
//! addresses = ["192.0.2.1", "2001:db8::1"]
//!
//! [telemetry]
//! otlp_endpoint = "http://127.0.0.1:4317"
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod cluster;
mod dataplane;
mod defaults;
mod path_mtu;
mod redirect;

pub use self::dataplane::{Dataplane, INTERFACES_MAX, OuterMode};
pub use cluster::{Cluster, LoginsWithoutStore, SLOTS_MAX, SlotAddress, SlotTable};
pub use path_mtu::PathMtu;
pub use redirect::Redirect;

/// The largest number of worker threads: the top three bits of an inbound SPI name the worker.
pub const WORKERS_MAX: u8 = 8;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name of this node in telemetry and in the management API. Default: the host's name.
    pub node_name: String,
    /// Where the stores, the generation and the seal key lie. Created with mode 0700 when it is missing.
    pub state_directory: PathBuf,
    /// Sockets towards the Internet.
    pub listen: Listen,
    /// How ESP reaches the workers.
    pub dataplane: Dataplane,
    /// Threads.
    pub threads: Threads,
    /// What may be held at once, and how fast.
    pub limits: Limits,
    /// What is believed of the way to a peer.
    pub path_mtu: PathMtu,
    /// Protection of the records at rest.
    pub seal: Seal,
    /// The management API.
    pub api: Api,
    /// OTLP and Prometheus.
    pub telemetry: Telemetry,
    /// The log on standard error.
    pub log: Log,
    /// What happens on SIGTERM.
    pub shutdown: Shutdown,
    /// When and where clients are sent to another gateway.
    pub redirect: Redirect,
    /// For development only.
    pub debug: Debug,
    /// The cluster that the node belongs to. Default: none, a node of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// `[listen]`: sockets towards the Internet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Local addresses, 1 to 64 of them, each served on both ports. `0.0.0.0` and `::` stand for the addresses that
    /// the interfaces have at the start: an answer leaves from the address that its question came to.
    /// Default: `["0.0.0.0", "::"]`.
    pub addresses: Vec<IpAddr>,
    /// RFC 7296 section 2: 500. Another number only for tests.
    pub ike_port: u16,
    /// RFC 7296 section 2.23: 4500, IKE after NAT detection and UDP-encapsulated ESP.
    pub nat_port: u16,
    /// Serve ESP without UDP (IP protocol 50) too. Default: true. It needs CAP_NET_RAW.
    pub raw_esp: bool,
}

/// `[threads]`: what runs where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Threads {
    /// ESP workers, 1 to 8. Default: the number of processors, at most 8.
    pub workers: u8,
    /// Arbiters that run the IKE SAs, 1 to 64. Default: half of the processors.
    pub control: u8,
    /// Threads for signatures, certificate chains and other slow work, 1 to 64. Default: the number of processors.
    pub blocking: u8,
    /// Pin each worker to a processor of its own: those of `cores`, or the first ones. Default: false, since a scheduler
    /// that may move them does better where other work shares the processors.
    pub pin_workers: bool,
    /// Processors for `pin_workers`, one for each worker in order, by the system's numbers (0 to 1,023). One that does not
    /// exist leaves its worker to the scheduler. Default: none, which means 0, 1, 2 and so on.
    pub cores: Vec<u16>,
    /// Microseconds that a worker under load waits awake for the next packet before it sleeps, 0 to 1,000. Default: 50.
    pub busy_wait_micros: u32,
    /// The library that does the packets' AEAD: `ring`, `aws-lc`, `ipsec-mb` where it is built in, or `auto`: the one that
    /// a short measurement at the start finds fastest. Default: `auto`.
    pub aead: String,
}

/// `[limits]`: everything that a datagram can make grow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// IKE SAs that are not yet authenticated; further IKE_SA_INIT requests are dropped and counted. 1 to 1,000,000.
    pub half_open: u32,
    /// Half-open IKE SAs above which a COOKIE is demanded (RFC 7296 section 2.6). 0 demands it always.
    pub cookie_threshold: u32,
    /// Established IKE SAs on this node. 1 to 4,000,000.
    pub sessions: u32,
    /// Authentications running or waiting for a thread; above it the peer is told to try again, which most clients take for a
    /// failed login. A half-open IKE SA has one at most: by default all of them may wait. 1 to 100,000.
    pub authentications: u32,
    /// Authentications of one tenant running or waiting: a tenant's flood leaves room for the others. 1 to 100,000.
    pub authentications_per_tenant: u32,
    /// Messages waiting for one IKE SA; a datagram above it is dropped and counted. 4 to 1,024.
    pub mailbox: u32,
    /// Restarts of one tenant's actors within `restart_window_secs`; an SA that panics beyond it is closed. 1 to 10,000.
    pub restarts: u32,
    /// The window of `restarts`, in seconds. 1 to 3,600.
    pub restart_window_secs: u32,
    /// Records waiting for the store; above it an IKE SA holds its answers back. 64 to 1,000,000.
    pub records_queued: u32,
    /// Seconds that a peer has to authenticate after its first message. 5 to 300.
    pub half_open_secs: u32,
    /// ESP sequence numbers reserved durably at a time. 1,024 to 16,777,216.
    pub sequence_block: u32,
    /// Seconds between two checkpoints of the inbound windows in the store. 1 to 600.
    pub checkpoint_secs: u32,
    /// Tenants with metrics of their own; the others are summed under `other`. 1 to 10,000.
    pub tenant_labels: u32,
}

/// `[seal]`: protection of the records at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Seal {
    /// A file with 32 octets, mode 0600; made at the first start. Default: `seal.key` in the state directory.
    pub key_file: Option<PathBuf>,
}

/// `[api]`: the management API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// The Unix socket for root. Default: `/run/concentrator/api.sock`. Empty: none.
    pub socket: PathBuf,
    /// TCP with mutual TLS. Default: none.
    pub tcp: Option<ApiTcp>,
}

/// `[api.tcp]`: the management API on TCP, with client certificates and roles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiTcp {
    /// Address and port.
    pub listen: SocketAddr,
    /// The server's certificate chain, PEM.
    pub certificate: PathBuf,
    /// The server's private key, PEM.
    pub key: PathBuf,
    /// The authorities of client certificates, PEM.
    pub client_authorities: PathBuf,
}

/// `[telemetry]`: where measurements go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// An OTLP collector (gRPC), such as `http://127.0.0.1:4317`. Default: none.
    pub otlp_endpoint: Option<String>,
    /// Which signals go to the collector. Default: all three.
    pub otlp_signals: BTreeSet<Signal>,
    /// Milliseconds between two exports of metrics. 100 to 600,000.
    pub metrics_interval_ms: u64,
    /// Address and port of `GET /metrics`. Default: none.
    pub prometheus_listen: Option<SocketAddr>,
    /// The part of all set-ups that is traced, 0.0 to 1.0; failed ones too.
    pub trace_ratio: f64,
}

/// One kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Spans.
    Traces,
    /// Counters, gauges, histograms.
    Metrics,
    /// Log records.
    Logs,
}

/// `[log]`: the log on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Directives of tracing-subscriber's `EnvFilter`, such as `info,concentrator=debug`.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormat,
    /// Write identities and addresses of users as a short hash. Default: true.
    pub redact: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`: what happens on SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Seconds that running logins and the store get to finish. 0 to 300.
    pub drain_secs: u32,
    /// Delete every IKE SA at its peer. Default: false, so that the next start carries the tunnels on.
    pub send_deletes: bool,
}

/// `[debug]`: for development only; each setting is warned about at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Debug {
    /// A directory for `ikev2_decryption_table` and `esp_sa`, with the keys of every session. Default: none.
    pub key_log: Option<PathBuf>,
    /// Allow `InjectFault` in the management API. Default: false.
    pub fault_injection: bool,
}

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, or a field of the wrong type, or an unknown one.
    #[error("{path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Fields outside their limits.
    #[error("{path}: {}", problems.join("; "))]
    Limits {
        /// Which file.
        path: PathBuf,
        /// One sentence a field.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Unreadable, not TOML, unknown fields, or values outside their limits (all of them are named).
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads and checks `text`; `path` is only for the messages.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Limits {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// One sentence for each value outside its limits.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut range = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{name} is {value}, it must be {least} to {most}"));
            }
        };
        let limits = &self.limits;
        if self.cluster.is_none() {
            range(
                "listen.addresses (how many)",
                self.listen.addresses.len() as u64,
                1,
                64,
            );
        }
        range("listen.ike_port", u64::from(self.listen.ike_port), 1, 65_535);
        range("listen.nat_port", u64::from(self.listen.nat_port), 1, 65_535);
        range(
            "dataplane.interfaces (how many)",
            self.dataplane.interfaces.len() as u64,
            0,
            INTERFACES_MAX as u64,
        );
        range(
            "threads.workers",
            u64::from(self.threads.workers),
            1,
            u64::from(WORKERS_MAX),
        );
        if self.threads.pin_workers && !self.threads.cores.is_empty() {
            range(
                "threads.cores (how many)",
                self.threads.cores.len() as u64,
                u64::from(self.threads.workers),
                1_024,
            );
        }
        let last = self.threads.cores.iter().copied().max().unwrap_or(0);
        range("threads.cores (the largest)", u64::from(last), 0, 1_023);
        range(
            "threads.busy_wait_micros",
            u64::from(self.threads.busy_wait_micros),
            0,
            1_000,
        );
        range("threads.control", u64::from(self.threads.control), 1, 64);
        range("threads.blocking", u64::from(self.threads.blocking), 1, 64);
        range("limits.half_open", u64::from(limits.half_open), 1, 1_000_000);
        range(
            "limits.cookie_threshold",
            u64::from(limits.cookie_threshold),
            0,
            1_000_000,
        );
        range("limits.sessions", u64::from(limits.sessions), 1, 4_000_000);
        range(
            "limits.authentications",
            u64::from(limits.authentications),
            1,
            100_000,
        );
        range(
            "limits.authentications_per_tenant",
            u64::from(limits.authentications_per_tenant),
            1,
            100_000,
        );
        range("limits.mailbox", u64::from(limits.mailbox), 4, 1_024);
        range("limits.restarts", u64::from(limits.restarts), 1, 10_000);
        range(
            "limits.restart_window_secs",
            u64::from(limits.restart_window_secs),
            1,
            3_600,
        );
        range(
            "limits.records_queued",
            u64::from(limits.records_queued),
            64,
            1_000_000,
        );
        range("limits.half_open_secs", u64::from(limits.half_open_secs), 5, 300);
        range(
            "limits.sequence_block",
            u64::from(limits.sequence_block),
            1_024,
            1 << 24,
        );
        range(
            "limits.checkpoint_secs",
            u64::from(limits.checkpoint_secs),
            1,
            600,
        );
        range("limits.tenant_labels", u64::from(limits.tenant_labels), 1, 10_000);
        self.path_mtu.check(&mut range);
        range(
            "telemetry.metrics_interval_ms",
            self.telemetry.metrics_interval_ms,
            100,
            600_000,
        );
        range("shutdown.drain_secs", u64::from(self.shutdown.drain_secs), 0, 300);
        let unique: BTreeSet<&IpAddr> = self.listen.addresses.iter().collect();
        if unique.len() != self.listen.addresses.len() {
            problems.push("listen.addresses names an address twice".to_owned());
        }
        if self.listen.ike_port == self.listen.nat_port {
            problems.push("listen.ike_port and listen.nat_port are the same".to_owned());
        }
        if self.state_directory.as_os_str().is_empty() {
            problems.push("state_directory is empty".to_owned());
        }
        if !(0.0..=1.0).contains(&self.telemetry.trace_ratio) {
            problems.push(format!(
                "telemetry.trace_ratio is {}, it must be 0.0 to 1.0",
                self.telemetry.trace_ratio
            ));
        }
        if let Some(endpoint) = &self.telemetry.otlp_endpoint
            && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
        {
            problems.push("telemetry.otlp_endpoint must begin with http:// or https://".to_owned());
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            problems.push(format!("log.filter: {error}"));
        }
        problems.extend(crate::aead::check(&self.threads.aead).err());
        problems.extend(self.redirect.problems(self.cluster.is_some()));
        if self.api.socket.as_os_str().is_empty() && self.api.tcp.is_none() {
            problems.push("api has neither a socket nor tcp: the node could not be managed".to_owned());
        }
        if let Some(cluster) = &self.cluster {
            let listen = &self.listen.addresses;
            if !listen.is_empty() && *listen != Listen::default().addresses {
                problems.push(
                    "listen.addresses must be left out in a cluster: the slots' service addresses are listened on"
                        .to_owned(),
                );
            }
            problems.extend(cluster.problems(&self.node_name));
        }
        problems
    }

    /// The local addresses that are served: those of `[listen]`, or in a cluster those of every slot.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<IpAddr> {
        match &self.cluster {
            Some(cluster) => cluster.listen_addresses(),
            None => self.listen.addresses.clone(),
        }
    }

    /// Where the seal key lies.
    #[must_use]
    pub fn seal_key_file(&self) -> PathBuf {
        self.seal
            .key_file
            .clone()
            .unwrap_or_else(|| self.state_directory.join("seal.key"))
    }

    /// The store of tenants, credentials and generations (synchronous = FULL).
    #[must_use]
    pub fn configuration_store(&self) -> PathBuf {
        self.state_directory.join("configuration.db")
    }

    /// The store of SA records (synchronous = NORMAL: they survive the process; after a power cut an older record is
    /// still safe, because the generation is new).
    #[must_use]
    pub fn sa_store(&self) -> PathBuf {
        self.state_directory.join("sa.db")
    }

    /// How long a peer may stay unauthenticated.
    #[must_use]
    pub fn half_open_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.limits.half_open_secs))
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
mod tests;
