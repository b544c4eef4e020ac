//! MODP groups (RFC 2409 and RFC 3526) with generator 2.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::error::ErrorStack;

use super::DhError;
use crate::{Group, Random, Secret};

/// A private exponent: twice the larger strength estimate of RFC 3526 section 8 (320, 420 and 480 bits for groups 14,
/// 15 and 16), rounded up to whole 64-bit words, with the top bit set so that its length tells nothing.
pub(super) fn private(group: Group, random: &mut dyn Random) -> Secret {
    let octets = match group {
        Group::Modp1024 => 32,
        Group::Modp2048 => 40,
        Group::Modp3072 => 56,
        Group::Modp4096 | Group::Ecp256 | Group::Ecp384 | Group::Ecp521 | Group::Curve25519 => 64,
    };
    let mut exponent = zeroize::Zeroizing::new(vec![0; octets]);
    random.fill(&mut exponent);
    if let Some(first) = exponent.first_mut() {
        *first |= 0x80;
    }
    Secret::from(exponent.as_slice())
}

/// The public value 2^x mod p.
pub(super) fn public(group: Group, private: &Secret) -> Result<Vec<u8>, DhError> {
    let failed = |_| DhError::Failed(group);
    let prime = prime(group).map_err(failed)?;
    let base = BigNum::from_u32(2).map_err(failed)?;
    let power = power(&base, private, &prime).map_err(failed)?;
    pad(group, &power).map_err(failed)
}

/// The shared secret y^x mod p, after checking the peer's value.
pub(super) fn derive(group: Group, private: &Secret, peer: &[u8]) -> Result<Secret, DhError> {
    let failed = |_| DhError::Failed(group);
    let prime = prime(group).map_err(failed)?;
    let peer = BigNum::from_slice(peer).map_err(failed)?;
    let mut largest = prime.to_owned().map_err(failed)?;
    largest.sub_word(2).map_err(failed)?;
    let one = BigNum::from_u32(1).map_err(failed)?;
    //= rfc6989#section-2.1
    //# Each recipient MUST verify that the peer's
    //# public value r is in the legal range (1 < r < p-1).
    if peer <= one || peer > largest {
        return Err(DhError::InvalidPublic(group));
    }
    let mut power = power(&peer, private, &prime).map_err(failed)?;
    let secret = pad(group, &power).map(Secret::from).map_err(failed);
    power.clear();
    secret
}

/// `base`^`exponent` mod `prime` in time that depends on the lengths alone. The flag of the exponent selects
/// OpenSSL's fixed-window exponentiation; secure numbers are wiped when freed.
fn power(base: &BigNumRef, exponent: &Secret, prime: &BigNumRef) -> Result<BigNum, ErrorStack> {
    let mut context = BigNumContext::new()?;
    let mut private = BigNum::new_secure()?;
    private.copy_from_slice(exponent.expose())?;
    private.set_const_time();
    let mut result = BigNum::new_secure()?;
    let done = result.mod_exp(base, &private, prime, &mut context);
    private.clear();
    done.map(|()| result)
}

//= rfc7296#section-2.14
//# g^ir is represented as a string of octets in big endian order padded
//# with zeros if necessary to make it the length of the modulus.
fn pad(group: Group, number: &BigNumRef) -> Result<Vec<u8>, ErrorStack> {
    number.to_vec_padded(i32::try_from(group.public_len()).unwrap_or(i32::MAX))
}

fn prime(group: Group) -> Result<BigNum, ErrorStack> {
    match group {
        Group::Modp1024 => BigNum::get_rfc2409_prime_1024(),
        Group::Modp2048 => BigNum::get_rfc3526_prime_2048(),
        Group::Modp3072 => BigNum::get_rfc3526_prime_3072(),
        Group::Modp4096 => BigNum::get_rfc3526_prime_4096(),
        Group::Ecp256 | Group::Ecp384 | Group::Ecp521 | Group::Curve25519 => Err(ErrorStack::get()),
    }
}
