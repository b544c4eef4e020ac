//! The fields of a certificate, RFC 5280 section 4.1, read strictly: `None` for everything that breaks DER or repeats
//! an extension.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::der::{self, Reader, tag};

/// What is kept of a certificate besides its octets.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) version: u8,
    pub(super) serial: Vec<u8>,
    pub(super) signature_algorithm: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) spki: Vec<u8>,
    pub(super) san_dns: Vec<String>,
    pub(super) san_ip: Vec<IpAddr>,
    pub(super) san_email: Vec<String>,
    pub(super) eku: Option<ExtendedKeyUsage>,
    pub(super) is_ca: bool,
    pub(super) key_usage: Option<KeyUsage>,
}

/// The purposes that are known here, of an extended key usage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExtendedKeyUsage {
    pub(super) server_auth: bool,
    pub(super) client_auth: bool,
    pub(super) ike: bool,
    pub(super) any: bool,
}

/// The bits of a key usage that are known here.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyUsage {
    /// digitalSignature or nonRepudiation: either allows IKE authentication (RFC 4945 section 5.1.3.2).
    pub(super) signs: bool,
    /// keyCertSign.
    pub(super) signs_certificates: bool,
}

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// The most extensions in a certificate, and the most names in one extension.
const MAX_ITEMS: usize = 256;

pub(super) fn fields(input: &[u8]) -> Option<Fields> {
    let mut outer = Reader::new(der::single(tag::SEQUENCE, input)?);
    let mut tbs = Reader::new(outer.expect(tag::SEQUENCE)?);
    let signature_algorithm = whole(&mut outer, tag::SEQUENCE)?;
    outer.expect(tag::BIT_STRING)?;
    if !outer.is_empty() {
        return None;
    }

    let version = match tbs.optional(tag::explicit(0))? {
        None => 1,
        Some(version) => match der::single(tag::INTEGER, version)? {
            [number @ 0..=2] => number + 1,
            _ => return None,
        },
    };
    let serial = tbs.expect(tag::INTEGER)?.to_vec();
    // RFC 5280 section 4.1.1.2: the algorithm inside the signature's reach and the one outside are the same.
    if whole(&mut tbs, tag::SEQUENCE)? != signature_algorithm {
        return None;
    }
    let issuer = whole(&mut tbs, tag::SEQUENCE)?;
    let mut validity = Reader::new(tbs.expect(tag::SEQUENCE)?);
    let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
    let subject = whole(&mut tbs, tag::SEQUENCE)?;
    let spki = whole(&mut tbs, tag::SEQUENCE)?;
    tbs.optional(tag::implicit(1))?;
    tbs.optional(tag::implicit(2))?;
    let extensions = tbs.optional(tag::explicit(3))?;
    if !tbs.is_empty() || !validity.is_empty() {
        return None;
    }

    let mut fields = Fields {
        version,
        serial,
        signature_algorithm: signature_algorithm.to_vec(),
        issuer: issuer.to_vec(),
        subject: subject.to_vec(),
        not_before,
        not_after,
        spki: spki.to_vec(),
        san_dns: Vec::new(),
        san_ip: Vec::new(),
        san_email: Vec::new(),
        eku: None,
        is_ca: false,
        key_usage: None,
    };
    if let Some(extensions) = extensions {
        read_extensions(&mut fields, der::single(tag::SEQUENCE, extensions)?)?;
    }
    Some(fields)
}

fn whole<'a>(reader: &mut Reader<'a>, tag: u8) -> Option<&'a [u8]> {
    reader
        .element()
        .filter(|element| element.tag == tag)
        .map(|element| element.whole)
}

fn read_extensions(fields: &mut Fields, extensions: &[u8]) -> Option<()> {
    let mut list = Reader::new(extensions);
    let mut seen: Vec<&[u8]> = Vec::new();
    while !list.is_empty() {
        let mut extension = Reader::new(list.expect(tag::SEQUENCE)?);
        let oid = extension.expect(tag::OID)?;
        extension.optional(tag::BOOLEAN)?;
        let value = extension.expect(tag::OCTET_STRING)?;
        if !extension.is_empty() || seen.contains(&oid) || seen.len() == MAX_ITEMS {
            return None;
        }
        seen.push(oid);
        match oid {
            BASIC_CONSTRAINTS => {
                let mut inside = Reader::new(der::single(tag::SEQUENCE, value)?);
                fields.is_ca = inside.optional(tag::BOOLEAN)?.is_some_and(|octets| octets != [0]);
            }
            KEY_USAGE => fields.key_usage = Some(key_usage(value)?),
            EXTENDED_KEY_USAGE => fields.eku = Some(extended_key_usage(value)?),
            SUBJECT_ALT_NAME => read_names(fields, value)?,
            _ => {}
        }
    }
    Some(())
}

fn key_usage(value: &[u8]) -> Option<KeyUsage> {
    // The first octet counts the unused bits at the end; bit 0 is the highest of the next octet.
    let (_, bits) = der::single(tag::BIT_STRING, value)?.split_first()?;
    let first = bits.first().copied().unwrap_or(0);
    Some(KeyUsage {
        signs: first & 0xc0 != 0,
        signs_certificates: first & 0x04 != 0,
    })
}

fn extended_key_usage(value: &[u8]) -> Option<ExtendedKeyUsage> {
    const KEY_PURPOSE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03];
    const IKE_INTERMEDIATE: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x08, 0x02, 0x02];
    const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
    let mut list = Reader::new(der::single(tag::SEQUENCE, value)?);
    let mut eku = ExtendedKeyUsage::default();
    for _ in 0..MAX_ITEMS {
        if list.is_empty() {
            return Some(eku);
        }
        let oid = list.expect(tag::OID)?;
        match oid.strip_prefix(KEY_PURPOSE) {
            Some([1]) => eku.server_auth = true,
            Some([2]) => eku.client_auth = true,
            Some([17]) => eku.ike = true,
            Some(_) => {}
            None => {
                eku.ike |= oid == IKE_INTERMEDIATE;
                eku.any |= oid == ANY;
            }
        }
    }
    None
}

fn read_names(fields: &mut Fields, value: &[u8]) -> Option<()> {
    const EMAIL: u8 = tag::implicit(1);
    const DNS: u8 = tag::implicit(2);
    const ADDRESS: u8 = tag::implicit(7);
    let mut list = Reader::new(der::single(tag::SEQUENCE, value)?);
    for _ in 0..MAX_ITEMS {
        if list.is_empty() {
            return Some(());
        }
        let name = list.element()?;
        match name.tag {
            // A name with octets beyond printable ASCII, NUL above all, would match what its authority never meant.
            EMAIL => fields.san_email.extend(printable(name.contents)),
            DNS => fields.san_dns.extend(printable(name.contents)),
            ADDRESS => {
                if let Ok(octets) = <[u8; 4]>::try_from(name.contents) {
                    fields.san_ip.push(Ipv4Addr::from(octets).into());
                } else if let Ok(octets) = <[u8; 16]>::try_from(name.contents) {
                    fields.san_ip.push(Ipv6Addr::from(octets).into());
                }
            }
            _ => {}
        }
    }
    None
}

fn printable(octets: &[u8]) -> Option<String> {
    let fits = !octets.is_empty() && octets.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8_lossy(octets).into_owned())
}

/// UTCTime or GeneralizedTime in the forms of RFC 5280 section 4.1.2.5, as seconds since 1970.
fn time(reader: &mut Reader<'_>) -> Option<i64> {
    let element = reader.element()?;
    let text = element.contents.strip_suffix(b"Z")?;
    let (year, rest) = match element.tag {
        tag::UTC_TIME => {
            let (year, rest) = digits::<2>(text)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => digits::<4>(text)?,
        _ => return None,
    };
    let (month, rest) = digits::<2>(rest)?;
    let (day, rest) = digits::<2>(rest)?;
    let (hour, rest) = digits::<2>(rest)?;
    let (minute, rest) = digits::<2>(rest)?;
    let (second, rest) = digits::<2>(rest)?;
    let valid =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    (valid && rest.is_empty())
        .then(|| ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn digits<const N: usize>(text: &[u8]) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_first_chunk::<N>()?;
    let mut value = 0;
    for digit in number {
        value = value * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some((value, rest))
}

/// Days from 1 January 1970 in the Gregorian calendar; years begin in March so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<i64> {
        time(&mut Reader::new(&der::encode(tag, &[text.as_bytes()])))
    }

    #[test]
    fn times_become_seconds() {
        assert_eq!(seconds(tag::UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(
            seconds(tag::GENERALIZED_TIME, "20000229123456Z"),
            Some(951_827_696)
        );
        assert_eq!(seconds(tag::UTC_TIME, "380119031408Z"), Some(1 << 31));
        assert_eq!(
            seconds(tag::GENERALIZED_TIME, "99991231235959Z"),
            Some(253_402_300_799)
        );
        for bad in [
            "700101000000",
            "701301000000Z",
            "7001010000Z",
            "70010100000xZ",
            "700101000000+0000",
        ] {
            assert_eq!(seconds(tag::UTC_TIME, bad), None, "{bad}");
        }
    }
}
