//! WireGuard in user space: boringtun and wireguard-go.
//!
//! Both are steered through a socket in /run/wireguard; each process gets a mount of its own there, so that two of them
//! may call their device alike, and nothing is left behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::{Process, run, wait_for};

/// What the device is called at each end.
pub(super) const DEVICE: &str = "wg0";
const PORT: u16 = 51_820;
/// As the other tunnels have it.
const MTU: &str = "1400";

/// One end.
pub(super) struct WireGuard {
    process: Process,
    folder: Folder,
    key: String,
    public: String,
}

/// The program that `ops/bench` has installed into the rig's own folder.
pub(super) fn boringtun() -> Result<PathBuf> {
    let folder = std::env::var_os("RIG_TOOLS").context("RIG_TOOLS names no folder; ops/bench does")?;
    let path = PathBuf::from(folder).join("boringtun-cli");
    anyhow::ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}

/// The versions of both, for the report.
pub(super) fn versions() -> Vec<String> {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let boringtun = boringtun().and_then(|path| run(&[&path.display().to_string(), "--version"]));
    [boringtun, run(&["wireguard-go", "--version"])]
        .into_iter()
        .flatten()
        .map(first)
        .collect()
}

impl WireGuard {
    /// Starts one without peers.
    pub(super) fn start(host: &Host, boring: bool, log: &Path) -> Result<Self> {
        let folder = Folder::new("wg")?;
        let program = match boring {
            true => format!("{} -f --disable-drop-privileges", boringtun()?.display()),
            // It would rather have a kernel with WireGuard, and says so.
            false => "env WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 wireguard-go -f".to_owned(),
        };
        let script = format!(
            "mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec {program} {DEVICE}"
        );
        // `ip netns exec` has given it a mount namespace of its own.
        let process = host.start("wireguard", &["sh", "-c", &script], &[], log)?;
        let key = run(&["wg", "genkey"])?.trim().to_owned();
        folder.write("key", &key)?;
        let command = format!("wg pubkey <{}", folder.join("key").display());
        let public = run(&["sh", "-c", &command])?.trim().to_owned();
        let tunnel = Self {
            process,
            folder,
            key,
            public,
        };
        wait_for("the WireGuard device", Duration::from_secs(10), || {
            tunnel.wg(&["show", DEVICE]).map(|_| true)
        })
        .with_context(|| tunnel.process.output())?;
        Ok(tunnel)
    }

    /// The process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Runs `wg` where its socket is.
    fn wg(&self, arguments: &[&str]) -> Result<String> {
        let id = self.id().to_string();
        let mut command = vec!["nsenter", "-t", &id, "-m", "-n", "wg"];
        command.extend(arguments);
        run(&command)
    }

    fn configure(&self, text: &str, verb: &str) -> Result<()> {
        let file = self.folder.write("wg.conf", text)?;
        self.wg(&[verb, DEVICE, &file.display().to_string()]).map(drop)
    }

    fn raise(host: &Host, address: &str) -> Result<()> {
        host.address(DEVICE, address)?;
        host.run(&["ip", "link", "set", DEVICE, "mtu", MTU, "up"])
            .map(drop)
    }

    /// Makes it the gateway.
    pub(super) fn listen(&self, host: &Host) -> Result<()> {
        let interface = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", self.key);
        self.configure(&interface, "setconf")?;
        Self::raise(host, "10.30.0.1/24")
    }

    /// Makes it a client of `gateway`, and known there.
    pub(super) fn join(&self, host: &Host, gateway: &Self, number: usize) -> Result<()> {
        let address = format!("10.30.0.{}/32", number + 2);
        gateway.configure(
            &format!("[Peer]\nPublicKey = {}\nAllowedIPs = {address}\n", self.public),
            "addconf",
        )?;
        self.configure(
            &format!(
                "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.20.0.0/24\nEndpoint = \
                 172.31.{number}.1:{PORT}\n",
                self.key, gateway.public
            ),
            "setconf",
        )?;
        Self::raise(host, &address)?;
        host.run(&["ip", "route", "replace", "10.20.0.0/24", "dev", DEVICE])
            .map(drop)
    }
}
