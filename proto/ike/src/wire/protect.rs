//! Protected messages: the Encrypted payload (RFC 7296 section 3.14, RFC 5282) and its fragments (RFC 7383).
//!
//! ```text
//!  header │ next C len │ [number total] │ IV │ payloads ‖ padding ‖ pad length │ ICV
//!  └──── associated data, or first part of what is MACed ───┘
//! ```
//! [`seal`] and [`seal_fragmented`] build datagrams, [`open`] takes them apart, `Reassembler` puts fragments together.
//! Nothing of a message is believed, stored or allocated for before its ICV has been checked.

use std::fmt;

use crypto::{Opener, Packet, Random, Sealer};
use serde::{Deserialize, Serialize};

use super::codec::{Reader, Writer};
use super::error::{DecodeError, EncodeError};
use super::header::Header;
use super::limits;
use super::numbers::PayloadType;
use super::payload::{GENERIC_HEADER_LEN, read_generic};

/// Octets of fragment number and total number of fragments.
const FRAGMENT_FIELDS: usize = 4;

/// IVs of counter-mode ciphers: 16 bits of generation and a 48-bit counter that only rises.
///
/// A generation is used by one owner of the keys only, so that no nonce repeats even if two nodes hold the same keys.
/// CBC takes random IVs and leaves the counter alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IvSource {
    /// Generation of the owner of the keys.
    pub generation: u16,
    /// The next counter value.
    pub counter: u64,
}

impl IvSource {
    /// Starts counting in a generation.
    pub const fn new(generation: u16) -> Self {
        Self {
            generation,
            counter: 0,
        }
    }

    /// The next IV; `None` when all 2^48 of the generation are used up.
    pub fn next_iv(&mut self) -> Option<[u8; 8]> {
        let counter = self.counter;
        if counter >> 48 != 0 {
            return None;
        }
        self.counter = counter + 1;
        Some((u64::from(self.generation) << 48 | counter).to_be_bytes())
    }
}

/// A message that could not be sealed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtectError {
    /// The outer message is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The message does not fit its length fields.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// IV, text or ICV do not have the octets that the cipher needs.
    #[error("encrypted text of {0} octets does not fit the cipher")]
    TextLength(usize),
    /// The ICV is wrong.
    #[error("integrity check failed")]
    NotAuthentic,
    /// The pad length reaches beyond the text.
    #[error("pad length {0} exceeds the text")]
    Padding(u8),
    /// A fragment number of zero or above the total, or a total above the limit.
    #[error("fragment {number} of {total}")]
    FragmentNumber {
        /// Number of the fragment.
        number: u16,
        /// Stated total.
        total: u16,
    },
    /// The message needs more fragments than [`limits::FRAGMENTS`], or the size leaves no room for any text.
    #[error("message does not fit {limit} fragments of {octets} octets")]
    TooManyFragments {
        /// Fragments allowed.
        limit: u16,
        /// Octets a fragment may have.
        octets: usize,
    },
    /// Every IV of the generation is used; the IKE SA must be rekeyed.
    #[error("initialization vectors are used up")]
    IvsUsedUp,
    /// The cipher refused the text.
    #[error("the cipher refused the text")]
    Cipher,
}

/// A message whose ICV was right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The header, covered by the ICV.
    pub header: Header,
    /// What was inside.
    pub content: Content,
}

/// What an opened datagram holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// The payloads of the message.
    Whole {
        /// Type of the first payload.
        first: PayloadType,
        /// The payloads, to be read by [`decode_payloads`](super::decode_payloads).
        plaintext: Vec<u8>,
    },
    /// A part of them.
    Fragment(Fragment),
}

/// A fragment whose ICV was right.
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Number from 1.
    pub number: u16,
    /// Number of fragments.
    pub total: u16,
    /// Type of the first payload, in fragment 1.
    pub first: PayloadType,
    /// Part of the payloads.
    pub plaintext: Vec<u8>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { first, plaintext } => write!(f, "Whole({first}, {} octets)", plaintext.len()),
            Self::Fragment(fragment) => fragment.fmt(f),
        }
    }
}

impl fmt::Debug for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.plaintext.len();
        write!(f, "Fragment({} of {}, {octets} octets)", self.number, self.total)
    }
}

/// Seals payloads into one datagram with an SK payload. Of `header`, first payload and length are filled in here.
pub fn seal(
    header: &Header,
    first: PayloadType,
    plaintext: &[u8],
    sealer: &Sealer,
    ivs: &mut IvSource,
    random: &mut dyn Random,
) -> Result<Vec<u8>, ProtectError> {
    seal_one(header, first, None, plaintext, sealer, ivs, random)
}

/// Seals payloads into one SK datagram of at most `max_octets`, or into as many SKF datagrams of that size as it takes.
///
/// `max_octets` counts the IKE message alone: no IP and UDP header and no non-ESP marker.
pub fn seal_fragmented(
    header: &Header,
    first: PayloadType,
    plaintext: &[u8],
    sealer: &Sealer,
    ivs: &mut IvSource,
    random: &mut dyn Random,
    max_octets: usize,
) -> Result<Vec<Vec<u8>>, ProtectError> {
    if sealed_len(sealer, plaintext.len(), 0) <= max_octets {
        return Ok(vec![seal(header, first, plaintext, sealer, ivs, random)?]);
    }
    let too_many = ProtectError::TooManyFragments {
        limit: limits::FRAGMENTS,
        octets: max_octets,
    };
    let suite = sealer.suite();
    let overhead = Header::LEN + GENERIC_HEADER_LEN + FRAGMENT_FIELDS + suite.iv_len() + suite.icv_len();
    let room = max_octets.saturating_sub(overhead);
    let room = room - room % suite.block().max(1);
    let chunk = room.checked_sub(1).filter(|chunk| *chunk > 0).ok_or(too_many)?;
    let total = u16::try_from(plaintext.len().div_ceil(chunk))
        .ok()
        .filter(|total| *total <= limits::FRAGMENTS)
        .ok_or(too_many)?;
    let mut datagrams = Vec::with_capacity(total.into());
    for (number, piece) in (1..).zip(plaintext.chunks(chunk)) {
        //= rfc7383#section-2.5
        //# In the rest of the Fragment messages (with Fragment Number greater than 1), this field MUST be set to zero.
        let first = if number == 1 { first } else { PayloadType::NONE };
        let fragment = Some((number, total));
        datagrams.push(seal_one(header, first, fragment, piece, sealer, ivs, random)?);
    }
    Ok(datagrams)
}

/// Octets of a datagram that carries `plaintext` octets of payloads.
fn sealed_len(sealer: &Sealer, plaintext: usize, fragment_fields: usize) -> usize {
    let suite = sealer.suite();
    let text = (plaintext + 1).next_multiple_of(suite.block().max(1));
    Header::LEN + GENERIC_HEADER_LEN + fragment_fields + suite.iv_len() + text + suite.icv_len()
}

fn seal_one(
    header: &Header,
    first: PayloadType,
    fragment: Option<(u16, u16)>,
    plaintext: &[u8],
    sealer: &Sealer,
    ivs: &mut IvSource,
    random: &mut dyn Random,
) -> Result<Vec<u8>, ProtectError> {
    let suite = sealer.suite();
    let fields = if fragment.is_some() { FRAGMENT_FIELDS } else { 0 };
    let length = sealed_len(sealer, plaintext.len(), fields);
    let too_long = EncodeError::TooLong {
        what: "message",
        length,
    };
    let payload = u16::try_from(length.saturating_sub(Header::LEN)).map_err(|_| too_long)?;

    let mut head = Writer::new();
    Header {
        next_payload: if fragment.is_some() {
            PayloadType::SKF
        } else {
            PayloadType::SK
        },
        length: u32::try_from(length).map_err(|_| too_long)?,
        ..*header
    }
    .write(&mut head);
    head.u8(first.0);
    head.u8(0);
    head.u16(payload);
    if let Some((number, total)) = fragment {
        head.u16(number);
        head.u16(total);
    }

    let mut iv = vec![0; suite.iv_len()];
    if suite.is_counter_mode() {
        //= rfc5282#section-3.1
        //# The IV MUST be chosen by the encryptor in a manner that ensures that the same IV value is used only once for a given key.
        let next = ivs.next_iv().ok_or(ProtectError::IvsUsedUp)?;
        let slot = iv.first_chunk_mut::<8>().ok_or(ProtectError::Cipher)?;
        *slot = next;
    } else {
        //= rfc7296#section-3.14
        //# Senders MUST select a new unpredictable IV for every message; recipients MUST accept any value.
        random.fill(&mut iv);
    }
    //= rfc7296#section-3.14
    //# The sender SHOULD set the Pad Length to the minimum value that makes the combination of the payloads, the Padding, and the Pad Length a multiple of the block size, but the recipient MUST accept any length that results in proper alignment.
    let text = (plaintext.len() + 1).next_multiple_of(suite.block().max(1));
    let padding = text - plaintext.len() - 1;
    let mut body = Vec::with_capacity(text);
    body.extend_from_slice(plaintext);
    body.resize(text - 1, 0);
    body.push(u8::try_from(padding).map_err(|_| ProtectError::Cipher)?);
    let mut icv = vec![0; suite.icv_len()];
    //= rfc5282#section-5.1
    //# The associated data (A) MUST consist of the partial contents of the IKEv2 message, starting from the first octet of the Fixed IKE Header through the last octet of the Payload Header of the Encrypted Payload (i.e., the fourth octet of the Encrypted Payload), as shown in Figure 3.
    sealer
        .seal(Packet {
            aad: head.as_bytes(),
            mac_head: head.as_bytes(),
            mac_tail: &[],
            iv: &mut iv,
            body: &mut body,
            icv: &mut icv,
        })
        .map_err(|_| ProtectError::Cipher)?;
    let mut datagram = head.into_bytes();
    datagram.reserve_exact(length.saturating_sub(datagram.len()));
    datagram.extend_from_slice(&iv);
    datagram.extend_from_slice(&body);
    datagram.extend_from_slice(&icv);
    Ok(datagram)
}

/// Checks and decrypts a datagram whose last payload is SK or SKF.
///
/// Payloads in front of it belong to no exchange known today; they are covered by the ICV and skipped, but one that is
/// unknown and critical refuses the message.
pub fn open(datagram: &[u8], opener: &Opener) -> Result<Opened, ProtectError> {
    let (header, mut reader) = Header::of_datagram(datagram)?;
    let mut kind = header.next_payload;
    let mut critical = None;
    let mut skipped = 0;
    let (first, mut body) = loop {
        if kind == PayloadType::NONE {
            return Err(DecodeError::NotEncrypted.into());
        }
        let generic = read_generic(kind, &mut reader)?;
        if matches!(kind, PayloadType::SK | PayloadType::SKF) {
            if !reader.is_empty() {
                return Err(DecodeError::MisplacedEncrypted(kind).into());
            }
            break (generic.next, generic.body);
        }
        if generic.critical && !super::payload::is_known(kind) {
            critical.get_or_insert(kind);
        }
        skipped += 1;
        if skipped >= limits::PAYLOADS {
            let limit = limits::PAYLOADS;
            return Err(DecodeError::TooMany {
                what: "payloads",
                limit,
            }
            .into());
        }
        kind = generic.next;
    };
    let fragment = if kind == PayloadType::SKF {
        let number = body.u16("fragment number")?;
        let total = body.u16("total fragments")?;
        //= rfc7383#section-2.5
        //# This field MUST be less than or equal to the next field (Total Fragments).
        if number == 0 || number > total || total > limits::FRAGMENTS {
            return Err(ProtectError::FragmentNumber { number, total });
        }
        Some((number, total))
    } else {
        None
    };
    let plaintext = open_body(datagram, body, opener)?;
    if let Some(kind) = critical {
        return Err(DecodeError::UnknownCritical(kind).into());
    }
    let content = match fragment {
        None => Content::Whole { first, plaintext },
        Some((number, total)) => Content::Fragment(Fragment {
            number,
            total,
            first,
            plaintext,
        }),
    };
    Ok(Opened { header, content })
}

/// Decrypts IV, text and ICV, which are the last octets of the datagram, and removes the padding.
fn open_body(datagram: &[u8], mut body: Reader<'_>, opener: &Opener) -> Result<Vec<u8>, ProtectError> {
    let suite = opener.suite();
    let sealed = body.left();
    let short = ProtectError::TextLength(sealed);
    let text = sealed
        .checked_sub(suite.iv_len() + suite.icv_len())
        .filter(|text| *text > 0 && text.is_multiple_of(suite.block().max(1)))
        .ok_or(short)?;
    let head = datagram
        .get(..datagram.len().saturating_sub(sealed))
        .ok_or(short)?;
    let mut iv = body.take(suite.iv_len(), "IV")?.to_vec();
    let mut plaintext = body.take(text, "encrypted text")?.to_vec();
    let mut icv = body.take(suite.icv_len(), "ICV")?.to_vec();
    opener
        .open(Packet {
            aad: head,
            mac_head: head,
            mac_tail: &[],
            iv: &mut iv,
            body: &mut plaintext,
            icv: &mut icv,
        })
        .map_err(|error| match error {
            crypto::OpenError::NotAuthentic => ProtectError::NotAuthentic,
            crypto::OpenError::IvLength | crypto::OpenError::BodyLength | crypto::OpenError::IcvLength => {
                short
            }
        })?;
    //= rfc5282#section-3
    //# There are no alignment requirements on the length of the Padding field; the recipient MUST accept any amount of Padding up to 255 octets.
    let padding = plaintext.pop().ok_or(short)?;
    let kept = plaintext
        .len()
        .checked_sub(padding.into())
        .ok_or(ProtectError::Padding(padding))?;
    plaintext.truncate(kept);
    Ok(plaintext)
}
