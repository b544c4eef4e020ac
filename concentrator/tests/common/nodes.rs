//! Three nodes and one member of etcd, each daemon a process in a network namespace of its own, all in a world that
//! ends with the test.
//!
//! ```text
//!  the test: clients 192.0.2.201…  ── service bridge 192.0.2.0/24 ── eth0 of a, b, c    (service addresses .100 + slot)
//!  etcd 10.98.0.254                ── cluster bridge 10.98.0.0/24 ── eth1 of a, b, c
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::v1;
use tonic::transport::Channel;

use super::{connect, provision, serves};

/// The nodes' names, which are those of their namespaces as well.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// Runs the rest of the test in namespaces of its own, which end with all processes in them.
///
/// Returns true in there, and false in the caller, where it has been done.
pub fn in_world(test: &str) -> bool {
    const MARK: &str = "CONCENTRATOR_TEST_WORLD";
    if std::env::var_os(MARK).is_some() {
        run("mount --make-rprivate /");
        run("mount -t tmpfs tmpfs /run/netns");
        run("ip link set lo up");
        return true;
    }
    // Four programs for a small machine: one test after the other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = std::fs::create_dir_all("/run/netns");
    let output = Command::new("timeout")
        .args(["--kill-after=5", "150", "unshare"])
        .args([
            "--net",
            "--mount",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
            "--",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .expect("unshare (util-linux)");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in the world:\n{text}");
    assert!(text.contains("1 passed"), "the test did not run:\n{text}");
    println!("{text}");
    false
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{command}");
}

/// Whether the member of etcd has elected itself and answers.
fn etcd_answers() -> bool {
    let ask = || -> std::io::Result<String> {
        let etcd = SocketAddr::from(([10, 98, 0, 254], 2379));
        let mut stream = TcpStream::connect_timeout(&etcd, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}

/// The world.
pub struct World {
    folder: tempfile::TempDir,
    slots: u8,
    etcd: Option<Child>,
    nodes: Vec<Option<Child>>,
}

impl World {
    /// Makes the networks and starts etcd; no node yet.
    pub fn new(slots: u8) -> Self {
        for bridge in ["service", "cluster"] {
            run(&format!("ip link add {bridge} type bridge"));
            run(&format!("ip link set {bridge} up"));
        }
        run("ip address add 192.0.2.254/24 dev service");
        run("ip address add 10.98.0.254/24 dev cluster");
        for (number, name) in (1..).zip(NODES) {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
            for (bridge, interface, network) in
                [("service", "eth0", "192.0.2"), ("cluster", "eth1", "10.98.0")]
            {
                let port = format!("{interface}-{name}");
                run(&format!(
                    "ip link add {port} type veth peer name {interface} netns {name}"
                ));
                run(&format!("ip link set {port} master {bridge} up"));
                run(&format!("ip -n {name} link set {interface} up"));
                run(&format!(
                    "ip -n {name} address add {network}.{number}/24 dev {interface}"
                ));
            }
        }
        for user in 201..=209 {
            run(&format!("ip address add 192.0.2.{user}/24 dev service"));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut key = std::fs::OpenOptions::new();
        let mut key = key
            .write(true)
            .create(true)
            .mode(0o600)
            .open(folder.path().join("cluster.key"))
            .unwrap();
        let digits: String = (0..32).map(|octet| format!("{octet:02x}")).collect();
        writeln!(key, "{digits}").unwrap();
        let mut world = Self {
            folder,
            slots,
            etcd: None,
            nodes: vec![None, None, None],
        };
        world.start_etcd();
        world
    }

    /// Starts etcd, again over what it has.
    pub fn start_etcd(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("etcd.log")).unwrap();
        let data = self.folder.path().join("etcd");
        let child = Command::new("etcd")
            .args(["--data-dir", data.to_str().unwrap(), "--name", "e"])
            .args(["--listen-client-urls", "http://10.98.0.254:2379"])
            .args(["--advertise-client-urls", "http://10.98.0.254:2379"])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-cluster", "e=http://127.0.0.1:2380"])
            .args(["--unsafe-no-fsync", "--max-txn-ops", "4096"])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn();
        let old = self
            .etcd
            .replace(child.expect("etcd (Debian package etcd-server)"));
        assert!(old.is_none());
    }

    /// Puts a new cluster key before the old one.
    pub fn add_key(&self) {
        let path = self.folder.path().join("cluster.key");
        let old = std::fs::read_to_string(&path).unwrap();
        let digits: String = (64..96).map(|octet| format!("{octet:02x}")).collect();
        std::fs::write(&path, format!("{digits}\n{old}")).unwrap();
    }

    /// Ends etcd, once it has answered: killed while it makes its files it would never elect itself again.
    pub fn stop_etcd(&mut self) {
        let until = Instant::now() + Duration::from_secs(30);
        while !etcd_answers() {
            assert!(Instant::now() < until, "etcd does not answer:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut child = self.etcd.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends etcd and starts it with nothing in it.
    pub fn wipe_etcd(&mut self) {
        self.stop_etcd();
        std::fs::remove_dir_all(self.folder.path().join("etcd")).unwrap();
        self.start_etcd();
    }

    fn configuration(&self, node: usize) -> PathBuf {
        let (name, number) = (NODES[node], node + 1);
        let folder = self.folder.path();
        let mut text = format!(
            "node_name = \"{name}\"\nstate_directory = \"{folder}/{name}\"\n\
             [listen]\nraw_esp = false\n[threads]\nworkers = 1\n\
             [api]\nsocket = \"{folder}/{name}.sock\"\n\
             [log]\nfilter = \"{log}\"\nredact = false\n\
             [debug]\nfault_injection = true\n\
             [cluster]\netcd = [\"http://10.98.0.254:2379\"]\nkey_file = \"{folder}/cluster.key\"\n\
             listen = [\"10.98.0.{number}:4600\", \"192.0.2.{number}:4600\"]\nsettle_ms = 500\nrebalance = false\n\
             forward = \"10.98.0.{number}:4601\"\n",
            folder = folder.display(),
            log = std::env::var("TEST_LOG").unwrap_or_else(|_| "info".to_owned()),
        );
        for slot in 0..self.slots {
            text.push_str(&format!(
                "[[cluster.slots]]\nid = {slot}\naddresses = [\"{}/24@eth0\"]\n",
                Self::address(slot)
            ));
        }
        let path = folder.join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Where a slot is called.
    pub fn address(slot: u8) -> String {
        format!("192.0.2.{}", 100 + u16::from(slot))
    }

    /// Starts a node; does not wait.
    pub fn start(&mut self, node: usize) {
        let path = self.configuration(node);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{}.log", NODES[node])))
            .unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", NODES[node]])
            .arg(option_env!("CARGO_BIN_EXE_concentrator").unwrap_or("concentrator"))
            .args(["--config", path.to_str().unwrap()])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(self.nodes[node].replace(child).is_none(), "it runs");
    }

    /// kill -9 (`ip netns exec` has become the daemon).
    pub fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, node: usize, signal: &str) {
        let pid = self.nodes[node].as_ref().expect("it runs").id();
        run(&format!("kill -{signal} {pid}"));
    }

    /// Whether the process is there.
    pub fn runs(&mut self, node: usize) -> bool {
        let child = self.nodes[node].as_mut().expect("it was started");
        child.try_wait().unwrap().is_none()
    }

    /// Waits for the process's end.
    pub fn wait(&mut self, node: usize) -> bool {
        let mut child = self.nodes[node].take().expect("it runs");
        child.wait().unwrap().success()
    }

    /// The management API of a node, once all of it answers.
    pub async fn api(&self, node: usize) -> Channel {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if self.health(node, "vpn.v1.NodeService").await == Some(true)
                && let Ok(channel) = connect(self.socket(node)).await
            {
                return channel;
            }
            assert!(
                Instant::now() < until,
                "node {node} does not answer:\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn socket(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("{}.sock", NODES[node]))
    }

    /// Whether a service of a node serves, as it says; `None`: it says nothing.
    pub async fn health(&self, node: usize, service: &str) -> Option<bool> {
        serves(connect(self.socket(node)).await.ok()?, service).await
    }

    /// Waits until what some services of a node say of themselves is as wanted.
    pub async fn healthy(&self, node: usize, wanted: &[(&str, bool)]) {
        let until = Instant::now() + Duration::from_secs(30);
        for (service, serves) in wanted {
            while self.health(node, service).await != Some(*serves) {
                assert!(
                    Instant::now() < until,
                    "{service:?} is to be {serves}:\n{}",
                    self.logs()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// What a node knows of the cluster.
    pub async fn status(&self, node: usize) -> v1::ClusterStatus {
        let channel = self.api(node).await;
        v1::cluster_service_client::ClusterServiceClient::new(channel)
            .status(v1::ClusterStatusRequest {})
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
            .into_inner()
    }

    /// Waits until every slot is served, as `node` says; the owners by slot.
    pub async fn served(&self, node: usize) -> Vec<String> {
        self.until(node, "every slot is served", |status| {
            status.slots.len() == usize::from(self.slots)
                && status
                    .slots
                    .iter()
                    .all(|slot| slot.state() == v1::ClusterSlotState::Serving && !slot.owner.is_empty())
        })
        .await
        .slots
        .into_iter()
        .map(|slot| slot.owner)
        .collect()
    }

    /// Waits until the status of `node` is as wanted.
    pub async fn until(
        &self,
        node: usize,
        what: &str,
        wanted: impl Fn(&v1::ClusterStatus) -> bool,
    ) -> v1::ClusterStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status(node).await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{what}: {status:#?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A tenant with users, as the nodes of the cluster share it.
    pub async fn provision(&self, node: usize, tenant: &str, pool: &str, users: &[(&str, &str)]) {
        provision(self.api(node).await, tenant, pool, users).await;
    }

    /// Cuts a node off etcd and the other nodes' heartbeats on every path, or joins it again; clients still reach it.
    pub fn cut_off(node: usize, off: bool) {
        let name = NODES[node];
        if !off {
            return run(&format!("ip netns exec {name} nft delete table inet cut"));
        }
        run(&format!("ip netns exec {name} nft add table inet cut"));
        for hook in ["input", "output"] {
            run(&format!(
                "ip netns exec {name} nft add chain inet cut {hook} {{ type filter hook {hook} priority 0 ; }}"
            ));
            for port in ["sport 2379", "dport 2379"] {
                run(&format!(
                    "ip netns exec {name} nft add rule inet cut {hook} tcp {port} drop"
                ));
            }
            run(&format!(
                "ip netns exec {name} nft add rule inet cut {hook} udp dport 4600 drop"
            ));
        }
    }

    /// From here on clients' packets to a service address come to this node, which takes them for its own.
    pub fn misdirect(node: usize, address: &str) {
        let name = NODES[node];
        run(&format!("ip -n {name} address add {address}/32 dev lo"));
        let shown = Command::new("ip")
            .args(["-n", name, "-brief", "link", "show", "eth0"])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let mac = shown.split_whitespace().nth(2).expect("an Ethernet address");
        run(&format!(
            "ip neighbour replace {address} lladdr {mac} dev service nud permanent"
        ));
    }

    /// Whether an address is on an interface of a node.
    pub fn has_address(node: usize, address: &str) -> bool {
        let output = Command::new("ip")
            .args(["-n", NODES[node], "-o", "address", "show", "to", address])
            .output()
            .unwrap();
        !output.stdout.is_empty()
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for name in NODES.iter().chain(&["etcd"]) {
            let path = self.folder.path().join(format!("{name}.log"));
            let log = std::fs::read_to_string(path).unwrap_or_default();
            let from = log.len().saturating_sub(12_000);
            text.push_str(&format!("===== {name}\n{}\n", log.get(from..).unwrap_or(&log)));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("TEST_LOG").is_some() {
            eprintln!("{}", self.logs());
        }
        for child in self.nodes.iter_mut().chain([&mut self.etcd]).flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
