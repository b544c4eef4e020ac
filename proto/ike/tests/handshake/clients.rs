//! Clients of the world, scripted after what they send. A gateway that fails one of these fails its users.

use crypto::sign::{PrivateKey, SignatureScheme};
use crypto::{Group, HashAlgorithm};
use ike::config::Assigned;
use ike::wire::{
    AuthMethod, CertEncoding, CertPayload, IdType, Notify, NotifyType, Payload, Payloads, Proposal,
    ProtocolId, Transform,
};
use ike::{FailureKind, Identity, InitPolicy};

use crate::pair::{Proof, cert, chain, ike, pem, policy, psk};
use crate::script::{
    Script, address_request, any_v4, any_v6, enc, error, esp_offer, identity, proposal, selectors, status, t,
};

const SHA1: u16 = 2;
const SHA256: u16 = 12;

fn ike_proposal(number: u8, transforms: Vec<Transform>) -> Proposal {
    proposal(number, ProtocolId::IKE, &[], transforms)
}

/// CBC-256, SHA-256, one group.
fn cbc(number: u8, group: u16) -> Proposal {
    ike_proposal(number, vec![enc(12, 256), t(2, 5), t(3, SHA256), t(4, group)])
}

/// A gateway with pool address 10.9.0.5.
fn gateway(proposals: &str, proof: Proof, group: Group) -> Script {
    let mut script = Script::new(InitPolicy::new(ike(proposals)), proof, group);
    script.gateway.policy = policy(&["0.0.0.0/0"], &["10.9.0.5/32"]);
    script.gateway.assigned = Assigned {
        v4: Some("10.9.0.5".parse().unwrap()),
        dns: vec!["10.0.0.53".parse().unwrap()],
        ..Assigned::default()
    };
    script
}

/// A certificate login by a method from before RFC 7427.
fn sign_with(
    script: &mut Script,
    id: &ike::wire::Identification,
    key: &str,
    scheme: SignatureScheme,
) -> Vec<u8> {
    let key = PrivateKey::from_pem(&pem(&format!("{key}.key"))).unwrap();
    let octets = script.octets().octets(&Identity::from(id));
    key.sign(scheme, &octets).unwrap()
}

fn certificates(name: &str) -> impl Iterator<Item = Payload> {
    chain(name).into_iter().map(|data| {
        Payload::Cert(CertPayload {
            encoding: CertEncoding::X509_SIGNATURE,
            data,
        })
    })
}

/// Windows 10 with its default algorithms: refused, with the remedy in words; a tenant's opt-in lets it in.
#[test]
fn windows_with_modp1024_alone() {
    let offers = || {
        let family = |cipher: Transform| {
            let transforms = vec![cipher, t(2, 2), t(2, 5), t(3, SHA1), t(3, SHA256), t(4, 2)];
            transforms
        };
        vec![
            ike_proposal(1, family(enc(12, 256))),
            ike_proposal(2, family(t(1, 3))),
        ]
    };
    let mut script = gateway("aes256-sha256-modp2048", psk("gw.example.org"), Group::Modp1024);
    let answer = script.init(offers(), Vec::new());
    assert_eq!(answer.error().unwrap().kind, NotifyType::NO_PROPOSAL_CHOSEN);
    assert!(answer.header.spi_r.is_zero());
    let failure = script.gateway.failure();
    assert_eq!(failure.kind, FailureKind::NoProposal);
    assert!(
        failure.reason.contains("Set-VpnConnectionIPsecConfiguration"),
        "{failure}"
    );
    assert_eq!(failure.offered.len(), 2);
    assert!(
        failure.difference.as_ref().unwrap().contains("MODP-1024"),
        "{failure:?}"
    );

    let mut script = gateway("aes256-sha256-modp1024", psk("gw.example.org"), Group::Modp1024);
    assert!(script.init(offers(), Vec::new()).sa().is_some());
}

/// Windows with a machine certificate: no IDr, no hash algorithms, RSA with SHA-1 by method 1, vendor IDs, selectors of
/// both families as wide as can be.
#[test]
fn windows_with_a_machine_certificate() {
    let mut script = gateway(
        "aes256-sha256-modp2048",
        cert("gw.example.org", "rsa2048"),
        Group::Modp2048,
    );
    let vendor = |octet: u8| Payload::VendorId(vec![octet; 16]);
    script.init(
        vec![cbc(1, 14)],
        [vendor(1), vendor(2)].into_iter().chain(script.nat()).collect(),
    );
    let subject = crate::pair::certificate("rsa2048").subject_dn_der().to_vec();
    let id = identity(IdType::DER_ASN1_DN, &subject);
    let data = sign_with(
        &mut script,
        &id,
        "rsa2048",
        SignatureScheme::RsaPkcs1(HashAlgorithm::Sha1),
    );
    let mut payloads = vec![Payload::IdI(id)];
    payloads.extend(certificates("rsa2048"));
    payloads.push(Payload::CertReq {
        encoding: CertEncoding::X509_SIGNATURE,
        data: vec![9; 40 * 20],
    });
    payloads.push(Payload::Auth {
        method: AuthMethod::RSA_SIGNATURE,
        data,
    });
    payloads.push(status(NotifyType::MOBIKE_SUPPORTED));
    payloads.push(address_request());
    payloads.push(Payload::Sa(esp_offer()));
    payloads.push(Payload::TsI(vec![any_v4(), any_v6()]));
    payloads.push(Payload::TsR(vec![any_v4(), any_v6()]));
    let answer = script.auth(&payloads);
    assert_eq!(error(&answer), None, "{:#?}", script.gateway.events);
    let view = Payloads(&answer);
    assert_eq!(view.auth().unwrap().0, AuthMethod::RSA_SIGNATURE);
    assert!(view.certs().count() > 0);
    assert_eq!(selectors(view.ts_i().unwrap()), ["10.9.0.5/32"]);
    let job = &script.gateway.jobs[0];
    assert_eq!(
        (
            job.wanted_local_id.as_ref(),
            job.mobike,
            job.cert_authorities.len()
        ),
        (None, true, 40)
    );
    assert_eq!(job.vendor_ids.len(), 2);
}

/// Apple: one proposal, IDr, no CERTREQ and no hash algorithms. The chain comes all the same, by method 9.
#[test]
fn apple_without_certreq_and_hashes() {
    let mut script = gateway(
        "aes256-sha256-modp2048",
        cert("gw.example.org", "p256"),
        Group::Modp2048,
    );
    script.init(vec![cbc(1, 14)], script.nat().to_vec());
    let id = identity(IdType::FQDN, b"gw.example.org");
    let data = sign_with(
        &mut script,
        &id,
        "p256",
        SignatureScheme::EcdsaRaw(crypto::sign::Curve::P256),
    );
    let mut payloads = vec![
        Payload::IdI(id.clone()),
        status(NotifyType::INITIAL_CONTACT),
        Payload::IdR(id),
    ];
    payloads.extend(certificates("p256"));
    payloads.push(Payload::Auth {
        method: AuthMethod::ECDSA_P256,
        data,
    });
    payloads.push(address_request());
    payloads.push(status(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED));
    payloads.push(status(NotifyType::NON_FIRST_FRAGMENTS_ALSO));
    payloads.push(Payload::Sa(esp_offer()));
    payloads.push(Payload::TsI(vec![any_v4(), any_v6()]));
    payloads.push(Payload::TsR(vec![any_v4(), any_v6()]));
    let answer = script.auth(&payloads);
    let view = Payloads(&answer);
    assert_eq!(view.auth().unwrap().0, AuthMethod::ECDSA_P256);
    assert!(view.certs().count() > 0);
    assert!(script.gateway.jobs[0].initial_contact && !script.gateway.jobs[0].cert_requested);
    // What was not announced is not announced back.
    assert!(
        Payloads(&script.keyed().payloads)
            .notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)
            .is_none()
    );
}

/// macOS starts numbering its proposals where it likes.
#[test]
fn macos_numbers_proposals_from_anywhere() {
    let mut script = gateway("aes256-sha256-modp2048", psk("gw.example.org"), Group::Modp2048);
    let answer = script.init(vec![cbc(4, 5), cbc(7, 14)], Vec::new());
    assert_eq!(answer.sa().unwrap().proposals[0].number, 7);
}

/// Android: MODP 4096 first, no ECP; a gateway without it asks for another group; IDi is a KEY_ID; hashes announced, and yet
/// no PSS; the child offered without key exchange.
#[test]
fn android_guesses_the_group_and_is_a_key_id() {
    let mut script = gateway(
        "aes256-sha256-x25519-modp2048",
        psk("gw.example.org"),
        Group::Modp4096,
    );
    let offers = || {
        let groups = [16, 31, 15, 14].map(|group| t(4, group));
        let transforms = [enc(12, 256), enc(12, 128), t(2, 5), t(3, SHA256)];
        vec![ike_proposal(1, transforms.into_iter().chain(groups).collect())]
    };
    let answer = script.init(offers(), Vec::new());
    let notify = answer.notify(NotifyType::INVALID_KE_PAYLOAD).expect("a group");
    assert_eq!(notify.data, [0, 31]);
    assert!(answer.header.spi_r.is_zero());
    // The same wrong request again: the same answer again.
    let again = script.deliver(script.request.clone());
    assert_eq!(ike::wire::Message::decode(&again[0]).unwrap(), answer);
    script.pair = crypto::dh::KeyPair::generate(Group::Curve25519, &mut script.random).unwrap();
    assert!(script.init(offers(), Vec::new()).sa().is_some());
    let id = identity(IdType::KEY_ID, b"\x00device 42");
    let answer = script.psk_login(&id, crate::pair::PSK, vec![address_request()]);
    assert_eq!(error(&answer), None, "{:#?}", script.gateway.events);
    assert_eq!(
        script.gateway.jobs[0].peer_id.to_string(),
        "keyid:0x00646576696365203432"
    );
}

#[test]
fn android_is_signed_for_with_pkcs1_although_it_announces_sha2() {
    let mut script = gateway(
        "aes256-sha256-x25519",
        cert("gw.example.org", "rsa2048"),
        Group::Curve25519,
    );
    let hashes = Notify::with_data(
        NotifyType::SIGNATURE_HASH_ALGORITHMS,
        vec![0, 1, 0, 2, 0, 3, 0, 4],
    );
    script.init(vec![cbc(1, 31)], vec![Payload::Notify(hashes)]);
    let id = identity(IdType::RFC822_ADDR, b"alice@example.org");
    let scheme = SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256);
    let identifier = scheme.algorithm_identifier().unwrap();
    let mut data = vec![u8::try_from(identifier.len()).unwrap()];
    data.extend(identifier);
    data.extend(sign_with(&mut script, &id, "rsa2048", scheme));
    let mut payloads = vec![Payload::IdI(id)];
    payloads.extend(certificates("rsa2048"));
    payloads.push(Payload::Auth {
        method: AuthMethod::DIGITAL_SIGNATURE,
        data,
    });
    payloads.extend([
        Payload::Sa(esp_offer()),
        Payload::TsI(vec![any_v4()]),
        Payload::TsR(vec![any_v4()]),
    ]);
    let answer = script.auth(&payloads);
    let (method, data) = Payloads(&answer).auth().unwrap();
    assert_eq!(method, AuthMethod::DIGITAL_SIGNATURE);
    let wanted = SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256)
        .algorithm_identifier()
        .unwrap();
    assert_eq!(data[1..=wanted.len()], wanted);
}

/// The strongSwan app claims a NAT so that ESP comes in UDP.
#[test]
fn strongswan_app_claims_a_nat() {
    let mut script = gateway("aes256-sha256-ecp256", psk("gw.example.org"), Group::Ecp256);
    let mut nat = script.nat();
    nat[0] = Payload::Notify(Notify::with_data(
        NotifyType::NAT_DETECTION_SOURCE_IP,
        vec![0; 20],
    ));
    script.init(vec![cbc(1, 19)], nat.to_vec());
    (script.local, script.remote) = (
        "192.0.2.1:4500".parse().unwrap(),
        "198.51.100.7:4500".parse().unwrap(),
    );
    let id = identity(IdType::RFC822_ADDR, b"alice@example.org");
    script.psk_login(&id, crate::pair::PSK, vec![address_request()]);
    let child = script.gateway.child();
    assert!(child.encap);
    assert_eq!(child.remote, script.remote);
}
