//! Invariant S1 over captures: no (key, IV) pair encrypts two different things.
//!
//! The key of an ESP packet is that of its SPI at its destination, its IV the eight octets after the sequence number
//! (AES-GCM, AES-CTR and ChaCha20-Poly1305 have eight; CBC suites are not checked here). The key of an IKE message is that
//! of its two SPIs and its direction, its IV the eight octets that open the SK or SKF payload. The same octets again are a
//! retransmission, or one packet captured at two places, and harmless.
//!
//! Memory: 32 octets for each packet; 10^7 packets take 320 MB and some seconds.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::packet::{self, Content, Packet};
use super::pcap::Reader;
use crate::Result;

/// Violations described in full; the rest is counted.
const DESCRIBED_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Esp {
        destination: IpAddr,
        spi: u32,
    },
    Ike {
        initiator: u64,
        responder: u64,
        from_initiator: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    key: u32,
    iv: u64,
    hash: u64,
    at: Duration,
}

/// Collects what gateways have sent.
#[derive(Debug, Default)]
pub struct Uniqueness {
    gateways: Vec<IpAddr>,
    keys: HashMap<Key, u32>,
    seen: Vec<Seen>,
    esp: u64,
    ike: u64,
    unread: u64,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// ESP packets looked at.
    pub esp: u64,
    /// Encrypted IKE messages looked at.
    pub ike: u64,
    /// Keys that they were encrypted with.
    pub keys: usize,
    /// Packets captured or sent more than once with the same octets.
    pub repeated: u64,
    /// Packets of the gateways that could not be read (later fragments, cut frames).
    pub unread: u64,
    /// (key, IV) pairs with different contents.
    pub violations: u64,
    /// The first of them in words.
    pub described: Vec<String>,
}

impl Uniqueness {
    /// Looks at packets from these addresses only: those of the gateways.
    pub fn new(gateways: &[IpAddr]) -> Self {
        Self {
            gateways: gateways.to_vec(),
            ..Self::default()
        }
    }

    /// Reads a whole capture.
    pub fn capture(&mut self, path: &Path) -> Result<()> {
        let mut reader = Reader::open(path)?;
        while let Some(frame) = reader.next_frame()? {
            let (at, whole) = (frame.at, frame.whole);
            if let Some(packet) = packet::read(frame.bytes).filter(|_| whole) {
                self.packet(at, &packet);
            }
        }
        Ok(())
    }

    /// Looks at one packet.
    pub fn packet(&mut self, at: Duration, packet: &Packet<'_>) {
        if !self.gateways.contains(&packet.source) {
            return;
        }
        let found = match packet.content {
            Content::Esp(bytes) => esp(packet.destination, bytes).map(|found| (found, bytes)),
            Content::Ike(bytes) => match ike(bytes) {
                Some(Some(found)) => Some((found, bytes)),
                Some(None) => return,
                None => None,
            },
            Content::Fragment => None,
            Content::EchoRequest(..) | Content::EchoReply(..) | Content::Udp(..) | Content::Other(_) => {
                return;
            }
        };
        let Some(((key, iv), bytes)) = found else {
            self.unread += 1;
            return;
        };
        match key {
            Key::Esp { .. } => self.esp += 1,
            Key::Ike { .. } => self.ike += 1,
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        let key = *self.keys.entry(key).or_insert(next);
        self.seen.push(Seen {
            key,
            iv,
            hash: hasher.finish(),
            at,
        });
    }

    /// Compares all that was seen.
    pub fn verdict(mut self) -> Verdict {
        self.seen.sort_unstable();
        let mut verdict = Verdict {
            esp: self.esp,
            ike: self.ike,
            keys: self.keys.len(),
            unread: self.unread,
            ..Verdict::default()
        };
        for pair in self.seen.windows(2) {
            let [one, two] = pair else { continue };
            if (one.key, one.iv) != (two.key, two.iv) {
                continue;
            }
            if one.hash == two.hash {
                verdict.repeated += 1;
                continue;
            }
            verdict.violations += 1;
            if verdict.described.len() < DESCRIBED_MAX {
                let key = self
                    .keys
                    .iter()
                    .find(|(_, index)| **index == one.key)
                    .map(|(key, _)| *key);
                verdict.described.push(describe(key, one, two));
            }
        }
        verdict
    }
}

fn describe(key: Option<Key>, one: &Seen, two: &Seen) -> String {
    let key = match key {
        Some(Key::Esp { destination, spi }) => format!("ESP SPI {spi:08x} to {destination}"),
        Some(Key::Ike {
            initiator,
            responder,
            from_initiator,
        }) => {
            let who = if from_initiator { "initiator" } else { "responder" };
            format!("IKE {initiator:016x}/{responder:016x} by the {who}")
        }
        None => "an unknown key".to_owned(),
    };
    let (first, second) = (one.at.min(two.at), one.at.max(two.at));
    format!(
        "{key}: IV {:016x} at {:.6} and {:.6} with different contents",
        one.iv,
        first.as_secs_f64(),
        second.as_secs_f64()
    )
}

impl Verdict {
    /// Whether the invariant holds, and was looked at all.
    pub fn holds(&self) -> bool {
        self.violations == 0 && self.esp > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ESP packets and {} IKE messages under {} keys: {} (key, IV) pairs used twice ({} seen again unchanged, {} unread)",
            self.esp, self.ike, self.keys, self.violations, self.repeated, self.unread
        )?;
        for line in &self.described {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

fn esp(destination: IpAddr, bytes: &[u8]) -> Option<(Key, u64)> {
    let spi = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    Some((Key::Esp { destination, spi }, word(bytes, 8)?))
}

/// `Some(None)` for a message without anything encrypted.
fn ike(bytes: &[u8]) -> Option<Option<(Key, u64)>> {
    let key = Key::Ike {
        initiator: word(bytes, 0)?,
        responder: word(bytes, 8)?,
        from_initiator: bytes.get(19)? & 0x08 != 0,
    };
    let iv = match bytes.get(16)? {
        46 => word(bytes, 28 + 4)?,
        53 => word(bytes, 28 + 8)?,
        _ => return Some(None),
    };
    Some(Some((key, iv)))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::super::packet::forge;
    use super::super::pcap::Writer;
    use super::*;

    const GATEWAY: [u8; 4] = [192, 0, 2, 100];
    const CLIENT: [u8; 4] = [192, 0, 2, 20];

    fn esp_frame(spi: u32, sequence: u32, iv: u64, filling: u8) -> Vec<u8> {
        let mut esp = Vec::new();
        esp.extend(spi.to_be_bytes());
        esp.extend(sequence.to_be_bytes());
        esp.extend(iv.to_be_bytes());
        esp.extend([filling; 40]);
        forge::udp((GATEWAY, 4500), (CLIENT, 4500), &esp)
    }

    fn ike_frame(responder: u64, flags: u8, payload: u8, iv: u64, filling: u8) -> Vec<u8> {
        let mut ike = vec![0; 4];
        ike.extend(7_u64.to_be_bytes());
        ike.extend(responder.to_be_bytes());
        ike.extend([payload, 0x20, 37, flags, 0, 0, 0, 1, 0, 0, 0, 90]);
        ike.extend([0, 0, 0, 60]);
        if payload == 53 {
            ike.extend([0, 1, 0, 2]);
        }
        ike.extend(iv.to_be_bytes());
        ike.extend([filling; 30]);
        forge::udp((GATEWAY, 4500), (CLIENT, 4500), &ike)
    }

    fn verdict(frames: &[Vec<u8>]) -> Verdict {
        let mut writer = Writer::new();
        for (index, frame) in frames.iter().enumerate() {
            writer.frame(Duration::from_millis(u64::try_from(index).unwrap()), frame);
        }
        let path = std::env::temp_dir().join(format!("rig-unique-{}-{:p}.pcap", std::process::id(), frames));
        std::fs::write(&path, writer.finish()).unwrap();
        let mut uniqueness = Uniqueness::new(&[GATEWAY.into()]);
        uniqueness.capture(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        uniqueness.verdict()
    }

    #[test]
    fn a_forged_duplicate_is_found() {
        let found = verdict(&[
            esp_frame(1, 1, 10, 1),
            esp_frame(1, 2, 11, 1),
            esp_frame(1, 3, 10, 2),
        ]);
        assert_eq!((found.esp, found.violations), (3, 1));
        assert!(!found.holds());
        assert!(found.described[0].contains("SPI 00000001"), "{found}");
        // The sequence number is a part of the content: the same plaintext under another number is another message.
        assert_eq!(
            verdict(&[esp_frame(1, 1, 10, 1), esp_frame(1, 2, 10, 1)]).violations,
            1
        );
    }

    #[test]
    fn the_same_octets_again_other_keys_and_other_ivs_are_harmless() {
        let found = verdict(&[
            esp_frame(1, 1, 10, 1),
            esp_frame(1, 1, 10, 1),
            esp_frame(2, 1, 10, 9),
            esp_frame(1, 2, 11, 3),
        ]);
        assert!(found.holds(), "{found}");
        assert_eq!((found.repeated, found.keys), (1, 2));
    }

    #[test]
    fn a_forged_duplicate_in_ike_is_found_and_directions_are_keys_of_their_own() {
        let esp = esp_frame(1, 1, 1, 1);
        let found = verdict(&[
            ike_frame(5, 0x20, 46, 3, 1),
            ike_frame(5, 0x20, 46, 3, 1),
            ike_frame(5, 0x28, 46, 3, 2),
            ike_frame(5, 0x20, 53, 4, 2),
            ike_frame(5, 0x20, 33, 3, 9),
            esp.clone(),
        ]);
        assert!(found.holds(), "{found}");
        assert_eq!((found.ike, found.repeated), (4, 1));
        let found = verdict(&[ike_frame(5, 0x20, 46, 4, 1), ike_frame(5, 0x20, 53, 4, 2), esp]);
        assert_eq!(found.violations, 1);
        assert!(found.described[0].contains("responder"), "{found}");
    }

    #[test]
    fn nothing_seen_is_nothing_proved() {
        assert!(!verdict(&[]).holds());
        let from_client = forge::udp((CLIENT, 4500), (GATEWAY, 4500), &[9; 60]);
        assert!(!verdict(&[from_client]).holds());
    }
}
