//! Many simulated users at once.

use std::fmt;

use anyhow::Context as _;

use crate::Result;
use crate::daemon::{Settings, program};
use crate::gateway::{Gateway, secret};
use crate::pki::Key;
use crate::process::wait_for;
use crate::world::{GATEWAY_V4, SERVER_V4};
use std::time::Duration;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Users that were to log in.
    pub users: u32,
    /// Sessions that the gateway had while traffic ran.
    pub sessions: usize,
    /// Octets of the gateway's memory for each session (growth of the resident set).
    pub memory_per_session: u64,
    /// The load generator's own report, JSON.
    pub generator: serde_json::Value,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} users, {} sessions at once", self.users, self.sessions)?;
        writeln!(
            f,
            "memory of the gateway for each session: {:.1} KiB",
            self.memory_per_session as f64 / 1024.0
        )?;
        write!(f, "{:#}", self.generator)
    }
}

/// Logs `users` users in to one tenant, each from a socket of its own, and passes traffic through all of them.
pub fn users(users: u32, seconds: u32) -> Result<Report> {
    let settings = Settings {
        extra: String::new(),
        ..Settings::default()
    };
    let gateway = Gateway::start(Key::Ecdsa(256), settings)?;
    let netns = gateway.world.site("acme")?.domain.name().to_owned();
    gateway.daemon.apply(
        "load.yaml",
        &format!(
            "kind: AddressPool\ntenant: acme\nname: big\nrange: 10.64.0.0/16\n---\nkind: Connection\ntenant: acme\nname: load\n\
             local_id: acme.vpn.example\nremote_ids: [ \"*@load.example\" ]\nauth: psk\nlocal_ts: [ 10.20.0.0/24 ]\npools: [ big ]\n\
             ---\nkind: Credential\ntenant: acme\nname: load\ntype: psk\nids: [ \"*@load.example\" ]\nsecret: \"{}\"\n",
            secret("acme")
        ),
    )
    .with_context(|| netns)?;
    let before = gateway.daemon.memory()?;
    let program = program("loadtest")?.display().to_string();
    let secret = secret("acme");
    let (count, duration) = (users.to_string(), seconds.to_string());
    let log = gateway.pki.join("loadtest.log");
    let report = gateway.pki.join("loadtest.json");
    let script = format!(
        "exec {program} connect --gateway {GATEWAY_V4} --users {count} --domain load.example --remote-id acme.vpn.example \
         --psk '{secret}' --traffic {duration} --target {SERVER_V4} --output json >{}",
        report.display()
    );
    let mut load = gateway
        .world
        .direct
        .start("loadtest", &["sh", "-c", &script], &[], &log)?;
    let expected = usize::try_from(users)?;
    let mut sessions = 0;
    let reached = wait_for("all sessions", Duration::from_secs(120), || {
        let status = gateway.daemon.query(&["status"])?;
        sessions = status["sessions"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0);
        anyhow::ensure!(
            load.is_running() || sessions >= expected,
            "the load generator has ended"
        );
        Ok(sessions >= expected)
    });
    let after = gateway.daemon.memory()?;
    let status = load.wait(Duration::from_secs(u64::from(seconds) + 120))?;
    reached.with_context(|| format!("{sessions} of {users} sessions\n{}", load.output()))?;
    anyhow::ensure!(
        status.success(),
        "loadtest: {status}\n{}\n{}",
        load.output(),
        std::fs::read_to_string(&report).unwrap_or_default()
    );
    let generator = serde_json::from_str(&std::fs::read_to_string(&report)?)?;
    let memory_per_session = after.saturating_sub(before) / u64::from(users.max(1));
    Ok(Report {
        users,
        sessions,
        memory_per_session,
        generator,
    })
}
