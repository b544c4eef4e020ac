//! AES-GCM by Intel's Multi-Buffer Crypto for IPsec library, in batches. Used by `crypto` alone, behind its feature
//! `ipsec-mb`; performs no I/O.
//!
//! The library makes use of VAES and VPCLMULQDQ where the processor has them, which ring and AWS-LC do less well. It comes
//! with the distribution (Debian: `libipsec-mb-dev`), not with the source of this program.
//!
//! `unsafe` is what calling C takes; every block says why it holds.

#[cfg(feature = "link")]
mod linked;
#[cfg(feature = "link")]
pub use linked::GcmKey;

/// Asks the processor for a line of its cache. Reads nothing: any address will do.
#[inline(always)]
#[cfg(feature = "link")]
#[allow(unsafe_code, reason = "an instruction without a safe wrapper")]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address, and changes nothing that a program can see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// One packet, in place.
#[derive(Debug)]
pub struct Job<'a> {
    /// 12 octets.
    pub nonce: &'a [u8; 12],
    /// Authenticated, not encrypted.
    pub aad: &'a [u8],
    /// What is encrypted or decrypted.
    pub text: &'a mut [u8],
    /// Written by sealing, read by opening.
    pub tag: &'a mut [u8; TAG_LEN],
}

/// Octets of a tag.
pub const TAG_LEN: usize = 16;

/// The most packets of one call.
pub const BATCH: usize = 32;
