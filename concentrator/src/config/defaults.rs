//! What holds where the file is silent.

use super::*;

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: host_name(),
            state_directory: PathBuf::from("/var/lib/concentrator"),
            listen: Listen::default(),
            dataplane: Dataplane::default(),
            threads: Threads::default(),
            limits: Limits::default(),
            path_mtu: PathMtu::default(),
            seal: Seal::default(),
            api: Api::default(),
            telemetry: Telemetry::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            redirect: Redirect::default(),
            debug: Debug::default(),
            cluster: None,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            ike_port: 500,
            nat_port: 4500,
            raw_esp: true,
        }
    }
}

impl Default for Threads {
    fn default() -> Self {
        let processors =
            std::thread::available_parallelism().map_or(1, |n| u8::try_from(n.get()).unwrap_or(u8::MAX));
        Self {
            workers: processors.clamp(1, WORKERS_MAX),
            control: (processors / 2).clamp(1, 64),
            blocking: processors.clamp(1, 64),
            pin_workers: false,
            cores: Vec::new(),
            busy_wait_micros: 50,
            aead: crate::aead::AUTO.to_owned(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: 20_000,
            cookie_threshold: 512,
            sessions: 200_000,
            authentications: 20_000,
            authentications_per_tenant: 2_048,
            mailbox: 64,
            restarts: 50,
            restart_window_secs: 60,
            records_queued: 65_536,
            half_open_secs: 30,
            sequence_block: 1 << 17,
            checkpoint_secs: 10,
            tenant_labels: 200,
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/concentrator/api.sock"),
            tcp: None,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_signals: BTreeSet::from([Signal::Traces, Signal::Metrics, Signal::Logs]),
            metrics_interval_ms: 10_000,
            prometheus_listen: None,
            trace_ratio: 1.0,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
            redact: true,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain_secs: 5,
            send_deletes: false,
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "node".to_owned())
}
