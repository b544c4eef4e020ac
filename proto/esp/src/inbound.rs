//! The receiving half of an SA: replay check, integrity check, window, padding, next header: in this order.

use std::ops::Range;

use crypto::aead::{Aad, AeadJob, BatchAead, BatchKey};
use crypto::{KeyError, OpenError, Opener, Packet, Provider, Secret, Suite};
use ip::protocol;

use crate::DropReason;
use crate::batch::{self, Jobs};
use crate::layout::{ESP_HEADER, Layout};
use crate::replay::ReplayWindow;

mod together;

/// Failures in a row after which packets are tried against later subspaces (RFC 4303 appendix A3.1).
const RESYNC_AFTER: u32 = 1024;
/// One packet in so many is spent on it, so that a flood of forgeries costs the honest packets little.
const RESYNC_EVERY: u32 = 8;
/// Subspaces of 2^32 numbers that are tried.
const RESYNC_SPACES: u32 = 4;

/// Octets of an AEAD's IV on the wire.
const IV: usize = 8;

/// What an inbound SA is made of.
#[derive(Clone, Debug)]
pub struct InboundParams {
    /// Our SPI.
    pub spi: u32,
    /// Cipher and integrity algorithm.
    pub suite: Suite,
    /// [`Suite::enc_key_len`] octets, salt last.
    pub enc_key: Secret,
    /// [`Suite::integ_key_len`] octets.
    pub integ_key: Secret,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Width of the replay window in packets, limited to 32..=4096.
    pub window: u32,
    /// Numbers up to here count as received: 0 for a fresh SA, the durable mark for a restored one.
    pub checkpoint: u64,
}

/// An opened packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Where the inner packet lies in the buffer, TFC padding cut off.
    pub inner: Range<usize>,
    /// 4 or 41.
    pub next_header: u8,
    /// The packet's full sequence number.
    pub sequence: u64,
    /// Whether it was the highest number so far. Only such a packet may move the peer's address.
    pub advanced: bool,
}

/// Opens packets of one peer.
pub struct InboundSa {
    spi: u32,
    esn: bool,
    layout: Layout,
    window: ReplayWindow,
    failures: u32,
    probes: u32,
    keys: Keys,
}

enum Keys {
    Aead { key: BatchKey, salt: [u8; 4] },
    Separate(Box<Opener>),
}

/// A packet that passed the first checks.
#[derive(Clone, Copy)]
struct Candidate {
    sequence: u64,
    /// Where the encrypted octets begin.
    body: usize,
    /// Where the ICV ends.
    end: usize,
}

impl InboundSa {
    /// Makes the SA.
    ///
    /// # Errors
    /// [`KeyError`] if a key does not fit the suite.
    pub fn new(params: &InboundParams) -> Result<Self, KeyError> {
        let (suite, enc, integ) = (params.suite, params.enc_key.expose(), params.integ_key.expose());
        let keys = if suite.is_aead() {
            let wrong = KeyError::EncryptionKeyLength {
                wanted: suite.enc_key_len(),
                given: enc.len(),
            };
            let (key, salt) = enc.split_last_chunk().ok_or(wrong)?;
            Keys::Aead {
                key: crypto::aead::batch(Provider::preferred(suite.cipher), suite.cipher, key)?,
                salt: *salt,
            }
        } else {
            Keys::Separate(Box::new(Opener::new(suite, enc, integ)?))
        };
        Ok(Self {
            spi: params.spi,
            esn: params.esn,
            layout: Layout::of(suite),
            window: ReplayWindow::new(params.window, params.checkpoint),
            failures: 0,
            probes: 0,
            keys,
        })
    }

    /// Our SPI.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// The lengths of the suite.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The highest authenticated sequence number, or the checkpoint before any.
    #[must_use]
    pub fn highest_seq(&self) -> u64 {
        self.window.top()
    }

    /// Packets in a row that failed the integrity check.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.failures
    }

    /// Opens the ESP packet at `packet` in place; it starts with its SPI.
    ///
    /// # Errors
    /// A [`DropReason`]; the octets are then unspecified.
    #[inline]
    pub fn open(&mut self, buf: &mut [u8], packet: Range<usize>) -> Result<Opened, DropReason> {
        let candidate = self.begin(buf, packet)?;
        let authentic = match &self.keys {
            Keys::Aead { key, salt } => key.open_one(&mut self.job(*salt, &candidate, buf)?),
            Keys::Separate(opener) => open_separate(opener, self.esn, self.layout, buf, &candidate)?,
        };
        self.finish(buf, &candidate, authentic)
    }

    /// Adds the cipher's job for a packet to those of its batch, which has room.
    #[inline(always)]
    fn push_job<'b>(
        &self,
        jobs: &mut Jobs<'b>,
        candidate: &Candidate,
        buf: &'b mut [u8],
    ) -> Result<(), DropReason> {
        let Keys::Aead { salt, .. } = &self.keys else {
            return Err(DropReason::Cipher);
        };
        match jobs.try_push(self.job(*salt, candidate, buf)?) {
            Ok(()) => Ok(()),
            Err(_) => Err(DropReason::Cipher),
        }
    }

    /// The cipher's job for a packet.
    #[inline(always)]
    fn job<'b>(
        &self,
        salt: [u8; 4],
        candidate: &Candidate,
        buf: &'b mut [u8],
    ) -> Result<AeadJob<'b>, DropReason> {
        let Some((iv, data)) = buf
            .get_mut(candidate.body.saturating_sub(IV)..candidate.end)
            .and_then(<[u8]>::split_first_chunk_mut::<IV>)
        else {
            return Err(DropReason::TooShort);
        };
        Ok(AeadJob {
            nonce: batch::nonce(salt, *iv),
            aad: Aad::of_esp(self.spi, candidate.sequence, self.esn),
            data,
        })
    }

    /// Asks the processor for what opening the next packet of this SA will read.
    #[inline]
    pub fn prefetch(&self) {
        if let Keys::Aead { key, .. } = &self.keys {
            key.prefetch();
        }
    }

    #[inline]
    fn run(&self, jobs: &mut [AeadJob<'_>], ok: &mut [bool]) {
        match &self.keys {
            Keys::Aead { key, .. } => key.open_batch(jobs, ok),
            Keys::Separate(_) => ok.fill(false),
        }
    }

    /// Lengths, SPI and replay, before the integrity check.
    #[inline(always)]
    fn begin(&mut self, buf: &[u8], packet: Range<usize>) -> Result<Candidate, DropReason> {
        let wire = buf.get(packet.clone()).ok_or(DropReason::TooShort)?;
        let body_len = wire
            .len()
            .checked_sub(self.layout.head() + self.layout.icv)
            .filter(|len| *len >= 2)
            .ok_or(DropReason::TooShort)?;
        if !self.layout.is_aligned(body_len) {
            return Err(DropReason::Misaligned);
        }
        let [s0, s1, s2, s3, q0, q1, q2, q3, ..] = wire else {
            return Err(DropReason::TooShort);
        };
        if u32::from_be_bytes([*s0, *s1, *s2, *s3]) != self.spi {
            return Err(DropReason::UnknownSpi);
        }
        let low = u32::from_be_bytes([*q0, *q1, *q2, *q3]);
        let sequence = if self.esn {
            self.extend(low)?
        } else {
            u64::from(low)
        };
        //= rfc4303#section-3.4.3
        //# For each received packet, the receiver MUST verify that the packet contains a Sequence Number that does not
        //# duplicate the Sequence Number of any other packets received during the life of this SA.
        self.window.check(sequence)?;
        Ok(Candidate {
            sequence,
            body: packet.start + self.layout.head(),
            end: packet.end,
        })
    }

    /// The full number of a packet; after many failures in a row sometimes one of a later subspace.
    #[inline]
    fn extend(&mut self, low: u32) -> Result<u64, DropReason> {
        let near = self.window.extend(low).ok_or(DropReason::ReplayOld)?;
        if self.failures < RESYNC_AFTER {
            return Ok(near);
        }
        //= rfc4303#appendix-A3.2
        //# These values are generated by incrementing by one for each retry.
        self.probes = self.probes.wrapping_add(1);
        if !self.probes.is_multiple_of(RESYNC_EVERY) {
            return Ok(near);
        }
        let spaces = u64::from(1 + (self.probes / RESYNC_EVERY) % RESYNC_SPACES);
        Ok(near.checked_add(spaces << 32).unwrap_or(near))
    }

    /// What follows the integrity check.
    #[inline(always)]
    fn finish(&mut self, buf: &[u8], candidate: &Candidate, authentic: bool) -> Result<Opened, DropReason> {
        if !authentic {
            self.failures = self.failures.saturating_add(1);
            return Err(DropReason::NotAuthentic);
        }
        //= rfc4303#appendix-A3.1
        //# Receipt of a valid packet on the SA resets the counter to zero.
        self.failures = 0;
        let advanced = candidate.sequence > self.window.top();
        self.window.accept(candidate.sequence)?;
        let body = buf
            .get(candidate.body..candidate.end.saturating_sub(self.layout.icv))
            .ok_or(DropReason::TooShort)?;
        let (len, next_header) = strip(body)?;
        Ok(Opened {
            inner: candidate.body..candidate.body + len,
            next_header,
            sequence: candidate.sequence,
            advanced,
        })
    }
}

fn open_separate(
    opener: &Opener,
    esn: bool,
    layout: Layout,
    buf: &mut [u8],
    candidate: &Candidate,
) -> Result<bool, DropReason> {
    let wire = buf
        .get_mut(candidate.body.saturating_sub(layout.head())..candidate.end)
        .ok_or(DropReason::TooShort)?;
    let (mac_head, rest) = wire
        .split_at_mut_checked(ESP_HEADER)
        .ok_or(DropReason::TooShort)?;
    let (iv, rest) = rest.split_at_mut_checked(layout.iv).ok_or(DropReason::TooShort)?;
    let (body, icv) = rest
        .len()
        .checked_sub(layout.icv)
        .and_then(|len| rest.split_at_mut_checked(len))
        .ok_or(DropReason::TooShort)?;
    let high = ((candidate.sequence >> 32) as u32).to_be_bytes();
    let mac_tail: &[u8] = if esn { &high } else { &[] };
    match opener.open(Packet {
        aad: &[],
        mac_head,
        mac_tail,
        iv,
        body,
        icv,
    }) {
        Ok(()) => Ok(true),
        Err(OpenError::NotAuthentic) => Ok(false),
        Err(OpenError::BodyLength | OpenError::IvLength | OpenError::IcvLength) => {
            Err(DropReason::Misaligned)
        }
    }
}

/// Octets of padding that [`strip`] checks in one word.
const SHORT: u32 = 6;

/// Length and kind of the inner packet that a decrypted body starts with.
#[inline(always)]
fn strip(body: &[u8]) -> Result<(usize, u8), DropReason> {
    let (rest, [pad_len, next_header]) = body.split_last_chunk::<2>().ok_or(DropReason::TooShort)?;
    let payload_len = rest
        .len()
        .checked_sub(usize::from(*pad_len))
        .ok_or(DropReason::PadLength)?;
    let (payload, padding) = rest.split_at_checked(payload_len).ok_or(DropReason::PadLength)?;
    let is_counted = match rest.last_chunk::<8>() {
        // What aligns to four octets and a little more: with the octets before it, in one comparison.
        Some(last) if u32::from(*pad_len) <= SHORT => {
            let bits = u32::from(*pad_len) * 8;
            let found = u64::from_be_bytes(*last) & !(u64::MAX << bits);
            found == 0x0102_0304_0506 >> (SHORT * 8 - bits)
        }
        _ => is_counted(padding),
    };
    //= rfc4303#section-2.4
    //# When this padding scheme is employed, the receiver SHOULD inspect the Padding field.
    if !is_counted {
        return Err(DropReason::PadContent);
    }
    Ok((inner_len(payload, *next_header)?, *next_header))
}

/// Whether the octets are 1, 2, 3 and so on.
fn is_counted(padding: &[u8]) -> bool {
    padding
        .iter()
        .zip(1_u8..=u8::MAX)
        .all(|(octet, number)| *octet == number)
}

/// The length of the inner packet that a payload starts with; TFC padding may follow it (RFC 4303 section 2.7).
#[inline(always)]
fn inner_len(payload: &[u8], next_header: u8) -> Result<usize, DropReason> {
    let (len, least) = match (next_header, payload) {
        //= rfc4303#section-2.6
        //# A transmitter MUST be capable of generating dummy packets marked with this value in the next protocol field,
        //# and a receiver MUST be prepared to discard such packets, without indicating an error.
        (protocol::NO_NEXT_HEADER, _) => return Err(DropReason::Dummy),
        (protocol::IPV4, [first, _, a, b, ..]) if first >> 4 == 4 => {
            (usize::from(u16::from_be_bytes([*a, *b])), ip::packet::IPV4_HEADER)
        }
        (protocol::IPV6, [first, _, _, _, a, b, ..]) if first >> 4 == 6 => (
            ip::packet::IPV6_HEADER + usize::from(u16::from_be_bytes([*a, *b])),
            ip::packet::IPV6_HEADER,
        ),
        (protocol::IPV4 | protocol::IPV6, _) => return Err(DropReason::InnerMalformed),
        _ => return Err(DropReason::NextHeader),
    };
    if len < least || len > payload.len() {
        return Err(DropReason::InnerMalformed);
    }
    Ok(len)
}

impl std::fmt::Debug for InboundSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundSa")
            .field("spi", &format_args!("{:08x}", self.spi))
            .field("esn", &self.esn)
            .field("highest", &self.window.top())
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
