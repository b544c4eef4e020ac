//! `[redirect]`: when and where clients are sent to another gateway (RFC 5685).
//!
//! ```toml
//! [redirect]
//! to = ["vpn2.example.org"]
//! above_sessions = 50_000
//! ```
//!
//! What an operator orders with `vpnctl redirect` or `vpnctl cluster drain --redirect` needs nothing here but the two
//! last settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::redirect::{TARGETS_MAX, Target};

/// The section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// Where new clients are sent above `above_sessions`: addresses, host names, or `cluster` for what the other nodes of
    /// the cluster serve; taken in turn. At most 16. Default: none.
    pub to: Vec<Target>,
    /// New clients are sent to `to` while the node has so many sessions or more. 0 to 4,000,000; 0: never.
    pub above_sessions: u32,
    /// In a cluster, new clients are sent to the node with the fewest sessions while this node has so many percent more.
    /// 10 to 1,000, or 0: never.
    pub balance_percent: u32,
    /// Not below so many sessions of this node. 0 to 4,000,000.
    pub balance_above_sessions: u32,
    /// Clients with sessions that an operator's order sends away a second. 1 to 10,000.
    pub per_sec: u32,
    /// Seconds that such a client has to log in elsewhere and to end its session, before it is ended here. 5 to 600.
    //= rfc5685#section-5
    //# This time period should be configurable on the gateway.
    pub grace_secs: u32,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            above_sessions: 0,
            balance_percent: 0,
            balance_above_sessions: 100,
            per_sec: 50,
            grace_secs: 30,
        }
    }
}

impl Redirect {
    /// The time of a client that was sent away out of a session.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_secs.into())
    }

    /// One sentence for each thing that is wrong with the section.
    #[must_use]
    pub fn problems(&self, clustered: bool) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value, least, most) in [
            ("above_sessions", self.above_sessions, 0, 4_000_000),
            (
                "balance_above_sessions",
                self.balance_above_sessions,
                0,
                4_000_000,
            ),
            ("per_sec", self.per_sec, 1, 10_000),
            ("grace_secs", self.grace_secs, 5, 600),
        ] {
            if !(least..=most).contains(&value) {
                problems.push(format!(
                    "redirect.{name} is {value}, it must be {least} to {most}"
                ));
            }
        }
        if self.balance_percent != 0 && !(10..=1_000).contains(&self.balance_percent) {
            problems.push(format!(
                "redirect.balance_percent is {}, it must be 10 to 1000, or 0",
                self.balance_percent
            ));
        }
        if self.to.len() > TARGETS_MAX {
            problems.push(format!(
                "redirect.to (how many) is {}, it must be 0 to {TARGETS_MAX}",
                self.to.len()
            ));
        }
        if self.above_sessions > 0 && self.to.is_empty() {
            problems.push("redirect.above_sessions needs redirect.to".to_owned());
        }
        if !clustered && self.to.contains(&Target::Cluster) {
            problems.push("redirect.to names the cluster, and the node is not part of one".to_owned());
        }
        if !clustered && self.balance_percent > 0 {
            problems.push("redirect.balance_percent is for a node of a cluster".to_owned());
        }
        problems
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn problems(text: &str, clustered: bool) -> String {
        let section: Redirect = toml::from_str(text).unwrap();
        section.problems(clustered).join("; ")
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        //= rfc5685#section-5
        //= type=test
        //# This time period should be configurable on the gateway.
        assert_eq!(problems("", false), "");
        let good = "to = [\"cluster\", \"192.0.2.7\", \"vpn2.example.org\"]\nabove_sessions = 9\nbalance_percent = 20";
        assert_eq!(problems(good, true), "");
        let section: Redirect = toml::from_str(good).unwrap();
        let again: Redirect = toml::from_str(&toml::to_string(&section).unwrap()).unwrap();
        assert_eq!(again, section);
        for (text, clustered, expected) in [
            ("above_sessions = 9", true, "needs redirect.to"),
            ("to = [\"cluster\"]", false, "names the cluster"),
            ("balance_percent = 20", false, "for a node of a cluster"),
            ("balance_percent = 9", true, "10 to 1000"),
            ("per_sec = 0", true, "per_sec is 0"),
            ("grace_secs = 4", true, "grace_secs is 4"),
        ] {
            let found = problems(text, clustered);
            assert!(found.contains(expected), "{text}: {found}");
        }
        assert!(toml::from_str::<Redirect>("to = [\"no gateway\"]").is_err());
    }
}
