//! Writes the seeds of the fuzz targets: small inputs that reach far into each of them.

use std::fs;
use std::path::Path;

use ike::wire::proposal::{ChildProposal, IkeProposal, offer_child, offer_ike};
use ike::wire::*;

fn main() -> std::io::Result<()> {
    let init = init().encode().expect("it fits");
    seed("message", "ike_sa_init", &init)?;
    for (name, kind) in [
        ("cookie", NotifyType::COOKIE),
        ("invalid_ke", NotifyType::INVALID_KE_PAYLOAD),
    ] {
        let answer = Header::new(
            Spi(1),
            Spi::ZERO,
            ExchangeType::IKE_SA_INIT,
            Flags::response(false),
            0,
        );
        let notify = Payload::Notify(Notify::with_data(kind, vec![0, 19]));
        seed(
            "message",
            name,
            &Message::new(answer, vec![notify]).encode().expect("it fits"),
        )?;
    }
    let header = Header::new(Spi(1), Spi(2), ExchangeType::IKE_AUTH, Flags::request(true), 1);
    let skf = EncryptedFragment {
        first: PayloadType::IDI,
        number: 1,
        total: 2,
        body: vec![0; 40],
    };
    seed(
        "message",
        "fragment",
        &Message::new(header, vec![Payload::Skf(skf)])
            .encode()
            .expect("it fits"),
    )?;

    for (name, exchange, direction, payloads) in interiors() {
        let (first, chain) = encode_payloads(&payloads).expect("it fits");
        let mut input = vec![exchange, direction, first.0];
        input.extend_from_slice(&chain);
        seed("sk_interior", name, &input)?;
    }

    // Rekeys from both ends at once with everything delivered, and each interior as an attack on either end.
    let commands = [0, 0x00, 1, 0x00, 0, 0x03, 1, 0x05, 0, 0x06, 1, 0x03, 0, 0x07];
    for (name, order) in [
        ("in_turn", [2, 3].repeat(20)),
        ("late", [12, 2, 13, 3, 2, 3, 14].repeat(6)),
    ] {
        let mut script = vec![1];
        for command in commands.chunks(2) {
            script.extend_from_slice(command);
            script.extend_from_slice(&order[..order.len().min(12)]);
        }
        script.extend_from_slice(&order);
        seed("established", name, &script)?;
    }
    for (name, exchange, direction, payloads) in interiors() {
        let (first, chain) = encode_payloads(&payloads).expect("it fits");
        for end in 0..2 {
            let mut script = vec![1, end, 0x07, 16 | end, direction * 8, exchange, first.0];
            push_part(&mut script, &[], &chain);
            script.extend_from_slice(&[2, 3, 2, 3, 14, 15, 12]);
            seed("established", &format!("{name}{end}"), &script)?;
        }
    }

    for (index, text) in [
        "aes256gcm16-prfsha384-ecp384,default",
        "aes128-aes256-sha256-prfsha256-modp2048-x25519",
        "aes256gcm16-chacha20poly1305-ecp256-esn-noesn",
        "10.0.0.1-10.0.0.9[tcp/443]",
        "user@example.org",
    ]
    .iter()
    .enumerate()
    {
        seed("proposal_text", &format!("text{index}"), text.as_bytes())?;
    }

    let mut script = Vec::new();
    for step in [0x00, 0x04, 0x41, 0xc4] {
        push_part(&mut script, &[step], &init);
    }
    let body = EncryptedPayload {
        first: PayloadType::NONE,
        body: vec![0; 40],
    };
    let informational = Message::new(header, vec![Payload::Sk(body)])
        .encode()
        .expect("it fits");
    push_part(&mut script, &[0], &informational);
    let mut newer = init.clone();
    newer[17] = 0x30;
    push_part(&mut script, &[0], &newer);
    seed("gate", "visitors", &script)?;

    let any = [ip::Selector::ANY_V4, ip::Selector::ANY_V6];
    let subnet: ip::Selector = "10.1.0.0/16[udp/53]".parse().expect("a selector");
    let mut input = Vec::new();
    push_part(
        &mut input,
        &[],
        &body_of(Payload::TsI(TrafficSelector::from_selectors(&any))),
    );
    push_part(
        &mut input,
        &[],
        &body_of(Payload::TsR(TrafficSelector::from_selectors(&[subnet]))),
    );
    input.extend_from_slice(&body_of(Payload::Cp(config())));
    seed("ts_cp", "narrowing", &input)?;

    for suite in 0..4_u8 {
        let mut input = vec![suite, 0, 160, 0, 130];
        push_part(&mut input, &[], &[0x5a; 300]);
        for step in [
            (0, 2),
            (0, 0),
            (4, 1),
            (1, 3),
            (0, 1),
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 4),
        ] {
            input.extend_from_slice(&[step.0, step.1, 7, 7, 7]);
        }
        seed("fragments", &format!("suite{suite}"), &input)?;
        let mut input = vec![suite | 12];
        for length in [40, 80, 4] {
            input.push(length);
            input.extend_from_slice(&vec![0xaa; length.into()]);
        }
        input.extend_from_slice(&[1, 1, 1, 0, 1, 1, 2, 2, 0, 9, 1, 1, 2, 3, 0, 1, 0]);
        seed("esp", &format!("suite{suite}"), &input)?;
    }

    for (name, kind, data) in [
        ("fqdn", 2, b"gw.example.org".as_slice()),
        (
            "dn",
            9,
            &[0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 3, 12, 2, b'g', b'w'],
        ),
        ("address", 1, &[192, 0, 2, 1]),
    ] {
        seed("id_cert", name, &[&[0, kind], data].concat())?;
    }
    let algorithm = [2, 0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    seed("id_cert", "ecdsa_sha256", &algorithm)?;

    let udp = [
        0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 1, 1, 0, 8, 0, 0,
    ];
    seed("ip_packet", "udp4", &[&[3], udp.as_slice()].concat())?;
    let mut v6 = vec![1, 0x60, 0, 0, 0, 0, 16, 0, 64];
    v6.extend_from_slice(&[0x20; 32]);
    v6.extend_from_slice(&[6, 0, 1, 4, 0, 0, 0, 0, 0, 80, 1, 187, 0, 0, 0, 0]);
    seed("ip_packet", "options6", &v6)
}

fn init() -> Message {
    let header = Header::new(
        Spi(7),
        Spi::ZERO,
        ExchangeType::IKE_SA_INIT,
        Flags::request(true),
        0,
    );
    let notify = |kind| Payload::Notify(Notify::with_data(kind, vec![5; 20]));
    Message::new(
        header,
        vec![
            Payload::Sa(offer_ike(&IkeProposal::defaults(), None)),
            Payload::Ke(KeyExchange {
                group: KeId::CURVE25519,
                data: vec![9; 32],
            }),
            Payload::Nonce(vec![7; 32]),
            notify(NotifyType::NAT_DETECTION_SOURCE_IP),
            notify(NotifyType::NAT_DETECTION_DESTINATION_IP),
            Payload::VendorId(b"vendor".to_vec()),
        ],
    )
}

fn config() -> Configuration {
    let attributes = [
        (AttributeType::INTERNAL_IP4_ADDRESS, vec![10, 0, 0, 7]),
        (AttributeType::INTERNAL_IP4_DNS, Vec::new()),
        (AttributeType::INTERNAL_IP6_ADDRESS, vec![0x20; 17]),
        (
            AttributeType::INTERNAL_IP4_SUBNET,
            vec![10, 0, 0, 0, 255, 0, 0, 0],
        ),
        (AttributeType::INTERNAL_DNS_DOMAIN, b"example.org".to_vec()),
    ];
    Configuration {
        kind: CfgType::REQUEST,
        attributes: attributes
            .map(|(kind, value)| Attribute::new(kind, value))
            .to_vec(),
    }
}

/// Name, exchange and direction as the target reads them, and payloads.
fn interiors() -> Vec<(&'static str, u8, u8, Vec<Payload>)> {
    let id = |text: &str| Identification {
        kind: IdType::FQDN,
        data: text.as_bytes().to_vec(),
    };
    let any = || TrafficSelector::from_selectors(&[ip::Selector::ANY_V4]);
    let child = || Payload::Sa(offer_child(&ChildProposal::defaults(), 0x1000, true));
    let auth = vec![
        Payload::IdI(id("user")),
        Payload::IdR(id("gw")),
        Payload::Auth {
            method: AuthMethod::SHARED_KEY,
            data: vec![1; 32],
        },
        Payload::Cp(config()),
        child(),
        Payload::TsI(any()),
        Payload::TsR(any()),
        Payload::Notify(Notify::new(NotifyType::MOBIKE_SUPPORTED)),
    ];
    let ke = Payload::Ke(KeyExchange {
        group: KeId::ECP_256,
        data: vec![4; 64],
    });
    let rekey = Payload::Notify(Notify::about_child(NotifyType::REKEY_SA, ProtocolId::ESP, 0x1000));
    let create = vec![
        rekey,
        child(),
        Payload::Nonce(vec![3; 32]),
        ke.clone(),
        Payload::TsI(any()),
        Payload::TsR(any()),
    ];
    let ike = vec![
        Payload::Sa(offer_ike(&IkeProposal::defaults(), Some(Spi(9)))),
        Payload::Nonce(vec![3; 32]),
        ke,
    ];
    let delete = vec![Payload::Delete {
        protocol: ProtocolId::ESP,
        spis: vec![0x1000, 0x2000],
    }];
    let eap = vec![Payload::Eap(vec![2, 1, 0, 9, 1, b'u', b's', b'e', b'r'])];
    vec![
        ("auth", 1, 0, auth),
        ("rekey_child", 2, 0, create),
        ("rekey_ike", 2, 0, ike),
        ("delete", 3, 0, delete),
        ("eap", 1, 0, eap),
        ("empty", 3, 1, Vec::new()),
    ]
}

fn body_of(payload: Payload) -> Vec<u8> {
    let (_, chain) = encode_payloads(&[payload]).expect("it fits");
    chain[GENERIC_HEADER_LEN..].to_vec()
}

fn push_part(input: &mut Vec<u8>, head: &[u8], part: &[u8]) {
    input.extend_from_slice(head);
    input.extend_from_slice(&u16::try_from(part.len()).expect("a small part").to_be_bytes());
    input.extend_from_slice(part);
}

fn seed(target: &str, name: &str, octets: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), octets)
}
