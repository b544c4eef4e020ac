//! Datagrams at the gate: an answer is never longer than its question, and who returns the cookie is let in.

#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::SeededRandom;
use ike::gate::{Gate, GateConfig, Load, Verdict};
use ike::wire::{Message, Notify, NotifyType, Payload, PayloadType};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut now = Instant::now();
    let random = Box::new(SeededRandom::from_seed(1));
    let mut gate = Gate::new(now, GateConfig::default(), random);
    let to: SocketAddr = ([198, 51, 100, 1], 500).into();
    while !input.is_empty() {
        let script = input.u8();
        let from: SocketAddr = ([192, 0, 2, script & 3], 4500).into();
        now += Duration::from_secs(u64::from(script >> 6) * 20);
        let load = Load {
            half_open: if script & 4 == 0 { 0 } else { 10_000 },
            busy: false,
        };
        let mut datagram = input.part().to_vec();
        if script & 8 != 0 && datagram.len() >= 28 {
            let length = u32::try_from(datagram.len()).unwrap_or(0);
            datagram[24..28].copy_from_slice(&length.to_be_bytes());
        }
        let verdict = gate.screen(now, from, to, &datagram, load);
        match &verdict {
            Verdict::Reply(answer) => {
                assert!(answer.len() <= datagram.len(), "amplified");
                let answer = Message::decode(answer).expect("our own answer");
                assert!(answer.header.flags.response);
                if let Some(cookie) = answer.notify(NotifyType::COOKIE) {
                    let_in(&mut gate, now, (from, to), &datagram, &cookie.data);
                }
            }
            Verdict::Existing { spi_i, .. } => {
                assert!(!spi_i.is_zero());
                if let Verdict::Reply(answer) = gate.unknown_spi(now, &datagram) {
                    assert!(answer.len() <= datagram.len(), "amplified");
                }
            }
            Verdict::Initial { verified, .. } => assert!(load.half_open == 0 || *verified),
            Verdict::Drop(reason) => assert!(gate.counters().dropped(*reason) > 0),
        }
    }
});

/// Puts the cookie in front of the request, as RFC 7296 section 2.6 has it.
fn let_in(gate: &mut Gate, now: Instant, ends: (SocketAddr, SocketAddr), request: &[u8], cookie: &[u8]) {
    let Ok(mut message) = Message::decode(request) else {
        return;
    };
    let old = |p: &Payload| matches!(p, Payload::Notify(n) if n.kind == NotifyType::COOKIE);
    message.payloads.retain(|payload| !old(payload));
    let notify = Notify::with_data(NotifyType::COOKIE, cookie.to_vec());
    message.payloads.insert(0, Payload::Notify(notify));
    let datagram = message.encode().expect("it fits");
    if message.payloads.len() > 64 || datagram.len() > ike::gate::INITIAL_OCTETS {
        return;
    }
    assert_eq!(message.payloads[0].kind(), PayloadType::NOTIFY);
    let load = Load {
        half_open: 10_000,
        busy: false,
    };
    let verdict = gate.screen(now, ends.0, ends.1, &datagram, load);
    assert!(
        matches!(verdict, Verdict::Initial { verified: true, .. }),
        "{verdict:?}"
    );
}
