//! Decrypted payloads of a peer who has the keys: exchange, direction, type of the first payload, then the chain.

#![no_main]

use ike::config::{Assigned, ConfigRequest};
use ike::wire::proposal::{self, ChildProposal, IkeProposal, KeRule};
use ike::wire::{
    ExchangeType, KeId, Payload, PayloadType, Payloads, TrafficSelector, decode_payloads, encode_payloads,
    table,
};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let exchange = ExchangeType(34 + input.u8() % 12);
    let direction = match input.u8() % 2 {
        0 => table::Direction::Request,
        _ => table::Direction::Response,
    };
    let first = PayloadType(input.u8());
    let Ok(payloads) = decode_payloads(first, input.0) else {
        return;
    };
    let (kind, written) = encode_payloads(&payloads).expect("what was read fits");
    assert!(written.len() <= input.0.len());
    assert_eq!(decode_payloads(kind, &written).as_ref(), Ok(&payloads));
    assert!(
        !payloads
            .iter()
            .any(|p| matches!(p, Payload::Sk(_) | Payload::Skf(_)))
    );

    let legal = table::check(exchange, direction, &payloads);
    let view = Payloads(&payloads);
    if let Some(sa) = view.sa() {
        let ke = view.ke().map(|ke| ke.group);
        choose(sa, ke);
    }
    if let Some(config) = view.config() {
        let request = ConfigRequest::from_payload(config);
        if let (Some(request), Some(assigned)) = (request, Assigned::from_payload(config)) {
            let _ = assigned.to_payload(&request);
        }
    }
    if let (Ok(()), Some(ts_i), Some(ts_r)) = (legal, view.ts_i(), view.ts_r()) {
        for list in [ts_i, ts_r] {
            let selectors = TrafficSelector::to_selectors(list);
            let _ = ip::narrow(&selectors, &[ip::Selector::ANY_V4, ip::Selector::ANY_V6]);
        }
    }
});

fn choose(sa: &ike::wire::SaPayload, ke: Option<KeId>) {
    let _ = proposal::offered(sa);
    match proposal::select_ike(sa, &IkeProposal::defaults(), ke) {
        Ok(chosen) => {
            let answer = chosen.to_payload(None);
            let accepted = proposal::accept_ike(&answer, &IkeProposal::defaults(), ke);
            let accepted = accepted.expect("our own answer is a choice of our own policy");
            assert_eq!(accepted.suite, chosen.suite);
            only_what_was_offered(sa, &answer);
        }
        Err(mismatch) => {
            let _ = (mismatch.to_string(), mismatch.hint());
        }
    }
    for rule in [KeRule::Ignore, KeRule::Mirror(ke)] {
        match proposal::select_child(sa, &ChildProposal::defaults(), rule) {
            Ok(chosen) => {
                assert!(chosen.spi >= 256);
                only_what_was_offered(sa, &chosen.to_payload(0x1000));
            }
            Err(mismatch) => {
                let _ = (mismatch.to_string(), mismatch.hint());
            }
        }
    }
}

/// Every transform of an answer stands in a proposal of the same number.
fn only_what_was_offered(offer: &ike::wire::SaPayload, answer: &ike::wire::SaPayload) {
    let [answer] = answer.proposals.as_slice() else {
        panic!("one answer");
    };
    assert!(offer.proposals.iter().any(|offered| {
        offered.number == answer.number && answer.transforms.iter().all(|t| offered.transforms.contains(t))
    }));
}
