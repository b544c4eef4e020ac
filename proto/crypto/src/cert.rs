//! X.509 certificates (RFC 5280) as IKE needs them: names, validity, purposes, and chains with named errors.
//!
//! The fields are read by a strict parser of our own; OpenSSL builds and verifies paths. A certificate has at most
//! [`MAX_DER`] octets and a chain at most [`MAX_CHAIN`] certificates.

mod chain;
mod name;
mod parse;

use std::fmt;
use std::net::IpAddr;

use openssl::x509::X509;

pub use chain::{ChainError, MAX_CHAIN, Path, Purpose, TrustAnchors, verify_chain};

use crate::pem::{self, PemError};
use crate::sign::{LoadError, PublicKey, Weakness, has_explicit_curve};
use crate::{HashAlgorithm, digest};

/// The longest certificate that is read, in octets.
pub const MAX_DER: usize = 16 * 1024;

/// Why a certificate was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// Longer than [`MAX_DER`].
    #[error("certificate of {0} octets, at most {MAX_DER} accepted")]
    TooLong(usize),
    /// Not an X.509 certificate, or one that breaks DER.
    #[error("malformed certificate")]
    Malformed,
    /// An elliptic curve key that brings its own curve in place of a name.
    #[error("certificate with an elliptic curve that has no name")]
    ExplicitCurve,
    /// Not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// PEM without a certificate in it.
    #[error("no certificate in the PEM input")]
    NoCertificate,
}

/// One certificate. Cheap to read from; parsing happens once.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    fields: parse::Fields,
    key: Result<PublicKey, LoadError>,
    x509: X509,
}

impl Certificate {
    /// Reads one DER certificate.
    ///
    /// # Errors
    /// [`CertError::TooLong`] or [`CertError::Malformed`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        if der.len() > MAX_DER {
            return Err(CertError::TooLong(der.len()));
        }
        let fields = parse::fields(der).ok_or(CertError::Malformed)?;
        if has_explicit_curve(&fields.spki) {
            return Err(CertError::ExplicitCurve);
        }
        let x509 = X509::from_der(der).map_err(|_| CertError::Malformed)?;
        // Decoding a key costs OpenSSL as much as the rest of a certificate, and it has done so already. The second
        // way says why there is none.
        let key = match x509.public_key() {
            Ok(key) => PublicKey::from_key(key, &fields.spki),
            Err(_) => PublicKey::from_spki_der(&fields.spki),
        };
        Ok(Self {
            der: der.to_vec(),
            fields,
            key,
            x509,
        })
    }

    /// Reads every certificate of a PEM input, in order; other blocks are skipped.
    ///
    /// # Errors
    /// [`CertError`]; [`CertError::NoCertificate`] if there is none.
    pub fn from_pem(input: &[u8]) -> Result<Vec<Self>, CertError> {
        let certificates: Vec<Self> = pem::read(input)?
            .iter()
            .filter(|block| {
                matches!(
                    block.label.as_str(),
                    "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
                )
            })
            .map(|block| Self::from_der(block.der.expose()))
            .collect::<Result<_, _>>()?;
        if certificates.is_empty() {
            Err(CertError::NoCertificate)
        } else {
            Ok(certificates)
        }
    }

    /// The DER octets.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject as a DER Name: what an ID_DER_ASN1_DN identity is compared with.
    #[must_use]
    pub fn subject_dn_der(&self) -> &[u8] {
        &self.fields.subject
    }

    /// The issuer as a DER Name.
    #[must_use]
    pub fn issuer_dn_der(&self) -> &[u8] {
        &self.fields.issuer
    }

    /// The subject in words, such as `C=DE, O=Example, CN=gateway`; control characters are escaped.
    #[must_use]
    pub fn subject_text(&self) -> String {
        name::text(&self.fields.subject)
    }

    /// The issuer in words.
    #[must_use]
    pub fn issuer_text(&self) -> String {
        name::text(&self.fields.issuer)
    }

    /// The serial number, big-endian, as encoded.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.fields.serial
    }

    /// The first second of validity, in seconds since 1970.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.fields.not_before
    }

    /// The last second of validity, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.fields.not_after
    }

    /// DNS names among the subject's alternative names, as written.
    #[must_use]
    pub fn san_dns(&self) -> &[String] {
        &self.fields.san_dns
    }

    /// IP addresses among the subject's alternative names.
    #[must_use]
    pub fn san_ip(&self) -> &[IpAddr] {
        &self.fields.san_ip
    }

    /// Mail addresses among the subject's alternative names, as written.
    #[must_use]
    pub fn san_email(&self) -> &[String] {
        &self.fields.san_email
    }

    /// The public key.
    ///
    /// # Errors
    /// [`LoadError`] if it is malformed or of a kind that is not supported.
    pub fn public_key(&self) -> Result<&PublicKey, LoadError> {
        self.key.as_ref().map_err(|error| *error)
    }

    /// Why the public key is not accepted, if it is readable but weak.
    #[must_use]
    pub fn key_weakness(&self) -> Option<Weakness> {
        self.key.as_ref().ok().and_then(PublicKey::weakness)
    }

    /// SHA-1 of the DER SubjectPublicKeyInfo: how a CERTREQ payload names an authority (RFC 7296 section 3.7).
    #[must_use]
    pub fn spki_sha1(&self) -> [u8; 20] {
        let hash = digest(HashAlgorithm::Sha1, &[&self.fields.spki]);
        hash.try_into().unwrap_or_default()
    }

    /// SHA-256 of the certificate: its usual fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        digest(HashAlgorithm::Sha256, &[&self.der])
    }

    /// True if there is an extended key usage at all; without one every purpose is allowed.
    #[must_use]
    pub fn has_eku(&self) -> bool {
        self.fields.eku.is_some()
    }

    /// True if the extended key usage names server authentication.
    #[must_use]
    pub fn has_server_auth(&self) -> bool {
        self.fields.eku.is_some_and(|eku| eku.server_auth)
    }

    /// True if the extended key usage names client authentication.
    #[must_use]
    pub fn has_client_auth(&self) -> bool {
        self.fields.eku.is_some_and(|eku| eku.client_auth)
    }

    /// True if the extended key usage names anyExtendedKeyUsage.
    #[must_use]
    pub fn has_any_eku(&self) -> bool {
        self.fields.eku.is_some_and(|eku| eku.any)
    }

    /// True if the extended key usage names IKE itself: id-kp-ipsecIKE (RFC 4945 section 5.1.3.12) or the older
    /// iKEIntermediate that Apple and Windows know.
    #[must_use]
    pub fn has_ike_eku(&self) -> bool {
        self.fields.eku.is_some_and(|eku| eku.ike)
    }

    /// True if basic constraints say that this is an authority.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.fields.is_ca
    }

    /// True if the subject is its own issuer by name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.fields.subject == self.fields.issuer
    }

    /// True if the signature under the certificate rests on SHA-1, MD5 or older.
    #[must_use]
    pub fn has_weak_signature(&self) -> bool {
        crate::sign::is_weak_certificate_algorithm(&self.fields.signature_algorithm)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?})", self.subject_text())
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}
