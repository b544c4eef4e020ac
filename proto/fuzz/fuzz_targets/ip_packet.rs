//! Inner packets: summaries, selectors, ECN marks, checksums.

#![no_main]

use ip::Selector;
use ip::packet::{set_ecn, summarize};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let ecn = input.u8();
    let Ok(summary) = summarize(input.0) else {
        return;
    };
    assert!(summary.header_len <= summary.total_len && summary.total_len <= input.0.len());
    let any = [Selector::ANY_V4, Selector::ANY_V6];
    assert!(summary.belongs(&any, &any));
    let host = [Selector::host(summary.src)];
    assert!(summary.belongs(&host, &any));
    let inside = esp::tunnel::check_inner(input.0, ip::Usual::of(&any, &any).as_ref(), &any, &any)
        .expect("it was summarized");
    assert_eq!(inside, summary);
    assert!(esp::tunnel::next_header_of(input.0).is_some());

    let mut marked = input.0.to_vec();
    set_ecn(&mut marked, ecn);
    let again = summarize(&marked).expect("still a packet");
    assert_eq!(again.ecn(), ecn & 3);
    assert_eq!(
        (again.src, again.dst, again.ports),
        (summary.src, summary.dst, summary.ports)
    );
    let _ = esp::tunnel::apply_ecn(&mut marked, &again, ecn >> 4);
    let _ = esp::tunnel::exceeds_mtu(&summary, usize::from(ecn) * 8);
});
