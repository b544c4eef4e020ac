//! Round trips, and octets written by hand or taken from RFCs.

use proptest::prelude::*;

use super::generate;
use crate::wire::*;

fn octets(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

proptest! {
    #[test]
    fn messages_survive_the_round_trip(message in generate::message()) {
        let encoded = message.encode().unwrap();
        let decoded = Message::decode(&encoded).unwrap();
        prop_assert_eq!(decoded.header.length as usize, encoded.len());
        prop_assert_eq!(&decoded.payloads, &message.payloads);
        let plain = Header { next_payload: PayloadType::NONE, length: 0, ..decoded.header };
        prop_assert_eq!(plain, message.header);
        prop_assert_eq!(decoded.encode().unwrap(), encoded);
    }

    #[test]
    fn payloads_inside_survive_the_round_trip(payloads in prop::collection::vec(generate::payload(), 0..10)) {
        let (first, plaintext) = encode_payloads(&payloads).unwrap();
        prop_assert_eq!(decode_payloads(first, &plaintext).unwrap(), payloads);
    }

    #[test]
    fn nothing_that_is_read_panics(octets in prop::collection::vec(any::<u8>(), 0..200), first in 30..56_u8) {
        let _ = Message::decode(&octets);
        let _ = decode_payloads(PayloadType(first), &octets);
    }

    #[test]
    fn damaged_messages_are_errors_or_other_messages(
        message in generate::message(),
        place in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut encoded = message.encode().unwrap();
        let place = place.index(encoded.len());
        encoded[place] = value;
        if let Ok(decoded) = Message::decode(&encoded) {
            // Whatever was read can be written, and reads as the same.
            let again = decoded.encode().unwrap();
            prop_assert_eq!(Message::decode(&again).unwrap().payloads, decoded.payloads);
        }
        let cut = &encoded[..place];
        prop_assert!(Message::decode(cut).is_err(), "the length is wrong");
    }
}

/// An IKE_SA_INIT request put together by hand from the figures of RFC 7296.
#[test]
fn an_ike_sa_init_request_by_hand() {
    let datagram = octets(
        "00112233 44556677  00000000 00000000
         21 20 22 08  00000000  000000cc
         22 00 0058
            02 00 0028 01 01 00 03
               03 00 000c 01 00 0014 800e 0100
               03 00 0008 02 00 0006
               00 00 000c 04 00 0014 000f 0000
            00 00 002c 02 01 00 04
               03 00 000c 01 00 000c 800e 0080
               03 00 0008 02 00 0002
               03 00 0008 03 00 000c
               00 00 0008 04 00 000e
         28 00 000c 0014 0000 deadbeef
         29 ff 0014 000102030405060708090a0b0c0d0e0f
         29 00 001c 01 00 4004 0102030405060708090a0b0c0d0e0f1011121314
         29 00 0008 00 00 402e
         2b 00 000e 00 00 402f 0002 0003 0004
         00 00 0006 abcd",
    );
    let message = Message::decode(&datagram).unwrap();
    let header = message.header;
    assert_eq!(
        (header.spi_i, header.spi_r),
        (Spi(0x0011_2233_4455_6677), Spi::ZERO)
    );
    assert_eq!(header.exchange, ExchangeType::IKE_SA_INIT);
    assert_eq!(header.flags, Flags::request(true));
    let sa = message.sa().unwrap();
    assert_eq!(sa.proposals.len(), 2);
    let first = &sa.proposals[0];
    assert_eq!(
        (first.number, first.protocol, first.transforms.len()),
        (1, ProtocolId::IKE, 3)
    );
    assert_eq!(
        first.transforms[0],
        Transform::with_key(TransformType::ENCR, 20, 256)
    );
    assert_eq!(
        first.transforms[2].unknown_attributes,
        [TransformAttribute {
            kind: 15,
            value: AttributeValue::Long(Vec::new())
        }]
    );
    assert_eq!(message.ke().unwrap().group, KeId::ECP_384);
    //= rfc7296#section-3.2
    //= type=test
    //# MUST be sent as zero; MUST be ignored on receipt.
    assert_eq!(message.nonce().unwrap().len(), 16);
    assert_eq!(
        message
            .notify(NotifyType::NAT_DETECTION_SOURCE_IP)
            .unwrap()
            .data
            .len(),
        20
    );
    assert_eq!(message.notifies().count(), 3);
    assert!(message.error().is_none());
    assert_eq!(
        message.payloads.last(),
        Some(&Payload::VendorId(vec![0xab, 0xcd]))
    );
    let mut again = datagram;
    let critical = 28 + 0x58 + 0x0c + 1;
    assert_eq!(again[critical], 0xff);
    //= rfc7296#section-3.2
    //= type=test
    //# MUST be set to zero for payload types defined in this document.
    again[critical] = 0;
    assert_eq!(message.encode().unwrap(), again);
}

/// RFC 5903 section 8.1: the KEi payload of the 256-bit group.
#[test]
fn the_ke_payload_of_rfc_5903() {
    let payload = octets(
        "00000048 00130000 DAD0B653 94221CF9 B051E1FE CA5787D0 98DFE637 FC90B9EF
         945D0C37 72581180 5271A046 1CDB8252 D61F1C45 6FA3E59A B1F45B33 ACCF5F58
         389E0577 B8990BB3",
    );
    let payloads = decode_payloads(PayloadType::KE, &payload).unwrap();
    let ke = Payloads(&payloads).ke().unwrap();
    assert_eq!((ke.group, ke.data.len()), (KeId::ECP_256, 64));
    assert_eq!(encode_payloads(&payloads).unwrap(), (PayloadType::KE, payload));
}

/// RFC 7634 appendix B: the payload inside.
#[test]
fn the_notify_payload_of_rfc_7634() {
    let payload = octets("0000000c 00004001 0000000a");
    let payloads = decode_payloads(PayloadType::NOTIFY, &payload).unwrap();
    let notify = Payloads(&payloads).notify(NotifyType::SET_WINDOW_SIZE).unwrap();
    assert_eq!(notify.data, [0, 0, 0, 10]);
}

#[test]
fn traffic_selectors_by_hand() {
    let payload = octets(
        "2d 00 0018 01 000000
            07 00 0010 0000 ffff 0a000001 0a0000ff
         00 00 0040 02 ffffff
            08 11 0028 0035 0035 20010db8000000000000000000000000 20010db8ffffffffffffffffffffffff
            09 00 0010 000000000000000000000000",
    );
    let payloads = decode_payloads(PayloadType::TSI, &payload).unwrap();
    let view = Payloads(&payloads);
    let ts_i = TrafficSelector::to_selectors(view.ts_i().unwrap());
    assert_eq!(ts_i.len(), 1);
    assert_eq!(ts_i[0].to_string(), "10.0.0.1-10.0.0.255");
    let ts_r = view.ts_r().unwrap();
    assert!(matches!(&ts_r[1], TrafficSelector::Other { kind: TsType(9), .. }));
    let understood = TrafficSelector::to_selectors(ts_r);
    assert_eq!(understood.len(), 1);
    assert_eq!(understood[0].to_string(), "2001:db8::/32[udp/53]");
    assert_eq!(TrafficSelector::from_selectors(&understood), ts_r[..1]);
}

#[test]
fn reversed_ranges_are_read_but_select_nothing() {
    let reversed = TrafficSelector::Range {
        protocol: 0,
        ports: (0, 65535),
        start: "10.0.0.9".parse().unwrap(),
        end: "10.0.0.1".parse().unwrap(),
    };
    assert_eq!(reversed.to_selector(), None);
    let opaque = TrafficSelector::Range {
        protocol: 17,
        ports: (65535, 0),
        start: "10.0.0.1".parse().unwrap(),
        end: "10.0.0.1".parse().unwrap(),
    };
    assert!(opaque.to_selector().unwrap().is_opaque_port());
}

#[test]
fn the_identification_body_is_what_auth_signs() {
    let id = Identification {
        kind: IdType::FQDN,
        data: b"gw".to_vec(),
    };
    assert_eq!(id.body(), [2, 0, 0, 0, b'g', b'w']);
}

#[test]
fn reserved_bits_of_configuration_attributes_are_ignored() {
    //= rfc7296#section-3.15.1
    //= type=test
    //# This bit MUST be set to zero and MUST be ignored on receipt.
    let payload = octets("0000000c 01ffffff 8001 0000");
    let payloads = decode_payloads(PayloadType::CP, &payload).unwrap();
    let config = Payloads(&payloads).config().unwrap();
    assert_eq!(config.kind, CfgType::REQUEST);
    assert_eq!(config.of_kind(AttributeType::INTERNAL_IP4_ADDRESS).count(), 1);
    let (_, written) = encode_payloads(&payloads).unwrap();
    assert_eq!(written, octets("0000000c 01000000 0001 0000"));
}

#[test]
fn numbers_have_names_and_survive_without() {
    assert_eq!(NotifyType(16390).to_string(), "COOKIE");
    assert_eq!(NotifyType(40_960).to_string(), "NotifyType(40960)");
    assert!(NotifyType::NO_PROPOSAL_CHOSEN.is_error() && !NotifyType::INITIAL_CONTACT.is_error());
    assert_eq!(Spi(0xab).to_string(), "00000000000000ab");
    assert_eq!(ProtocolId::ESP.spi_len(), Some(4));
}
