//! An identity as IKE carries it, with a safe text form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::dn;
use crate::wire::{IdType, Identification};

/// Who somebody is, or claims to be (RFC 7296 section 3.5): a type and octets.
///
/// `Display` escapes everything that could upset a terminal or a log, so that text is safe to print and no two
/// identities of one type share a text. `FromStr` reads addresses, `user@host`, host names (also with a leading `@`),
/// `CN=…` distinguished names and, with a prefix, anything: `keyid:`, `keyid:0x`, `fqdn:`, `email:`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// How to read the data.
    pub kind: IdType,
    /// The octets on the wire.
    pub data: Vec<u8>,
}

/// A text that names no identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there.
    #[error("an identity must not be empty")]
    Empty,
    /// A `keyid:0x` that is not hexadecimal.
    #[error("`{0}` is not hexadecimal")]
    Hex(String),
    /// A distinguished name that cannot be encoded.
    #[error("`{0}` is not a distinguished name")]
    Dn(String),
}

impl Identity {
    /// A fully qualified domain name.
    #[must_use]
    pub fn fqdn(name: &str) -> Self {
        Self {
            kind: IdType::FQDN,
            data: name.as_bytes().to_vec(),
        }
    }

    /// A mail address.
    #[must_use]
    pub fn email(address: &str) -> Self {
        Self {
            kind: IdType::RFC822_ADDR,
            data: address.as_bytes().to_vec(),
        }
    }

    /// Opaque octets.
    #[must_use]
    pub fn key_id(octets: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: IdType::KEY_ID,
            data: octets.into(),
        }
    }

    /// An address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                kind: IdType::IPV4_ADDR,
                data: v4.octets().to_vec(),
            },
            IpAddr::V6(v6) => Self {
                kind: IdType::IPV6_ADDR,
                data: v6.octets().to_vec(),
            },
        }
    }

    /// A distinguished name in DER.
    #[must_use]
    pub fn dn(der: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: IdType::DER_ASN1_DN,
            data: der.into(),
        }
    }

    /// No identity at all; stands for "nothing in particular is expected".
    #[must_use]
    pub const fn none() -> Self {
        Self {
            kind: IdType(0),
            data: Vec::new(),
        }
    }

    /// Whether both name the same: equal octets, names without regard to case, distinguished names without regard to
    /// string types (RFC 4945 section 3.1).
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && match self.kind {
                IdType::FQDN | IdType::RFC822_ADDR => self.data.eq_ignore_ascii_case(&other.data),
                IdType::DER_ASN1_DN => dn::same(&self.data, &other.data),
                _ => self.data == other.data,
            }
    }

    /// Whether this is [`Identity::none`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.kind == IdType(0)
    }

    /// The address of an ID_IPV4_ADDR or ID_IPV6_ADDR.
    #[must_use]
    pub fn as_address(&self) -> Option<IpAddr> {
        match self.kind {
            IdType::IPV4_ADDR => Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.data.as_slice()).ok()?).into()),
            IdType::IPV6_ADDR => {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(self.data.as_slice()).ok()?).into())
            }
            _ => None,
        }
    }

    /// The text of an identity that is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.kind {
            IdType::FQDN | IdType::RFC822_ADDR => std::str::from_utf8(&self.data).ok(),
            _ => None,
        }
    }
}

impl From<&Identification> for Identity {
    fn from(id: &Identification) -> Self {
        Self {
            kind: id.kind,
            data: id.data.clone(),
        }
    }
}

impl From<&Identity> for Identification {
    fn from(id: &Identity) -> Self {
        Self {
            kind: id.kind,
            data: id.data.clone(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.as_address() {
            return address.fmt(f);
        }
        match self.kind {
            IdType::FQDN | IdType::RFC822_ADDR => escape(f, &self.data),
            IdType::KEY_ID => {
                f.write_str("keyid:")?;
                if !self.data.is_empty() && self.data.iter().all(|&b| b.is_ascii_graphic() && b != b'\\') {
                    escape(f, &self.data)
                } else {
                    f.write_str("0x")?;
                    hex(f, &self.data)
                }
            }
            IdType::DER_ASN1_DN => match dn::to_text(&self.data) {
                Some(text) => f.write_str(&text),
                None => {
                    f.write_str("dn:0x")?;
                    hex(f, &self.data)
                }
            },
            IdType(0) => f.write_str("(none)"),
            _ => {
                write!(f, "{}:0x", self.kind)?;
                hex(f, &self.data)
            }
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Empty);
        }
        if let Some(rest) = text.strip_prefix("keyid:") {
            return Ok(Self::key_id(match rest.strip_prefix("0x") {
                Some(digits) => unhex(digits).ok_or_else(|| IdentityError::Hex(digits.to_owned()))?,
                None => rest.as_bytes().to_vec(),
            }));
        }
        if let Some(rest) = text.strip_prefix("fqdn:").or_else(|| text.strip_prefix('@')) {
            return Ok(Self::fqdn(rest));
        }
        if let Some(rest) = text.strip_prefix("email:") {
            return Ok(Self::email(rest));
        }
        if let Some(digits) = text.strip_prefix("dn:0x") {
            return unhex(digits)
                .map(Self::dn)
                .ok_or_else(|| IdentityError::Hex(digits.to_owned()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::address(address));
        }
        if text.contains('=') {
            return dn::from_text(text)
                .map(Self::dn)
                .ok_or_else(|| IdentityError::Dn(text.to_owned()));
        }
        Ok(if text.contains('@') {
            Self::email(text)
        } else {
            Self::fqdn(text)
        })
    }
}

/// Prints octets as text if they are printable, and escaped otherwise.
pub(super) fn escape(f: &mut dyn fmt::Write, data: &[u8]) -> fmt::Result {
    for &octet in data {
        match octet {
            b'\\' => f.write_str("\\\\")?,
            0x20..=0x7e => f.write_char(char::from(octet))?,
            _ => write!(f, "\\x{octet:02x}")?,
        }
    }
    Ok(())
}

fn hex(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "gw.example.org",
            "alice@example.org",
            "192.0.2.1",
            "2001:db8::1",
            "keyid:branch-7",
            "keyid:0x00ff",
            "C=DE, O=Example, CN=gw.example.org",
        ] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        assert_eq!("@alice".parse::<Identity>().unwrap(), Identity::fqdn("alice"));
        assert!("keyid:0xabc".parse::<Identity>().is_err());
        assert!("".parse::<Identity>().is_err());
    }

    #[test]
    fn nothing_dangerous_is_printed() {
        let evil = Identity {
            kind: IdType::FQDN,
            data: b"a\0b\n\x1b[31m\\".to_vec(),
        };
        assert_eq!(evil.to_string(), "a\\x00b\\x0a\\x1b[31m\\\\");
        let short = Identity {
            kind: IdType::IPV4_ADDR,
            data: vec![1, 2],
        };
        assert_eq!(short.to_string(), "ID_IPV4_ADDR:0x0102");
    }
}
