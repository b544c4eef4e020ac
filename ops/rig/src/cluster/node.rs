//! The configuration of a node, and what is asked of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::world::{World, cluster_address, node_name, service_address};
use crate::Result;
use crate::daemon::Daemon;
use crate::net::Folder;

/// What differs between the clusters of the tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether key material goes to a folder (for the search of S11, and for tshark).
    pub key_log: bool,
    /// Seconds in which a slot moves at most once.
    pub damping_secs: u32,
    /// Threads of the data plane.
    pub workers: u8,
    /// Whether slots are spread again when a node has come back.
    pub rebalance: bool,
    /// `refuse` or another policy for logins without a store.
    pub logins_without_store: String,
    /// Whether each node sends its telemetry to a collector beside it.
    pub otlp: bool,
    /// More TOML at the end of `[cluster]`'s own fields.
    pub extra: String,
    /// More TOML tables.
    pub tables: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key_log: false,
            damping_secs: 10,
            workers: 1,
            rebalance: true,
            logins_without_store: "refuse".to_owned(),
            otlp: false,
            extra: String::new(),
            tables: String::new(),
        }
    }
}

/// The addresses of a slot as the configuration has them.
fn slot_addresses(slot: u8) -> Vec<String> {
    let mut addresses = vec![
        format!("{}/24@eth0", service_address(slot)),
        format!("10.97.0.{}/24@eth1", 100 + u16::from(slot)),
    ];
    if slot == 0 {
        addresses.insert(1, format!("{}/64@eth0", super::world::SERVICE_V6));
        addresses.push("fd97::100/64@eth1".to_owned());
    }
    addresses
}

/// The configuration of node `index`, whose files are in `folder`.
pub fn configuration(
    world: &World,
    index: usize,
    folder: &Folder,
    key_file: &Path,
    endpoints: &[String],
    options: &Options,
) -> String {
    let quoted = |list: &[String]| {
        let list: Vec<_> = list.iter().map(|e| format!("\"{e}\"")).collect();
        list.join(", ")
    };
    let cluster = cluster_address(index);
    let mut text = format!(
        "node_name = \"{name}\"\nstate_directory = \"{state}\"\n\
         [api]\nsocket = \"{socket}\"\n\
         [log]\nfilter = \"info,concentrator=debug\"\nredact = false\n\
         [threads]\nworkers = {workers}\n\
         [telemetry]\nprometheus_listen = \"127.0.0.1:9464\"\n{otlp}\
         [debug]\nfault_injection = true\n{key_log}\
         {tables}\
         [cluster]\nnamespace = \"vpn\"\netcd = [{endpoints}]\nkey_file = \"{key_file}\"\n\
         listen = [\"{cluster}:4600\", \"192.0.2.{own}:4600\"]\n\
         damping_secs = {damping}\nrebalance = {rebalance}\nlogins_without_store = \"{policy}\"\n{extra}",
        name = node_name(index),
        state = folder.join("state").display(),
        socket = folder.join("api.sock").display(),
        otlp = if options.otlp {
            format!("otlp_endpoint = \"http://{}\"\n", super::scene::COLLECTOR)
        } else {
            String::new()
        },
        key_log = if options.key_log {
            format!("key_log = \"{}\"\n", folder.join("keys").display())
        } else {
            String::new()
        },
        workers = options.workers,
        tables = options.tables,
        endpoints = quoted(endpoints),
        key_file = key_file.display(),
        own = index + 1,
        damping = options.damping_secs,
        rebalance = options.rebalance,
        policy = options.logins_without_store,
        extra = options.extra,
    );
    for slot in 0..world.plan.slots {
        let _ = write!(
            text,
            "[[cluster.slots]]\nid = {slot}\naddresses = [{}]\n",
            quoted(&slot_addresses(slot))
        );
    }
    text
}

/// The configuration of a single node that listens on the service address of slot 0: what a cluster is compared with.
pub fn single_configuration(folder: &Folder) -> String {
    format!(
        "node_name = \"single\"\nstate_directory = \"{state}\"\n[api]\nsocket = \"{socket}\"\n\
         [log]\nfilter = \"info,concentrator=debug\"\nredact = false\n[threads]\nworkers = 1\n\
         [telemetry]\nprometheus_listen = \"127.0.0.1:9464\"\n[listen]\naddresses = [\"{address}\"]\n",
        state = folder.join("state").display(),
        socket = folder.join("api.sock").display(),
        address = service_address(0),
    )
}

/// Writes the key that all nodes share.
pub fn write_key(folder: &Folder) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut key = [0_u8; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    let hex: String = key.iter().map(|o| format!("{o:02x}")).collect();
    let path = folder.write("cluster.key", format!("{hex}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// The sessions of one node, from `vpnctl sessions`.
pub fn sessions(daemon: &Daemon) -> Result<Vec<serde_json::Value>> {
    let answer = daemon.query(&["sessions"])?;
    let list = answer
        .as_array()
        .or_else(|| answer.get("sessions").and_then(serde_json::Value::as_array));
    Ok(list.with_context(|| format!("no list in {answer}"))?.clone())
}

/// All metrics of a node, as text.
fn metrics(world: &World, index: usize) -> Result<String> {
    let host = world.nodes.get(index).context("no such node")?;
    host.run(&[
        "/usr/bin/python3",
        "-c",
        "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics', timeout=3).read().decode())",
    ])
}

/// The values of a counter of a node by its label `kind`.
pub fn by_kind(world: &World, index: usize, name: &str) -> Result<BTreeMap<String, f64>> {
    let text = metrics(world, index)?;
    let values = text.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?;
        let kind = labels.split_once("kind=\"")?.1.split_once('"')?.0;
        Some((kind.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
    });
    Ok(values.collect())
}

/// The value of a metric of a node, summed over its labels; 0 where it is not there.
pub fn metric(world: &World, index: usize, name: &str) -> Result<f64> {
    let text = metrics(world, index)?;
    Ok(text
        .lines()
        .filter(|l| {
            l.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        })
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .fold(0.0, |sum, value| sum + value))
}
