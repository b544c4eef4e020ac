//! `[path_mtu]`: what is believed of ICMP messages that say that a packet was too big for the way to a peer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[path_mtu]`: what is believed of the way to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathMtu {
    /// Learn the MTU of paths from ICMP (RFC 4301 section 8.2); it needs CAP_NET_RAW. A message is believed only if it
    /// quotes a packet that was just sent. Default: true.
    pub learn: bool,
    /// No smaller MTU is believed, in octets; over IPv6 never one below 1280. Packets beyond it go without DF. 576 to 1,500.
    pub mtu_floor: u16,
    /// Seconds after which what was learned is forgotten (RFC 4301 section 8.2.2). 60 to 86,400.
    pub age_secs: u32,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self {
            learn: true,
            mtu_floor: dataplane::LEAST_V4,
            age_secs: 600,
        }
    }
}

impl PathMtu {
    /// Says each value with its limits.
    pub(super) fn check(&self, range: &mut impl FnMut(&str, u64, u64, u64)) {
        range(
            "path_mtu.mtu_floor",
            self.mtu_floor.into(),
            dataplane::LEAST_V4.into(),
            1_500,
        );
        range("path_mtu.age_secs", self.age_secs.into(), 60, 86_400);
    }

    /// As the data plane takes it.
    #[must_use]
    pub fn plane(&self) -> dataplane::PathMtu {
        dataplane::PathMtu {
            learn: self.learn,
            floor: self.mtu_floor,
            age: Duration::from_secs(self.age_secs.into()),
        }
    }
}
