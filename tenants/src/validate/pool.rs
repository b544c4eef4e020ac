//! Validation of address pools.

use api::v1;

use super::{Checker, Violations};
use crate::model::AddressPool;
use crate::range::AddressRange;

const RANGE_ALLOWED: &str = "an address, a prefix (10.1.0.0/16) or a range (10.1.0.10-10.1.0.99)";

/// Checks a pool by itself.
///
/// # Errors
/// Every wrong field.
pub fn pool(external: &v1::AddressPool) -> Result<AddressPool, Violations> {
    let mut check = Checker::default();
    check.name("tenant", &external.tenant, false);
    check.name("name", &external.name, true);
    let description = check.description(&external.description);
    let exclusions = check.list::<AddressRange>("exclusions", &external.exclusions, RANGE_ALLOWED);
    let range_text = external.range.trim().to_owned();
    let range = match AddressRange::for_pool(&range_text) {
        Ok(range) => range,
        Err(_) if range_text.is_empty() => {
            check.refuse("range", "is missing", RANGE_ALLOWED);
            return check.finish(()).and(Err(Violations::default()));
        }
        Err(error) => {
            check.refuse("range", format!("\"{range_text}\" {error}"), RANGE_ALLOWED);
            return check.finish(()).and(Err(Violations::default()));
        }
    };
    if range.contains(unspecified(&range)) || range.start().is_multicast() || range.start().is_loopback() {
        check.refuse(
            "range",
            format!("{range} holds addresses that no host can have"),
            "addresses of hosts",
        );
    }
    // Network and broadcast addresses may be excluded too, though they are never given out.
    let written = range_text.parse::<AddressRange>().unwrap_or(range);
    for (index, exclusion) in exclusions.iter().enumerate() {
        if !written.overlaps(exclusion) {
            check.refuse(
                format!("exclusions[{index}]"),
                format!("{exclusion} lies outside the range"),
                format!("addresses of {written}"),
            );
        }
    }
    let pool = AddressPool {
        tenant: external.tenant.clone(),
        name: external.name.clone(),
        description,
        range,
        range_text,
        exclusions,
        sticky: !external.not_sticky,
    };
    if pool.capacity() == 0 {
        check.refuse("exclusions", "leave no address in the pool", "fewer exclusions");
    }
    check.finish(pool)
}

fn unspecified(range: &AddressRange) -> std::net::IpAddr {
    if range.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

impl AddressPool {
    /// Number of addresses that can be given out; saturating.
    pub fn capacity(&self) -> u64 {
        let free = excluded_ranges(self)
            .iter()
            .fold(self.range.size(), |left, gap| left - gap.size());
        u64::try_from(free).unwrap_or(u64::MAX)
    }
}

/// The exclusions inside the range, sorted, without overlaps.
pub(crate) fn excluded_ranges(pool: &AddressPool) -> Vec<AddressRange> {
    let mut offsets: Vec<(u128, u128)> = pool
        .exclusions
        .iter()
        .filter(|exclusion| pool.range.overlaps(exclusion))
        .map(|exclusion| {
            let start = pool.range.offset(exclusion.start()).unwrap_or(0);
            let end = pool
                .range
                .offset(exclusion.end())
                .unwrap_or(pool.range.size() - 1);
            (start, end)
        })
        .collect();
    offsets.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (start, end) in offsets {
        match merged.last_mut() {
            Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let range = |(start, end)| AddressRange::new(pool.range.at(start)?, pool.range.at(end)?).ok();
    merged.into_iter().filter_map(range).collect()
}
