//! Validation of credentials: the secret parts are read, checked and sealed here, and go no further in clear.

use api::v1;
use crypto::Secret;
use crypto::cert::Certificate;
use crypto::sign::PrivateKey;

use super::connection::ID_ALLOWED;
use super::{Checker, Violations};
use crate::identity::{IdPattern, parse_hex};
use crate::model::{Credential, CredentialKind};
use crate::seal::Sealer;

/// Longest pre-shared key, in octets.
const MAX_PSK: usize = 1_024;
/// Longest PEM text, in octets.
const MAX_PEM: usize = 256 * 1024;
/// Most certificates of a credential.
const MAX_CERTIFICATES: usize = 64;

/// Checks a credential by itself. Of an update, an empty secret keeps that of `previous`.
///
/// # Errors
/// Every wrong field. The text of a violation never holds a secret.
pub fn credential(
    external: &v1::Credential,
    previous: Option<&Credential>,
    sealer: &dyn Sealer,
) -> Result<Credential, Violations> {
    let mut check = Checker::default();
    check.name("tenant", &external.tenant, false);
    check.name("name", &external.name, true);
    let description = check.description(&external.description);
    let mut secrets = Secrets {
        previous,
        sealer,
        context: context(&external.tenant, &external.name),
    };
    let read = match v1::CredentialKind::try_from(external.kind) {
        Ok(v1::CredentialKind::Psk) => psk(&mut check, external, &mut secrets),
        Ok(v1::CredentialKind::CaCertificate) => authorities(&mut check, external),
        Ok(v1::CredentialKind::PrivateKey) => private_key(&mut check, external, &mut secrets),
        Ok(v1::CredentialKind::Unspecified) | Err(_) => {
            check.refuse("kind", "is missing", "psk, ca_certificate, private_key");
            None
        }
    };
    if let (Some(previous), Some((kind, _))) = (previous, &read)
        && previous.kind.name() != kind.name()
    {
        check.refuse(
            "kind",
            format!("cannot change from {}", previous.kind.name()),
            "delete and create it",
        );
    }
    let violations = check.finish(());
    match (violations, read) {
        (Ok(()), Some((kind, secret_digest))) => Ok(Credential {
            tenant: external.tenant.clone(),
            name: external.name.clone(),
            description,
            kind,
            secret_digest,
        }),
        (Err(violations), _) => Err(violations),
        (Ok(()), None) => Err(Violations::one(
            "kind",
            "cannot be read",
            "psk, ca_certificate, private_key",
        )),
    }
}

/// What sealed secrets of a credential are bound to.
pub(crate) fn context(tenant: &str, name: &str) -> String {
    format!("credential/{tenant}/{name}")
}

/// Seals new secrets, keeps those that have not changed.
struct Secrets<'a> {
    previous: Option<&'a Credential>,
    sealer: &'a dyn Sealer,
    context: String,
}

type Sealed = (Vec<u8>, String);

impl Secrets<'_> {
    /// The previous sealed secret, if the kind fits.
    fn previous(&self, kind: &str) -> Option<Sealed> {
        let previous = self.previous.filter(|previous| previous.kind.name() == kind)?;
        match &previous.kind {
            CredentialKind::Psk { sealed, .. } | CredentialKind::PrivateKey { sealed, .. } => {
                Some((sealed.clone(), previous.secret_digest.clone()))
            }
            CredentialKind::CaCertificate { .. } => None,
        }
    }

    /// Seals a secret; one that is the same as before keeps its sealed form, so that nothing has changed.
    fn seal(&self, check: &mut Checker, field: &str, kind: &str, secret: &[u8]) -> Option<Sealed> {
        let digest: String = self
            .sealer
            .digest(&self.context, secret)
            .iter()
            .take(8)
            .map(|octet| format!("{octet:02x}"))
            .collect();
        if let Some(previous) = self.previous(kind).filter(|(_, previous)| *previous == digest) {
            return Some(previous);
        }
        match self.sealer.seal(&self.context, secret) {
            Ok(sealed) => Some((sealed, digest)),
            Err(error) => {
                check.refuse(field, error.to_string(), "");
                None
            }
        }
    }
}

fn psk(
    check: &mut Checker,
    external: &v1::Credential,
    secrets: &mut Secrets<'_>,
) -> Option<(CredentialKind, String)> {
    check.unused("certificates", !external.certificates.is_empty(), "with kind psk");
    check.unused("private_key", !external.private_key.is_empty(), "with kind psk");
    if external.ids.is_empty() {
        check.refuse("ids", "is missing: the key would be for nobody", ID_ALLOWED);
    }
    let ids = check.list::<IdPattern>("ids", &external.ids, ID_ALLOWED);
    let (sealed, digest) = if external.secret.is_empty() {
        let kept = secrets.previous("psk");
        if kept.is_none() {
            check.refuse(
                "secret",
                "is missing",
                "the key as text, 0x and hexadecimal, or 0s and base64",
            );
        }
        kept?
    } else {
        let secret = match decode_psk(&external.secret) {
            Ok(secret) => secret,
            Err(reason) => {
                check.refuse(
                    "secret",
                    reason,
                    format!("1 to {MAX_PSK} octets: text, 0x and hexadecimal, or 0s and base64"),
                );
                return None;
            }
        };
        secrets.seal(check, "secret", "psk", secret.expose())?
    };
    Some((CredentialKind::Psk { ids, sealed }, digest))
}

/// The octets of a key: text, or hexadecimal after `0x`, or base64 after `0s`.
fn decode_psk(text: &str) -> Result<Secret, &'static str> {
    let octets = if let Some(digits) = text.strip_prefix("0x") {
        parse_hex(digits).ok_or("has something other than hexadecimal digits after 0x")?
    } else if let Some(encoded) = text.strip_prefix("0s") {
        parse_base64(encoded).ok_or("has something other than base64 after 0s")?
    } else {
        text.as_bytes().to_vec()
    };
    match octets.len() {
        0 => Err("is empty"),
        1..=MAX_PSK => Ok(Secret::from(octets)),
        _ => Err("is too long"),
    }
}

fn parse_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if digits.len() % 4 == 1 || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut octets, mut bits, mut held) = (Vec::with_capacity(digits.len() * 3 / 4), 0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            octets.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(octets)
}

/// Certificates of a PEM text.
fn certificates(check: &mut Checker, pem: &str) -> Option<Vec<Certificate>> {
    let allowed = format!("1 to {MAX_CERTIFICATES} certificates in PEM (-----BEGIN CERTIFICATE-----)");
    if pem.trim().is_empty() {
        check.refuse("certificates", "is missing", allowed);
        return None;
    }
    if pem.len() > MAX_PEM {
        check.refuse(
            "certificates",
            format!("has {} octets", pem.len()),
            format!("at most {MAX_PEM}"),
        );
        return None;
    }
    if pem.contains("PRIVATE KEY-----") {
        check.refuse(
            "certificates",
            "holds a private key",
            "private keys belong to the field private_key",
        );
        return None;
    }
    match Certificate::from_pem(pem.as_bytes()) {
        Ok(list) if list.len() <= MAX_CERTIFICATES => Some(list),
        Ok(list) => {
            check.refuse("certificates", format!("holds {}", list.len()), allowed);
            None
        }
        Err(error) => {
            check.refuse("certificates", error.to_string(), allowed);
            None
        }
    }
}

fn authorities(check: &mut Checker, external: &v1::Credential) -> Option<(CredentialKind, String)> {
    check.unused("ids", !external.ids.is_empty(), "with kind ca_certificate");
    check.unused("secret", !external.secret.is_empty(), "with kind ca_certificate");
    check.unused(
        "private_key",
        !external.private_key.is_empty(),
        "with kind ca_certificate",
    );
    for certificate in certificates(check, &external.certificates)? {
        if !certificate.is_ca() {
            check.refuse(
                "certificates",
                format!(
                    "\"{}\" is no certificate of an authority",
                    certificate.subject_text()
                ),
                "certificates with basicConstraints CA:TRUE",
            );
        }
    }
    let kind = CredentialKind::CaCertificate {
        certificates: external.certificates.clone(),
    };
    Some((kind, String::new()))
}

fn private_key(
    check: &mut Checker,
    external: &v1::Credential,
    secrets: &mut Secrets<'_>,
) -> Option<(CredentialKind, String)> {
    check.unused("ids", !external.ids.is_empty(), "with kind private_key");
    check.unused("secret", !external.secret.is_empty(), "with kind private_key");
    let chain = certificates(check, &external.certificates)?;
    let (pem, kept) = if external.private_key.is_empty() {
        let Some(kept) = secrets.previous("private_key") else {
            check.refuse("private_key", "is missing", "PEM of PKCS#8, PKCS#1 or SEC 1");
            return None;
        };
        let pem = secrets.sealer.open(&secrets.context, &kept.0);
        let Ok(pem) = pem else {
            check.refuse(
                "private_key",
                "the stored key does not open",
                "give the key again",
            );
            return None;
        };
        (pem, Some(kept))
    } else {
        (Secret::from(external.private_key.as_bytes()), None)
    };
    let key = match PrivateKey::from_pem(pem.expose()) {
        Ok(key) => key,
        Err(error) => {
            check.refuse(
                "private_key",
                error.to_string(),
                "PEM of PKCS#8, PKCS#1 or SEC 1, not encrypted",
            );
            return None;
        }
    };
    if !belongs(&key, chain.first()?) {
        let subject = chain.first()?.subject_text();
        check.refuse(
            "private_key",
            format!("does not belong to the first certificate, \"{subject}\""),
            "the key of the first certificate; the leaf comes first",
        );
        return None;
    }
    let (sealed, digest) = match kept {
        Some(kept) => kept,
        None => secrets.seal(check, "private_key", "private_key", pem.expose())?,
    };
    Some((
        CredentialKind::PrivateKey {
            certificates: external.certificates.clone(),
            sealed,
        },
        digest,
    ))
}

/// Whether a certificate is for a key.
fn belongs(key: &PrivateKey, certificate: &Certificate) -> bool {
    match (key.public_key(), certificate.public_key()) {
        (Ok(ours), Ok(theirs)) => ours.spki_der() == theirs.spki_der(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn keys_have_three_forms() {
        let octets = |text: &str| decode_psk(text).map(|secret| secret.expose().to_vec());
        assert_eq!(octets("secret").unwrap(), b"secret");
        assert_eq!(octets("0x00ff").unwrap(), [0, 255]);
        assert_eq!(octets("0sAP8=").unwrap(), [0, 255]);
        assert_eq!(octets("0sc2VjcmV0").unwrap(), b"secret");
        for bad in ["", "0x", "0xabc", "0s!", "0sA"] {
            assert!(octets(bad).is_err(), "{bad}");
        }
    }
}
