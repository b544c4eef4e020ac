//! The whole configuration at one revision, immutable: readers take it without locks, a change publishes another.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crypto::cert::TrustAnchors;
use store::Revision;

use crate::material::{self, Material, Psks};
use crate::model::{AddressPool, Auth, Connection, Credential, Tenant};
use crate::object::{Id, Kind, Meta, Object, Stored};
use crate::seal::Sealer;

type Named<T> = BTreeMap<String, (Arc<T>, Meta)>;

/// A tenant and everything in it, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantState {
    /// The tenant itself; `None` for remains without one.
    pub tenant: Option<(Arc<Tenant>, Meta)>,
    /// By name.
    pub connections: Named<Connection>,
    /// By name.
    pub pools: Named<AddressPool>,
    /// By name.
    pub credentials: Named<Credential>,
}

impl TenantState {
    /// Names of everything but the tenant itself.
    pub(crate) fn ids(&self) -> Vec<Id> {
        let connections = self
            .connections
            .values()
            .map(|(value, _)| Object::Connection(Arc::clone(value)).id());
        let pools = self
            .pools
            .values()
            .map(|(value, _)| Object::AddressPool(Arc::clone(value)).id());
        let credentials = self
            .credentials
            .values()
            .map(|(value, _)| Object::Credential(Arc::clone(value)).id());
        connections.chain(pools).chain(credentials).collect()
    }

    fn is_empty(&self) -> bool {
        self.tenant.is_none()
            && self.connections.is_empty()
            && self.pools.is_empty()
            && self.credentials.is_empty()
    }
}

/// Tenants by name.
pub(crate) type States = BTreeMap<String, Arc<TenantState>>;

/// One resource of the states.
pub(crate) fn get(states: &States, id: &Id) -> Option<Stored> {
    let state = states.get(&id.tenant)?;
    let (object, meta) = match id.kind {
        Kind::Tenant => state
            .tenant
            .as_ref()
            .map(|(value, meta)| (Object::Tenant(Arc::clone(value)), *meta)),
        Kind::Credential => state
            .credentials
            .get(&id.name)
            .map(|(value, meta)| (Object::Credential(Arc::clone(value)), *meta)),
        Kind::AddressPool => state
            .pools
            .get(&id.name)
            .map(|(value, meta)| (Object::AddressPool(Arc::clone(value)), *meta)),
        Kind::Connection => state
            .connections
            .get(&id.name)
            .map(|(value, meta)| (Object::Connection(Arc::clone(value)), *meta)),
    }?;
    Some(Stored { object, meta })
}

/// Puts a resource into the states, or takes it out.
pub(crate) fn set(states: &mut States, id: &Id, stored: Option<Stored>) {
    let state = Arc::make_mut(states.entry(id.tenant.clone()).or_default());
    match stored {
        None => match id.kind {
            Kind::Tenant => state.tenant = None,
            Kind::Credential => drop(state.credentials.remove(&id.name)),
            Kind::AddressPool => drop(state.pools.remove(&id.name)),
            Kind::Connection => drop(state.connections.remove(&id.name)),
        },
        Some(Stored { object, meta }) => match object {
            Object::Tenant(value) => state.tenant = Some((value, meta)),
            Object::Credential(value) => drop(state.credentials.insert(id.name.clone(), (value, meta))),
            Object::AddressPool(value) => drop(state.pools.insert(id.name.clone(), (value, meta))),
            Object::Connection(value) => drop(state.connections.insert(id.name.clone(), (value, meta))),
        },
    }
    if state.is_empty() {
        states.remove(&id.tenant);
    }
}

/// A tenant ready for logins.
pub(crate) struct View {
    pub(crate) state: Arc<TenantState>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) materials: HashMap<String, Arc<Material>>,
    pub(crate) psks: Psks,
    /// By connection.
    pub(crate) anchors: HashMap<String, Arc<TrustAnchors>>,
}

impl View {
    fn new(
        state: &Arc<TenantState>,
        tenant: &Arc<Tenant>,
        before: Option<&View>,
        sealer: &dyn Sealer,
    ) -> Self {
        let unchanged = |name: &String, meta: &Meta| {
            let before = before?;
            let (_, old) = before.state.credentials.get(name)?;
            (old.revision == meta.revision)
                .then(|| before.materials.get(name).cloned())
                .flatten()
        };
        let materials: HashMap<String, Arc<Material>> = state
            .credentials
            .iter()
            .map(|(name, (credential, meta))| {
                let opened =
                    unchanged(name, meta).unwrap_or_else(|| Arc::new(Material::open(credential, sealer)));
                (name.clone(), opened)
            })
            .collect();
        let psks =
            Psks::new(
                state
                    .credentials
                    .keys()
                    .filter_map(|name| match materials.get(name).map(|m| &**m) {
                        Some(Material::Psk { ids, secret }) => Some((name.as_str(), ids.as_slice(), secret)),
                        _ => None,
                    }),
            );
        let anchors = state
            .connections
            .values()
            .filter_map(|(connection, _)| match &connection.auth {
                Auth::Psk { .. } => None,
                Auth::Certificate { trust_anchors, .. } => {
                    let names = if trust_anchors.is_empty() {
                        &tenant.trust_anchors
                    } else {
                        trust_anchors
                    };
                    Some((connection.name.clone(), material::anchors(&materials, names)))
                }
            })
            .collect();
        Self {
            state: Arc::clone(state),
            tenant: Arc::clone(tenant),
            materials,
            psks,
            anchors,
        }
    }
}

/// A connection with the view it belongs to.
pub(crate) type Candidate = (Arc<View>, Arc<Connection>);

/// The configuration at one revision.
pub(crate) struct Snapshot {
    /// Every change up to here is in.
    pub(crate) revision: Revision,
    /// Revision of the fence; `None` before the first change.
    pub(crate) fence: Option<Revision>,
    pub(crate) states: States,
    pub(crate) views: HashMap<String, Arc<View>>,
    /// Connections that answer on certain addresses only.
    pub(crate) by_local: HashMap<IpAddr, Vec<Candidate>>,
    /// Connections that answer on any address.
    pub(crate) anywhere: Vec<Candidate>,
}

impl Snapshot {
    /// Builds the views of changed tenants and takes the others over from `before`.
    pub(crate) fn new(
        states: States,
        revision: Revision,
        fence: Option<Revision>,
        before: Option<&Snapshot>,
        sealer: &dyn Sealer,
    ) -> Self {
        let mut views = HashMap::with_capacity(states.len());
        for (name, state) in &states {
            let Some((tenant, _)) = &state.tenant else {
                continue;
            };
            let old = before.and_then(|before| before.views.get(name));
            let view = match old {
                Some(old) if Arc::ptr_eq(&old.state, state) => Arc::clone(old),
                _ => Arc::new(View::new(state, tenant, old.map(|old| &**old), sealer)),
            };
            views.insert(name.clone(), view);
        }
        let (mut by_local, mut anywhere) = (HashMap::<IpAddr, Vec<Candidate>>::new(), Vec::new());
        for name in states.keys() {
            let Some(view) = views.get(name) else { continue };
            for (connection, _) in view.state.connections.values() {
                let candidate = (Arc::clone(view), Arc::clone(connection));
                let addresses = match connection.local_addresses.as_slice() {
                    [] => &view.tenant.local_addresses,
                    _ => &connection.local_addresses,
                };
                if addresses.is_empty() {
                    anywhere.push(candidate);
                } else {
                    for address in addresses {
                        by_local.entry(*address).or_default().push(candidate.clone());
                    }
                }
            }
        }
        Self {
            revision,
            fence,
            states,
            views,
            by_local,
            anywhere,
        }
    }
}
