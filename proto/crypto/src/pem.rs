//! PEM (RFC 7468): labelled base64 blocks, read strictly and within limits.

use zeroize::Zeroizing;

use crate::Secret;

/// The longest input that is read, in octets.
pub const MAX_INPUT: usize = 1 << 20;
/// The most blocks in one input.
pub const MAX_BLOCKS: usize = 1024;

/// One block: the label of its BEGIN line and its DER octets, which may be a private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// For instance `CERTIFICATE`.
    pub label: String,
    /// The decoded octets.
    pub der: Secret,
}

/// Why an input is not PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Longer than [`MAX_INPUT`] or more than [`MAX_BLOCKS`] blocks.
    #[error("PEM input too large")]
    TooLarge,
    /// A BEGIN line without its END line, or the reverse.
    #[error("PEM block without its BEGIN or END line")]
    Unbalanced,
    /// Text between the lines that is not base64.
    #[error("PEM block is not base64")]
    Base64,
    /// A block encrypted in OpenSSL's old format (`Proc-Type: 4,ENCRYPTED`).
    #[error("PEM block encrypted in the old format; convert it to PKCS#8")]
    OldEncryption,
}

/// Reads every block. Text outside of blocks is skipped, as certificate bundles carry some.
///
/// # Errors
/// [`PemError`] if a block is malformed.
pub fn read(input: &[u8]) -> Result<Vec<Block>, PemError> {
    if input.len() > MAX_INPUT {
        return Err(PemError::TooLarge);
    }
    let mut blocks = Vec::new();
    let mut open: Option<(String, Zeroizing<Vec<u8>>)> = None;
    for line in input.split(|octet| *octet == b'\n') {
        let line = line.trim_ascii();
        if let Some(label) = boundary(line, b"-----BEGIN ") {
            if open.is_some() {
                return Err(PemError::Unbalanced);
            }
            // Room for all that can follow: growing would leave copies of a key behind.
            open = Some((label, Zeroizing::new(Vec::with_capacity(input.len()))));
        } else if let Some(label) = boundary(line, b"-----END ") {
            let Some((begun, text)) = open.take().filter(|(begun, _)| *begun == label) else {
                return Err(PemError::Unbalanced);
            };
            if blocks.len() == MAX_BLOCKS {
                return Err(PemError::TooLarge);
            }
            blocks.push(Block {
                label: begun,
                der: decode_base64(&text).ok_or(PemError::Base64)?,
            });
        } else if let Some((_, text)) = &mut open {
            if line.starts_with(b"Proc-Type:") || line.starts_with(b"DEK-Info:") {
                return Err(PemError::OldEncryption);
            }
            text.extend_from_slice(line);
        }
    }
    if open.is_some() {
        Err(PemError::Unbalanced)
    } else {
        Ok(blocks)
    }
}

fn boundary(line: &[u8], prefix: &[u8]) -> Option<String> {
    let label = line.strip_prefix(prefix)?.strip_suffix(b"-----")?;
    String::from_utf8(label.to_vec()).ok()
}

/// Decodes base64 with padding; `None` for anything that an encoder does not make.
fn decode_base64(text: &[u8]) -> Option<Secret> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3));
    let mut groups = text.chunks(4).peekable();
    while let Some(group) = groups.next() {
        let [a, b, c, d] = *<&[u8; 4]>::try_from(group).ok()?;
        let last = groups.peek().is_none();
        let padding = match (c, d) {
            (b'=', b'=') if last => 2,
            (_, b'=') if last => 1,
            _ => 0,
        };
        let mut word = sextet(a)? << 18 | sextet(b)? << 12;
        if padding < 2 {
            word |= sextet(c)? << 6;
        }
        if padding < 1 {
            word |= sextet(d)?;
        }
        let [_, x, y, z] = word.to_be_bytes();
        match padding {
            0 => out.extend_from_slice(&[x, y, z]),
            1 if z == 0 => out.extend_from_slice(&[x, y]),
            2 if (y, z) == (0, 0) => out.push(x),
            _ => return None,
        }
    }
    Some(Secret::from(out.as_slice()))
}

fn sextet(character: u8) -> Option<u32> {
    match character {
        b'A'..=b'Z' => Some(u32::from(character - b'A')),
        b'a'..=b'z' => Some(u32::from(character - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(character - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_blocks_and_skips_the_text_around_them() {
        let blocks = read(b"Subject: x\r\n-----BEGIN A-----\r\nAQID\r\nBA==\r\n-----END A-----\r\n\n-----BEGIN B C-----\n-----END B C-----").unwrap();
        let found: Vec<_> = blocks
            .iter()
            .map(|block| (block.label.as_str(), block.der.expose()))
            .collect();
        assert_eq!(found, [("A", &[1, 2, 3, 4][..]), ("B C", &[][..])]);
        assert_eq!(read(b"no blocks").unwrap(), []);
    }

    #[test]
    fn refuses_what_is_malformed() {
        assert_eq!(read(b"-----BEGIN A-----\nAQID"), Err(PemError::Unbalanced));
        assert_eq!(
            read(b"-----BEGIN A-----\n-----END B-----"),
            Err(PemError::Unbalanced)
        );
        assert_eq!(read(b"-----END A-----"), Err(PemError::Unbalanced));
        for text in ["AQI", "AQI*", "A===", "AQ==AQID", "AR==", "AQJ="] {
            assert_eq!(
                read(format!("-----BEGIN A-----\n{text}\n-----END A-----").as_bytes()),
                Err(PemError::Base64),
                "{text}"
            );
        }
        let old =
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAQID\n-----END RSA PRIVATE KEY-----";
        assert_eq!(read(old), Err(PemError::OldEncryption));
        assert_eq!(read(&vec![b'\n'; MAX_INPUT + 1]), Err(PemError::TooLarge));
    }
}
