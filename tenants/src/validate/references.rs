//! Checks between resources: what they name has to be there, and what must be apart has to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Checker, Violations};
use crate::model::{AddressPool, Auth, Connection, Credential, Tenant};
use crate::object::{Id, Kind};
use crate::proposal::weak_word;
use crate::snapshot::TenantState;

/// What is wrong with one resource, in the light of the others.
pub(crate) type Wrong = (Id, Violations);

/// Whose names may stand in the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Somebody who may see every tenant.
    Provider,
    /// Somebody who may see the own tenant only.
    Tenant,
}

impl Audience {
    /// What a resource of another tenant is called.
    fn call(self, name: String, anonymous: &str) -> String {
        match self {
            Audience::Provider => name,
            Audience::Tenant => anonymous.to_owned(),
        }
    }
}

/// Checks one tenant with everything in it, and against the other tenants.
pub(crate) fn check(
    tenants: &BTreeMap<String, Arc<TenantState>>,
    name: &str,
    audience: Audience,
) -> Vec<Wrong> {
    let Some(state) = tenants.get(name) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    let mut take = |id: Id, check: Checker| {
        if !check.violations.list.is_empty() {
            wrong.push((id, check.violations));
        }
    };
    let Some((tenant, _)) = &state.tenant else {
        for id in state.ids() {
            let mut check = Checker::default();
            check.refuse(
                "tenant",
                format!("\"{name}\" does not exist"),
                "create the tenant first",
            );
            take(id, check);
        }
        return wrong;
    };
    take(
        Id::new(Kind::Tenant, name, name),
        check_tenant(tenants, state, tenant),
    );
    for (connection, _) in state.connections.values() {
        take(
            Id::new(Kind::Connection, name, &connection.name),
            check_connection(state, tenant, connection),
        );
    }
    for (pool, _) in state.pools.values() {
        take(
            Id::new(Kind::AddressPool, name, &pool.name),
            check_pool(tenants, tenant, pool, audience),
        );
    }
    wrong
}

fn check_tenant(
    tenants: &BTreeMap<String, Arc<TenantState>>,
    state: &TenantState,
    tenant: &Tenant,
) -> Checker {
    let mut check = Checker::default();
    anchors(&mut check, state, &tenant.trust_anchors);
    for other in tenants
        .values()
        .filter_map(|other| other.tenant.as_ref().map(|(other, _)| other))
    {
        if other.name == tenant.name {
            continue;
        }
        let (ours, theirs) = (&tenant.routing_domain, &other.routing_domain);
        if ours.netns == theirs.netns && ours.device == theirs.device {
            check.refuse(
                "routing_domain.device",
                format!("\"{}\" belongs to tenant {} already", ours.device, other.name),
                "another name, or another network namespace",
            );
        }
        for (index, address) in tenant.local_addresses.iter().enumerate() {
            if other.local_addresses.contains(address) {
                check.refuse(
                    format!("local_addresses[{index}]"),
                    format!("{address} belongs to tenant {} alone", other.name),
                    "an address of this tenant; leave the list empty in both to share addresses",
                );
            }
        }
    }
    check
}

fn check_connection(state: &TenantState, tenant: &Tenant, connection: &Connection) -> Checker {
    let mut check = Checker::default();
    for (index, name) in connection.pools.iter().enumerate() {
        if !state.pools.contains_key(name) {
            check.refuse(
                format!("pools[{index}]"),
                format!("there is no address pool \"{name}\" in tenant {}", tenant.name),
                names(state.pools.keys()),
            );
        }
    }
    match &connection.auth {
        Auth::Psk { credentials } => {
            for (index, name) in credentials.iter().enumerate() {
                named(&mut check, state, &format!("psks[{index}]"), name, "psk");
            }
        }
        Auth::Certificate {
            certificate,
            trust_anchors,
        } => {
            named(&mut check, state, "certificate", certificate, "private_key");
            anchors(&mut check, state, trust_anchors);
            if trust_anchors.is_empty() && tenant.trust_anchors.is_empty() {
                check.refuse(
                    "trust_anchors",
                    "is empty, and so is the tenant's: no peer's certificate would be trusted",
                    "names of credentials of kind ca_certificate",
                );
            }
        }
    }
    if !tenant.local_addresses.is_empty() {
        for (index, address) in connection.local_addresses.iter().enumerate() {
            if !tenant.local_addresses.contains(address) {
                check.refuse(
                    format!("local_addresses[{index}]"),
                    format!("{address} is not one of the tenant's"),
                    names(tenant.local_addresses.iter()),
                );
            }
        }
    }
    if !tenant.allow_weak_algorithms {
        let ike = connection
            .ike_proposals
            .iter()
            .map(|text| ("ike_proposals", text));
        let esp = connection
            .esp_proposals
            .iter()
            .map(|text| ("esp_proposals", text));
        for (field, text) in ike.chain(esp) {
            if let Some(word) = weak_word(text) {
                check.refuse(
                    field,
                    format!("\"{text}\" names {word}, which is weak"),
                    "stronger algorithms, or allow_weak_algorithms in the tenant",
                );
            }
        }
    }
    check
}

/// Pools that lie in one routing domain must be apart: their routes would contradict each other.
fn check_pool(
    tenants: &BTreeMap<String, Arc<TenantState>>,
    tenant: &Tenant,
    pool: &AddressPool,
    audience: Audience,
) -> Checker {
    let mut check = Checker::default();
    for other in tenants.values() {
        let Some((owner, _)) = &other.tenant else { continue };
        if owner.routing_domain.netns != tenant.routing_domain.netns {
            continue;
        }
        for (neighbour, _) in other.pools.values() {
            let same = neighbour.tenant == pool.tenant && neighbour.name == pool.name;
            if !same && neighbour.range.overlaps(&pool.range) {
                let allowed = if owner.name == tenant.name {
                    "addresses of no other pool of the tenant"
                } else {
                    "addresses of no pool in the same routing domain; tenants with network namespaces of their own may overlap"
                };
                let whole = format!(
                    "{} of pool {}/{}",
                    neighbour.range, neighbour.tenant, neighbour.name
                );
                let named = if owner.name == tenant.name {
                    whole
                } else {
                    audience.call(whole, "a pool of another tenant in the same routing domain")
                };
                check.refuse("range", format!("overlaps {named}"), allowed);
            }
        }
    }
    check
}

fn anchors(check: &mut Checker, state: &TenantState, list: &[String]) {
    for (index, name) in list.iter().enumerate() {
        named(
            check,
            state,
            &format!("trust_anchors[{index}]"),
            name,
            "ca_certificate",
        );
    }
}

/// A credential that is named has to be there, and of the right kind.
fn named(check: &mut Checker, state: &TenantState, field: &str, name: &str, kind: &str) {
    let of_kind = |credential: &Credential| credential.kind.name() == kind;
    match state.credentials.get(name) {
        Some((credential, _)) if of_kind(credential) => {}
        Some((credential, _)) => check.refuse(
            field,
            format!("credential \"{name}\" is of kind {}", credential.kind.name()),
            format!("a credential of kind {kind}"),
        ),
        None => {
            let fitting = state
                .credentials
                .iter()
                .filter(|(_, (credential, _))| of_kind(credential));
            check.refuse(
                field,
                format!("there is no credential \"{name}\""),
                names(fitting.map(|(name, _)| name)),
            );
        }
    }
}

fn names<T: ToString>(list: impl Iterator<Item = T>) -> String {
    let list: Vec<String> = list.take(20).map(|name| name.to_string()).collect();
    if list.is_empty() {
        "none is there yet: create it first".to_owned()
    } else {
        list.join(", ")
    }
}
