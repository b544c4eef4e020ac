//! Routing domains: one TUN device for each tenant, with routes for its pools and its sites.
//!
//! The registry says what there should be, the holder what there is; `reconcile` makes the difference go away. A
//! domain that cannot be attached (its namespace is missing, for instance) is tried again and does not hold the
//! others up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use dataplane::{Domain, Holder, Rate, Rates};
use ip::{IpNet, Selector};
use tenants::Registry;
use tenants::model::{Connection, Tenant};
use tokio::sync::Notify;

use crate::policy;

/// Routes of one domain; more are left out and told.
const ROUTES_MAX: usize = 10_000;

/// The routing domains of the node.
pub struct Domains {
    ids: DashMap<String, u32>,
    next: AtomicU32,
    attached: Mutex<BTreeMap<String, Domain>>,
    troubles: Mutex<BTreeMap<String, String>>,
    lost: Mutex<BTreeSet<u32>>,
    again: Notify,
}

impl Domains {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ids: DashMap::new(),
            next: AtomicU32::new(1),
            attached: Mutex::default(),
            troubles: Mutex::default(),
            lost: Mutex::default(),
            again: Notify::new(),
        }
    }

    /// The number of a tenant's domain, the same for the whole run.
    #[must_use]
    pub fn id(&self, tenant: &str) -> u32 {
        *self
            .ids
            .entry(tenant.to_owned())
            .or_insert_with(|| self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The tenant of a domain, by its number. Looks through all of them.
    #[must_use]
    pub fn tenant_of(&self, id: u32) -> Option<String> {
        let found = self.ids.iter().find(|entry| *entry.value() == id);
        found.map(|entry| entry.key().clone())
    }

    /// A domain's device has gone (its namespace was deleted, for instance): it is to be attached again.
    pub fn lost(&self, id: u32) {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
        self.again.notify_one();
    }

    /// Waits until a domain is lost.
    pub async fn wanted_again(&self) {
        self.again.notified().await;
    }

    /// What keeps domains from being attached, in words.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles
            .iter()
            .map(|(tenant, trouble)| format!("tenant {tenant}: {trouble}"))
            .collect()
    }

    /// Makes what is attached equal to what is configured; true when everything is. Waits for the kernel.
    pub fn reconcile(&self, registry: &Registry, holder: &Holder) -> bool {
        let wanted: BTreeMap<String, Domain> = registry
            .tenants()
            .into_iter()
            .map(|tenant| (tenant.name.clone(), self.wanted(registry, &tenant)))
            .collect();
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut troubles = BTreeMap::new();
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        let gone: Vec<String> = attached
            .iter()
            .filter(|(name, is)| {
                lost.contains(&is.id) || wanted.get(*name).is_none_or(|want| differ(is, want))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(domain) = attached.remove(&name)
                && let Err(error) = holder.detach_domain(domain.id)
            {
                troubles.insert(name, error.to_string());
            }
        }
        for (name, want) in wanted {
            let result = match attached.get_mut(&name) {
                Some(is) => update_rates(holder, is, &want).and_then(|()| update_routes(holder, is, &want)),
                None => holder.attach_domain(want.clone()).map(|report| {
                    for note in &report.notes {
                        tracing::info!(tenant = name, note, "routing domain");
                    }
                    tracing::info!(tenant = name, device = report.device, "routing domain attached");
                    attached.insert(name.clone(), want);
                }),
            };
            if let Err(error) = result {
                tracing::warn!(tenant = name, %error, "the routing domain is not as configured");
                troubles.insert(name, error.to_string());
            }
        }
        let complete = troubles.is_empty();
        *self.troubles.lock().unwrap_or_else(PoisonError::into_inner) = troubles;
        complete
    }

    fn wanted(&self, registry: &Registry, tenant: &Tenant) -> Domain {
        let mut routes = BTreeSet::new();
        let state = registry.tenant_state(&tenant.name);
        for (model, _) in state.iter().flat_map(|state| state.pools.values()) {
            match model.range_text.parse::<IpNet>() {
                Ok(net) => {
                    routes.insert(net.trunc());
                }
                Err(_) => routes.extend(cover(model.range.start(), model.range.end())),
            }
        }
        for connection in policy::connections(registry, &tenant.name) {
            routes.extend(site_routes(&connection));
        }
        // What is on the device itself is reached without a route.
        let own: BTreeSet<IpNet> = tenant.routing_domain.addresses.iter().map(IpNet::trunc).collect();
        let routes: Vec<IpNet> = routes
            .into_iter()
            .filter(|route| route.prefix_len() > 0 && !own.contains(route))
            .collect();
        if routes.len() > ROUTES_MAX {
            tracing::warn!(
                tenant = tenant.name,
                routes = routes.len(),
                "too many routes, some are left out"
            );
        }
        Domain {
            netns: tenant.routing_domain.netns.clone(),
            mtu: tenant.routing_domain.mtu,
            addresses: tenant.routing_domain.addresses.clone(),
            routes: routes.into_iter().take(ROUTES_MAX).collect(),
            rates: rates(tenant.limits.rates),
            ..Domain::new(
                self.id(&tenant.name),
                tenant.name.clone(),
                tenant.routing_domain.device.clone(),
            )
        }
    }
}

impl Default for Domains {
    fn default() -> Self {
        Self::new()
    }
}

fn site_routes(connection: &Connection) -> Vec<IpNet> {
    connection
        .remote_ts
        .iter()
        .flat_map(Selector::to_prefixes)
        .collect()
}

fn cover(start: IpAddr, end: IpAddr) -> Vec<IpNet> {
    Selector::new(0, (0, u16::MAX), start, end)
        .map(|range| range.to_prefixes())
        .unwrap_or_default()
}

/// Whether the device must be made again: everything but its routes.
fn differ(is: &Domain, want: &Domain) -> bool {
    is.netns != want.netns || is.device != want.device || is.mtu != want.mtu || is.addresses != want.addresses
}

/// Rates change while packets pass.
fn update_rates(holder: &Holder, is: &mut Domain, want: &Domain) -> Result<(), dataplane::DomainError> {
    if is.rates != want.rates {
        holder.set_rates(is.id, want.rates)?;
        is.rates = want.rates;
    }
    Ok(())
}

fn rates(rates: tenants::model::Rates) -> Rates {
    let rate = |rate: tenants::model::Rate| Rate {
        octets: rate.octets,
        packets: rate.packets,
    };
    Rates {
        tenant_in: rate(rates.all_in),
        tenant_out: rate(rates.all_out),
        session_in: rate(rates.session_in),
        session_out: rate(rates.session_out),
    }
}

fn update_routes(holder: &Holder, is: &mut Domain, want: &Domain) -> Result<(), dataplane::DomainError> {
    let old: BTreeSet<IpNet> = is.routes.iter().copied().collect();
    let new: BTreeSet<IpNet> = want.routes.iter().copied().collect();
    for route in new.difference(&old) {
        holder.add_route(is.id, *route)?;
    }
    for route in old.difference(&new) {
        holder.del_route(is.id, *route)?;
    }
    is.routes.clone_from(&want.routes);
    Ok(())
}
