//! Three registries over a real etcd: what one writes the others see, each slot hands out its own addresses, and an owner
//! that has been deposed hands out none.
//!
//! Needs root, Debian's etcd-server, iproute2 and util-linux: it runs in a network and process namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::v1;
use api::v1::resource::Resource;
use crypto::{Secret, SystemRandom};
use store::etcd::EtcdSettings;
use store::{Etcd, Expect, Store, Txn};
use tenants::audit::Actor;
use tenants::pool::PoolError;
use tenants::proposal::SyntaxCheck;
use tenants::{Mutation, Pool, Registry, RegistryError, SealError, Sealer, Share};

const INSIDE: &str = "CONCENTRATOR_TEST_INSIDE";
const ENDPOINT: &str = "http://127.0.0.1:2379";

struct TestSealer;

impl Sealer for TestSealer {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = Secret::from([7_u8; 32]);
        Ok(crypto::seal_blob(&key, context.as_bytes(), plaintext, &mut SystemRandom).unwrap())
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        crypto::open_blob(&Secret::from([7_u8; 32]), context.as_bytes(), sealed).map_err(|_| {
            SealError::Open {
                context: context.to_owned(),
            }
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        crypto::digest(crypto::HashAlgorithm::Sha256, &[context.as_bytes(), secret])
    }
}

/// A member of etcd that ends with the test.
struct Member {
    child: Child,
    _data: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Member {
    fn start() -> Self {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
        let data = tempfile::tempdir().unwrap();
        let child = Command::new("etcd")
            .args([
                "--listen-client-urls",
                ENDPOINT,
                "--advertise-client-urls",
                ENDPOINT,
            ])
            .arg("--data-dir")
            .arg(data.path().join("etcd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self {
            child: child.expect("etcd (Debian package etcd-server)"),
            _data: data,
        }
    }
}

/// A node: a connection of its own to etcd, and a registry over it.
struct Node {
    store: Arc<Etcd>,
    registry: Arc<Registry>,
}

impl Node {
    async fn new() -> Self {
        let store = loop {
            match Etcd::open(EtcdSettings::new([ENDPOINT])).await {
                Ok(store) => break Arc::new(store),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let registry = Registry::open_shared(shared, Arc::new(TestSealer), Arc::new(SyntaxCheck)).await;
        Self {
            store,
            registry: registry.unwrap(),
        }
    }

    fn pool(&self) -> Arc<Pool> {
        self.registry.pool("acme", "v4").unwrap()
    }

    /// Makes this node the owner of a slot, with what its writes have to compare.
    async fn own(&self, slot: u8, generation: u64) -> Txn {
        let key = format!("slot/{slot:03}/gen");
        let value = generation.to_string().into_bytes();
        self.store.put_if(&key, value.clone(), Expect::Any).await.unwrap();
        Txn::new().when("epoch", Expect::Absent).when_value(key, value)
    }

    async fn apply(&self, resources: Vec<Resource>) {
        let mutations = resources
            .into_iter()
            .map(|resource| Mutation::Apply(Box::new(resource)))
            .collect();
        let outcome = self
            .registry
            .change(&Actor::daemon("test"), mutations, false)
            .await;
        outcome.unwrap();
    }
}

fn tenant(name: &str) -> Resource {
    Resource::Tenant(v1::Tenant {
        name: name.into(),
        routing_domain: Some(v1::RoutingDomain {
            netns: format!("ns-{name}"),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn pool_of(range: &str) -> v1::AddressPool {
    v1::AddressPool {
        tenant: "acme".into(),
        name: "v4".into(),
        range: range.into(),
        ..Default::default()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{what}");
}

/// Runs this test again in namespaces of its own.
fn isolated(name: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ended = tokio::time::timeout(Duration::from_secs(100), body).await;
            ended.expect("the test takes too long");
        });
        return;
    }
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

#[test]
fn what_one_node_configures_all_nodes_have() {
    isolated("what_one_node_configures_all_nodes_have", async {
        let _etcd = Member::start();
        let nodes = [Node::new().await, Node::new().await, Node::new().await];
        // Each tenant and what is in it, one call after the other, at whichever node.
        for n in 0..12 {
            let name = format!("t{n}");
            nodes[n % 3].apply(vec![tenant(&name)]).await;
            until("the next node has it", || {
                nodes[(n + 1) % 3].registry.tenant(&name).is_some()
            })
            .await;
        }
        // As much as etcd's default takes in one transaction, as a whole.
        let many = (0..60).map(|n| tenant(&format!("many{n:02}"))).collect();
        nodes[0].apply(many).await;
        for node in &nodes {
            until("all of it", || node.registry.tenants().len() == 72).await;
            let audit = || node.registry.audit(None, 1_000, |_| true).len();
            until("the trail too", || audit() == 72).await;
        }
    });
}

#[test]
fn a_change_builds_on_what_any_node_has_changed_before() {
    isolated("a_change_builds_on_what_any_node_has_changed_before", async {
        let _etcd = Member::start();
        let nodes = [Node::new().await, Node::new().await, Node::new().await];
        // What one node has acknowledged the next one knows, without waiting for it.
        for n in 0..10 {
            let [one, two, three] = [0, 1, 2].map(|k| &nodes[(n + k) % 3]);
            let name = format!("t{n}");
            one.apply(vec![tenant(&name)]).await;
            let inside = v1::AddressPool {
                tenant: name.clone(),
                ..pool_of("10.64.0.0/24")
            };
            two.apply(vec![Resource::AddressPool(inside)]).await;
            let created = Mutation::Create(Box::new(tenant(&name)));
            let actor = Actor::daemon("test");
            let again = three.registry.change(&actor, vec![created], false).await;
            assert!(matches!(again, Err(RegistryError::AlreadyExists(_))), "{again:?}");
        }
        // At the same time: nobody is turned away, and nothing is lost.
        let nodes = nodes.map(Arc::new);
        let mut tasks = Vec::new();
        for (k, node) in nodes.iter().enumerate() {
            let node = Arc::clone(node);
            tasks.push(tokio::spawn(async move {
                for n in 0..30 {
                    node.apply(vec![tenant(&format!("same{k}x{n}"))]).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        for node in &nodes {
            until("all of it", || node.registry.tenants().len() == 100).await;
        }
    });
}

#[test]
fn addresses_are_of_the_slot_and_never_given_twice() {
    isolated("addresses_are_of_the_slot_and_never_given_twice", async {
        let _etcd = Member::start();
        let nodes: Vec<Arc<Node>> = vec![
            Arc::new(Node::new().await),
            Arc::new(Node::new().await),
            Arc::new(Node::new().await),
        ];
        nodes[0]
            .apply(vec![
                tenant("acme"),
                Resource::AddressPool(pool_of("10.64.0.0/24")),
            ])
            .await;
        for node in &nodes {
            until("the pool", || node.registry.pool("acme", "v4").is_some()).await;
        }
        let share = |index| Share { index, of: 4 };
        let held: Arc<Mutex<BTreeMap<IpAddr, String>>> = Arc::default();
        let mut tasks = Vec::new();
        for (index, node) in (0_u8..).zip(&nodes) {
            let fence = node.own(index, 1).await;
            for n in 0..40 {
                let (node, fence, held) = (Arc::clone(node), fence.clone(), Arc::clone(&held));
                tasks.push(tokio::spawn(async move {
                    let user = format!("user{index}-{n}");
                    let given = node
                        .pool()
                        .allocate_in(&user, None, Some(share(index)), &fence)
                        .await;
                    let given = given.unwrap();
                    assert!(node.pool().block(share(index)).unwrap().contains(given));
                    assert!(
                        held.lock().unwrap().insert(given, user).is_none(),
                        "{given} twice"
                    );
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(held.lock().unwrap().len(), 120);

        // Slot 0 goes to node 1 while both hand out: the old owner's addresses stay with those who have them.
        let (old, new) = (Arc::clone(&nodes[0]), Arc::clone(&nodes[1]));
        let old_fence = Txn::new()
            .when("epoch", Expect::Absent)
            .when_value("slot/000/gen", "1");
        let mut late = Vec::new();
        for n in 0..10 {
            let (old, fence) = (Arc::clone(&old), old_fence.clone());
            late.push(tokio::spawn(async move {
                let user = format!("late{n}");
                let given = old.pool().allocate_in(&user, None, Some(share(0)), &fence).await;
                given.map(|given| (given, user))
            }));
        }
        let new_fence = new.own(0, 2).await;
        new.registry.forget_share(share(0));
        let mut sessions: BTreeMap<IpAddr, String> = held.lock().unwrap().clone();
        sessions.retain(|address, _| new.pool().block(share(0)).unwrap().contains(*address));
        for (address, user) in &sessions {
            new.pool().claim(user, *address).await.unwrap();
        }
        for task in late {
            match task.await.unwrap() {
                Ok((given, user)) => assert!(sessions.insert(given, user).is_none(), "{given} twice"),
                Err(error) => assert!(matches!(error, PoolError::Fenced { .. }), "{error}"),
            }
        }
        let refused = old
            .pool()
            .allocate_in("later", None, Some(share(0)), &old_fence)
            .await;
        assert!(matches!(refused, Err(PoolError::Fenced { .. })), "{refused:?}");
        new.registry.refresh_share(share(0)).await.unwrap();
        for n in 0..5 {
            let user = format!("new{n}");
            let given = new
                .pool()
                .allocate_in(&user, None, Some(share(0)), &new_fence)
                .await
                .unwrap();
            assert!(sessions.insert(given, user).is_none(), "{given} twice");
        }
        // What the old owner leased at the last moment, and no session has, is free again.
        let lost = new.registry.sweep_share(share(0), &new_fence).await.unwrap();
        assert!(lost <= 10);
        let (leases, _) = new.store.range("pool/acme/", None, 1_000).await.unwrap();
        let of_share = leases
            .iter()
            .filter(|(key, _)| key.as_str() < "pool/acme/010.064.000.064")
            .filter(|(_, entry)| String::from_utf8_lossy(&entry.value).contains("\"in_use\":true"))
            .count();
        assert_eq!(of_share, sessions.len() - lost);
    });
}
