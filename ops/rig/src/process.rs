//! Child processes: started with their output in a file, ended by their id, never outliving the rig.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::Result;
use crate::cleanup::{self, Item};

/// A running program of the rig.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output going to `log`. The kernel ends it should the thread that started it die.
    pub fn start(name: &str, command: &[String], environment: &[(&str, String)], log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        let mut all = Command::new("setpriv");
        all.args(["--pdeathsig", "KILL", "--"]).args(command);
        all.envs(environment.iter().map(|(k, v)| (*k, v.as_str())));
        all.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = all.spawn().with_context(|| format!("start {name}"))?;
        cleanup::register(Item::Process(child.id()));
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Time of the processor that it has taken, with all its threads.
    pub fn processor_time(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // Behind the name, which may have blanks: state is the first, user and system time the 12th and 13th.
        let (_, fields) = text.rsplit_once(')').context("a process's stat")?;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<std::result::Result<u64, _>>()?;
        Ok(Duration::from_secs_f64(
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ))
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        cleanup::kill(self.child.id(), signal);
    }

    /// Waits until it ends.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                cleanup::forget(&Item::Process(self.child.id()));
                return Ok(status);
            }
            if Instant::now() > end {
                bail!(
                    "{} did not end within {limit:?}; it printed:\n{}",
                    self.name,
                    self.output()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end, and insists after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        self.signal(rustix::process::Signal::TERM);
        if self.wait(grace).is_err() {
            self.signal(rustix::process::Signal::KILL);
            let _ = self.wait(Duration::from_secs(5));
        }
    }

    /// Ends it without warning, as a crash would.
    pub fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.wait(Duration::from_secs(5));
    }

    /// Waits until its output holds `text`.
    pub fn expect_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let name = self.name.clone();
        wait_for(&format!("{name} to print {text:?}"), limit, || {
            Ok(self.output().contains(text))
        })
        .with_context(|| format!("{name} printed:\n{}", self.output()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
        cleanup::forget(&Item::Process(self.child.id()));
    }
}

/// Runs a command to its end and returns what it printed; a failure carries all of it.
pub fn run(command: &[&str]) -> Result<String> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("an empty command")
    };
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!(
            "{} failed ({}):\n{text}{}",
            command.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(text)
}

/// Asks again and again until the answer is yes.
pub fn wait_for(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let last = ask();
        match last {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < end => {}
            Err(_) if Instant::now() < end => {}
            Ok(false) => bail!("waited {limit:?} in vain for {what}"),
            Err(error) => return Err(error.context(format!("waited {limit:?} in vain for {what}"))),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}
