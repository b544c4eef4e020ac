//! How many writes a second a cluster takes, one at a time and batched.
//!
//! ```text
//! cargo run --release -p store --features etcd --example etcd_bench -- [--seconds N] [--octets N] [ENDPOINT...]
//! ```
//! Without an endpoint it starts a member of its own (Debian package etcd-server) with its data under `TMPDIR`, and
//! ends it afterwards.

#![allow(clippy::print_stdout, reason = "a command")]

use std::error::Error;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::etcd::EtcdSettings;
use store::{Etcd, Expect, Op, Store, Txn};

type Failure = Box<dyn Error + Send + Sync>;

/// A member of our own, ended with this.
struct Member {
    child: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Member {
    fn start() -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        // Ports that are free for now.
        let port = || Ok::<_, Failure>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (client, peer) = (
            format!("http://127.0.0.1:{}", port()?),
            format!("http://127.0.0.1:{}", port()?),
        );
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            endpoint: client,
            _directory: directory,
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut seconds, mut octets, mut endpoints) = (5, 1_000, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => seconds = arguments.next().ok_or("--seconds N")?.parse()?,
            "--octets" => octets = arguments.next().ok_or("--octets N")?.parse()?,
            endpoint => endpoints.push(endpoint.to_owned()),
        }
    }
    let mut own = None;
    if endpoints.is_empty() {
        let member = Member::start()?;
        endpoints.push(member.endpoint.clone());
        own = Some(member);
    }
    let mut settings = EtcdSettings::new(endpoints);
    settings.namespace = "bench".to_owned();
    settings.call_timeout = Duration::from_secs(10);
    let store = Arc::new(Etcd::open(settings).await?);
    println!("{} values of {octets} octets, {seconds} s each", store.member());
    for callers in [1, 8, 64, 512, 4_096] {
        run(&store, callers, Duration::from_secs(seconds), octets).await?;
    }
    let all = Txn {
        then: vec![Op::DeletePrefix {
            prefix: "put/".to_owned(),
        }],
        ..Txn::new()
    };
    store.txn(all).await?;
    drop(own);
    Ok(())
}

/// So many callers, each of whom waits for its write before the next.
async fn run(store: &Arc<Etcd>, callers: u64, time: Duration, octets: usize) -> Result<(), Failure> {
    let before = store.counters();
    let slowest = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (store, slowest) = (Arc::clone(store), Arc::clone(&slowest));
            tokio::spawn(async move {
                let mut count = 0_u64;
                while begun.elapsed() < time {
                    let asked = Instant::now();
                    store
                        .put_if(&format!("put/{caller}"), vec![7; octets], Expect::Any)
                        .await?;
                    let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                    slowest.fetch_max(micros, Ordering::Relaxed);
                    count += 1;
                }
                Ok::<_, store::StoreError>(count)
            })
        })
        .collect();
    let mut writes = 0;
    for task in tasks {
        writes += task.await??;
    }
    let after = store.counters();
    let (seconds, writes) = (begun.elapsed().as_secs_f64(), writes as f64);
    let commits = (after.commits - before.commits) as f64;
    let slowest = slowest.load(Ordering::Relaxed) as f64 / 1e3;
    println!(
        "{callers:>5} callers: {:>8.0} puts/s in {:>6.0} transactions/s ({:>4.1} puts each), {:>6.2} ms a put, slowest {slowest:.1} ms",
        writes / seconds,
        commits / seconds,
        writes / commits,
        callers as f64 * 1e3 * seconds / writes,
    );
    Ok(())
}
