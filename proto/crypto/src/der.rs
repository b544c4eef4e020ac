//! A strict reader and a small writer of DER: definite lengths in their shortest form, single-octet tags.

/// Universal and context tags that are read here.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// A constructed context-specific tag.
    pub(crate) const fn explicit(number: u8) -> u8 {
        0xa0 | number
    }

    /// A primitive context-specific tag.
    pub(crate) const fn implicit(number: u8) -> u8 {
        0x80 | number
    }
}

/// One element: its tag, its contents, and all of it with tag and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Reads elements one after the other; `None` is "not there or malformed".
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(der: &'a [u8]) -> Self {
        Self { rest: der }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(crate) fn element(&mut self) -> Option<Element<'a>> {
        let (&[tag, first], body) = self.rest.split_first_chunk::<2>()?;
        // Tags of more octets (number 31) do not occur in what is read here.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (len, body) = match first {
            0..=0x7f => (usize::from(first), body),
            0x81 => {
                let (&[a], body) = body.split_first_chunk()?;
                (usize::from(a), body)
            }
            0x82 => {
                let (&octets, body) = body.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(octets)), body)
            }
            0x83 => {
                let (&[a, b, c], body) = body.split_first_chunk()?;
                (usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?, body)
            }
            _ => return None,
        };
        let shortest = match first {
            0x81 => len > 0x7f,
            0x82 => len > 0xff,
            0x83 => len > 0xffff,
            _ => true,
        };
        if !shortest {
            return None;
        }
        let (contents, after) = body.split_at_checked(len)?;
        let whole = self.rest.get(..self.rest.len() - after.len())?;
        self.rest = after;
        Some(Element { tag, contents, whole })
    }

    /// The contents of the next element, which must have the tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element()
            .filter(|element| element.tag == tag)
            .map(|element| element.contents)
    }

    /// The contents of the next element if it has the tag; otherwise `Some(None)` and nothing is consumed.
    /// `None` if it has the tag but is malformed.
    #[allow(clippy::option_option, reason = "absent and malformed are different")]
    pub(crate) fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.peek() == Some(tag) {
            self.expect(tag).map(Some)
        } else {
            Some(None)
        }
    }
}

/// The contents of the one element with the tag that `der` must be.
pub(crate) fn single(tag: u8, der: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(der);
    reader.expect(tag).filter(|_| reader.is_empty())
}

/// Encodes an element of fewer than 65,536 octets (longer contents are cut, which no caller has).
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let len = u16::try_from(contents.len()).unwrap_or(u16::MAX);
    let [high, low] = len.to_be_bytes();
    let mut out = match len {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        0x100.. => vec![tag, 0x82, high, low],
    };
    out.extend(contents.into_iter().take(usize::from(len)));
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_shortest_and_definite() {
        assert_eq!(single(4, &[4, 1, 9]), Some(&[9][..]));
        for bad in [
            &[4, 0x81, 1, 9][..],
            &[4, 0x80, 9, 0, 0],
            &[4, 0x82, 0, 1, 9],
            &[4, 2, 9],
            &[4],
            &[0x1f, 1, 0],
            &[4, 1, 9, 9],
        ] {
            assert_eq!(single(4, bad), None, "{bad:x?}");
        }
        let mut reader = Reader::new(&[4, 0x84, 0, 0, 0, 1, 9]);
        assert!(reader.element().is_none());
    }

    #[test]
    fn encoding_reads_back_at_every_length_form() {
        for len in [0, 1, 127, 128, 255, 256, 5000] {
            let contents = vec![7; len];
            assert_eq!(
                single(tag::SEQUENCE, &encode(tag::SEQUENCE, &[&contents])).unwrap(),
                contents
            );
        }
    }
}
