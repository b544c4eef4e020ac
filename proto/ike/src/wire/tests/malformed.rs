//! Messages with one fault each, and the error that names it.

use crate::wire::*;

fn octets(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

fn fault(first: PayloadType, text: &str) -> DecodeError {
    decode_payloads(first, &octets(text)).unwrap_err()
}

fn message() -> Message {
    let header = Header::new(
        Spi(1),
        Spi::ZERO,
        ExchangeType::IKE_SA_INIT,
        Flags::request(true),
        0,
    );
    Message::new(header, vec![Payload::Nonce(vec![1; 16])])
}

#[test]
fn headers() {
    let good = message().encode().unwrap();
    assert!(matches!(
        Message::decode(&good[..27]),
        Err(DecodeError::Truncated { .. })
    ));
    let mut long = good.clone();
    long.push(0);
    let error = Message::decode(&long).unwrap_err();
    assert_eq!(
        error,
        DecodeError::MessageLength {
            stated: 48,
            actual: 49
        }
    );
    assert_eq!(error.notify(), NotifyType::INVALID_SYNTAX);

    let mut version = message();
    version.header.version = 0x30;
    let error = Message::decode(&version.encode().unwrap()).unwrap_err();
    assert_eq!(error, DecodeError::MajorVersion(3));
    assert_eq!(error.notify(), NotifyType::INVALID_MAJOR_VERSION);
    //= rfc7296#section-3.1
    //= type=test
    //# They MUST ignore the minor version number of received messages.
    version.header.version = 0x2f;
    assert!(Message::decode(&version.encode().unwrap()).is_ok());

    //= rfc7296#section-3.1
    //= type=test
    //# This value MUST NOT be zero.
    let mut zero = message();
    zero.header.spi_i = Spi::ZERO;
    let error = Message::decode(&zero.encode().unwrap()).unwrap_err();
    assert_eq!(error, DecodeError::ZeroInitiatorSpi);

    let huge = vec![0; limits::MESSAGE_OCTETS + 1];
    assert_eq!(
        Message::decode(&huge),
        Err(DecodeError::MessageTooLong(huge.len()))
    );
}

#[test]
fn payload_lengths() {
    for length in 0..4 {
        let error = fault(PayloadType::VENDOR_ID, &format!("0000{length:04x}"));
        let kind = PayloadType::VENDOR_ID;
        assert_eq!(error, DecodeError::PayloadLength { kind, length });
    }
    assert!(matches!(
        fault(PayloadType::VENDOR_ID, "00000005"),
        DecodeError::Truncated { .. }
    ));
    assert!(matches!(
        fault(PayloadType::VENDOR_ID, "00000004 00"),
        DecodeError::TrailingOctets { left: 1, .. }
    ));
    assert!(matches!(
        fault(PayloadType::VENDOR_ID, "2b000004"),
        DecodeError::Truncated { .. }
    ));
    assert!(matches!(
        fault(PayloadType::NONE, "00"),
        DecodeError::TrailingOctets { .. }
    ));
    let many = "2b000004".repeat(limits::PAYLOADS) + "00000004";
    assert!(matches!(
        fault(PayloadType::VENDOR_ID, &many),
        DecodeError::TooMany { what: "payloads", .. }
    ));
}

#[test]
fn encrypted_payloads_out_of_place() {
    //= rfc7296#section-3.1
    //= type=test
    //# An Encrypted payload MUST be the last payload in a packet and an Encrypted payload MUST NOT contain another Encrypted payload.
    for kind in [PayloadType::SK, PayloadType::SKF] {
        let nested = decode_payloads(kind, &octets("00000008 00010001"));
        assert_eq!(nested, Err(DecodeError::MisplacedEncrypted(kind)));
    }
    let mut early = message();
    early.payloads.insert(
        0,
        Payload::Sk(EncryptedPayload {
            first: PayloadType::NONE,
            body: Vec::new(),
        }),
    );
    assert_eq!(early.encode(), Err(EncodeError::MisplacedEncrypted));
    let datagram = octets("0000000000000001 0000000000000000 2e202208 00000000 00000024 00000004 00000004");
    assert_eq!(
        Message::decode(&datagram),
        Err(DecodeError::MisplacedEncrypted(PayloadType::SK))
    );
}

#[test]
fn security_associations() {
    let sa = |body: &str| {
        let body = octets(body);
        let length = u16::try_from(body.len() + 4).unwrap();
        let text = format!("0000{length:04x}{}", hex::encode(body));
        decode_payloads(PayloadType::SA, &octets(&text))
    };
    let good = "00 00 0014 01 03 04 01 11223344  00 00 0008 05 00 0000";
    assert!(sa(good).is_ok());
    //= rfc7296#section-3.3
    //= type=test
    //# When parsing an SA, an implementation MUST check that the total Payload Length is consistent with the payload's internal lengths and counts.
    let faults = [
        ("no proposal at all", ""),
        ("octets after the last proposal", &format!("{good} 00")),
        ("more announced than there is", &good.replacen("00", "02", 1)),
        ("an odd last-substructure octet", &good.replacen("00", "01", 1)),
        ("proposal length too small", &good.replace("0014", "0003")),
        ("proposal length too large", &good.replace("0014", "0015")),
        (
            "count above the transforms",
            &good.replace("04 01 11", "04 02 11"),
        ),
        (
            "count below the transforms",
            &good.replace("04 01 11", "04 00 11"),
        ),
        (
            "SPI longer than the proposal",
            &good.replace("03 04 01", "03 ff 01"),
        ),
        ("transform length too small", &good.replace("0008", "0007")),
        ("transform length too large", &good.replace("0008", "0009")),
        (
            "another transform announced",
            &good.replace("00 00 0008", "03 00 0008"),
        ),
        (
            "attribute cut",
            "00 00 0012 01 03 00 01  00 00 000a 05 00 0000 800e",
        ),
        (
            "attribute value cut",
            "00 00 0016 01 03 00 01  00 00 000e 05 00 0000 000f 0003 0000",
        ),
    ];
    for (name, text) in faults {
        let error = sa(text).expect_err(name);
        assert_eq!(error.notify(), NotifyType::INVALID_SYNTAX, "{name}");
    }
    let empty = sa("00 00 0008 01 01 00 00").unwrap();
    assert!(Payloads(&empty).sa().unwrap().proposals[0].transforms.is_empty());
    let many = "02 00 0008 01 01 00 00".repeat(limits::PROPOSALS) + "00 00 0008 01 01 00 00";
    assert!(matches!(sa(&many), Err(DecodeError::TooMany { .. })));
    let count = limits::TRANSFORMS + 1;
    let transforms = "03 00 0008 05 00 0000".repeat(count - 1) + "00 00 0008 05 00 0000";
    let many = format!("00 00 {:04x} 01 01 00 {count:02x} {transforms}", 8 + 8 * count);
    assert!(matches!(sa(&many), Err(DecodeError::TooMany { .. })));
    let attributes = "800f0001".repeat(limits::TRANSFORM_ATTRIBUTES + 1);
    let length = 8 + attributes.len() / 2;
    let many = format!(
        "00 00 {:04x} 01 01 00 01 00 00 {length:04x} 05 00 0000 {attributes}",
        8 + length
    );
    assert!(matches!(sa(&many), Err(DecodeError::TooMany { .. })));
}

#[test]
fn a_second_key_length_is_an_unknown_attribute() {
    let text = "0000001c 00 00 0018 01 01 00 01  00 00 0010 01 00 000c 800e 0080 800e 0100";
    let payloads = decode_payloads(PayloadType::SA, &octets(text)).unwrap();
    let transform = &Payloads(&payloads).sa().unwrap().proposals[0].transforms[0];
    assert_eq!(transform.key_bits, Some(128));
    assert_eq!(transform.unknown_attributes.len(), 1);
}

#[test]
fn nonces() {
    //= rfc7296#section-3.9
    //= type=test
    //# The size of the Nonce Data MUST be between 16 and 256 octets, inclusive.
    for (length, good) in [(0, false), (15, false), (16, true), (256, true), (257, false)] {
        let mut message = message();
        message.payloads = vec![Payload::Nonce(vec![0; length])];
        assert_eq!(
            Message::decode(&message.encode().unwrap()).is_ok(),
            good,
            "{length}"
        );
    }
}

#[test]
fn deletes() {
    //= rfc7296#section-3.11
    //= type=test
    //# It MUST be zero for IKE (SPI is in message header) or four for AH and ESP.
    assert!(decode_payloads(PayloadType::DELETE, &octets("00000008 01 00 0000")).is_ok());
    let esp = ProtocolId::ESP;
    assert_eq!(
        fault(PayloadType::DELETE, "00000010 03 08 0001 0000000000000000"),
        DecodeError::SpiSize {
            protocol: esp,
            size: 8
        }
    );
    let ike = ProtocolId::IKE;
    assert_eq!(
        fault(PayloadType::DELETE, "00000010 01 08 0001 0000000000000000"),
        DecodeError::SpiSize {
            protocol: ike,
            size: 8
        }
    );
    fault(PayloadType::DELETE, "00000008 01 00 0001");
    fault(PayloadType::DELETE, "00000008 07 04 0000");
    fault(PayloadType::DELETE, "0000000c 03 04 0002 00000001");
    fault(PayloadType::DELETE, "0000000c 03 04 0000 00000001");
    assert!(matches!(
        fault(PayloadType::DELETE, "00000008 03 04 ffff"),
        DecodeError::TooMany { .. }
    ));
}

#[test]
fn traffic_selectors() {
    assert!(matches!(
        fault(PayloadType::TSI, "00000008 00 000000"),
        DecodeError::Empty { .. }
    ));
    fault(PayloadType::TSI, "00000008 01 000000");
    fault(
        PayloadType::TSI,
        "00000018 02 000000 07000010 0000ffff 0a000001 0a0000ff",
    );
    fault(
        PayloadType::TSI,
        "00000019 01 000000 07000010 0000ffff 0a000001 0a0000ff 00",
    );
    fault(
        PayloadType::TSI,
        "00000018 01 000000 08000010 0000ffff 0a000001 0a0000ff",
    );
    fault(
        PayloadType::TSI,
        "00000018 01 000000 07000003 0000ffff 0a000001 0a0000ff",
    );
    fault(
        PayloadType::TSI,
        "00000018 01 000000 07000011 0000ffff 0a000001 0a0000ff",
    );
}

#[test]
fn eap_lengths_that_lie() {
    //= rfc7296#section-3.16
    //= type=test
    //# MUST be four less than the Payload Length of the encapsulating payload.
    assert!(decode_payloads(PayloadType::EAP, &octets("00000009 02 01 0005 01")).is_ok());
    for text in [
        "00000009 02 01 0004 01",
        "00000009 02 01 ffff 01",
        "00000008 02 01 0000",
        "00000006 02 01",
    ] {
        fault(PayloadType::EAP, text);
    }
}

#[test]
fn configurations() {
    fault(PayloadType::CP, "0000000a 01000000 0001");
    fault(PayloadType::CP, "0000000c 01000000 0001 0004");
    let many = "0001 0000".repeat(limits::ATTRIBUTES + 1);
    let length = 8 + 4 * (limits::ATTRIBUTES + 1);
    assert!(matches!(
        fault(PayloadType::CP, &format!("0000{length:04x} 01000000 {many}")),
        DecodeError::TooMany { .. }
    ));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let mut message = message();
    message.payloads = vec![Payload::VendorId(vec![0; 70_000])];
    assert!(matches!(message.encode(), Err(EncodeError::TooLong { .. })));
    message.payloads = vec![Payload::VendorId(vec![0; 60_000]); 2];
    assert!(matches!(message.encode(), Err(EncodeError::TooLong { .. })));
    let selector = TrafficSelector::Other {
        kind: TsType(9),
        protocol: 0,
        data: Vec::new(),
    };
    message.payloads = vec![Payload::TsI(vec![selector; 256])];
    assert!(matches!(message.encode(), Err(EncodeError::TooMany { .. })));
}
