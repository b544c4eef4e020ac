//! Traffic Selector payloads (RFC 7296 section 3.13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ip::Selector;

use super::codec::{Reader, Writer};
use super::error::{DecodeError, EncodeError};
use super::limits;
use super::numbers::TsType;

const IPV4_LEN: u16 = 16;
const IPV6_LEN: u16 = 40;

/// One traffic selector as it stands on the wire. Ranges are not judged here: start may lie behind end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrafficSelector {
    /// `TS_IPV4_ADDR_RANGE` or `TS_IPV6_ADDR_RANGE`; both addresses are of one family.
    Range {
        /// IP protocol, 0 for any.
        protocol: u8,
        /// First and last port, inclusive.
        ports: (u16, u16),
        /// First address.
        start: IpAddr,
        /// Last address, inclusive.
        end: IpAddr,
    },
    /// Any other type; kept whole, never matched.
    Other {
        /// The type.
        kind: TsType,
        /// The octet that holds the protocol in the known types.
        protocol: u8,
        /// Octets after the selector length.
        data: Vec<u8>,
    },
}

impl TrafficSelector {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = TsType(reader.u8("TS type")?);
        let protocol = reader.u8("TS protocol")?;
        let length = reader.u16("selector length")?;
        let bad = DecodeError::Value {
            what: "selector length",
            value: length.into(),
        };
        let rest = usize::from(length).checked_sub(4).ok_or(bad)?;
        let mut body = reader.part(rest, "traffic selector")?;
        let wanted = match kind {
            TsType::IPV4_ADDR_RANGE => IPV4_LEN,
            TsType::IPV6_ADDR_RANGE => IPV6_LEN,
            _ => {
                let data = body.rest().to_vec();
                return Ok(Self::Other { kind, protocol, data });
            }
        };
        if length != wanted {
            return Err(bad);
        }
        let ports = (body.u16("start port")?, body.u16("end port")?);
        let (start, end) = if kind == TsType::IPV4_ADDR_RANGE {
            (
                IpAddr::V4(Ipv4Addr::from(body.array::<4>("starting address")?)),
                IpAddr::V4(Ipv4Addr::from(body.array::<4>("ending address")?)),
            )
        } else {
            (
                IpAddr::V6(Ipv6Addr::from(body.array::<16>("starting address")?)),
                IpAddr::V6(Ipv6Addr::from(body.array::<16>("ending address")?)),
            )
        };
        body.finish("traffic selector")?;
        Ok(Self::Range {
            protocol,
            ports,
            start,
            end,
        })
    }

    fn write(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        match self {
            Self::Range {
                protocol,
                ports,
                start,
                end,
            } => {
                let kind = match start {
                    IpAddr::V4(_) => TsType::IPV4_ADDR_RANGE,
                    IpAddr::V6(_) => TsType::IPV6_ADDR_RANGE,
                };
                writer.u8(kind.0);
                writer.u8(*protocol);
                let mark = writer.open(2);
                writer.u16(ports.0);
                writer.u16(ports.1);
                for address in [start, end] {
                    match address {
                        IpAddr::V4(v4) => writer.bytes(&v4.octets()),
                        IpAddr::V6(v6) => writer.bytes(&v6.octets()),
                    }
                }
                writer.close(mark, "traffic selector")
            }
            Self::Other { kind, protocol, data } => {
                writer.u8(kind.0);
                writer.u8(*protocol);
                let mark = writer.open(2);
                writer.bytes(data);
                writer.close(mark, "traffic selector")
            }
        }
    }
}

pub(super) fn read(mut reader: Reader<'_>) -> Result<Vec<TrafficSelector>, DecodeError> {
    let count = usize::from(reader.u8("number of TSs")?);
    reader.take(3, "TS: reserved")?;
    if count == 0 {
        return Err(DecodeError::Empty {
            what: "traffic selectors",
        });
    }
    if count > limits::TRAFFIC_SELECTORS {
        return Err(DecodeError::TooMany {
            what: "traffic selectors",
            limit: limits::TRAFFIC_SELECTORS,
        });
    }
    let mut selectors = Vec::with_capacity(count);
    for _ in 0..count {
        selectors.push(TrafficSelector::read(&mut reader)?);
    }
    reader.finish("TS payload")?;
    Ok(selectors)
}

pub(super) fn write(selectors: &[TrafficSelector], writer: &mut Writer) -> Result<(), EncodeError> {
    writer.u8(u8::try_from(selectors.len()).map_err(|_| EncodeError::TooMany {
        what: "traffic selectors",
    })?);
    writer.bytes(&[0; 3]);
    selectors.iter().try_for_each(|ts| ts.write(writer))
}

/// A selector in the types that policies use.
impl From<&Selector> for TrafficSelector {
    fn from(selector: &Selector) -> Self {
        Self::Range {
            protocol: selector.protocol(),
            ports: selector.ports(),
            start: selector.start(),
            end: selector.end(),
        }
    }
}

impl TrafficSelector {
    /// The selector in the types that policies use; `None` for unknown types and for ranges that are none.
    pub fn to_selector(&self) -> Option<Selector> {
        match self {
            Self::Range {
                protocol,
                ports,
                start,
                end,
            } => Selector::new(*protocol, *ports, *start, *end).ok(),
            Self::Other { .. } => None,
        }
    }

    /// All selectors of a payload that are understood, in their order.
    pub fn to_selectors(list: &[Self]) -> Vec<Selector> {
        list.iter().filter_map(Self::to_selector).collect()
    }

    /// Selectors as they stand on the wire.
    pub fn from_selectors(list: &[Selector]) -> Vec<Self> {
        list.iter().map(Self::from).collect()
    }
}
