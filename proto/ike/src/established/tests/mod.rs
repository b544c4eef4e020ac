//! Two cores with the same keys, a virtual clock, messages delivered by hand.

use std::time::Instant;

/// Where the virtual clock starts.
#[allow(
    clippy::disallowed_methods,
    reason = "an instant can only be had from the clock; tests add to it"
)]
pub(super) fn epoch() -> Instant {
    use std::sync::OnceLock;
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
