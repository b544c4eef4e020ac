//! The checksum loops for wider vectors, where the processor has them.

use crate::vnet::{in_order, sum_in_lanes};

/// [`crate::vnet::sum`] with the widest vectors that there are.
pub(crate) fn sum(octets: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bw") {
            // SAFETY: the processor has what the function is compiled for.
            return in_order(unsafe { avx512::sum(octets) });
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { sum_avx2(octets) };
        }
    }
    sum_in_lanes(octets)
}

/// [`crate::vnet::copy_and_sum`] of slices of one length, in one pass where that is quicker than two.
pub(crate) fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bw") {
        // SAFETY: the processor has what the function is compiled for.
        return in_order(unsafe { avx512::copy_and_sum(from, to) });
    }
    to.copy_from_slice(from);
    crate::vnet::sum(from)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(octets: &[u8]) -> u64 {
    sum_in_lanes(octets)
}

/// Blocks of 64 octets, two at a time; the rest by loads that leave out what is not there, which compilers do not write.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_mask_storeu_epi8,
        _mm512_maskz_loadu_epi8, _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_srli_epi64, _mm512_storeu_si512,
    };

    const BLOCK: usize = 64;
    const BLOCKS: usize = 2 * BLOCK;

    /// Sums of 32-bit words, which are as good as sums of 16-bit words: each half of a 64-bit lane has its own total.
    struct Totals {
        low: [__m512i; 2],
        high: [__m512i; 2],
    }

    impl Totals {
        #[target_feature(enable = "avx512f,avx512bw")]
        fn new() -> Self {
            Self {
                low: [_mm512_setzero_si512(); 2],
                high: [_mm512_setzero_si512(); 2],
            }
        }

        #[target_feature(enable = "avx512f,avx512bw")]
        fn add(&mut self, blocks: [__m512i; 2]) {
            let half = _mm512_set1_epi64(0xffff_ffff);
            for ((low, high), block) in self.low.iter_mut().zip(&mut self.high).zip(blocks) {
                *low = _mm512_add_epi64(*low, _mm512_and_si512(block, half));
                *high = _mm512_add_epi64(*high, _mm512_srli_epi64::<32>(block));
            }
        }

        #[target_feature(enable = "avx512f,avx512bw")]
        fn total(self) -> u64 {
            let ([a, b], [c, d]) = (self.low, self.high);
            _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d))) as u64
        }
    }

    /// The two blocks at the start of a slice.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(octets: &[u8; BLOCKS]) -> [__m512i; 2] {
        let (blocks, _) = octets.as_chunks::<BLOCK>();
        let mut loaded = [_mm512_setzero_si512(); 2];
        for (loaded, block) in loaded.iter_mut().zip(blocks) {
            // SAFETY: 64 octets are read, as many as there are.
            *loaded = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        }
        loaded
    }

    /// Which octets of each of two blocks there are, when there are `len`.
    fn masks(len: usize) -> [u64; 2] {
        let all = if len >= BLOCKS {
            u128::MAX
        } else {
            (1u128 << len) - 1
        };
        [all as u64, (all >> BLOCK) as u64]
    }

    /// Fewer than two blocks, filled up with zeros.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load_rest(rest: &[u8]) -> [__m512i; 2] {
        let [first, second] = masks(rest.len());
        let start = rest.as_ptr();
        [
            // SAFETY: the mask leaves out all octets that are not in the slice; they are not touched.
            unsafe { _mm512_maskz_loadu_epi8(first, start.cast()) },
            // SAFETY: as above; the address of what is left out need not be valid.
            unsafe { _mm512_maskz_loadu_epi8(second, start.wrapping_add(BLOCK).cast()) },
        ]
    }

    /// The sum of 16-bit words in host order, not folded.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn sum(octets: &[u8]) -> u64 {
        let (blocks, rest) = octets.as_chunks::<BLOCKS>();
        let mut totals = Totals::new();
        for block in blocks {
            totals.add(load(block));
        }
        totals.add(load_rest(rest));
        totals.total()
    }

    /// The same, and copies what it reads to a slice of the same length.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u64 {
        let (blocks, rest) = from.as_chunks::<BLOCKS>();
        let (places, place) = to.as_chunks_mut::<BLOCKS>();
        let mut totals = Totals::new();
        for (block, to) in blocks.iter().zip(places) {
            let loaded = load(block);
            totals.add(loaded);
            let (to, _) = to.as_chunks_mut::<BLOCK>();
            for (to, loaded) in to.iter_mut().zip(loaded) {
                // SAFETY: 64 octets are written, as many as there are.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), loaded) };
            }
        }
        let loaded @ [first, second] = load_rest(rest);
        totals.add(loaded);
        let [first_mask, second_mask] = masks(rest.len().min(place.len()));
        let start = place.as_mut_ptr();
        // SAFETY: the mask leaves out all octets that are not in the slice; they are not touched.
        unsafe { _mm512_mask_storeu_epi8(start.cast(), first_mask, first) };
        // SAFETY: as above; the address of what is left out need not be valid.
        unsafe { _mm512_mask_storeu_epi8(start.wrapping_add(BLOCK).cast(), second_mask, second) };
        totals.total()
    }
}
