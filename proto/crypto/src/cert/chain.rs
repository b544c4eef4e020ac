//! Paths from a peer's certificate to a trust anchor (RFC 5280 section 6), with the reason when there is none.
//!
//! OpenSSL builds and verifies the path: signatures, basic constraints, path lengths, name constraints, critical
//! extensions. Validity, keys, hashes and purposes are checked here, since the errors must be named.

use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509Ref, X509StoreContext, X509VerifyResult};

use super::Certificate;
use crate::sign::{LoadError, Weakness};

/// The most certificates that a peer may send for one chain, and the longest path.
pub const MAX_CHAIN: usize = 10;

/// What the owner of a certificate does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is a gateway that authenticates to clients: serverAuth, an IKE purpose, any, or no EKU.
    Server,
    /// It is a client: clientAuth, an IKE purpose, any, or no EKU.
    Client,
    /// A peer of either kind, such as a site: any of the above.
    Any,
}

/// Why there is no path. `subject` names the certificate that is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A certificate is past its end.
    #[error("certificate {subject:?} expired (not after {not_after})")]
    Expired {
        /// Whose certificate.
        subject: String,
        /// Its last second, since 1970.
        not_after: i64,
    },
    /// A certificate is before its beginning.
    #[error("certificate {subject:?} is not yet valid (not before {not_before})")]
    NotYetValid {
        /// Whose certificate.
        subject: String,
        /// Its first second, since 1970.
        not_before: i64,
    },
    /// Nobody whom we know or whom the peer sent has issued a certificate.
    #[error("issuer {issuer:?} of certificate {subject:?} is unknown")]
    UnknownIssuer {
        /// Whose certificate.
        subject: String,
        /// The issuer that it names.
        issuer: String,
    },
    /// The issuer's key did not make the signature.
    #[error("bad signature under certificate {subject:?}")]
    BadSignature {
        /// Whose certificate.
        subject: String,
    },
    /// A certificate was issued with one that must not issue any.
    #[error("certificate {subject:?} issued another but is no CA")]
    NotACa {
        /// Whose certificate.
        subject: String,
    },
    /// More certificates than an authority allows, or more than [`MAX_CHAIN`].
    #[error("certificate path too long")]
    PathTooLong,
    /// A key is too weak or too costly.
    #[error("certificate {subject:?}: {weakness}")]
    WeakKey {
        /// Whose certificate.
        subject: String,
        /// Why.
        weakness: Weakness,
    },
    /// A key is of a kind that is not supported.
    #[error("certificate {subject:?}: {reason}")]
    UnsupportedKey {
        /// Whose certificate.
        subject: String,
        /// Why.
        reason: LoadError,
    },
    /// A signature in the path rests on SHA-1, MD5 or older.
    #[error("certificate {subject:?} is signed with SHA-1 or MD5")]
    WeakSignature {
        /// Whose certificate.
        subject: String,
    },
    /// The extended key usage does not allow the purpose.
    #[error("certificate {subject:?} lacks the extended key usage of {purpose:?}")]
    MissingEku {
        /// Whose certificate.
        subject: String,
        /// What it was to be used for.
        purpose: Purpose,
    },
    /// The key usage allows no signatures.
    #[error("the key usage of certificate {subject:?} does not allow signatures")]
    KeyUsage {
        /// Whose certificate.
        subject: String,
    },
    /// A name lies outside of what an authority may name.
    #[error("certificate {subject:?} violates a name constraint")]
    NameConstraint {
        /// Whose certificate.
        subject: String,
    },
    /// A critical extension that is not understood.
    #[error("certificate {subject:?} has an unknown critical extension")]
    CriticalExtension {
        /// Whose certificate.
        subject: String,
    },
    /// A certificate that OpenSSL cannot work with.
    #[error("malformed certificate in the path")]
    Malformed,
    /// Another of OpenSSL's reasons.
    #[error("certificate {subject:?}: {text} (X509_V_ERR {code})")]
    Other {
        /// Whose certificate.
        subject: String,
        /// OpenSSL's number.
        code: i32,
        /// OpenSSL's words.
        text: &'static str,
    },
}

/// Authorities that are believed. Intermediate authorities may be among them: a path ends at the first anchor.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    certificates: Vec<Certificate>,
}

impl TrustAnchors {
    /// A set of anchors.
    #[must_use]
    pub fn new(certificates: Vec<Certificate>) -> Self {
        Self { certificates }
    }

    /// The anchors, in the order given.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The hashes that name the anchors in a CERTREQ payload (RFC 7296 section 3.7).
    #[must_use]
    pub fn spki_sha1s(&self) -> Vec<[u8; 20]> {
        self.certificates.iter().map(Certificate::spki_sha1).collect()
    }

    /// True if nobody is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}

/// A verified path: the peer's certificate first, the anchor last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// At least one certificate (an anchor that is itself the peer's).
    pub certificates: Vec<Certificate>,
}

/// Looks for a valid path from `leaf` to an anchor at a moment in seconds since 1970. The order of `intermediates` does
/// not matter, and those that are not needed do no harm. Takes up to some milliseconds.
///
/// # Errors
/// [`ChainError`]: the first reason against the best path.
pub fn verify_chain(
    anchors: &TrustAnchors,
    leaf: &Certificate,
    intermediates: &[Certificate],
    at_unix_secs: i64,
    purpose: Purpose,
) -> Result<Path, ChainError> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(ChainError::PathTooLong);
    }
    check_leaf(leaf, purpose)?;
    // Keys that are too costly must be out before the first signature is verified.
    let (sound, weak): (Vec<_>, Vec<_>) = intermediates.iter().partition(|one| check_key(one).is_ok());
    let usable: Vec<&Certificate> = anchors
        .certificates
        .iter()
        .filter(|one| check_key(one).is_ok())
        .collect();
    let valid_then = |one: &&&Certificate| check_time(one, at_unix_secs).is_ok();

    // Of several certificates of one authority OpenSSL may take an expired one: so those that are valid have the first
    // try, and all of them the second, for the reason.
    let valid_anchors: Vec<_> = usable.iter().filter(valid_then).copied().collect();
    let valid_sound: Vec<_> = sound.iter().filter(valid_then).copied().collect();
    let first = build(&valid_anchors, leaf, &valid_sound);
    let retry = first.is_err() && (valid_anchors.len(), valid_sound.len()) != (usable.len(), sound.len());
    let built = if retry {
        build(&usable, leaf, &sound)
    } else {
        first
    };

    let known: Vec<&Certificate> = usable.iter().copied().chain(intermediates).collect();
    let path = built.map_err(|failure| explain(failure, &known, &weak, anchors))?;
    for one in &path {
        check_time(one, at_unix_secs)?;
    }
    for (index, one) in path.iter().enumerate() {
        let is_anchor = index + 1 == path.len();
        if index > 0 && !may_issue(one, is_anchor) {
            return Err(ChainError::NotACa {
                subject: one.subject_text(),
            });
        }
        // Nobody relies on the signature under an anchor: it is believed for being there.
        if !is_anchor && one.has_weak_signature() {
            return Err(ChainError::WeakSignature {
                subject: one.subject_text(),
            });
        }
    }
    Ok(Path { certificates: path })
}

fn check_leaf(leaf: &Certificate, purpose: Purpose) -> Result<(), ChainError> {
    check_key(leaf)?;
    if leaf.fields.key_usage.is_some_and(|usage| !usage.signs) {
        return Err(ChainError::KeyUsage {
            subject: leaf.subject_text(),
        });
    }
    let server = leaf.has_server_auth();
    let client = leaf.has_client_auth();
    let named = match purpose {
        Purpose::Server => server,
        Purpose::Client => client,
        Purpose::Any => server || client,
    };
    if leaf.has_eku() && !named && !leaf.has_ike_eku() && !leaf.has_any_eku() {
        return Err(ChainError::MissingEku {
            subject: leaf.subject_text(),
            purpose,
        });
    }
    Ok(())
}

/// RFC 5280 section 4.1.2.5: the first and the last second belong to the validity (OpenSSL leaves the last one out).
fn check_time(one: &Certificate, at_unix_secs: i64) -> Result<(), ChainError> {
    if at_unix_secs > one.not_after() {
        Err(ChainError::Expired {
            subject: one.subject_text(),
            not_after: one.not_after(),
        })
    } else if at_unix_secs < one.not_before() {
        Err(ChainError::NotYetValid {
            subject: one.subject_text(),
            not_before: one.not_before(),
        })
    } else {
        Ok(())
    }
}

fn check_key(one: &Certificate) -> Result<(), ChainError> {
    match one.public_key() {
        Err(reason) => Err(ChainError::UnsupportedKey {
            subject: one.subject_text(),
            reason,
        }),
        Ok(key) => match key.weakness() {
            Some(weakness) => Err(ChainError::WeakKey {
                subject: one.subject_text(),
                weakness,
            }),
            None => Ok(()),
        },
    }
}

/// RFC 5280 section 6.1.4 (k) and (n). An anchor of version 1 has no extensions to say what it is.
fn may_issue(one: &Certificate, is_anchor: bool) -> bool {
    let is_ca = one.is_ca() || (is_anchor && one.fields.version == 1);
    is_ca && one.fields.key_usage.is_none_or(|usage| usage.signs_certificates)
}

/// OpenSSL's verdict against a path.
struct Failure {
    result: X509VerifyResult,
    blamed: Option<Box<Certificate>>,
}

fn build(
    anchors: &[&Certificate],
    leaf: &Certificate,
    intermediates: &[&Certificate],
) -> Result<Vec<Certificate>, Failure> {
    let broken = |_| Failure {
        result: X509VerifyResult::APPLICATION_VERIFICATION,
        blamed: None,
    };
    let store = store(anchors).map_err(broken)?;
    let mut untrusted = Stack::new().map_err(broken)?;
    for one in intermediates {
        untrusted.push(one.x509.clone()).map_err(broken)?;
    }
    let mut context = X509StoreContext::new().map_err(broken)?;
    let own = |x509: &X509Ref| -> Option<Certificate> {
        let der = x509.to_der().ok()?;
        std::iter::once(&leaf)
            .chain(intermediates)
            .chain(anchors)
            .find(|one| one.der() == der)
            .map(|one| Certificate::clone(one))
    };
    context
        .init(&store, &leaf.x509, &untrusted, |context| {
            if context.verify_cert()? {
                let chain = context
                    .chain()
                    .map(|chain| chain.iter().map(&own).collect::<Option<Vec<_>>>());
                return Ok(match chain.flatten() {
                    Some(path) if !path.is_empty() => Ok(path),
                    _ => Err(Failure {
                        result: X509VerifyResult::APPLICATION_VERIFICATION,
                        blamed: None,
                    }),
                });
            }
            // The reasons of a refused path stay queued for this thread otherwise.
            drop(ErrorStack::get());
            Ok(Err(Failure {
                result: context.error(),
                blamed: context.current_cert().and_then(own).map(Box::new),
            }))
        })
        .map_err(broken)?
}

fn store(anchors: &[&Certificate]) -> Result<X509Store, ErrorStack> {
    let mut builder = X509StoreBuilder::new()?;
    for anchor in anchors {
        builder.add_cert(X509::clone(&anchor.x509))?;
    }
    let mut parameters = X509VerifyParam::new()?;
    parameters.set_flags(
        X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST | X509VerifyFlags::NO_CHECK_TIME,
    )?;
    // OpenSSL counts the certificates between the leaf and the anchor.
    parameters.set_depth(i32::try_from(MAX_CHAIN - 2).unwrap_or(0));
    builder.set_param(&parameters)?;
    Ok(builder.build())
}

/// Turns OpenSSL's verdict into a named reason, and "unknown issuer" into what was wrong with the issuer if it is known.
fn explain(
    failure: Failure,
    known: &[&Certificate],
    weak: &[&Certificate],
    anchors: &TrustAnchors,
) -> ChainError {
    let Some(blamed) = failure.blamed else {
        return ChainError::Malformed;
    };
    let subject = blamed.subject_text();
    match failure.result.as_raw() {
        verdict::SIGNATURE_FAILURE | verdict::SIGNATURE_UNREADABLE => ChainError::BadSignature { subject },
        verdict::INVALID_CA_OLD | verdict::INVALID_CA | verdict::NO_CERTSIGN => {
            ChainError::NotACa { subject }
        }
        verdict::PATH_LENGTH | verdict::CHAIN_TOO_LONG => ChainError::PathTooLong,
        verdict::PERMITTED_VIOLATION
        | verdict::EXCLUDED_VIOLATION
        | verdict::CONSTRAINT_MINMAX
        | verdict::CONSTRAINT_TYPE
        | verdict::CONSTRAINT_SYNTAX
        | verdict::NAME_SYNTAX => ChainError::NameConstraint { subject },
        verdict::CRITICAL_EXTENSION => ChainError::CriticalExtension { subject },
        verdict::NO_ISSUER
        | verdict::NO_ISSUER_LOCALLY
        | verdict::SELF_SIGNED_LEAF
        | verdict::SELF_SIGNED_IN_CHAIN
        | verdict::LEAF_UNVERIFIED => {
            let is_issuer = |one: &&&Certificate| one.subject_dn_der() == blamed.issuer_dn_der();
            let weak_anchor = anchors.certificates.iter().filter(|one| check_key(one).is_err());
            if let Some(issuer) = weak
                .iter()
                .copied()
                .chain(weak_anchor)
                .find(|one| is_issuer(&one))
                && let Err(error) = check_key(issuer)
            {
                return error;
            }
            match known.iter().find(is_issuer) {
                Some(issuer) if !blamed.is_self_issued() && !may_issue(issuer, false) => ChainError::NotACa {
                    subject: issuer.subject_text(),
                },
                _ => ChainError::UnknownIssuer {
                    issuer: blamed.issuer_text(),
                    subject,
                },
            }
        }
        code => ChainError::Other {
            subject,
            code,
            text: failure.result.error_string(),
        },
    }
}

/// Numbers of OpenSSL's verdicts (x509_vfy.h); rust-openssl gives them no names.
mod verdict {
    pub(super) const NO_ISSUER: i32 = 2;
    pub(super) const SIGNATURE_UNREADABLE: i32 = 4;
    pub(super) const SIGNATURE_FAILURE: i32 = 7;
    pub(super) const SELF_SIGNED_LEAF: i32 = 18;
    pub(super) const SELF_SIGNED_IN_CHAIN: i32 = 19;
    pub(super) const NO_ISSUER_LOCALLY: i32 = 20;
    pub(super) const LEAF_UNVERIFIED: i32 = 21;
    pub(super) const CHAIN_TOO_LONG: i32 = 22;
    pub(super) const INVALID_CA_OLD: i32 = 24;
    pub(super) const PATH_LENGTH: i32 = 25;
    pub(super) const NO_CERTSIGN: i32 = 32;
    pub(super) const CRITICAL_EXTENSION: i32 = 34;
    pub(super) const PERMITTED_VIOLATION: i32 = 47;
    pub(super) const EXCLUDED_VIOLATION: i32 = 48;
    pub(super) const CONSTRAINT_MINMAX: i32 = 49;
    pub(super) const CONSTRAINT_TYPE: i32 = 51;
    pub(super) const CONSTRAINT_SYNTAX: i32 = 52;
    pub(super) const NAME_SYNTAX: i32 = 53;
    pub(super) const INVALID_CA: i32 = 79;
}
