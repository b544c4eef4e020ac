//! The rate of one client, before and after thousands of others have logged in.

use std::time::Duration;

use anyhow::Context as _;

use super::Effort;
use super::path::{Kind, Path, Wire};
use super::plot::{Bar, Plot};
use super::section::{Section, Table};
use super::stats::median;
use super::traffic::tcp;
use crate::Result;
use crate::daemon::program;
use crate::gateway::{Gateway, secret};
use crate::process::wait_for;
use crate::world::{GATEWAY_V4, SERVER_V4};

const TOPOLOGY: &str = "two gateways of ours of the same build, measured in turn: one with a single client, one with thousands of simulated users \
    of the same tenant logged in and idle, a client that came before them and one that came after. One TCP stream at a time, \
    AES-256-GCM, super-packets whole";
/// Logins a second while the others come.
const LOGINS: u32 = 300;

/// Lets simulated users in: as many as the pool has addresses.
pub(super) fn admit(gateway: &Gateway) -> Result<()> {
    let yaml = format!(
        "kind: AddressPool\ntenant: acme\nname: big\nrange: 10.64.0.0/16\n---\nkind: Connection\ntenant: acme\nname: load\n\
         local_id: acme.vpn.example\nremote_ids: [ \"*@load.example\" ]\nauth: psk\nlocal_ts: [ 10.20.0.0/24 ]\npools: [ big ]\n\
         ---\nkind: Credential\ntenant: acme\nname: load\ntype: psk\nids: [ \"*@load.example\" ]\nsecret: \"{}\"\n",
        secret("acme")
    );
    gateway.daemon.apply("load.yaml", &yaml).map(drop)
}

/// The words of `loadtest connect` for users of tenant acme.
pub(super) fn users(number: u32, rate: u32) -> Result<Vec<String>> {
    let program = program("loadtest")?.display().to_string();
    let (number, rate, secret) = (number.to_string(), rate.to_string(), secret("acme"));
    let words = [
        &program,
        "connect",
        "--gateway",
        GATEWAY_V4,
        "--users",
        &number,
        "--rate",
        &rate,
        "--domain",
        "load.example",
        "--remote-id",
        "acme.vpn.example",
        "--psk",
        &secret,
    ];
    Ok(words.map(str::to_owned).to_vec())
}

/// The crowd is logged in by a host of its own, which stays.
fn crowd(path: &mut Path, others: u32) -> Result<()> {
    admit(path.ours()?)?;
    let host = path.add_host()?;
    let mut command = users(others, LOGINS)?;
    command.push("--hold".to_owned());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let log = path.folder().join("crowd.log");
    let mut process = path.client(host)?.start("loadtest", &command, &[], &log)?;
    let limit = Duration::from_secs(60 + u64::from(others / LOGINS) * 4);
    let mut sessions = 0;
    let gateway = path.ours()?;
    wait_for("all logins", limit, || {
        std::thread::sleep(Duration::from_millis(250));
        anyhow::ensure!(
            process.is_running(),
            "the load generator has ended: {}",
            process.output()
        );
        let status = gateway.daemon.query(&["status"])?;
        // 64-bit numbers are strings in JSON.
        let text = status["sessions"].as_str().and_then(|text| text.parse().ok());
        sessions = text.or_else(|| status["sessions"].as_u64()).unwrap_or(0);
        Ok(sessions > u64::from(others))
    })
    .with_context(|| format!("{sessions} of {others}"))?;
    path.keep(process);
    Ok(())
}

pub(super) fn run(effort: &Effort, others: &[u32]) -> Result<Section> {
    let mut section = Section::new("many", "One client among many", TOPOLOGY, effort);
    let mut table = Table::new(
        "Gbit/s received",
        &["other tunnels", "alone", "early client", "late client"],
    );
    let mut bars = Vec::new();
    for (group, &count) in others.iter().enumerate() {
        let alone = Path::up(Kind::Ours, Wire::Whole, 1)?;
        let mut full = Path::up(Kind::Ours, Wire::Whole, 1)?;
        crowd(&mut full, count)?;
        let late = full.add_host()?;
        full.connect(late, "acme")?;
        let mut rates: [Vec<f64>; 3] = Default::default();
        for round in 1..=effort.runs {
            section.begin_round();
            for (samples, (path, client)) in rates.iter_mut().zip([(&alone, 0), (&full, 0), (&full, late)]) {
                let rate = tcp(
                    path.client(client)?,
                    path.server()?,
                    SERVER_V4,
                    effort.seconds,
                    path.folder(),
                )?;
                samples.push(rate / 1e9);
            }
            let line = rates
                .each_ref()
                .map(|r| format!("{:.2}", r.last().unwrap_or(&f64::NAN)));
            eprintln!("run {round}: {count} others: {} Gbit/s", line.join(" / "));
        }
        let [single, early, after] = rates.each_ref().map(|samples| median(samples));
        table.row([
            count.to_string(),
            format!("{single:.2}"),
            format!("{early:.2}"),
            format!("{after:.2}"),
        ]);
        let words = |when: &str| format!("{when} client with {count} other tunnels over a single one");
        section.ratio(words("early"), early / single, Some(0.95));
        section.ratio(words("late"), after / single, Some(0.95));
        let names = [
            "alone".to_owned(),
            format!("early of {count}"),
            format!("late of {count}"),
        ];
        for (name, samples) in names.into_iter().zip(rates) {
            bars.push(Bar { name, group, samples });
        }
    }
    section.tables.push(table);
    section.plots.push(Plot::Bars {
        title: "TCP of one client among many tunnels, Gbit/s".to_owned(),
        bars,
    });
    Ok(section)
}
