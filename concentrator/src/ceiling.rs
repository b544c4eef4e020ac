//! Outbound sequence numbers of child SAs: which an owner may use, by what is durable and by its generation alone.
//!
//! The store holds for an SA a ceiling, the generation that wrote it, and a block. Numbers up to the ceiling belong to
//! that generation and to those before it. Behind it every further generation has one block of its own, so that who
//! takes an SA over can use it before anything is written:
//!
//! ```text
//!  1 ……………………………… ceiling │ generation+1 │ generation+2 │ generation+3 │ …
//!                          └─── block ────┘
//! ```
//!
//! Before its block is used up the owner writes a new ceiling above it, with its own generation. That is for
//! liveness, as a peer refuses numbers below its window; what keeps two packets from having one IV is the generation,
//! which stands in the IV.

/// Sequence numbers up to this are reserved for every new SA by its SA record alone.
pub const FIRST: u64 = 1 << 17;

/// Octets of a ceiling in the store.
const LEN: usize = 20;

/// Numbers that are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Numbers up to this one may have been used.
    pub value: u64,
    /// The generation that reserved them.
    pub generation: u64,
    /// How many each later generation may use.
    pub block: u32,
}

/// Numbers that one generation may use: `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// Why an SA cannot send without being replaced first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// The generation is not above the ceiling's.
    #[error("its record is of a later generation")]
    Later,
    /// Its keys are older than generations can tell apart in an IV.
    #[error("its keys are too many generations old")]
    Generations,
    /// No block is left below the SA's last sequence number.
    #[error("its sequence numbers are used up")]
    Numbers,
}

impl Ceiling {
    /// That of a new SA.
    #[must_use]
    pub const fn first(generation: u64, block: u32) -> Self {
        Self {
            value: FIRST,
            generation,
            block,
        }
    }

    /// The numbers of a later generation; `most` is the SA's last sequence number.
    ///
    /// # Errors
    /// [`Spent`].
    pub fn numbers(&self, generation: u64, most: u64) -> Result<Numbers, Spent> {
        let later = generation
            .checked_sub(self.generation)
            .filter(|later| *later > 0)
            .ok_or(Spent::Later)?;
        let block = u64::from(self.block);
        let last = later
            .checked_mul(block)
            .and_then(|numbers| numbers.checked_add(self.value))
            .filter(|last| *last <= most)
            .ok_or(Spent::Numbers)?;
        Ok(Numbers {
            first: last - block + 1,
            last,
        })
    }

    /// For the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(LEN);
        octets.extend_from_slice(&self.value.to_be_bytes());
        octets.extend_from_slice(&self.generation.to_be_bytes());
        octets.extend_from_slice(&self.block.to_be_bytes());
        octets
    }

    /// From the store; `None` when it is none.
    #[must_use]
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let (value, rest) = octets.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        Some(Self {
            value: u64::from_be_bytes(*value),
            generation: u64::from_be_bytes(*generation),
            block: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// The last sequence number of an SA.
///
//= rfc4303#section-2.2
//# Thus, the sender's counter and the receiver's counter MUST be reset (by establishing a new SA and thus a new key) prior to the transmission of the 2^32nd packet on an SA.
#[must_use]
pub const fn last_number(esn: bool) -> u64 {
    // With ESN it is the IV that ends first: 48 bits of it are the number.
    if esn { (1 << 48) - 1 } else { u32::MAX as u64 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_read_back_and_others_are_left() {
        let ceiling = Ceiling {
            value: 7 << 40,
            generation: 9,
            block: 1 << 24,
        };
        assert_eq!(Ceiling::decode(&ceiling.encode()), Some(ceiling));
        assert_eq!(Ceiling::decode(&[0; 8]), None);
        assert_eq!(Ceiling::decode(&[0; 21]), None);
    }

    #[test]
    fn a_takeover_goes_on_right_above_the_ceiling_and_the_next_one_a_block_further() {
        let ceiling = Ceiling {
            value: 1_000,
            generation: 5,
            block: 100,
        };
        let numbers = |generation| ceiling.numbers(generation, u64::MAX);
        assert_eq!(
            numbers(6).unwrap(),
            Numbers {
                first: 1_001,
                last: 1_100
            }
        );
        assert_eq!(
            numbers(8).unwrap(),
            Numbers {
                first: 1_201,
                last: 1_300
            }
        );
        assert_eq!(numbers(5), Err(Spent::Later));
        assert_eq!(numbers(4), Err(Spent::Later));
    }

    //= rfc4303#section-2.2
    //= type=test
    //# Thus, the sender's counter and the receiver's counter MUST be reset (by establishing a new SA and thus a new key) prior to the transmission of the 2^32nd packet on an SA.
    #[test]
    fn without_esn_the_last_block_ends_at_32_bits() {
        let block = 1 << 17;
        let ceiling = Ceiling::first(0, block);
        // 2^17 is reserved, each generation has 2^17 more: 2^15 − 2 of them end below 2^32.
        let last = (1 << 15) - 2;
        assert!(ceiling.numbers(last, last_number(false)).is_ok());
        assert_eq!(ceiling.numbers(last + 1, last_number(false)), Err(Spent::Numbers));
        assert!(ceiling.numbers(last + 1, last_number(true)).is_ok());
        assert_eq!(ceiling.numbers(u64::MAX, u64::MAX), Err(Spent::Numbers));
    }

    /// Owners come and go, some write, some do not, some crash while they write, blocks change with the configuration:
    /// no two generations ever have a number in common, and what a peer sees only rises.
    #[test]
    fn blocks_of_different_generations_never_overlap() {
        for seed in 0..2_000_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut generation = random(1 << 40);
            let mut durable = Ceiling::first(generation, 1 << (10 + random(15)));
            let mut highest = FIRST;
            for _ in 0..60 {
                // Generations may be skipped: claimed by an owner that never came to serve.
                generation += 1 + random(4);
                let Ok(numbers) = durable.numbers(generation, last_number(true)) else {
                    break;
                };
                assert!(numbers.first > highest, "{numbers:?} after {highest}");
                assert!(numbers.first > durable.value && numbers.last >= numbers.first);
                let mut own = numbers.last;
                let block = 1 << (10 + random(15));
                for _ in 0..random(4) {
                    // Used only after it is durable; a write without an acknowledgement may or may not have happened.
                    own += block;
                    let written = Ceiling {
                        value: own,
                        generation,
                        block: u32::try_from(block).unwrap(),
                    };
                    let (happened, acknowledged) = (random(4) > 0, random(4) > 0);
                    if happened {
                        durable = written;
                    }
                    if !happened {
                        own -= block;
                    }
                    if !happened || !acknowledged {
                        break;
                    }
                }
                highest = own;
            }
        }
    }
}
