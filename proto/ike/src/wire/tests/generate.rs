//! Generators of everything that a message can hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::wire::*;

fn octets(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn transform() -> impl Strategy<Value = Transform> {
    let value = prop_oneof![
        any::<u16>().prop_map(AttributeValue::Short),
        octets(12).prop_map(AttributeValue::Long),
    ];
    // A short attribute of type 14 is the key length itself.
    let attribute = (15..0x8000_u16, value).prop_map(|(kind, value)| TransformAttribute { kind, value });
    (
        any::<u8>(),
        any::<u16>(),
        option::of(any::<u16>()),
        vec(attribute, 0..3),
    )
        .prop_map(|(kind, id, key_bits, unknown_attributes)| Transform {
            kind: TransformType(kind),
            id,
            key_bits,
            unknown_attributes,
        })
}

pub(super) fn sa() -> impl Strategy<Value = SaPayload> {
    let proposal = (any::<u8>(), any::<u8>(), octets(8), vec(transform(), 0..8)).prop_map(
        |(number, protocol, spi, transforms)| Proposal {
            number,
            protocol: ProtocolId(protocol),
            spi,
            transforms,
        },
    );
    vec(proposal, 1..5).prop_map(|proposals| SaPayload { proposals })
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let v4 = (any::<u32>(), any::<u32>())
        .prop_map(|(a, b)| (IpAddr::V4(Ipv4Addr::from(a)), IpAddr::V4(Ipv4Addr::from(b))));
    let v6 = (any::<u128>(), any::<u128>())
        .prop_map(|(a, b)| (IpAddr::V6(Ipv6Addr::from(a)), IpAddr::V6(Ipv6Addr::from(b))));
    prop_oneof![
        4 => (any::<u8>(), any::<(u16, u16)>(), prop_oneof![v4, v6]).prop_map(|(protocol, ports, (start, end))| {
            TrafficSelector::Range { protocol, ports, start, end }
        }),
        1 => (9..=255_u8, any::<u8>(), octets(20)).prop_map(|(kind, protocol, data)| TrafficSelector::Other {
            kind: TsType(kind),
            protocol,
            data,
        }),
    ]
}

fn eap() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), any::<u8>(), octets(40)).prop_map(|(code, identifier, data)| {
        let mut message = vec![code, identifier];
        message.extend_from_slice(&u16::try_from(data.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(&data);
        message
    })
}

fn config() -> impl Strategy<Value = Configuration> {
    let attribute = (0..0x8000_u16, octets(20)).prop_map(|(kind, value)| Attribute {
        kind: AttributeType(kind),
        value,
    });
    (any::<u8>(), vec(attribute, 0..6)).prop_map(|(kind, attributes)| Configuration {
        kind: CfgType(kind),
        attributes,
    })
}

fn notify() -> impl Strategy<Value = Notify> {
    (any::<u8>(), octets(8), any::<u16>(), octets(70)).prop_map(|(protocol, spi, kind, data)| Notify {
        protocol: ProtocolId(protocol),
        spi,
        kind: NotifyType(kind),
        data,
    })
}

fn delete() -> impl Strategy<Value = Payload> {
    let children = (2..=3_u8, vec(any::<u32>(), 0..10)).prop_map(|(protocol, spis)| Payload::Delete {
        protocol: ProtocolId(protocol),
        spis,
    });
    let ike = Just(Payload::Delete {
        protocol: ProtocolId::IKE,
        spis: Vec::new(),
    });
    prop_oneof![children, ike]
}

/// Any payload that may stand anywhere in a message.
pub(super) fn payload() -> impl Strategy<Value = Payload> {
    let id = || {
        (any::<u8>(), octets(40)).prop_map(|(kind, data)| Identification {
            kind: IdType(kind),
            data,
        })
    };
    let selectors = || vec(selector(), 1..6);
    let unknown = (any::<u8>(), any::<bool>(), octets(20))
        .prop_filter("unknown types", |(kind, ..)| PayloadType(*kind).name().is_none());
    prop_oneof![
        sa().prop_map(Payload::Sa),
        (any::<u16>(), octets(100)).prop_map(|(group, data)| Payload::Ke(KeyExchange {
            group: KeId(group),
            data
        })),
        id().prop_map(Payload::IdI),
        id().prop_map(Payload::IdR),
        (any::<u8>(), octets(100)).prop_map(|(encoding, data)| Payload::Cert(CertPayload {
            encoding: CertEncoding(encoding),
            data
        })),
        (any::<u8>(), octets(60)).prop_map(|(encoding, data)| Payload::CertReq {
            encoding: CertEncoding(encoding),
            data
        }),
        (any::<u8>(), octets(80)).prop_map(|(method, data)| Payload::Auth {
            method: AuthMethod(method),
            data
        }),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        notify().prop_map(Payload::Notify),
        delete(),
        octets(30).prop_map(Payload::VendorId),
        selectors().prop_map(Payload::TsI),
        selectors().prop_map(Payload::TsR),
        config().prop_map(Payload::Cp),
        eap().prop_map(Payload::Eap),
        unknown.prop_map(|(kind, critical, data)| Payload::Unknown {
            kind: PayloadType(kind),
            critical,
            data,
        }),
    ]
}

/// A payload that may end a message.
fn encrypted() -> impl Strategy<Value = Payload> {
    prop_oneof![
        (any::<u8>(), octets(80)).prop_map(|(first, body)| Payload::Sk(EncryptedPayload {
            first: PayloadType(first),
            body
        })),
        (any::<u8>(), any::<u16>(), any::<u16>(), octets(80)).prop_map(|(first, number, total, body)| {
            Payload::Skf(EncryptedFragment {
                first: PayloadType(first),
                number,
                total,
                body,
            })
        }),
    ]
}

pub(super) fn header() -> impl Strategy<Value = Header> {
    (
        1..=u64::MAX,
        any::<u64>(),
        any::<u8>(),
        any::<[bool; 3]>(),
        0..16_u8,
        any::<u32>(),
    )
        .prop_map(
            |(spi_i, spi_r, exchange, [initiator, version, response], minor, id)| {
                let flags = Flags {
                    initiator,
                    version,
                    response,
                };
                let mut header = Header::new(Spi(spi_i), Spi(spi_r), ExchangeType(exchange), flags, id);
                header.version |= minor;
                header
            },
        )
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    (header(), vec(payload(), 0..8), option::of(encrypted())).prop_map(|(header, mut payloads, last)| {
        payloads.extend(last);
        Message { header, payloads }
    })
}
