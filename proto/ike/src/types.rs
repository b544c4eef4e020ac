//! The public vocabulary of the crate: what goes into an [`IkeSa`](crate::IkeSa) and what comes out of it.

mod child;
mod context;
pub(crate) mod dn;
mod failure;
mod gateway;
mod identity;
mod io;

pub use child::{
    Activate, ChildEnd, ChildKeys, ChildPolicy, ChildSa, Lifetime, Mode, RekeyPolicy, Resource,
    SecurityProtocol,
};
pub use context::{
    Context, Counters, IkeSuite, InitPolicy, InitiatorConfig, NatFindings, Phase, Role, SpiAllocator, Timing,
};
pub use failure::{CloseReason, Failure, FailureKind, Stage};
pub use gateway::{GatewayId, GatewayIdError};
pub use identity::{Identity, IdentityError};
pub use io::{Command, Event, IkeSummary, Input, KeyLog, KeyLogTable, MessageIds, Output, Transmit};
