//! Known answers: whole ESP packets from RFC 3602 (CBC), RFC 7634 (ChaCha20-Poly1305) and, since RFC 4106 prints none,
//! from the GCM test cases of its authors (draft-mcgrew-gcm-test).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use crypto::{Cipher, Integrity, MacKey, Random, Secret, Suite};
use esp::{DropReason, InboundParams, InboundSa, OutboundParams, OutboundSa};

fn octets(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

/// The IV that an RFC has chosen.
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&mut self, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0);
    }
}

struct Case {
    spi: u32,
    sequence: u32,
    iv: &'static str,
    inner: &'static str,
    encrypted: &'static str,
}

/// RFC 3602 section 4, cases 7 and 8: tunnel mode. The RFC leaves integrity out, so the ICV is made separately here.
const RFC3602: [Case; 2] = [
    Case {
        spi: 0x8765,
        sequence: 2,
        iv: "f4e76524 4f6407ad f13dc138 0f673f37",
        inner: "45000054 09040000 4001f988 c0a87b03 c0a87bc8 08009f76 a90a0100 b49c083d
                02a20400 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f 20212223
                24252627 28292a2b 2c2d2e2f 30313233 34353637",
        encrypted: "773b5241 a4c44922 5e4f3ce5 ed611b0c 237ca96c f74a9301 3c1b0ea1 a0cf70f8
                    e4ecaec7 8ac53aad 7a0f022b 859243c6 47752e94 a859352b 8a4d4d2d ecd136e5
                    c177f132 ad3fbfb2 201ac990 4c74ee0a 109e0ca1 e4dfe9d5 a100b842 f1c22f0d",
    },
    Case {
        spi: 0x8765,
        sequence: 5,
        iv: "85d47224 b5f3dd5d 2101d4ea 8dffab22",
        inner: "45000044 090c0000 4001f990 c0a87b03 c0a87bc8 0800d63c aa0a0200 c69c083d
                a3de0300 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff
                ffffffff",
        encrypted: "15b92683 819596a8 047232cc 00f7048f e45318e1 1f8a0f62 ede3c3fc 61203bb5
                    0f980a08 c9843fd3 a1b06d5c 07ff9639 b7eb7dfb 3512e5de 435e7207 ed971ef3
                    d2726d9b 5ef6affc 6d17a0de cbb13892",
    },
];

#[test]
fn rfc_3602_tunnel_packets_are_made_and_read() {
    for esn in [false, true] {
        for case in &RFC3602 {
            let integrity = Integrity::HmacSha256_128;
            let suite = Suite::new(Cipher::AesCbc { key_bits: 128 }, Some(integrity)).unwrap();
            let enc_key = Secret::from(octets("01234567 89abcdef 01234567 89abcdef"));
            let integ_key = Secret::from(vec![0x0b; 32]);
            let mut expect = case.spi.to_be_bytes().to_vec();
            expect.extend_from_slice(&case.sequence.to_be_bytes());
            expect.extend_from_slice(&octets(case.iv));
            expect.extend_from_slice(&octets(case.encrypted));
            let mut icv = [0; 16];
            let high: &[u8] = if esn { &[0; 4] } else { &[] };
            assert!(MacKey::new(integrity, integ_key.expose()).sign(&[&expect, high], &mut icv));
            expect.extend_from_slice(&icv);

            let outbound = OutboundParams {
                spi: case.spi,
                suite,
                enc_key: enc_key.clone(),
                integ_key: integ_key.clone(),
                esn,
                generation: 0,
                first_seq: case.sequence.into(),
                ceiling: u64::MAX,
                tfc_pad_to: 0,
            };
            let mut tx = OutboundSa::with_random(&outbound, Box::new(Fixed(octets(case.iv)))).unwrap();
            let packet = octets(case.inner);
            let wire = common::seal(&mut tx, &packet, 4);
            assert_eq!(hex::encode(&wire), hex::encode(&expect));

            let inbound = InboundParams {
                spi: case.spi,
                suite,
                enc_key,
                integ_key,
                esn,
                window: 32,
                checkpoint: 0,
            };
            assert_eq!(
                common::open(&mut InboundSa::new(&inbound).unwrap(), &expect).unwrap(),
                packet
            );
        }
    }
}

/// RFC 7634 appendix A.
#[test]
fn rfc_7634_packet_is_read() {
    let wire = octets(
        "01020304 00000005 10111213 14151617 24039428 b97f417e 3c13753a 4f05087b 67c352e6 a7fab1b9
         82d466ef 407ae5c6 14ee8099 d52844eb 61aa95df ab4c02f7 2aa71e7c 4c4f64c9 befe2fac c638e8f3
         cbec163f ac469b50 2773f6fb 94e664da 9165b828 29f641e0 76aaa826 6b7fb0f7 b11b3699 07e1ad43",
    );
    let packet = octets(
        "45000054 a6f20000 4001e778 c6336405 c0000205 08005b7a 3a080000 553bec10 00073627 08090a0b
         0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f 20212223 24252627 28292a2b 2c2d2e2f 30313233
         34353637",
    );
    let inbound = InboundParams {
        spi: 0x0102_0304,
        suite: Suite::new(Cipher::ChaCha20Poly1305, None).unwrap(),
        enc_key: Secret::from((0x80..=0xa3).collect::<Vec<u8>>()),
        integ_key: Secret::default(),
        esn: false,
        window: 64,
        checkpoint: 0,
    };
    let mut rx = InboundSa::new(&inbound).unwrap();
    assert_eq!(common::open(&mut rx, &wire).unwrap(), packet);
    assert_eq!(rx.highest_seq(), 5);
}

/// AES-GCM-128 with an extended sequence number. The packet announces a next header that tunnel mode does not carry,
/// which is found out only behind the integrity check.
#[test]
fn gcm_packet_with_extended_sequence_number_is_authentic() {
    let wire = octets(
        "00004321 00000000 4956ed7e 3b244cfe
         fecf537e 729d5b07 dc30df52 8dd22b76 8d1b9873 6696a6fd 348509fa 13ceac34 cfa2436f 14a3f3cf
         65925bf1 f4a13c5d 15b21e18 84f5ff62 47aeabb7 86b93bce 61bc17d7 68fd9732
         45901814 8f6cbe72 2fd04796 562dfdb4",
    );
    let inbound = InboundParams {
        spi: 0x4321,
        suite: Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap(),
        enc_key: Secret::from(octets("4c80cdef bb5d10da 906ac73c 3613a634 2e443b68")),
        integ_key: Secret::default(),
        esn: true,
        window: 64,
        checkpoint: 0x8765_4320_ffff_fff0,
    };
    let mut rx = InboundSa::new(&inbound).unwrap();
    assert_eq!(common::open(&mut rx, &wire), Err(DropReason::NextHeader));
    assert_eq!(rx.highest_seq(), 0x8765_4321_0000_0000);
}
