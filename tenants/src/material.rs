//! Opened credentials, ready for use: keys, chains, trust anchors. Built when the configuration changes, shared after.

use std::collections::HashMap;
use std::sync::Arc;

use crypto::Secret;
use crypto::cert::{Certificate, TrustAnchors};
use crypto::sign::PrivateKey;

use crate::identity::{IdPattern, PeerIdentity};
use crate::model::{Credential, CredentialKind};
use crate::seal::Sealer;
use crate::validate;

/// The gateway's key and chain.
pub struct LocalKey {
    /// Certificates in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The same, parsed.
    pub certificates: Vec<Certificate>,
    /// The key of the leaf.
    pub key: Arc<PrivateKey>,
}

impl LocalKey {
    /// Distinguished names (DER) of the chain's issuers.
    pub fn issuers(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(Certificate::issuer_dn_der)
    }
}

/// A credential cannot be used. Local trouble.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// It is not there, or of another kind.
    #[error("credential {tenant}/{name} is missing or of another kind")]
    Missing {
        /// Its tenant.
        tenant: String,
        /// Its name.
        name: String,
    },
    /// It does not open or parse.
    #[error("credential {tenant}/{name} cannot be used: {reason}")]
    Unusable {
        /// Its tenant.
        tenant: String,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// One opened credential.
pub(crate) enum Material {
    Psk { ids: Vec<IdPattern>, secret: Secret },
    Authorities(Vec<Certificate>),
    Key(Arc<LocalKey>),
    Unusable(String),
}

impl Material {
    pub(crate) fn open(credential: &Credential, sealer: &dyn Sealer) -> Self {
        let context = validate_context(credential);
        let open = |sealed: &[u8]| sealer.open(&context, sealed).map_err(|error| error.to_string());
        let parse = |pem: &str| Certificate::from_pem(pem.as_bytes()).map_err(|error| error.to_string());
        let material = match &credential.kind {
            CredentialKind::Psk { ids, sealed } => open(sealed).map(|secret| Material::Psk {
                ids: ids.clone(),
                secret,
            }),
            CredentialKind::CaCertificate { certificates } => parse(certificates).map(Material::Authorities),
            CredentialKind::PrivateKey { certificates, sealed } => {
                parse(certificates).and_then(|certificates| {
                    let pem = open(sealed)?;
                    let key = PrivateKey::from_pem(pem.expose()).map_err(|error| error.to_string())?;
                    let chain = certificates
                        .iter()
                        .map(|certificate| certificate.der().to_vec())
                        .collect();
                    Ok(Material::Key(Arc::new(LocalKey {
                        chain,
                        certificates,
                        key: Arc::new(key),
                    })))
                })
            }
        };
        material.unwrap_or_else(|reason| {
            tracing::warn!(
                tenant = credential.tenant,
                credential = credential.name,
                reason,
                "credential unusable"
            );
            Material::Unusable(reason)
        })
    }
}

fn validate_context(credential: &Credential) -> String {
    validate::credential_context(&credential.tenant, &credential.name)
}

/// The pre-shared keys of a tenant, found by identity: exact ones by hash, patterns by search.
#[derive(Default)]
pub(crate) struct Psks {
    exact: HashMap<String, Vec<(String, Secret)>>,
    patterns: Vec<(IdPattern, String, Secret)>,
}

impl Psks {
    /// From credentials with their patterns and keys, in the order of their names.
    pub(crate) fn new<'a>(credentials: impl Iterator<Item = (&'a str, &'a [IdPattern], &'a Secret)>) -> Self {
        let mut psks = Self::default();
        for (credential, ids, secret) in credentials {
            for id in ids {
                let entry = (credential.to_owned(), secret.clone());
                if let IdPattern::Name(name) = id {
                    psks.exact
                        .entry(name.to_ascii_lowercase())
                        .or_default()
                        .push(entry);
                } else {
                    psks.patterns.push((id.clone(), entry.0, entry.1));
                }
            }
        }
        // The narrowest pattern wins; the sort is stable, so the order of the names decides among equals.
        psks.patterns
            .sort_by_key(|(pattern, _, _)| std::cmp::Reverse(pattern.specificity()));
        psks
    }

    /// The key of an identity among the named credentials (all when none is named).
    pub(crate) fn find(&self, id: &PeerIdentity, credentials: &[String]) -> Option<&Secret> {
        let allowed = |name: &String| credentials.is_empty() || credentials.contains(name);
        let text = String::from_utf8_lossy(&id.data).to_ascii_lowercase();
        let exact = self.exact.get(&text).into_iter().flatten().find(|(name, _)| {
            // The hash has found the text; the kind has to be one of names.
            allowed(name) && IdPattern::Name(text.clone()).matches(id)
        });
        exact.map(|(_, secret)| secret).or_else(|| {
            self.patterns
                .iter()
                .find(|(pattern, name, _)| allowed(name) && pattern.matches(id))
                .map(|(_, _, secret)| secret)
        })
    }
}

/// Anchors from the named credentials; what is missing or unusable is left out (and has been warned about).
pub(crate) fn anchors(materials: &HashMap<String, Arc<Material>>, names: &[String]) -> Arc<TrustAnchors> {
    let mut certificates = Vec::new();
    for name in names {
        if let Some(Material::Authorities(list)) = materials.get(name).map(|material| &**material) {
            certificates.extend(list.iter().cloned());
        }
    }
    Arc::new(TrustAnchors::new(certificates))
}
