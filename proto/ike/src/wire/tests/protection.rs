//! The Encrypted payload: suites, octets of RFC 7634, fragments, damage.

use crypto::{Cipher, Integrity, Opener, Random, Sealer, SeededRandom, Suite};
use proptest::prelude::*;

use crate::wire::protect::*;
use crate::wire::*;

fn suites() -> Vec<Suite> {
    let mut suites = Vec::new();
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            suites.push(Suite::new(cipher, None).unwrap());
        } else {
            for integrity in Integrity::ALL {
                suites.push(Suite::new(cipher, Some(integrity)).unwrap());
            }
        }
    }
    suites
}

pub(super) struct Keys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) ivs: IvSource,
    pub(super) random: SeededRandom,
}

pub(super) fn keys(suite: Suite) -> Keys {
    let mut random = SeededRandom::from_seed(5);
    let mut enc = vec![0; suite.enc_key_len()];
    let mut integ = vec![0; suite.integ_key_len()];
    random.fill(&mut enc);
    random.fill(&mut integ);
    Keys {
        sealer: Sealer::new(suite, &enc, &integ).unwrap(),
        opener: Opener::new(suite, &enc, &integ).unwrap(),
        ivs: IvSource::new(3),
        random,
    }
}

pub(super) fn gcm() -> Keys {
    keys(Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None).unwrap())
}

pub(super) fn header() -> Header {
    let flags = Flags::request(true);
    Header::new(Spi(0x11), Spi(0x22), ExchangeType::IKE_AUTH, flags, 1)
}

impl Keys {
    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let Self {
            sealer, ivs, random, ..
        } = self;
        seal(&header(), PayloadType::IDI, plaintext, sealer, ivs, random).unwrap()
    }

    fn fragments(&mut self, plaintext: &[u8], max: usize) -> Result<Vec<Vec<u8>>, ProtectError> {
        let Self {
            sealer, ivs, random, ..
        } = self;
        seal_fragmented(&header(), PayloadType::IDI, plaintext, sealer, ivs, random, max)
    }

    fn open_fragment(&self, datagram: &[u8]) -> Fragment {
        match open(datagram, &self.opener).unwrap().content {
            Content::Fragment(fragment) => fragment,
            Content::Whole { .. } => panic!("no fragment"),
        }
    }
}

/// RFC 7634 appendix B, octet by octet.
#[test]
fn the_message_of_rfc_7634() {
    let octets = |text: &str| hex::decode(text.split_whitespace().collect::<String>()).unwrap();
    let message = octets(
        "c0 c1 c2 c3 c4 c5 c6 c7 d0 d1 d2 d3 d4 d5 d6 d7
         2e 20 25 00 00 00 00 09 00 00 00 45 29 00 00 29
         10 11 12 13 14 15 16 17 61 03 94 70 1f 8d 01 7f
         7c 12 92 48 89 6b 71 bf e2 52 36 ef d7 cd c6 70
         66 90 63 15 b2",
    );
    let suite = Suite::new(Cipher::ChaCha20Poly1305, None).unwrap();
    let key: Vec<u8> = (0x80..=0x9f).chain(0xa0..=0xa3).collect();
    let opened = open(&message, &Opener::new(suite, &key, &[]).unwrap()).unwrap();
    let Content::Whole { first, plaintext } = opened.content else {
        panic!("no fragment")
    };
    let payloads = decode_payloads(first, &plaintext).unwrap();
    let notify = Payloads(&payloads).notify(NotifyType::SET_WINDOW_SIZE).unwrap();
    assert_eq!(notify.data, [0, 0, 0, 10]);

    //= rfc5282#section-5.1
    //= type=test
    //# The associated data (A) MUST consist of the partial contents of the IKEv2 message, starting from the first octet of the Fixed IKE Header through the last octet of the Payload Header of the Encrypted Payload (i.e., the fourth octet of the Encrypted Payload), as shown in Figure 3.
    let mut ivs = IvSource {
        generation: 0x1011,
        counter: 0x1213_1415_1617,
    };
    let sealer = Sealer::new(suite, &key, &[]).unwrap();
    let mut random = SeededRandom::from_seed(0);
    let sealed = seal(&opened.header, first, &plaintext, &sealer, &mut ivs, &mut random).unwrap();
    assert_eq!(sealed, message);
    assert_eq!(ivs.counter, 0x1213_1415_1618);
}

#[test]
fn every_suite_seals_opens_and_refuses_every_changed_octet() {
    for suite in suites() {
        let mut keys = keys(suite);
        for length in [0, 1, 14, 15, 16, 17, 100] {
            let plaintext = vec![0x5a; length];
            let sealed = keys.seal(&plaintext);
            let opened = open(&sealed, &keys.opener).unwrap();
            assert_eq!(opened.header.message_id, 1);
            let first = PayloadType::IDI;
            assert_eq!(opened.content, Content::Whole { first, plaintext }, "{suite}");
        }
        let sealed = keys.seal(b"payloads");
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 0x40;
            assert!(open(&damaged, &keys.opener).is_err(), "{suite}, octet {place}");
        }
        for cut in 0..sealed.len() {
            assert!(
                open(&sealed[..cut], &keys.opener).is_err(),
                "{suite}, cut at {cut}"
            );
        }
    }
}

#[test]
fn counter_ivs_never_repeat_and_end() {
    //= rfc5282#section-3.1
    //= type=test
    //# The IV MUST be chosen by the encryptor in a manner that ensures that the same IV value is used only once for a given key.
    let mut keys = gcm();
    let iv = |datagram: &[u8]| datagram[32..40].to_vec();
    assert_eq!(iv(&keys.seal(b"a")), [0, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(iv(&keys.seal(b"a")), [0, 3, 0, 0, 0, 0, 0, 1]);
    keys.ivs.counter = (1 << 48) - 1;
    assert_eq!(iv(&keys.seal(b"a")), [0, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(keys.ivs.next_iv(), None);
    let Keys {
        sealer, ivs, random, ..
    } = &mut keys;
    let sealed = seal(&header(), PayloadType::IDI, b"a", sealer, ivs, random);
    assert_eq!(sealed, Err(ProtectError::IvsUsedUp));
}

#[test]
fn cbc_ivs_are_random_and_need_no_counter() {
    //= rfc7296#section-3.14
    //= type=test
    //# Senders MUST select a new unpredictable IV for every message; recipients MUST accept any value.
    let suite = Suite::new(Cipher::AesCbc { key_bits: 128 }, Some(Integrity::HmacSha1_96)).unwrap();
    let mut keys = keys(suite);
    let (one, two) = (keys.seal(b"a"), keys.seal(b"a"));
    assert_ne!(one[32..48], two[32..48]);
    assert_eq!(keys.ivs.counter, 0);
}

/// Seals a text whose padding is chosen here.
fn with_padding(keys: &Keys, text: &[u8]) -> Vec<u8> {
    let suite = keys.sealer.suite();
    let length = 32 + suite.iv_len() + text.len() + suite.icv_len();
    let mut writer = Writer::new();
    let mut header = header();
    header.next_payload = PayloadType::SK;
    header.length = u32::try_from(length).unwrap();
    header.write(&mut writer);
    writer.u8(PayloadType::IDI.0);
    writer.u8(0);
    writer.u16(u16::try_from(length - 28).unwrap());
    let head = writer.into_bytes();
    let mut iv = vec![7; suite.iv_len()];
    let mut body = text.to_vec();
    let mut icv = vec![0; suite.icv_len()];
    let packet = crypto::Packet {
        aad: &head,
        mac_head: &head,
        mac_tail: &[],
        iv: &mut iv,
        body: &mut body,
        icv: &mut icv,
    };
    keys.sealer.seal(packet).unwrap();
    [head, iv, body, icv].concat()
}

#[test]
fn any_padding_that_is_aligned_is_accepted() {
    //= rfc7296#section-3.14
    //= type=test
    //# The sender SHOULD set the Pad Length to the minimum value that makes the combination of the payloads, the Padding, and the Pad Length a multiple of the block size, but the recipient MUST accept any length that results in proper alignment.
    let cbc = Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap();
    for keys in [gcm(), keys(cbc)] {
        //= rfc5282#section-3
        //= type=test
        //# There are no alignment requirements on the length of the Padding field; the recipient MUST accept any amount of Padding up to 255 octets.
        let mut text = vec![0xaa; 256];
        text[255] = 255;
        let whole = |plaintext: Vec<u8>| Content::Whole {
            first: PayloadType::IDI,
            plaintext,
        };
        let opened = open(&with_padding(&keys, &text), &keys.opener).unwrap();
        assert_eq!(opened.content, whole(Vec::new()));
        text[255] = 5;
        let opened = open(&with_padding(&keys, &text), &keys.opener).unwrap();
        assert_eq!(opened.content, whole(vec![0xaa; 250]));
        let lying = with_padding(&keys, &[16; 16]);
        assert_eq!(open(&lying, &keys.opener), Err(ProtectError::Padding(16)));
    }
}

#[test]
fn messages_without_or_with_too_short_encrypted_payloads() {
    let keys = gcm();
    let plain = Message::new(header(), vec![Payload::VendorId(vec![1])]);
    let error = open(&plain.encode().unwrap(), &keys.opener);
    assert_eq!(error, Err(DecodeError::NotEncrypted.into()));
    for length in [0, 1, 8, 24] {
        let body = vec![0; length];
        let first = PayloadType::NONE;
        let short = Message::new(header(), vec![Payload::Sk(EncryptedPayload { first, body })]);
        let error = open(&short.encode().unwrap(), &keys.opener);
        assert_eq!(error, Err(ProtectError::TextLength(length)));
    }
}

#[test]
fn messages_are_fragmented_only_if_they_must_be() {
    let mut keys = gcm();
    let plaintext = vec![1; 1000];
    let whole = keys.fragments(&plaintext, 1057).unwrap();
    assert_eq!((whole.len(), whole[0].len()), (1, 1057));
    let pieces = keys.fragments(&plaintext, 1056).unwrap();
    assert_eq!(pieces.len(), 2);
    //= rfc7383#section-2.5
    //= type=test
    //# In the rest of the Fragment messages (with Fragment Number greater than 1), this field MUST be set to zero.
    let firsts: Vec<_> = pieces.iter().map(|p| keys.open_fragment(p).first).collect();
    assert_eq!(firsts, [PayloadType::IDI, PayloadType::NONE]);
    assert_eq!(keys.fragments(&plaintext, 61).unwrap_err(), {
        let limit = limits::FRAGMENTS;
        ProtectError::TooManyFragments { limit, octets: 61 }
    });
    assert!(keys.fragments(&plaintext, 0).is_err());
    assert!(keys.fragments(&vec![1; 16 * 64], 77).is_ok(), "64 of 16 octets");
    assert!(keys.fragments(&vec![1; 16 * 64 + 1], 77).is_err());
}

#[test]
fn fragment_numbers_that_cannot_be_are_refused() {
    //= rfc7383#section-2.5
    //= type=test
    //# This field MUST be less than or equal to the next field (Total Fragments).
    let keys = gcm();
    for (number, total) in [(0, 0), (0, 2), (3, 2), (1, 65), (1, 65535)] {
        let skf = EncryptedFragment {
            first: PayloadType::NONE,
            number,
            total,
            body: vec![0; 40],
        };
        let message = Message::new(header(), vec![Payload::Skf(skf)]);
        let error = open(&message.encode().unwrap(), &keys.opener);
        assert_eq!(error, Err(ProtectError::FragmentNumber { number, total }));
    }
}

#[test]
fn fragment_fields_are_authenticated() {
    for suite in suites() {
        let mut keys = keys(suite);
        let mut piece = keys.fragments(&[1; 600], 300).unwrap().remove(0);
        assert!(open(&piece, &keys.opener).is_ok());
        piece[35] += 1;
        assert_eq!(
            open(&piece, &keys.opener),
            Err(ProtectError::NotAuthentic),
            "{suite}"
        );
    }
}

#[test]
fn payloads_in_front_are_authenticated_and_skipped() {
    let keys = gcm();
    let build = |kind: PayloadType, critical: u8| {
        let mut head = Writer::new();
        let mut header = header();
        header.next_payload = kind;
        header.length = 28 + 6 + 4 + 8 + 1 + 16;
        header.write(&mut head);
        head.bytes(&[PayloadType::SK.0, critical, 0, 6, 0xaa, 0xbb]);
        head.bytes(&[PayloadType::NONE.0, 0, 0, 29]);
        let head = head.into_bytes();
        let (mut iv, mut body, mut icv) = (vec![1; 8], vec![0], vec![0; 16]);
        let packet = crypto::Packet {
            aad: &head,
            mac_head: &head,
            mac_tail: &[],
            iv: &mut iv,
            body: &mut body,
            icv: &mut icv,
        };
        keys.sealer.seal(packet).unwrap();
        [head, iv, body, icv].concat()
    };
    assert!(open(&build(PayloadType(200), 0), &keys.opener).is_ok());
    assert!(open(&build(PayloadType::VENDOR_ID, 0x80), &keys.opener).is_ok());
    let error = open(&build(PayloadType(200), 0x80), &keys.opener).unwrap_err();
    assert_eq!(error, DecodeError::UnknownCritical(PayloadType(200)).into());
    let mut damaged = build(PayloadType(200), 0x80);
    damaged[33] ^= 1;
    assert_eq!(
        open(&damaged, &keys.opener),
        Err(ProtectError::NotAuthentic),
        "not believed"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_survives_any_size(
        plaintext in prop::collection::vec(any::<u8>(), 0..4000),
        max in 130..1500_usize,
        suite in prop::sample::select(suites()),
    ) {
        let mut keys = keys(suite);
        match keys.fragments(&plaintext, max) {
            Err(error) => {
                let too_many = matches!(error, ProtectError::TooManyFragments { .. });
                prop_assert!(too_many);
            },
            Ok(pieces) if pieces.len() == 1 => {
                let opened = open(&pieces[0], &keys.opener).unwrap();
                prop_assert_eq!(opened.content, Content::Whole { first: PayloadType::IDI, plaintext });
            }
            Ok(pieces) => {
                let mut text = Vec::new();
                for (number, piece) in (1..).zip(&pieces) {
                    prop_assert!(piece.len() <= max);
                    let fragment = keys.open_fragment(piece);
                    prop_assert_eq!((fragment.number, usize::from(fragment.total)), (number, pieces.len()));
                    text.extend(fragment.plaintext);
                }
                prop_assert_eq!(text, plaintext);
            }
        }
    }

    #[test]
    fn opening_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let keys = gcm();
        prop_assert!(open(&noise, &keys.opener).is_err());
        let mut writer = Writer::new();
        Header { next_payload: PayloadType::SKF, length: 28 + u32::try_from(noise.len()).unwrap(), ..header() }
            .write(&mut writer);
        writer.bytes(&noise);
        prop_assert!(open(writer.as_bytes(), &keys.opener).is_err());
    }
}
