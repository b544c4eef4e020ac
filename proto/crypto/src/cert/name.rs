//! Distinguished names in words (in the manner of RFC 4514, but most significant part first, as operators write them).

use crate::der::{self, Reader, tag};

/// The most attributes that are written out.
const MAX_ATTRIBUTES: usize = 64;

/// The name in words; what cannot be read is `?`.
pub(super) fn text(name: &[u8]) -> String {
    let mut out = String::new();
    let mut parts = Reader::new(der::single(tag::SEQUENCE, name).unwrap_or_default());
    let mut count = 0;
    while let Some(part) = parts.expect(tag::SET) {
        let mut attributes = Reader::new(part);
        let mut separator = ", ";
        while let Some(attribute) = attributes.expect(tag::SEQUENCE) {
            count += 1;
            if count > MAX_ATTRIBUTES {
                out.push_str(", ...");
                return out;
            }
            if !out.is_empty() {
                out.push_str(separator);
            }
            separator = "+";
            let mut inside = Reader::new(attribute);
            out.push_str(&label(inside.expect(tag::OID).unwrap_or_default()));
            out.push('=');
            match inside.element() {
                Some(value) => push_escaped(&mut out, &string(value.tag, value.contents)),
                None => out.push('?'),
            }
        }
    }
    out
}

fn label(oid: &[u8]) -> String {
    let known = match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 4] => "SN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "street",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 12] => "title",
        [0x55, 4, 42] => "GN",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "E",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        _ => return dotted(oid),
    };
    known.to_owned()
}

/// An object identifier in dotted decimal; `?` if it is not one.
fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut value: u64 = 0;
    for octet in oid {
        let Some(shifted) = value.checked_mul(128) else {
            return "?".to_owned();
        };
        value = shifted + u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (value / 40).min(2);
                arcs.push(first.to_string());
                value -= 40 * first;
            }
            arcs.push(value.to_string());
            value = 0;
        }
    }
    if arcs.is_empty() {
        "?".to_owned()
    } else {
        arcs.join(".")
    }
}

/// The characters of a string of any of the types that names are made of.
fn string(tag: u8, octets: &[u8]) -> String {
    const LATIN_1: u8 = 0x14;
    const UNIVERSAL: u8 = 0x1c;
    const BMP: u8 = 0x1e;
    match tag {
        LATIN_1 => octets.iter().map(|octet| char::from(*octet)).collect(),
        BMP => {
            let units = octets.as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit));
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        UNIVERSAL => {
            let units = octets.as_chunks().0.iter().map(|unit| u32::from_be_bytes(*unit));
            units
                .map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        _ => String::from_utf8_lossy(octets).into_owned(),
    }
}

fn push_escaped(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => {
                out.push('\\');
                out.push(character);
            }
            _ if character.is_control() => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der::encode(
            tag::SEQUENCE,
            &[&der::encode(tag::OID, &[oid]), &der::encode(tag, &[value])],
        )
    }

    #[test]
    fn names_in_words() {
        let name = der::encode(
            tag::SEQUENCE,
            &[
                &der::encode(tag::SET, &[&attribute(&[0x55, 4, 6], 0x13, b"DE")]),
                &der::encode(
                    tag::SET,
                    &[
                        &attribute(&[0x55, 4, 3], 0x0c, "M\u{fc}ller, A\n".as_bytes()),
                        &attribute(&[0x2a, 0x86, 0x48, 0x03], 0x1e, &[0, b'x']),
                    ],
                ),
            ],
        );
        assert_eq!(text(&name), "C=DE, CN=M\u{fc}ller\\, A\\n+1.2.840.3=x");
        assert_eq!(text(b"junk"), "");
    }
}
