//! Certificates for tests, made with strongSwan's `pki`, so that the client's own tools have a say.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::process::run;

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// RSA with a modulus of so many bits.
    Rsa(u32),
    /// ECDSA on a curve of so many bits.
    Ecdsa(u32),
    /// Ed25519.
    Ed25519,
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now, and for years.
    Valid,
    /// It was good in the past.
    Expired,
    /// It will be good.
    Future,
}

/// A key with its certificate.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The private key, PEM.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
}

/// Makes a private key.
pub fn key(folder: &Path, name: &str, kind: Key) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.key.pem"));
    let (kind, size) = match kind {
        Key::Rsa(bits) => ("rsa", Some(bits.to_string())),
        Key::Ecdsa(bits) => ("ecdsa", Some(bits.to_string())),
        Key::Ed25519 => ("ed25519", None),
    };
    let mut command = vec!["pki", "--gen", "--type", kind, "--outform", "pem"];
    if let Some(size) = &size {
        command.extend(["--size", size]);
    }
    std::fs::write(&path, run(&command)?)?;
    Ok(path)
}

/// Makes an authority that signs itself.
pub fn authority(folder: &Path, name: &str, kind: Key) -> Result<Pair> {
    let key = key(folder, name, kind)?;
    let certificate = folder.join(format!("{name}.cert.pem"));
    let dn = format!("CN={name}");
    let text = run(&[
        "pki",
        "--self",
        "--ca",
        "--in",
        text_of(&key)?,
        "--dn",
        &dn,
        "--lifetime",
        "3650",
        "--outform",
        "pem",
    ])?;
    std::fs::write(&certificate, text)?;
    Ok(Pair { key, certificate })
}

/// What to certify.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// File name and common name.
    pub name: &'a str,
    /// The key to make.
    pub key: Key,
    /// subjectAltName entries (`dns`, address or mail form, as `pki` reads them).
    pub alternative_names: &'a [&'a str],
    /// Extended key usages, `serverAuth` or `clientAuth`.
    pub usages: &'a [&'a str],
    /// When it is good.
    pub validity: Validity,
    /// Whether it is an authority itself.
    pub is_authority: bool,
}

/// Issues a certificate under `issuer`.
pub fn issue(folder: &Path, issuer: &Pair, request: &Request<'_>) -> Result<Pair> {
    let key = key(folder, request.name, request.key)?;
    let certificate = folder.join(format!("{}.cert.pem", request.name));
    let dn = format!("CN={}", request.name);
    let mut command = vec![
        "pki",
        "--issue",
        "--cacert",
        text_of(&issuer.certificate)?,
        "--cakey",
        text_of(&issuer.key)?,
        "--type",
        "priv",
        "--in",
        text_of(&key)?,
        "--dn",
        &dn,
        "--outform",
        "pem",
    ];
    for name in request.alternative_names {
        command.extend(["--san", name]);
    }
    for usage in request.usages {
        command.extend(["--flag", usage]);
    }
    if request.is_authority {
        command.push("--ca");
    }
    let format = ["--dateform", "%Y-%m-%d"];
    match request.validity {
        Validity::Valid => command.extend(["--lifetime", "1000"]),
        Validity::Expired => {
            command.extend(format);
            command.extend(["--not-before", "2020-01-01", "--not-after", "2021-01-01"]);
        }
        Validity::Future => {
            command.extend(format);
            command.extend(["--not-before", "2090-01-01", "--not-after", "2091-01-01"]);
        }
    }
    std::fs::write(&certificate, run(&command)?)?;
    Ok(Pair { key, certificate })
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| anyhow::anyhow!("a path that is no text"))
}
