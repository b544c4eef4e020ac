//! Which library does the packets' AEAD: measured at the start on this very processor, or as the file says.

use std::time::Instant;

use crypto::{Cipher, Provider};

/// The word for the choice by measurement.
pub const AUTO: &str = "auto";

/// Whether the word can stand in `threads.aead`; if not, what can.
///
/// # Errors
/// The sentence for the operator.
pub fn check(word: &str) -> Result<(), String> {
    if word == AUTO || Provider::named(word).is_some() {
        return Ok(());
    }
    let known: Vec<&str> = Provider::ALL.iter().map(|provider| provider.name()).collect();
    Err(format!(
        "threads.aead is {word:?}, this program knows {AUTO}, {}",
        known.join(", ")
    ))
}

/// Makes the choice for all keys that follow, and writes it to the log with what was measured.
pub fn choose(word: &str) {
    let ciphers = [Cipher::AesGcm16 { key_bits: 256 }, Cipher::ChaCha20Poly1305];
    if let Some(provider) = Provider::named(word) {
        for cipher in ciphers.into_iter().filter(|cipher| provider.has(*cipher)) {
            provider.prefer(cipher);
        }
        tracing::info!(%provider, "AEAD provider as configured");
        return;
    }
    let start = Instant::now();
    let table = match Provider::measure(&mut || start.elapsed()) {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(%error, "the AEAD providers could not be measured");
            return;
        }
    };
    Provider::prefer_fastest(&table);
    for row in &table {
        tracing::debug!(
            provider = %row.provider,
            cipher = %row.cipher,
            octets = row.packet_len,
            nanoseconds = row.per_packet.as_nanos() as u64,
            "AEAD measured, sealing and opening one packet"
        );
    }
    for cipher in ciphers {
        if let Some(best) = Provider::fastest(&table, cipher) {
            let others: Vec<String> = table
                .iter()
                .filter(|row| row.cipher == cipher && row.packet_len == 1400)
                .map(|row| format!("{} {} ns", row.provider, row.per_packet.as_nanos()))
                .collect();
            tracing::info!(%cipher, provider = %best, measured = others.join(", "), "AEAD provider chosen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_checked_and_the_known_ones_are_named() {
        assert!(check(AUTO).is_ok());
        assert!(check("ring").is_ok());
        let wrong = check("fastest").err();
        assert!(
            wrong.is_some_and(|words| words.contains("ring") && words.contains("aws-lc")),
            "it says what there is"
        );
    }

    #[test]
    fn a_configured_provider_is_preferred_where_it_has_the_cipher() {
        choose("ring");
        assert_eq!(Provider::preferred(Cipher::ChaCha20Poly1305), Provider::Ring);
        choose(AUTO);
        let gcm = Cipher::AesGcm16 { key_bits: 256 };
        assert!(Provider::ALL.contains(&Provider::preferred(gcm)));
    }
}
