//! Logins that succeed.

use crypto::HashAlgorithm;
use ike::config::{Assigned, ConfigRequest};
use ike::wire::AuthMethod;
use ike::{Event, KeyLogTable, Phase, Role};

use crate::pair::{Setup, cert, certificate, id, ike, policy, psk};

#[test]
fn pre_shared_key() {
    let mut pair = Setup::psk().run();
    pair.assert_up();
    assert_eq!(
        pair.initiator.steps(),
        ["dh", "sa_init", "nat", "auth_request", "auth_answer", "auth"]
    );
    assert_eq!(
        pair.responder.steps(),
        ["dh", "sa_init", "nat", "auth_request", "auth", "child"]
    );
    let job = &pair.responder.jobs[0];
    assert_eq!(job.peer_id, id("alice@example.org"));
    assert_eq!((job.wanted_local_id.as_ref(), job.initial_contact), (None, true));
    assert_eq!(pair.initiator.sa.phase(), Phase::Established);
    // Four datagrams, and nothing more to say.
    assert_eq!(pair.count, 4);
    assert!(pair.responder.sent[1].durable);
    assert!(!pair.tick() || pair.count >= 4);
}

#[test]
fn every_group_prf_and_cipher() {
    for proposal in [
        "aes128-sha1-modp2048",
        "aes192-sha256-modp3072",
        "aes256-sha384-modp4096",
        "aes256-sha512-ecp256",
        "aes128gcm16-prfsha256-ecp384",
        "aes256gcm16-prfsha512-ecp521",
        "chacha20poly1305-prfsha384-x25519",
        "aes256ctr-sha256-x25519",
    ] {
        let mut setup = Setup::psk();
        setup.init.proposals = ike(proposal);
        setup.config.proposals = ike(proposal);
        setup.run().assert_up();
    }
}

/// Signs with each kind of key, by method 14 and by the methods from before RFC 7427.
#[test]
fn certificates_of_every_kind() {
    let old = [
        ("rsa2048", AuthMethod::RSA_SIGNATURE),
        ("rsa4096", AuthMethod::RSA_SIGNATURE),
        ("p256", AuthMethod::ECDSA_P256),
        ("p384", AuthMethod::ECDSA_P384),
        ("p521", AuthMethod::ECDSA_P521),
    ];
    for (name, method) in old {
        let mut setup = Setup::new(cert("alice@example.org", name), cert("gw.example.org", name));
        setup.config.hashes = Vec::new();
        let pair = setup.run();
        pair.assert_up();
        assert_eq!(pair.responder.jobs[0].peer_hashes, None);
        assert_eq!(
            pair.responder.jobs[0].peer_auth.as_ref().unwrap().0,
            method,
            "{name}"
        );
        assert_eq!(
            pair.initiator.jobs[1].peer_auth.as_ref().unwrap().0,
            method,
            "{name}"
        );
    }
    for name in ["rsa2048", "rsa4096", "p256", "p384", "p521", "ed25519"] {
        let setup = Setup::new(cert("alice@example.org", name), cert("gw.example.org", name));
        let pair = setup.run();
        pair.assert_up();
        let method = pair.responder.jobs[0].peer_auth.as_ref().unwrap().0;
        assert_eq!(method, AuthMethod::DIGITAL_SIGNATURE, "{name}");
    }
}

#[test]
fn key_on_one_side_certificate_on_the_other() {
    let (mut client, mut gateway) = (psk("alice@example.org"), cert("gw.example.org", "p384"));
    std::mem::swap(&mut client.peer, &mut gateway.peer);
    Setup::new(client, gateway).run().assert_up();
}

#[test]
fn identities_of_every_kind_that_a_certificate_can_name() {
    for text in [
        "gw.example.org",
        "GW.Example.Org",
        "alice@example.org",
        "192.0.2.1",
        "C=DE, O=Example, CN=p256",
    ] {
        Setup::new(cert(text, "p256"), cert("gw.example.org", "p256"))
            .run()
            .assert_up();
    }
}

/// Two certificates of RSA 4096 do not fit a datagram: both directions of IKE_AUTH come in fragments.
#[test]
fn a_long_chain_in_fragments() {
    let mut setup = Setup::new(
        cert("alice@example.org", "rsa4096"),
        cert("gw.example.org", "rsa4096"),
    );
    setup.init.certreq = vec![certificate("rsa-root").spki_sha1()];
    setup.init.fragment_size = 576;
    setup.config.fragment_size = 576;
    let pair = setup.run();
    pair.assert_up();
    assert!(pair.responder.sa.counters().fragments_in > 4);
    assert!(pair.initiator.sa.counters().fragments_in > 4);
    assert!(
        pair.responder
            .sent
            .iter()
            .skip(1)
            .all(|transmit| transmit.bytes.len() <= 576)
    );
    let job = &pair.initiator.jobs[0];
    assert!(job.cert_requested);
    assert_eq!(job.cert_authorities, [certificate("rsa-root").spki_sha1()]);
}

/// With many tenants a CERTREQ that names all authorities would not fit IKE_SA_INIT: it then names none, and is sent.
#[test]
fn a_certificate_is_asked_for_however_many_authorities_there_are() {
    for (count, named) in [(0usize, None), (24, Some(24)), (25, Some(0))] {
        let mut setup = Setup::new(cert("alice@example.org", "p256"), cert("gw.example.org", "p256"));
        setup.init.certreq = vec![[7; 20]; count];
        let pair = setup.run();
        pair.assert_up();
        let job = &pair.initiator.jobs[0];
        assert_eq!(job.cert_requested.then_some(job.cert_authorities.len()), named);
    }
}

//= rfc7383#section-2.3
//= type=test
//# The initiator indicates its support for IKE fragmentation and
//# willingness to use it
#[test]
fn no_fragments_unless_both_announce_them() {
    for (ours, theirs) in [(false, true), (true, false)] {
        let mut setup = Setup::new(
            cert("alice@example.org", "rsa4096"),
            cert("gw.example.org", "rsa4096"),
        );
        setup.init.fragmentation = ours;
        setup.config.fragmentation = theirs;
        let pair = setup.run();
        pair.assert_up();
        assert_eq!(pair.responder.sa.counters().fragments_in, 0);
        assert!(
            pair.responder
                .sent
                .iter()
                .any(|transmit| transmit.bytes.len() > 1500)
        );
    }
}

#[test]
fn addresses_and_dns_are_assigned() {
    let mut setup = Setup::psk();
    setup.config.config_request = Some(ConfigRequest::both());
    setup.config.child = policy(&["0.0.0.0/0", "::/0"], &["0.0.0.0/0", "::/0"]);
    setup.gateway_policy = policy(
        &["10.0.0.0/8", "2001:db8::/32"],
        &["10.9.0.5/32", "2001:db8:9::5/128"],
    );
    setup.assigned = Assigned {
        v4: Some("10.9.0.5".parse().unwrap()),
        v6: Some(("2001:db8:9::5".parse().unwrap(), 128)),
        dns: vec!["10.0.0.53".parse().unwrap()],
        subnets: vec!["10.0.0.0/8".parse().unwrap()],
        domains: Vec::new(),
    };
    let wanted = setup.assigned.clone();
    let pair = setup.run();
    pair.assert_up();
    let configured = pair.initiator.events.iter().find_map(|event| match event {
        Event::Configured(assigned) => Some(assigned.as_ref()),
        _ => None,
    });
    assert_eq!(configured, Some(&wanted));
    assert_eq!(pair.responder.jobs[0].config_request, Some(ConfigRequest::both()));
    let texts: Vec<String> = pair
        .initiator
        .child()
        .ts_local
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["10.9.0.5/32", "2001:db8:9::5/128"]);
}

#[test]
fn selectors_are_narrowed_to_what_both_want() {
    let mut setup = Setup::psk();
    setup.config.child = policy(
        &["0.0.0.0/0"],
        &["10.0.0.0/9", "10.128.0.0/16[tcp/443]", "172.16.0.0/12"],
    );
    setup.gateway_policy = policy(&["10.0.0.0/8"], &["10.9.0.5/32"]);
    let pair = setup.run();
    pair.assert_up();
    let texts: Vec<String> = pair
        .responder
        .child()
        .ts_local
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["10.0.0.0/9", "10.128.0.0/16[tcp/443]"]);
}

#[test]
fn a_group_of_child_sas_begins_with_the_login_if_both_say_so() {
    for (wants, allows) in [(true, true), (true, false), (false, true)] {
        let mut setup = Setup::psk();
        let workers = |is: bool| if is { vec![5, 6] } else { Vec::new() };
        setup.config.child.resources = workers(wants);
        setup.gateway_policy.resources = workers(allows);
        let mut pair = setup.run();
        pair.pass(std::time::Duration::from_secs(1));
        pair.assert_up();
        for side in [&pair.initiator, &pair.responder] {
            let places: Vec<String> = side
                .sa
                .established()
                .unwrap()
                .children()
                .map(|sa| format!("{} {}", sa.resource, sa.spi_in >> 29))
                .collect();
            if wants && allows {
                assert_eq!(places, ["fallback 3", "0 5", "1 6"]);
            } else {
                assert_eq!(places, ["none 3"]);
            }
        }
    }
}

#[test]
fn over_ipv6() {
    let mut setup = Setup::psk();
    setup.addresses = (
        "[2001:db8::7]:500".parse().unwrap(),
        "[2001:db8::1]:500".parse().unwrap(),
    );
    let pair = setup.run();
    pair.assert_up();
    assert!(!pair.initiator.child().encap);
    assert_eq!(pair.initiator.sa.remote().port(), 500);
}

//= rfc7296#section-2.23
//= type=test
//# However, if a NAT
//# is detected, both devices MUST use UDP encapsulation for ESP.
#[test]
fn behind_a_nat_everything_moves_to_4500() {
    let mut pair = Setup::psk().pair();
    pair.nat = Some("203.0.113.1".parse().unwrap());
    pair.run();
    pair.assert_up();
    assert_eq!(pair.initiator.sa.local(), "198.51.100.7:4500".parse().unwrap());
    assert_eq!(pair.initiator.sa.remote(), "192.0.2.1:4500".parse().unwrap());
    let child = pair.responder.child();
    assert!(child.encap);
    assert_eq!(child.remote, "203.0.113.1:14500".parse().unwrap());
    let nat = pair.responder.jobs[0].nat;
    assert_eq!((nat.supported, nat.local, nat.remote), (true, false, true));
    assert!(pair.initiator.jobs[0].nat.local);
}

#[test]
fn a_false_nat_forces_encapsulation_from_either_side() {
    for role in [Role::Initiator, Role::Responder] {
        let mut setup = Setup::psk();
        setup.config.force_encap = role == Role::Initiator;
        setup.init.force_encap = role == Role::Responder;
        let pair = setup.run();
        pair.assert_up();
        assert!(pair.initiator.child().encap, "{role}");
        assert_eq!(pair.initiator.sa.remote().port(), 4500, "{role}");
    }
}

#[test]
fn the_gateway_answers_under_the_name_asked_for() {
    let mut setup = Setup::psk();
    setup.config.remote_id = Some(id("gw.example.org"));
    setup.config.require_remote_id = true;
    let pair = setup.run();
    pair.assert_up();
    assert_eq!(pair.responder.jobs[0].wanted_local_id, Some(id("gw.example.org")));
}

/// A key log is written only on request, and names both SPIs.
#[test]
fn key_log_lines() {
    let count = |pair: &crate::pair::Pair, table| {
        let events = pair.responder.events.iter();
        events
            .filter(|event| matches!(event, Event::KeyLog(log) if log.table == table))
            .count()
    };
    let mut setup = Setup::psk();
    setup.key_log = true;
    let pair = setup.run();
    pair.assert_up();
    assert_eq!(
        (count(&pair, KeyLogTable::Ike), count(&pair, KeyLogTable::Esp)),
        (1, 2)
    );
    let pair = Setup::psk().run();
    assert_eq!(
        (count(&pair, KeyLogTable::Ike), count(&pair, KeyLogTable::Esp)),
        (0, 0)
    );
}

/// RSA-PSS is verified, and used only towards a peer that used it.
#[test]
fn hashes_are_announced_and_respected() {
    let mut setup = Setup::new(
        cert("alice@example.org", "rsa2048"),
        cert("gw.example.org", "rsa2048"),
    );
    setup.config.hashes = vec![HashAlgorithm::Sha512];
    setup.init.hashes = vec![HashAlgorithm::Sha384];
    let pair = setup.run();
    pair.assert_up();
    let job = &pair.responder.jobs[0];
    assert_eq!(job.peer_hashes, Some(vec![HashAlgorithm::Sha512]));
    assert_eq!(job.our_hashes, [HashAlgorithm::Sha384]);
    let steps: Vec<_> = pair
        .initiator
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Step { name: "auth", detail } => Some(detail.as_str()),
            _ => None,
        })
        .collect();
    assert!(steps[0].contains("RSA_PKCS1"), "{steps:?}");
}
