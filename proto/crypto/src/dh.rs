//! Key exchange: MODP by modular exponentiation, ECP and Curve25519, all with private keys made from a [`Random`].
//!
//! MODP uses short exponents (RFC 3526 section 8) in OpenSSL's constant-time exponentiation; ECP and Curve25519 are
//! AWS-LC's. Public values are exactly as in the KE payload: MODP padded on the left to the prime's length (RFC 7296
//! section 3.4), ECP as x ‖ y without a prefix and the secret as x alone (RFC 5903 section 7).

mod modp;

use std::fmt;

use aws_lc_rs::agreement;

use crate::{Group, Random, Secret};

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhError {
    /// The peer's value does not have the group's length.
    #[error("{group} public value of {given} octets, {wanted} needed", wanted = group.public_len())]
    Length {
        /// The group.
        group: Group,
        /// Octets that were given.
        given: usize,
    },
    /// The peer's value is none that an honest peer can have: out of range, not on the curve, or of small order
    /// (RFC 6989 section 2, RFC 8031 section 5).
    #[error("{0} public value is not valid")]
    InvalidPublic(Group),
    /// The library failed, for instance for want of memory.
    #[error("{0} computation failed")]
    Failed(Group),
}

/// A private key with its public value. Wiped on drop.
pub struct KeyPair {
    group: Group,
    private: Private,
    public: Vec<u8>,
}

enum Private {
    Modp(Secret),
    Curve(agreement::PrivateKey),
}

/// Tries at a private key in range: for every curve here the chance that one try fails is below 2⁻³¹.
const MAX_TRIES: usize = 8;

impl KeyPair {
    /// A fresh key pair. The same stream of random octets gives the same key pair.
    ///
    /// # Errors
    /// [`DhError::Failed`] if the library fails.
    pub fn generate(group: Group, random: &mut dyn Random) -> Result<Self, DhError> {
        match curve(group) {
            None => {
                let private = modp::private(group, random);
                let public = modp::public(group, &private)?;
                Ok(Self {
                    group,
                    private: Private::Modp(private),
                    public,
                })
            }
            Some((algorithm, scalar_len)) => {
                for _ in 0..MAX_TRIES {
                    let scalar = scalar(group, scalar_len, random);
                    if let Ok(private) = agreement::PrivateKey::from_private_key(algorithm, scalar.expose()) {
                        return Self::from_curve(group, private);
                    }
                }
                Err(DhError::Failed(group))
            }
        }
    }

    fn from_curve(group: Group, private: agreement::PrivateKey) -> Result<Self, DhError> {
        let public = private.compute_public_key().map_err(|_| DhError::Failed(group))?;
        // ECP public values come with the prefix 4 of uncompressed points, which IKE leaves out.
        let public = match group {
            Group::Curve25519 => public.as_ref(),
            Group::Ecp256
            | Group::Ecp384
            | Group::Ecp521
            | Group::Modp1024
            | Group::Modp2048
            | Group::Modp3072
            | Group::Modp4096 => public.as_ref().strip_prefix(&[4]).ok_or(DhError::Failed(group))?,
        };
        if public.len() != group.public_len() {
            return Err(DhError::Failed(group));
        }
        Ok(Self {
            group,
            public: public.to_vec(),
            private: Private::Curve(private),
        })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// The public value, [`Group::public_len`] octets.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret with a peer's public value, [`Group::secret_len`] octets.
    ///
    /// # Errors
    /// [`DhError::Length`] and [`DhError::InvalidPublic`] blame the peer.
    pub fn derive(&self, peer: &[u8]) -> Result<Secret, DhError> {
        let group = self.group;
        if peer.len() != group.public_len() {
            return Err(DhError::Length {
                group,
                given: peer.len(),
            });
        }
        match &self.private {
            Private::Modp(private) => modp::derive(group, private, peer),
            Private::Curve(private) => {
                let point = match group {
                    Group::Curve25519 => peer.to_vec(),
                    Group::Ecp256
                    | Group::Ecp384
                    | Group::Ecp521
                    | Group::Modp1024
                    | Group::Modp2048
                    | Group::Modp3072
                    | Group::Modp4096 => [&[4], peer].concat(),
                };
                //= rfc6989#section-2.3
                //# A receiving peer MUST
                //# check that its peer's public value is valid; that is, the x and y
                //# parameters from the peer's public value satisfy the curve equation,
                //# y^2 = x^3 + ax + b mod p
                let point = agreement::UnparsedPublicKey::new(private.algorithm(), point);
                let invalid = DhError::InvalidPublic(group);
                //= rfc5903#section-7
                //# The Diffie-Hellman shared secret value consists of the x value of the
                //# Diffie-Hellman common value.
                let secret = agreement::agree(private, point, invalid, |secret| Ok(Secret::from(secret)))?;
                // RFC 7748 section 6.1: an all-zero output means that the peer's point has small order.
                if crate::constant_time_eq(secret.expose(), &vec![0; secret.len()]) {
                    return Err(invalid);
                }
                Ok(secret)
            }
        }
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, ..)", self.group)
    }
}

/// The library's name of a curve and the length of its private keys in octets; `None` for MODP.
fn curve(group: Group) -> Option<(&'static agreement::Algorithm, usize)> {
    match group {
        Group::Ecp256 => Some((&agreement::ECDH_P256, 32)),
        Group::Ecp384 => Some((&agreement::ECDH_P384, 48)),
        Group::Ecp521 => Some((&agreement::ECDH_P521, 66)),
        Group::Curve25519 => Some((&agreement::X25519, 32)),
        Group::Modp1024 | Group::Modp2048 | Group::Modp3072 | Group::Modp4096 => None,
    }
}

/// A candidate for a private key: uniform, and for P-521 without the 7 bits beyond the order.
fn scalar(group: Group, len: usize, random: &mut dyn Random) -> Secret {
    let mut octets = zeroize::Zeroizing::new(vec![0; len]);
    random.fill(&mut octets);
    if group == Group::Ecp521
        && let Some(first) = octets.first_mut()
    {
        *first &= 1;
    }
    Secret::from(octets.as_slice())
}
