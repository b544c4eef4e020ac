//! Another gateway, as REDIRECT names it (RFC 5685 section 9.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wire::{NONCE_OCTETS, Notify, NotifyType};

/// Octets of a host name.
const NAME_OCTETS: usize = 253;

/// The gateway that a client is sent to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GatewayId {
    /// Its IPv4 address.
    V4(Ipv4Addr),
    /// Its IPv6 address.
    V6(Ipv6Addr),
    /// Its host name: letters, digits, hyphens and dots.
    Fqdn(String),
}

/// A text that names no gateway.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is neither an address nor a host name")]
pub struct GatewayIdError(String);

impl GatewayId {
    /// The notify REDIRECT; `nonce` is the client's, and belongs into the answer to IKE_SA_INIT only.
    #[must_use]
    pub fn redirect(&self, nonce: &[u8]) -> Notify {
        //= rfc5685#section-9.2
        //# The 'GW Ident Len' field is set to the length of the gateway identity information.
        let mut data = self.octets();
        //= rfc5685#section-9.2
        //# The 'Nonce Data' field is present in the REDIRECT payload only when the REDIRECT payload is sent in the IKE_SA_INIT response message.
        data.extend_from_slice(nonce);
        Notify::with_data(NotifyType::REDIRECT, data)
    }

    /// What a REDIRECT says, and the nonce that it returns (empty if it has none).
    #[must_use]
    pub fn of_redirect(notify: &Notify) -> Option<(Self, &[u8])> {
        let (id, nonce) = Self::read(&notify.data)?;
        (nonce.is_empty() || NONCE_OCTETS.contains(&nonce.len())).then_some((id, nonce))
    }

    /// The notify REDIRECTED_FROM.
    #[must_use]
    pub fn redirected_from(address: IpAddr) -> Notify {
        Notify::with_data(NotifyType::REDIRECTED_FROM, Self::from(address).octets())
    }

    /// The gateway that a REDIRECTED_FROM names.
    #[must_use]
    pub fn of_redirected_from(notify: &Notify) -> Option<Self> {
        Self::read(&notify.data).map(|(id, _)| id)
    }

    fn octets(&self) -> Vec<u8> {
        let (kind, identity) = match self {
            Self::V4(address) => (1, address.octets().to_vec()),
            Self::V6(address) => (2, address.octets().to_vec()),
            Self::Fqdn(name) => (3, name.as_bytes().iter().copied().take(NAME_OCTETS).collect()),
        };
        let length = u8::try_from(identity.len()).unwrap_or(u8::MAX);
        let mut octets = vec![kind, length];
        octets.extend(identity);
        octets
    }

    fn read(data: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, rest) = data.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (identity, rest) = rest.split_at_checked(usize::from(*length))?;
        let id = match kind {
            1 => Self::V4(<[u8; 4]>::try_from(identity).ok()?.into()),
            2 => Self::V6(<[u8; 16]>::try_from(identity).ok()?.into()),
            3 => Self::Fqdn(name(std::str::from_utf8(identity).ok()?)?),
            _ => return None,
        };
        Some((id, rest))
    }
}

/// The text if it is a host name that may be printed and resolved.
fn name(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = !text.is_empty() && text.len() <= NAME_OCTETS && text.chars().all(plain);
    fits.then(|| text.to_owned())
}

impl From<IpAddr> for GatewayId {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6),
        }
    }
}

impl FromStr for GatewayId {
    type Err = GatewayIdError;

    fn from_str(text: &str) -> Result<Self, GatewayIdError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        name(text)
            .map(Self::Fqdn)
            .ok_or_else(|| GatewayIdError(text.to_owned()))
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
            Self::Fqdn(name) => f.write_str(name),
        }
    }
}
