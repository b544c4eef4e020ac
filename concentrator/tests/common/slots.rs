//! Nodes that share a store and hand slots to each other, by hand: what the cluster does by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use concentrator::daemon::Foundation;
use concentrator::generation::{GenerationError, Generations, Raised, Records, Start};
use concentrator::node::Node;
use concentrator::recovery;
use concentrator::sa_record::SaRecord;
use concentrator::seal::{KEY_LEN, Sealer};
use concentrator::slot::{Fence, Slot, SlotStart, Slots};
use store::{
    Durability, Embedded, Entry, Expect, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};
use tenants::{Registry, Share};

use super::{Client, Daemon, in_namespace};

pub const SECOND: Duration = Duration::from_secs(1);
pub const PORTS: (u16, u16) = (500, 4500);

/// The service address of a slot.
pub fn address(slot: u8) -> String {
    format!("127.0.9.{}", slot + 1)
}

/// A store that can be out of reach.
pub struct Flaky {
    inner: Arc<dyn Store>,
    pub gone: AtomicBool,
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        self.inner.range(prefix, after, limit).await
    }

    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        self.inner.keys(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable {
                reason: "out of reach".to_owned(),
            });
        }
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }
}

/// What the nodes share.
#[derive(Clone)]
pub struct Shared {
    pub store: Arc<Flaky>,
    sealer: Sealer,
    directory: Arc<tempfile::TempDir>,
}

impl Shared {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let inner = Embedded::open(&directory.path().join("shared.db"), Durability::Normal).unwrap();
        Self {
            store: Arc::new(Flaky {
                inner: Arc::new(inner),
                gone: AtomicBool::new(false),
            }),
            sealer: Sealer::with_key([7; KEY_LEN]),
            directory: Arc::new(directory),
        }
    }

    /// A node without slots that listens on the addresses of some.
    pub fn node(&self, name: &str, slots: &[u8], ports: (u16, u16)) -> Daemon {
        let addresses = slots.iter().map(|slot| address(*slot).parse().unwrap()).collect();
        let (store, sealer) = (Arc::clone(&self.store), self.sealer.clone());
        let ground = move |_| async move {
            let registry = Registry::open_shared(
                Arc::clone(&store) as Arc<dyn Store>,
                Arc::new(sealer),
                Arc::new(concentrator::policy::Proposals),
            );
            Foundation {
                start: Start {
                    count: 1,
                    generation: 1,
                    records: Records::Keep,
                },
                registry: registry.await.unwrap(),
                sa_store: store,
                writes: Arc::default(),
                slots: Slots::cluster([0, 1].map(|slot| (address(slot).parse().unwrap(), slot))),
                cluster: None,
            }
        };
        let directory = self.directory.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Daemon::start_on(
            &directory,
            |config| {
                config.listen.addresses = addresses;
                config.listen.ike_port = ports.0;
                config.listen.nat_port = ports.1;
            },
            ground,
        )
    }

    /// A node that listens for both slots, knows the users of [`provision`], and serves slot 0.
    pub fn serving(&self, runtime: &tokio::runtime::Runtime) -> (Daemon, Arc<Slot>) {
        let node = self.node("a", &[0, 1], PORTS);
        runtime.block_on(provision(&node));
        let (slot, _) = runtime.block_on(self.take(&node.node, 0));
        (node, slot)
    }

    /// Makes every SA record of a slot older, as a reader sees it whose wall clock is ahead by so much.
    pub async fn age(&self, slot: &Slot, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        for (name, entry) in self.store_of(slot.id).await {
            if !name.contains("/sa/") {
                continue;
            }
            let mut record = SaRecord::open(slot, &name, &entry.value).unwrap();
            record.saved_millis -= by;
            record.standing.keyed_millis -= by;
            for child in &mut record.children {
                child.made_millis -= by;
            }
            let blob = record.seal(slot).unwrap();
            self.store.put_if(&name, blob, Expect::Any).await.unwrap();
        }
    }

    pub fn key(slot: u8) -> String {
        format!("slot/{slot:03}/gen")
    }

    /// The generation that the store has for a slot.
    pub async fn generation(&self, slot: u8) -> u64 {
        let entry = self.store.get(&Self::key(slot)).await.unwrap();
        entry.map_or(0, |entry| {
            String::from_utf8(entry.value).unwrap().parse().unwrap()
        })
    }

    /// Somebody claims a slot.
    pub async fn claim(&self, slot: u8) -> u64 {
        let generation = self.generation(slot).await + 1;
        let value = generation.to_string().into_bytes();
        self.store
            .put_if(&Self::key(slot), value, Expect::Any)
            .await
            .unwrap();
        generation
    }

    /// The store has an earlier generation again.
    pub async fn put_back(&self, slot: u8, generation: u64) {
        let value = generation.to_string().into_bytes();
        self.store
            .put_if(&Self::key(slot), value, Expect::Any)
            .await
            .unwrap();
    }

    /// A node claims a slot, restores it and serves it.
    pub async fn take(&self, node: &Arc<Node>, id: u8) -> (Arc<Slot>, recovery::Report) {
        let generation = self.claim(id).await;
        let slot = node.slots.begin(
            id,
            SlotStart {
                generation,
                prefix: format!("slot/{id:03}/"),
                fence: Some(fence(id, generation)),
                sealer: Arc::new(self.sealer.clone()),
                generations: Arc::new(self.clone()),
                numbered: true,
                share: Share::of_slot(id, 1),
                checkpoint: Duration::from_millis(50),
                records_queued: 4_096,
                logins_without_store: false,
            },
        );
        let records = recovery::read_slot(node, &slot).await.unwrap();
        let report = recovery::restore_slot(node, &slot, records).await;
        recovery::serve(&slot);
        (slot, report)
    }

    /// The SA records and ceilings of a slot.
    pub async fn store_of(&self, slot: u8) -> Vec<(String, Entry)> {
        let mut all = Vec::new();
        for kind in ["sa/", "seq/"] {
            let prefix = format!("slot/{slot:03}/{kind}");
            all.extend(self.store.range(&prefix, None, 10_000).await.unwrap().0);
        }
        all
    }

    /// Octets of each record of a kind.
    pub async fn sizes(&self, slot: u8, kind: &str) -> Vec<usize> {
        let prefix = format!("slot/{slot:03}/{kind}");
        let (found, _) = self.store.range(&prefix, None, 10_000).await.unwrap();
        found.iter().map(|(_, entry)| entry.value.len()).collect()
    }

    /// Names of everything that is stored for a slot.
    pub async fn names(&self, slot: u8, kind: &str) -> Vec<String> {
        let prefix = format!("slot/{slot:03}/{kind}");
        let (found, _) = self.store.range(&prefix, None, 10_000).await.unwrap();
        found.into_iter().map(|(name, _)| name).collect()
    }
}

/// What has to hold while a slot has a generation.
pub fn fence(slot: u8, generation: u64) -> Fence {
    Fence::new().when(Shared::key(slot), generation.to_string())
}

#[async_trait]
impl Generations for Shared {
    async fn next(&self, slot: u8) -> Result<Raised, GenerationError> {
        let now = self.generation(slot).await;
        let next = now + 1;
        let txn = fence(slot, now)
            .apply(Txn::new())
            .put(Self::key(slot), next.to_string());
        if !self.store.txn(txn).await?.committed {
            return Err(GenerationError::Lost);
        }
        Ok(Raised {
            generation: next,
            fence: Some(fence(slot, next)),
        })
    }
}

/// Runs the rest of the test in a network namespace of its own, with a store for its nodes and a place to wait;
/// `None` in the caller, where it has been done.
pub fn stage(test: &str) -> Option<(Shared, tokio::runtime::Runtime)> {
    in_namespace(test).then(|| (Shared::new(), runtime()))
}

/// Clients of slot 0 who have logged in, at 127.0.0.2 and so on.
pub fn logged_in(users: &[&str]) -> Vec<Client> {
    let login = |(user, host): (&&str, u8)| {
        let mut client = client(0, &format!("127.0.0.{host}"), &format!("{user}@acme.example"));
        client.login();
        client
    };
    users.iter().zip(2..).map(login).collect()
}

/// Where the test waits.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// A user who calls a slot.
pub fn client(slot: u8, host: &str, user: &str) -> Client {
    Client::calling(&address(slot), host, user, "acme.gw.example", "one")
}

/// One tenant with a few users.
pub async fn provision(node: &Daemon) {
    let users = ["alice", "bob", "carol", "dave"].map(|name| format!("{name}@acme.example"));
    let users: Vec<_> = users.iter().map(|user| (user.as_str(), "one")).collect();
    node.provision("acme", "10.77.0.0/24", &users).await;
}

/// The client has its child SA replaced; true when the gateway has agreed.
pub fn rekeys(client: &mut Client, patience: Duration) -> bool {
    let old = client.children[0].spi_in;
    client.command(ike::Command::RekeyChild {
        spi_in: old,
        group: None,
    });
    client.run(patience, |client| {
        client.children.iter().any(|child| child.spi_in != old)
    })
}
