//! Validation of tenants.

use std::net::IpAddr;

use api::v1;
use ipnet::IpNet;

use super::{Checker, Violations};
use crate::identity::IdPattern;
use crate::model::{Df, Limits, Rate, Rates, RoutingDomain, Tenant, UserLimit};

/// Inner MTU when none is given: fits ESP in UDP over IPv6 at 1,500 octets, with the largest trailer.
const DEFAULT_MTU: u16 = 1_400;
/// Longest name of a network device, in octets (IFNAMSIZ - 1).
const MAX_DEVICE: usize = 15;

/// Checks a tenant by itself.
///
/// # Errors
/// Every wrong field.
pub fn tenant(external: &v1::Tenant) -> Result<Tenant, Violations> {
    let mut check = Checker::default();
    check.name("name", &external.name, false);
    let tenant = Tenant {
        name: external.name.clone(),
        description: check.description(&external.description),
        disabled: external.disabled,
        routing_domain: routing_domain(&mut check, &external.name, external.routing_domain.as_ref()),
        limits: limits(&mut check, &external.limits.unwrap_or_default()),
        local_addresses: local_addresses(&mut check, &external.local_addresses),
        gateway_ids: check.list::<IdPattern>(
            "gateway_ids",
            &external.gateway_ids,
            super::connection::ID_ALLOWED,
        ),
        trust_anchors: check.names("trust_anchors", &external.trust_anchors),
        allow_weak_algorithms: external.allow_weak_algorithms,
    };
    check.finish(tenant)
}

/// Addresses of the gateway: of hosts, not of networks.
pub(super) fn local_addresses(check: &mut Checker, texts: &[String]) -> Vec<IpAddr> {
    let addresses = check.list::<IpAddr>(
        "local_addresses",
        texts,
        "an IPv4 or IPv6 address of this gateway",
    );
    for (index, address) in addresses.iter().enumerate() {
        if address.is_unspecified() || address.is_multicast() {
            check.refuse(
                format!("local_addresses[{index}]"),
                format!("{address} is no host's address"),
                "leave the list empty to answer on every address",
            );
        }
    }
    addresses
}

fn routing_domain(check: &mut Checker, tenant: &str, external: Option<&v1::RoutingDomain>) -> RoutingDomain {
    let default = v1::RoutingDomain::default();
    let external = external.unwrap_or(&default);
    let file_name =
        |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') && text != "." && text != "..";
    if !file_name(&external.netns) || external.netns.len() > 255 {
        check.refuse(
            "routing_domain.netns",
            format!("\"{}\" is not the name of a network namespace", external.netns),
            "a file name under /run/netns, without '/' and blanks",
        );
    }
    let device = if external.device.is_empty() {
        default_device(tenant)
    } else {
        external.device.clone()
    };
    if device.len() > MAX_DEVICE || !file_name(&device) || device.contains(':') {
        check.refuse(
            "routing_domain.device",
            format!("\"{device}\" is not a device name"),
            format!("1 to {MAX_DEVICE} printable characters without '/', ':' and blanks"),
        );
    }
    let mtu = check.number(
        "routing_domain.mtu",
        external.mtu,
        DEFAULT_MTU.into(),
        (1_280, 9_000),
    );
    let df = df(check, "routing_domain.df", external.df).unwrap_or_default();
    RoutingDomain {
        netns: (!external.netns.is_empty()).then(|| external.netns.clone()),
        device,
        mtu: u16::try_from(mtu).unwrap_or(DEFAULT_MTU),
        addresses: check.list::<IpNet>(
            "routing_domain.addresses",
            &external.addresses,
            "an address with its prefix length, like 10.1.0.1/16",
        ),
        df,
    }
}

/// What is to become of the DF bit; `None` where nothing is said.
pub(super) fn df(check: &mut Checker, field: &'static str, number: i32) -> Option<Df> {
    match v1::DfPolicy::try_from(number) {
        Ok(v1::DfPolicy::Unspecified) => None,
        Ok(v1::DfPolicy::Clear) => Some(Df::Clear),
        Ok(v1::DfPolicy::Set) => Some(Df::Set),
        Ok(v1::DfPolicy::Copy) => Some(Df::Copy),
        Err(_) => {
            check.refuse(field, "is not known", "clear, set, copy");
            None
        }
    }
}

/// `vpn-` and the tenant's name, or as much of it as fits with four digits of a digest.
fn default_device(tenant: &str) -> String {
    let plain = format!("vpn-{tenant}");
    if plain.len() <= MAX_DEVICE {
        return plain;
    }
    // FNV-1a: stable, and only there to tell long names apart.
    let digest = tenant.bytes().fold(0x811c_9dc5_u32, |hash, b| {
        (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let head: String = tenant.chars().take(MAX_DEVICE - 8).collect();
    format!("vpn{head}-{:04x}", digest & 0xffff)
}

fn limits(check: &mut Checker, external: &v1::TenantLimits) -> Limits {
    let user_limit = match v1::UserLimitPolicy::try_from(external.user_limit_policy) {
        Ok(v1::UserLimitPolicy::Unspecified | v1::UserLimitPolicy::ReplaceOldest) => UserLimit::ReplaceOldest,
        Ok(v1::UserLimitPolicy::Keep) => UserLimit::Keep,
        Ok(v1::UserLimitPolicy::Refuse) => UserLimit::Refuse,
        Err(_) => {
            check.refuse(
                "limits.user_limit_policy",
                "is not known",
                "keep, replace_oldest, refuse",
            );
            UserLimit::ReplaceOldest
        }
    };
    Limits {
        max_sessions: check.number(
            "limits.max_sessions",
            external.max_sessions,
            10_000,
            (1, 1_000_000),
        ),
        max_half_open: check.number(
            "limits.max_half_open",
            external.max_half_open,
            1_000,
            (1, 100_000),
        ),
        max_sessions_per_user: check.number(
            "limits.max_sessions_per_user",
            external.max_sessions_per_user,
            1,
            (1, 1_000_000),
        ),
        user_limit,
        max_children: check.number("limits.max_children", external.max_children, 16, (1, 256)),
        rates: Rates {
            all_in: rate(check, "rate_in", external.rate_in),
            all_out: rate(check, "rate_out", external.rate_out),
            session_in: rate(check, "session_rate_in", external.session_rate_in),
            session_out: rate(check, "session_rate_out", external.session_rate_out),
        },
    }
}

fn rate(check: &mut Checker, field: &str, external: Option<v1::RateLimit>) -> Rate {
    let external = external.unwrap_or_default();
    let mut number = |name: &str, value: u64, least: u64, most: u64| {
        if value != 0 && !(least..=most).contains(&value) {
            check.refuse(
                format!("limits.{field}.{name}"),
                format!("is {value}"),
                format!("{least} to {most}, or 0 for no limit"),
            );
        }
        value
    };
    Rate {
        octets: number("octets_per_sec", external.octets_per_sec, 1_000, 125_000_000_000),
        packets: number("packets_per_sec", external.packets_per_sec, 1, 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::default_device;

    #[test]
    fn device_names_fit_and_differ() {
        assert_eq!(default_device("acme"), "vpn-acme");
        let (a, b) = (
            default_device("a-very-long-name-one"),
            default_device("a-very-long-name-two"),
        );
        assert!(a.len() <= 15 && b.len() <= 15 && a != b, "{a} {b}");
    }
}
