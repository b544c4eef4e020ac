//! Tenants told apart by what certificates and their authorities say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use api::v1;
use api::v1::resource::Resource;
use crypto::cert::Certificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::testing::{World, connection, pool, strings, tenant};

/// An authority with the gateway's certificate of a tenant.
struct Pki {
    authority: String,
    leaf: String,
    key: String,
}

fn pki(name: &str) -> Pki {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} root"));
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![format!("{name}.vpn.example"), "203.0.113.5".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    Pki {
        authority: authority.pem(),
        leaf: leaf.pem(),
        key: key.serialize_pem(),
    }
}

fn site(name: &str, pki: &Pki) -> Vec<Resource> {
    let credential = |credential: &str, kind: v1::CredentialKind, certificates: &str, key: &str| {
        Resource::Credential(v1::Credential {
            tenant: name.into(),
            name: credential.into(),
            kind: kind.into(),
            certificates: certificates.into(),
            private_key: key.into(),
            ..Default::default()
        })
    };
    let users = v1::Connection {
        auth: v1::AuthMethod::Certificate.into(),
        certificate: "gw".into(),
        ..connection(name, "users", &["*"])
    };
    vec![
        Resource::Tenant(v1::Tenant {
            trust_anchors: strings(&["ca"]),
            ..tenant(name)
        }),
        Resource::AddressPool(pool(name, "10.9.0.0/24")),
        credential("ca", v1::CredentialKind::CaCertificate, &pki.authority, ""),
        credential("gw", v1::CredentialKind::PrivateKey, &pki.leaf, &pki.key),
        Resource::Connection(users),
    ]
}

async fn world() -> (World, Pki, Pki) {
    let world = World::new().await;
    let (one, two) = (pki("one"), pki("two"));
    world
        .apply(site("one", &one).into_iter().chain(site("two", &two)).collect())
        .await
        .unwrap();
    (world, one, two)
}

fn authority(pki: &Pki) -> Certificate {
    Certificate::from_pem(pki.authority.as_bytes()).unwrap().remove(0)
}

fn query(peer: &PeerIdentity) -> Query<'_> {
    Query {
        local_addr: "198.51.100.1".parse().unwrap(),
        remote_addr: "192.0.2.7".parse().unwrap(),
        peer_id: peer,
        wanted_id: None,
        cert_authorities: &[],
        peer_issuers: &[],
        method: Some(Method::Certificate),
    }
}

#[tokio::test]
async fn the_name_in_the_certificate_answers_the_idr() {
    let (world, ..) = world().await;
    let peer = PeerIdentity::from_text("alice");
    for name in ["one", "two"] {
        let wanted = PeerIdentity::from_text(&format!("{name}.vpn.example"));
        let found = world.registry.resolve(&Query {
            wanted_id: Some(&wanted),
            ..query(&peer)
        });
        assert_eq!(found.chosen.unwrap().tenant, name);
        assert!(found.alternatives.is_empty());
    }
    let wanted = PeerIdentity::from_text("three.vpn.example");
    let found = world.registry.resolve(&Query {
        wanted_id: Some(&wanted),
        ..query(&peer)
    });
    assert!(found.chosen.is_none());
    assert_eq!(found.failure, Some(FailureKind::NoConnection));
    assert!(
        found
            .candidates
            .iter()
            .all(|note| note.reason.contains("three.vpn.example"))
    );
}

/// Windows sends no IDr: the authorities that it asks for tell its tenant.
#[tokio::test]
async fn the_authority_asked_for_tells_the_tenant() {
    let (world, _, two) = world().await;
    let peer = PeerIdentity::from_text("10.1.2.3");
    let hashes = vec![vec![1; 20], authority(&two).spki_sha1().to_vec()];
    let found = world.registry.resolve(&Query {
        cert_authorities: &hashes,
        ..query(&peer)
    });
    assert_eq!(found.chosen.unwrap().tenant, "two");
    assert!(
        found.candidates[1].reason.contains("authority"),
        "{:?}",
        found.candidates
    );
}

#[tokio::test]
async fn the_peers_own_authority_tells_the_tenant() {
    let (world, _, two) = world().await;
    let peer = PeerIdentity::from_text("alice");
    let issuers = vec![authority(&two).subject_dn_der().to_vec()];
    let found = world.registry.resolve(&Query {
        peer_issuers: &issuers,
        ..query(&peer)
    });
    assert_eq!(found.chosen.unwrap().tenant, "two");
}

#[tokio::test]
async fn equals_are_said_to_be_equal() {
    let (world, ..) = world().await;
    let peer = PeerIdentity::from_text("alice");
    let found = world.registry.resolve(&query(&peer));
    assert_eq!(found.chosen.unwrap().tenant, "one");
    assert_eq!(found.alternatives.len(), 1);
    assert!(
        found.candidates[0]
            .reason
            .contains("equals (one of another tenant)"),
        "{:?}",
        found.candidates
    );
}

#[tokio::test]
async fn keys_and_anchors_are_the_tenants_own() {
    let (world, one, two) = world().await;
    for (name, pki) in [("one", &one), ("two", &two)] {
        let users = world.registry.connection(name, "users").unwrap();
        let anchors = world.registry.anchors(&users);
        assert_eq!(anchors.certificates().len(), 1);
        assert_eq!(anchors.certificates()[0].der(), authority(pki).der());
        let key = world.registry.local_key(&users).unwrap();
        assert_eq!(
            key.chain,
            vec![
                Certificate::from_pem(pki.leaf.as_bytes()).unwrap()[0]
                    .der()
                    .to_vec()
            ]
        );
        assert!(
            world
                .registry
                .psk(&users, &PeerIdentity::from_text("alice"))
                .is_none()
        );
    }
}

#[tokio::test]
async fn a_credential_that_does_not_open_is_local_trouble() {
    let (world, ..) = world().await;
    let users = world.registry.connection("one", "users").unwrap();
    let mut other = (*users).clone();
    other.auth = Auth::Certificate {
        certificate: "ca".into(),
        trust_anchors: vec![],
    };
    let error = world.registry.local_key(&other).err().unwrap();
    assert!(error.to_string().contains("one/ca"), "{error}");
}
