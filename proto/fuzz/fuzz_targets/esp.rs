//! ESP: packets of the peer in any order, again, damaged, and noise. Each is delivered once, as it was sent.

#![no_main]

use std::collections::BTreeSet;

use crypto::{Secret, SeededRandom};
use esp::{InboundParams, InboundSa, Layout, OutboundParams, OutboundSa, TAIL_ROOM};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::{Input, suite};

const SPI: u32 = 0x2000_0001;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mode = input.u8();
    let suite = suite(mode);
    let esn = mode & 4 != 0;
    let enc_key = Secret::from(vec![0x33; suite.enc_key_len()]);
    let integ_key = Secret::from(vec![0x44; suite.integ_key_len()]);
    // Near the end of a subspace of 2^32 numbers, where the high half changes.
    let base = if esn && mode & 8 != 0 {
        u64::from(u32::MAX) - 3
    } else {
        0
    };
    let outbound = OutboundParams {
        spi: SPI,
        suite,
        enc_key: enc_key.clone(),
        integ_key: integ_key.clone(),
        esn,
        generation: 1,
        first_seq: base + 1,
        ceiling: u64::MAX,
        tfc_pad_to: if mode & 16 == 0 { 0 } else { 200 },
    };
    let inbound = InboundParams {
        spi: SPI,
        suite,
        enc_key,
        integ_key,
        esn,
        window: 64,
        checkpoint: base,
    };
    let random = Box::new(SeededRandom::from_seed(2));
    let mut sender = OutboundSa::with_random(&outbound, random).expect("valid keys");
    let mut receiver = InboundSa::new(&inbound).expect("valid keys");
    let head = Layout::of(suite).head();

    let mut sent: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut delivered = BTreeSet::new();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let script = input.u8();
        match script % 4 {
            0 => {
                // Only a whole IP packet is sealed: TFC padding is cut off by its length field.
                let inner = packet(input.take(usize::from(script)));
                let end = head + inner.len();
                let mut buf = vec![0; end + TAIL_ROOM + 256];
                buf[head..end].copy_from_slice(&inner);
                let sealed = sender.seal(&mut buf, head..end, 4).expect("room enough");
                sent.push((buf[sealed].to_vec(), inner));
            }
            1 | 2 if !sent.is_empty() => {
                let index = usize::from(input.u8()) % sent.len();
                let (wire, inner) = &sent[index];
                let mut buf = wire.clone();
                let damaged = script % 4 == 2;
                if damaged {
                    let place = usize::from(input.u16()) % buf.len();
                    buf[place] ^= input.u8() | 1;
                }
                let end = buf.len();
                if let Ok(opened) = receiver.open(&mut buf, 0..end) {
                    assert!(!damaged, "a damaged packet was opened");
                    assert!(delivered.insert(opened.sequence), "delivered twice");
                    assert_eq!(opened.sequence, base + 1 + index as u64);
                    assert_eq!(&buf[opened.inner], inner);
                }
            }
            _ => {
                let mut noise = input.part().to_vec();
                if script & 0x80 != 0 && noise.len() >= 4 {
                    noise[..4].copy_from_slice(&SPI.to_be_bytes());
                }
                let end = noise.len();
                let start = usize::from(script & 7).min(end);
                assert!(receiver.open(&mut noise, start..end).is_err());
            }
        }
    }
});

/// The smallest IPv4 packet around `text`.
fn packet(text: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + text.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend_from_slice(text);
    packet
}
