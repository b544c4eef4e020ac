//! The sending half of an SA: sequence numbers with a durable ceiling, IVs that never repeat, sealing in place.
//!
//! Counter modes take `generation (16 bits) ‖ sequence number (48 bits)` as IV: two nodes that both believe to own the SA
//! have different generations and cannot repeat a nonce. CBC takes random IVs.

use std::ops::Range;

use crypto::aead::{Aad, AeadJob, BatchAead, BatchKey};
use crypto::{KeyError, Packet, Provider, Random, Sealer, Secret, Suite, SystemRandom};

use crate::DropReason;
use crate::batch::{self, BATCH, Jobs, PacketBuf};
use crate::layout::{ESP_HEADER, Layout};

/// Bits of the IV's counter, hence of an extended sequence number.
const COUNTER_BITS: u32 = 48;
/// Octets that fit an IP datagram after its smallest header.
const MAX_ESP: usize = 65_535 - 20;

/// What an outbound SA is made of.
#[derive(Clone, Debug)]
pub struct OutboundParams {
    /// The peer's SPI.
    pub spi: u32,
    /// Cipher and integrity algorithm.
    pub suite: Suite,
    /// [`Suite::enc_key_len`] octets, salt last.
    pub enc_key: Secret,
    /// [`Suite::integ_key_len`] octets.
    pub integ_key: Secret,
    /// Extended sequence numbers.
    pub esn: bool,
    /// The slot's generation: upper 16 bits of a counter-mode IV.
    pub generation: u16,
    /// The first number to use: 1 for a fresh SA, above the old ceiling for a restored one.
    pub first_seq: u64,
    /// The last number that may be used before [`OutboundSa::raise_ceiling`]; `u64::MAX` for no ceiling.
    pub ceiling: u64,
    /// Payloads are filled up to this many octets (TFC padding, RFC 4303 section 2.7); 0 for none. Only for peers that
    /// did not send ESP_TFC_PADDING_NOT_SUPPORTED.
    pub tfc_pad_to: u16,
}

/// How much of its sequence numbers an SA has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// Plenty are left.
    Fine,
    /// Over seven eighths are used: time to rekey.
    Soft,
    /// None are left.
    Exhausted,
}

/// Equal segments in one slab, each at the distance [`OutboundSa::sealed_len`]`(inner_len)` from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Burst {
    /// Where the first segment's ESP header goes; its payload lies [`Layout::head`] octets further.
    pub offset: usize,
    /// How many segments, at least 1.
    pub segments: usize,
    /// Octets of payload in each segment but the last.
    pub inner_len: usize,
    /// Octets of payload in the last segment, at most `inner_len`.
    pub last_len: usize,
}

/// Seals packets to one peer.
pub struct OutboundSa {
    spi: u32,
    esn: bool,
    generation: u16,
    next: u64,
    ceiling: u64,
    last: u64,
    tfc_pad_to: usize,
    layout: Layout,
    keys: Keys,
}

enum Keys {
    Aead {
        key: BatchKey,
        salt: [u8; 4],
    },
    Cbc {
        sealer: Box<Sealer>,
        random: Box<dyn Random>,
    },
    Ctr {
        sealer: Box<Sealer>,
    },
}

/// The offsets of one packet in its buffer.
#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    body: usize,
    inner_end: usize,
    body_end: usize,
    end: usize,
}

/// The highest sequence number that an SA may use.
#[must_use]
pub const fn last_sequence(esn: bool) -> u64 {
    if esn {
        (1 << COUNTER_BITS) - 1
    } else {
        u32::MAX as u64
    }
}

impl OutboundSa {
    /// Makes the SA; IVs of CBC come from the system.
    ///
    /// # Errors
    /// [`KeyError`] if a key does not fit the suite.
    pub fn new(params: &OutboundParams) -> Result<Self, KeyError> {
        Self::with_random(params, Box::new(SystemRandom))
    }

    /// As [`OutboundSa::new`], with the source of the IVs that CBC needs.
    ///
    /// # Errors
    /// [`KeyError`] if a key does not fit the suite.
    pub fn with_random(params: &OutboundParams, random: Box<dyn Random>) -> Result<Self, KeyError> {
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
            let sealer = Box::new(Sealer::new(suite, enc, integ)?);
            if suite.is_counter_mode() {
                Keys::Ctr { sealer }
            } else {
                Keys::Cbc { sealer, random }
            }
        };
        Ok(Self {
            spi: params.spi,
            esn: params.esn,
            generation: params.generation,
            //= rfc4303#section-3.3.3
            //# Thus, the first packet sent using a given SA will contain a sequence number of 1.
            next: params.first_seq.max(1),
            ceiling: params.ceiling,
            last: last_sequence(params.esn),
            tfc_pad_to: usize::from(params.tfc_pad_to),
            layout: Layout::of(suite),
            keys,
        })
    }

    /// The peer's SPI.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// The lengths of the suite.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Octets of the ESP packet around a payload, TFC padding included.
    #[must_use]
    pub fn sealed_len(&self, payload: usize) -> usize {
        self.layout.sealed_len(payload.max(self.tfc_pad_to))
    }

    /// The number that the next packet will carry.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Packets that can be sealed before the ceiling or the end of the SA.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        (self.ceiling.min(self.last) + 1).saturating_sub(self.next)
    }

    /// The last number that is reserved.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        self.ceiling
    }

    /// Permits numbers up to and with `ceiling`, whose reservation is durable. A lower value changes nothing.
    pub fn raise_ceiling(&mut self, ceiling: u64) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// How far the SA's numbers are used up, whatever the ceiling.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self.next {
            next if next > self.last => Usage::Exhausted,
            next if next > self.last - self.last / 8 => Usage::Soft,
            _ => Usage::Fine,
        }
    }

    /// Seals the packet at `inner` in place and gives the range of the ESP packet. The buffer needs
    /// [`Layout::head`] octets before and up to [`crate::TAIL_ROOM`] behind, plus TFC padding.
    ///
    /// # Errors
    /// A [`DropReason`]; the packet is then unusable, and a sequence number may have been spent.
    #[inline]
    pub fn seal(
        &mut self,
        buf: &mut [u8],
        inner: Range<usize>,
        next_header: u8,
    ) -> Result<Range<usize>, DropReason> {
        let (frame, sequence) = self.begin(buf, inner, next_header)?;
        let wire = buf.get_mut(frame.start..frame.end).ok_or(DropReason::TailRoom)?;
        let (head, rest) = wire
            .split_at_mut_checked(ESP_HEADER)
            .ok_or(DropReason::HeadRoom)?;
        let (iv, text) = rest
            .split_at_mut_checked(self.layout.iv)
            .ok_or(DropReason::HeadRoom)?;
        let sealer = match &mut self.keys {
            Keys::Aead { key, salt } => {
                let iv: &[u8; 8] = iv.first_chunk().ok_or(DropReason::HeadRoom)?;
                let aad = Aad::of_esp(self.spi, sequence, self.esn);
                let mut jobs = [AeadJob {
                    nonce: batch::nonce(*salt, *iv),
                    aad,
                    data: text,
                }];
                key.seal_batch(&mut jobs).map_err(|_| DropReason::Cipher)?;
                return Ok(frame.start..frame.end);
            }
            Keys::Cbc { sealer, random } => {
                //= rfc3602#section-3
                //# The IV MUST be chosen at random, and MUST be unpredictable.
                random.fill(iv);
                sealer
            }
            Keys::Ctr { sealer } => sealer,
        };
        let (body, icv) = text
            .split_at_mut_checked(frame.body_end - frame.body)
            .ok_or(DropReason::TailRoom)?;
        let high = ((sequence >> 32) as u32).to_be_bytes();
        //= rfc4303#section-2.2.1
        //# If a separate integrity algorithm is employed, the high order bits are included in the implicit ESP trailer,
        //# but are not transmitted, analogous to integrity algorithm padding bits.
        let mac_tail: &[u8] = if self.esn { &high } else { &[] };
        sealer
            .seal(Packet {
                aad: &[],
                mac_head: head,
                mac_tail,
                iv,
                body,
                icv,
            })
            .map_err(|_| DropReason::Cipher)?;
        Ok(frame.start..frame.end)
    }

    /// Seals a dummy packet (next header 59) whose payload is `inner` as it is: traffic flow confidentiality, or a packet
    /// that shows the peer a new address.
    ///
    /// # Errors
    /// As [`OutboundSa::seal`].
    //= rfc4303#section-2.6
    //# A transmitter MUST be capable of generating dummy packets marked with this value in the next protocol field, and a
    //# receiver MUST be prepared to discard such packets, without indicating an error.
    pub fn seal_dummy(&mut self, buf: &mut [u8], inner: Range<usize>) -> Result<Range<usize>, DropReason> {
        self.seal(buf, inner, ip::protocol::NO_NEXT_HEADER)
    }

    /// Seals every packet of a batch in its order; each carries its own result.
    pub fn seal_batch(&mut self, packets: &mut [PacketBuf<'_>]) {
        for chunk in packets.chunks_mut(BATCH) {
            if matches!(self.keys, Keys::Aead { .. }) && chunk.len() > 1 {
                self.seal_chunk(chunk);
                continue;
            }
            for packet in chunk {
                packet.result = self
                    .seal(packet.data, packet.start..packet.end, packet.next_header)
                    .map(|esp| {
                        (packet.start, packet.end) = (esp.start, esp.end);
                    });
            }
        }
    }

    fn seal_chunk(&mut self, chunk: &mut [PacketBuf<'_>]) {
        let mut jobs = Jobs::new();
        for packet in chunk.iter_mut() {
            let PacketBuf {
                data,
                start,
                end,
                next_header,
                result,
            } = packet;
            *result = match self.begin(data, *start..*end, *next_header) {
                Ok((frame, sequence)) => {
                    (*start, *end) = (frame.start, frame.end);
                    match data.get_mut(frame.body..frame.end) {
                        Some(text) => self.push_job(&mut jobs, sequence, text),
                        None => Err(DropReason::TailRoom),
                    }
                }
                Err(reason) => Err(reason),
            };
        }
        let sealed = self.run(&mut jobs);
        drop(jobs);
        if !sealed {
            for packet in chunk.iter_mut().filter(|p| p.result.is_ok()) {
                packet.result = Err(DropReason::Cipher);
            }
        }
    }

    /// Seals the segments of a slab, which touch each other once sealed: the range that is returned goes out by one
    /// UDP_SEGMENT send with segments of [`OutboundSa::sealed_len`]`(inner_len)` octets. All are sealed or none.
    ///
    /// # Errors
    /// A [`DropReason`] that holds for every segment.
    pub fn seal_burst(
        &mut self,
        slab: &mut [u8],
        burst: Burst,
        next_header: u8,
    ) -> Result<Range<usize>, DropReason> {
        let stride = self.sealed_len(burst.inner_len.min(MAX_ESP));
        let last = burst.segments.checked_sub(1).ok_or(DropReason::TailRoom)?;
        if burst.last_len > burst.inner_len || stride > MAX_ESP {
            return Err(DropReason::TooLong);
        }
        let length = last
            .checked_mul(stride)
            .and_then(|n| n.checked_add(self.sealed_len(burst.last_len)))
            .ok_or(DropReason::TooLong)?;
        let end = burst.offset.checked_add(length).ok_or(DropReason::TooLong)?;
        let wire = slab.get_mut(burst.offset..end).ok_or(DropReason::TailRoom)?;
        if self.remaining() < burst.segments as u64 {
            return Err(self.why_no_sequence());
        }
        let head = self.layout.head();
        let mut segments = wire.chunks_mut(stride).enumerate();
        loop {
            let mut jobs = Jobs::new();
            let mut used = 0;
            for (index, segment) in segments.by_ref().take(BATCH) {
                let len = if index == last {
                    burst.last_len
                } else {
                    burst.inner_len
                };
                let inner = head..head + len;
                if !matches!(self.keys, Keys::Aead { .. }) {
                    self.seal(segment, inner, next_header)?;
                } else {
                    let (frame, sequence) = self.begin(segment, inner, next_header)?;
                    let text = segment
                        .get_mut(frame.body..frame.end)
                        .ok_or(DropReason::TailRoom)?;
                    self.push_job(&mut jobs, sequence, text)?;
                }
                used += 1;
            }
            if used == 0 {
                return Ok(burst.offset..end);
            }
            if !self.run(&mut jobs) {
                return Err(DropReason::Cipher);
            }
        }
    }

    /// Adds the cipher's job for a packet to those of its batch, which has room.
    #[inline(always)]
    fn push_job<'b>(&self, jobs: &mut Jobs<'b>, sequence: u64, data: &'b mut [u8]) -> Result<(), DropReason> {
        let Keys::Aead { salt, .. } = &self.keys else {
            return Err(DropReason::Cipher);
        };
        let job = AeadJob {
            nonce: batch::nonce(*salt, self.iv(sequence)),
            aad: Aad::of_esp(self.spi, sequence, self.esn),
            data,
        };
        match jobs.try_push(job) {
            Ok(()) => Ok(()),
            Err(_) => Err(DropReason::Cipher),
        }
    }

    /// Asks the processor for what sealing the next packet of this SA will read.
    #[inline]
    pub fn prefetch(&self) {
        if let Keys::Aead { key, .. } = &self.keys {
            key.prefetch();
        }
    }

    fn run(&self, jobs: &mut [AeadJob<'_>]) -> bool {
        match &self.keys {
            Keys::Aead { key, .. } => key.seal_batch(jobs).is_ok(),
            Keys::Cbc { .. } | Keys::Ctr { .. } => true,
        }
    }

    #[inline]
    fn iv(&self, sequence: u64) -> [u8; 8] {
        ((u64::from(self.generation) << COUNTER_BITS) | sequence).to_be_bytes()
    }

    /// Everything but the cipher: checks the room, takes a number, writes header, counter IV, padding and trailer.
    #[inline(always)]
    fn begin(
        &mut self,
        buf: &mut [u8],
        inner: Range<usize>,
        next_header: u8,
    ) -> Result<(Frame, u64), DropReason> {
        let payload = inner
            .end
            .checked_sub(inner.start)
            .filter(|n| *n <= MAX_ESP)
            .ok_or(DropReason::TooLong)?;
        let start = inner
            .start
            .checked_sub(self.layout.head())
            .ok_or(DropReason::HeadRoom)?;
        let body_len = self.layout.body_len(payload.max(self.tfc_pad_to));
        if self.layout.head() + body_len + self.layout.icv > MAX_ESP {
            return Err(DropReason::TooLong);
        }
        let body_end = inner.start + body_len;
        let frame = Frame {
            start,
            body: inner.start,
            inner_end: inner.end,
            body_end,
            end: body_end + self.layout.icv,
        };
        let wire = buf.get_mut(frame.start..frame.end).ok_or(DropReason::TailRoom)?;
        //= rfc4303#section-3.3.3
        //# In other words, the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to
        //# cycle.
        if self.remaining() == 0 {
            return Err(self.why_no_sequence());
        }
        let sequence = self.next;
        self.next += 1;
        let iv = self.iv(sequence);
        if let Some((spi, rest)) = wire.split_first_chunk_mut() {
            *spi = self.spi.to_be_bytes();
            if let Some((low, rest)) = rest.split_first_chunk_mut() {
                *low = (sequence as u32).to_be_bytes();
                if let Some(field) = rest.first_chunk_mut() {
                    *field = iv;
                }
            }
        }
        let padding = self.layout.padding(payload.max(self.tfc_pad_to));
        let tail = buf
            .get_mut(frame.inner_end..frame.body_end)
            .ok_or(DropReason::TailRoom)?;
        write_trailer(tail, padding, next_header);
        Ok((frame, sequence))
    }

    #[cold]
    fn why_no_sequence(&self) -> DropReason {
        if self.next > self.last || self.ceiling >= self.last {
            DropReason::SequenceExhausted
        } else {
            DropReason::SequenceCeiling
        }
    }
}

/// Fills `tail` with TFC padding, `padding` octets of padding, the pad length and the next header.
#[inline(always)]
fn write_trailer(tail: &mut [u8], padding: usize, next_header: u8) {
    let Some((rest, [length, next])) = tail.split_last_chunk_mut::<2>() else {
        return;
    };
    (*length, *next) = (padding as u8, next_header);
    let (tfc, pad) = rest.split_at_mut(rest.len().saturating_sub(padding));
    tfc.fill(0);
    //= rfc4303#section-2.4
    //# The first padding byte appended to the plaintext is numbered 1, with subsequent padding bytes making up a
    //# monotonically increasing sequence: 1, 2, 3, ....
    let mut number = 0_u8;
    for octet in pad {
        number = number.wrapping_add(1);
        *octet = number;
    }
}

impl std::fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboundSa")
            .field("spi", &format_args!("{:08x}", self.spi))
            .field("esn", &self.esn)
            .field("generation", &self.generation)
            .field("next", &self.next)
            .field("ceiling", &self.ceiling)
            .finish_non_exhaustive()
    }
}
