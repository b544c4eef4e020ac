//! Every rule of validation, by the field that it names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use api::v1;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::model::{Auth, CredentialKind};
use crate::proposal::SyntaxCheck;
use crate::seal::Sealer;
use crate::testing::{
    TestSealer, connection as good_connection, pool as good_pool, psk, strings, tenant as good_tenant,
};

/// The fields that a result names.
fn fields<T: std::fmt::Debug>(result: Result<T, Violations>) -> Vec<String> {
    result
        .unwrap_err()
        .list
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

fn check_connection(change: impl FnOnce(&mut v1::Connection)) -> Result<crate::Connection, Violations> {
    let mut external = good_connection("acme", "users", &["*"]);
    change(&mut external);
    connection(&external, &SyntaxCheck)
}

#[test]
fn a_plain_connection_gets_its_defaults() {
    let connection = check_connection(|_| {}).unwrap();
    assert_eq!(connection.lifetimes.ike_secs, 14_400);
    assert_eq!(connection.lifetimes.rekey_margin_secs, 360);
    assert_eq!((connection.dpd_secs, connection.replay_window), (Some(30), 1_024));
    assert_eq!(connection.auth, Auth::Psk { credentials: vec![] });
    let off = check_connection(|c| c.dpd_secs = Some(0)).unwrap();
    assert_eq!(off.dpd_secs, None);
}

#[test]
fn wrong_connections_name_the_field() {
    type Change = fn(&mut v1::Connection);
    let cases: &[(&str, Change)] = &[
        ("tenant", |c| c.tenant.clear()),
        ("tenant", |c| c.tenant = "Acme".into()),
        ("name", |c| c.name = "a/b".into()),
        ("name", |c| c.name = "x".repeat(64)),
        ("description", |c| c.description = "x".repeat(201)),
        ("local_addresses[0]", |c| {
            c.local_addresses = strings(&["gateway"])
        }),
        ("local_addresses[0]", |c| {
            c.local_addresses = strings(&["0.0.0.0"])
        }),
        ("local_id", |c| c.local_id = "*.example".into()),
        ("remote_ids", |c| c.remote_ids.clear()),
        ("remote_ids[1]", |c| c.remote_ids = strings(&["a", "b*c"])),
        ("remote_ids[1]", |c| c.remote_ids = strings(&["a", "a"])),
        ("auth", |c| c.auth = 0),
        ("auth", |c| c.auth = 99),
        ("certificate", |c| c.certificate = "gw".into()),
        ("psks[0]", |c| c.psks = strings(&["No Name"])),
        ("ike_proposals[0]", |c| c.ike_proposals = strings(&["aes256"])),
        ("esp_proposals[1]", |c| {
            c.esp_proposals = strings(&["aes256gcm16", "AES256GCM16"])
        }),
        ("esp_proposals", |c| {
            c.esp_proposals = (0..17).map(|_| "aes256gcm16".to_owned()).collect()
        }),
        ("local_ts", |c| c.local_ts.clear()),
        ("local_ts[0]", |c| c.local_ts = strings(&["10.0.0.0/33"])),
        ("remote_ts[0]", |c| c.remote_ts = strings(&["nowhere"])),
        ("pools", |c| c.pools.clear()),
        ("dns[0]", |c| c.dns = strings(&["dns.example"])),
        ("split_subnets[0]", |c| c.split_subnets = strings(&["10.0.0.0"])),
        ("lifetimes.ike_secs", |c| {
            c.lifetimes = Some(v1::Lifetimes {
                ike_secs: 10,
                ..Default::default()
            })
        }),
        ("lifetimes.child_octets", |c| {
            c.lifetimes = Some(v1::Lifetimes {
                child_octets: 1,
                ..Default::default()
            })
        }),
        ("lifetimes.rekey_margin_secs", |c| {
            c.lifetimes = Some(v1::Lifetimes {
                child_secs: 60,
                rekey_margin_secs: 50,
                ..Default::default()
            });
        }),
        ("dpd_secs", |c| c.dpd_secs = Some(1)),
        ("replay_window", |c| c.replay_window = Some(0)),
        ("replay_window", |c| c.replay_window = Some(8192)),
        ("rekey_policy", |c| c.rekey_policy = 77),
        ("per_resource_sas", |c| c.per_resource_sas = "9".into()),
        ("per_resource_sas", |c| c.per_resource_sas = "many".into()),
        ("mobike", |c| c.mobike = Some(true)),
    ];
    for (field, change) in cases {
        let found = fields(check_connection(change));
        assert!(found.iter().any(|found| found == field), "{field}: {found:?}");
    }
}

#[test]
fn everything_wrong_is_said_at_once_with_what_is_allowed() {
    let error = check_connection(|c| {
        c.auth = 0;
        c.replay_window = Some(1);
        c.local_ts.clear();
    })
    .unwrap_err();
    assert_eq!(error.list.len(), 3);
    let text = error.to_string();
    assert!(
        text.contains("auth is missing; allowed: psk, certificate"),
        "{text}"
    );
    assert!(text.contains("replay_window is 1; allowed: 32 to 4096"), "{text}");
}

#[test]
fn the_default_margin_always_fits() {
    for (ike_secs, child_secs) in [(300, 172_800), (604_800, 60), (300, 60), (0, 0)] {
        let lifetimes = v1::Lifetimes {
            ike_secs,
            child_secs,
            ..Default::default()
        };
        check_connection(|c| c.lifetimes = Some(lifetimes)).unwrap();
    }
}

#[test]
fn wrong_tenants_name_the_field() {
    type Change = fn(&mut v1::Tenant);
    let cases: &[(&str, Change)] = &[
        ("name", |t| t.name = "1st".into()),
        ("name", |t| t.name = "a.b".into()),
        ("routing_domain.netns", |t| {
            t.routing_domain.as_mut().unwrap().netns = "../etc".into()
        }),
        ("routing_domain.netns", |t| {
            t.routing_domain.as_mut().unwrap().netns = "..".into()
        }),
        ("routing_domain.device", |t| {
            t.routing_domain.as_mut().unwrap().device = "x".repeat(16)
        }),
        ("routing_domain.mtu", |t| {
            t.routing_domain.as_mut().unwrap().mtu = 576
        }),
        ("routing_domain.addresses[0]", |t| {
            t.routing_domain.as_mut().unwrap().addresses = strings(&["10.0.0.1"]);
        }),
        ("limits.user_limit_policy", |t| {
            t.limits = Some(v1::TenantLimits {
                user_limit_policy: 9,
                ..Default::default()
            });
        }),
        ("limits.max_children", |t| {
            t.limits = Some(v1::TenantLimits {
                max_children: 10_000,
                ..Default::default()
            });
        }),
        ("limits.rate_in.octets_per_sec", |t| {
            t.limits = Some(v1::TenantLimits {
                rate_in: Some(v1::RateLimit {
                    octets_per_sec: 999,
                    packets_per_sec: 1,
                }),
                ..Default::default()
            });
        }),
        ("limits.session_rate_out.packets_per_sec", |t| {
            t.limits = Some(v1::TenantLimits {
                session_rate_out: Some(v1::RateLimit {
                    octets_per_sec: 0,
                    packets_per_sec: 1_000_000_001,
                }),
                ..Default::default()
            });
        }),
        ("gateway_ids[0]", |t| t.gateway_ids = strings(&["a b"])),
    ];
    for (field, change) in cases {
        let mut external = good_tenant("acme");
        change(&mut external);
        let found = fields(tenant(&external));
        assert!(found.iter().any(|found| found == field), "{field}: {found:?}");
    }
}

#[test]
fn wrong_pools_name_the_field() {
    type Change = fn(&mut v1::AddressPool);
    let cases: &[(&str, Change)] = &[
        ("range", |p| p.range.clear()),
        ("range", |p| p.range = "10.0.0.1/24".into()),
        ("range", |p| p.range = "224.0.0.0/24".into()),
        ("range", |p| p.range = "0.0.0.0-0.0.0.9".into()),
        ("exclusions[0]", |p| p.exclusions = strings(&["10.99.0.0/24"])),
        ("exclusions", |p| p.exclusions = strings(&["10.9.0.0/24"])),
    ];
    for (field, change) in cases {
        let mut external = good_pool("acme", "10.9.0.0/24");
        change(&mut external);
        let found = fields(pool(&external));
        assert!(found.iter().any(|found| found == field), "{field}: {found:?}");
    }
}

#[test]
fn pools_count_what_they_can_give() {
    let external = v1::AddressPool {
        exclusions: strings(&["10.9.0.0-10.9.0.9", "10.9.0.5-10.9.0.20", "10.9.0.255"]),
        ..good_pool("acme", "10.9.0.0/24")
    };
    // .1 to .254 without .1 to .20.
    assert_eq!(pool(&external).unwrap().capacity(), 234);
}

struct Pki {
    authority: String,
    leaf: String,
    key: String,
    other_key: String,
}

fn pki() -> Pki {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["gw.example".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    Pki {
        authority: authority.pem(),
        leaf: leaf.pem(),
        key: key.serialize_pem(),
        other_key: KeyPair::generate().unwrap().serialize_pem(),
    }
}

fn private_key(certificates: &str, key: &str) -> v1::Credential {
    v1::Credential {
        tenant: "acme".into(),
        name: "gw".into(),
        kind: v1::CredentialKind::PrivateKey.into(),
        certificates: certificates.into(),
        private_key: key.into(),
        ..Default::default()
    }
}

#[test]
fn keys_have_to_belong_to_their_certificates() {
    let pki = pki();
    let good = credential(&private_key(&pki.leaf, &pki.key), None, &TestSealer).unwrap();
    let CredentialKind::PrivateKey { sealed, .. } = &good.kind else {
        panic!()
    };
    assert!(
        !sealed.windows(7).any(|window| window == b"PRIVATE"),
        "the key is sealed"
    );

    let error = credential(&private_key(&pki.leaf, &pki.other_key), None, &TestSealer).unwrap_err();
    assert!(
        error.to_string().contains("private_key does not belong"),
        "{error}"
    );
    let chain_first = format!("{}{}", pki.authority, pki.leaf);
    assert_eq!(
        fields(credential(
            &private_key(&chain_first, &pki.key),
            None,
            &TestSealer
        )),
        ["private_key"]
    );
    assert_eq!(
        fields(credential(&private_key("", &pki.key), None, &TestSealer)),
        ["certificates"]
    );
    assert_eq!(
        fields(credential(&private_key(&pki.leaf, "junk"), None, &TestSealer)),
        ["private_key"]
    );
    assert_eq!(
        fields(credential(&private_key(&pki.leaf, ""), None, &TestSealer)),
        ["private_key"]
    );
    let mixed = format!("{}{}", pki.leaf, pki.key);
    assert_eq!(
        fields(credential(&private_key(&mixed, &pki.key), None, &TestSealer)),
        ["certificates"]
    );
}

#[test]
fn a_renewed_certificate_keeps_the_key() {
    let pki = pki();
    let before = credential(&private_key(&pki.leaf, &pki.key), None, &TestSealer).unwrap();
    let with_chain = format!("{}{}", pki.leaf, pki.authority);
    let after = credential(&private_key(&with_chain, ""), Some(&before), &TestSealer).unwrap();
    assert_eq!(after.secret_digest, before.secret_digest);
    assert_ne!(after, before);
    let same = credential(&private_key(&pki.leaf, &pki.key), Some(&before), &TestSealer).unwrap();
    assert_eq!(same, before, "the same key again changes nothing");
}

#[test]
fn authorities_have_to_be_authorities() {
    let pki = pki();
    let ca = |certificates: &str| v1::Credential {
        tenant: "acme".into(),
        name: "ca".into(),
        kind: v1::CredentialKind::CaCertificate.into(),
        certificates: certificates.into(),
        ..Default::default()
    };
    credential(&ca(&pki.authority), None, &TestSealer).unwrap();
    let error = credential(&ca(&pki.leaf), None, &TestSealer).unwrap_err();
    assert!(
        error.to_string().contains("is no certificate of an authority"),
        "{error}"
    );
    let with_key = v1::Credential {
        private_key: pki.key,
        ..ca(&pki.authority)
    };
    assert_eq!(fields(credential(&with_key, None, &TestSealer)), ["private_key"]);
}

#[test]
fn wrong_keys_are_refused_without_being_shown() {
    for secret in ["0xnothex-hush", "0s!!hush!!", &"hush".repeat(400)] {
        let error = credential(&psk("acme", "alice", &["alice"], secret), None, &TestSealer).unwrap_err();
        assert_eq!(error.list[0].field, "secret");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
    assert_eq!(
        fields(credential(&psk("acme", "alice", &[], "x"), None, &TestSealer)),
        ["ids"]
    );
    assert_eq!(
        fields(credential(&psk("acme", "alice", &["a"], ""), None, &TestSealer)),
        ["secret"]
    );
    let before = credential(&psk("acme", "alice", &["a"], "x"), None, &TestSealer).unwrap();
    let pki = pki();
    let other = v1::Credential {
        name: "alice".into(),
        ..private_key(&pki.leaf, &pki.key)
    };
    assert_eq!(fields(credential(&other, Some(&before), &TestSealer)), ["kind"]);
}

#[test]
fn a_sealed_secret_opens_only_in_its_place() {
    let one = credential(&psk("acme", "alice", &["a"], "x"), None, &TestSealer).unwrap();
    let CredentialKind::Psk { sealed, .. } = &one.kind else {
        panic!()
    };
    assert_eq!(
        TestSealer
            .open(&credential_context("acme", "alice"), sealed)
            .unwrap()
            .expose(),
        b"x"
    );
    assert!(
        TestSealer
            .open(&credential_context("acme", "bob"), sealed)
            .is_err()
    );
    assert!(
        TestSealer
            .open(&credential_context("evil", "alice"), sealed)
            .is_err()
    );
}

proptest! {
    #[test]
    fn whatever_is_written_is_an_answer_and_never_a_panic(
        name in "\\PC{0,20}",
        range in "[0-9a-f.:/-]{0,30}",
        ids in prop::collection::vec("\\PC{0,30}", 0..4),
        ts in prop::collection::vec("[0-9a-f.:/\\[\\]tcpud-]{0,30}", 0..4),
        proposals in prop::collection::vec("[a-z0-9-]{0,30}", 0..4),
        numbers in prop::array::uniform6(any::<u32>()),
    ) {
        let external = v1::Connection {
            tenant: name.clone(),
            name: name.clone(),
            remote_ids: ids.clone(),
            local_ts: ts.clone(),
            remote_ts: ts,
            ike_proposals: proposals.clone(),
            esp_proposals: proposals,
            auth: numbers[0] as i32 % 4,
            dpd_secs: Some(numbers[1]),
            replay_window: Some(numbers[2]),
            lifetimes: Some(v1::Lifetimes {
                ike_secs: numbers[3],
                child_secs: numbers[4],
                rekey_margin_secs: numbers[5],
                child_octets: u64::from(numbers[0]),
            }),
            ..Default::default()
        };
        let _ = connection(&external, &SyntaxCheck);
        let exclusions = vec![range.clone()];
        let _ = pool(&v1::AddressPool { name: name.clone(), range: range.clone(), exclusions, ..good_pool("acme", "") });
        let _ = pool(&v1::AddressPool { range, ..good_pool("acme", "") });
        let _ = credential(&psk("acme", &name, &[], &ids.concat()), None, &TestSealer);
    }

    /// What comes out can be put in again: the external form of a valid resource is that resource.
    #[test]
    fn valid_connections_survive_the_way_out_and_in(
        dpd in prop::option::of(5..3600_u32),
        window in 32..4096_u32,
        child_secs in 60..172_800_u32,
        weak in any::<bool>(),
        resources in "off|auto|[1-8]",
    ) {
        let external = v1::Connection {
            per_resource_sas: resources,
            dpd_secs: dpd,
            replay_window: Some(window),
            lifetimes: Some(v1::Lifetimes { child_secs, ..Default::default() }),
            esp_proposals: if weak { strings(&["aes128-sha1"]) } else { Vec::new() },
            split_subnets: strings(&["10.0.0.0/8", "2001:db8::/32"]),
            local_ts: strings(&["10.0.0.0/8[tcp/443]", "2001:db8::1-2001:db8::9"]),
            local_id: "C=CH, O=Acme\\, Inc., CN=gw".into(),
            ..good_connection("acme", "users", &["*@acme.example", "key:00ff", "CN=*"])
        };
        let inside = connection(&external, &SyntaxCheck).unwrap();
        let object = crate::object::Object::Connection(inside.clone().into());
        let api::v1::resource::Resource::Connection(out) = crate::external::to_api(&object, None) else { panic!() };
        prop_assert_eq!(connection(&out, &SyntaxCheck).unwrap(), inside);
    }
}
