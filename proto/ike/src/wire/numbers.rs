//! IANA numbers of IKEv2 as open newtypes: every value survives a round trip, the known ones have names.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! iana {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($(#[$item:meta])* $value:literal => $konst:ident, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$item])* #[doc = concat!("`", $text, "`")] pub const $konst: Self = Self($value);)+

            /// The registered name, for the values known here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "{}({})", stringify!($name), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

iana! {
    /// Exchange types (RFC 7296 section 3.1).
    ExchangeType(u8) {
        34 => IKE_SA_INIT, "IKE_SA_INIT";
        35 => IKE_AUTH, "IKE_AUTH";
        36 => CREATE_CHILD_SA, "CREATE_CHILD_SA";
        37 => INFORMATIONAL, "INFORMATIONAL";
        38 => IKE_SESSION_RESUME, "IKE_SESSION_RESUME";
        43 => IKE_INTERMEDIATE, "IKE_INTERMEDIATE";
        44 => IKE_FOLLOWUP_KE, "IKE_FOLLOWUP_KE";
    }
}

iana! {
    /// Payload types (RFC 7296 section 3.2). Zero says that no payload follows.
    PayloadType(u8) {
        0 => NONE, "none";
        33 => SA, "SA";
        34 => KE, "KE";
        35 => IDI, "IDi";
        36 => IDR, "IDr";
        37 => CERT, "CERT";
        38 => CERTREQ, "CERTREQ";
        39 => AUTH, "AUTH";
        40 => NONCE, "Nonce";
        41 => NOTIFY, "N";
        42 => DELETE, "D";
        43 => VENDOR_ID, "V";
        44 => TSI, "TSi";
        45 => TSR, "TSr";
        46 => SK, "SK";
        47 => CP, "CP";
        48 => EAP, "EAP";
        53 => SKF, "SKF";
    }
}

iana! {
    /// Security protocol identifiers (RFC 7296 section 3.3.1).
    ProtocolId(u8) {
        0 => NONE, "none";
        1 => IKE, "IKE";
        2 => AH, "AH";
        3 => ESP, "ESP";
    }
}

impl ProtocolId {
    /// Octets of an SPI of this protocol in proposals, notifies and deletes; IKE's own may also be absent.
    pub const fn spi_len(self) -> Option<usize> {
        match self {
            Self::IKE => Some(8),
            Self::AH | Self::ESP => Some(4),
            _ => None,
        }
    }
}

iana! {
    /// Transform types (RFC 7296 section 3.3.2, RFC 9370).
    TransformType(u8) {
        1 => ENCR, "encryption";
        2 => PRF, "PRF";
        3 => INTEG, "integrity";
        4 => KE, "key exchange";
        5 => ESN, "sequence numbers";
        6 => ADDKE1, "additional key exchange 1";
        7 => ADDKE2, "additional key exchange 2";
        8 => ADDKE3, "additional key exchange 3";
        9 => ADDKE4, "additional key exchange 4";
        10 => ADDKE5, "additional key exchange 5";
        11 => ADDKE6, "additional key exchange 6";
        12 => ADDKE7, "additional key exchange 7";
    }
}

iana! {
    /// Encryption algorithms, transform type 1.
    EncrId(u16) {
        2 => DES, "DES";
        3 => TRIPLE_DES, "3DES";
        11 => NULL, "NULL";
        12 => AES_CBC, "AES-CBC";
        13 => AES_CTR, "AES-CTR";
        14 => AES_CCM_8, "AES-CCM-8";
        15 => AES_CCM_12, "AES-CCM-12";
        16 => AES_CCM_16, "AES-CCM-16";
        18 => AES_GCM_8, "AES-GCM-8";
        19 => AES_GCM_12, "AES-GCM-12";
        20 => AES_GCM_16, "AES-GCM";
        21 => NULL_AUTH_AES_GMAC, "AES-GMAC";
        23 => CAMELLIA_CBC, "CAMELLIA-CBC";
        28 => CHACHA20_POLY1305, "ChaCha20-Poly1305";
        29 => AES_CCM_8_IIV, "AES-CCM-8-IIV";
        30 => AES_GCM_16_IIV, "AES-GCM-IIV";
        31 => CHACHA20_POLY1305_IIV, "ChaCha20-Poly1305-IIV";
    }
}

iana! {
    /// Pseudorandom functions, transform type 2.
    PrfId(u16) {
        1 => HMAC_MD5, "HMAC-MD5";
        2 => HMAC_SHA1, "HMAC-SHA1";
        4 => AES128_XCBC, "AES128-XCBC";
        5 => HMAC_SHA2_256, "HMAC-SHA2-256";
        6 => HMAC_SHA2_384, "HMAC-SHA2-384";
        7 => HMAC_SHA2_512, "HMAC-SHA2-512";
        8 => AES128_CMAC, "AES128-CMAC";
    }
}

iana! {
    /// Integrity algorithms, transform type 3.
    IntegId(u16) {
        0 => NONE, "none";
        1 => HMAC_MD5_96, "HMAC-MD5-96";
        2 => HMAC_SHA1_96, "HMAC-SHA1-96";
        5 => AES_XCBC_96, "AES-XCBC-96";
        8 => AES_CMAC_96, "AES-CMAC-96";
        12 => HMAC_SHA2_256_128, "HMAC-SHA2-256-128";
        13 => HMAC_SHA2_384_192, "HMAC-SHA2-384-192";
        14 => HMAC_SHA2_512_256, "HMAC-SHA2-512-256";
    }
}

iana! {
    /// Key exchange methods, transform types 4 and 6 to 12, and the group field of the KE payload.
    KeId(u16) {
        0 => NONE, "none";
        1 => MODP_768, "MODP-768";
        2 => MODP_1024, "MODP-1024";
        5 => MODP_1536, "MODP-1536";
        14 => MODP_2048, "MODP-2048";
        15 => MODP_3072, "MODP-3072";
        16 => MODP_4096, "MODP-4096";
        17 => MODP_6144, "MODP-6144";
        18 => MODP_8192, "MODP-8192";
        19 => ECP_256, "ECP-256";
        20 => ECP_384, "ECP-384";
        21 => ECP_521, "ECP-521";
        22 => MODP_1024_160, "MODP-1024-160";
        23 => MODP_2048_224, "MODP-2048-224";
        24 => MODP_2048_256, "MODP-2048-256";
        25 => ECP_192, "ECP-192";
        26 => ECP_224, "ECP-224";
        27 => BRAINPOOL_P224, "Brainpool-P224r1";
        28 => BRAINPOOL_P256, "Brainpool-P256r1";
        29 => BRAINPOOL_P384, "Brainpool-P384r1";
        30 => BRAINPOOL_P512, "Brainpool-P512r1";
        31 => CURVE25519, "Curve25519";
        32 => CURVE448, "Curve448";
        35 => ML_KEM_512, "ML-KEM-512";
        36 => ML_KEM_768, "ML-KEM-768";
        37 => ML_KEM_1024, "ML-KEM-1024";
    }
}

iana! {
    /// Sequence number transforms, transform type 5.
    EsnId(u16) {
        0 => NO_ESN, "32-bit";
        1 => ESN, "64-bit (ESN)";
    }
}

iana! {
    /// Identification types (RFC 7296 section 3.5).
    IdType(u8) {
        1 => IPV4_ADDR, "ID_IPV4_ADDR";
        2 => FQDN, "ID_FQDN";
        3 => RFC822_ADDR, "ID_RFC822_ADDR";
        5 => IPV6_ADDR, "ID_IPV6_ADDR";
        9 => DER_ASN1_DN, "ID_DER_ASN1_DN";
        10 => DER_ASN1_GN, "ID_DER_ASN1_GN";
        11 => KEY_ID, "ID_KEY_ID";
        13 => NULL, "ID_NULL";
    }
}

iana! {
    /// Certificate encodings (RFC 7296 section 3.6).
    CertEncoding(u8) {
        1 => PKCS7, "PKCS #7";
        4 => X509_SIGNATURE, "X.509";
        7 => CRL, "CRL";
        12 => HASH_AND_URL_X509, "hash and URL of X.509";
        13 => HASH_AND_URL_BUNDLE, "hash and URL of a bundle";
        14 => OCSP, "OCSP";
        15 => RAW_PUBLIC_KEY, "raw public key";
    }
}

iana! {
    /// Authentication methods (RFC 7296 section 3.8).
    AuthMethod(u8) {
        1 => RSA_SIGNATURE, "RSA signature";
        2 => SHARED_KEY, "shared key";
        3 => DSS_SIGNATURE, "DSS signature";
        9 => ECDSA_P256, "ECDSA P-256";
        10 => ECDSA_P384, "ECDSA P-384";
        11 => ECDSA_P521, "ECDSA P-521";
        12 => GSPM, "secure password";
        13 => NULL, "NULL";
        14 => DIGITAL_SIGNATURE, "digital signature";
    }
}

iana! {
    /// Traffic selector types (RFC 7296 section 3.13.1).
    TsType(u8) {
        7 => IPV4_ADDR_RANGE, "TS_IPV4_ADDR_RANGE";
        8 => IPV6_ADDR_RANGE, "TS_IPV6_ADDR_RANGE";
    }
}

iana! {
    /// Configuration payload types (RFC 7296 section 3.15).
    CfgType(u8) {
        1 => REQUEST, "CFG_REQUEST";
        2 => REPLY, "CFG_REPLY";
        3 => SET, "CFG_SET";
        4 => ACK, "CFG_ACK";
    }
}

iana! {
    /// Configuration attribute types (RFC 7296 section 3.15.1, RFC 8598).
    AttributeType(u16) {
        1 => INTERNAL_IP4_ADDRESS, "INTERNAL_IP4_ADDRESS";
        2 => INTERNAL_IP4_NETMASK, "INTERNAL_IP4_NETMASK";
        3 => INTERNAL_IP4_DNS, "INTERNAL_IP4_DNS";
        4 => INTERNAL_IP4_NBNS, "INTERNAL_IP4_NBNS";
        6 => INTERNAL_IP4_DHCP, "INTERNAL_IP4_DHCP";
        7 => APPLICATION_VERSION, "APPLICATION_VERSION";
        8 => INTERNAL_IP6_ADDRESS, "INTERNAL_IP6_ADDRESS";
        10 => INTERNAL_IP6_DNS, "INTERNAL_IP6_DNS";
        12 => INTERNAL_IP6_DHCP, "INTERNAL_IP6_DHCP";
        13 => INTERNAL_IP4_SUBNET, "INTERNAL_IP4_SUBNET";
        14 => SUPPORTED_ATTRIBUTES, "SUPPORTED_ATTRIBUTES";
        15 => INTERNAL_IP6_SUBNET, "INTERNAL_IP6_SUBNET";
        16 => MIP6_HOME_PREFIX, "MIP6_HOME_PREFIX";
        17 => INTERNAL_IP6_LINK, "INTERNAL_IP6_LINK";
        18 => INTERNAL_IP6_PREFIX, "INTERNAL_IP6_PREFIX";
        25 => INTERNAL_DNS_DOMAIN, "INTERNAL_DNS_DOMAIN";
        26 => INTERNAL_DNSSEC_TA, "INTERNAL_DNSSEC_TA";
        23456 => INTERNAL_IP4_SERVER, "INTERNAL_IP4_SERVER";
        23457 => INTERNAL_IP6_SERVER, "INTERNAL_IP6_SERVER";
    }
}

iana! {
    /// Notify message types (RFC 7296 section 3.10.1 and later documents). Below 16384 they are errors, from there on status.
    NotifyType(u16) {
        1 => UNSUPPORTED_CRITICAL_PAYLOAD, "UNSUPPORTED_CRITICAL_PAYLOAD";
        4 => INVALID_IKE_SPI, "INVALID_IKE_SPI";
        5 => INVALID_MAJOR_VERSION, "INVALID_MAJOR_VERSION";
        7 => INVALID_SYNTAX, "INVALID_SYNTAX";
        9 => INVALID_MESSAGE_ID, "INVALID_MESSAGE_ID";
        11 => INVALID_SPI, "INVALID_SPI";
        14 => NO_PROPOSAL_CHOSEN, "NO_PROPOSAL_CHOSEN";
        17 => INVALID_KE_PAYLOAD, "INVALID_KE_PAYLOAD";
        24 => AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED";
        34 => SINGLE_PAIR_REQUIRED, "SINGLE_PAIR_REQUIRED";
        35 => NO_ADDITIONAL_SAS, "NO_ADDITIONAL_SAS";
        36 => INTERNAL_ADDRESS_FAILURE, "INTERNAL_ADDRESS_FAILURE";
        37 => FAILED_CP_REQUIRED, "FAILED_CP_REQUIRED";
        38 => TS_UNACCEPTABLE, "TS_UNACCEPTABLE";
        39 => INVALID_SELECTORS, "INVALID_SELECTORS";
        40 => UNACCEPTABLE_ADDRESSES, "UNACCEPTABLE_ADDRESSES";
        41 => UNEXPECTED_NAT_DETECTED, "UNEXPECTED_NAT_DETECTED";
        43 => TEMPORARY_FAILURE, "TEMPORARY_FAILURE";
        44 => CHILD_SA_NOT_FOUND, "CHILD_SA_NOT_FOUND";
        47 => STATE_NOT_FOUND, "STATE_NOT_FOUND";
        48 => TS_MAX_QUEUE, "TS_MAX_QUEUE";
        12345 => MICROSOFT_STATUS, "MICROSOFT_STATUS";
        16384 => INITIAL_CONTACT, "INITIAL_CONTACT";
        16385 => SET_WINDOW_SIZE, "SET_WINDOW_SIZE";
        16386 => ADDITIONAL_TS_POSSIBLE, "ADDITIONAL_TS_POSSIBLE";
        16387 => IPCOMP_SUPPORTED, "IPCOMP_SUPPORTED";
        16388 => NAT_DETECTION_SOURCE_IP, "NAT_DETECTION_SOURCE_IP";
        16389 => NAT_DETECTION_DESTINATION_IP, "NAT_DETECTION_DESTINATION_IP";
        16390 => COOKIE, "COOKIE";
        16391 => USE_TRANSPORT_MODE, "USE_TRANSPORT_MODE";
        16392 => HTTP_CERT_LOOKUP_SUPPORTED, "HTTP_CERT_LOOKUP_SUPPORTED";
        16393 => REKEY_SA, "REKEY_SA";
        16394 => ESP_TFC_PADDING_NOT_SUPPORTED, "ESP_TFC_PADDING_NOT_SUPPORTED";
        16395 => NON_FIRST_FRAGMENTS_ALSO, "NON_FIRST_FRAGMENTS_ALSO";
        16396 => MOBIKE_SUPPORTED, "MOBIKE_SUPPORTED";
        16397 => ADDITIONAL_IP4_ADDRESS, "ADDITIONAL_IP4_ADDRESS";
        16398 => ADDITIONAL_IP6_ADDRESS, "ADDITIONAL_IP6_ADDRESS";
        16399 => NO_ADDITIONAL_ADDRESSES, "NO_ADDITIONAL_ADDRESSES";
        16400 => UPDATE_SA_ADDRESSES, "UPDATE_SA_ADDRESSES";
        16401 => COOKIE2, "COOKIE2";
        16402 => NO_NATS_ALLOWED, "NO_NATS_ALLOWED";
        16403 => AUTH_LIFETIME, "AUTH_LIFETIME";
        16404 => MULTIPLE_AUTH_SUPPORTED, "MULTIPLE_AUTH_SUPPORTED";
        16405 => ANOTHER_AUTH_FOLLOWS, "ANOTHER_AUTH_FOLLOWS";
        16406 => REDIRECT_SUPPORTED, "REDIRECT_SUPPORTED";
        16407 => REDIRECT, "REDIRECT";
        16408 => REDIRECTED_FROM, "REDIRECTED_FROM";
        16409 => TICKET_LT_OPAQUE, "TICKET_LT_OPAQUE";
        16410 => TICKET_REQUEST, "TICKET_REQUEST";
        16411 => TICKET_ACK, "TICKET_ACK";
        16412 => TICKET_NACK, "TICKET_NACK";
        16413 => TICKET_OPAQUE, "TICKET_OPAQUE";
        16417 => EAP_ONLY_AUTHENTICATION, "EAP_ONLY_AUTHENTICATION";
        16418 => CHILDLESS_IKEV2_SUPPORTED, "CHILDLESS_IKEV2_SUPPORTED";
        16419 => QUICK_CRASH_DETECTION, "QUICK_CRASH_DETECTION";
        16420 => IKEV2_MESSAGE_ID_SYNC_SUPPORTED, "IKEV2_MESSAGE_ID_SYNC_SUPPORTED";
        16421 => IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED, "IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED";
        16422 => IKEV2_MESSAGE_ID_SYNC, "IKEV2_MESSAGE_ID_SYNC";
        16423 => IPSEC_REPLAY_COUNTER_SYNC, "IPSEC_REPLAY_COUNTER_SYNC";
        16430 => IKEV2_FRAGMENTATION_SUPPORTED, "IKEV2_FRAGMENTATION_SUPPORTED";
        16431 => SIGNATURE_HASH_ALGORITHMS, "SIGNATURE_HASH_ALGORITHMS";
        16434 => PUZZLE, "PUZZLE";
        16435 => USE_PPK, "USE_PPK";
        16436 => PPK_IDENTITY, "PPK_IDENTITY";
        16437 => NO_PPK_AUTH, "NO_PPK_AUTH";
        16438 => INTERMEDIATE_EXCHANGE_SUPPORTED, "INTERMEDIATE_EXCHANGE_SUPPORTED";
        16441 => ADDITIONAL_KEY_EXCHANGE, "ADDITIONAL_KEY_EXCHANGE";
        16442 => USE_AGGFRAG, "USE_AGGFRAG";
        16443 => SUPPORTED_AUTH_METHODS, "SUPPORTED_AUTH_METHODS";
        16444 => SA_RESOURCE_INFO, "SA_RESOURCE_INFO";
    }
}

impl NotifyType {
    /// True for error types, which end the exchange they answer (RFC 7296 section 3.10.1).
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

/// The SPI of an IKE SA, chosen by one of its ends. Zero stands for "not chosen yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Spi(pub u64);

impl Spi {
    /// The SPI of a responder that has not chosen one.
    pub const ZERO: Self = Self(0);

    /// True when no SPI has been chosen.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The eight octets on the wire.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
