//! An established IKE SA at rest: what survives a restart of an actor, of a process, of a node.

use std::fmt;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::established::CoreSnapshot;
pub use crate::established::RestoreError;

/// Version of the record; another one is refused.
pub(crate) const VERSION: u16 = 3;

/// A live IKE SA as a record: keys, message IDs, cached responses, children, timers as what is left of them.
///
/// Serialize it, seal it (it holds keys), store it; [`IkeSa::restore`](crate::IkeSa::restore) goes on from it. The record
/// begins with its version: one of another version can be read, and [`restore`](crate::IkeSa::restore) says which it is.
#[derive(Clone)]
pub struct Snapshot(Body);

#[derive(Clone)]
enum Body {
    Known(Box<CoreSnapshot>),
    /// Written by another version of this software.
    Other(u16),
}

impl Snapshot {
    pub(crate) fn new(core: CoreSnapshot) -> Self {
        Self(Body::Known(Box::new(core)))
    }

    pub(crate) fn into_core(self) -> Result<CoreSnapshot, RestoreError> {
        match self.0 {
            Body::Known(core) => Ok(*core),
            Body::Other(version) => Err(RestoreError::Version(version)),
        }
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Body::Known(core) = &self.0 else {
            return Err(serde::ser::Error::custom("a record of another version"));
        };
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&VERSION)?;
        tuple.serialize_element(core)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(2, Parts)
    }
}

/// Version, then what it says.
struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Snapshot;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record of an IKE SA")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Snapshot, A::Error> {
        let version = seq
            .next_element::<u16>()?
            .ok_or_else(|| A::Error::invalid_length(0, &self))?;
        if version != VERSION {
            // Formats that say how long things are may skip it; the others stop here.
            drop(seq.next_element::<IgnoredAny>());
            return Ok(Snapshot(Body::Other(version)));
        }
        let core = seq
            .next_element()?
            .ok_or_else(|| A::Error::invalid_length(1, &self))?;
        Ok(Snapshot(Body::Known(core)))
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot(..)")
    }
}
