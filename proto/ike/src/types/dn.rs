//! Distinguished names between DER and text (RFC 4514's idea, most significant attribute first, as in certificates).

use super::identity::escape;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const BMP: u8 = 0x1e;

/// Attributes with a short name, with their OIDs in DER.
const NAMES: &[(&str, &[u8])] = &[
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("T", &[0x55, 4, 12]),
    ("GN", &[0x55, 4, 42]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
];

/// Attributes in one name at most.
const MAX_ATTRIBUTES: usize = 64;

/// `C=DE, O=Example, CN=gw`; `None` if the octets are not a Name.
pub(crate) fn to_text(der: &[u8]) -> Option<String> {
    let (mut rdns, rest) = element(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let mut text = String::new();
    let mut count = 0;
    while !rdns.is_empty() {
        let (mut set, rest) = element(rdns, SET)?;
        rdns = rest;
        let mut first_of_set = true;
        while !set.is_empty() {
            let (attribute, rest) = element(set, SEQUENCE)?;
            set = rest;
            count += 1;
            if count > MAX_ATTRIBUTES {
                return None;
            }
            if !text.is_empty() {
                text.push_str(if first_of_set { ", " } else { "+" });
            }
            first_of_set = false;
            let (oid, value) = element(attribute, OID)?;
            push_oid(&mut text, oid);
            text.push('=');
            let (tag, value, rest) = any(value)?;
            if !rest.is_empty() {
                return None;
            }
            push_value(&mut text, tag, value);
        }
    }
    Some(text)
}

/// The DER of `C=DE, O=Example, CN=gw`; `None` if an attribute has no known name or a value is missing.
pub(crate) fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut rdns = Vec::new();
    for part in split(text) {
        let (name, value) = part.split_once('=')?;
        let (name, value) = (name.trim(), unescape(value.trim()));
        let name = if name.eq_ignore_ascii_case("emailAddress") {
            "E"
        } else {
            name
        };
        let name = if name.eq_ignore_ascii_case("S") {
            "ST"
        } else {
            name
        };
        let (short, oid) = NAMES.iter().find(|(short, _)| short.eq_ignore_ascii_case(name))?;
        let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
        let tag = match *short {
            "E" | "DC" => IA5,
            _ if value.bytes().all(printable) => PRINTABLE,
            _ => UTF8,
        };
        let mut attribute = tlv(OID, oid);
        attribute.extend(tlv(tag, value.as_bytes()));
        rdns.extend(tlv(SET, &tlv(SEQUENCE, &attribute)));
    }
    (!rdns.is_empty()).then(|| tlv(SEQUENCE, &rdns))
}

/// Whether two names are the same: octet by octet, or with equal attributes whose values differ only in string type,
/// case and spaces (RFC 5280 section 7.1, without Unicode folding).
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (attributes(a), attributes(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// OID and folded value.
type FoldedAttribute = (Vec<u8>, Vec<u8>);

fn attributes(der: &[u8]) -> Option<Vec<Vec<FoldedAttribute>>> {
    let (mut rdns, _) = element(der, SEQUENCE)?;
    let mut all = Vec::new();
    while !rdns.is_empty() && all.len() <= MAX_ATTRIBUTES {
        let (mut set, rest) = element(rdns, SET)?;
        rdns = rest;
        let mut one = Vec::new();
        while !set.is_empty() {
            let (attribute, rest) = element(set, SEQUENCE)?;
            set = rest;
            let (oid, value) = element(attribute, OID)?;
            let (tag, value, _) = any(value)?;
            one.push((oid.to_vec(), fold(tag, value)));
        }
        one.sort();
        all.push(one);
    }
    Some(all)
}

fn fold(tag: u8, value: &[u8]) -> Vec<u8> {
    if !matches!(tag, UTF8 | PRINTABLE | IA5) {
        let mut exact = vec![tag];
        exact.extend_from_slice(value);
        return exact;
    }
    let words: Vec<&[u8]> = value
        .split(|&b| b == b' ')
        .filter(|word| !word.is_empty())
        .collect();
    words.join(&b' ').to_ascii_lowercase()
}

fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=3).contains(&count) {
            return None;
        }
        let (octets, after) = rest.split_at_checked(count)?;
        length = octets.iter().fold(0, |sum, &octet| sum << 8 | usize::from(octet));
        rest = after;
    }
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

fn element(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, value, rest) = any(der)?;
    (tag == wanted).then_some((value, rest))
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = value.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let octets: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|&b| b == 0).collect();
            out.push(0x80 | u8::try_from(octets.len()).unwrap_or(0));
            out.extend(octets);
        }
    }
    out.extend_from_slice(value);
    out
}

fn push_oid(text: &mut String, oid: &[u8]) {
    if let Some((short, _)) = NAMES.iter().find(|(_, known)| *known == oid) {
        text.push_str(short);
        return;
    }
    text.push_str("OID.0x");
    for octet in oid {
        text.push_str(&format!("{octet:02x}"));
    }
}

fn push_value(text: &mut String, tag: u8, value: &[u8]) {
    let utf8 = (tag != BMP).then(|| std::str::from_utf8(value).ok()).flatten();
    match utf8 {
        Some(words) if !words.chars().any(char::is_control) => {
            for c in words.chars() {
                if matches!(c, ',' | '+' | '=' | '\\' | '"') {
                    text.push('\\');
                }
                text.push(c);
            }
        }
        _ => {
            // Writing to a String cannot fail.
            let _ = escape(text, value);
        }
    }
}

/// Cuts at commas that are not escaped.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "C=DE, O=Example\\, Inc., CN=gw",
            "DC=org, DC=example, UID=alice",
            "CN=Jörg",
        ] {
            assert_eq!(to_text(&from_text(text).unwrap()).unwrap(), text);
        }
        assert!(from_text("XX=1").is_none());
        assert!(to_text(&[0x30, 5, 1]).is_none());
        assert!(to_text(b"").is_none());
    }

    proptest::proptest! {
        /// Whatever a peer sends as its name: no panic, and nothing that upsets a terminal.
        #[test]
        fn any_octets_print_safely(octets in proptest::collection::vec(0u8.., 0..80), value in "\\PC{0,20}") {
            let mut odd = vec![SEQUENCE, 9, SET, 7, SEQUENCE, 5, OID, 1, 0x55, UTF8];
            odd.extend(&octets);
            for der in [octets.as_slice(), &odd] {
                let text = to_text(der).unwrap_or_default();
                proptest::prop_assert!(!text.chars().any(char::is_control));
                proptest::prop_assert!(same(der, der));
            }
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            let name = from_text(&format!("CN={escaped}")).unwrap();
            proptest::prop_assert!(to_text(&name).is_some());
        }
    }

    #[test]
    fn names_are_the_same_whatever_the_string_type() {
        let printable = from_text("C=DE, CN=Gate Way").unwrap();
        let mut utf8 = printable.clone();
        for octet in &mut utf8 {
            if *octet == PRINTABLE {
                *octet = UTF8;
            }
        }
        assert_ne!(printable, utf8);
        assert!(same(&printable, &utf8));
        assert!(same(&printable, &from_text("C=de, CN=gate  way").unwrap()));
        assert!(!same(&printable, &from_text("CN=Gate Way, C=DE").unwrap()));
        assert!(!same(&printable, &from_text("C=DE, CN=Gate").unwrap()));
    }
}
