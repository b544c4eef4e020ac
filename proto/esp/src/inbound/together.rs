//! Opening packets of one SA together: their headers first, then the cipher for all of them, then what it uncovered.
//!
//! Most of the time they carry the numbers that follow the highest one, without a gap. Such a row takes one comparison a
//! packet before the cipher, and one entry in the window after it; whatever leaves the row is looked at by itself, to the
//! same result.

use std::ops::Range;

use crypto::aead::{Aad, AeadJob};

use super::{Candidate, IV, InboundSa, Keys, Opened, RESYNC_AFTER, open_separate, strip};
use crate::DropReason;
use crate::batch::{self, BATCH, Jobs, PacketBuf};
use crate::layout::ESP_HEADER;

/// Octets before the body of an AEAD's packet.
const HEAD: usize = ESP_HEADER + IV;
/// Octets of an AEAD's tag.
const ICV: usize = crypto::aead::TAG_LEN;
/// The shortest packet of an AEAD: two octets of body, filled up to four.
const LEAST: usize = HEAD + 4 + ICV;

/// Packets whose numbers follow the window's top one by one, as far as they do.
struct Row {
    /// Nothing has left the row yet.
    is_whole: bool,
    /// The number that comes next.
    next: u64,
    spi: u32,
    esn: bool,
    salt: [u8; 4],
}

/// What is known of the segments of a burst that are opened together.
struct Piece {
    sequences: [u64; BATCH],
    results: [Result<(), DropReason>; BATCH],
    /// Verdicts on those without an error, in their order.
    authentic: [bool; BATCH],
}

impl Row {
    /// Whether a packet is the one that comes next, and can be opened by its length.
    #[inline(always)]
    fn is_next(&self, wire: &[u8]) -> bool {
        let wanted = (u64::from(self.spi) << 32) | u64::from(self.next as u32);
        let found = wire.first_chunk().map(|word| u64::from_be_bytes(*word));
        self.is_whole && found == Some(wanted) && wire.len() >= LEAST && wire.len().is_multiple_of(4)
    }

    /// Adds the cipher's job for the packet that comes next.
    #[inline(always)]
    fn take<'b>(&mut self, wire: &'b mut [u8], jobs: &mut Jobs<'b>) -> Result<(), DropReason> {
        let Some((head, data)) = wire.split_first_chunk_mut::<HEAD>() else {
            return Err(DropReason::TooShort);
        };
        let [.., a, b, c, d, e, f, g, h] = *head;
        let sequence = self.next;
        self.next += 1;
        let job = AeadJob {
            nonce: batch::nonce(self.salt, [a, b, c, d, e, f, g, h]),
            aad: Aad::of_esp(self.spi, sequence, self.esn),
            data,
        };
        match jobs.try_push(job) {
            Ok(()) => Ok(()),
            Err(_) => Err(DropReason::Cipher),
        }
    }
}

impl InboundSa {
    /// Opens every packet of a batch in its order; each carries its own result.
    pub fn open_batch(&mut self, packets: &mut [PacketBuf<'_>]) {
        for chunk in packets.chunks_mut(BATCH) {
            if matches!(self.keys, Keys::Aead { .. }) && chunk.len() > 1 {
                self.open_chunk(chunk);
                continue;
            }
            for packet in chunk {
                let opened = self.open(packet.data, packet.start..packet.end);
                packet.result = opened.map(|opened| {
                    (packet.start, packet.end) = (opened.inner.start, opened.inner.end);
                    packet.next_header = opened.next_header;
                });
            }
        }
    }

    fn open_chunk(&mut self, chunk: &mut [PacketBuf<'_>]) {
        // Kept as plain arrays, and no part is copied once it is written: reading a value again in other pieces than it
        // was written in costs more than all the checks.
        let mut sequences = [0; BATCH];
        let mut authentic = [false; BATCH];
        let mut jobs = Jobs::new();
        let mut row = self.row();
        let mut packets = chunk.iter_mut().zip(&mut sequences);
        let mut odd = None;
        for (packet, sequence) in packets.by_ref() {
            let range = packet.start..packet.end;
            if !packet
                .data
                .get(range.clone())
                .is_some_and(|wire| row.is_next(wire))
            {
                row.is_whole = false;
                odd = Some((packet, sequence));
                break;
            }
            *sequence = row.next;
            packet.result = row.take(packet.data.get_mut(range).unwrap_or_default(), &mut jobs);
        }
        // What is no row any more.
        for (packet, sequence) in odd.into_iter().chain(packets) {
            let wire = packet.data.get_mut(packet.start..packet.end);
            packet.result = wire
                .ok_or(DropReason::TooShort)
                .and_then(|wire| self.admit(wire, &mut jobs, sequence));
        }
        self.run(&mut jobs, &mut authentic);
        drop(jobs);
        if self.accept_row(&row, chunk.len(), &authentic) {
            for packet in chunk {
                let body = packet.start.saturating_add(HEAD);
                let octets = packet.data.get(body..packet.end.saturating_sub(ICV));
                match strip(octets.unwrap_or_default()) {
                    Ok((len, next_header)) => {
                        packet.start = body;
                        packet.end = body + len;
                        packet.next_header = next_header;
                    }
                    Err(reason) => packet.result = Err(reason),
                }
            }
            return;
        }
        let mut verdicts = authentic.iter();
        for (packet, sequence) in chunk.iter_mut().zip(sequences) {
            if packet.result.is_err() {
                continue;
            }
            let candidate = Candidate {
                sequence,
                body: packet.start + self.layout.head(),
                end: packet.end,
            };
            let is_authentic = verdicts.next() == Some(&true);
            packet.result = match self.finish(packet.data, &candidate, is_authentic) {
                Ok(opened) => {
                    packet.start = opened.inner.start;
                    packet.end = opened.inner.end;
                    packet.next_header = opened.next_header;
                    Ok(())
                }
                Err(reason) => Err(reason),
            };
        }
    }

    /// The row that the next packets may be.
    #[inline(always)]
    fn row(&self) -> Row {
        let top = self.window.top();
        let last = top.checked_add(BATCH as u64);
        let (salt, is_aead) = match &self.keys {
            Keys::Aead { salt, .. } => (*salt, true),
            Keys::Separate(_) => ([0; 4], false),
        };
        Row {
            // After many failures numbers are guessed, which is not for here.
            is_whole: is_aead
                && self.failures < RESYNC_AFTER
                && last.is_some_and(|last| self.esn || last <= u64::from(u32::MAX)),
            next: top.saturating_add(1),
            spi: self.spi,
            esn: self.esn,
            salt,
        }
    }

    /// The first checks of a packet: then its job is among those of the cipher.
    fn admit<'b>(
        &mut self,
        wire: &'b mut [u8],
        jobs: &mut Jobs<'b>,
        sequence: &mut u64,
    ) -> Result<(), DropReason> {
        let candidate = self.begin(wire, 0..wire.len())?;
        *sequence = candidate.sequence;
        self.push_job(jobs, &candidate, wire)
    }

    /// Marks `count` packets as received at once, if they are a row and all of them authentic.
    //= rfc4303#section-3.4.3
    //# The receive window is updated only if the integrity verification succeeds.
    #[inline(always)]
    fn accept_row(&mut self, row: &Row, count: usize, authentic: &[bool; BATCH]) -> bool {
        let is_row = row.is_whole
            && count > 0
            && authentic
                .get(..count)
                .is_some_and(|all| all.iter().all(|one| *one));
        if is_row {
            self.failures = 0;
            self.window.accept_next(count as u64);
        }
        is_row
    }

    /// Opens the segments of a UDP_GRO burst at `burst` of the slab: equal lengths of `segment` octets, the last maybe
    /// shorter. `each` is told every segment's index and result, in order; ranges are those of the slab. All segments
    /// must belong to this SA: the SPI of each is checked.
    #[inline]
    pub fn open_burst(
        &mut self,
        slab: &mut [u8],
        burst: Range<usize>,
        segment: usize,
        mut each: impl FnMut(usize, Result<Opened, DropReason>),
    ) {
        let segment = segment.max(1);
        let mut offset = burst.start;
        let mut index = 0;
        while offset < burst.end {
            let mut piece = Piece {
                sequences: [0; BATCH],
                results: [Ok(()); BATCH],
                authentic: [false; BATCH],
            };
            let (taken, is_row) = self.open_piece(slab, offset..burst.end, segment, &mut piece);
            let mut verdicts = piece.authentic.iter();
            for ((sequence, result), start) in piece
                .sequences
                .iter()
                .zip(&piece.results)
                .zip((offset..).step_by(segment))
                .take(taken)
            {
                let end = burst.end.min(start + segment);
                let opened = if is_row {
                    open_accepted(slab, start..end, *sequence)
                } else {
                    result.and_then(|()| {
                        let candidate = Candidate {
                            sequence: *sequence,
                            body: start + self.layout.head(),
                            end,
                        };
                        let is_authentic = verdicts.next() == Some(&true);
                        self.finish(slab, &candidate, is_authentic)
                    })
                };
                each(index, opened);
                index += 1;
            }
            offset = offset.saturating_add(taken * segment);
            if taken == 0 {
                return;
            }
        }
    }

    /// First checks and cipher for up to [`BATCH`] segments of `burst`; says how many there were, and whether they were a
    /// row that has been accepted.
    fn open_piece(
        &mut self,
        slab: &mut [u8],
        burst: Range<usize>,
        segment: usize,
        piece: &mut Piece,
    ) -> (usize, bool) {
        let Some(octets) = slab.get_mut(burst) else {
            return (0, false);
        };
        let mut jobs = Jobs::new();
        let mut row = self.row();
        let mut taken = 0;
        let mut opened = 0;
        let slots = piece.sequences.iter_mut().zip(piece.results.iter_mut());
        for (part, (sequence, result)) in octets.chunks_mut(segment).zip(slots) {
            taken += 1;
            if matches!(self.keys, Keys::Aead { .. }) {
                *result = if row.is_next(part) {
                    *sequence = row.next;
                    row.take(part, &mut jobs)
                } else {
                    row.is_whole = false;
                    self.admit(part, &mut jobs, sequence)
                };
                continue;
            }
            *result = match self.open_alone(part, sequence) {
                Ok(is_authentic) => {
                    if let Some(verdict) = piece.authentic.get_mut(opened) {
                        *verdict = is_authentic;
                    }
                    opened += 1;
                    Ok(())
                }
                Err(reason) => Err(reason),
            };
        }
        if !jobs.is_empty() {
            self.run(&mut jobs, &mut piece.authentic);
        }
        drop(jobs);
        (taken, self.accept_row(&row, taken, &piece.authentic))
    }

    /// First checks and cipher where cipher and integrity check are two. Whether the packet is authentic.
    fn open_alone(&mut self, part: &mut [u8], sequence: &mut u64) -> Result<bool, DropReason> {
        let candidate = self.begin(part, 0..part.len())?;
        *sequence = candidate.sequence;
        match &self.keys {
            Keys::Separate(opener) => open_separate(opener, self.esn, self.layout, part, &candidate),
            Keys::Aead { .. } => Err(DropReason::Cipher),
        }
    }
}

/// What lies in a packet of a row that has been accepted.
#[inline(always)]
fn open_accepted(slab: &[u8], packet: Range<usize>, sequence: u64) -> Result<Opened, DropReason> {
    let body = packet.start + HEAD;
    let octets = slab.get(body..packet.end.saturating_sub(ICV));
    let (len, next_header) = strip(octets.unwrap_or_default())?;
    Ok(Opened {
        inner: body..body + len,
        next_header,
        sequence,
        advanced: true,
    })
}
