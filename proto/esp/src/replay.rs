//! The anti-replay window (RFC 4303 section 3.4.3 and appendix A) as a ring of blocks that is never shifted (RFC 6479).
//!
//! The window holds the highest authenticated number `T` and one bit for each of the last `W` numbers. The bits live at
//! `seq mod ring`, so that advancing clears whole blocks and moves nothing. The ring has at least one block more than the
//! window needs: the block that `T` enters may be cleared at once without touching a number still in the window.

use crate::DropReason;

/// Smallest window in packets (RFC 4303 section 3.4.3).
pub const MIN_WINDOW: u32 = 32;
/// Largest window in packets.
pub const MAX_WINDOW: u32 = 4096;

const BLOCK_BITS: u64 = 64;

/// Which sequence numbers an SA has received.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Highest number authenticated, or the checkpoint.
    top: u64,
    /// Numbers up to here count as received.
    floor: u64,
    window: u64,
    /// A power of two of blocks.
    blocks: Box<[u64]>,
}

impl ReplayWindow {
    /// A window of `window` packets, limited to [`MIN_WINDOW`]`..=`[`MAX_WINDOW`], in which every number up to and with
    /// `checkpoint` counts as received: 0 for a fresh SA.
    #[must_use]
    pub fn new(window: u32, checkpoint: u64) -> Self {
        //= rfc4303#section-3.4.3
        //# A minimum window size of 32 packets MUST be supported when 32-bit sequence numbers are employed; a window size
        //# of 64 is preferred and SHOULD be employed as the default.
        let window = window.clamp(MIN_WINDOW, MAX_WINDOW);
        let blocks = (window.div_ceil(BLOCK_BITS as u32) + 1).next_power_of_two() as usize;
        Self {
            top: checkpoint,
            floor: checkpoint,
            window: u64::from(window),
            blocks: vec![0; blocks].into_boxed_slice(),
        }
    }

    /// The highest number received (or the checkpoint, before any).
    #[must_use]
    pub fn top(&self) -> u64 {
        self.top
    }

    /// The width in packets.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.window as u32
    }

    /// The full number that the low 32 bits of an extended sequence number stand for (RFC 4303 appendix A2.2).
    /// None if they lie in the window's part below number zero.
    #[inline(always)]
    #[must_use]
    pub fn extend(&self, low: u32) -> Option<u64> {
        // The next packets of a stream, whichever case it is.
        let ahead = low.wrapping_sub(self.top as u32);
        if ahead <= i32::MAX as u32 {
            return self.top.checked_add(u64::from(ahead));
        }
        self.extend_far(low)
    }

    fn extend_far(&self, low: u32) -> Option<u64> {
        let (top_high, top_low) = (self.top >> 32, self.top as u32);
        let window = self.window as u32;
        let bottom = top_low.wrapping_sub(window - 1);
        let high = match (top_low >= window - 1, low >= bottom) {
            // Case A: the window lies within one subspace.
            (true, true) => top_high,
            (true, false) => top_high.checked_add(1).filter(|h| *h <= u64::from(u32::MAX))?,
            // Case B: it spans two.
            (false, true) => top_high.checked_sub(1)?,
            (false, false) => top_high,
        };
        Some((high << 32) | u64::from(low))
    }

    /// Whether a packet with this number may be new. Run before the integrity check, and again after it by
    /// [`ReplayWindow::accept`], since the packets of a batch are checked together.
    ///
    /// # Errors
    /// [`DropReason::SequenceZero`], [`DropReason::ReplayOld`] or [`DropReason::ReplayDuplicate`].
    #[inline(always)]
    pub fn check(&self, seq: u64) -> Result<(), DropReason> {
        if seq > self.top {
            return Ok(());
        }
        if seq == 0 {
            return Err(DropReason::SequenceZero);
        }
        if self.top - seq >= self.window {
            return Err(DropReason::ReplayOld);
        }
        if seq <= self.floor {
            return Err(DropReason::ReplayDuplicate);
        }
        let (block, bit) = self.locate(seq);
        match self.blocks.get(block) {
            Some(bits) if bits & bit == 0 => Ok(()),
            _ => Err(DropReason::ReplayDuplicate),
        }
    }

    /// Marks a number as received and advances the window. Only for packets that passed the integrity check.
    ///
    /// # Errors
    /// As [`ReplayWindow::check`]; then nothing changes.
    //= rfc4303#section-3.4.3
    //# The receive window is updated only if the integrity verification succeeds.
    #[inline(always)]
    pub fn accept(&mut self, seq: u64) -> Result<(), DropReason> {
        if seq > self.top {
            let (old, new) = (self.top / BLOCK_BITS, seq / BLOCK_BITS);
            if new != old {
                self.clear(old, new);
            }
            self.top = seq;
        } else {
            self.check(seq)?;
        }
        let (block, bit) = self.locate(seq);
        self.mark(block, bit);
        Ok(())
    }

    /// Marks the `count` numbers above the top as received, at most 64. As [`ReplayWindow::accept`] one after the other.
    #[inline]
    pub fn accept_next(&mut self, count: u64) {
        let (old, last) = (self.top, self.top.saturating_add(count.min(BLOCK_BITS)));
        if last == old {
            return;
        }
        if last / BLOCK_BITS != old / BLOCK_BITS {
            self.clear(old / BLOCK_BITS, last / BLOCK_BITS);
        }
        self.top = last;
        // One block, or the end of one and the beginning of the next.
        let (block, low) = self.locate(last);
        let upto = low | (low - 1);
        let first = old + 1;
        if first / BLOCK_BITS == last / BLOCK_BITS {
            let (_, from) = self.locate(first);
            self.mark(block, upto & !(from - 1));
        } else {
            let (before, from) = self.locate(first);
            self.mark(before, !(from - 1));
            self.mark(block, upto);
        }
    }

    #[inline(always)]
    fn mark(&mut self, block: usize, marks: u64) {
        if let Some(bits) = self.blocks.get_mut(block) {
            *bits |= marks;
        }
    }

    /// Empties the blocks that the window enters.
    fn clear(&mut self, old: u64, new: u64) {
        let count = self.blocks.len() as u64;
        for block in 1..=(new - old).min(count) {
            let at = ((old + block) & (count - 1)) as usize;
            if let Some(bits) = self.blocks.get_mut(at) {
                *bits = 0;
            }
        }
    }

    #[inline(always)]
    fn locate(&self, seq: u64) -> (usize, u64) {
        let block = (seq / BLOCK_BITS) & (self.blocks.len() as u64 - 1);
        (block as usize, 1 << (seq % BLOCK_BITS))
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
