//! Where each fault of the specification is made to happen. Nothing may be missing silently: a fault that only a
//! simulation can cause says so, and one that nothing causes says that.

use super::faults;

/// Where a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Faults of this rig, by name.
    Chaos(&'static [&'static str]),
    /// A test: file and name, or a folder of them.
    Test(&'static str),
    /// A simulation with a virtual clock and virtual disks.
    Simulator(&'static str),
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// Every fault to survive, in the order of the specification.
pub const FAULTS: &[(&str, &[Where])] = &[
    ("kill -9 a concentrator", &[Where::Chaos(&["kill"])]),
    (
        "panic in an SA actor",
        &[
            Where::Chaos(&["panic-ike-sa"]),
            Where::Test("ops/rig/tests/faults.rs"),
        ],
    ),
    (
        "panic in a worker",
        &[
            Where::Chaos(&["panic-worker"]),
            Where::Test("ops/rig/tests/faults.rs"),
        ],
    ),
    (
        "panic in a tenant supervisor",
        &[
            Where::Chaos(&["panic-tenant"]),
            Where::Test("ops/rig/tests/faults.rs"),
        ],
    ),
    (
        "SIGSTOP 1, 5, 60 s then CONT",
        &[Where::Chaos(&["stop-1s", "stop-5s", "stop-60s"])],
    ),
    ("service link down", &[Where::Chaos(&["service-down"])]),
    ("cluster link down", &[Where::Chaos(&["cluster-down"])]),
    (
        "node dies without a word",
        &[Where::Chaos(&["host-death", "silent-cut"])],
    ),
    (
        "asymmetric partition",
        &[Where::Chaos(&["asymmetric-pair", "asymmetric-out"])],
    ),
    (
        "split brain, both nodes made to believe",
        &[
            Where::Chaos(&["split-brain"]),
            Where::Test("concentrator/tests/cluster.rs"),
        ],
    ),
    ("flapping link", &[Where::Chaos(&["flapping"])]),
    (
        "etcd leader killed, stopped",
        &[Where::Chaos(&["etcd-leader-killed", "etcd-leader-stopped"])],
    ),
    (
        "node and etcd leader together",
        &[Where::Chaos(&["host-with-leader"])],
    ),
    (
        "etcd quorum lost 10 min",
        &[Where::Chaos(&["quorum-lost-15s", "quorum-lost-10min"])],
    ),
    ("etcd wiped", &[Where::Chaos(&["etcd-wiped"])]),
    (
        "etcd restored from a backup",
        &[Where::Chaos(&["etcd-restored", "backup-restored"])],
    ),
    ("NOSPACE alarm", &[Where::Chaos(&["nospace"])]),
    (
        "slow disk",
        &[
            Where::Chaos(&["etcd-slow"]),
            Where::Test(
                "tenants/store/tests/etcd/faults.rs (the leader held up; a disk cannot be slowed here)",
            ),
        ],
    ),
    ("watch cut", &[Where::Chaos(&["watch-cut"])]),
    ("watch compacted", &[Where::Chaos(&["watch-compacted"])]),
    (
        "watch duplicated, lost events",
        &[Where::Test(
            "tenants/store/tests/etcd/faults.rs (a proxy between)",
        )],
    ),
    ("lease revoked", &[Where::Chaos(&["lease-revoked"])]),
    (
        "crash between any two steps of persist-before-send",
        &[
            Where::Simulator("concentrator/cluster/tests (a crash at every step)"),
            Where::Chaos(&["kill-in-rekey", "kill-in-fragmented-auth"]),
        ],
    ),
    (
        "failover during a simultaneous rekey",
        &[Where::Chaos(&["kill-in-rekey"])],
    ),
    (
        "failover during a fragmented IKE_AUTH",
        &[Where::Chaos(&["kill-in-fragmented-auth"])],
    ),
    (
        "failover during an EAP dialogue",
        &[
            Where::Chaos(&["kill-in-half-open"]),
            Where::Test("concentrator/tests/takeover.rs (half-open and undecided logins)"),
            Where::Nowhere(
                "the dialogue itself: EAP is not built yet; a login between IKE_SA_INIT and its end stands for it",
            ),
        ],
    ),
    ("two failovers within 1 s", &[Where::Chaos(&["two-failovers"])]),
    ("power cut of all nodes", &[Where::Chaos(&["power-cut"])]),
    (
        "clock steps",
        &[
            Where::Chaos(&["clock"]),
            Where::Simulator(
                "concentrator/cluster/tests (the wall clock is no input; a namespace cannot step it)",
            ),
        ],
    ),
    ("disk full", &[Where::Chaos(&["disk-full"])]),
    ("file descriptors exhausted", &[Where::Chaos(&["descriptors"])]),
    (
        "loss 20 %",
        &[Where::Chaos(&["loss-20", "loss-20-kill", "cluster-loss-20"])],
    ),
    ("duplication", &[Where::Chaos(&["duplicates"])]),
    ("reordering", &[Where::Chaos(&["reordering"])]),
    (
        "10,000-user login storm, half behind 4 addresses",
        &[Where::Chaos(&["storm", "storm-10000"])],
    ),
    (
        "rolling upgrade",
        &[Where::Chaos(&["rolling-upgrade", "rolling-restart"])],
    ),
    ("rotation of every key", &[Where::Chaos(&["rotate-keys"])]),
    (
        "tenant deleted during a takeover",
        &[Where::Chaos(&["tenant-deleted-in-takeover"])],
    ),
    ("noisy tenant", &[Where::Chaos(&["noisy-tenant"])]),
    (
        "replay of captured traffic to the new owner",
        &[Where::Chaos(&["replay"])],
    ),
    (
        "planned: move, drain, leave and join",
        &[
            Where::Chaos(&["move", "drain", "leave-join"]),
            Where::Test("ops/rig/tests/cluster.rs (drained into the other nodes by redirects)"),
        ],
    ),
];

/// The list for people.
pub fn list() -> String {
    let mut out = String::new();
    for (fault, places) in FAULTS {
        let places: Vec<String> = places
            .iter()
            .map(|place| match place {
                Where::Chaos(names) => format!("chaos: {}", names.join(", ")),
                Where::Test(test) => format!("test: {test}"),
                Where::Simulator(test) => format!("simulator: {test}"),
                Where::Nowhere(why) => format!("NOT COVERED: {why}"),
            })
            .collect();
        out += &format!("{fault:<52} {}\n", places.join("; "));
    }
    out += "\nfault                       expected\n";
    for fault in faults::all() {
        let bar = fault
            .class
            .bar_ms()
            .map_or_else(String::new, |bar| format!(" [≤ {bar:.0} ms]"));
        let long = if fault.long { " (only when named)" } else { "" };
        out += &format!("{:<27} {}{bar}{long}\n", fault.name, fault.expected);
    }
    out
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_name_exists_and_every_fault_is_somebodys() {
        let all = faults::all();
        let named = |name: &str| {
            FAULTS
                .iter()
                .flat_map(|(_, places)| places.iter())
                .any(|place| matches!(place, Where::Chaos(names) if names.contains(&name)))
        };
        for (fault, places) in FAULTS {
            assert!(!places.is_empty(), "{fault}");
            for place in *places {
                if let Where::Chaos(names) = place {
                    for name in *names {
                        assert!(all.iter().any(|f| f.name == *name), "{fault}: there is no {name}");
                    }
                }
            }
        }
        for (index, fault) in all.iter().enumerate() {
            assert!(
                named(fault.name),
                "{} covers nothing of the specification",
                fault.name
            );
            assert!(
                all.iter().skip(index + 1).all(|f| f.name != fault.name),
                "{} twice",
                fault.name
            );
        }
    }
}
