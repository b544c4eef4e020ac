//! The members of etcd: started, stopped, killed, filled up, wiped and restored, each by its process id.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;

use super::world::{World, member_address};
use crate::Result;
use crate::net::{Folder, Host};
use crate::process::{Process, run, wait_for};

/// A heartbeat of 50 ms and an election after 500 ms: with the defaults (100 ms, 1 s) an election alone takes up to 2 s,
/// and the death of a node together with the leader could not be over within 3 s.
pub const TIMING: [&str; 4] = ["--heartbeat-interval", "50", "--election-timeout", "500"];

/// A cluster of etcd.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    extra: Vec<String>,
    /// Counts restores: a restored cluster must not talk to what is left of the one before.
    token: u32,
}

#[derive(Debug)]
struct Member {
    process: Option<Process>,
    namespace: String,
    data: PathBuf,
    log: PathBuf,
}

impl Etcd {
    /// Starts as many members as the world has hosts for, each with more arguments, and waits for a leader.
    pub fn start(world: &World, folder: &Folder, extra: &[&str]) -> Result<Self> {
        let mut members = Vec::new();
        for index in 0..world.plan.members {
            let host = world.member_host(index).context("a host for the member")?;
            members.push(Member {
                process: None,
                namespace: host.name().to_owned(),
                data: folder.join(&format!("etcd{index}")),
                log: folder.join(&format!("etcd{index}.log")),
            });
        }
        let mut etcd = Self {
            members,
            extra: extra.iter().map(|e| (*e).to_owned()).collect(),
            token: 1,
        };
        for index in 0..etcd.members.len() {
            etcd.launch(index, "new")?;
        }
        etcd.expect_leader(Duration::from_secs(20))?;
        Ok(etcd)
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The clients' endpoints.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(endpoint).collect()
    }

    fn initial(&self) -> String {
        let one = |index: usize| format!("e{index}=http://{}:2380", member_address(index));
        (0..self.members.len()).map(one).collect::<Vec<_>>().join(",")
    }

    fn launch(&mut self, index: usize, state: &str) -> Result<()> {
        let initial = self.initial();
        let token = format!("rig-{}", self.token);
        let extra = self.extra.clone();
        let member = self.members.get_mut(index).context("no such member")?;
        let address = member_address(index);
        let peer = format!("http://{address}:2380");
        let mut command: Vec<String> = ["ip", "netns", "exec", &member.namespace, "etcd"]
            .map(str::to_owned)
            .to_vec();
        let options = [
            ("--name", format!("e{index}")),
            ("--data-dir", member.data.display().to_string()),
            ("--listen-client-urls", endpoint(index)),
            ("--advertise-client-urls", endpoint(index)),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", initial),
            ("--initial-cluster-token", token),
            ("--initial-cluster-state", state.to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-outputs", "stderr".to_owned()),
        ];
        command.extend(
            options
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value]),
        );
        command.extend(TIMING.map(str::to_owned));
        command.extend(extra);
        member.process = Some(Process::start("etcd", &command, &[], &member.log)?);
        Ok(())
    }

    /// Starts a member again over its data.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let member = self.members.get(index).context("no such member")?;
        anyhow::ensure!(member.process.is_none(), "member {index} runs");
        self.launch(index, "existing")
    }

    /// Starts every member that does not run, and lets go on what was stopped.
    pub fn heal(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            self.signal(index, Signal::CONT);
            if self.members.get(index).is_some_and(|m| m.process.is_none()) {
                self.restart(index)?;
            }
        }
        self.expect_leader(Duration::from_secs(20)).map(drop)
    }

    /// kill -9.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members.get_mut(index).and_then(|m| m.process.take()) {
            process.kill();
        }
    }

    /// kill -9 of all at once.
    pub fn kill_all(&mut self) {
        for index in 0..self.members.len() {
            self.signal(index, Signal::KILL);
        }
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }

    /// Sends a member a signal.
    pub fn signal(&self, index: usize, signal: Signal) {
        if let Some(process) = self.members.get(index).and_then(|m| m.process.as_ref()) {
            process.signal(signal);
        }
    }

    /// The processes of the members that run.
    pub fn processes(&self) -> impl Iterator<Item = u32> {
        self.members
            .iter()
            .filter_map(|member| member.process.as_ref().map(Process::id))
    }

    /// Time of the processor that the members that run have taken.
    pub fn processor_time(&self) -> Result<Duration> {
        self.members
            .iter()
            .filter_map(|member| member.process.as_ref())
            .map(Process::processor_time)
            .sum()
    }

    /// Runs `etcdctl` against one member, from that member's namespace.
    pub fn control_of(&self, index: usize, arguments: &[&str]) -> Result<String> {
        let member = self.members.get(index).context("no such member")?;
        let endpoint = endpoint(index);
        let mut command = vec![
            "ip",
            "netns",
            "exec",
            &member.namespace,
            "env",
            "ETCDCTL_API=3",
            "etcdctl",
        ];
        command.extend([
            "--endpoints",
            &endpoint,
            "--command-timeout",
            "2s",
            "--dial-timeout",
            "1s",
        ]);
        command.extend(arguments);
        run(&command)
    }

    /// Runs `etcdctl` against the first member that answers.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut last = anyhow::anyhow!("no member runs");
        for index in 0..self.members.len() {
            if self.members.get(index).is_some_and(|m| m.process.is_some()) {
                match self.control_of(index, arguments) {
                    Ok(text) => return Ok(text),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize> {
        for index in 0..self.members.len() {
            if self.members.get(index).is_none_or(|m| m.process.is_none()) {
                continue;
            }
            let Ok(text) = self.control_of(index, &["endpoint", "status", "-w", "json"]) else {
                continue;
            };
            let value: serde_json::Value = serde_json::from_str(&text)?;
            let status = &value[0]["Status"];
            if status["leader"]
                .as_u64()
                .is_some_and(|l| l != 0 && Some(l) == status["header"]["member_id"].as_u64())
            {
                return Ok(index);
            }
        }
        anyhow::bail!("no member leads")
    }

    /// Makes a member the leader.
    pub fn move_leader(&self, to: usize) -> Result<()> {
        let leader = self.leader()?;
        let text = self.control_of(to, &["endpoint", "status", "-w", "json"])?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let id = value[0]["Status"]["header"]["member_id"]
            .as_u64()
            .context("a member's id")?;
        self.control_of(leader, &["move-leader", &format!("{id:x}")])
            .map(drop)
    }

    /// Throws the history away, gives the space back and disarms the alarm.
    pub fn make_space(&self) -> Result<()> {
        let revision = self.revision()?.to_string();
        // Without space a deletion is refused as well: history goes first.
        let _ = self.control(&["compaction", &revision]);
        for index in 0..self.members.len() {
            self.control_of(index, &["defrag"])?;
        }
        self.control(&["alarm", "disarm"])?;
        self.control(&["del", "--prefix", "rig/fill"])?;
        Ok(())
    }

    /// Waits for a leader that takes a write.
    pub fn expect_leader(&self, limit: Duration) -> Result<usize> {
        let mut leader = 0;
        wait_for("a leader of etcd", limit, || {
            leader = self.leader()?;
            self.control_of(leader, &["put", "rig/ready", "yes"])
                .map(|_| true)
        })
        .with_context(|| self.log())?;
        Ok(leader)
    }

    /// The store's revision.
    pub fn revision(&self) -> Result<u64> {
        let text = self.control(&["get", "rig/none", "-w", "json"])?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value["header"]["revision"].as_u64().context("no revision")
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let text = self.control(&["get", key, "--print-value-only"])?;
        let text = text.trim_end_matches('\n');
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// Names of the keys with a prefix.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.control(&["get", prefix, "--prefix", "--keys-only"])?;
        Ok(text
            .lines()
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Saves a snapshot.
    pub fn save(&self, file: &std::path::Path) -> Result<()> {
        let leader = self.leader()?;
        let _ = std::fs::remove_file(file);
        self.control_of(leader, &["snapshot", "save", &file.display().to_string()])
            .map(drop)
    }

    /// Ends all members and starts a cluster that has only what a snapshot has; without one it is empty.
    pub fn restore(&mut self, snapshot: Option<&std::path::Path>) -> Result<()> {
        self.kill_all();
        self.token += 1;
        let (initial, token) = (self.initial(), format!("rig-{}", self.token));
        for (index, member) in self.members.iter().enumerate() {
            std::fs::remove_dir_all(&member.data)?;
            if let Some(snapshot) = snapshot {
                let (file, data) = (snapshot.display().to_string(), member.data.display().to_string());
                let (name, peer) = (
                    format!("e{index}"),
                    format!("http://{}:2380", member_address(index)),
                );
                run(&[
                    "env",
                    "ETCDCTL_API=3",
                    "etcdctl",
                    "snapshot",
                    "restore",
                    &file,
                    "--data-dir",
                    &data,
                    "--name",
                    &name,
                    "--initial-cluster",
                    &initial,
                    "--initial-cluster-token",
                    &token,
                    "--initial-advertise-peer-urls",
                    &peer,
                ])?;
            }
        }
        for index in 0..self.members.len() {
            self.launch(index, "new")?;
        }
        self.expect_leader(Duration::from_secs(20)).map(drop)
    }

    /// Starts writing all changes, with their values, to a file: what somebody who watches the store gets to see.
    pub fn watch(&self, host: &Host, log: &std::path::Path) -> Result<Process> {
        let endpoints = self.endpoints().join(",");
        host.start(
            "etcdctl watch",
            &[
                "env",
                "ETCDCTL_API=3",
                "etcdctl",
                "--endpoints",
                &endpoints,
                "watch",
                "--prefix",
                "vpn",
            ],
            &[],
            log,
        )
    }

    /// A counter from the metrics of all members, summed: `etcd_mvcc_put_total` and the like.
    pub fn metric(&self, index: usize, name: &str) -> Result<f64> {
        let member = self.members.get(index).context("no such member")?;
        let script = format!(
            "import urllib.request\nprint(urllib.request.urlopen('{}/metrics', timeout=3).read().decode())",
            endpoint(index)
        );
        let text = run(&[
            "ip",
            "netns",
            "exec",
            &member.namespace,
            "/usr/bin/python3",
            "-c",
            &script,
        ])?;
        let line = text
            .lines()
            .find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
            .with_context(|| format!("no metric {name}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// Where the members keep their data.
    pub fn data(&self) -> Vec<PathBuf> {
        self.members.iter().map(|m| m.data.clone()).collect()
    }

    /// The ends of the members' logs.
    pub fn log(&self) -> String {
        let end = |member: &Member| {
            let text = String::from_utf8_lossy(&std::fs::read(&member.log).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        self.members.iter().map(end).collect::<Vec<_>>().join("\n---\n")
    }
}

fn endpoint(index: usize) -> String {
    format!("http://{}:2379", member_address(index))
}
