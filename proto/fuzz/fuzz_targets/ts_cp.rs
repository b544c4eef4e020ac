//! Traffic selectors and configuration attributes: never widened by narrowing, never misread.

#![no_main]

use ike::config::{Assigned, ConfigRequest};
use ike::wire::{PayloadType, Payloads, TrafficSelector, decode_payloads};
use ip::{Selector, narrow};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let body = |kind: PayloadType, body: &[u8]| {
        let mut chain = vec![0, 0];
        let length = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
        chain.extend_from_slice(&length.to_be_bytes());
        chain.extend_from_slice(body);
        decode_payloads(kind, &chain)
    };
    let wanted = body(PayloadType::TSI, input.part());
    let policy = body(PayloadType::TSR, input.part());
    let config = body(PayloadType::CP, input.0);

    if let (Ok(wanted), Ok(policy)) = (&wanted, &policy) {
        let read = |list: Option<&[TrafficSelector]>| TrafficSelector::to_selectors(list.unwrap_or_default());
        let wanted = read(Payloads(wanted).ts_i());
        let policy = read(Payloads(policy).ts_r());
        let narrowed = narrow(&wanted, &policy);
        for selector in &narrowed {
            assert!(
                within(selector, &wanted) && within(selector, &policy),
                "escaped: {selector}"
            );
            let _ = (selector.to_prefixes(), selector.to_string());
        }
        assert_eq!(
            TrafficSelector::to_selectors(&TrafficSelector::from_selectors(&narrowed)),
            narrowed
        );
    }
    if let Ok(config) = &config {
        let config = Payloads(config).config().expect("a CP payload");
        let request = ConfigRequest::from_payload(config);
        if let Some(request) = &request {
            let again = ConfigRequest::from_payload(&request.to_payload());
            assert!(again.is_some());
        }
        if let Some(assigned) = Assigned::from_payload(config) {
            let _ = assigned.to_payload(&ConfigRequest::both());
        }
    }
});

fn within(selector: &Selector, list: &[Selector]) -> bool {
    list.iter().any(|one| one.contains(selector))
}
