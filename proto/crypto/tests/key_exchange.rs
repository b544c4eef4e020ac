//! Key exchange against the vectors of the RFCs and an independent computation, and the checks on peers' values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use crypto::dh::{DhError, KeyPair};
use crypto::{Group, HashAlgorithm, Random, SeededRandom, digest};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// Gives out the octets of a vector's private key, once.
struct Fixed(Vec<u8>);

impl Random for Fixed {
    fn fill(&mut self, buf: &mut [u8]) {
        assert_eq!(
            buf.len(),
            self.0.len(),
            "a private key of another length than the vector's"
        );
        buf.copy_from_slice(&self.0);
    }
}

fn key_pair(group: Group, private: &[u8]) -> KeyPair {
    KeyPair::generate(group, &mut Fixed(private.to_vec())).unwrap()
}

#[test]
fn ecp_groups() {
    for (group, [i, public_i, r, public_r, secret]) in ECP {
        let (i, r) = (key_pair(group, &hex(i)), key_pair(group, &hex(r)));
        assert_eq!(hex::encode(i.public()), public_i);
        assert_eq!(hex::encode(r.public()), public_r);
        //= rfc5903#section-7
        //= type=test
        //# The Diffie-Hellman shared secret value consists of the x value of the
        //# Diffie-Hellman common value.
        assert_eq!(hex::encode(i.derive(r.public()).unwrap()), secret);
        assert_eq!(hex::encode(r.derive(i.public()).unwrap()), secret);
    }
}

#[test]
fn curve25519() {
    // RFC 7748 section 6.1 and RFC 8031 appendix A: private keys, public values, secret.
    let vectors = [
        [
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ],
        [
            "751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94",
            "48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766",
            "0a54645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05688",
            "0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25",
            "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950",
        ],
    ];
    for [a, public_a, b, public_b, secret] in vectors {
        let (a, b) = (
            key_pair(Group::Curve25519, &hex(a)),
            key_pair(Group::Curve25519, &hex(b)),
        );
        assert_eq!(hex::encode(a.public()), public_a);
        assert_eq!(hex::encode(b.public()), public_b);
        assert_eq!(hex::encode(a.derive(b.public()).unwrap()), secret);
        assert_eq!(hex::encode(b.derive(a.public()).unwrap()), secret);
    }
}

#[test]
fn modp_values_match_an_independent_computation() {
    for (group, [_, public, secret]) in MODP {
        let len = match group {
            Group::Modp1024 => 32_u8,
            Group::Modp2048 => 40,
            Group::Modp3072 => 56,
            Group::Modp4096 | Group::Ecp256 | Group::Ecp384 | Group::Ecp521 | Group::Curve25519 => 64,
        };
        let a: Vec<u8> = (0..len).map(|index| 0x80 + index).collect();
        let b: Vec<u8> = (0..len).map(|index| 0xff - index).collect();
        let (a, b) = (key_pair(group, &a), key_pair(group, &b));
        assert_eq!(
            hex::encode(digest(HashAlgorithm::Sha256, &[a.public()])),
            public,
            "{group}"
        );
        let derived = a.derive(b.public()).unwrap();
        //= rfc7296#section-2.14
        //= type=test
        //# g^ir is represented as a string of octets in big endian order padded
        //# with zeros if necessary to make it the length of the modulus.
        assert_eq!(derived.len(), group.secret_len());
        assert_eq!(
            hex::encode(digest(HashAlgorithm::Sha256, &[derived.expose()])),
            secret,
            "{group}"
        );
        assert_eq!(b.derive(a.public()).unwrap(), derived);
    }
}

/// One value in 256 begins with a zero octet, which must stay.
#[test]
fn modp_values_keep_their_leading_zeros() {
    let group = Group::Modp1024;
    let ours = KeyPair::generate(group, &mut SeededRandom::from_seed(0)).unwrap();
    let (mut public, mut secret) = (false, false);
    for seed in 1..4000 {
        let theirs = KeyPair::generate(group, &mut SeededRandom::from_seed(seed)).unwrap();
        let derived = ours.derive(theirs.public()).unwrap();
        assert_eq!((theirs.public().len(), derived.len()), (128, 128));
        public |= theirs.public()[0] == 0;
        if derived.expose()[0] == 0 {
            assert_eq!(theirs.derive(ours.public()).unwrap(), derived);
            secret = true;
        }
        if public && secret {
            return;
        }
    }
    panic!("no seed gave a leading zero");
}

#[test]
fn modp_values_out_of_range_are_refused() {
    //= rfc6989#section-2.1
    //= type=test
    //# Each recipient MUST verify that the peer's
    //# public value r is in the legal range (1 < r < p-1).
    for (group, [prime, ..]) in MODP {
        let pair = KeyPair::generate(group, &mut SeededRandom::from_seed(3)).unwrap();
        let prime = hex(prime);
        let small = |last: u8| {
            let mut value = vec![0; prime.len()];
            *value.last_mut().unwrap() = last;
            value
        };
        // The primes end in 64 bits of ones, so that nothing is carried.
        let below_prime = |by: u8| {
            let mut value = prime.clone();
            *value.last_mut().unwrap() -= by;
            value
        };
        let above = vec![0xff; prime.len()];
        for bad in [small(0), small(1), below_prime(1), prime.clone(), above] {
            assert_eq!(pair.derive(&bad), Err(DhError::InvalidPublic(group)));
        }
        for good in [small(2), below_prime(2)] {
            assert_eq!(pair.derive(&good).unwrap().len(), prime.len());
        }
        // 2 to the private exponent is the public value itself.
        assert_eq!(pair.derive(&small(2)).unwrap().expose(), pair.public());
    }
}

#[test]
fn points_off_the_curve_are_refused() {
    //= rfc6989#section-2.3
    //= type=test
    //# A receiving peer MUST
    //# check that its peer's public value is valid; that is, the x and y
    //# parameters from the peer's public value satisfy the curve equation,
    //# y^2 = x^3 + ax + b mod p
    for (group, [_, public, ..]) in ECP {
        let pair = KeyPair::generate(group, &mut SeededRandom::from_seed(4)).unwrap();
        let public = hex(public);
        pair.derive(&public).unwrap();
        let mut off = public.clone();
        *off.last_mut().unwrap() ^= 1;
        let swapped = [&public[public.len() / 2..], &public[..public.len() / 2]].concat();
        for bad in [off, swapped, vec![0; public.len()], vec![0xff; public.len()]] {
            assert_eq!(pair.derive(&bad), Err(DhError::InvalidPublic(group)));
        }
    }
}

/// The points of small order of Curve25519, and encodings beyond the prime of those.
#[test]
fn curve25519_points_of_small_order_are_refused() {
    let pair = KeyPair::generate(Group::Curve25519, &mut SeededRandom::from_seed(5)).unwrap();
    for point in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        assert_eq!(
            pair.derive(&hex(point)),
            Err(DhError::InvalidPublic(Group::Curve25519)),
            "{point}"
        );
    }
}

#[test]
fn every_group_agrees_replays_and_insists_on_the_length() {
    for group in Group::ALL {
        let mut random = SeededRandom::from_seed(6);
        let ours = KeyPair::generate(group, &mut random).unwrap();
        let theirs = KeyPair::generate(group, &mut random).unwrap();
        assert_eq!(ours.public().len(), group.public_len());
        assert_ne!(ours.public(), theirs.public());
        let secret = ours.derive(theirs.public()).unwrap();
        assert_eq!(secret.len(), group.secret_len());
        assert_eq!(theirs.derive(ours.public()).unwrap(), secret);
        let again = KeyPair::generate(group, &mut SeededRandom::from_seed(6)).unwrap();
        assert_eq!(again.public(), ours.public());
        for bad in [&[][..], &theirs.public()[1..], &[theirs.public(), &[0]].concat()] {
            assert_eq!(
                ours.derive(bad),
                Err(DhError::Length {
                    group,
                    given: bad.len()
                })
            );
        }
        assert_eq!(format!("{ours:?}"), format!("KeyPair({group}, ..)"));
    }
}

/// A scalar that is zero or not below the order must not become a key: another one is drawn.
#[test]
fn scalars_out_of_range_are_drawn_again() {
    struct OnceBad(bool);
    impl Random for OnceBad {
        fn fill(&mut self, buf: &mut [u8]) {
            buf.fill(if self.0 { 0xff } else { 0x42 });
            self.0 = false;
        }
    }
    for group in [Group::Ecp256, Group::Ecp384, Group::Ecp521] {
        let pair = KeyPair::generate(group, &mut OnceBad(true)).unwrap();
        assert_eq!(
            pair.public(),
            KeyPair::generate(group, &mut OnceBad(false)).unwrap().public()
        );
    }
    struct Zero;
    impl Random for Zero {
        fn fill(&mut self, buf: &mut [u8]) {
            buf.fill(0);
        }
    }
    assert_eq!(
        KeyPair::generate(Group::Ecp256, &mut Zero).err(),
        Some(DhError::Failed(Group::Ecp256))
    );
}

/// Group, private and public value of the initiator, of the responder, and the secret: RFC 5903 section 8.
const ECP: [(Group, [&str; 5]); 3] = [
    (
        Group::Ecp256,
        [
            "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
            "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c37725811805271a0461cdb8252d61f1c456fa3e59a\
             b1f45b33accf5f58389e0577b8990bb3",
            "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
            "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf6356fbf3ca366cc23e8157854c13c58d6a\
             ac23f046ada30f8353e74f33039872ab",
            "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
        ],
    ),
    (
        Group::Ecp384,
        [
            "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
            "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4c88732aee95f41aa\
             9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c",
            "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc",
            "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def96fda41d0774a3571\
             dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c",
            "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746",
        ],
    ),
    (
        Group::Ecp521,
        [
            "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d937ba9777\
             f5957b2639bab072462f68c27a57382d4a52",
            "0015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbee1e3bf42e00b8e380aeae57c2d107564\
             941885942af5a7f4601723c4195d176ced3e017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4\
             a10ad8a788015ac405d7799dc75e7b7d5b6cf2261a6a7f1507438bf01beb6ca3926f9582",
            "0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e9c677d600b343757a3bdbf2a3163e4c2\
             f869cca7458aa4a4effc311f5cb151685eb9",
            "00d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a219b97c356436adc6e95bb0352f6be64a6\
             c2912d4ef2d0433ced2b6171640012d9460f015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d985207\
             7b87220b6536c5c408a1d2aebb8e86d678ae49cb57091f4732296579ab44fcd17f0fc56a",
            "01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa240a34786859810c06\
             b3c715a3a8cc3151f2bee417996d19f3ddea",
        ],
    ),
];

/// Group, prime (RFC 2409 section 6.2, RFC 3526), and SHA-256 of the public value and of the secret for the exponents of
/// `modp_values_match_an_independent_computation`, computed with another implementation.
const MODP: [(Group, [&str; 3]); 4] = [
    (
        Group::Modp1024,
        [
            "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
             ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
             ee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381ffffffffffffffff",
            "fe628412d9357eea880369f886ac3c4be8c8af2b7ed75c3fc7c771ff5079c150",
            "8d79df894ffaad72037013e777a65fdb59a43cf85e55b394792ee8bcc4b5bfb1",
        ],
    ),
    (
        Group::Modp2048,
        [
            "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
             ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
             ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f\
             83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
             e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
             15728e5a8aacaa68ffffffffffffffff",
            "9bab044c37a68f6dcc7137865f9a8ed4e653d3de2a497a0b83f0f1c1030aadc4",
            "dc2039493d5a026f83785f85b3bf984ee2d576b3b97e9d425c1619aa39677160",
        ],
    ),
    (
        Group::Modp3072,
        [
            "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
             ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
             ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f\
             83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
             e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
             15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7\
             abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c\
             bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff",
            "bbdccf4da0409139ffb380956032176a8d8047e62afc13b412877f9b4d104bfc",
            "7d38f0a705eeb3cdacfd3cadb9a9a545e8bec20f055e74b0a23072f208d7d3eb",
        ],
    ),
    (
        Group::Modp4096,
        [
            "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd\
             ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
             ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f\
             83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
             e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
             15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7\
             abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c\
             bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a92108011a723c12a787e6d7\
             88719a10bdba5b2699c327186af4e23c1a946834b6150bda2583e9ca2ad44ce8dbbbc2db04de8ef92e8efc141fbecaa6\
             287c59474e6bc05d99b2964fa090c3a2233ba186515be7ed1f612970cee2d7afb81bdd762170481cd0069127d5b05aa9\
             93b4ea988d8fddc186ffb7dc90a6c08f4df435c934063199ffffffffffffffff",
            "161f658b36b8af16aaddcdc8e56dfd9dcbb953752c625ea34e7085d78b737071",
            "051049e9aef19cd47688f038bcd9f7c448944b98e51209fbdffa7f4cd636386d",
        ],
    ),
];
