//! strongSwan as a client (or as a rival gateway): one charon with user-space ESP for each namespace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::{Process, wait_for};

/// The plugins, in the order of their preference; kernel-libipsec before kernel-netlink makes ESP a matter of user space.
const PLUGINS: &str = "random nonce openssl aesni aes sha1 sha2 hmac kdf gcm chapoly ctr ccm curve25519 gmp mgf1 pem pkcs1 pkcs8 \
    pkcs12 pubkey x509 revocation constraints drbg kernel-libipsec kernel-netlink socket-default vici updown \
    eap-identity eap-mschapv2";

/// A running strongSwan.
#[derive(Debug)]
pub struct Swan {
    process: Process,
    folder: Folder,
    namespace: String,
}

impl Swan {
    /// Starts charon in `host`; `extra` goes into the `charon-systemd` section of its configuration.
    pub fn start(host: &Host, extra: &str) -> Result<Self> {
        let folder = Folder::new("swan")?;
        let socket = folder.join("vici");
        let configuration = format!(
            "charon-systemd {{\n  load = {PLUGINS}\n  install_routes = yes\n  retransmit_tries = 5\n  retransmit_timeout = 2.0\n  \
             {extra}\n  journal {{\n    default = -1\n  }}\n  filelog {{\n    log {{\n      path = {log}\n      \
             flush_line = yes\n      default = 1\n      ike = 2\n      cfg = 2\n    }}\n  }}\n  plugins {{\n    vici {{\n      socket = unix://{socket}\n    }}\n  }}\n}}\n",
            log = folder.join("charon.log").display(),
            socket = socket.display(),
        );
        let path = folder.write("strongswan.conf", configuration)?;
        for sub in ["x509", "x509ca", "private", "pkcs8", "rsa", "ecdsa"] {
            std::fs::create_dir_all(folder.join(sub))?;
        }
        let environment = [("STRONGSWAN_CONF", path.display().to_string())];
        let process = host.start(
            "charon-systemd",
            &["charon-systemd"],
            &environment,
            &folder.join("stdout.log"),
        )?;
        let swan = Self {
            process,
            folder,
            namespace: host.name().to_owned(),
        };
        wait_for("charon's control socket", Duration::from_secs(10), || {
            Ok(socket.exists() && swan.control(&["--stats"]).is_ok())
        })
        .with_context(|| swan.process.output())?;
        Ok(swan)
    }

    /// Puts a certificate or key in its place (`x509`, `x509ca`, `private`).
    pub fn install(&self, kind: &str, file: &std::path::Path) -> Result<()> {
        let name = file.file_name().context("a file name")?;
        std::fs::copy(file, self.folder.path().join(kind).join(name))
            .with_context(|| file.display().to_string())?;
        Ok(())
    }

    /// Loads connections and secrets (the text of a `swanctl.conf`).
    pub fn load(&self, configuration: &str) -> Result<String> {
        let path = self.folder.write("swanctl.conf", configuration)?;
        self.control(&["--load-all", "--noprompt", "--file", &path.display().to_string()])
    }

    /// Runs `swanctl` against this charon.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.folder.join("vici").display());
        let directory = format!("SWANCTL_DIR={}", self.folder.path().display());
        let configuration = format!(
            "STRONGSWAN_CONF={}",
            self.folder.join("strongswan.conf").display()
        );
        let (first, rest) = arguments.split_first().context("a command for swanctl")?;
        let mut command = vec![
            "ip",
            "netns",
            "exec",
            &self.namespace,
            "env",
            &directory,
            &configuration,
            "swanctl",
            *first,
            "--uri",
            &uri,
        ];
        command.extend(rest);
        crate::process::run(&command)
    }

    /// Begins a command of `swanctl` and does not wait for its end.
    pub fn begin(&self, arguments: &[&str]) -> Result<()> {
        let uri = format!("unix://{}", self.folder.join("vici").display());
        let mut words = vec!["swanctl"];
        let (first, rest) = arguments.split_first().context("a command for swanctl")?;
        words.extend([*first, "--uri", &uri]);
        words.extend(rest);
        let script = format!("{} >/dev/null 2>&1 &", words.join(" "));
        let directory = format!("SWANCTL_DIR={}", self.folder.path().display());
        let configuration = format!(
            "STRONGSWAN_CONF={}",
            self.folder.join("strongswan.conf").display()
        );
        crate::process::run(&[
            "ip",
            "netns",
            "exec",
            &self.namespace,
            "env",
            &directory,
            &configuration,
            "sh",
            "-c",
            &script,
        ])
        .map(drop)
    }

    /// Brings a child up and waits for it.
    pub fn initiate(&self, child: &str) -> Result<String> {
        self.control(&["--initiate", "--child", child, "--timeout", "25"])
    }

    /// Lists the SAs.
    pub fn sas(&self) -> Result<String> {
        self.control(&["--list-sas"])
    }

    /// What charon has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("charon.log")).unwrap_or_default())
            .into_owned()
    }

    /// How often a text stands in charon's log.
    pub fn count_in_log(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Where its files are.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
