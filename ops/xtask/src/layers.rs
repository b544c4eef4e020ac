//! The import rules: which of our crates, and which foreign ones, a crate may name.
//!
//! A rule lists what is allowed directly; `never` is checked against everything that the crate reaches.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, PackageId};

struct Rule {
    name: &'static str,
    ours: &'static [&'static str],
    /// Foreign crates that it may name; `None` where only `never` binds.
    theirs: Option<&'static [&'static str]>,
    /// Crates that it must not reach, directly or through others.
    never: &'static [&'static str],
}

const ASYNC: &[&str] = &["tokio", "actix", "tonic", "futures", "async-trait"];
const CRYPTO: &[&str] = &["ring", "openssl", "aws-lc-rs", "ipsec-mb"];

const RULES: &[Rule] = &[
    Rule {
        name: "ip",
        ours: &[],
        theirs: Some(&["thiserror", "ipnet", "serde"]),
        never: ASYNC,
    },
    Rule {
        name: "netem",
        ours: &[],
        theirs: Some(&["thiserror"]),
        never: ASYNC,
    },
    Rule {
        name: "ipsec-mb",
        ours: &[],
        theirs: Some(&["zeroize", "cc"]),
        never: ASYNC,
    },
    Rule {
        name: "crypto",
        ours: &["ipsec-mb"],
        theirs: Some(&[
            "ring",
            "openssl",
            "openssl-sys",
            "foreign-types",
            "aws-lc-rs",
            "zeroize",
            "subtle",
            "thiserror",
            "serde",
        ]),
        never: &["tokio", "actix", "tonic"],
    },
    Rule {
        name: "ike",
        ours: &["ip", "crypto"],
        theirs: Some(&["thiserror", "serde"]),
        never: &["tokio", "actix", "tonic", "opentelemetry", "tracing"],
    },
    Rule {
        name: "esp",
        ours: &["ip", "crypto"],
        theirs: Some(&["thiserror", "arrayvec"]),
        never: &["ike", "tokio", "actix", "tonic", "opentelemetry", "tracing"],
    },
    Rule {
        name: "api",
        ours: &[],
        theirs: Some(&["tonic", "tonic-prost", "prost", "prost-types", "serde"]),
        never: &["actix"],
    },
    Rule {
        name: "store",
        ours: &[],
        theirs: None,
        never: &[
            "actix",
            "tenants",
            "ike",
            "esp",
            "crypto",
            "dataplane",
            "concentrator",
        ],
    },
    Rule {
        name: "tenants",
        ours: &["api", "ip", "crypto", "store"],
        theirs: None,
        never: &["ike", "actix", "dataplane"],
    },
    Rule {
        name: "dataplane",
        ours: &["ip", "esp", "crypto"],
        theirs: None,
        never: &["actix", "tonic", "store", "ike", "tokio"],
    },
    Rule {
        name: "cluster",
        ours: &["store", "crypto"],
        theirs: Some(&["serde", "serde_json", "postcard", "thiserror"]),
        never: &["actix", "ike", "esp", "tenants", "dataplane", "concentrator"],
    },
    Rule {
        name: "concentrator",
        ours: &[
            "cluster",
            "api",
            "ip",
            "crypto",
            "ike",
            "esp",
            "store",
            "tenants",
            "dataplane",
        ],
        theirs: None,
        never: &[],
    },
    Rule {
        name: "vpnctl",
        ours: &["api"],
        theirs: None,
        never: &["ike", "esp", "crypto", "tenants", "concentrator", "actix"],
    },
    Rule {
        name: "rig",
        ours: &["api", "netem"],
        theirs: None,
        never: &["ike", "esp", "crypto", "tenants", "concentrator", "actix"],
    },
    Rule {
        name: "xtask",
        ours: &[],
        theirs: None,
        never: &[],
    },
    Rule {
        name: "loadtest",
        ours: &["ike", "esp", "ip", "crypto", "netem", "dataplane", "api"],
        theirs: None,
        never: &["concentrator", "tenants", "actix"],
    },
];

/// Checks every member of the workspace; a member without a rule is an error.
pub(crate) fn check() -> Result<String> {
    let metadata = MetadataCommand::new().exec().context("cargo metadata")?;
    let members: BTreeSet<_> = metadata
        .workspace_packages()
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    let resolve = metadata
        .resolve
        .as_ref()
        .context("cargo metadata gave no dependency graph")?;
    let names: BTreeMap<&PackageId, String> = metadata
        .packages
        .iter()
        .map(|p| (&p.id, p.name.to_string()))
        .collect();
    let edges: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node
                .deps
                .iter()
                .filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal))
                .map(|d| &d.pkg)
                .collect();
            (&node.id, normal)
        })
        .collect();

    let mut faults = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.to_string();
        let Some(rule) = RULES.iter().find(|r| r.name == name) else {
            faults.push(format!(
                "{name}: no rule for this crate in ops/xtask/src/layers.rs"
            ));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal)
        {
            let other = dependency.name.as_str();
            if members.contains(other) {
                if !rule.ours.contains(&other) {
                    faults.push(format!(
                        "{name} imports {other}; it may import {:?} of ours",
                        rule.ours
                    ));
                }
            } else if rule.theirs.is_some_and(|allowed| !allowed.contains(&other)) {
                faults.push(format!(
                    "{name} imports {other}; it may import {:?} of others",
                    rule.theirs.unwrap_or_default()
                ));
            }
            if CRYPTO.contains(&other) && name != "crypto" {
                faults.push(format!(
                    "{name} imports {other}: only crypto may name a cryptographic library"
                ));
            }
        }
        let reached = reach(&package.id, &edges);
        for id in reached {
            if let Some(found) = names.get(id).filter(|n| rule.never.contains(&n.as_str())) {
                faults.push(format!("{name} reaches {found}, which it never may"));
            }
        }
    }
    if !faults.is_empty() {
        bail!("layers: {} fault(s)\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(format!(
        "layers: {} crates keep to the import rules",
        members.len()
    ))
}

fn reach<'a>(
    from: &'a PackageId,
    edges: &BTreeMap<&'a PackageId, Vec<&'a PackageId>>,
) -> BTreeSet<&'a PackageId> {
    let mut seen = BTreeSet::new();
    let mut queue = vec![from];
    while let Some(id) = queue.pop() {
        for next in edges.get(id).into_iter().flatten() {
            if seen.insert(*next) {
                queue.push(next);
            }
        }
    }
    seen
}
