//! Invariant S11: key octets that are known (from a run with `debug.key_log`) are searched in everything that leaves a
//! node's memory: raw, as hexadecimal digits of both cases, and as Base64 at each of its three alignments.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::Result;

/// Octets of the shortest key that is looked for: shorter ones are found by chance.
const KEY_MIN: usize = 16;
/// Octets by which a needle is found before it is compared in full.
const HEAD: usize = 8;
/// A file is read in pieces of so many octets, each with the end of the piece before it.
const PIECE: usize = 4 << 20;
/// Bits of the filter in front of the table.
const FILTER_BITS: usize = 1 << 22;

/// The needles.
#[derive(Debug)]
pub struct Canary {
    needles: Vec<Vec<u8>>,
    heads: HashMap<u64, Vec<usize>>,
    filter: Vec<u64>,
    longest: usize,
    keys: usize,
}

/// A key that was found where none may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// At which octet.
    pub offset: u64,
    /// How it was written there: its octets, `hex`, or `base64`.
    pub octets: usize,
}

/// Reads the keys out of the tables that the daemon writes for tshark (`debug.key_log`).
pub fn keys_of(folder: &Path) -> Result<BTreeSet<Vec<u8>>> {
    let mut keys = BTreeSet::new();
    for table in ["ikev2_decryption_table", "esp_sa"] {
        let path = folder.join(table);
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for token in text.split(|c: char| !c.is_ascii_alphanumeric()) {
            let digits = token.strip_prefix("0x").unwrap_or(token);
            if digits.len() >= 2 * KEY_MIN
                && let Some(key) = unhex(digits)
            {
                keys.insert(key);
            }
        }
    }
    Ok(keys)
}

impl Canary {
    /// Prepares the search for these keys.
    pub fn new(keys: &BTreeSet<Vec<u8>>) -> Self {
        let mut needles = BTreeSet::new();
        for key in keys.iter().filter(|k| k.len() >= KEY_MIN) {
            // A cipher's key may be followed by its salt in the table, and stand alone elsewhere.
            needles.insert(key[..key.len().min(32)].to_vec());
            let hex: String = key.iter().map(|o| format!("{o:02x}")).collect();
            needles.insert(hex.to_uppercase().into_bytes());
            needles.insert(hex.into_bytes());
            for skip in 0..3 {
                needles.insert(base64(&key[skip..]));
            }
        }
        let needles: Vec<Vec<u8>> = needles.into_iter().collect();
        let mut heads: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut filter = vec![0_u64; FILTER_BITS / 64];
        for (index, needle) in needles.iter().enumerate() {
            let head = head(needle, 0);
            heads.entry(head).or_default().push(index);
            let bit = bit(head);
            filter[bit / 64] |= 1 << (bit % 64);
        }
        Self {
            longest: needles.iter().map(Vec::len).max().unwrap_or(HEAD).max(HEAD),
            heads,
            filter,
            needles,
            keys: keys.len(),
        }
    }

    /// How many keys are looked for.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Searches a file, or all files below a folder; returns the octets searched.
    pub fn search(&self, path: &Path, findings: &mut Vec<Finding>) -> Result<u64> {
        if path.is_dir() {
            let mut octets = 0;
            for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
                octets += self.search(&entry?.path(), findings)?;
            }
            return Ok(octets);
        }
        if !path.is_file() {
            return Ok(0);
        }
        let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        let mut buffer = Vec::new();
        let mut start = 0_u64;
        loop {
            let before = buffer.len();
            let read = file
                .by_ref()
                .take(u64::try_from(PIECE)?)
                .read_to_end(&mut buffer)?;
            if read == 0 {
                return Ok(start + u64::try_from(before)?);
            }
            for (offset, octets) in self.find(&buffer) {
                findings.push(Finding {
                    file: path.to_owned(),
                    offset: start + u64::try_from(offset)?,
                    octets,
                });
            }
            let keep = buffer.len().min(self.longest - 1);
            start += u64::try_from(buffer.len() - keep)?;
            buffer.drain(..buffer.len() - keep);
        }
    }

    /// Where needles stand in `bytes`, and how long they are.
    pub fn find(&self, bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let Some(last) = bytes.len().checked_sub(HEAD) else {
            return found;
        };
        for at in 0..=last {
            let head = head(bytes, at);
            let bit = bit(head);
            if self.filter[bit / 64] & 1 << (bit % 64) == 0 {
                continue;
            }
            for &index in self.heads.get(&head).into_iter().flatten() {
                let needle = &self.needles[index];
                if bytes[at..].starts_with(needle) {
                    found.push((at, needle.len()));
                }
            }
        }
        found
    }
}

fn head(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + HEAD)
        .and_then(|part| part.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn bit(head: u64) -> usize {
    usize::try_from(head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 42).unwrap_or(0) % FILTER_BITS
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |d: u8| char::from(d).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Base64 of the whole groups of three octets: what a longer text holds of them at this alignment.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in bytes.chunks_exact(3) {
        let word = group
            .iter()
            .fold(0_usize, |word, octet| word << 8 | usize::from(*octet));
        out.extend([18, 12, 6, 0].map(|shift| LETTERS[word >> shift & 63]));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(seed: u8) -> Vec<u8> {
        (0..36_u8)
            .map(|i| i.wrapping_mul(37).wrapping_add(seed))
            .collect()
    }

    #[test]
    fn a_key_is_found_in_every_writing_and_across_pieces() {
        let canary = Canary::new(&BTreeSet::from([key(1), key(2)]));
        let hex: String = key(1).iter().map(|o| format!("{o:02X}")).collect();
        let mut shifted = vec![9];
        shifted.extend(key(2));
        shifted.extend([1, 2]);
        for (name, text) in [
            ("raw", key(1)),
            ("raw without its salt", key(1)[..32].to_vec()),
            ("hex", hex.into_bytes()),
            ("base64", base64(&shifted)),
        ] {
            let mut bytes = vec![b'x'; 1000];
            bytes.extend(text);
            bytes.extend([b'y'; 10]);
            assert!(!canary.find(&bytes).is_empty(), "{name}");
        }
        assert!(canary.find(&key(3)).is_empty());
        assert!(canary.find(&key(1)[..31]).is_empty());

        let path = std::env::temp_dir().join(format!("rig-canary-{}", std::process::id()));
        let mut bytes = vec![0; PIECE - 7];
        bytes.extend(key(2));
        std::fs::write(&path, &bytes).unwrap();
        let mut findings = Vec::new();
        let searched = canary.search(&path, &mut findings).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(searched, u64::try_from(bytes.len()).unwrap());
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].offset, u64::try_from(PIECE - 7).unwrap());
    }

    #[test]
    fn keys_come_out_of_tsharks_tables() {
        let folder = std::env::temp_dir().join(format!("rig-canary-keys-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (a, b) = ("ab".repeat(36), "0c".repeat(36));
        std::fs::write(
            folder.join("ikev2_decryption_table"),
            format!("0102030405060708,0807060504030201,{a},{b},\"AES-GCM\",,,\"NONE\"\n"),
        )
        .unwrap();
        std::fs::write(
            folder.join("esp_sa"),
            format!(
                "\"IPv4\",\"*\",\"192.0.2.1\",\"0x01020304\",\"AES-GCM\",\"0x{}\",\"NULL\",\"\"\n",
                "0d".repeat(36)
            ),
        )
        .unwrap();
        let keys = keys_of(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(keys.len(), 3);
        assert!(keys.contains(&vec![0xab; 36]));
        assert!(keys.contains(&vec![0x0d; 36]));
    }
}
