//! Checking of proposal texts. The grammar belongs to the IKE engine, which this crate does not know: the daemon
//! hands in a [`ProposalCheck`]; [`SyntaxCheck`] is the one for tools and tests.

/// Why a proposal text is refused, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ProposalError {
    /// What is wrong, and what is allowed.
    pub reason: String,
}

/// Decides whether proposal texts are usable.
pub trait ProposalCheck: Send + Sync {
    /// An IKE proposal like `aes256gcm16-prfsha384-ecp384`.
    ///
    /// # Errors
    /// Why it is refused.
    fn ike(&self, text: &str) -> Result<(), ProposalError>;

    /// An ESP proposal like `aes256gcm16` or `aes128-sha256-modp2048`.
    ///
    /// # Errors
    /// Why it is refused.
    fn esp(&self, text: &str) -> Result<(), ProposalError>;
}

/// Words that only a tenant with `allow_weak_algorithms` may use. HMAC-SHA1-96 is not among them: nothing is known against
/// it, and Windows offers nothing else for ESP by default.
const WEAK: &[&str] = &["modp768", "modp1024", "modp1536", "md5", "3des", "des"];

/// Whether a proposal names a weak algorithm, and which.
pub fn weak_word(text: &str) -> Option<&str> {
    text.split('-').find(|word| WEAK.contains(word))
}

/// Checks that a text is a list of known words with what every proposal needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyntaxCheck;

/// What a word of a proposal is.
#[derive(PartialEq, Eq)]
enum Word {
    Aead,
    Cipher,
    Integrity,
    Prf,
    Group,
    Esn,
}

fn classify(word: &str) -> Option<Word> {
    let aes = |rest: &str| matches!(rest, "" | "128" | "192" | "256");
    if let Some(rest) = word.strip_prefix("aes") {
        if aes(rest) || rest.strip_suffix("ctr").is_some_and(aes) || rest.strip_suffix("cbc").is_some_and(aes)
        {
            return Some(Word::Cipher);
        }
        return ["gcm16", "gcm128", "gcm"]
            .iter()
            .any(|mode| rest.strip_suffix(mode).is_some_and(aes))
            .then_some(Word::Aead);
    }
    match word {
        "chacha20poly1305" => Some(Word::Aead),
        "sha" | "sha1" | "sha256" | "sha2_256" | "sha384" | "sha2_384" | "sha512" | "sha2_512" => {
            Some(Word::Integrity)
        }
        "prfsha1" | "prfsha256" | "prfsha384" | "prfsha512" => Some(Word::Prf),
        "modp1024" | "modp2048" | "modp3072" | "modp4096" | "ecp256" | "ecp384" | "ecp521" | "x25519"
        | "curve25519" => Some(Word::Group),
        "esn" | "noesn" => Some(Word::Esn),
        _ => None,
    }
}

fn words(text: &str) -> Result<Vec<Word>, ProposalError> {
    text.split('-')
        .map(|word| {
            classify(word).ok_or_else(|| ProposalError {
                reason: format!(
                    "\"{word}\" is not a known algorithm; allowed are aes{{128,192,256}}[gcm16|ctr], \
                     chacha20poly1305, sha{{1,256,384,512}}, prfsha{{1,256,384,512}}, modp{{2048,3072,4096}}, \
                     ecp{{256,384,521}}, x25519, esn, noesn"
                ),
            })
        })
        .collect()
}

fn refuse(reason: &str) -> Result<(), ProposalError> {
    Err(ProposalError {
        reason: reason.to_owned(),
    })
}

/// Rules that IKE and ESP share: some cipher, and integrity exactly when no AEAD is there.
fn ciphers(words: &[Word]) -> Result<(), ProposalError> {
    let has = |word: Word| words.contains(&word);
    if has(Word::Aead) && has(Word::Cipher) {
        refuse("mixes combined-mode and other ciphers; write two proposals")
    } else if !has(Word::Aead) && !has(Word::Cipher) {
        refuse("names no cipher")
    } else if has(Word::Cipher) && !has(Word::Integrity) {
        refuse("names a cipher without an integrity algorithm, like sha256")
    } else {
        Ok(())
    }
}

impl ProposalCheck for SyntaxCheck {
    fn ike(&self, text: &str) -> Result<(), ProposalError> {
        let words = words(text)?;
        ciphers(&words)?;
        if words.contains(&Word::Esn) {
            return refuse("extended sequence numbers are for ESP only");
        }
        if !words.contains(&Word::Group) {
            return refuse("names no key exchange group, like ecp256");
        }
        if words.contains(&Word::Aead) && !words.contains(&Word::Prf) && !words.contains(&Word::Integrity) {
            return refuse("names no pseudo-random function, like prfsha256");
        }
        Ok(())
    }

    fn esp(&self, text: &str) -> Result<(), ProposalError> {
        let words = words(text)?;
        if words.contains(&Word::Prf) {
            return refuse("a pseudo-random function is for IKE only");
        }
        ciphers(&words)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn good_proposals() {
        for text in [
            "aes256gcm16-prfsha384-ecp384",
            "aes256-sha256-modp2048",
            "chacha20poly1305-prfsha256-x25519",
            "aes128ctr-sha512-ecp256",
        ] {
            assert_eq!(SyntaxCheck.ike(text), Ok(()), "{text}");
        }
        for text in [
            "aes256gcm16",
            "aes256gcm16-ecp384-esn",
            "aes128-sha256",
            "aes128-sha1-modp2048",
        ] {
            assert_eq!(SyntaxCheck.esp(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_proposals_say_why() {
        for (text, why) in [
            ("", "not a known"),
            ("aes256gcm16-prfsha384", "group"),
            ("aes256-modp2048", "integrity"),
            ("aes256-aes256gcm16-sha256-modp2048", "mixes"),
            ("aes256gcm16-ecp256", "pseudo-random"),
            ("aes256gcm17-prfsha256-ecp256", "aes256gcm17"),
            ("sha256-modp2048", "no cipher"),
        ] {
            let error = SyntaxCheck.ike(text).unwrap_err();
            assert!(error.reason.contains(why), "{text}: {error}");
        }
        assert!(SyntaxCheck.esp("aes256gcm16-prfsha256").is_err());
        assert_eq!(weak_word("aes256-sha1-modp1024"), Some("modp1024"));
        assert_eq!(weak_word("aes256-sha1-modp2048"), None);
    }
}
