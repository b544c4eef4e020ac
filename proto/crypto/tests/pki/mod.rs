//! A PKI made on the spot: certificates from plans, and chains verified at one fixed moment.
#![allow(dead_code, reason = "each test file uses a part of it")]

use crypto::cert::{Certificate, ChainError, Path, Purpose, TrustAnchors, verify_chain};
use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameBuilder};

/// The moment that the tests verify at, and the usual span of validity around it.
pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const DAY: i64 = 86_400;

pub(crate) fn p256() -> PKey<Private> {
    PKey::ec_gen("P-256").unwrap()
}

pub(crate) fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub(crate) fn name(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("C", "DE").unwrap();
    name.append_entry_by_text("O", "Example").unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

/// Everything about one certificate of a test, with usual values to start from.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) key: PKey<Private>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) ca: Option<Option<u32>>,
    pub(crate) eku: Vec<&'static str>,
    pub(crate) dns: Vec<&'static str>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) hash: MessageDigest,
    pub(crate) extra: Vec<X509Extension>,
}

pub(crate) struct Issued {
    pub(crate) x509: X509,
    pub(crate) key: PKey<Private>,
}

impl Issued {
    pub(crate) fn cert(&self) -> Certificate {
        Certificate::from_der(&self.x509.to_der().unwrap()).unwrap()
    }
}

impl Plan {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            key: p256(),
            from: NOW - DAY,
            to: NOW + DAY,
            ca: None,
            eku: vec![],
            dns: vec![],
            key_usage: None,
            hash: MessageDigest::sha256(),
            extra: vec![],
        }
    }

    pub(crate) fn ca(name: &'static str) -> Self {
        Self {
            ca: Some(None),
            ..Self::new(name)
        }
    }

    pub(crate) fn sign(self, issuer: Option<&Issued>) -> Issued {
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(0x1234).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        let subject = name(self.name);
        builder.set_subject_name(&subject).unwrap();
        builder
            .set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.x509.subject_name()))
            .unwrap();
        builder
            .set_not_before(&Asn1Time::from_unix(self.from).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(self.to).unwrap())
            .unwrap();
        builder.set_pubkey(&self.key).unwrap();
        if let Some(path_len) = self.ca {
            let mut constraints = BasicConstraints::new();
            constraints.critical().ca();
            if let Some(len) = path_len {
                constraints.pathlen(len);
            }
            builder.append_extension(constraints.build().unwrap()).unwrap();
        }
        if !self.eku.is_empty() {
            let mut usage = ExtendedKeyUsage::new();
            for purpose in &self.eku {
                usage.other(purpose);
            }
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if let Some(usage) = &self.key_usage {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if !self.dns.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for dns in &self.dns {
                names.dns(dns);
            }
            names.ip("192.0.2.1").ip("2001:db8::1").email("admin@example.org");
            let names = names.build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(names).unwrap();
        }
        for extension in self.extra {
            builder.append_extension(extension).unwrap();
        }
        let key = issuer.map_or(&self.key, |issuer| &issuer.key);
        let hash = if key.id() == Id::ED25519 {
            MessageDigest::null()
        } else {
            self.hash
        };
        builder.sign(key, hash).unwrap();
        Issued {
            x509: builder.build(),
            key: self.key,
        }
    }
}

pub(crate) fn verify(anchors: &[&Issued], leaf: &Issued, between: &[&Issued]) -> Result<Path, ChainError> {
    verify_as(anchors, leaf, between, Purpose::Any)
}

pub(crate) fn verify_as(
    anchors: &[&Issued],
    leaf: &Issued,
    between: &[&Issued],
    purpose: Purpose,
) -> Result<Path, ChainError> {
    let anchors = TrustAnchors::new(anchors.iter().map(|one| one.cert()).collect());
    let between: Vec<_> = between.iter().map(|one| one.cert()).collect();
    verify_chain(&anchors, &leaf.cert(), &between, NOW, purpose)
}

pub(crate) fn subject(common_name: &str) -> String {
    format!("C=DE, O=Example, CN={common_name}")
}

/// An extension from its object identifier and DER value.
pub(crate) fn extension(oid: &str, critical: bool, value: &[u8]) -> X509Extension {
    let value = Asn1OctetString::new_from_bytes(value).unwrap();
    X509Extension::new_from_der(&Asn1Object::from_str(oid).unwrap(), critical, &value).unwrap()
}
