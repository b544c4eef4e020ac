//! What the fuzz targets share: an input that is taken apart, and keys that are always the same.

pub mod world;

use crypto::{Cipher, Integrity, Opener, Sealer, Suite};
use ike::wire::protect::IvSource;

/// A fuzz input, read from its front. What is missing reads as zero.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// One octet.
    pub fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A 16-bit integer.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// Up to `count` octets.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// A part whose length stands in front of it in two octets.
    pub fn part(&mut self) -> &'a [u8] {
        let count = usize::from(self.u16());
        self.take(count)
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One suite of each kind: AEAD, counter mode with a MAC, CBC with a MAC.
pub fn suite(choice: u8) -> Suite {
    let (cipher, integrity) = match choice % 4 {
        0 => (Cipher::AesGcm16 { key_bits: 256 }, None),
        1 => (Cipher::ChaCha20Poly1305, None),
        2 => (Cipher::AesCtr { key_bits: 128 }, Some(Integrity::HmacSha256_128)),
        _ => (Cipher::AesCbc { key_bits: 128 }, Some(Integrity::HmacSha1_96)),
    };
    Suite::new(cipher, integrity).expect("a valid pair")
}

/// Both ends of a direction of an IKE SA under a fixed key.
pub fn ike_keys(suite: Suite) -> (Sealer, Opener, IvSource) {
    let enc = vec![0x11; suite.enc_key_len()];
    let integ = vec![0x22; suite.integ_key_len()];
    let sealer = Sealer::new(suite, &enc, &integ).expect("keys of the right length");
    let opener = Opener::new(suite, &enc, &integ).expect("keys of the right length");
    (sealer, opener, IvSource::new(1))
}
