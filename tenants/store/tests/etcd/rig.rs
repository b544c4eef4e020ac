//! Real members of etcd in a network and process namespace of their own, which end with it.

use std::future::Future;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use store::Etcd;
use store::etcd::EtcdSettings;
use tempfile::TempDir;
use tokio::time::Instant;

/// Says that this process is the one in the namespace.
const INSIDE: &str = "STORE_TEST_INSIDE";
/// Members are many processes for a small machine: one test after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the test `name`, which is this one, in namespaces of its own: all its processes end with it.
pub fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap();
        assert!(up.success(), "ip link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ended = tokio::time::timeout(Duration::from_secs(150), body()).await;
            ended.expect("the test takes too long");
        });
        return;
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux), as root");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

/// A cluster whose members are killed when it is dropped.
pub struct Cluster {
    members: Vec<Member>,
    directory: TempDir,
    scheme: &'static str,
    extra: Vec<String>,
}

struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    port: u16,
}

impl Cluster {
    /// Starts so many members and waits until they have a leader.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, "http", &[]).await
    }

    pub async fn start_with(count: usize, scheme: &'static str, extra: &[String]) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let mut cluster = Self {
            members: Vec::new(),
            directory: directory.unwrap(),
            scheme,
            extra: extra.to_vec(),
        };
        let all: Vec<String> = (0..count)
            .map(|index| format!("m{index}=http://127.0.0.1:{}", peer_port(index)))
            .collect();
        for index in 0..count {
            let arguments = cluster.arguments(index, &all.join(","));
            cluster.members.push(Member {
                child: None,
                arguments,
                port: client_port(index),
            });
            cluster.restart(index);
        }
        if scheme == "http" {
            cluster.ready().await;
        }
        cluster
    }

    fn arguments(&self, index: usize, all: &str) -> Vec<String> {
        let client = format!("{}://127.0.0.1:{}", self.scheme, client_port(index));
        let peer = format!("http://127.0.0.1:{}", peer_port(index));
        let data = self.data(index);
        let mut arguments: Vec<String> = [
            "--name",
            &format!("m{index}"),
            "--data-dir",
            &data.display().to_string(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            all,
            "--logger",
            "zap",
            "--log-outputs",
            "stderr",
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// Where a member keeps its data.
    pub fn data(&self, index: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("m{index}"))
    }

    /// Starts a member, again.
    pub fn restart(&mut self, index: usize) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join(format!("m{index}.log")))
            .unwrap();
        let member = &mut self.members[index];
        assert!(member.child.is_none(), "it runs");
        let child = Command::new("etcd")
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        member.child = Some(child.expect("etcd (Debian package etcd-server)"));
    }

    /// kill -9.
    pub fn kill(&mut self, index: usize) {
        let mut child = self.members[index].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops a member without ending it, or lets it go on.
    pub fn signal(&self, index: usize, signal: &str) {
        let pid = self.members[index]
            .child
            .as_ref()
            .expect("it runs")
            .id()
            .to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn endpoints(&self) -> Vec<String> {
        let scheme = self.scheme;
        self.members
            .iter()
            .map(|member| format!("{scheme}://127.0.0.1:{}", member.port))
            .collect()
    }

    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings::new(self.endpoints())
    }

    pub async fn open(&self) -> Etcd {
        Etcd::open(self.settings()).await.unwrap()
    }

    /// The member that a store asks at present.
    pub fn index_of(&self, store: &Etcd) -> usize {
        let member = store.member().to_owned();
        self.endpoints()
            .iter()
            .position(|endpoint| *endpoint == member)
            .unwrap()
    }

    /// A client of its own, of one member.
    pub async fn client(&self, index: usize) -> Client {
        let options = ConnectOptions::new()
            .with_timeout(Duration::from_secs(2))
            .with_connect_timeout(Duration::from_millis(500));
        Client::connect([self.endpoints()[index].as_str()], Some(options))
            .await
            .unwrap()
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        for _ in 0..100 {
            for index in 0..self.members.len() {
                if self.members[index].child.is_none() {
                    continue;
                }
                if let Ok(status) = self.client(index).await.status().await
                    && status.leader() == status.header().unwrap().member_id()
                {
                    return index;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no leader: {}", self.logs());
    }

    /// Waits until every member that runs answers with a leader.
    pub async fn ready(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        for index in 0..self.members.len() {
            if self.members[index].child.is_none() {
                continue;
            }
            let mut client = self.client(index).await;
            while let Err(error) = client.get("ready", None).await {
                assert!(Instant::now() < until, "{error}: {}", self.logs());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for index in 0..self.members.len() {
            let path = self.directory.path().join(format!("m{index}.log"));
            if let Ok(mut file) = std::fs::File::open(path) {
                let _ = file.read_to_string(&mut text);
            }
        }
        let begin = text.len().saturating_sub(4_000);
        text.get(begin..).unwrap_or_default().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn client_port(index: usize) -> u16 {
    2_379 + 10 * u16::try_from(index).unwrap()
}

fn peer_port(index: usize) -> u16 {
    client_port(index) + 1
}
