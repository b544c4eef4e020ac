//! What is sent over a path, and what is counted on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::Process;

/// Sends datagrams at a fixed rate, many a call.
const BLAST: &str = include_str!("blast.py");
/// Where datagrams go; nobody listens.
pub(super) const SINK_PORT: u16 = 9;

/// One TCP stream from `client` to `server`, in bits per second received.
pub(super) fn tcp(client: &Host, server: &Host, address: &str, seconds: u32, folder: &Folder) -> Result<f64> {
    let mut stream = Stream::begin(client, server, address, seconds, folder)?;
    stream.finish()
}

/// So many TCP streams at once from `client` to `server`, in bits per second received by all.
pub(super) fn tcp_streams(
    client: &Host,
    server: &Host,
    address: &str,
    seconds: u32,
    folder: &Folder,
    streams: u32,
) -> Result<f64> {
    Stream::many(client, server, address, seconds, folder, streams)?.finish()
}

/// A TCP stream that runs beside something else.
pub(super) struct Stream {
    server: Process,
    client: Process,
    seconds: u32,
}

impl Stream {
    /// Begins one of so many seconds, after a second that does not count.
    pub(super) fn begin(
        client: &Host,
        server: &Host,
        address: &str,
        seconds: u32,
        folder: &Folder,
    ) -> Result<Self> {
        Self::many(client, server, address, seconds, folder, 1)
    }

    /// Begins several at once.
    fn many(
        client: &Host,
        server: &Host,
        address: &str,
        seconds: u32,
        folder: &Folder,
        streams: u32,
    ) -> Result<Self> {
        let (server_log, client_log) = (folder.join("iperf3-server.log"), folder.join("iperf3.json"));
        std::fs::write(&server_log, "")?;
        std::fs::write(&client_log, "")?;
        let command = ["iperf3", "--forceflush", "-s", "-1", "-B", address];
        let mut server = server.start("iperf3", &command, &[], &server_log)?;
        server.expect_output("listening", Duration::from_secs(10))?;
        let text = seconds.to_string();
        let streams = streams.to_string();
        let command = [
            "iperf3", "-c", address, "-t", &text, "-O", "1", "-J", "-P", &streams,
        ];
        let client = client.start("iperf3", &command, &[], &client_log)?;
        Ok(Self {
            server,
            client,
            seconds,
        })
    }

    /// Waits for its end: bits per second received.
    pub(super) fn finish(&mut self) -> Result<f64> {
        let limit = Duration::from_secs(u64::from(self.seconds) + 30);
        let status = self.client.wait(limit)?;
        let text = self.client.output();
        anyhow::ensure!(status.success(), "iperf3: {status}\n{text}");
        self.server.wait(Duration::from_secs(10))?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .context("iperf3 gave no rate")
    }
}

/// Datagrams at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blast {
    /// Datagrams a second.
    pub(super) rate: f64,
    /// Octets of each payload.
    pub(super) size: u32,
    /// Seconds.
    pub(super) seconds: f64,
    /// Datagrams a call.
    pub(super) burst: u32,
}

impl Blast {
    /// Begins to send to the sink at `address`; `wrapper` stands before the command.
    pub(super) fn begin(self, host: &Host, wrapper: &[&str], address: &str, log: &Path) -> Result<Process> {
        std::fs::write(log, "")?;
        let words = [
            "python3".to_owned(),
            "-c".to_owned(),
            BLAST.to_owned(),
            address.to_owned(),
            SINK_PORT.to_string(),
            self.rate.to_string(),
            self.size.to_string(),
            self.seconds.to_string(),
            self.burst.to_string(),
        ];
        let mut command = wrapper.to_vec();
        command.extend(words.iter().map(String::as_str));
        host.start("blast", &command, &[], log)
    }
}

/// Counts what arrives for the sink, and throws it away.
pub(super) fn make_sink(server: &Host) -> Result<()> {
    let rules = format!(
        "add table ip sink; add chain ip sink in {{ type filter hook prerouting priority -300 ; }}; \
         add rule ip sink in udp dport {SINK_PORT} counter drop"
    );
    server.run(&["nft", &rules]).map(drop)
}

/// Datagrams of `size` octets that the sink has counted, also those that came as one burst.
pub(super) fn sunk(server: &Host, size: u32) -> Result<f64> {
    let text = server.run(&["nft", "-j", "list", "chain", "ip", "sink", "in"])?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let counter = value["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["rule"]["expr"].as_array())
        .flatten()
        .find_map(|expression| expression.get("counter"))
        .context("the sink has no counter")?;
    let (packets, octets) = (
        counter["packets"].as_f64().context("packets")?,
        counter["bytes"].as_f64().context("octets")?,
    );
    // A burst has one IP and one UDP header.
    Ok((octets - 28.0 * packets) / f64::from(size))
}

/// A counter of a device (`rx_packets`, …).
pub(super) fn device_counter(host: &Host, device: &str, counter: &str) -> Result<f64> {
    let path = format!("/sys/class/net/{device}/statistics/{counter}");
    Ok(host.run(&["cat", &path])?.trim().parse()?)
}

/// Time that all threads of a process have had a processor, by the scheduler's account.
pub(super) fn cpu_time(id: u32) -> Result<Duration> {
    let mut nanoseconds = 0_u64;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end meanwhile.
        if let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) {
            let first = text.split(' ').next().unwrap_or_default();
            nanoseconds += first.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Round trips in milliseconds, `per_second` of them for so many seconds; lost ones are left out, and counted.
pub(super) fn round_trips(
    client: &Host,
    address: &str,
    per_second: u32,
    seconds: u32,
) -> Result<(Vec<f64>, u32)> {
    let count = (per_second * seconds).to_string();
    let interval = format!("{:.4}", 1.0 / f64::from(per_second.max(1)));
    let text = client.run(&["ping", "-n", "-c", &count, "-i", &interval, "-W", "1", address])?;
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    let lost = (per_second * seconds).saturating_sub(u32::try_from(times.len())?);
    Ok((times, lost))
}

/// Sleeps until `seconds` after `start`.
pub(super) fn sleep_until(start: Instant, seconds: f64) {
    let at = Duration::from_secs_f64(seconds);
    std::thread::sleep(at.saturating_sub(start.elapsed()));
}
