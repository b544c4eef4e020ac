//! What a captured Ethernet frame carries, as far as the checkers ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub content: Content<'a>,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// ESP, from the SPI on, with or without UDP around it.
    Esp(&'a [u8]),
    /// IKE, from the initiator's SPI on.
    Ike(&'a [u8]),
    /// An ICMP echo request: identifier, sequence number.
    EchoRequest(u16, u16),
    /// An ICMP echo reply: identifier, sequence number.
    EchoReply(u16, u16),
    /// Another UDP datagram: source port, destination port, payload.
    Udp(u16, u16, &'a [u8]),
    /// A later fragment of something.
    Fragment,
    /// Anything else, with the protocol's number.
    Other(u8),
}

/// Reads a frame; `None` for what is no IP packet or is cut short.
pub fn read(frame: &[u8]) -> Option<Packet<'_>> {
    let mut kind = at16(frame, 12)?;
    let mut body = frame.get(14..)?;
    if kind == 0x8100 {
        kind = at16(body, 2)?;
        body = body.get(4..)?;
    }
    match kind {
        0x0800 => read_v4(body),
        0x86dd => read_v6(body),
        _ => None,
    }
}

fn read_v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let first = *bytes.first()?;
    let header = usize::from(first & 15) * 4;
    let length = usize::from(at16(bytes, 2)?);
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    let body = bytes.get(header..length)?;
    let later = at16(bytes, 6)? & 0x1fff != 0;
    let protocol = *bytes.get(9)?;
    Some(Packet {
        source: v4(bytes, 12)?,
        destination: v4(bytes, 16)?,
        content: if later {
            Content::Fragment
        } else {
            content(protocol, body)
        },
    })
}

fn read_v6(bytes: &[u8]) -> Option<Packet<'_>> {
    if bytes.first()? >> 4 != 6 {
        return None;
    }
    let length = usize::from(at16(bytes, 4)?);
    let mut next = *bytes.get(6)?;
    let mut body = bytes.get(40..40 + length)?;
    let mut later = false;
    if next == 44 {
        next = *body.first()?;
        later = at16(body, 2)? & 0xfff8 != 0;
        body = body.get(8..)?;
    }
    Some(Packet {
        source: v6(bytes, 8)?,
        destination: v6(bytes, 24)?,
        content: if later {
            Content::Fragment
        } else {
            content(next, body)
        },
    })
}

fn content(protocol: u8, body: &[u8]) -> Content<'_> {
    let other = Content::Other(protocol);
    match protocol {
        50 => Content::Esp(body),
        17 => udp(body).unwrap_or(other),
        1 | 58 => match (body.first(), at16(body, 4), at16(body, 6)) {
            (Some(8 | 128), Some(id), Some(sequence)) => Content::EchoRequest(id, sequence),
            (Some(0 | 129), Some(id), Some(sequence)) => Content::EchoReply(id, sequence),
            _ => other,
        },
        _ => other,
    }
}

fn udp(body: &[u8]) -> Option<Content<'_>> {
    let (source, destination) = (at16(body, 0)?, at16(body, 2)?);
    let payload = body.get(8..usize::from(at16(body, 4)?))?;
    let either = |port| source == port || destination == port;
    Some(if either(4500) {
        match payload {
            // RFC 3948: four octets of zero say IKE; a single octet of ones keeps the NAT's mapping.
            [0, 0, 0, 0, ike @ ..] => Content::Ike(ike),
            [_, _, _, _, _, _, _, _, ..] => Content::Esp(payload),
            _ => Content::Udp(source, destination, payload),
        }
    } else if either(500) {
        Content::Ike(payload)
    } else {
        Content::Udp(source, destination, payload)
    })
}

fn at16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Frames made by hand, for the tests of the checkers.
#[cfg(test)]
pub(crate) mod forge {
    /// A UDP datagram over IPv4 in an Ethernet frame, without checksums.
    pub(crate) fn udp(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(source.1.to_be_bytes());
        body.extend(destination.1.to_be_bytes());
        body.extend(u16::try_from(payload.len() + 8).unwrap_or(0).to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        ip(source.0, destination.0, 17, &body)
    }

    /// An IPv4 packet in an Ethernet frame.
    pub(crate) fn ip(source: [u8; 4], destination: [u8; 4], protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(body.len() + 20).unwrap_or(0).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(body);
        frame
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const GATEWAY: ([u8; 4], u16) = ([192, 0, 2, 100], 4500);
    const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 20], 40_000);

    #[test]
    fn esp_and_ike_are_told_apart_as_rfc_3948_says() {
        let esp = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let frame = forge::udp(GATEWAY, CLIENT, &esp);
        let packet = read(&frame).unwrap();
        assert_eq!(packet.content, Content::Esp(&esp));
        assert_eq!(packet.source, IpAddr::from(GATEWAY.0));
        let frame = forge::udp(GATEWAY, CLIENT, &[0, 0, 0, 0, 9, 9]);
        assert_eq!(read(&frame).unwrap().content, Content::Ike(&[9, 9]));
        let frame = forge::udp((GATEWAY.0, 500), CLIENT, &[9, 9]);
        assert_eq!(read(&frame).unwrap().content, Content::Ike(&[9, 9]));
        let frame = forge::udp(GATEWAY, CLIENT, &[0xff]);
        assert!(matches!(read(&frame).unwrap().content, Content::Udp(..)));
        let frame = forge::ip(GATEWAY.0, CLIENT.0, 50, &esp);
        assert_eq!(read(&frame).unwrap().content, Content::Esp(&esp));
    }

    #[test]
    fn cut_and_foreign_frames_are_no_packets() {
        assert_eq!(read(&[0; 10]), None);
        let frame = forge::udp(GATEWAY, CLIENT, &[1; 20]);
        for length in 0..frame.len() {
            let _ = read(&frame[..length]);
        }
        let mut arp = frame.clone();
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(read(&arp), None);
    }

    #[test]
    fn echoes_are_read() {
        let frame = forge::ip(CLIENT.0, GATEWAY.0, 1, &[8, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(
            read(&frame).unwrap().content,
            Content::EchoRequest(0x0102, 0x0304)
        );
    }
}
