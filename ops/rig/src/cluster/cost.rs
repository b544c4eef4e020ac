//! What the cluster costs: writes to etcd for each login, each rekey and each idle hour of a user, and the rate of logins
//! beside that of a single node with its embedded store, in the same run on the same machine.

mod rates;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;

use super::clients::secret;
use super::node::{self, Options, sessions};
use super::scene::Scene;
use super::world::{LOAD, Plan, World, service_address};
use crate::Result;
use crate::daemon::program;
use crate::net::Folder;
use crate::process::{Process, wait_for};

pub use rates::{Placement, Rate, login_rates};

/// Transactions and keys written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writes {
    /// Revisions of the store: one for each transaction that changed something.
    pub transactions: f64,
    /// Keys put.
    pub puts: f64,
}

impl Writes {
    fn of(scene: &Scene) -> Result<Self> {
        Ok(Self {
            transactions: scene.etcd.revision()? as f64,
            puts: scene
                .etcd
                .metric(0, "etcd_mvcc_put_total")
                .or_else(|_| scene.etcd.metric(0, "etcd_debugging_mvcc_put_total"))?,
        })
    }

    /// What came on top of `before`, without what an idle cluster writes in that time, for each of `count`.
    fn since(self, before: Self, idle: Self, seconds: f64, count: f64) -> Self {
        let each = |now: f64, then: f64, idle: f64| ((now - then - idle * seconds) / count).max(0.0);
        Self {
            transactions: each(self.transactions, before.transactions, idle.transactions),
            puts: each(self.puts, before.puts, idle.puts),
        }
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} transactions, {:.2} keys", self.transactions, self.puts)
    }
}

/// What a node has written, by what it is for: transactions and keys.
#[derive(Debug, Clone, Default)]
pub struct Kinds(BTreeMap<String, (f64, f64)>);

impl Kinds {
    fn of(scene: &Scene) -> Result<Self> {
        let mut kinds = BTreeMap::<_, (f64, f64)>::new();
        for (kind, value) in node::by_kind(&scene.world, 0, "vpn_store_transactions_total")? {
            kinds.entry(kind).or_default().0 = value;
        }
        for (kind, value) in node::by_kind(&scene.world, 0, "vpn_store_keys_total")? {
            kinds.entry(kind).or_default().1 = value;
        }
        anyhow::ensure!(!kinds.is_empty(), "the node counts no writes");
        Ok(Self(kinds))
    }

    /// What came on top of `before`, for each of `count`; what is written whether or not anything happens is left out.
    fn since(mut self, before: &Self, count: f64) -> Self {
        for (kind, (transactions, keys)) in &mut self.0 {
            let then = before.0.get(kind).copied().unwrap_or_default();
            *transactions = (*transactions - then.0) / count;
            *keys = (*keys - then.1) / count;
        }
        self.0
            .retain(|kind, (_, keys)| *keys >= 0.01 && kind != "keep_alive");
        self
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self
            .0
            .iter()
            .map(|(kind, (transactions, keys))| format!("{kind} {transactions:.2} ({keys:.2} keys)"));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

/// The figures.
#[derive(Debug, Clone, Default)]
pub struct Costs {
    /// Users that were measured.
    pub users: u32,
    /// A second of a cluster without users.
    pub idle_second: Writes,
    /// A login.
    pub login: Writes,
    /// A rekey of a child SA, with the audit record of the order for it.
    pub child_rekey: Writes,
    /// A rekey of an IKE SA, with the audit record of the order for it.
    pub ike_rekey: Writes,
    /// What the writes of a rekey of a child SA are for, as the node counts them.
    pub child_rekey_kinds: Kinds,
    /// The same of an IKE SA.
    pub ike_rekey_kinds: Kinds,
    /// An hour of a user who is logged in and passes nothing but liveness.
    pub idle_user_hour: Writes,
    /// A second of a user's traffic, 20 packets each way.
    pub busy_user_second: Writes,
    /// Logins with the embedded store, and with etcd, by where they run.
    pub rates: Vec<(Placement, Rate, Rate)>,
}

impl Costs {
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "writes to etcd, over {} users", self.users)?;
        writeln!(f, "  a second of a cluster without users  {}", self.idle_second)?;
        writeln!(f, "  a login                              {}", self.login)?;
        writeln!(f, "  a rekey of a child SA                {}", self.child_rekey)?;
        writeln!(
            f,
            "    for                                {}",
            self.child_rekey_kinds
        )?;
        writeln!(f, "  a rekey of an IKE SA                 {}", self.ike_rekey)?;
        writeln!(
            f,
            "    for                                {}",
            self.ike_rekey_kinds
        )?;
        writeln!(
            f,
            "  an hour of an idle user              {}",
            self.idle_user_hour
        )?;
        writeln!(
            f,
            "  a second of a user with traffic      {}",
            self.busy_user_second
        )?;
        Ok(())
    }

    /// The rate of logins with etcd over that with the embedded store, the medians of the rounds.
    pub fn ratio(&self, placement: Placement) -> f64 {
        let median = |mut list: Vec<f64>| {
            list.sort_by(f64::total_cmp);
            list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let (embedded, etcd): (Vec<_>, Vec<_>) = self
            .rates
            .iter()
            .filter(|(where_to, ..)| *where_to == placement)
            .map(|(_, embedded, etcd)| (embedded.per_second, etcd.per_second))
            .unzip();
        median(etcd) / median(embedded)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.users > 0 {
            self.write_costs(f)?;
        }
        for placement in Placement::ALL {
            for (_, embedded, etcd) in self.rates.iter().filter(|(at, ..)| *at == placement) {
                writeln!(f, "logins, {placement}, embedded store: {embedded}")?;
                writeln!(f, "logins, {placement}, etcd:           {etcd}")?;
            }
            writeln!(
                f,
                "ratio of the medians, {placement}: {:.2}",
                self.ratio(placement)
            )?;
        }
        Ok(())
    }
}

/// Logs users in and holds them. `traffic`: 20 packets a second each way.
fn hold(world: &World, folder: &Folder, users: u32, name: &str, traffic: bool) -> Result<Process> {
    let program = program("loadtest")?.display().to_string();
    let (count, secret, locals) = (users.to_string(), secret("acme"), LOAD.join(","));
    let (gateway, identity) = (service_address(0), format!("{name}-{{user}}@{{domain}}"));
    let mut command = vec![
        program.as_str(),
        "connect",
        "--gateway",
        &gateway,
        "--users",
        &count,
        "--rate",
        "100",
        "--domain",
        "load.example",
        "--id",
        &identity,
        "--remote-id",
        "acme.vpn.example",
        "--psk",
        &secret,
        "--local",
        &locals,
        "--remote-ts",
        "10.97.0.0/24",
        "--hold",
    ];
    if traffic {
        command.extend([
            "--traffic",
            "3600",
            "--target",
            super::world::SERVER,
            "--probe",
            "udp",
            "--pps",
            "20",
        ]);
    }
    world
        .load
        .start("loadtest", &command, &[], &folder.join(&format!("{name}.log")))
}

/// Measures the writes on a cluster of one node and three members.
pub fn writes(users: u32, seconds: u64) -> Result<Costs> {
    let plan = Plan {
        nodes: 1,
        slots: 1,
        clients: 0,
        ..Plan::default()
    };
    let scene = Scene::start(&plan, &Options::default())?;
    let span = Duration::from_secs(seconds.max(5));
    let (count, length) = (f64::from(users.max(1)), span.as_secs_f64());
    let daemon = scene.nodes.first().context("a node")?;
    let expect = |wanted: u32| {
        wait_for(&format!("{wanted} sessions"), Duration::from_secs(60), || {
            Ok(sessions(daemon)?.len() == usize::try_from(wanted)?)
        })
    };
    let nothing = Writes::default();
    let before = Writes::of(&scene)?;
    std::thread::sleep(span);
    let idle_second = Writes::of(&scene)?.since(before, nothing, 0.0, length);

    let start = (std::time::Instant::now(), Writes::of(&scene)?);
    let idle = hold(&scene.world, &scene.folder, users, "idle", false)?;
    expect(users).with_context(|| idle.output())?;
    let login = Writes::of(&scene)?.since(start.1, idle_second, start.0.elapsed().as_secs_f64(), count);
    // The checkpoint of the logins themselves is written within a second.
    std::thread::sleep(Duration::from_secs(3));

    let before = Writes::of(&scene)?;
    std::thread::sleep(span);
    let idle_user_hour = Writes::of(&scene)?.since(before, idle_second, length, count * length / 3600.0);

    let mut rekeys = Vec::new();
    for how in [None, Some("--ike")] {
        let list = sessions(daemon)?;
        let (before, kinds) = (Writes::of(&scene)?, Kinds::of(&scene)?);
        let begin = std::time::Instant::now();
        for session in &list {
            let mut command = vec!["rekey", session["id"].as_str().context("an id")?];
            command.extend(how);
            daemon.vpnctl(&command)?;
        }
        std::thread::sleep(Duration::from_secs(3));
        let writes = Writes::of(&scene)?.since(before, idle_second, begin.elapsed().as_secs_f64(), count);
        rekeys.push((writes, Kinds::of(&scene)?.since(&kinds, count)));
    }
    // While its users are there to answer: a session whose peer is gone ends by its retransmissions alone.
    daemon.vpnctl(&["disconnect", "--all", "--tenant", "acme"])?;
    expect(0)?;
    drop(idle);

    let busy = hold(&scene.world, &scene.folder, users, "busy", true)?;
    expect(users).with_context(|| busy.output())?;
    std::thread::sleep(Duration::from_secs(5));
    let before = Writes::of(&scene)?;
    std::thread::sleep(span);
    let busy_user_second = Writes::of(&scene)?.since(before, idle_second, length, count * length);
    let mut rekeys = rekeys.into_iter();
    let (child_rekey, child_rekey_kinds) = rekeys.next().unwrap_or_default();
    let (ike_rekey, ike_rekey_kinds) = rekeys.next().unwrap_or_default();
    Ok(Costs {
        users,
        idle_second,
        login,
        child_rekey,
        child_rekey_kinds,
        ike_rekey,
        ike_rekey_kinds,
        idle_user_hour,
        busy_user_second,
        rates: Vec::new(),
    })
}
