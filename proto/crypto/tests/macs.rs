//! The vectors of the RFCs for hashes, HMACs and pseudo-random functions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use crypto::{HashAlgorithm, Integrity, MacKey, Prf, digest, hmac};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

#[test]
fn pseudo_random_functions() {
    for [key, data, sha256, sha384, sha512] in PRF {
        for (prf, output) in [
            (Prf::HmacSha256, sha256),
            (Prf::HmacSha384, sha384),
            (Prf::HmacSha512, sha512),
        ] {
            let data = hex(data);
            let (head, tail) = data.split_at(data.len() / 2);
            assert_eq!(hex::encode(prf.compute(&hex(key), &[head, tail])), output);
        }
    }
}

/// RFC 2202 section 3.
#[test]
fn hmac_sha1() {
    let cases: [(Vec<u8>, Vec<u8>, &str); 5] = [
        (
            vec![0x0b; 20],
            b"Hi There".to_vec(),
            "b617318655057264e28bc0b6fb378c8ef146be00",
        ),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?".to_vec(),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
        ),
        (
            vec![0xaa; 20],
            vec![0xdd; 50],
            "125d7342b9ac11cd91a39af48aa17b4f63f175d3",
        ),
        (
            (1..=25).collect(),
            vec![0xcd; 50],
            "4c9007f4026250c6bc8414f9bf50c86c2d7235da",
        ),
        (
            vec![0xaa; 80],
            b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
            "aa4ae5e15272d00e95705637ce8a3b55ed402112",
        ),
    ];
    for (key, data, output) in cases {
        assert_eq!(hex::encode(Prf::HmacSha1.compute(&key, &[&data])), output);
        let mac = MacKey::new(Integrity::HmacSha1_96, &key);
        let mut icv = [0; 12];
        assert!(mac.sign(&[&data], &mut icv));
        assert_eq!(hex::encode(icv), output[..24]);
        assert!(mac.verify(&[&data], &icv));
        assert!(
            !mac.verify(&[&data], &hex(output)),
            "an ICV that was not truncated"
        );
    }
}

#[test]
fn authenticators() {
    for (integrity, [key, data, icv]) in AUTH {
        // The last key of the RFC has 80 octets where its own text and its result have 64.
        let key = hex(key);
        let key = &key[key.len() - integrity.key_len()..];
        let mac = MacKey::new(integrity, key);
        let mut made = vec![0; integrity.icv_len()];
        assert!(mac.sign(&[&hex(data)], &mut made));
        assert_eq!(hex::encode(&made), icv, "{integrity}");
        assert!(mac.verify(&[&hex(data)], &made));
        assert!(!mac.verify(&[&hex(data), b"x"], &made));
        assert!(!mac.sign(&[], &mut made[1..]), "too little room");
    }
}

#[test]
fn digests() {
    let cases = [
        (HashAlgorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            HashAlgorithm::Sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            HashAlgorithm::Sha384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            HashAlgorithm::Sha512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
             454d4423643ce80e2a9ac94fa54ca49f",
        ),
        (HashAlgorithm::Identity, "616263"),
    ];
    for (hash, output) in cases {
        assert_eq!(hex::encode(digest(hash, &[b"a", b"", b"bc"])), output);
    }
    assert_eq!(hmac(HashAlgorithm::Identity, b"key", &[b"abc"]), None);
}

#[test]
fn prf_plus_feeds_each_output_into_the_next() {
    //= rfc7296#section-2.13
    //= type=test
    //# prf+ (K,S) = T1 | T2 | T3 | T4 | ...
    for prf in Prf::ALL {
        let (key, seed) = (b"key", b"seed");
        let t1 = prf.compute(key, &[seed, &[1]]);
        let t2 = prf.compute(key, &[t1.expose(), seed, &[2]]);
        let t3 = prf.compute(key, &[t2.expose(), seed, &[3]]);
        let all = [t1.expose(), t2.expose(), t3.expose()].concat();
        for len in 0..all.len() {
            assert_eq!(prf.plus(key, seed, len).expose(), &all[..len]);
        }
        let most = 255 * prf.output_len();
        assert_eq!(prf.plus(key, seed, most).len(), most);
        assert_eq!(prf.plus(key, seed, most + 1).len(), most);
    }
}

/// Key, data, and PRF-HMAC-SHA-256, -384, -512 of RFC 4868 section 2.7.1.
const PRF: [[&str; 5]; 6] = [
    [
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "4869205468657265",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4\
         be9d914eeb61f1702e696c203a126854",
    ],
    [
        "4a656665",
        "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
         caeab1a34d4a6b4b636e070a38bce737",
    ],
    [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
         dddd",
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
        "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807\
         b946a337bee8942674278859e13292fb",
    ],
    [
        "0102030405060708090a0b0c0d0e0f10111213141516171819",
        "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\
         cdcd",
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
        "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063\
         a5f19741120c4f2de2adebeb10a298dd",
    ],
    [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a65204b6579202d2048617368204b6579\
         204669727374",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
        "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52\
         95e64f73f63f0aec8b915a985d786598",
    ],
    [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "5468697320697320612074657374207573696e672061206c6172676572207468616e20626c6f636b2d73697a65206b65\
         7920616e642061206c6172676572207468616e20626c6f636b2d73697a6520646174612e20546865206b6579206e6565\
         647320746f20626520686173686564206265666f7265206265696e6720757365642062792074686520484d414320616c\
         676f726974686d2e",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
        "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15\
         134676fb6de0446065c97440fa8c6a58",
    ],
];

/// Key, data and tag of RFC 4868 section 2.7.2.
const AUTH: [(Integrity, [&str; 3]); 12] = [
    (
        Integrity::HmacSha256_128,
        [
            "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
            "4869205468657265",
            "198a607eb44bfbc69903a0f1cf2bbdc5",
        ],
    ),
    (
        Integrity::HmacSha256_128,
        [
            "4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665",
            "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
            "167f928588c5cc2eef8e3093caa0e87c",
        ],
    ),
    (
        Integrity::HmacSha256_128,
        [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
             dddd",
            "cdcb1220d1ecccea91e53aba3092f962",
        ],
    ),
    (
        Integrity::HmacSha256_128,
        [
            "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\
             cdcd",
            "372efcf9b40b35c2115b1346903d2ef4",
        ],
    ),
    (
        Integrity::HmacSha384_192,
        [
            "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
            "4869205468657265",
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
        ],
    ),
    (
        Integrity::HmacSha384_192,
        [
            "4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665",
            "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
            "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
        ],
    ),
    (
        Integrity::HmacSha384_192,
        [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
             dddd",
            "809f439be00274321d4a538652164b53554a508184a0c316",
        ],
    ),
    (
        Integrity::HmacSha384_192,
        [
            "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f200a0b0c0d0e0f10111213141516171819",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\
             cdcd",
            "5b540085c6e6358096532b2493609ed1cb298f774f87bb5c",
        ],
    ),
    (
        Integrity::HmacSha512_256,
        [
            "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b\
             0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
            "4869205468657265",
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        ],
    ),
    (
        Integrity::HmacSha512_256,
        [
            "4a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a6566654a656665\
             4a6566654a6566654a6566654a656665",
            "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
            "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
        ],
    ),
    (
        Integrity::HmacSha512_256,
        [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
             dddd",
            "2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8",
        ],
    ),
    (
        Integrity::HmacSha512_256,
        [
            "0a0b0c0d0e0f101112131415161718190102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20\
             2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f40",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\
             cdcd",
            "5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108",
        ],
    ),
];
