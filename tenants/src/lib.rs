//! Who may connect, and with what: tenants, connections, address pools, credentials, and the gRPC services over them.
//!
//! The external model is `api::v1` (what people write), the internal one is [`model`] (what has been validated);
//! [`validate`] leads from one to the other and says which field is wrong and why. [`Registry`] holds the
//! internal model in memory over a [`store::Store`] and answers the daemon's questions without I/O.
//!
//! ```text
//!   vpnctl ──gRPC──► service ──validate──► Registry ──► Store (config/…, pool/…, audit/…)
//!                                             ▲
//!   daemon ── resolve, psk, anchors, pools ───┘        daemon ── record ──► Attempts ──► service
//! ```

pub mod attempt;
pub mod attempts;
pub mod audit;
pub mod backend;
pub mod cluster_backend;
mod diff;
mod external;
pub mod identity;
mod material;
pub mod model;
pub mod object;
pub mod pool;
pub mod proposal;
pub mod range;
pub mod registry;
pub mod resolve;
pub mod seal;
pub mod service;
mod snapshot;
pub mod validate;

pub use attempt::{AttemptRecord, FailureKind};
pub use attempts::{AttemptFilter, Attempts};
pub use backend::{BackendError, SessionBackend, SessionFilter};
pub use cluster_backend::ClusterBackend;
pub use identity::{IdPattern, PeerIdentity};
pub use material::{LocalKey, MaterialError};
pub use model::{AddressPool, Auth, Connection, Credential, Tenant};
pub use object::{Id, Kind};
pub use pool::{Pool, PoolError, Share};
pub use range::AddressRange;
pub use registry::{ConfigChange, Mutation, PoolBlock, Registry, RegistryError};
pub use resolve::{Method, Query, Resolution};
pub use seal::{SealError, Sealer};
pub use snapshot::TenantState;

#[cfg(test)]
mod testing;
