//! Configuration payloads: addresses, DNS servers and subnets for a peer (RFC 7296 section 3.15).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ip::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::wire::{Attribute, AttributeType, CfgType, Configuration};

/// Attributes of one request that are looked at; more are ignored.
const MAX_ATTRIBUTES: usize = 64;

/// What a peer asks for in CP(CFG_REQUEST).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigRequest {
    /// An IPv4 address; `Some(Some(a))`: preferably `a`.
    pub v4: Option<Option<Ipv4Addr>>,
    /// An IPv6 address; `Some(Some(a))`: preferably `a`.
    pub v6: Option<Option<Ipv6Addr>>,
    /// IPv4 DNS servers.
    pub dns_v4: bool,
    /// IPv6 DNS servers.
    pub dns_v6: bool,
    /// IPv4 subnets behind the gateway.
    pub subnets_v4: bool,
    /// IPv6 subnets behind the gateway.
    pub subnets_v6: bool,
    /// Domains to resolve through the tunnel (RFC 8598).
    pub domains: bool,
}

/// What a gateway assigns to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Assigned {
    /// Virtual IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Virtual IPv6 address and its prefix length.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// DNS servers, of both families.
    pub dns: Vec<IpAddr>,
    /// Subnets behind the gateway, of both families.
    pub subnets: Vec<IpNet>,
    /// Domains to resolve through the tunnel.
    pub domains: Vec<String>,
}

impl ConfigRequest {
    /// Asks for one address of each family and everything around it.
    #[must_use]
    pub fn both() -> Self {
        Self {
            v6: Some(None),
            dns_v6: true,
            subnets_v6: true,
            ..Self::ipv4()
        }
    }

    /// Asks for an IPv4 address, DNS servers and subnets.
    #[must_use]
    pub fn ipv4() -> Self {
        Self {
            v4: Some(None),
            dns_v4: true,
            subnets_v4: true,
            ..Self::default()
        }
    }

    /// Whether any address is asked for.
    #[must_use]
    pub const fn wants_address(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }

    /// Reads a request. Malformed and unknown attributes are skipped, as section 3.15.1 wants.
    ///
    /// Returns `None` if the payload is not a request.
    #[must_use]
    pub fn from_payload(payload: &Configuration) -> Option<Self> {
        if payload.kind != CfgType::REQUEST {
            return None;
        }
        let mut request = Self::default();
        //= rfc7296#section-3.15.1
        //# Unrecognized or unsupported attributes
        //# MUST be ignored in both requests and responses.
        for Attribute { kind, value } in payload.attributes.iter().take(MAX_ATTRIBUTES) {
            match *kind {
                AttributeType::INTERNAL_IP4_ADDRESS => {
                    let wish = read_v4(value).filter(|a| !a.is_unspecified());
                    request.v4 = Some(request.v4.flatten().or(wish));
                }
                AttributeType::INTERNAL_IP6_ADDRESS => {
                    let wish = read_v6(value).map(|(a, _)| a).filter(|a| !a.is_unspecified());
                    request.v6 = Some(request.v6.flatten().or(wish));
                }
                AttributeType::INTERNAL_IP4_DNS => request.dns_v4 = true,
                AttributeType::INTERNAL_IP6_DNS => request.dns_v6 = true,
                AttributeType::INTERNAL_IP4_SUBNET => request.subnets_v4 = true,
                AttributeType::INTERNAL_IP6_SUBNET => request.subnets_v6 = true,
                AttributeType::INTERNAL_DNS_DOMAIN => request.domains = true,
                _ => {}
            }
        }
        Some(request)
    }

    /// The CP(CFG_REQUEST).
    #[must_use]
    pub fn to_payload(&self) -> Configuration {
        let mut attributes = Vec::new();
        let mut push = |kind, value: Vec<u8>| attributes.push(Attribute::new(kind, value));
        if let Some(wish) = self.v4 {
            push(
                AttributeType::INTERNAL_IP4_ADDRESS,
                wish.map_or(Vec::new(), |a| a.octets().to_vec()),
            );
        }
        if let Some(wish) = self.v6 {
            push(
                AttributeType::INTERNAL_IP6_ADDRESS,
                wish.map_or(Vec::new(), |a| write_v6(a, 128)),
            );
        }
        let flags = [
            (self.dns_v4, AttributeType::INTERNAL_IP4_DNS),
            (self.dns_v6, AttributeType::INTERNAL_IP6_DNS),
            (self.subnets_v4, AttributeType::INTERNAL_IP4_SUBNET),
            (self.subnets_v6, AttributeType::INTERNAL_IP6_SUBNET),
            (self.domains, AttributeType::INTERNAL_DNS_DOMAIN),
        ];
        for (_, kind) in flags.into_iter().filter(|(wanted, _)| *wanted) {
            push(kind, Vec::new());
        }
        Configuration {
            kind: CfgType::REQUEST,
            attributes,
        }
    }
}

impl Assigned {
    /// Whether there is an address in it.
    #[must_use]
    pub const fn has_address(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }

    /// The CP(CFG_REPLY) to `request`: only kinds that were asked for, except that DNS servers and subnets of an
    /// assigned family are given even to clients that forget to ask.
    #[must_use]
    pub fn to_payload(&self, request: &ConfigRequest) -> Configuration {
        let mut attributes = Vec::new();
        let mut push = |kind, value: Vec<u8>| attributes.push(Attribute::new(kind, value));
        let v4 = self.v4.filter(|_| request.v4.is_some());
        let v6 = self.v6.filter(|_| request.v6.is_some());
        if let Some(address) = v4 {
            push(AttributeType::INTERNAL_IP4_ADDRESS, address.octets().to_vec());
        }
        if let Some((address, prefix)) = v6 {
            push(AttributeType::INTERNAL_IP6_ADDRESS, write_v6(address, prefix));
        }
        for server in &self.dns {
            match server {
                IpAddr::V4(a) if request.dns_v4 || v4.is_some() => {
                    push(AttributeType::INTERNAL_IP4_DNS, a.octets().to_vec());
                }
                IpAddr::V6(a) if request.dns_v6 || v6.is_some() => {
                    push(AttributeType::INTERNAL_IP6_DNS, a.octets().to_vec());
                }
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
        for subnet in &self.subnets {
            match subnet {
                IpNet::V4(net) if request.subnets_v4 || v4.is_some() => {
                    let mut value = net.network().octets().to_vec();
                    value.extend(net.netmask().octets());
                    push(AttributeType::INTERNAL_IP4_SUBNET, value);
                }
                IpNet::V6(net) if request.subnets_v6 || v6.is_some() => {
                    push(
                        AttributeType::INTERNAL_IP6_SUBNET,
                        write_v6(net.network(), net.prefix_len()),
                    );
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            }
        }
        for domain in self.domains.iter().filter(|_| request.domains) {
            push(AttributeType::INTERNAL_DNS_DOMAIN, domain.as_bytes().to_vec());
        }
        Configuration {
            kind: CfgType::REPLY,
            attributes,
        }
    }

    /// Reads a CP(CFG_REPLY); `None` if the payload is not a reply. Malformed and unknown attributes are skipped.
    #[must_use]
    pub fn from_payload(payload: &Configuration) -> Option<Self> {
        if payload.kind != CfgType::REPLY {
            return None;
        }
        let mut assigned = Self::default();
        for Attribute { kind, value } in payload.attributes.iter().take(MAX_ATTRIBUTES) {
            match *kind {
                AttributeType::INTERNAL_IP4_ADDRESS => assigned.v4 = assigned.v4.or_else(|| read_v4(value)),
                AttributeType::INTERNAL_IP6_ADDRESS => assigned.v6 = assigned.v6.or_else(|| read_v6(value)),
                AttributeType::INTERNAL_IP4_DNS => assigned.dns.extend(read_v4(value).map(IpAddr::V4)),
                AttributeType::INTERNAL_IP6_DNS => {
                    assigned.dns.extend(read_v6(value).map(|(a, _)| IpAddr::V6(a)))
                }
                AttributeType::INTERNAL_IP4_SUBNET => {
                    assigned.subnets.extend(read_subnet_v4(value).map(IpNet::V4))
                }
                AttributeType::INTERNAL_IP6_SUBNET => {
                    let net = read_v6(value).and_then(|(a, prefix)| Ipv6Net::new(a, prefix).ok());
                    assigned.subnets.extend(net.map(|net| IpNet::V6(net.trunc())));
                }
                AttributeType::INTERNAL_DNS_DOMAIN => {
                    assigned
                        .domains
                        .extend(String::from_utf8(value.clone()).ok().filter(|d| !d.is_empty()));
                }
                _ => {}
            }
        }
        Some(assigned)
    }
}

fn read_v4(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

/// Sixteen octets, and usually one of prefix length; Android and old strongSwan leave it out.
fn read_v6(value: &[u8]) -> Option<(Ipv6Addr, u8)> {
    let (address, rest) = value.split_first_chunk::<16>()?;
    let prefix = match rest {
        [] => 128,
        [prefix] if *prefix <= 128 => *prefix,
        _ => return None,
    };
    Some((Ipv6Addr::from(*address), prefix))
}

fn write_v6(address: Ipv6Addr, prefix: u8) -> Vec<u8> {
    let mut value = address.octets().to_vec();
    value.push(prefix);
    value
}

fn read_subnet_v4(value: &[u8]) -> Option<Ipv4Net> {
    let (address, mask) = value.split_first_chunk::<4>()?;
    let mask = <[u8; 4]>::try_from(mask).ok()?;
    Ipv4Net::with_netmask(Ipv4Addr::from(*address), Ipv4Addr::from(mask))
        .ok()
        .map(|net| net.trunc())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn assigned() -> Assigned {
        Assigned {
            v4: Some(Ipv4Addr::new(10, 1, 0, 7)),
            v6: Some(("2001:db8::7".parse().unwrap(), 128)),
            dns: vec!["10.0.0.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            subnets: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            domains: vec!["corp.example".to_owned()],
        }
    }

    #[test]
    fn reply_round_trips() {
        let request = ConfigRequest {
            domains: true,
            ..ConfigRequest::both()
        };
        assert_eq!(
            ConfigRequest::from_payload(&request.to_payload()),
            Some(request.clone())
        );
        assert_eq!(
            Assigned::from_payload(&assigned().to_payload(&request)),
            Some(assigned())
        );
    }

    #[test]
    fn a_family_that_was_not_asked_for_is_not_given() {
        let reply = Assigned::from_payload(&assigned().to_payload(&ConfigRequest::ipv4())).unwrap();
        assert_eq!((reply.v6, reply.dns.len(), reply.subnets.len()), (None, 1, 1));
    }

    //= rfc7296#section-3.15.1
    //= type=test
    //# Unrecognized or unsupported attributes
    //# MUST be ignored in both requests and responses.
    #[test]
    fn wishes_are_read_and_malformed_attributes_skipped() {
        let attribute = |kind, value: &[u8]| Attribute::new(kind, value);
        let payload = Configuration {
            kind: CfgType::REQUEST,
            attributes: vec![
                attribute(AttributeType::INTERNAL_IP4_ADDRESS, &[10, 0, 0, 9]),
                attribute(AttributeType::INTERNAL_IP4_ADDRESS, &[10, 0, 0]),
                attribute(AttributeType::INTERNAL_IP6_ADDRESS, &[0; 17]),
                attribute(AttributeType(999), b"x"),
            ],
        };
        let request = ConfigRequest::from_payload(&payload).unwrap();
        assert_eq!(request.v4, Some(Some(Ipv4Addr::new(10, 0, 0, 9))));
        assert_eq!(request.v6, Some(None));
        let reply = Configuration {
            kind: CfgType::REPLY,
            ..payload
        };
        assert_eq!(ConfigRequest::from_payload(&reply), None);
    }
}
