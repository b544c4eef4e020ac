//! Validation of connections.

use std::net::IpAddr;

use api::v1;
use ip::Selector;
use ipnet::IpNet;

use super::{Checker, Violations, tenant};
use crate::identity::IdPattern;
use crate::model::{Auth, Connection, Lifetimes, PerResourceSas, RekeyPolicy};
use crate::proposal::{ProposalCheck, ProposalError};

/// What identity patterns may be.
pub(super) const ID_ALLOWED: &str = "\"*\", \"*@domain\", \"*.domain\", a name, a mail address, an address, a prefix, \
     a distinguished name with \"*\" values, or \"key:HEX\"";
/// What selectors may be.
const TS_ALLOWED: &str = "like 10.0.0.0/8, 10.0.0.1-10.0.0.9 or 10.0.0.0/8[tcp/443]";
/// Most proposals and selectors: what one IKE message holds with ease.
const MAX_PROPOSALS: usize = 16;
const MAX_SELECTORS: usize = 64;
/// Seconds of silence before a liveness check when nothing is said.
const DEFAULT_DPD_SECS: u32 = 30;
/// Packets of the replay window when nothing is said.
const DEFAULT_REPLAY_WINDOW: u32 = 1_024;

/// Checks a connection by itself; proposal texts with `proposals`.
///
/// # Errors
/// Every wrong field.
pub fn connection(
    external: &v1::Connection,
    proposals: &dyn ProposalCheck,
) -> Result<Connection, Violations> {
    let mut check = Checker::default();
    check.name("tenant", &external.tenant, false);
    check.name("name", &external.name, true);
    let local_ts = selectors(&mut check, "local_ts", &external.local_ts);
    if external.local_ts.is_empty() {
        check.refuse("local_ts", "is missing: nothing would be reachable", TS_ALLOWED);
    }
    let remote_ts = selectors(&mut check, "remote_ts", &external.remote_ts);
    let pools = check.names("pools", &external.pools);
    if remote_ts.is_empty() && pools.is_empty() {
        check.refuse(
            "pools",
            "is empty, and so is remote_ts: the peer would have no address",
            "name a pool for users, or the networks behind a site in remote_ts",
        );
    }
    let (dpd_secs, replay_window) = windows(&mut check, external);
    let df = super::tenant::df(&mut check, "df", external.df);
    let connection = Connection {
        tenant: external.tenant.clone(),
        name: external.name.clone(),
        description: check.description(&external.description),
        disabled: external.disabled,
        local_addresses: tenant::local_addresses(&mut check, &external.local_addresses),
        local_id: local_id(&mut check, &external.local_id),
        remote_ids: remote_ids(&mut check, &external.remote_ids),
        auth: auth(&mut check, external),
        ike_proposals: proposal_texts(&mut check, "ike_proposals", &external.ike_proposals, |text| {
            proposals.ike(text)
        }),
        esp_proposals: proposal_texts(&mut check, "esp_proposals", &external.esp_proposals, |text| {
            proposals.esp(text)
        }),
        local_ts,
        remote_ts,
        pools,
        dns: check.list::<IpAddr>("dns", &external.dns, "an IPv4 or IPv6 address"),
        split_subnets: check.list::<IpNet>(
            "split_subnets",
            &external.split_subnets,
            "a prefix, like 10.0.0.0/8",
        ),
        lifetimes: lifetimes(&mut check, &external.lifetimes.unwrap_or_default()),
        dpd_secs,
        replay_window,
        rekey_policy: rekey_policy(&mut check, external.rekey_policy),
        mobike: external.mobike.unwrap_or(false),
        per_resource_sas: per_resource_sas(&mut check, &external.per_resource_sas),
        df,
    };
    if external.mobike == Some(true) {
        check.refuse("mobike", "is reserved", "leave it out");
    }
    check.finish(connection)
}

fn local_id(check: &mut Checker, text: &str) -> Option<IdPattern> {
    if text.is_empty() {
        return None;
    }
    match text.parse::<IdPattern>() {
        Ok(pattern) if pattern.is_exact() => Some(pattern),
        Ok(_) => {
            check.refuse(
                "local_id",
                format!("\"{text}\" is a pattern"),
                "one exact identity",
            );
            None
        }
        Err(error) => {
            check.refuse("local_id", format!("\"{text}\": {error}"), "one exact identity");
            None
        }
    }
}

fn remote_ids(check: &mut Checker, texts: &[String]) -> Vec<IdPattern> {
    if texts.is_empty() {
        check.refuse("remote_ids", "is missing: no peer could log in", ID_ALLOWED);
    }
    check.list("remote_ids", texts, ID_ALLOWED)
}

fn auth(check: &mut Checker, external: &v1::Connection) -> Auth {
    match v1::AuthMethod::try_from(external.auth) {
        Ok(v1::AuthMethod::Psk) => {
            check.unused("certificate", !external.certificate.is_empty(), "with auth psk");
            check.unused(
                "trust_anchors",
                !external.trust_anchors.is_empty(),
                "with auth psk",
            );
            Auth::Psk {
                credentials: check.names("psks", &external.psks),
            }
        }
        Ok(v1::AuthMethod::Certificate) => {
            check.unused("psks", !external.psks.is_empty(), "with auth certificate");
            if external.certificate.is_empty() {
                check.refuse(
                    "certificate",
                    "is missing: the gateway has nothing to sign with",
                    "the name of a credential of kind private_key",
                );
            } else {
                check.name("certificate", &external.certificate, true);
            }
            Auth::Certificate {
                certificate: external.certificate.clone(),
                trust_anchors: check.names("trust_anchors", &external.trust_anchors),
            }
        }
        Ok(v1::AuthMethod::Unspecified) | Err(_) => {
            check.refuse("auth", "is missing", "psk, certificate");
            Auth::Psk {
                credentials: Vec::new(),
            }
        }
    }
}

fn proposal_texts(
    check: &mut Checker,
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<(), ProposalError>,
) -> Vec<String> {
    if texts.len() > MAX_PROPOSALS {
        check.refuse(
            field,
            format!("has {} entries", texts.len()),
            format!("at most {MAX_PROPOSALS}"),
        );
    }
    let texts: Vec<String> = texts
        .iter()
        .map(|text| text.trim().to_ascii_lowercase())
        .collect();
    for (index, text) in texts.iter().enumerate().take(MAX_PROPOSALS) {
        if let Err(error) = parse(text) {
            check.refuse(format!("{field}[{index}]"), format!("\"{text}\": {error}"), "");
        } else if texts.iter().take(index).any(|earlier| earlier == text) {
            check.refuse(format!("{field}[{index}]"), format!("\"{text}\" comes twice"), "");
        }
    }
    texts
}

fn selectors(check: &mut Checker, field: &str, texts: &[String]) -> Vec<Selector> {
    if texts.len() > MAX_SELECTORS {
        check.refuse(
            field,
            format!("has {} entries", texts.len()),
            format!("at most {MAX_SELECTORS}"),
        );
    }
    check.list(field, texts, TS_ALLOWED)
}

fn lifetimes(check: &mut Checker, external: &v1::Lifetimes) -> Lifetimes {
    let ike_secs = check.number("lifetimes.ike_secs", external.ike_secs, 14_400, (300, 604_800));
    let child_secs = check.number("lifetimes.child_secs", external.child_secs, 3_600, (60, 172_800));
    let shorter = ike_secs.min(child_secs);
    let default_margin = (child_secs / 10).min(shorter / 2).max(5);
    let rekey_margin_secs = check.number(
        "lifetimes.rekey_margin_secs",
        external.rekey_margin_secs,
        default_margin,
        (5, 86_400),
    );
    if rekey_margin_secs > shorter / 2 {
        check.refuse(
            "lifetimes.rekey_margin_secs",
            format!("is {rekey_margin_secs}"),
            format!("at most half of the shorter lifetime, {}", shorter / 2),
        );
    }
    let least = 16 << 20;
    if external.child_octets != 0 && external.child_octets < least {
        check.refuse(
            "lifetimes.child_octets",
            format!("is {}", external.child_octets),
            format!("0 for no limit, or at least {least}"),
        );
    }
    let child_octets = (external.child_octets != 0).then_some(external.child_octets);
    Lifetimes {
        ike_secs,
        child_secs,
        child_octets,
        rekey_margin_secs,
    }
}

fn windows(check: &mut Checker, external: &v1::Connection) -> (Option<u32>, u32) {
    let dpd_secs = match external.dpd_secs {
        None => Some(DEFAULT_DPD_SECS),
        Some(0) => None,
        Some(secs) => Some(check.number("dpd_secs", secs, DEFAULT_DPD_SECS, (5, 3_600))),
    };
    let window = external.replay_window.unwrap_or(DEFAULT_REPLAY_WINDOW);
    if !(32..=4_096).contains(&window) {
        check.refuse("replay_window", format!("is {window}"), "32 to 4096");
    }
    (dpd_secs, window)
}

fn per_resource_sas(check: &mut Checker, text: &str) -> PerResourceSas {
    match text {
        "" | "off" | "0" => return PerResourceSas::Off,
        "auto" => return PerResourceSas::Auto,
        _ => {}
    }
    match text.parse() {
        Ok(number @ 1..=PerResourceSas::MAX) => PerResourceSas::Number(number),
        Ok(_) | Err(_) => {
            check.refuse("per_resource_sas", format!("is \"{text}\""), "off, auto, 1 to 8");
            PerResourceSas::Off
        }
    }
}

fn rekey_policy(check: &mut Checker, number: i32) -> RekeyPolicy {
    match v1::RekeyPolicy::try_from(number) {
        Ok(v1::RekeyPolicy::Unspecified | v1::RekeyPolicy::Initiate) => RekeyPolicy::Initiate,
        Ok(v1::RekeyPolicy::LastResort) => RekeyPolicy::LastResort,
        Ok(v1::RekeyPolicy::Never) => RekeyPolicy::Never,
        Err(_) => {
            check.refuse("rekey_policy", "is not known", "initiate, last_resort, never");
            RekeyPolicy::Initiate
        }
    }
}
