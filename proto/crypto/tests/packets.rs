//! The vectors of the RFCs for ciphers, and what must hold for every suite.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use crypto::aead::{self, Aad, AeadJob, BatchAead as _};
use crypto::{
    Cipher, HashAlgorithm, Integrity, KeyError, OpenError, Opener, Packet, Provider, Random, SealError,
    Sealer, SeededRandom, Suite, hmac,
};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// Seals and opens a vector of a cipher that is joined with an HMAC, which the vector does not cover.
fn check_cipher(cipher: Cipher, [key, iv, plain, coded]: [&str; 4]) {
    let suite = Suite::new(cipher, Some(Integrity::HmacSha256_128)).unwrap();
    let mac_key = [9; 32];
    let (mut iv, mut body, mut icv) = (hex(iv), hex(plain), [0; 16]);
    let sealer = Sealer::new(suite, &hex(key), &mac_key).unwrap();
    let packet = Packet {
        aad: &[],
        mac_head: b"head",
        mac_tail: b"tail",
        iv: &mut iv,
        body: &mut body,
        icv: &mut icv,
    };
    sealer.seal(packet).unwrap();
    assert_eq!(hex::encode(&body), coded);
    let whole = hmac(HashAlgorithm::Sha256, &mac_key, &[b"head", &iv, &body, b"tail"]).unwrap();
    assert_eq!(icv, whole[..16]);
    let opener = Opener::new(suite, &hex(key), &mac_key).unwrap();
    let packet = Packet {
        aad: &[],
        mac_head: b"head",
        mac_tail: b"tail",
        iv: &mut iv,
        body: &mut body,
        icv: &mut icv,
    };
    opener.open(packet).unwrap();
    assert_eq!(hex::encode(&body), plain);
}

#[test]
fn aes_cbc() {
    for vector in CBC {
        check_cipher(Cipher::AesCbc { key_bits: 128 }, vector);
    }
    // NIST SP 800-38A sections F.2.3 and F.2.5.
    let iv = "000102030405060708090a0b0c0d0e0f";
    let plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
    let key = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b";
    let coded = "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a";
    check_cipher(Cipher::AesCbc { key_bits: 192 }, [key, iv, plain, coded]);
    let key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    let coded = "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d";
    check_cipher(Cipher::AesCbc { key_bits: 256 }, [key, iv, plain, coded]);
}

#[test]
fn aes_ctr() {
    for (index, vector) in CTR.into_iter().enumerate() {
        let key_bits = [128, 192, 256][index / 3];
        check_cipher(Cipher::AesCtr { key_bits }, vector);
    }
}

/// Checks one AEAD vector with every provider: key with salt, IV, associated data, plaintext, ciphertext, tag.
fn check_aead(cipher: Cipher, [key, iv, aad, plain, coded, tag]: [&str; 6]) {
    let suite = Suite::new(cipher, None).unwrap();
    let aad = hex(aad);
    for provider in Provider::ALL.iter().copied() {
        let (mut iv, mut body, mut icv) = (hex(iv), hex(plain), [0; 16]);
        let sealer = Sealer::with_provider(provider, suite, &hex(key), &[]).unwrap();
        let opener = Opener::with_provider(provider, suite, &hex(key), &[]).unwrap();
        let packet = Packet {
            aad: &aad,
            mac_head: &[],
            mac_tail: &[],
            iv: &mut iv,
            body: &mut body,
            icv: &mut icv,
        };
        sealer.seal(packet).unwrap();
        assert_eq!(
            (hex::encode(&body), hex::encode(icv)),
            (coded.to_owned(), tag.to_owned()),
            "{provider}"
        );
        let packet = Packet {
            aad: &aad,
            mac_head: &[],
            mac_tail: &[],
            iv: &mut iv,
            body: &mut body,
            icv: &mut icv,
        };
        opener.open(packet).unwrap();
        assert_eq!(hex::encode(&body), plain);
    }
}

/// The test cases 4, 10 and 16 of the GCM specification (McGrew and Viega), to which RFC 4106 section 9 refers.
#[test]
fn aes_gcm() {
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                 b16aedf5aa0de657ba637b39";
    let aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let cases = [
        (
            128,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05\
             1ba30b396a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            192,
            "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f47\
             18e2448b2fe324d9ccda2710",
            "2519498e80f1478f37ba55bd6d27618c",
        ),
        (
            256,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
             c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (key_bits, coded, tag) in cases {
        let key = format!("{}cafebabe", &key[..usize::from(key_bits) / 4]);
        check_aead(
            Cipher::AesGcm16 { key_bits },
            [&key, "facedbaddecaf888", aad, plain, coded, tag],
        );
    }
}

#[test]
fn chacha20_poly1305() {
    let key = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f";
    // RFC 8439 section 2.8.2.
    let plain = hex::encode(
        "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
    );
    check_aead(
        Cipher::ChaCha20Poly1305,
        [
            &format!("{key}07000000"),
            "4041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            &plain,
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b\
             1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
             3ff4def08e4b7a9de576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ],
    );
    // RFC 7634 appendix A: an ESP packet.
    check_aead(
        Cipher::ChaCha20Poly1305,
        [
            &format!("{key}a0a1a2a3"),
            "1011121314151617",
            "0102030400000005",
            "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f10111213\
             1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204",
            "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7\
             2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0",
            "76aaa8266b7fb0f7b11b369907e1ad43",
        ],
    );
    // RFC 7634 appendix B: an IKE message.
    check_aead(
        Cipher::ChaCha20Poly1305,
        [
            &format!("{key}a0a1a2a3"),
            "1011121314151617",
            "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029",
            "0000000c000040010000000a00",
            "610394701f8d017f7c12924889",
            "6b71bfe25236efd7cdc67066906315b2",
        ],
    );
}

/// Every suite that there is.
fn suites() -> Vec<Suite> {
    let mut suites = Vec::new();
    for cipher in Cipher::ALL {
        if cipher.is_aead() {
            suites.push(Suite::new(cipher, None).unwrap());
        } else {
            suites.extend(Integrity::ALL.map(|integrity| Suite::new(cipher, Some(integrity)).unwrap()));
        }
    }
    suites
}

fn octets(random: &mut dyn Random, len: usize) -> Vec<u8> {
    let mut octets = vec![0; len];
    random.fill(&mut octets);
    octets
}

/// A packet with storage of its own.
#[derive(Clone)]
struct Owned {
    aad: Vec<u8>,
    head: Vec<u8>,
    tail: Vec<u8>,
    iv: Vec<u8>,
    body: Vec<u8>,
    icv: Vec<u8>,
}

impl Owned {
    fn new(suite: Suite, len: usize, random: &mut dyn Random) -> Self {
        Self {
            aad: octets(random, 12),
            head: octets(random, 8),
            tail: octets(random, 4),
            iv: octets(random, suite.iv_len()),
            body: octets(random, len),
            icv: vec![0; suite.icv_len()],
        }
    }

    fn packet(&mut self) -> Packet<'_> {
        Packet {
            aad: &self.aad,
            mac_head: &self.head,
            mac_tail: &self.tail,
            iv: &mut self.iv,
            body: &mut self.body,
            icv: &mut self.icv,
        }
    }
}

#[test]
fn every_suite_opens_what_it_sealed_at_every_length() {
    let mut random = SeededRandom::from_seed(1);
    for suite in suites() {
        let enc_key = octets(&mut random, suite.enc_key_len());
        let integ_key = octets(&mut random, suite.integ_key_len());
        for provider in Provider::ALL.iter().copied() {
            let sealer = Sealer::with_provider(provider, suite, &enc_key, &integ_key).unwrap();
            let opener = Opener::with_provider(provider, suite, &enc_key, &integ_key).unwrap();
            for len in 0..200 {
                let plain = Owned::new(suite, len, &mut random);
                let mut packet = plain.clone();
                if len % suite.block() != 0 {
                    assert_eq!(sealer.seal(packet.packet()), Err(SealError::BodyLength));
                    assert_eq!(packet.body, plain.body);
                    assert_eq!(opener.open(packet.packet()), Err(OpenError::BodyLength));
                    continue;
                }
                sealer.seal(packet.packet()).unwrap();
                assert!(len < 16 || packet.body != plain.body);
                opener.open(packet.packet()).unwrap();
                assert_eq!(packet.body, plain.body, "{suite} {len}");
            }
        }
    }
}

#[test]
fn parts_and_keys_of_the_wrong_length_are_refused() {
    let mut random = SeededRandom::from_seed(2);
    for suite in suites() {
        let enc_key = octets(&mut random, suite.enc_key_len());
        let integ_key = octets(&mut random, suite.integ_key_len());
        let (wanted, given) = (enc_key.len(), enc_key.len() + 1);
        let longer = [&enc_key[..], &[0]].concat();
        let error = KeyError::EncryptionKeyLength { wanted, given };
        assert_eq!(Sealer::new(suite, &longer, &integ_key).unwrap_err(), error);
        assert!(Opener::new(suite, &enc_key[1..], &integ_key).is_err());
        let error = KeyError::IntegrityKeyLength {
            wanted: integ_key.len(),
            given: integ_key.len() + 1,
        };
        assert_eq!(
            Opener::new(suite, &enc_key, &[&integ_key[..], &[0]].concat()).unwrap_err(),
            error
        );

        let sealer = Sealer::new(suite, &enc_key, &integ_key).unwrap();
        let opener = Opener::new(suite, &enc_key, &integ_key).unwrap();
        let sound = Owned::new(suite, 32, &mut random);
        let mut packet = sound.clone();
        packet.iv.push(0);
        assert_eq!(sealer.seal(packet.packet()), Err(SealError::IvLength));
        assert_eq!(opener.open(packet.packet()), Err(OpenError::IvLength));
        let mut packet = sound.clone();
        packet.icv.pop();
        assert_eq!(sealer.seal(packet.packet()), Err(SealError::IcvLength));
        assert_eq!(opener.open(packet.packet()), Err(OpenError::IcvLength));
        assert_eq!(packet.body, sound.body, "nothing was touched");
        assert_eq!(
            format!("{sealer:?}{opener:?}"),
            format!("Sealer({suite}, ..)Opener({suite}, ..)")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any bit of anything that is authenticated.
    #[test]
    fn a_flipped_bit_fails(seed in any::<u64>(), blocks in 0_usize..8, at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut random = SeededRandom::from_seed(seed);
        for suite in suites() {
            let enc_key = octets(&mut random, suite.enc_key_len());
            let integ_key = octets(&mut random, suite.integ_key_len());
            let sealer = Sealer::new(suite, &enc_key, &integ_key).unwrap();
            let opener = Opener::new(suite, &enc_key, &integ_key).unwrap();
            let mut packet = Owned::new(suite, 16 * blocks, &mut random);
            sealer.seal(packet.packet()).unwrap();
            let mut sound = packet.clone();
            prop_assert_eq!(opener.open(sound.packet()), Ok(()));
            let Owned { aad, head, tail, iv, body, icv } = &mut packet;
            let mut reached: Vec<&mut u8> = if suite.is_aead() {
                aad.iter_mut().chain(iv).chain(body).chain(icv).collect()
            } else {
                head.iter_mut().chain(iv).chain(body).chain(tail).chain(icv).collect()
            };
            let at = at.index(reached.len());
            *reached[at] ^= 1_u8 << bit;
            prop_assert_eq!(opener.open(packet.packet()), Err(OpenError::NotAuthentic));
        }
    }

    /// Batches give the octets that packets give, and say which jobs were authentic.
    #[test]
    fn batches_agree_with_packets(seed in any::<u64>(), lens in prop::collection::vec(0_usize..300, 1..8), broken in any::<prop::sample::Index>()) {
        let mut random = SeededRandom::from_seed(seed);
        for suite in suites().into_iter().filter(Suite::is_aead) {
            let enc_key = octets(&mut random, suite.enc_key_len());
            let (key, salt) = enc_key.split_at(suite.cipher.key_len());
            let sealer = Sealer::new(suite, &enc_key, &[]).unwrap();
            let plain: Vec<Owned> = lens.iter().map(|len| Owned::new(suite, *len, &mut random)).collect();
            let mut sealed = plain.clone();
            for packet in &mut sealed {
                sealer.seal(packet.packet()).unwrap();
            }
            for provider in Provider::ALL.iter().copied() {
                let batch = aead::batch(provider, suite.cipher, key).unwrap();
                let mut data: Vec<Vec<u8>> = plain.iter().map(|packet| [&packet.body[..], &[0; 16]].concat()).collect();
                let mut jobs: Vec<AeadJob<'_>> = data
                    .iter_mut()
                    .zip(&plain)
                    .map(|(data, packet)| AeadJob {
                        nonce: [salt, &packet.iv].concat().try_into().unwrap(),
                        aad: Aad::new(&packet.aad).unwrap(),
                        data,
                    })
                    .collect();
                batch.seal_batch(&mut jobs).unwrap();
                for (job, packet) in jobs.iter().zip(&sealed) {
                    prop_assert_eq!(&*job.data, &[&packet.body[..], &packet.icv].concat()[..]);
                }
                let broken = broken.index(jobs.len());
                jobs[broken].data[0] ^= 1;
                // Room for more verdicts than there are packets, as a worker has it.
                let mut ok = vec![true; jobs.len() + seed as usize % 40];
                batch.open_batch(&mut jobs, &mut ok);
                for (index, (job, packet)) in jobs.iter().zip(&plain).enumerate() {
                    prop_assert_eq!(ok[index], index != broken);
                    prop_assert!(index == broken || job.data[..packet.body.len()] == packet.body);
                }
            }
        }
    }
}

#[test]
fn batches_refuse_what_has_no_room_for_a_tag() {
    let cipher = Cipher::AesGcm16 { key_bits: 128 };
    let batch = aead::batch(Provider::Ring, cipher, &[1; 16]).unwrap();
    let (mut long, mut short) = ([5; 20], [5; 15]);
    let mut jobs = [
        AeadJob {
            nonce: [0; 12],
            aad: Aad::from([0; 8]),
            data: &mut long,
        },
        AeadJob {
            nonce: [1; 12],
            aad: Aad::from([0; 12]),
            data: &mut short,
        },
    ];
    assert_eq!(batch.seal_batch(&mut jobs), Err(SealError::BodyLength));
    assert_eq!(*jobs[0].data, [5; 20], "no job was touched");
    let mut ok = [true; 3];
    batch.open_batch(&mut jobs, &mut ok);
    assert_eq!(ok, [false; 3]);
    assert_eq!(Aad::new(&[0; 13]), None);
    let cbc = Cipher::AesCbc { key_bits: 128 };
    assert_eq!(
        aead::batch(Provider::Ring, cbc, &[1; 16]).err(),
        Some(KeyError::NotAnAead(cbc))
    );
    let lengths = KeyError::EncryptionKeyLength {
        wanted: 16,
        given: 20,
    };
    assert_eq!(
        aead::batch(Provider::AwsLc, cipher, &[1; 20]).err(),
        Some(lengths)
    );
}

/// Key, IV, plaintext, ciphertext of RFC 3602 section 4.
const CBC: [[&str; 4]; 8] = [
    [
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        "53696e676c6520626c6f636b206d7367",
        "e353779c1079aeb82708942dbe77181a",
    ],
    [
        "c286696d887c9aa0611bbb3e2025a45a",
        "562e17996d093d28ddb3ba695a2e6f58",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
    ],
    [
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        "5468697320697320612034382d62797465206d657373616765202865786163746c7920332041455320626c6f636b7329",
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684",
    ],
    [
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf\
         d0d1d2d3d4d5d6d7d8d9dadbdcdddedf",
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e35907aa632c3ffdf868bb7b29d3d46ad\
         83ce9f9a102ee99d49a53e87f4c3da55",
    ],
    [
        "90d382b410eeba7ad938c46cec1a82bf",
        "e96e8c08ab465763fd098d45dd3ff893",
        "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627\
         28292a2b2c2d2e2f30313233343536370102030405060708090a0b0c0d0e0e01",
        "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856a4699e523a55db080b59ec3a8e4b7e52\
         775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6",
    ],
    [
        "90d382b410eeba7ad938c46cec1a82bf",
        "69d08df7d203329db093fc4924e5bd80",
        "0800b5e8a80a0500a69c083d0b660e0077777777777777777777777701020201",
        "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
    ],
    [
        "0123456789abcdef0123456789abcdef",
        "f4e765244f6407adf13dc1380f673f37",
        "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b0c0d0e0f10111213\
         1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233343536370102030405060708090a0a04",
        "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c6\
         47752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
    ],
    [
        "0123456789abcdef0123456789abcdef",
        "85d47224b5f3dd5d2101d4ea8dffab22",
        "45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300ffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffff0102030405060708090a0a04",
        "15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639\
         b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892",
    ],
];

/// Key with nonce, IV, plaintext, ciphertext of RFC 3686 section 6.
const CTR: [[&str; 4]; 9] = [
    [
        "ae6852f8121067cc4bf7a5765577f39e00000030",
        "0000000000000000",
        "53696e676c6520626c6f636b206d7367",
        "e4095d4fb7a7b3792d6175a3261311b8",
    ],
    [
        "7e24067817fae0d743d6ce1f32539163006cb6db",
        "c0543b59da48d90b",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28",
    ],
    [
        "7691be035e5020a8ac6e618529f9a0dc00e0017b",
        "27777f3f4a1786f0",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f",
    ],
    [
        "16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb7851500000048",
        "36733c147d6d93cb",
        "53696e676c6520626c6f636b206d7367",
        "4b55384fe259c9c84e7935a003cbe928",
    ],
    [
        "7c5cb2401b3dc33c19e7340819e0f69c678c3db8e6f6a91a0096b03b",
        "020c6eadc2cb500d",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "453243fc609b23327edfaafa7131cd9f8490701c5ad4a79cfc1fe0ff42f4fb00",
    ],
    [
        "02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe0007bdfd",
        "5cbd60278dcc0912",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935",
    ],
    [
        "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c10400000060",
        "db5672c97aa8f0b2",
        "53696e676c6520626c6f636b206d7367",
        "145ad01dbf824ec7560863dc71e3e0c0",
    ],
    [
        "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a2388400faac24",
        "c1585ef15a43d875",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c",
    ],
    [
        "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d001cc5b7",
        "51a51d70a1c11148",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8",
    ],
];
