//! Captures of a namespace's interface, and what tshark says of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::{Process, run};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures IKE and ESP on `device`.
    pub fn start(host: &Host, device: &str, folder: &Folder) -> Result<Self> {
        let filter = "udp port 500 or udp port 4500 or ip proto 50 or ip6 proto 50";
        Self::filtered(host, device, folder, filter, true)
    }

    /// Captures what a filter of libpcap lets through (everything, if it is empty). `promptly`: each packet is in the file
    /// as soon as it has passed, which costs a wake-up for each.
    pub fn filtered(
        host: &Host,
        device: &str,
        folder: &Folder,
        filter: &str,
        promptly: bool,
    ) -> Result<Self> {
        let file = folder.join(&format!("{device}.pcap"));
        let text = file.display().to_string();
        let mut command = vec![
            "tcpdump", "-n", "-s", "0", "-B", "32768", "-Z", "root", "-i", device,
        ];
        if promptly {
            command.extend(["--immediate-mode", "-U"]);
        }
        command.extend(["-w", &text]);
        if !filter.is_empty() {
            command.push(filter);
        }
        let log = folder.join(&format!("tcpdump-{device}.log"));
        std::fs::write(&log, "")?;
        let mut process = host.start("tcpdump", &command, &[], &log)?;
        process.expect_output("listening on", Duration::from_secs(10))?;
        Ok(Self { process, file })
    }

    /// Ends the capture and returns its file.
    pub fn finish(mut self) -> PathBuf {
        // What the kernel has still to hand over would be lost with the process.
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(rustix::process::Signal::INT);
        let _ = self.process.wait(Duration::from_secs(5));
        self.file.clone()
    }
}

/// Runs tshark over a capture with the keys that lie in `keys` (a folder with tshark's own two tables).
pub fn tshark(capture: &Path, keys: Option<&Path>, arguments: &[&str]) -> Result<String> {
    let home = Folder::new("tshark")?;
    let profile = home.join("wireshark");
    std::fs::create_dir_all(&profile)?;
    if let Some(keys) = keys {
        for table in ["ikev2_decryption_table", "esp_sa"] {
            let source = keys.join(table);
            if source.exists() {
                std::fs::copy(source, profile.join(table))?;
            }
        }
    }
    let home_variable = format!("XDG_CONFIG_HOME={}", home.path().display());
    let file = capture.display().to_string();
    let mut command = vec![
        "env",
        &home_variable,
        "HOME=/nonexistent",
        "tshark",
        "-n",
        "-r",
        &file,
    ];
    command.extend([
        "-o",
        "esp.enable_encryption_decode:TRUE",
        "-o",
        "esp.enable_authentication_check:TRUE",
    ]);
    command.extend(arguments);
    run(&command)
}
