//! Key pairs that survive a restart: kept as a seed, made again from it when the answer comes.

use std::fmt;

use crypto::dh::{DhError, KeyPair};
use crypto::{Group, Prf, Random, Secret};
use serde::{Deserialize, Serialize};

/// Octets of a seed: as strong as the strongest group.
const SEED_OCTETS: usize = 64;

/// The private half of a KE payload that is under way.
#[derive(Serialize, Deserialize)]
pub(super) struct Exchange {
    group: Group,
    seed: Secret,
    /// The key pair of the seed, unless it comes from a snapshot.
    #[serde(skip)]
    pair: Option<KeyPair>,
}

impl Exchange {
    /// A fresh key pair; the public value goes into the KE payload.
    pub(super) fn start(group: Group, random: &mut dyn Random) -> Result<(Self, Vec<u8>), DhError> {
        let seed = Secret::random(random, SEED_OCTETS);
        let pair = KeyPair::generate(group, &mut Expanded::new(&seed))?;
        let public = pair.public().to_vec();
        let pair = Some(pair);
        Ok((Self { group, seed, pair }, public))
    }

    /// The group.
    pub(super) fn group(&self) -> Group {
        self.group
    }

    /// The shared secret with the peer's public value.
    pub(super) fn finish(&self, peer: &[u8]) -> Result<Secret, DhError> {
        match &self.pair {
            Some(pair) => pair.derive(peer),
            None => KeyPair::generate(self.group, &mut Expanded::new(&self.seed))?.derive(peer),
        }
    }
}

/// The copy makes its key pair again when it needs it.
impl Clone for Exchange {
    fn clone(&self) -> Self {
        Self {
            group: self.group,
            seed: self.seed.clone(),
            pair: None,
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// A stream of octets that only the seed determines: block n is `HMAC-SHA-512(seed, n)`.
struct Expanded<'a> {
    seed: &'a Secret,
    block: u64,
}

impl<'a> Expanded<'a> {
    fn new(seed: &'a Secret) -> Self {
        Self { seed, block: 0 }
    }
}

impl Random for Expanded<'_> {
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(Prf::HmacSha512.output_len()) {
            let octets = Prf::HmacSha512.compute(self.seed.expose(), &[&self.block.to_be_bytes()]);
            self.block += 1;
            for (to, from) in chunk.iter_mut().zip(octets.expose()) {
                *to = *from;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crypto::SeededRandom;

    #[test]
    fn a_restored_exchange_gives_the_same_secret() {
        for group in [Group::Curve25519, Group::Ecp256, Group::Modp2048] {
            let mut random = SeededRandom::from_seed(7);
            let (mine, my_public) = Exchange::start(group, &mut random).unwrap();
            let (theirs, their_public) = Exchange::start(group, &mut random).unwrap();
            let restored = mine.clone();
            assert!(restored.pair.is_none());
            let shared = mine.finish(&their_public).unwrap();
            assert_eq!(shared, restored.finish(&their_public).unwrap());
            assert_eq!(shared, theirs.finish(&my_public).unwrap());
            assert_ne!(my_public, their_public);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let (exchange, _) = Exchange::start(Group::Curve25519, &mut SeededRandom::from_seed(1)).unwrap();
        assert_eq!(format!("{exchange:?}"), "Exchange { group: Curve25519, .. }");
    }
}
