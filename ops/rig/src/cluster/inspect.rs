//! The checkers that look at a whole run when it is over: S1 and S9 over the captures, S11 over everything that was
//! written or sent.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::canary::{Canary, keys_of};
use super::inner::{Clear, Inner};
use super::scene::Scene;
use super::unique::Uniqueness;
use super::world::{POOL, POOL_GLOBEX, POOL_V6};
use crate::Result;

/// What they found.
#[derive(Debug, Default)]
pub struct Findings {
    /// One line for each checker.
    pub lines: Vec<String>,
    /// What does not hold.
    pub wrong: Vec<String>,
}

/// Ends the captures and looks at everything. The scene still stands, but its traffic need not.
pub fn run(scene: &mut Scene, more: &[PathBuf]) -> Result<Findings> {
    let mut findings = Findings::default();
    let captures = scene.finish_captures();
    let outside: Vec<_> = captures
        .iter()
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("svc-"))
        })
        .collect();
    let mut uniqueness = Uniqueness::new(&scene.world.service_addresses());
    let inner = Inner::new(&[
        POOL,
        POOL_V6,
        POOL_GLOBEX,
        "10.66.0.0/16",
        "10.97.0.0/24",
        "fd97::/64",
    ])?;
    let mut clear = Clear::default();
    for path in outside {
        uniqueness.capture(path)?;
        clear.capture(path, &inner)?;
    }
    let verdict = uniqueness.verdict();
    findings.lines.push(format!("S1   {verdict}"));
    if !verdict.holds() {
        findings.wrong.push(format!("S1: {verdict}"));
    }
    findings.lines.push(format!("S9   {clear}"));
    if clear.clear > 0 {
        findings.wrong.push(format!("S9: {clear}"));
    }
    canary(scene, &captures, more, &mut findings)?;
    Ok(findings)
}

fn canary(scene: &Scene, captures: &[PathBuf], more: &[PathBuf], findings: &mut Findings) -> Result<()> {
    let mut keys = BTreeSet::new();
    for daemon in &scene.nodes {
        keys.extend(keys_of(&daemon.keys())?);
    }
    if keys.is_empty() {
        findings
            .lines
            .push("S11  not looked for: no keys are known in this run".to_owned());
        return Ok(());
    }
    let canary = Canary::new(&keys);
    let mut places: Vec<PathBuf> = scene.etcd.data();
    places.extend(captures.iter().cloned());
    places.extend(more.iter().cloned());
    for daemon in &scene.nodes {
        places.push(daemon.folder().join("concentrator.log"));
        places.push(daemon.folder().join("state"));
    }
    let mut found = Vec::new();
    let mut octets = 0;
    for place in &places {
        octets += canary.search(place, &mut found)?;
    }
    // The search itself must find what is there.
    let mut control = Vec::new();
    for daemon in &scene.nodes {
        canary.search(&daemon.keys(), &mut control)?;
    }
    findings.lines.push(format!(
        "S11  {} keys looked for in {} MiB of etcd's data, watches, logs, state, captures: {} found (control: {})",
        canary.keys(),
        octets >> 20,
        found.len(),
        control.len()
    ));
    if let Some(first) = found.first() {
        findings.wrong.push(format!(
            "S11: a key stands in {} at {}",
            first.file.display(),
            first.offset
        ));
    }
    if control.is_empty() {
        findings
            .wrong
            .push("S11: the search does not find keys where they are".to_owned());
    }
    Ok(())
}
