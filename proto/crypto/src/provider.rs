//! Which library does the AEAD work, chosen per cipher by a measurement on the machine itself.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::aead::{self, Aad, AeadJob, BatchAead as _};
use crate::{Cipher, KeyError};

/// A library that implements the AEADs. All give the same octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// ring.
    Ring,
    /// AWS-LC by aws-lc-rs; it has every cipher.
    AwsLc,
    /// Intel's Multi-Buffer Crypto for IPsec; AES-GCM alone, for other ciphers AWS-LC stands in.
    #[cfg(feature = "ipsec-mb")]
    IpsecMb,
}

/// The process's choice for AES-GCM and for ChaCha20-Poly1305. It affects speed alone, never octets.
static PREFERRED: [AtomicU8; 2] = [AtomicU8::new(1), AtomicU8::new(1)];

/// Octets that one round seals and opens. The whole measurement then takes some tens of milliseconds.
const MEASURED_OCTETS: usize = 1 << 18;

impl Provider {
    /// Every provider that there is.
    pub const ALL: &'static [Provider] = &[
        Provider::Ring,
        Provider::AwsLc,
        #[cfg(feature = "ipsec-mb")]
        Provider::IpsecMb,
    ];

    /// The provider of that name, as [`Display`](fmt::Display) writes it, if this program was built with it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|provider| provider.name() == name)
    }

    /// Its name: `ring`, `aws-lc` or `ipsec-mb`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Provider::Ring => "ring",
            Provider::AwsLc => "aws-lc",
            #[cfg(feature = "ipsec-mb")]
            Provider::IpsecMb => "ipsec-mb",
        }
    }

    /// Whether it has an implementation of its own of the cipher.
    #[must_use]
    pub const fn has(self, cipher: Cipher) -> bool {
        match (self, cipher) {
            (_, Cipher::AesCbc { .. } | Cipher::AesCtr { .. }) => false,
            (Provider::Ring, Cipher::AesGcm16 { key_bits }) => key_bits != 192,
            #[cfg(feature = "ipsec-mb")]
            (Provider::IpsecMb, Cipher::ChaCha20Poly1305) => false,
            _ => true,
        }
    }

    /// The provider that new keys of `cipher` use: AWS-LC until [`Provider::prefer`] says otherwise.
    #[must_use]
    pub fn preferred(cipher: Cipher) -> Self {
        let index = usize::from(slot(cipher).load(Ordering::Relaxed));
        Self::ALL.get(index).copied().unwrap_or(Provider::AwsLc)
    }

    /// Makes the provider the one for new keys of `cipher` and of its other key lengths, in the whole process.
    pub fn prefer(self, cipher: Cipher) {
        let index = Self::ALL.iter().position(|other| *other == self).unwrap_or(1);
        slot(cipher).store(index as u8, Ordering::Relaxed);
    }

    /// Measures every provider with packets of 1,400 and of 64 octets. `clock` is a monotonic clock; the time of the
    /// best of three rounds counts, so that a disturbed round does no harm.
    ///
    /// # Errors
    /// [`KeyError`] if a provider refuses to work at all.
    pub fn measure(clock: &mut dyn FnMut() -> Duration) -> Result<Vec<Measurement>, KeyError> {
        let mut table = Vec::new();
        for cipher in [
            Cipher::AesGcm16 { key_bits: 128 },
            Cipher::AesGcm16 { key_bits: 256 },
            Cipher::ChaCha20Poly1305,
        ] {
            for provider in Self::ALL.iter().copied().filter(|provider| provider.has(cipher)) {
                for packet_len in [1400, 64] {
                    let per_packet = time(provider, cipher, packet_len, clock)?;
                    table.push(Measurement {
                        cipher,
                        provider,
                        packet_len,
                        per_packet,
                    });
                }
            }
        }
        Ok(table)
    }

    /// The provider that was fastest at `cipher` with packets of 1,400 octets; `None` if the cipher is not in the table.
    #[must_use]
    pub fn fastest(table: &[Measurement], cipher: Cipher) -> Option<Self> {
        table
            .iter()
            .filter(|row| row.cipher == cipher && row.packet_len == 1400)
            .min_by_key(|row| row.per_packet)
            .map(|row| row.provider)
    }

    /// Prefers the fastest provider of the table for each kind of cipher in it.
    pub fn prefer_fastest(table: &[Measurement]) {
        for cipher in [Cipher::AesGcm16 { key_bits: 256 }, Cipher::ChaCha20Poly1305] {
            if let Some(provider) = Self::fastest(table, cipher) {
                provider.prefer(cipher);
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of [`Provider::measure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// What was measured.
    pub cipher: Cipher,
    /// Who did the work.
    pub provider: Provider,
    /// Octets of plaintext in a packet.
    pub packet_len: usize,
    /// Time to seal and open one packet.
    pub per_packet: Duration,
}

fn slot(cipher: Cipher) -> &'static AtomicU8 {
    let [gcm, chacha] = &PREFERRED;
    match cipher {
        Cipher::AesGcm16 { .. } | Cipher::AesCbc { .. } | Cipher::AesCtr { .. } => gcm,
        Cipher::ChaCha20Poly1305 => chacha,
    }
}

fn time(
    provider: Provider,
    cipher: Cipher,
    packet_len: usize,
    clock: &mut dyn FnMut() -> Duration,
) -> Result<Duration, KeyError> {
    let key = aead::batch(provider, cipher, &vec![7; cipher.key_len()])?;
    let mut data = vec![0; packet_len + aead::TAG_LEN];
    let count = u32::try_from(MEASURED_OCTETS / data.len()).unwrap_or(1).max(1);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = clock();
        for number in 0..count {
            let mut nonce = [0; 12];
            if let Some(tail) = nonce.last_chunk_mut() {
                *tail = number.to_be_bytes();
            }
            let mut job = [AeadJob {
                nonce,
                aad: Aad::default(),
                data: &mut data,
            }];
            let mut ok = [false];
            key.seal_batch(&mut job).map_err(|_| KeyError::Rejected)?;
            key.open_batch(&mut job, &mut ok);
            if ok != [true] {
                return Err(KeyError::Rejected);
            }
        }
        best = best.min(clock().saturating_sub(start));
    }
    Ok(best / count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_combination_and_the_smallest_wins() {
        let mut ticks = 0;
        let mut clock = || {
            ticks += 1;
            Duration::from_millis(ticks)
        };
        let table = Provider::measure(&mut clock).unwrap();
        let rows = |cipher| Provider::ALL.iter().filter(|one| one.has(cipher)).count() * 2;
        let gcm = Cipher::AesGcm16 { key_bits: 128 };
        assert_eq!(table.len(), 2 * rows(gcm) + rows(Cipher::ChaCha20Poly1305));
        for provider in Provider::ALL {
            assert_eq!(Provider::named(provider.name()), Some(*provider));
        }
        let cipher = Cipher::ChaCha20Poly1305;
        let row = |provider, micros| Measurement {
            cipher,
            provider,
            packet_len: 1400,
            per_packet: Duration::from_micros(micros),
        };
        assert_eq!(
            Provider::fastest(&[row(Provider::Ring, 2), row(Provider::AwsLc, 3)], cipher),
            Some(Provider::Ring)
        );
        assert_eq!(
            Provider::fastest(&[row(Provider::Ring, 4), row(Provider::AwsLc, 3)], cipher),
            Some(Provider::AwsLc)
        );
        assert_eq!(Provider::fastest(&[], cipher), None);
    }

    #[test]
    fn preference_is_kept_per_kind_of_cipher() {
        let gcm = Cipher::AesGcm16 { key_bits: 256 };
        let before = Provider::preferred(Cipher::ChaCha20Poly1305);
        Provider::Ring.prefer(gcm);
        assert_eq!(
            Provider::preferred(Cipher::AesGcm16 { key_bits: 128 }),
            Provider::Ring
        );
        assert_eq!(Provider::preferred(Cipher::ChaCha20Poly1305), before);
        Provider::AwsLc.prefer(gcm);
        assert_eq!(Provider::preferred(gcm), Provider::AwsLc);
    }
}
