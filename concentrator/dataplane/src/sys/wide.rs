//! The checksum loop compiled for wider vectors, where the processor has them.

use crate::vnet::sum_in_lanes;

/// [`crate::vnet::sum`] with the widest vectors that there are.
pub(crate) fn sum(octets: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { sum_avx2(octets) };
    }
    sum_in_lanes(octets)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(octets: &[u8]) -> u64 {
    sum_in_lanes(octets)
}
