//! The load generator under the rig's control: simulated users, and stamped traffic of real clients.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::clients::secret;
use super::world::{LOAD, SERVER, World, service_address};
use crate::Result;
use crate::daemon::program;
use crate::net::{Folder, Host};
use crate::process::{Process, wait_for};

/// Port of the echo service inside.
const ECHO: u16 = 7;

/// How many users do what.
#[derive(Debug, Clone)]
pub struct Users {
    /// Simulated users, spread evenly over the slots.
    pub users: u32,
    /// How many of them pass traffic.
    pub sample: u32,
    /// Packets a second and user, each way.
    pub pps: u32,
    /// Logins a second at the start.
    pub rate: u32,
    /// Their tenant.
    pub tenant: &'static str,
    /// More options of `loadtest steady`.
    pub extra: Vec<String>,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            users: 60,
            sample: 60,
            pps: 20,
            rate: 100,
            tenant: "acme",
            extra: Vec::new(),
        }
    }
}

/// A running source of stamped traffic.
#[derive(Debug)]
pub struct Source {
    process: Process,
    socket: PathBuf,
    events: PathBuf,
    /// What it is called in reports.
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Users { slots: u8 },
    Client { slot: u8 },
}

/// The longest silence of one flow in an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Its name.
    pub flow: String,
    /// The slot that it uses.
    pub slot: u8,
    /// Milliseconds; 0 for none.
    pub millis: f64,
    /// Packets without an answer.
    pub lost: u64,
    /// Whether it goes on still.
    pub open: bool,
}

/// What a source tells of an interval.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    /// Flows with a silence or a loss.
    pub silences: Vec<Silence>,
    /// All flows.
    pub flows: u64,
    /// Logins that were none of the first ones.
    pub new_logins: u64,
    /// Milliseconds by which the generator itself was late at worst.
    pub own_stall_ms: f64,
}

/// Starts the echo server inside.
pub fn echo(world: &World, folder: &Folder) -> Result<Process> {
    let program = program("loadtest")?.display().to_string();
    let listen = format!("{SERVER}:{ECHO}");
    let log = folder.join("echo.log");
    world
        .inside
        .start("echo", &[&program, "echo", "--listen", &listen], &[], &log)
}

impl Source {
    /// Starts simulated users and waits until all have logged in.
    pub fn users(world: &World, folder: &Folder, name: &str, users: &Users) -> Result<Self> {
        let source = Self::begin_users(world, folder, name, users)?;
        let limit = Duration::from_secs(30 + u64::from(users.users / users.rate.max(1)) * 2);
        source.expect_up(limit)?;
        Ok(source)
    }

    /// Starts simulated users and waits for nothing.
    pub fn begin_users(world: &World, folder: &Folder, name: &str, users: &Users) -> Result<Self> {
        let slots = world.plan.slots;
        let gateways: Vec<_> = (0..slots).map(service_address).collect();
        let mut command = vec![
            "steady".to_owned(),
            "--gateway".to_owned(),
            gateways.join(","),
            "--local".to_owned(),
            LOAD.join(","),
        ];
        for (option, value) in [
            ("--users", users.users.to_string()),
            ("--sample", users.sample.to_string()),
            ("--pps", users.pps.to_string()),
            ("--rate", users.rate.to_string()),
            ("--domain", "load.example".to_owned()),
            ("--id", format!("{name}-{{user}}@{{domain}}")),
            ("--remote-id", format!("{}.vpn.example", users.tenant)),
            ("--psk", secret(users.tenant)),
            ("--ike", "aes256gcm16-prfsha256-curve25519".to_owned()),
            ("--remote-ts", "10.97.0.0/24".to_owned()),
            ("--target", SERVER.to_owned()),
            ("--echo-port", ECHO.to_string()),
        ] {
            command.extend([option.to_owned(), value]);
        }
        command.extend(users.extra.iter().cloned());
        Self::start(&world.load, folder, name, command, Kind::Users { slots })
    }

    /// Starts stamped traffic through the tunnel of a real client.
    pub fn client(host: &Host, folder: &Folder, name: &str, slot: u8) -> Result<Self> {
        let command = ["stamp", "--to", &format!("{SERVER}:{ECHO}"), "--rate", "20"].map(str::to_owned);
        let source = Self::start(host, folder, name, command.to_vec(), Kind::Client { slot })?;
        source.expect_up(Duration::from_secs(15))?;
        Ok(source)
    }

    fn start(host: &Host, folder: &Folder, name: &str, mut command: Vec<String>, kind: Kind) -> Result<Self> {
        let socket = folder.join(&format!("{name}.ctl"));
        let events = folder.join(&format!("{name}.events.jsonl"));
        for (option, file) in [
            ("--control", socket.clone()),
            ("--events", events.clone()),
            ("--json", folder.join(&format!("{name}.json"))),
        ] {
            command.extend([option.to_owned(), file.display().to_string()]);
        }
        command.extend(["--name".to_owned(), name.to_owned()]);
        command.insert(0, program("loadtest")?.display().to_string());
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let log = folder.join(&format!("{name}.log"));
        let process = host.start("loadtest", &words, &[], &log)?;
        Ok(Self {
            process,
            socket,
            events,
            name: name.to_owned(),
            kind,
        })
    }

    /// Sends one order and returns the answer.
    pub fn order(&self, order: &str) -> Result<Value> {
        let mut stream =
            UnixStream::connect(&self.socket).with_context(|| self.socket.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        writeln!(stream, "{order}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let value: Value = serde_json::from_str(&line).with_context(|| format!("{order}: {line:?}"))?;
        if value["ok"] != true {
            bail!("{order}: {}", value["error"]);
        }
        Ok(value)
    }

    /// Waits until all its users are up and all its flows are answered.
    pub fn expect_up(&self, limit: Duration) -> Result<()> {
        wait_for(&format!("all flows of {}", self.name), limit, || {
            let status = self.order("status")?;
            let (users, up) = (number(&status, "users"), number(&status, "up"));
            let (flows, receiving) = (number(&status, "flows"), number(&status, "receiving"));
            anyhow::ensure!(up >= users && receiving >= flows && flows > 0.0, "{status}");
            Ok(true)
        })
        .with_context(|| tail(&self.process.output()))
    }

    /// Opens an interval.
    pub fn mark(&self, name: &str) -> Result<()> {
        self.order(&format!("mark {name}")).map(drop)
    }

    /// What happened from a mark until now.
    pub fn since(&self, name: &str) -> Result<Interval> {
        let answer = self.order(&format!("since {name}"))?;
        let mark = &answer["mark"];
        let mut interval = Interval {
            silences: Vec::new(),
            flows: whole(mark, "flows"),
            new_logins: whole(mark, "new_logins"),
            own_stall_ms: number(mark, "own_stall_ms"),
        };
        for user in mark["users"].as_array().into_iter().flatten() {
            let slot = match self.kind {
                Kind::Users { slots } => u8::try_from(whole(user, "user") % u64::from(slots)).unwrap_or(0),
                Kind::Client { slot } => slot,
            };
            let label = match self.kind {
                Kind::Users { .. } => user["flow"].as_str().unwrap_or_default().to_owned(),
                Kind::Client { .. } => self.name.clone(),
            };
            interval.silences.push(Silence {
                flow: label,
                slot,
                millis: number(user, "silence_ms"),
                lost: whole(user, "lost"),
                open: user["open"].as_bool().unwrap_or(false),
            });
        }
        Ok(interval)
    }

    /// Its flows by slot: users are spread evenly, the first slots having one more.
    pub fn flows_by_slot(&self, flows: u64) -> Vec<(u8, u64)> {
        match self.kind {
            Kind::Client { slot } => vec![(slot, flows)],
            Kind::Users { slots } => {
                let count = u64::from(slots.max(1));
                (0..slots)
                    .map(|slot| (slot, flows / count + u64::from(u64::from(slot) < flows % count)))
                    .collect()
            }
        }
    }

    /// The events of users who had to log in anew since a time of the clock, each user's last ones in order: why they did.
    pub fn reasons(&self, since_unix_ms: f64) -> Vec<String> {
        let text = std::fs::read_to_string(&self.events).unwrap_or_default();
        let events: Vec<Value> = text
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .filter(|e: &Value| number(e, "unix_ms") >= since_unix_ms)
            .collect();
        let anew = events.iter().filter(|e| e["event"] == "new_login");
        anew.map(|login| {
            let of_user = events.iter().filter(|e| e["user"] == login["user"]);
            let told: Vec<String> = of_user.take(12).map(ToString::to_string).collect();
            format!(
                "{} user {}: {}\n      {}",
                self.name,
                login["user"],
                login["reason"],
                told.join("\n      ")
            )
        })
        .collect()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What it printed.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// A number of a JSON object; 0 where it is not there.
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(0.0)
}

fn whole(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
