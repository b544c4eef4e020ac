//! The four kinds of stored resources behind one face: their keys in the store and their stored form.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Revision;

use crate::model::{AddressPool, Connection, Credential, Tenant};

/// Everything under it is a resource or the fence.
pub const CONFIG: &str = "config/";
/// Written by every change of resources: who has seen its revision has seen all changes before.
pub const FENCE: &str = "config/.fence";

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A tenant.
    Tenant,
    /// A credential of a tenant.
    Credential,
    /// An address pool of a tenant.
    AddressPool,
    /// A connection of a tenant.
    Connection,
}

impl Kind {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tenant => "Tenant",
            Kind::Credential => "Credential",
            Kind::AddressPool => "AddressPool",
            Kind::Connection => "Connection",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Kind::Tenant => "tenant",
            Kind::Credential => "credential",
            Kind::AddressPool => "pool",
            Kind::Connection => "connection",
        }
    }
}

/// Names a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its tenant; of a tenant its own name.
    pub tenant: String,
    /// What it is.
    pub kind: Kind,
    /// Its name; of a tenant the tenant's.
    pub name: String,
}

impl Id {
    /// Names a resource.
    pub fn new(kind: Kind, tenant: &str, name: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            kind,
            name: name.to_owned(),
        }
    }

    /// Its key in the store.
    pub(crate) fn key(&self) -> String {
        match self.kind {
            Kind::Tenant => format!("{CONFIG}{}/tenant", self.tenant),
            kind @ (Kind::Credential | Kind::AddressPool | Kind::Connection) => {
                format!("{CONFIG}{}/{}/{}", self.tenant, kind.folder(), self.name)
            }
        }
    }

    /// The resource of a key; `None` when it is none.
    pub fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(CONFIG)?.split('/');
        let (tenant, folder, name) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        let of = |kind| name.map(|name| Self::new(kind, tenant, name));
        match folder {
            "tenant" if name.is_none() => Some(Self::new(Kind::Tenant, tenant, tenant)),
            "credential" => of(Kind::Credential),
            "pool" => of(Kind::AddressPool),
            "connection" => of(Kind::Connection),
            _ => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Tenant => write!(f, "Tenant {}", self.tenant),
            kind @ (Kind::Credential | Kind::AddressPool | Kind::Connection) => {
                write!(f, "{} {}/{}", kind.name(), self.tenant, self.name)
            }
        }
    }
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A tenant.
    Tenant(Arc<Tenant>),
    /// A credential.
    Credential(Arc<Credential>),
    /// A pool.
    AddressPool(Arc<AddressPool>),
    /// A connection.
    Connection(Arc<Connection>),
}

impl Object {
    /// Its name.
    pub fn id(&self) -> Id {
        match self {
            Object::Tenant(tenant) => Id::new(Kind::Tenant, &tenant.name, &tenant.name),
            Object::Credential(credential) => Id::new(Kind::Credential, &credential.tenant, &credential.name),
            Object::AddressPool(pool) => Id::new(Kind::AddressPool, &pool.tenant, &pool.name),
            Object::Connection(connection) => Id::new(Kind::Connection, &connection.tenant, &connection.name),
        }
    }
}

/// When a resource was written, and by which write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// When it was made.
    pub created: SystemTime,
    /// When it was written last.
    pub updated: SystemTime,
    /// The store's revision of that write.
    pub revision: Revision,
}

/// A resource as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The resource.
    pub object: Object,
    /// Its times and revision.
    pub meta: Meta,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    created_millis: u64,
    updated_millis: u64,
    value: T,
}

/// A stored resource cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored {id} cannot be read: {reason}")]
pub struct DecodeError {
    id: Id,
    reason: String,
}

pub(crate) fn encode(
    object: &Object,
    created: SystemTime,
    updated: SystemTime,
) -> Result<Vec<u8>, serde_json::Error> {
    fn of<T: Serialize>(
        value: &T,
        created_millis: u64,
        updated_millis: u64,
    ) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Envelope {
            created_millis,
            updated_millis,
            value,
        })
    }
    let (created, updated) = (to_millis(created), to_millis(updated));
    match object {
        Object::Tenant(tenant) => of(&**tenant, created, updated),
        Object::Credential(credential) => of(&**credential, created, updated),
        Object::AddressPool(pool) => of(&**pool, created, updated),
        Object::Connection(connection) => of(&**connection, created, updated),
    }
}

pub(crate) fn decode(id: &Id, value: &[u8], revision: Revision) -> Result<Stored, DecodeError> {
    fn of<T: DeserializeOwned>(
        value: &[u8],
        revision: Revision,
        make: fn(Arc<T>) -> Object,
    ) -> Result<Stored, serde_json::Error> {
        let envelope: Envelope<T> = serde_json::from_slice(value)?;
        let meta = Meta {
            created: from_millis(envelope.created_millis),
            updated: from_millis(envelope.updated_millis),
            revision,
        };
        Ok(Stored {
            object: make(Arc::new(envelope.value)),
            meta,
        })
    }
    let stored = match id.kind {
        Kind::Tenant => of(value, revision, Object::Tenant),
        Kind::Credential => of(value, revision, Object::Credential),
        Kind::AddressPool => of(value, revision, Object::AddressPool),
        Kind::Connection => of(value, revision, Object::Connection),
    };
    stored.map_err(|error| DecodeError {
        id: id.clone(),
        reason: error.to_string(),
    })
}

pub(crate) fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn keys_round_trip() {
        for id in [
            Id::new(Kind::Tenant, "acme", "acme"),
            Id::new(Kind::Credential, "acme", "ca"),
            Id::new(Kind::AddressPool, "acme", "v4"),
            Id::new(Kind::Connection, "acme", "road.warrior"),
        ] {
            assert_eq!(Id::from_key(&id.key()), Some(id));
        }
        for key in [
            FENCE,
            "config/acme/other/x",
            "config/acme/pool",
            "config/acme/pool/a/b",
            "pool/acme/x",
        ] {
            assert_eq!(Id::from_key(key), None, "{key}");
        }
    }
}
