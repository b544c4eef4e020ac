//! Key material of IKE and child SAs: SKEYSEED, the seven SK keys, KEYMAT. Pure functions of their inputs.
//!
//! ```text
//!   SKEYSEED = prf(Ni | Nr, g^ir)                                  first IKE SA       (section 2.14)
//!   SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)               rekeyed IKE SA     (section 2.18)
//!   {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
//!   KEYMAT   = prf+(SK_d, [g^ir (new) |] Ni | Nr)                  child SA           (section 2.17)
//! ```

use crypto::{Prf, Secret, Suite};
use serde::{Deserialize, Serialize};

use crate::types::{ChildKeys, IkeSuite, Role};
use crate::wire::Spi;

/// The seven keys of an IKE SA (RFC 7296 section 2.14). `*_i` keys protect what the original initiator sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IkeKeys {
    /// Derives child SAs and rekeyed IKE SAs.
    pub sk_d: Secret,
    /// Integrity key of the initiator's messages; empty for AEAD suites.
    pub sk_ai: Secret,
    /// Integrity key of the responder's messages; empty for AEAD suites.
    pub sk_ar: Secret,
    /// Encryption key (and salt) of the initiator's messages.
    pub sk_ei: Secret,
    /// Encryption key (and salt) of the responder's messages.
    pub sk_er: Secret,
    /// Keys the initiator's AUTH payload.
    pub sk_pi: Secret,
    /// Keys the responder's AUTH payload.
    pub sk_pr: Secret,
}

/// `prf(Ni | Nr, g^ir)`: SKEYSEED of a first IKE SA (RFC 7296 section 2.14).
#[must_use]
pub fn skeyseed(prf: Prf, nonce_i: &[u8], nonce_r: &[u8], shared: &Secret) -> Secret {
    let mut key = Vec::with_capacity(nonce_i.len() + nonce_r.len());
    key.extend_from_slice(nonce_i);
    key.extend_from_slice(nonce_r);
    prf.compute(&key, &[shared.expose()])
}

/// `prf(SK_d (old), g^ir (new) | Ni | Nr)`: SKEYSEED of a rekeyed IKE SA (RFC 7296 section 2.18).
///
/// `old_prf` is the PRF of the SA being replaced, not of the new one.
//= rfc7296#section-2.18
//# Because the rekeying exchange belongs to the old IKE SA, it is the old IKE
//# SA's PRF that is used to generate SKEYSEED.
#[must_use]
pub fn rekey_skeyseed(
    old_prf: Prf,
    sk_d: &Secret,
    shared: &Secret,
    nonce_i: &[u8],
    nonce_r: &[u8],
) -> Secret {
    old_prf.compute(sk_d.expose(), &[shared.expose(), nonce_i, nonce_r])
}

impl IkeKeys {
    /// Expands SKEYSEED into the seven keys.
    #[must_use]
    pub fn derive(
        skeyseed: &Secret,
        ike: IkeSuite,
        nonce_i: &[u8],
        nonce_r: &[u8],
        spi_i: Spi,
        spi_r: Spi,
    ) -> Self {
        let mut seed = Vec::with_capacity(nonce_i.len() + nonce_r.len() + 16);
        seed.extend_from_slice(nonce_i);
        seed.extend_from_slice(nonce_r);
        seed.extend_from_slice(&spi_i.0.to_be_bytes());
        seed.extend_from_slice(&spi_r.0.to_be_bytes());
        let prf_len = ike.prf.output_len();
        let integ_len = ike.suite.integ_key_len();
        let enc_len = ike.suite.enc_key_len();
        let stream = ike.prf.plus(
            skeyseed.expose(),
            &seed,
            3 * prf_len + 2 * integ_len + 2 * enc_len,
        );
        let mut take = Slicer(stream.expose());
        Self {
            sk_d: take.next(prf_len),
            sk_ai: take.next(integ_len),
            sk_ar: take.next(integ_len),
            sk_ei: take.next(enc_len),
            sk_er: take.next(enc_len),
            sk_pi: take.next(prf_len),
            sk_pr: take.next(prf_len),
        }
    }

    /// Encryption and integrity key of the messages that `sender` (the side's role as ORIGINAL initiator or
    /// responder of this IKE SA) sends.
    #[must_use]
    pub fn sent_by(&self, sender: Role) -> (&Secret, &Secret) {
        match sender {
            Role::Initiator => (&self.sk_ei, &self.sk_ai),
            Role::Responder => (&self.sk_er, &self.sk_ar),
        }
    }
}

/// Keys of both directions of a child SA.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildKeymat {
    /// What the initiator of the exchange that made the child sends with.
    pub initiator: ChildKeys,
    /// What the responder of that exchange sends with.
    pub responder: ChildKeys,
}

impl ChildKeymat {
    /// `(keys_in, keys_out)` for the side with `role` in the exchange that made the child.
    #[must_use]
    pub fn for_role(self, role: Role) -> (ChildKeys, ChildKeys) {
        match role {
            Role::Initiator => (self.responder, self.initiator),
            Role::Responder => (self.initiator, self.responder),
        }
    }
}

/// KEYMAT of a child SA (RFC 7296 section 2.17); `shared` is g^ir of the exchange if it had a KE payload, and the
/// nonces are those of the exchange that made the child.
#[must_use]
pub fn child_keymat(
    prf: Prf,
    sk_d: &Secret,
    shared: Option<&Secret>,
    nonce_i: &[u8],
    nonce_r: &[u8],
    suite: Suite,
) -> ChildKeymat {
    let shared = shared.map_or(&[][..], Secret::expose);
    let mut seed = Vec::with_capacity(shared.len() + nonce_i.len() + nonce_r.len());
    seed.extend_from_slice(shared);
    seed.extend_from_slice(nonce_i);
    seed.extend_from_slice(nonce_r);
    let seed = Secret::from(seed);
    let (enc_len, integ_len) = (suite.enc_key_len(), suite.integ_key_len());
    let stream = prf.plus(sk_d.expose(), seed.expose(), 2 * (enc_len + integ_len));
    let mut take = Slicer(stream.expose());
    //= rfc7296#section-2.17
    //# All keys for SAs carrying data from the initiator to the responder
    //# are taken before SAs going from the responder to the initiator.
    //= rfc7296#section-2.17
    //# the encryption key (if any) MUST be
    //# taken from the first bits and the integrity key (if any) MUST be
    //# taken from the remaining bits.
    let initiator = ChildKeys {
        enc: take.next(enc_len),
        integ: take.next(integ_len),
    };
    let responder = ChildKeys {
        enc: take.next(enc_len),
        integ: take.next(integ_len),
    };
    ChildKeymat { initiator, responder }
}

/// The AUTH value of a shared key: `prf(prf(Shared Secret, "Key Pad for IKEv2"), octets)` (RFC 7296 section 2.15).
#[must_use]
pub fn shared_key_auth(prf: Prf, shared: &Secret, octets: &[u8]) -> Secret {
    let pad = prf.compute(shared.expose(), &[b"Key Pad for IKEv2"]);
    prf.compute(pad.expose(), &[octets])
}

/// Takes consecutive pieces off a stream of key bits.
struct Slicer<'a>(&'a [u8]);

impl Slicer<'_> {
    fn next(&mut self, len: usize) -> Secret {
        let (head, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        Secret::from(head)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use crypto::{Cipher, Group, Integrity};

    fn suite(cipher: Cipher, integrity: Option<Integrity>) -> IkeSuite {
        IkeSuite {
            suite: Suite::new(cipher, integrity).unwrap(),
            prf: Prf::HmacSha256,
            group: Group::Curve25519,
        }
    }

    //= rfc7296#section-2.14
    //= type=test
    //# SK_d, SK_ai, SK_ar, SK_ei, SK_er,
    //# SK_pi, and SK_pr are taken in order from the generated bits of the
    //# prf+
    #[test]
    fn the_stream_is_cut_in_the_order_of_the_rfc() {
        let ike = suite(Cipher::AesCbc { key_bits: 128 }, Some(Integrity::HmacSha256_128));
        let seed = skeyseed(ike.prf, &[1; 32], &[2; 32], &Secret::from(vec![3; 32]));
        let keys = IkeKeys::derive(&seed, ike, &[1; 32], &[2; 32], Spi(5), Spi(6));
        let mut info = vec![1; 32];
        info.extend([2; 32]);
        info.extend(5u64.to_be_bytes());
        info.extend(6u64.to_be_bytes());
        let stream = ike.prf.plus(seed.expose(), &info, 32 * 3 + 32 * 2 + 16 * 2);
        let all = [
            &keys.sk_d,
            &keys.sk_ai,
            &keys.sk_ar,
            &keys.sk_ei,
            &keys.sk_er,
            &keys.sk_pi,
            &keys.sk_pr,
        ];
        let joined: Vec<u8> = all.iter().flat_map(|k| k.expose().to_vec()).collect();
        assert_eq!(joined, stream.expose());
        assert_eq!(keys.sent_by(Role::Responder), (&keys.sk_er, &keys.sk_ar));
    }

    #[test]
    fn aead_suites_have_no_integrity_key_and_a_salt() {
        let ike = suite(Cipher::AesGcm16 { key_bits: 256 }, None);
        let keys = IkeKeys::derive(
            &Secret::from(vec![9; 32]),
            ike,
            &[1; 16],
            &[2; 16],
            Spi(1),
            Spi(2),
        );
        assert_eq!((keys.sk_ai.len(), keys.sk_ei.len()), (0, 36));
    }

    //= rfc7296#section-2.17
    //= type=test
    //# All keys for SAs carrying data from the initiator to the responder
    //# are taken before SAs going from the responder to the initiator.
    #[test]
    fn both_sides_of_a_child_agree_crosswise() {
        let s = Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap();
        let make = |shared: Option<&Secret>| {
            child_keymat(
                Prf::HmacSha256,
                &Secret::from(vec![7; 32]),
                shared,
                &[1; 32],
                &[2; 32],
                s,
            )
        };
        let (in_i, out_i) = make(None).for_role(Role::Initiator);
        let (in_r, out_r) = make(None).for_role(Role::Responder);
        assert_eq!((&in_i, &out_i), (&out_r, &in_r));
        assert_ne!(in_i, out_i);
        assert_ne!(make(Some(&Secret::from(vec![1; 32]))), make(None));
    }

    //= rfc7296#section-2.18
    //= type=test
    //# it is the old IKE
    //# SA's PRF that is used to generate SKEYSEED.
    #[test]
    fn a_rekey_uses_the_old_prf() {
        let seed = rekey_skeyseed(
            Prf::HmacSha512,
            &Secret::from(vec![1; 64]),
            &Secret::from(vec![2; 32]),
            &[3; 32],
            &[4; 32],
        );
        assert_eq!(seed.len(), 64);
        let mut text = vec![2; 32];
        text.extend([3; 32]);
        text.extend([4; 32]);
        assert_eq!(seed, Prf::HmacSha512.compute(&[1; 64], &[&text]));
    }
}
