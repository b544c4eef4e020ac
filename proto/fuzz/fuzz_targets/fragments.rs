//! Sealing, fragmenting, damage, disorder, opening and reassembly: what is complete is what was sent.

#![no_main]

use std::time::{Duration, Instant};

use crypto::SeededRandom;
use ike::wire::protect::{self, Content};
use ike::wire::{ExchangeType, Flags, Header, PayloadType, Progress, Reassembler, Spi, limits};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::{Input, ike_keys, suite};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (sealer, opener, mut ivs) = ike_keys(suite(input.u8()));
    let mut random = SeededRandom::from_seed(3);
    let header = Header::new(Spi(1), Spi(2), ExchangeType::IKE_AUTH, Flags::request(true), 1);
    let first = PayloadType::IDI;
    // Two sizes of the same text: the sets that path MTU discovery makes (RFC 7383 section 2.5.2).
    let sizes = [input.u16(), input.u16()];
    let text = input.part();
    // A sender makes sure that their totals differ, since nothing else tells them apart.
    let mut sets: Vec<Vec<Vec<u8>>> = Vec::new();
    for size in sizes {
        let size = usize::from(size % 2048);
        let sealed = protect::seal_fragmented(&header, first, text, &sealer, &mut ivs, &mut random, size);
        if let Ok(pieces) = sealed {
            assert!(pieces.len() == 1 || pieces.iter().all(|piece| piece.len() <= size));
            assert!(pieces.len() <= usize::from(limits::FRAGMENTS));
            if sets.iter().all(|set| set.len() != pieces.len()) {
                sets.push(pieces);
            }
        }
    }

    let mut now = Instant::now();
    let mut queue = Reassembler::new();
    while !input.is_empty() {
        let script = input.u8();
        let index = usize::from(input.u8());
        now += Duration::from_secs(u64::from(script >> 5));
        let damaged = script & 4 != 0;
        let set = sets.get(usize::from(script & 1)).filter(|_| script & 2 == 0);
        let ours = set.is_some() && !damaged;
        let mut datagram = match set {
            Some(set) => set[index % set.len()].clone(),
            None => input.part().to_vec(),
        };
        if damaged && !datagram.is_empty() {
            let place = usize::from(input.u16()) % datagram.len();
            datagram[place] ^= input.u8() | 1;
        }
        let Ok(opened) = protect::open(&datagram, &opener) else {
            assert!(!ours, "our own datagram was refused");
            continue;
        };
        assert!(!damaged, "a damaged datagram was opened");
        let (kind, plaintext) = match opened.content {
            Content::Whole { first, plaintext } => (first, plaintext),
            Content::Fragment(fragment) => match queue.add(now, 1, fragment) {
                Progress::Complete { first, plaintext } => (first, plaintext),
                Progress::Waiting { .. } | Progress::Ignored(_) => {
                    assert!(queue.octets() <= text.len());
                    continue;
                }
            },
        };
        assert_eq!((kind, plaintext.as_slice()), (first, text));
    }
});
