//! What the packet tests share: suites, key pairs of SAs, inner packets.
#![allow(dead_code, reason = "each test file uses a part")]

use crypto::{Cipher, Integrity, Random, Secret, SeededRandom, Suite};
use esp::{InboundParams, InboundSa, OutboundParams, OutboundSa};

pub(crate) const SPI: u32 = 0xe000_1234;

/// Every suite that there is: 4 AEADs, and 6 ciphers with 4 integrity algorithms each.
pub(crate) fn suites() -> Vec<Suite> {
    let integrity = [
        Integrity::HmacSha1_96,
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ];
    let all = Cipher::ALL.into_iter().flat_map(|cipher| {
        let separate = integrity
            .into_iter()
            .filter_map(move |i| Suite::new(cipher, Some(i)).ok());
        Suite::new(cipher, None).ok().into_iter().chain(separate)
    });
    all.collect()
}

pub(crate) fn gcm() -> Suite {
    Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None).unwrap()
}

pub(crate) fn cbc() -> Suite {
    Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap()
}

pub(crate) fn params(suite: Suite, esn: bool) -> (OutboundParams, InboundParams) {
    let mut random = SeededRandom::from_seed(1);
    let enc_key = Secret::random(&mut random, suite.enc_key_len());
    let integ_key = Secret::random(&mut random, suite.integ_key_len());
    let outbound = OutboundParams {
        spi: SPI,
        suite,
        enc_key: enc_key.clone(),
        integ_key: integ_key.clone(),
        esn,
        generation: 7,
        first_seq: 1,
        ceiling: u64::MAX,
        tfc_pad_to: 0,
    };
    let inbound = InboundParams {
        spi: SPI,
        suite,
        enc_key,
        integ_key,
        esn,
        window: 64,
        checkpoint: 0,
    };
    (outbound, inbound)
}

pub(crate) fn sas(outbound: &OutboundParams, inbound: &InboundParams) -> (OutboundSa, InboundSa) {
    let random = Box::new(SeededRandom::from_seed(2));
    (
        OutboundSa::with_random(outbound, random).unwrap(),
        InboundSa::new(inbound).unwrap(),
    )
}

pub(crate) fn pair(suite: Suite, esn: bool) -> (OutboundSa, InboundSa) {
    let (outbound, inbound) = params(suite, esn);
    sas(&outbound, &inbound)
}

/// An inner packet of the given total length (at least its header): IPv4 or IPv6, pseudo-random contents.
pub(crate) fn inner(version: u8, total: usize, seed: u64) -> Vec<u8> {
    let header = if version == 4 { 20 } else { 40 };
    let mut packet = vec![0; total.max(header)];
    SeededRandom::from_seed(seed).fill(&mut packet);
    let len = packet.len();
    if version == 4 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
    packet
}

pub(crate) fn next_header(version: u8) -> u8 {
    if version == 4 { 4 } else { 41 }
}

/// Seals into a fresh vector.
pub(crate) fn seal(sa: &mut OutboundSa, packet: &[u8], next_header: u8) -> Vec<u8> {
    let mut buf = vec![0xee; 64 + packet.len() + 2200];
    buf[64..64 + packet.len()].copy_from_slice(packet);
    let esp = sa.seal(&mut buf, 64..64 + packet.len(), next_header).unwrap();
    buf[esp].to_vec()
}

/// Opens a copy: the inner packet.
pub(crate) fn open(sa: &mut InboundSa, wire: &[u8]) -> Result<Vec<u8>, esp::DropReason> {
    let mut buf = [&[0xdd; 7], wire, &[0xcc; 5]].concat();
    let end = buf.len() - 5;
    let opened = sa.open(&mut buf, 7..end)?;
    Ok(buf[opened.inner].to_vec())
}
