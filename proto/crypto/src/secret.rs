//! Octets that must not leak: wiped when dropped, compared in constant time, never printed.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Compares two octet strings without revealing where they differ. Lengths are not secret.
#[must_use]
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && bool::from(a.ct_eq(b))
}

/// Secret octets: a key, a shared secret, a password.
///
/// Wiped on drop; `Debug` prints `Secret(..)`; equality takes constant time. The vector must never grow in place,
/// since a reallocation would leave a copy behind, so there is no mutable access to its length.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// `len` octets from `random`.
    pub fn random(random: &mut dyn crate::Random, len: usize) -> Self {
        let mut octets = vec![0; len];
        random.fill(&mut octets);
        Self::from(octets)
    }

    /// The octets. The name is meant to be searched for in reviews.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no octets at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts key material into consecutive pieces of the given lengths, as RFC 7296 sections 2.14 and 2.17 do;
    /// `None` if there is not enough of it.
    #[must_use]
    pub fn split<const N: usize>(&self, lengths: [usize; N]) -> Option<[Secret; N]> {
        let mut rest: &[u8] = &self.0;
        let mut out: [Secret; N] = std::array::from_fn(|_| Secret::default());
        for (piece, len) in out.iter_mut().zip(lengths) {
            let (head, tail) = rest.split_at_checked(len)?;
            *piece = Secret::from(head);
            rest = tail;
        }
        Some(out)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }
}

impl From<&[u8]> for Secret {
    fn from(octets: &[u8]) -> Self {
        Self::from(octets.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Secret {
    fn from(mut octets: [u8; N]) -> Self {
        let secret = Self::from(octets.to_vec());
        octets.zeroize();
        secret
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;
        impl<'de> serde::de::Visitor<'de> for Octets {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("octets")
            }
            fn visit_bytes<E>(self, octets: &[u8]) -> Result<Secret, E> {
                Ok(Secret::from(octets))
            }
            fn visit_byte_buf<E>(self, octets: Vec<u8>) -> Result<Secret, E> {
                Ok(Secret::from(octets))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Secret, A::Error> {
                // A hint is capped: it comes from the input. 4 KiB hold every secret of a snapshot without growing.
                let mut octets = Vec::with_capacity(seq.size_hint().unwrap_or(0).clamp(4096, 65_536));
                while let Some(octet) = seq.next_element()? {
                    octets.push(octet);
                }
                let secret = Secret::from(octets.as_slice());
                octets.zeroize();
                Ok(secret)
            }
        }
        deserializer.deserialize_byte_buf(Octets)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_octets() {
        assert_eq!(format!("{:?}", Secret::from(b"hunter2".as_slice())), "Secret(..)");
    }

    #[test]
    fn equality_looks_at_every_octet_and_the_length() {
        let a = Secret::from([1, 2, 3]);
        assert_eq!(a, Secret::from(vec![1, 2, 3]));
        assert_ne!(a, Secret::from([1, 2, 4]));
        assert_ne!(a, Secret::from([1, 2]));
        assert!(!constant_time_eq(b"", b"x"));
    }

    #[test]
    fn split_takes_pieces_in_order() {
        let [a, b] = Secret::from([1, 2, 3, 4]).split([1, 2]).unwrap();
        assert_eq!((a.expose(), b.expose()), (&[1][..], &[2, 3][..]));
        assert!(Secret::from([1, 2, 3]).split([2, 2]).is_none());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn survives_serde() {
        let text = serde_json::to_string(&Secret::from([0, 255, 7])).unwrap();
        assert_eq!(
            serde_json::from_str::<Secret>(&text).unwrap(),
            Secret::from([0, 255, 7])
        );
    }
}
