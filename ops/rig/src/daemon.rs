//! The concentrator under test, and `vpnctl` to steer it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::{Process, run, wait_for};

/// How to configure the concentrator; the rest is what the product takes by default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Addresses to listen on.
    pub listen: Vec<String>,
    /// Number of ESP workers; 0 leaves it to the daemon.
    pub workers: u8,
    /// Whether key material goes to a folder for tshark.
    pub key_log: bool,
    /// Whether panics may be caused through the API.
    pub fault_injection: bool,
    /// OTLP receiver, `http://address:port`.
    pub otlp: Option<String>,
    /// More TOML, appended as it is.
    pub extra: String,
    /// Words in front of the command; none: as it was built.
    pub wrapper: Vec<String>,
}

/// A concentrator with a state folder of its own; it may be ended and started again over the same state.
#[derive(Debug)]
pub struct Daemon {
    folder: Folder,
    namespace: String,
    process: Option<Process>,
    /// Words in front of the command (`prlimit …`).
    wrapper: Vec<String>,
    /// Another program than the one that was built.
    program: Option<PathBuf>,
}

/// Where the programs under test are: beside the rig's own program, or where `RIG_BIN` says.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("RIG_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().context("the program has no folder")?;
            if folder.ends_with("deps") {
                folder.parent().context("no folder")?.to_owned()
            } else {
                folder.to_owned()
            }
        }
    };
    let path = folder.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: build it first (cargo build --release -p {name})",
        path.display()
    );
    Ok(path)
}

impl Daemon {
    /// Starts it in `host` and waits until it serves.
    pub fn start(host: &Host, settings: &Settings) -> Result<Self> {
        let folder = Folder::new("daemon")?;
        let listen: Vec<_> = settings.listen.iter().map(|a| format!("\"{a}\"")).collect();
        let mut text = format!(
            "node_name = \"test\"\nstate_directory = \"{state}\"\n[listen]\naddresses = [{listen}]\n[api]\nsocket = \"{socket}\"\n\
             [seal]\nkey_file = \"{key}\"\n[log]\nfilter = \"info,concentrator=debug\"\nredact = false\n",
            state = folder.join("state").display(),
            listen = listen.join(", "),
            socket = folder.join("api.sock").display(),
            key = folder.join("seal.key").display(),
        );
        if settings.workers > 0 {
            text += &format!("[threads]\nworkers = {}\n", settings.workers);
        }
        if settings.key_log || settings.fault_injection {
            text += "[debug]\n";
            if settings.key_log {
                text += &format!("key_log = \"{}\"\n", folder.join("keys").display());
            }
            text += &format!("fault_injection = {}\n", settings.fault_injection);
        }
        if let Some(endpoint) = &settings.otlp {
            text += &format!(
                "[telemetry]\notlp_endpoint = \"{endpoint}\"\nprometheus_listen = \"127.0.0.1:9464\"\n"
            );
        } else {
            text += "[telemetry]\nprometheus_listen = \"127.0.0.1:9464\"\n";
        }
        text += &settings.extra;
        let mut daemon = Self::prepare(host, folder, &text)?;
        daemon.wrapper.clone_from(&settings.wrapper);
        daemon.launch()?;
        Ok(daemon)
    }

    /// Puts a configuration into `folder` and starts nothing yet. The API's socket must be `api.sock` in that folder.
    pub fn prepare(host: &Host, folder: Folder, configuration: &str) -> Result<Self> {
        folder.write("concentrator.toml", configuration)?;
        Ok(Self {
            folder,
            namespace: host.name().to_owned(),
            process: None,
            wrapper: Vec::new(),
            program: None,
        })
    }

    /// Time of the processor that it has taken since it was started.
    pub fn processor_time(&self) -> Result<Duration> {
        self.process.as_ref().context("it does not run")?.processor_time()
    }

    /// Puts words in front of the command from the next start on, such as `prlimit --nofile=64`; none: as it was built.
    pub fn wrap(&mut self, words: &[&str]) {
        self.wrapper = words.iter().map(|w| (*w).to_owned()).collect();
    }

    /// Takes another program from the next start on: that of an upgrade.
    pub fn replace_program(&mut self, program: PathBuf) {
        self.program = Some(program);
    }

    /// Starts it (again), over the state that is there.
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        self.expect_served(Duration::from_secs(20))
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) -> Result<()> {
        let program = match &self.program {
            Some(program) => program.display().to_string(),
            None => program("concentrator")?.display().to_string(),
        };
        let configuration = self.folder.join("concentrator.toml").display().to_string();
        let log = self.folder.join("concentrator.log");
        let mut command: Vec<String> = ["ip", "netns", "exec", &self.namespace]
            .map(str::to_owned)
            .to_vec();
        command.extend(self.wrapper.iter().cloned());
        command.extend([program, "--config".to_owned(), configuration]);
        self.process = Some(Process::start("concentrator", &command, &[], &log)?);
        Ok(())
    }

    /// Waits until its API answers.
    pub fn expect_served(&mut self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let socket = self.folder.join("api.sock");
        let process = self.process.as_mut().context("it does not run")?;
        let served = wait_for("the concentrator's API", limit, || {
            anyhow::ensure!(process.is_running(), "it has ended");
            Ok(socket.exists() && std::os::unix::net::UnixStream::connect(&socket).is_ok())
        });
        served.with_context(|| process.output())?;
        // A node of a cluster opens its API before etcd answers.
        let rest = (begun + limit).saturating_duration_since(Instant::now());
        wait_for("the node's status", rest.max(Duration::from_secs(10)), || {
            self.vpnctl(&["status"]).map(|_| true)
        })
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.signal(rustix::process::Signal::TERM);
        let status = process.wait(Duration::from_secs(30))?;
        anyhow::ensure!(status.success(), "it ended with {status}:\n{}", process.output());
        Ok(())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the key tables for tshark are.
    pub fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("concentrator.log")).unwrap_or_default())
            .into_owned()
    }

    /// Runs `vpnctl` and returns what it printed.
    pub fn vpnctl(&self, arguments: &[&str]) -> Result<String> {
        let program = program("vpnctl")?.display().to_string();
        let endpoint = format!("unix:{}", self.folder.join("api.sock").display());
        let mut command = vec![program.as_str(), "--endpoint", &endpoint];
        command.extend(arguments);
        run(&command)
    }

    /// Runs `vpnctl --output json` and parses the answer.
    pub fn query(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        let text = self.vpnctl(&all)?;
        serde_json::from_str(&text).with_context(|| format!("vpnctl printed no JSON:\n{text}"))
    }

    /// Applies a set of resources, written as YAML into this daemon's folder.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<String> {
        let path = self.folder.write(name, yaml)?;
        self.vpnctl(&["apply", "-f", &path.display().to_string()])
    }

    /// The octets of memory that are its own (resident set).
    pub fn memory(&self) -> Result<u64> {
        let id = self.id().context("it does not run")?;
        let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = text
            .lines()
            .find(|l| l.starts_with("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }
}
