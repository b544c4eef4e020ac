//! A cluster's contents from one store into another, with real registries over both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use api::v1::resource::Resource;
use crypto::Secret;
use store::{Durability, Embedded};
use tenants::audit::Actor;
use tenants::proposal::SyntaxCheck;
use tenants::{Mutation, Registry, SealError, Sealer, Share};

use super::*;

const SHARE: Share = Share { index: 0, of: 1 };

struct World {
    store: Arc<Embedded>,
    keys: Arc<ClusterKeys>,
    _directory: tempfile::TempDir,
}

/// Seals under what the root gives.
struct OfRoot(Secret);

impl Sealer for OfRoot {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(crypto::seal_blob(&self.0, context.as_bytes(), plaintext, &mut SystemRandom).unwrap())
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        crypto::open_blob(&self.0, context.as_bytes(), sealed).map_err(|_| SealError::Open {
            context: context.to_owned(),
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        crypto::digest(crypto::HashAlgorithm::Sha256, &[context.as_bytes(), secret])
    }
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("c.db"), Durability::Normal).unwrap();
        let file = Secret::from(b"00112233445566778899aabbccddeeff102132435465768798a9bacbdcedfe0f".to_vec());
        let world = Self {
            store: Arc::new(store),
            keys: Arc::new(ClusterKeys::parse(&file).unwrap()),
            _directory: directory,
        };
        let root = Root::create(&mut SystemRandom).wrap(&world.keys).unwrap();
        world.put(keys::ROOT, &root).await;
        world
    }

    async fn put(&self, key: &str, value: &[u8]) {
        self.store.put_if(key, value.to_vec(), Expect::Any).await.unwrap();
    }

    async fn value(&self, key: &str) -> Option<String> {
        let entry = self.store.get(key).await.unwrap()?;
        Some(String::from_utf8_lossy(&entry.value).into_owned())
    }

    async fn registry(&self) -> Arc<Registry> {
        let wrapped = self.store.get(keys::ROOT).await.unwrap().unwrap().value;
        let root = Root::unwrap(&self.keys, &wrapped).unwrap();
        let sealer = Arc::new(OfRoot(root.derive("configuration")));
        Registry::open_shared(self.store.clone(), sealer, Arc::new(SyntaxCheck))
            .await
            .unwrap()
    }

    /// A tenant with everything, and a user with an address.
    async fn fill(&self, tenant: &str) {
        let registry = self.registry().await;
        let name = |name: &str| (tenant.to_owned(), name.to_owned());
        let resources = [
            Resource::Tenant(v1::Tenant {
                name: tenant.to_owned(),
                routing_domain: Some(v1::RoutingDomain {
                    netns: format!("ns-{tenant}"),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            Resource::AddressPool(v1::AddressPool {
                tenant: name("v4").0,
                name: name("v4").1,
                range: "10.9.0.0/24".into(),
                ..Default::default()
            }),
            Resource::Credential(v1::Credential {
                tenant: tenant.to_owned(),
                name: "alice".into(),
                kind: v1::CredentialKind::Psk.into(),
                ids: vec!["alice".into()],
                secret: "canary-s3cret".into(),
                ..Default::default()
            }),
            Resource::Connection(v1::Connection {
                tenant: tenant.to_owned(),
                name: "users".into(),
                auth: v1::AuthMethod::Psk.into(),
                remote_ids: vec!["*".into()],
                local_ts: vec!["10.0.0.0/8".into()],
                pools: vec!["v4".into()],
                ..Default::default()
            }),
        ];
        let mutations = resources.map(|resource| Mutation::Apply(Box::new(resource)));
        registry
            .change(&Actor::daemon("test"), mutations.into(), false)
            .await
            .unwrap();
        let pool = registry.pool(tenant, "v4").unwrap();
        pool.allocate_in("alice", None, Some(SHARE), &Txn::new())
            .await
            .unwrap();
        self.put(&keys::generation(3), b"41").await;
        self.put(&keys::owner(3), b"a#0000000000000001").await;
        self.put(&keys::record(3, 1), b"sealed").await;
    }

    async fn backup(&self) -> Vec<Vec<u8>> {
        let pieces = backup(self.store.clone(), self.keys.clone(), "a");
        pieces.try_collect().await.unwrap()
    }

    async fn restore(
        &self,
        file: &[Vec<u8>],
        replace: bool,
        validate_only: bool,
    ) -> Result<v1::RestoreResponse, BackendError> {
        let options = v1::RestoreOptions {
            validate_only,
            replace,
        };
        let pieces: Vec<_> = file.iter().cloned().map(Ok).collect();
        restore(
            &*self.store,
            &self.keys,
            options,
            futures::stream::iter(pieces).boxed(),
        )
        .await
    }
}

#[tokio::test]
async fn an_empty_cluster_lives_again_from_a_backup() {
    let old = World::new().await;
    old.fill("acme").await;
    old.put(keys::EPOCH, b"2").await;
    let file = old.backup().await;
    assert!(!file.concat().windows(6).any(|octets| octets == b"canary"));

    let new = World::new().await;
    let tried = new.restore(&file, false, true).await.unwrap();
    assert_eq!(
        (tried.epoch, tried.keys["config"], tried.backup_node.as_str()),
        (0, 4, "a")
    );
    assert!(
        new.registry().await.tenants().is_empty(),
        "nothing is written by a check"
    );

    let done = new.restore(&file, false, false).await.unwrap();
    assert_eq!(done.epoch, 3);
    assert_eq!(done.warnings.len(), 1, "another root: {:?}", done.warnings);
    let registry = new.registry().await;
    let connection = registry.connection("acme", "users").unwrap();
    let peer = tenants::PeerIdentity::from_text("alice");
    assert!(
        registry.psk(&connection, &peer).is_some(),
        "secrets open under the old root"
    );
    assert_eq!(new.value(&keys::generation(3)).await.unwrap(), "41");
    assert_eq!(new.value(&keys::owner(3)).await, None);
    assert_eq!(new.value(&keys::record(3, 1)).await, None);
    assert!(!registry.audit(None, 10, |_| true).is_empty());
    // Nobody has the address, but alice comes back to it.
    let pool = registry.pool("acme", "v4").unwrap();
    let other = pool
        .allocate_in("bob", None, Some(SHARE), &Txn::new())
        .await
        .unwrap();
    let alice = pool
        .allocate_in("alice", None, Some(SHARE), &Txn::new())
        .await
        .unwrap();
    assert_eq!(
        (other.to_string(), alice.to_string()),
        ("10.9.0.2".into(), "10.9.0.1".into())
    );

    // A second time there is nothing left to do but to begin an epoch.
    let again = new.restore(&file, true, false).await.unwrap();
    assert_eq!((again.epoch, again.warnings.len()), (4, 0));
}

#[tokio::test]
async fn a_working_cluster_is_only_replaced_when_that_is_said() {
    let old = World::new().await;
    old.fill("acme").await;
    let file = old.backup().await;
    let registry = old.registry().await;
    // Since then: a new tenant, a changed pool, another user at the address.
    old.fill("globex").await;
    let pool = registry.pool("acme", "v4").unwrap();
    registry.refresh_share(SHARE).await.unwrap();
    pool.claim("alice", "10.9.0.1".parse().unwrap()).await.unwrap();
    pool.release_in("alice", "10.9.0.1".parse().unwrap(), Some(SHARE), &Txn::new())
        .await
        .unwrap();
    let wish = Some("10.9.0.7".parse().unwrap());
    pool.allocate_in("carol", wish, Some(SHARE), &Txn::new())
        .await
        .unwrap();
    let lease = old.value("pool/acme/010.009.000.007").await;

    let refused = old.restore(&file, false, false).await;
    assert!(matches!(refused, Err(BackendError::Refused(_))), "{refused:?}");
    let done = old.restore(&file, true, false).await.unwrap();
    assert_eq!((done.epoch, done.warnings.len()), (1, 0));
    // The registry that was there all the time sees it.
    while registry.tenant("globex").is_some() {
        tokio::task::yield_now().await;
    }
    assert!(registry.connection("acme", "users").is_some());
    assert_eq!(
        old.value("pool/acme/010.009.000.007").await,
        lease,
        "a live lease stays"
    );
    assert_eq!(old.value(&keys::record(3, 1)).await.unwrap(), "sealed");
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing() {
    let old = World::new().await;
    old.fill("acme").await;
    let mut file = old.backup().await;
    let new = World::new().await;
    let last = file.pop().unwrap();
    for damaged in [
        file.clone(),
        vec![],
        [file.clone(), vec![last.clone(), last]].concat(),
    ] {
        let refused = new.restore(&damaged, false, false).await;
        assert!(matches!(refused, Err(BackendError::Invalid(_))), "{refused:?}");
    }
    let broken = BackendError::Unavailable("the upload broke".into());
    let pieces = futures::stream::iter([Ok(file[0].clone()), Err(broken.clone())]).boxed();
    let refused = restore(&*new.store, &new.keys, v1::RestoreOptions::default(), pieces).await;
    assert_eq!(refused.unwrap_err(), broken);
    assert!(new.registry().await.tenants().is_empty());
    assert_eq!(new.value(keys::EPOCH).await, None);
}

#[test]
fn changes_are_grouped_below_the_limits() {
    let value = vec![0; 150 << 10];
    let many: Vec<Change<'_>> = (0..100).map(|_| ("k", None)).collect();
    assert!(chunks(&many).iter().all(|group| group.len() <= STEPS));
    assert_eq!(chunks(&many).iter().map(|group| group.len()).sum::<usize>(), 100);
    let large: Vec<Change<'_>> = (0..7).map(|_| ("k", Some(value.as_slice()))).collect();
    assert_eq!(
        chunks(&large).iter().map(|group| group.len()).collect::<Vec<_>>(),
        [2, 2, 2, 1]
    );
    let huge = vec![0; 1 << 20];
    assert_eq!(chunks(&[("k", Some(huge.as_slice())), ("l", None)]).len(), 2);
}
