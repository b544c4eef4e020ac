//! The registry over a real store: changes, what they refuse, and what the daemon reads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use api::v1;
use api::v1::resource::Resource;

use super::*;
use crate::audit::Actor;
use crate::testing::{TestSealer, World, actor, connection, pool, psk, site, strings, tenant};

fn query<'a>(peer: &'a PeerIdentity, wanted: Option<&'a PeerIdentity>) -> Query<'a> {
    Query {
        local_addr: "198.51.100.1".parse().unwrap(),
        remote_addr: "192.0.2.7".parse().unwrap(),
        peer_id: peer,
        wanted_id: wanted,
        cert_authorities: &[],
        peer_issuers: &[],
        method: None,
    }
}

#[tokio::test]
async fn a_set_in_any_order_is_applied_once() {
    let world = World::new().await;
    let first = world.apply(site("acme", "s3cret")).await.unwrap();
    assert!(first.iter().all(|outcome| outcome.action == Action::Create));
    let again = world.apply(site("acme", "s3cret")).await.unwrap();
    assert!(
        again.iter().all(|outcome| outcome.action == Action::Unchanged),
        "{again:?}"
    );
    assert_eq!(
        world.registry.audit(None, 100, |_| true).len(),
        4,
        "what is unchanged leaves no record"
    );

    let changed = world.apply(site("acme", "other")).await.unwrap();
    let update: Vec<_> = changed
        .iter()
        .filter(|outcome| outcome.action == Action::Update)
        .collect();
    assert_eq!(update.len(), 1);
    assert_eq!(update[0].fields[0].path, "secret");
    assert_eq!(update[0].fields[0].after, "(secret)");
}

#[tokio::test]
async fn a_login_finds_its_connection_key_and_address() {
    let world = World::new().await;
    world.apply(site("acme", "s3cret")).await.unwrap();
    let peer = PeerIdentity::from_text("alice@acme.example");
    let found = world.registry.resolve(&query(&peer, None));
    let chosen = found.chosen.unwrap();
    assert_eq!((chosen.tenant.as_str(), chosen.name.as_str()), ("acme", "users"));
    assert_eq!(world.registry.psk(&chosen, &peer).unwrap().expose(), b"s3cret");
    assert!(
        world
            .registry
            .psk(&chosen, &PeerIdentity::from_text("bob@acme.example"))
            .is_none()
    );
    let pool = world.registry.pool("acme", "v4").unwrap();
    assert_eq!(
        pool.allocate("alice", None).await.unwrap().to_string(),
        "10.9.0.1"
    );
}

#[tokio::test]
async fn two_tenants_share_addresses_and_names() {
    let world = World::new().await;
    let both: Vec<_> = ["one", "two"]
        .iter()
        .flat_map(|name| {
            let mut resources = site(name, name);
            let own = v1::Tenant {
                gateway_ids: strings(&[&format!("{name}.vpn.example")]),
                ..tenant(name)
            };
            resources[1] = Resource::Tenant(own);
            resources
        })
        .collect();
    world.apply(both).await.unwrap();
    let peer = PeerIdentity::from_text("alice@acme.example");
    for name in ["one", "two"] {
        let wanted = PeerIdentity::from_text(&format!("{name}.vpn.example"));
        let found = world.registry.resolve(&query(&peer, Some(&wanted)));
        let chosen = found.chosen.unwrap();
        assert_eq!(chosen.tenant, name);
        assert_eq!(
            world.registry.psk(&chosen, &peer).unwrap().expose(),
            name.as_bytes()
        );
        assert_eq!(found.candidates.len(), 2);
        assert!(
            found.candidates[1].reason.contains("IDr"),
            "{:?}",
            found.candidates
        );
        let pool = world.registry.pool(name, "v4").unwrap();
        assert_eq!(
            pool.allocate("alice", None).await.unwrap().to_string(),
            "10.9.0.1"
        );
    }
}

#[tokio::test]
async fn wrong_references_are_named() {
    let world = World::new().await;
    let mut resources = site("acme", "s3cret");
    resources.remove(2);
    let error = world.apply(resources).await.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid(_)));
    let text = error.to_string();
    assert!(
        text.contains("Connection acme/users: pools[0] there is no address pool \"v4\""),
        "{text}"
    );
    assert!(world.registry.tenant("acme").is_none(), "nothing was written");

    let orphan = vec![Resource::AddressPool(pool("nobody", "10.0.0.0/24"))];
    let text = world.apply(orphan).await.unwrap_err().to_string();
    assert!(text.contains("create the tenant first"), "{text}");
}

#[tokio::test]
async fn pools_of_one_routing_domain_are_apart() {
    let world = World::new().await;
    world.apply(site("one", "x")).await.unwrap();
    let shared = v1::Tenant {
        routing_domain: Some(v1::RoutingDomain {
            netns: "ns-one".into(),
            ..Default::default()
        }),
        ..tenant("two")
    };
    let resources = vec![
        Resource::Tenant(shared),
        Resource::AddressPool(pool("two", "10.9.0.128/25")),
    ];
    let text = world.apply(resources.clone()).await.unwrap_err().to_string();
    assert!(text.contains("overlaps") && text.contains("one/v4"), "{text}");

    let tenant_admin = Actor {
        role: Actor::TENANT_ADMIN.into(),
        ..actor()
    };
    let mutations = resources
        .into_iter()
        .map(|resource| Mutation::Apply(Box::new(resource)))
        .collect();
    let text = world
        .registry
        .change(&tenant_admin, mutations, false)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("another tenant") && !text.contains("one/v4") && !text.contains("10.9.0.1"),
        "{text}"
    );
}

#[tokio::test]
async fn what_others_need_stays() {
    let world = World::new().await;
    world.apply(site("acme", "s3cret")).await.unwrap();
    let delete = |id: Id, cascade| Mutation::Delete {
        id,
        version: String::new(),
        cascade,
    };
    let change = async |mutation| world.registry.change(&actor(), vec![mutation], false).await;
    let error = change(delete(Id::new(Kind::AddressPool, "acme", "v4"), false))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RegistryError::InUse(text) if text.contains("Connection acme/users")),
        "{error}"
    );
    let error = change(delete(Id::new(Kind::Tenant, "acme", "acme"), false))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, RegistryError::InUse(text) if text.contains("3 resources")),
        "{error}"
    );
    change(delete(Id::new(Kind::Tenant, "acme", "acme"), true))
        .await
        .unwrap();
    assert!(world.registry.tenants().is_empty() && world.registry.pool("acme", "v4").is_none());
    let world = world.restart().await;
    assert!(world.registry.tenants().is_empty());
    assert!(
        !world.registry.audit(None, 10, |_| true).is_empty(),
        "the audit trail survives"
    );
}

#[tokio::test]
async fn updates_compare_versions_and_keep_secrets() {
    let world = World::new().await;
    world.apply(site("acme", "s3cret")).await.unwrap();
    let id = Id::new(Kind::Credential, "acme", "alice");
    let Some(Resource::Credential(mut current)) = world.registry.external(&id) else {
        panic!()
    };
    assert!(
        current.secret.is_empty() && !current.secret_digest.is_empty(),
        "secrets never come out"
    );
    current.description = "laptop".into();
    let update = |credential: &v1::Credential, mask: &[&str]| {
        Mutation::Update(Box::new(Resource::Credential(credential.clone())), strings(mask))
    };
    world
        .registry
        .change(&actor(), vec![update(&current, &["description"])], false)
        .await
        .unwrap();
    let peer = PeerIdentity::from_text("alice@acme.example");
    let users = world.registry.connection("acme", "users").unwrap();
    assert_eq!(
        world.registry.psk(&users, &peer).unwrap().expose(),
        b"s3cret",
        "an empty secret keeps the old"
    );
    let error = world
        .registry
        .change(&actor(), vec![update(&current, &[])], false)
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Version { .. }), "{error}");
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let world = World::new().await;
    let mutations: Vec<_> = site("acme", "s3cret")
        .into_iter()
        .map(|resource| Mutation::Apply(Box::new(resource)))
        .collect();
    let outcomes = world.registry.change(&actor(), mutations, true).await.unwrap();
    assert_eq!(outcomes.len(), 4);
    assert!(outcomes[0].fields.iter().any(|field| field.path == "remote_ids"));
    assert!(world.registry.tenants().is_empty());
    assert!(world.registry.audit(None, 10, |_| true).is_empty());
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_sealed_at_rest() {
    let world = World::new().await;
    world.apply(site("acme", "very-s3cret-key")).await.unwrap();
    let database = world.directory.path().join("config.db");
    let world = world.restart().await;
    let users = world.registry.connection("acme", "users").unwrap();
    let peer = PeerIdentity::from_text("alice@acme.example");
    assert_eq!(
        world.registry.psk(&users, &peer).unwrap().expose(),
        b"very-s3cret-key"
    );
    for file in [database.clone(), database.with_extension("db-wal")] {
        let octets = std::fs::read(file).unwrap_or_default();
        let found = octets.windows(15).any(|window| window == b"very-s3cret-key");
        assert!(!found, "the key stands in clear in the file");
    }
}

#[tokio::test]
async fn another_writer_is_seen_by_the_watch() {
    let world = World::new().await;
    let other = Registry::open(
        world.store.clone(),
        Arc::new(TestSealer),
        Arc::new(crate::proposal::SyntaxCheck),
    )
    .await
    .unwrap();
    let mut changes = other.changes();
    world.apply(site("acme", "s3cret")).await.unwrap();
    while other.connection("acme", "users").is_none() || other.pool("acme", "v4").is_none() {
        changes.recv().await.unwrap();
    }
    let resource = Resource::Tenant(v1::Tenant {
        description: "changed".into(),
        ..tenant("acme")
    });
    let change = vec![Mutation::Apply(Box::new(resource))];
    other.change(&actor(), change, false).await.unwrap();
    while world.registry.tenant("acme").unwrap().description != "changed" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_unknown_identity_gets_a_steady_decoy() {
    let world = World::new().await;
    let peer = PeerIdentity::from_text("nobody@acme.example");
    let decoy = world.registry.decoy_psk(&peer);
    assert_eq!(decoy, world.registry.decoy_psk(&peer));
    assert_ne!(
        decoy,
        world
            .registry
            .decoy_psk(&PeerIdentity::from_text("else@acme.example"))
    );
    assert!(decoy.len() >= 16);
}

#[tokio::test]
async fn every_rejected_candidate_says_why() {
    let world = World::new().await;
    let mut resources = site("acme", "s3cret");
    let off = v1::Connection {
        disabled: true,
        ..connection("acme", "off", &["*"])
    };
    let elsewhere = v1::Connection {
        local_addresses: strings(&["203.0.113.9"]),
        ..connection("acme", "elsewhere", &["*"])
    };
    resources.extend([Resource::Connection(off), Resource::Connection(elsewhere)]);
    world.apply(resources).await.unwrap();
    let peer = PeerIdentity::from_text("eve@evil.example");
    let found = world.registry.resolve(&query(&peer, None));
    assert!(found.chosen.is_none());
    let reason = |name: &str| {
        &found
            .candidates
            .iter()
            .find(|note| note.connection == name)
            .unwrap()
            .reason
    };
    assert!(reason("users").contains("eve@evil.example"));
    assert!(reason("off").contains("disabled"));
    assert!(reason("elsewhere").contains("203.0.113.9"));
    assert_eq!(found.failure, Some(crate::attempt::FailureKind::Disabled));
    let certificate = Query {
        method: Some(crate::resolve::Method::Certificate),
        ..query(&peer, None)
    };
    let alice = PeerIdentity::from_text("alice@acme.example");
    let found = world.registry.resolve(&Query {
        peer_id: &alice,
        ..certificate
    });
    assert_eq!(found.failure, Some(crate::attempt::FailureKind::AuthMethod));
}

#[tokio::test]
async fn the_narrower_connection_wins() {
    let world = World::new().await;
    let mut resources = site("acme", "s3cret");
    resources.push(Resource::Connection(connection("acme", "anyone", &["*"])));
    resources.push(Resource::Connection(connection(
        "acme",
        "just-alice",
        &["alice@acme.example"],
    )));
    world.apply(resources).await.unwrap();
    let chosen = |id: &str| {
        let found = world.registry.resolve(&query(&PeerIdentity::from_text(id), None));
        (found.chosen.unwrap().name.clone(), found.alternatives.len())
    };
    assert_eq!(chosen("alice@acme.example"), ("just-alice".into(), 2));
    assert_eq!(chosen("bob@acme.example"), ("users".into(), 1));
    assert_eq!(chosen("bob@else.example"), ("anyone".into(), 0));
}

#[tokio::test]
async fn a_key_decides_between_equal_tenants() {
    let world = World::new().await;
    world.apply(site("one", "x")).await.unwrap();
    let mut two = site("two", "y");
    two[3] = Resource::Credential(psk("two", "bob", &["bob@acme.example"], "y"));
    world.apply(two).await.unwrap();
    let peer = PeerIdentity::from_text("bob@acme.example");
    let found = world.registry.resolve(&query(&peer, None));
    assert_eq!(found.chosen.unwrap().tenant, "two");
    assert!(
        found.candidates[1].reason.contains("no pre-shared key"),
        "{:?}",
        found.candidates
    );
}

#[tokio::test]
async fn weak_groups_are_opted_into() {
    let world = World::new().await;
    let mut resources = site("acme", "s3cret");
    let weak = v1::Connection {
        ike_proposals: strings(&["aes256-sha1-modp1024"]),
        ..connection("acme", "windows", &["*"])
    };
    resources.push(Resource::Connection(weak));
    let text = world.apply(resources.clone()).await.unwrap_err().to_string();
    assert!(
        text.contains("modp1024, which is weak; allowed: stronger algorithms, or allow_weak_algorithms"),
        "{text}"
    );
    resources[1] = Resource::Tenant(v1::Tenant {
        allow_weak_algorithms: true,
        ..tenant("acme")
    });
    world.apply(resources).await.unwrap();
}

/// The follower runs on another thread: whoever publishes first, a change is visible when its call returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_is_visible_when_it_returns() {
    let world = World::new().await;
    for round in 0..200_u32 {
        let name = format!("t{round}");
        world.apply(site(&name, "s3cret")).await.unwrap();
        assert!(world.registry.tenant(&name).is_some());
        assert!(world.registry.connection(&name, "users").is_some());
        assert!(world.registry.pool(&name, "v4").is_some());
        let id = Id::new(Kind::Tenant, &name, &name);
        let delete = Mutation::Delete {
            id,
            version: String::new(),
            cascade: true,
        };
        world
            .registry
            .change(&actor(), vec![delete], false)
            .await
            .unwrap();
        assert!(world.registry.tenant(&name).is_none() && world.registry.pool(&name, "v4").is_none());
    }
}
