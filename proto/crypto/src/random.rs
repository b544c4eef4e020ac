//! Randomness: the system's for production, a seeded stream for tests and replay.

use std::fmt;

/// A source of random octets. Cores take it as a parameter so that a recorded run can be replayed.
pub trait Random: Send {
    /// Fills `buf` completely.
    fn fill(&mut self, buf: &mut [u8]);

    /// A uniform 32-bit number.
    fn u32(&mut self) -> u32 {
        let mut octets = [0; 4];
        self.fill(&mut octets);
        u32::from_be_bytes(octets)
    }

    /// A uniform 64-bit number.
    fn u64(&mut self) -> u64 {
        let mut octets = [0; 8];
        self.fill(&mut octets);
        u64::from_be_bytes(octets)
    }
}

impl<T: Random + ?Sized> Random for Box<T> {
    fn fill(&mut self, buf: &mut [u8]) {
        (**self).fill(buf);
    }
}

impl<T: Random + ?Sized> Random for &mut T {
    fn fill(&mut self, buf: &mut [u8]) {
        (**self).fill(buf);
    }
}

/// The process's cryptographic generator (AES-CTR-DRBG seeded by the kernel, one per thread).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        if aws_lc_rs::rand::fill(buf).is_err() {
            no_randomness();
        }
    }
}

/// Without randomness no key, nonce or cookie is safe; the task that needs one must not go on.
#[cold]
#[allow(
    clippy::panic,
    reason = "going on with predictable keys would be worse than losing the task"
)]
fn no_randomness() -> ! {
    panic!("the system has no randomness")
}

/// A reproducible stream: the ChaCha20 key stream (RFC 8439) under a key made from a seed.
///
/// For tests, simulations and replays alone: whoever knows the 64-bit seed knows the stream.
#[derive(Clone)]
pub struct SeededRandom {
    key: [u32; 8],
    counter: u64,
    block: [u8; 64],
    used: usize,
}

impl SeededRandom {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let low = u32::try_from(seed & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(seed >> 32).unwrap_or(0);
        let key = [
            low,
            high,
            0x7365_6564,
            0x6564_2072,
            0x616e_646f,
            0x6d20_6b65,
            0x7920_7631,
            0,
        ];
        Self {
            key,
            counter: 0,
            block: [0; 64],
            used: 64,
        }
    }
}

impl Random for SeededRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        for octet in buf {
            if self.used >= self.block.len() {
                let [b0, b1, b2, b3, b4, b5, b6, b7] = self.counter.to_le_bytes();
                let words = [
                    u32::from_le_bytes([b0, b1, b2, b3]),
                    u32::from_le_bytes([b4, b5, b6, b7]),
                    0,
                    0,
                ];
                self.block = chacha20_block(&self.key, words);
                self.counter = self.counter.wrapping_add(1);
                self.used = 0;
            }
            *octet = self.block.get(self.used).copied().unwrap_or(0);
            self.used += 1;
        }
    }
}

impl fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededRandom(..)")
    }
}

/// One block of the ChaCha20 key stream, RFC 8439 section 2.3. `tail` holds the counter and the nonce.
fn chacha20_block(key: &[u32; 8], tail: [u32; 4]) -> [u8; 64] {
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let [c, n0, n1, n2] = tail;
    let start = [
        0x6170_7865,
        0x3320_646e,
        0x7962_2d32,
        0x6b20_6574,
        k0,
        k1,
        k2,
        k3,
        k4,
        k5,
        k6,
        k7,
        c,
        n0,
        n1,
        n2,
    ];
    let mut s = start;
    for _ in 0..10 {
        quarter_round(&mut s, [0, 4, 8, 12]);
        quarter_round(&mut s, [1, 5, 9, 13]);
        quarter_round(&mut s, [2, 6, 10, 14]);
        quarter_round(&mut s, [3, 7, 11, 15]);
        quarter_round(&mut s, [0, 5, 10, 15]);
        quarter_round(&mut s, [1, 6, 11, 12]);
        quarter_round(&mut s, [2, 7, 8, 13]);
        quarter_round(&mut s, [3, 4, 9, 14]);
    }
    let mut out = [0; 64];
    for ((piece, word), first) in out.chunks_exact_mut(4).zip(s).zip(start) {
        piece.copy_from_slice(&word.wrapping_add(first).to_le_bytes());
    }
    out
}

fn quarter_round(s: &mut [u32; 16], indices: [usize; 4]) {
    let Ok([a, b, c, d]) = s.get_disjoint_mut(indices) else {
        return;
    };
    *a = a.wrapping_add(*b);
    *d = (*d ^ *a).rotate_left(16);
    *c = c.wrapping_add(*d);
    *b = (*b ^ *c).rotate_left(12);
    *a = a.wrapping_add(*b);
    *d = (*d ^ *a).rotate_left(8);
    *c = c.wrapping_add(*d);
    *b = (*b ^ *c).rotate_left(7);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    /// RFC 8439 section 2.3.2.
    #[test]
    fn chacha20_block_function_vector() {
        let octets: Vec<u8> = (0..32).collect();
        let mut key = [0; 8];
        for (word, piece) in key.iter_mut().zip(octets.chunks(4)) {
            *word = u32::from_le_bytes(piece.try_into().unwrap());
        }
        let block = chacha20_block(&key, [1, 0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(
            hex::encode(block),
            "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e\
             d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
        );
    }

    #[test]
    fn a_seed_gives_the_same_stream_however_it_is_read() {
        let mut whole = [0; 200];
        SeededRandom::from_seed(7).fill(&mut whole);
        let mut random = SeededRandom::from_seed(7);
        let mut pieces = [0; 200];
        for piece in pieces.chunks_mut(13) {
            random.fill(piece);
        }
        assert_eq!(whole, pieces);
        assert_ne!(whole[..64], whole[64..128]);
        assert_ne!(SeededRandom::from_seed(8).u64(), SeededRandom::from_seed(7).u64());
    }

    #[test]
    fn system_randomness_differs_between_calls() {
        assert_ne!((SystemRandom.u64(), SystemRandom.u64()), (0, 0));
        assert_ne!(SystemRandom.u64(), SystemRandom.u64());
    }
}
