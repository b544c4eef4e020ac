//! Network namespaces and the links between them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Result;
use crate::cleanup::{self, Item};
use crate::process::{Process, run};

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A folder of this rig's own, removed with it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a new folder, open to nobody else.
    pub fn new(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{}{name}{serial}", cleanup::prefix()));
        cleanup::register(Item::Folder(path.clone()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file inside it and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("RIG_KEEP").is_some() {
            cleanup::forget(&Item::Folder(self.0.clone()));
        } else {
            cleanup::undo(&Item::Folder(self.0.clone()));
        }
    }
}

/// A network namespace: a host of its own.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    /// Makes a namespace; `label` is the readable part of its name.
    pub fn new(label: &str) -> Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{serial}-{label}", cleanup::prefix());
        cleanup::register(Item::Namespace(name.clone()));
        run(&["ip", "netns", "add", &name])?;
        let host = Self { name };
        host.run(&["ip", "link", "set", "lo", "up"])?;
        // Duplicate address detection would hold back IPv6 for a second and a half on links that have two ends.
        host.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        host.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        host.sysctl("net.ipv6.conf.default.router_solicitations", "0")?;
        Ok(host)
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The words to put in front of a command so that it runs here.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Runs a command here to its end.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let mut all = vec!["ip", "netns", "exec", self.name.as_str()];
        all.extend(command);
        run(&all)
    }

    /// Starts a program here.
    pub fn start(
        &self,
        name: &str,
        command: &[&str],
        environment: &[(&str, String)],
        log: &std::path::Path,
    ) -> Result<Process> {
        let mut all = self.prefix();
        all.extend(command.iter().map(|&s| s.to_owned()));
        Process::start(name, &all, environment, log)
    }

    /// Sets a kernel parameter of this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(&["sh", "-c", &format!("echo {value} > {path}")])
            .map(drop)
    }

    /// Lets this host forward packets.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Gives an interface an address (`192.0.2.1/24`).
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        if address.contains(':') {
            self.run(&["ip", "addr", "add", address, "dev", device, "nodad"])
                .map(drop)
        } else {
            self.run(&["ip", "addr", "add", address, "dev", device]).map(drop)
        }
    }

    /// Adds a route through a next hop.
    pub fn route(&self, to: &str, via: &str) -> Result<()> {
        let family = if via.contains(':') { "-6" } else { "-4" };
        self.run(&["ip", family, "route", "replace", to, "via", via])
            .map(drop)
    }

    /// Joins two hosts by a cable: interface `device` here, `other_device` there, both up.
    pub fn link(&self, device: &str, other: &Host, other_device: &str) -> Result<()> {
        run(&[
            "ip",
            "link",
            "add",
            device,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            other_device,
            "netns",
            &other.name,
        ])?;
        self.run(&["ip", "link", "set", device, "up"])?;
        other.run(&["ip", "link", "set", other_device, "up"]).map(drop)
    }

    /// Sends `count` echo requests, `interval` seconds apart; returns how many were answered.
    pub fn ping(&self, to: &str, count: u32, interval: &str) -> Result<u32> {
        let family = if to.contains(':') { "-6" } else { "-4" };
        let count_text = count.to_string();
        let out = std::process::Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.name,
                "ping",
                family,
                "-n",
                "-c",
                &count_text,
                "-i",
                interval,
                "-W",
                "2",
                to,
            ])
            .output()?;
        Ok(received(&String::from_utf8_lossy(&out.stdout)).unwrap_or(0))
    }
}

/// The number of answers in what `ping` printed.
pub fn received(text: &str) -> Option<u32> {
    let line = text.lines().find(|l| l.contains(" received"))?;
    line.split(',').nth(1)?.split_whitespace().next()?.parse().ok()
}

impl Drop for Host {
    fn drop(&mut self) {
        cleanup::undo(&Item::Namespace(self.name.clone()));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answers_of_ping_are_counted() {
        let text = "PING\n\n--- 10.0.0.1 ping statistics ---\n5 packets transmitted, 4 received, 20% packet loss, time 4ms";
        assert_eq!(super::received(text), Some(4));
        assert_eq!(super::received("nothing"), None);
    }
}
