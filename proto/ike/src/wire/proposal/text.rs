//! Proposals as texts: words joined by `-`, in the manner of strongSwan ("aes256gcm16-prfsha384-ecp384").

use std::fmt;
use std::str::FromStr;

use crypto::{Cipher, Group, Integrity, Prf};

use super::{ChildProposal, IkeProposal};
use crate::wire::limits;
use crate::wire::numbers::ProtocolId;

/// Words of one proposal.
const WORDS: usize = 64;

/// A text that is no proposal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// The text is empty.
    #[error("the proposal is empty")]
    Empty,
    /// A word that names no algorithm known here.
    #[error("\"{0}\" is no algorithm that is known here")]
    UnknownWord(Box<str>),
    /// An algorithm that is known but not implemented, or of no use in this place.
    #[error("\"{word}\" cannot be used: {why}")]
    Unusable {
        /// The word.
        word: Box<str>,
        /// The reason.
        why: &'static str,
    },
    /// The same algorithm twice.
    #[error("\"{0}\" stands there twice")]
    Twice(Box<str>),
    /// Ciphers with and without their own integrity in one proposal.
    #[error("AEAD and other ciphers need proposals of their own")]
    MixedCiphers,
    /// Nothing of a kind that the proposal needs.
    #[error("no {0}")]
    Missing(&'static str),
    /// More words or proposals than allowed.
    #[error("more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

enum Word {
    Cipher(Cipher),
    Integrity(Integrity),
    Prf(Prf),
    Group(Group),
    Esn(bool),
}

fn word(text: &str) -> Result<Word, TextError> {
    let gcm = |key_bits| Word::Cipher(Cipher::AesGcm16 { key_bits });
    let cbc = |key_bits| Word::Cipher(Cipher::AesCbc { key_bits });
    let ctr = |key_bits| Word::Cipher(Cipher::AesCtr { key_bits });
    Ok(match text {
        "aes128" | "aes" | "aes128cbc" => cbc(128),
        "aes192" | "aes192cbc" => cbc(192),
        "aes256" | "aes256cbc" => cbc(256),
        "aes128ctr" => ctr(128),
        "aes192ctr" => ctr(192),
        "aes256ctr" => ctr(256),
        "aes128gcm16" | "aes128gcm128" | "aes128gcm" => gcm(128),
        "aes192gcm16" | "aes192gcm128" | "aes192gcm" => gcm(192),
        "aes256gcm16" | "aes256gcm128" | "aes256gcm" => gcm(256),
        "chacha20poly1305" => Word::Cipher(Cipher::ChaCha20Poly1305),
        "sha1" | "sha" => Word::Integrity(Integrity::HmacSha1_96),
        "sha256" | "sha2_256" => Word::Integrity(Integrity::HmacSha256_128),
        "sha384" | "sha2_384" => Word::Integrity(Integrity::HmacSha384_192),
        "sha512" | "sha2_512" => Word::Integrity(Integrity::HmacSha512_256),
        "prfsha1" => Word::Prf(Prf::HmacSha1),
        "prfsha256" => Word::Prf(Prf::HmacSha256),
        "prfsha384" => Word::Prf(Prf::HmacSha384),
        "prfsha512" => Word::Prf(Prf::HmacSha512),
        "modp1024" => Word::Group(Group::Modp1024),
        "modp2048" => Word::Group(Group::Modp2048),
        "modp3072" => Word::Group(Group::Modp3072),
        "modp4096" => Word::Group(Group::Modp4096),
        "ecp256" => Word::Group(Group::Ecp256),
        "ecp384" => Word::Group(Group::Ecp384),
        "ecp521" => Word::Group(Group::Ecp521),
        "curve25519" | "x25519" => Word::Group(Group::Curve25519),
        "esn" => Word::Esn(true),
        "noesn" => Word::Esn(false),
        "des" | "3des" | "null" | "md5" | "modp768" => {
            return Err(TextError::Unusable {
                word: text.into(),
                why: "too weak (RFC 8221, RFC 8247)",
            });
        }
        _ => return Err(TextError::UnknownWord(text.into())),
    })
}

/// All words of a text, by kind.
#[derive(Default)]
struct Words {
    ciphers: Vec<Cipher>,
    integrities: Vec<Integrity>,
    prfs: Vec<Prf>,
    groups: Vec<Group>,
    esn: Vec<bool>,
}

impl Words {
    fn read(text: &str) -> Result<Self, TextError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TextError::Empty);
        }
        let mut words = Self::default();
        for (index, part) in text.split('-').enumerate() {
            if index >= WORDS {
                return Err(TextError::TooMany {
                    what: "words",
                    limit: WORDS,
                });
            }
            let part = part.trim().to_ascii_lowercase();
            let fresh = match word(&part)? {
                Word::Cipher(cipher) => push_new(&mut words.ciphers, cipher),
                Word::Integrity(integrity) => push_new(&mut words.integrities, integrity),
                Word::Prf(prf) => push_new(&mut words.prfs, prf),
                Word::Group(group) => push_new(&mut words.groups, group),
                Word::Esn(esn) => push_new(&mut words.esn, esn),
            };
            if !fresh {
                return Err(TextError::Twice(part.into()));
            }
        }
        if words.ciphers.is_empty() {
            return Err(TextError::Missing("encryption"));
        }
        Ok(words)
    }

    /// Whether the ciphers are AEADs.
    fn aead(&self) -> Result<bool, TextError> {
        let aeads = self.ciphers.iter().filter(|cipher| cipher.is_aead()).count();
        match aeads {
            0 => Ok(false),
            count if count == self.ciphers.len() => Ok(true),
            _ => Err(TextError::MixedCiphers),
        }
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    let fresh = !list.contains(&item);
    if fresh {
        list.push(item);
    }
    fresh
}

impl FromStr for IkeProposal {
    type Err = TextError;

    /// Reads one proposal. Where no PRF is named, those of the integrity algorithms are taken; with an AEAD, integrity
    /// words name PRFs.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let words = Words::read(text)?;
        let aead = words.aead()?;
        if let Some(esn) = words.esn.first() {
            return Err(TextError::Unusable {
                word: if *esn { "esn".into() } else { "noesn".into() },
                why: "an IKE SA has no sequence numbers of that kind",
            });
        }
        let mut prfs = words.prfs;
        if prfs.is_empty() {
            prfs.extend(words.integrities.iter().map(|integrity| prf_of(*integrity)));
        }
        let integrities = if aead { Vec::new() } else { words.integrities };
        if !aead && integrities.is_empty() {
            return Err(TextError::Missing("integrity"));
        }
        if prfs.is_empty() {
            return Err(TextError::Missing("PRF"));
        }
        if words.groups.is_empty() {
            return Err(TextError::Missing("key exchange group"));
        }
        Ok(Self {
            ciphers: words.ciphers,
            integrities,
            prfs,
            groups: words.groups,
        })
    }
}

impl FromStr for ChildProposal {
    type Err = TextError;

    /// Reads one ESP proposal. Without `esn` or `noesn`, 32-bit sequence numbers are meant.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let words = Words::read(text)?;
        let aead = words.aead()?;
        if aead && !words.integrities.is_empty() {
            return Err(TextError::Unusable {
                word: "integrity".into(),
                why: "an AEAD brings its own",
            });
        }
        if !aead && words.integrities.is_empty() {
            return Err(TextError::Missing("integrity"));
        }
        if let Some(prf) = words.prfs.first() {
            return Err(TextError::Unusable {
                word: prf_word(*prf).into(),
                why: "a child SA has no PRF of its own",
            });
        }
        let esn = if words.esn.is_empty() {
            vec![false]
        } else {
            words.esn
        };
        Ok(Self {
            protocol: ProtocolId::ESP,
            ciphers: words.ciphers,
            integrities: words.integrities,
            groups: words.groups,
            esn,
        })
    }
}

/// Reads proposals for an IKE SA separated by commas, most preferred first. "default" stands for
/// [`IkeProposal::defaults`].
pub fn parse_ike_list(text: &str) -> Result<Vec<IkeProposal>, TextError> {
    parse_list(text, IkeProposal::defaults)
}

/// Reads proposals for a child SA separated by commas, most preferred first. "default" stands for
/// [`ChildProposal::defaults`].
pub fn parse_child_list(text: &str) -> Result<Vec<ChildProposal>, TextError> {
    parse_list(text, ChildProposal::defaults)
}

fn parse_list<T: FromStr<Err = TextError>>(
    text: &str,
    defaults: fn() -> Vec<T>,
) -> Result<Vec<T>, TextError> {
    let mut list = Vec::new();
    for part in text.split(',') {
        if part.trim().eq_ignore_ascii_case("default") {
            list.extend(defaults());
        } else {
            list.push(part.parse()?);
        }
        if list.len() > limits::PROPOSALS {
            let limit = limits::PROPOSALS;
            return Err(TextError::TooMany {
                what: "proposals",
                limit,
            });
        }
    }
    Ok(list)
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.ciphers.iter().map(|c| cipher_word(*c)));
        words.extend(self.integrities.iter().map(|i| integrity_word(*i).to_owned()));
        words.extend(self.prfs.iter().map(|p| prf_word(*p).to_owned()));
        words.extend(self.groups.iter().map(|g| group_word(*g).to_owned()));
        f.write_str(&words.join("-"))
    }
}

impl fmt::Display for ChildProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.ciphers.iter().map(|c| cipher_word(*c)));
        words.extend(self.integrities.iter().map(|i| integrity_word(*i).to_owned()));
        words.extend(self.groups.iter().map(|g| group_word(*g).to_owned()));
        if self.esn != [false] {
            let word = |esn: &bool| if *esn { "esn" } else { "noesn" }.to_owned();
            words.extend(self.esn.iter().map(word));
        }
        f.write_str(&words.join("-"))
    }
}

fn cipher_word(cipher: Cipher) -> String {
    match cipher {
        Cipher::AesGcm16 { key_bits } => format!("aes{key_bits}gcm16"),
        Cipher::ChaCha20Poly1305 => "chacha20poly1305".to_owned(),
        Cipher::AesCbc { key_bits } => format!("aes{key_bits}"),
        Cipher::AesCtr { key_bits } => format!("aes{key_bits}ctr"),
    }
}

fn integrity_word(integrity: Integrity) -> &'static str {
    match integrity {
        Integrity::HmacSha1_96 => "sha1",
        Integrity::HmacSha256_128 => "sha256",
        Integrity::HmacSha384_192 => "sha384",
        Integrity::HmacSha512_256 => "sha512",
    }
}

fn prf_word(prf: Prf) -> &'static str {
    match prf {
        Prf::HmacSha1 => "prfsha1",
        Prf::HmacSha256 => "prfsha256",
        Prf::HmacSha384 => "prfsha384",
        Prf::HmacSha512 => "prfsha512",
    }
}

fn prf_of(integrity: Integrity) -> Prf {
    match integrity {
        Integrity::HmacSha1_96 => Prf::HmacSha1,
        Integrity::HmacSha256_128 => Prf::HmacSha256,
        Integrity::HmacSha384_192 => Prf::HmacSha384,
        Integrity::HmacSha512_256 => Prf::HmacSha512,
    }
}

fn group_word(group: Group) -> &'static str {
    match group {
        Group::Modp1024 => "modp1024",
        Group::Modp2048 => "modp2048",
        Group::Modp3072 => "modp3072",
        Group::Modp4096 => "modp4096",
        Group::Ecp256 => "ecp256",
        Group::Ecp384 => "ecp384",
        Group::Ecp521 => "ecp521",
        Group::Curve25519 => "curve25519",
    }
}
