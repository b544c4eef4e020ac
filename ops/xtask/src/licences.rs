//! The licences of everything that is linked.

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "Unicode-3.0",
    "MIT-0",
    "OpenSSL",
    "BSL-1.0",
];

/// Every dependency offers at least one set of terms made of allowed licences.
pub(crate) fn check() -> Result<String> {
    let metadata = MetadataCommand::new().exec().context("cargo metadata")?;
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let Some(licence) = package.license.as_deref() else {
            faults.push(format!("{}: no licence named", package.name));
            continue;
        };
        if !acceptable(licence) {
            faults.push(format!("{}: {licence}", package.name));
        }
    }
    if !faults.is_empty() {
        bail!(
            "licences: {} not allowed\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    Ok(format!(
        "licences: {} packages are allowed",
        metadata.packages.len()
    ))
}

/// An SPDX expression read as AND of ORs, which is the only form in use (`/` is an old spelling of OR).
fn acceptable(expression: &str) -> bool {
    let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
    flat.split(" AND ").all(|clause| {
        clause.split(" OR ").any(|one| {
            let licence = one.split(" WITH ").next().unwrap_or_default().trim();
            ALLOWED.contains(&licence)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::acceptable;

    #[test]
    fn expressions_are_read_as_and_of_ors() {
        assert!(acceptable("MIT OR GPL-3.0"));
        assert!(acceptable("MIT/Apache-2.0"));
        assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(acceptable("Apache-2.0 WITH LLVM-exception"));
        assert!(!acceptable("GPL-3.0-only"));
        assert!(!acceptable("MIT AND GPL-3.0-only"));
    }
}
