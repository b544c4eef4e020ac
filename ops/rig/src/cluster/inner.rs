//! Invariants over what the captures show of inner packets: S9 (none leaves in clear) and S2 (none arrives twice).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::packet::{self, Content};
use super::pcap::Reader;
use crate::Result;

/// The inner networks: prefixes of IPv4 and IPv6 addresses as octets and bits.
#[derive(Debug, Clone)]
pub struct Inner(Vec<(IpAddr, u8)>);

impl Inner {
    /// From prefixes such as `10.64.0.0/16`.
    pub fn new(prefixes: &[&str]) -> Result<Self> {
        let read = |text: &&str| -> Result<(IpAddr, u8)> {
            let (address, bits) = text
                .split_once('/')
                .ok_or_else(|| anyhow::anyhow!("{text} is no prefix"))?;
            Ok((address.parse()?, bits.parse()?))
        };
        Ok(Self(prefixes.iter().map(read).collect::<Result<_>>()?))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(prefix, bits)| match (prefix, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => {
                let shift = 32 - u32::from((*bits).clamp(1, 32));
                prefix.to_bits() >> shift == address.to_bits() >> shift
            }
            (IpAddr::V6(prefix), IpAddr::V6(address)) => {
                let shift = 128 - u32::from((*bits).clamp(1, 128));
                prefix.to_bits() >> shift == address.to_bits() >> shift
            }
            _ => false,
        })
    }
}

/// What a capture of an outer network shows: S9.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Clear {
    /// IP packets looked at.
    pub packets: u64,
    /// Packets from or to an inner address.
    pub clear: u64,
    /// The first of them.
    pub first: Option<String>,
}

impl Clear {
    /// Reads a capture of everything on an outer interface.
    pub fn capture(&mut self, path: &Path, inner: &Inner) -> Result<()> {
        let mut reader = Reader::open(path)?;
        while let Some(frame) = reader.next_frame()? {
            let at = frame.at;
            let Some(packet) = packet::read(frame.bytes) else {
                continue;
            };
            self.packets += 1;
            if inner.contains(packet.source) || inner.contains(packet.destination) {
                self.clear += 1;
                self.first.get_or_insert_with(|| {
                    format!(
                        "{:.6} {} > {}",
                        at.as_secs_f64(),
                        packet.source,
                        packet.destination
                    )
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Clear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} packets outside, {} of them in clear",
            self.packets, self.clear
        )?;
        self.first
            .iter()
            .try_for_each(|first| write!(f, " (first: {first})"))
    }
}

/// Echo requests that came out of tunnels more than once: what a replay would show on the inside.
#[derive(Debug, Default)]
pub struct Twice {
    seen: HashMap<(IpAddr, u16, u16), u32>,
}

impl Twice {
    /// Reads a capture of an inside interface.
    pub fn capture(&mut self, path: &Path) -> Result<()> {
        let mut reader = Reader::open(path)?;
        while let Some(frame) = reader.next_frame()? {
            if let Some(packet) = packet::read(frame.bytes)
                && let Content::EchoRequest(id, sequence) = packet.content
            {
                *self.seen.entry((packet.source, id, sequence)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Requests seen, and how many of them more than once. One capture point only: two would see each packet twice.
    pub fn counts(&self) -> (usize, usize) {
        (self.seen.len(), self.seen.values().filter(|&&n| n > 1).count())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::super::packet::forge;
    use super::super::pcap::Writer;
    use super::*;

    fn file(name: &str, frames: &[Vec<u8>]) -> std::path::PathBuf {
        let mut writer = Writer::new();
        for frame in frames {
            writer.frame(Duration::from_secs(5), frame);
        }
        let path = std::env::temp_dir().join(format!("rig-inner-{name}-{}", std::process::id()));
        std::fs::write(&path, writer.finish()).unwrap();
        path
    }

    #[test]
    fn an_inner_packet_outside_is_found() {
        let inner = Inner::new(&["10.64.0.0/16", "fd30::/112"]).unwrap();
        let outer = forge::udp(([192, 0, 2, 100], 4500), ([192, 0, 2, 20], 4500), &[1; 30]);
        let leak = forge::ip([10, 64, 3, 4], [10, 97, 0, 10], 1, &[8, 0, 0, 0, 0, 1, 0, 1]);
        let path = file("clear", &[outer, leak]);
        let mut clear = Clear::default();
        clear.capture(&path, &inner).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!((clear.packets, clear.clear), (2, 1));
        assert!(clear.to_string().contains("10.64.3.4 > 10.97.0.10"), "{clear}");
    }

    #[test]
    fn a_request_that_came_twice_is_found() {
        let one = forge::ip([10, 64, 3, 4], [10, 97, 0, 10], 1, &[8, 0, 0, 0, 0, 1, 0, 1]);
        let two = forge::ip([10, 64, 3, 4], [10, 97, 0, 10], 1, &[8, 0, 0, 0, 0, 1, 0, 2]);
        let path = file("twice", &[one.clone(), two, one]);
        let mut twice = Twice::default();
        twice.capture(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(twice.counts(), (2, 1));
    }
}
