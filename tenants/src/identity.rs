//! Identities of peers and the patterns they are matched with.
//!
//! A pattern is one of: `*`; `*@acme.example`; `*.acme.example`; an exact name, mail address or IP address; an IP
//! prefix; a distinguished name whose values may be `*` (`C=CH, O=Acme, CN=*`); `key:HEX` for a KEY_ID.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Identification types of RFC 7296 section 3.5.
pub mod kind {
    /// ID_IPV4_ADDR.
    pub const IPV4: u8 = 1;
    /// ID_FQDN.
    pub const FQDN: u8 = 2;
    /// ID_RFC822_ADDR.
    pub const RFC822: u8 = 3;
    /// ID_IPV6_ADDR.
    pub const IPV6: u8 = 5;
    /// ID_DER_ASN1_DN.
    pub const DN: u8 = 9;
    /// ID_KEY_ID.
    pub const KEY_ID: u8 = 11;
}

/// An identity as it came in an IDi or IDr payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// Identification type (RFC 7296 section 3.5).
    pub kind: u8,
    /// Identification data.
    pub data: Vec<u8>,
    /// The same for people; for a distinguished name its text with comma-separated RDNs.
    pub text: String,
}

impl PeerIdentity {
    /// An identity from its text: the kind is guessed as strongSwan guesses it.
    pub fn from_text(text: &str) -> Self {
        let (kind, data) = if let Ok(v4) = text.parse::<Ipv4Addr>() {
            (kind::IPV4, v4.octets().to_vec())
        } else if let Ok(v6) = text.parse::<Ipv6Addr>() {
            (kind::IPV6, v6.octets().to_vec())
        } else if text.contains('=') {
            (kind::DN, Vec::new())
        } else if text.contains('@') {
            (kind::RFC822, text.as_bytes().to_vec())
        } else {
            (kind::FQDN, text.as_bytes().to_vec())
        };
        Self {
            kind,
            data,
            text: text.to_owned(),
        }
    }

    /// The address of an address identity.
    pub fn address(&self) -> Option<IpAddr> {
        match self.kind {
            kind::IPV4 => <[u8; 4]>::try_from(self.data.as_slice()).ok().map(IpAddr::from),
            kind::IPV6 => <[u8; 16]>::try_from(self.data.as_slice()).ok().map(IpAddr::from),
            _ => None,
        }
    }

    /// The text of a name: FQDN, mail address, or a KEY_ID that is text (Android sends names so).
    fn name(&self) -> Option<&str> {
        matches!(self.kind, kind::FQDN | kind::RFC822 | kind::KEY_ID)
            .then(|| std::str::from_utf8(&self.data).ok())
            .flatten()
    }
}

/// One attribute of a distinguished name pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rdn {
    /// Attribute in upper case, like `CN`.
    pub(crate) attribute: String,
    /// Value; `*` matches any.
    pub(crate) value: String,
}

/// A pattern for identities. See the module for the texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IdPattern {
    /// `*`
    Any,
    /// `*@domain`: every mail address of a domain.
    MailDomain(String),
    /// `*.domain`: every name below a domain.
    NameDomain(String),
    /// An exact name or mail address, compared without case.
    Name(String),
    /// An exact address, or every address of a prefix.
    Address(IpNet),
    /// A distinguished name, RDN by RDN.
    Dn(Vec<Rdn>),
    /// The octets of a KEY_ID.
    Key(Vec<u8>),
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More than 255 octets.
    #[error("is longer than 255 octets")]
    TooLong,
    /// `*` at another place than the start.
    #[error(
        "has \"*\" elsewhere than alone, as \"*@domain\", as \"*.domain\" or as a whole value of a distinguished name"
    )]
    Wildcard,
    /// A distinguished name that does not parse.
    #[error("is not a distinguished name like \"C=CH, O=Acme, CN=*\"")]
    Dn,
    /// `key:` without hexadecimal digits.
    #[error("is not \"key:\" with an even number of hexadecimal digits")]
    Key,
    /// Characters that no name has.
    #[error("has blanks or control characters")]
    Characters,
}

impl IdPattern {
    /// Whether an identity matches.
    pub fn matches(&self, id: &PeerIdentity) -> bool {
        let domain = |suffix: &str, separator: char| {
            id.name().and_then(|name| {
                name.rsplit_once(separator)
                    .map(|(_, tail)| tail.eq_ignore_ascii_case(suffix))
            })
        };
        match self {
            IdPattern::Any => true,
            IdPattern::MailDomain(suffix) => domain(suffix, '@').unwrap_or(false),
            IdPattern::NameDomain(suffix) => id.name().is_some_and(|name| {
                !name.contains('@')
                    && name.len() > suffix.len() + 1
                    && name
                        .to_ascii_lowercase()
                        .strip_suffix(suffix.as_str())
                        .is_some_and(|head| head.ends_with('.'))
            }),
            IdPattern::Name(exact) => id.name().is_some_and(|name| name.eq_ignore_ascii_case(exact)),
            IdPattern::Address(net) => id.address().is_some_and(|address| net.contains(&address)),
            IdPattern::Dn(pattern) => id.kind == kind::DN && dn_matches(pattern, &id.text),
            IdPattern::Key(octets) => id.kind == kind::KEY_ID && id.data == *octets,
        }
    }

    /// Whether only one identity matches.
    pub fn is_exact(&self) -> bool {
        match self {
            IdPattern::Any | IdPattern::MailDomain(_) | IdPattern::NameDomain(_) => false,
            IdPattern::Name(_) | IdPattern::Key(_) => true,
            IdPattern::Address(net) => net.prefix_len() == net.max_prefix_len(),
            IdPattern::Dn(rdns) => rdns.iter().all(|rdn| rdn.value != "*"),
        }
    }

    /// How narrow a pattern is: exact before domain before any. For choosing among several that match.
    pub fn specificity(&self) -> u8 {
        match self {
            IdPattern::Any => 0,
            IdPattern::MailDomain(_) | IdPattern::NameDomain(_) => 1,
            IdPattern::Address(_) | IdPattern::Dn(_) if !self.is_exact() => 1,
            IdPattern::Address(_) | IdPattern::Dn(_) | IdPattern::Name(_) | IdPattern::Key(_) => 2,
        }
    }

    /// The identity of an exact pattern, for use as a local identity. A distinguished name has no data here: its DER
    /// is that of the certificate's subject.
    pub fn identity(&self) -> Option<PeerIdentity> {
        if !self.is_exact() {
            return None;
        }
        let text = self.to_string();
        match self {
            IdPattern::Key(octets) => Some(PeerIdentity {
                kind: kind::KEY_ID,
                data: octets.clone(),
                text,
            }),
            IdPattern::Any | IdPattern::MailDomain(_) | IdPattern::NameDomain(_) => None,
            IdPattern::Name(_) | IdPattern::Address(_) | IdPattern::Dn(_) => {
                Some(PeerIdentity::from_text(&text))
            }
        }
    }
}

/// Compares RDN by RDN, in order; a pattern value `*` matches any value.
fn dn_matches(pattern: &[Rdn], text: &str) -> bool {
    let Some(rdns) = parse_dn(text) else { return false };
    let same = |(wanted, found): (&Rdn, &Rdn)| {
        wanted.attribute == found.attribute
            && (wanted.value == "*" || wanted.value.eq_ignore_ascii_case(&found.value))
    };
    rdns.len().cmp(&pattern.len()) == Ordering::Equal && pattern.iter().zip(&rdns).all(same)
}

/// `C=CH, O=Acme\, Inc., CN=moon` as a list; a backslash takes the next character as it is.
pub(crate) fn parse_dn(text: &str) -> Option<Vec<Rdn>> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let part = parts.last_mut()?;
        match character {
            '\\' => part.push(characters.next()?),
            ',' => parts.push(String::new()),
            '"' => {}
            other => part.push(other),
        }
    }
    parts
        .iter()
        .map(|part| {
            let (attribute, value) = part.split_once('=')?;
            let attribute = match attribute.trim().to_ascii_uppercase().as_str() {
                "" => return None,
                "EMAILADDRESS" | "EMAIL" => "E".to_owned(),
                // A word, or an object identifier in dotted decimal.
                word if !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') => return None,
                other => other.to_owned(),
            };
            Some(Rdn {
                attribute,
                value: value.trim().to_owned(),
            })
        })
        .collect()
}

impl FromStr for IdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > 255 {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Characters);
        }
        if text == "*" {
            return Ok(IdPattern::Any);
        }
        if let Some(digits) = text.strip_prefix("key:") {
            return parse_hex(digits).map(IdPattern::Key).ok_or(PatternError::Key);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(IdPattern::Address(IpNet::from(address)));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(IdPattern::Address(net.trunc()));
        }
        if text.contains('=') {
            let rdns = parse_dn(text).ok_or(PatternError::Dn)?;
            let misplaced = |rdn: &Rdn| rdn.value.contains('*') && rdn.value != "*";
            return if rdns.iter().any(misplaced) {
                Err(PatternError::Wildcard)
            } else {
                Ok(IdPattern::Dn(rdns))
            };
        }
        if text.contains(char::is_whitespace) {
            return Err(PatternError::Characters);
        }
        let (make, rest): (fn(String) -> IdPattern, &str) = if let Some(rest) = text.strip_prefix("*@") {
            (IdPattern::MailDomain, rest)
        } else if let Some(rest) = text.strip_prefix("*.") {
            (IdPattern::NameDomain, rest)
        } else {
            (IdPattern::Name, text)
        };
        if rest.contains('*') {
            Err(PatternError::Wildcard)
        } else if rest.is_empty() {
            Err(PatternError::Empty)
        } else if make(String::new()) == IdPattern::Name(String::new()) {
            Ok(IdPattern::Name(rest.to_owned()))
        } else {
            Ok(make(rest.to_ascii_lowercase()))
        }
    }
}

/// Octets of hexadecimal digits; `None` when they are not that or there are none.
pub(crate) fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect()
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdPattern::Any => f.write_str("*"),
            IdPattern::MailDomain(domain) => write!(f, "*@{domain}"),
            IdPattern::NameDomain(domain) => write!(f, "*.{domain}"),
            IdPattern::Name(name) => f.write_str(name),
            IdPattern::Address(net) if self.is_exact() => net.addr().fmt(f),
            IdPattern::Address(net) => net.fmt(f),
            IdPattern::Dn(rdns) => {
                for (index, rdn) in rdns.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    let value = rdn
                        .value
                        .replace('\\', "\\\\")
                        .replace(',', "\\,")
                        .replace('"', "\\\"");
                    write!(f, "{comma}{}={value}", rdn.attribute)?;
                }
                Ok(())
            }
            IdPattern::Key(octets) => {
                f.write_str("key:")?;
                octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

impl TryFrom<String> for IdPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<IdPattern> for String {
    fn from(pattern: IdPattern) -> String {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, id: &str) -> bool {
        pattern
            .parse::<IdPattern>()
            .unwrap()
            .matches(&PeerIdentity::from_text(id))
    }

    #[test]
    fn patterns_match_what_they_say() {
        assert!(matches("*", "alice@acme.example") && matches("*", "C=CH, CN=moon"));
        assert!(matches("*@acme.example", "alice@ACME.example"));
        assert!(!matches("*@acme.example", "alice@sub.acme.example"));
        assert!(!matches("*@acme.example", "acme.example"));
        assert!(matches("*.acme.example", "roof.acme.example"));
        assert!(!matches("*.acme.example", "acme.example"));
        assert!(!matches("*.acme.example", "evilacme.example"));
        assert!(!matches("*.acme.example", "a@roof.acme.example"));
        assert!(matches("Alice@acme.example", "alice@acme.example"));
        assert!(matches("192.0.2.1", "192.0.2.1") && matches("192.0.2.0/24", "192.0.2.77"));
        assert!(!matches("192.0.2.0/24", "192.0.3.1"));
    }

    #[test]
    fn an_address_written_as_a_name_is_not_an_address() {
        let name = PeerIdentity {
            kind: kind::FQDN,
            data: b"192.0.2.1".to_vec(),
            text: "192.0.2.1".into(),
        };
        assert!(!"192.0.2.1".parse::<IdPattern>().unwrap().matches(&name));
    }

    #[test]
    fn distinguished_names_match_by_position() {
        assert!(matches("C=CH, O=Acme, CN=*", "C=CH, O=acme, CN=moon"));
        assert!(!matches("C=CH, O=Acme, CN=*", "C=CH, O=Acme, OU=x, CN=moon"));
        assert!(!matches("C=CH, O=Acme, CN=*", "O=Acme, C=CH, CN=moon"));
        assert!(matches(r"O=Acme\, Inc., CN=*", r"O=Acme\, Inc., CN=x"));
        // A comma inside a value does not make another RDN of it.
        assert!(!matches("O=Acme, CN=admin", r"O=Acme\, CN=admin"));
    }

    #[test]
    fn a_key_id_that_is_text_matches_names() {
        let id = PeerIdentity {
            kind: kind::KEY_ID,
            data: b"alice".to_vec(),
            text: "alice".into(),
        };
        assert!("alice".parse::<IdPattern>().unwrap().matches(&id));
        assert!("key:616c696365".parse::<IdPattern>().unwrap().matches(&id));
    }

    #[test]
    fn bad_patterns_say_why() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("a*b", PatternError::Wildcard),
            ("*@", PatternError::Empty),
            ("O=A*, CN=x", PatternError::Wildcard),
            ("O=A, moon", PatternError::Dn),
            ("key:abc", PatternError::Key),
            ("a b", PatternError::Characters),
        ] {
            assert_eq!(text.parse::<IdPattern>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_narrower_pattern_is_more_specific() {
        let specificity = |text: &str| text.parse::<IdPattern>().unwrap().specificity();
        assert!(specificity("a@b") > specificity("*@b") && specificity("*@b") > specificity("*"));
        assert!(
            specificity("CN=a") > specificity("CN=*") && specificity("10.0.0.1") > specificity("10.0.0.0/8")
        );
    }

    proptest! {
        #[test]
        fn patterns_survive_a_round_trip(text in "\\PC{1,40}") {
            if let Ok(pattern) = text.parse::<IdPattern>() {
                prop_assert_eq!(pattern.to_string().parse::<IdPattern>(), Ok(pattern));
            }
        }

        #[test]
        fn an_exact_name_matches_itself(name in "[a-z]{1,8}(@[a-z]{1,8})?(\\.[a-z]{2,3})?") {
            prop_assert!(matches(&name, &name));
        }
    }
}
