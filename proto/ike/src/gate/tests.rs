#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::{Secret, SeededRandom};

use super::*;
use crate::wire::proposal::{IkeProposal, offer_ike};
use crate::wire::{Flags, KeId, KeyExchange};

const BUSY: Load = Load {
    half_open: 100_000,
    busy: false,
};
const CALM: Load = Load {
    half_open: 0,
    busy: false,
};

struct Bench {
    gate: Gate,
    now: Instant,
    from: SocketAddr,
    to: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            gate: Gate::new(now, GateConfig::default(), Box::new(SeededRandom::from_seed(1))),
            now,
            from: "192.0.2.7:40000".parse().unwrap(),
            to: "198.51.100.1:500".parse().unwrap(),
        }
    }

    fn screen(&mut self, datagram: &[u8], load: Load) -> Verdict {
        self.gate.screen(self.now, self.from, self.to, datagram, load)
    }

    fn dropped(&mut self, datagram: &[u8], reason: GateDrop) {
        let before = self.gate.counters().dropped(reason);
        assert_eq!(self.screen(datagram, CALM), Verdict::Drop(reason));
        assert_eq!(self.gate.counters().dropped(reason), before + 1);
    }
}

fn request() -> Message {
    let header = Header::new(
        Spi(0x1122),
        Spi::ZERO,
        ExchangeType::IKE_SA_INIT,
        Flags::request(true),
        0,
    );
    Message::new(
        header,
        vec![
            Payload::Sa(offer_ike(&IkeProposal::defaults(), None)),
            Payload::Ke(KeyExchange {
                group: KeId::CURVE25519,
                data: vec![9; 32],
            }),
            Payload::Nonce(vec![7; 32]),
        ],
    )
}

fn with_cookie(cookie: &[u8]) -> Vec<u8> {
    let mut message = request();
    let notify = Notify::with_data(NotifyType::COOKIE, cookie.to_vec());
    message.payloads.insert(0, Payload::Notify(notify));
    message.encode().unwrap()
}

fn cookie_of(verdict: &Verdict) -> Vec<u8> {
    let Verdict::Reply(octets) = verdict else {
        panic!("no reply: {verdict:?}")
    };
    let message = Message::decode(octets).unwrap();
    assert!(message.header.flags.response && !message.header.flags.initiator);
    assert_eq!(message.header.spi_i, Spi(0x1122));
    assert_eq!(message.header.spi_r, Spi::ZERO);
    message.notify(NotifyType::COOKIE).unwrap().data.clone()
}

const INITIAL: Verdict = Verdict::Initial {
    spi_i: Spi(0x1122),
    verified: false,
};
const VERIFIED: Verdict = Verdict::Initial {
    spi_i: Spi(0x1122),
    verified: true,
};

#[test]
fn no_cookie_is_asked_of_a_calm_gate() {
    let mut bench = Bench::new();
    assert_eq!(bench.screen(&request().encode().unwrap(), CALM), INITIAL);
    assert_eq!(bench.gate.counters().initial, 1);
}

#[test]
fn a_busy_gate_lets_in_who_returns_the_cookie() {
    //= rfc7296#section-2.6
    //= type=test
    //# When a responder detects a large number of half-open IKE SAs, it SHOULD reply to IKE_SA_INIT requests with a response containing the COOKIE notification.
    let mut bench = Bench::new();
    let plain = request().encode().unwrap();
    let reply = bench.screen(&plain, BUSY);
    let cookie = cookie_of(&reply);
    assert!((1..=64).contains(&cookie.len()));
    assert_eq!(bench.screen(&with_cookie(&cookie), BUSY), VERIFIED);
    // The same load by another measure.
    let load = Load {
        half_open: 0,
        busy: true,
    };
    assert_eq!(cookie_of(&bench.screen(&plain, load)), cookie);
    assert_eq!(bench.gate.counters().cookies_sent, 2);
    assert_eq!(bench.gate.counters().cookies_good, 1);
}

#[test]
fn a_cookie_is_worth_nothing_from_elsewhere_or_with_another_nonce_or_spi() {
    //= rfc7296#section-2.6
    //= type=test
    //# When one party receives an IKE_SA_INIT request containing a cookie whose contents do not match the value expected, that party MUST ignore the cookie and process the message as if no cookie had been included; usually this means sending a response containing a new cookie.
    let mut bench = Bench::new();
    let cookie = cookie_of(&bench.screen(&request().encode().unwrap(), BUSY));
    let good = with_cookie(&cookie);

    bench.from = "192.0.2.8:40000".parse().unwrap();
    assert!(matches!(bench.screen(&good, BUSY), Verdict::Reply(_)));
    bench.from = "192.0.2.7:41111".parse().unwrap();
    assert_eq!(
        bench.screen(&good, BUSY),
        VERIFIED,
        "another port of the same address"
    );

    let mut other = Message::decode(&good).unwrap();
    other.payloads[3] = Payload::Nonce(vec![8; 32]);
    assert!(matches!(
        bench.screen(&other.encode().unwrap(), BUSY),
        Verdict::Reply(_)
    ));
    let mut other = Message::decode(&good).unwrap();
    other.header.spi_i = Spi(5);
    assert!(matches!(
        bench.screen(&other.encode().unwrap(), BUSY),
        Verdict::Reply(_)
    ));
    for bad in [&cookie[1..], &cookie[..5], &[], &[0; 64]] {
        assert!(matches!(bench.screen(&with_cookie(bad), BUSY), Verdict::Reply(_)));
        assert_eq!(
            bench.screen(&with_cookie(bad), CALM),
            INITIAL,
            "ignored when not asked for"
        );
    }
    assert_eq!(bench.gate.counters().cookies_bad, 11);
}

#[test]
fn cookies_live_for_one_to_two_lifetimes() {
    //= rfc7296#section-2.6
    //= type=test
    //# The responder should not accept cookies indefinitely after <secret> is changed, since that would defeat part of the DoS protection.
    let mut bench = Bench::new();
    let good = with_cookie(&cookie_of(&bench.screen(&request().encode().unwrap(), BUSY)));
    bench.now += Duration::from_secs(61);
    assert_eq!(
        bench.screen(&good, BUSY),
        VERIFIED,
        "the secret before is still good"
    );
    bench.now += Duration::from_secs(60);
    assert!(matches!(bench.screen(&good, BUSY), Verdict::Reply(_)));

    let good = with_cookie(&cookie_of(&bench.screen(&request().encode().unwrap(), BUSY)));
    bench.now += Duration::from_secs(600);
    assert!(
        matches!(bench.screen(&good, BUSY), Verdict::Reply(_)),
        "no traffic for long"
    );
}

#[test]
fn ikev1_is_counted_and_gets_no_answer() {
    let mut bench = Bench::new();
    let mut message = request();
    message.header.version = 0x10;
    message.header.exchange = ExchangeType(2);
    let octets = message.encode().unwrap();
    bench.dropped(&octets, GateDrop::IkeV1);
    message.header.version = 0x00;
    bench.dropped(&message.encode().unwrap(), GateDrop::Version);
}

#[test]
fn a_higher_major_version_is_answered_with_the_version_spoken_here() {
    //= rfc7296#section-2.5
    //= type=test
    //# If an endpoint receives a message with a higher major version number, it MUST drop the message and SHOULD send an unauthenticated Notify message of type INVALID_MAJOR_VERSION containing the highest (closest) version number it supports.
    let mut bench = Bench::new();
    let mut message = request();
    message.header.version = 0x31;
    message.header.message_id = 77;
    let Verdict::Reply(octets) = bench.screen(&message.encode().unwrap(), CALM) else {
        panic!("no answer")
    };
    let answer = Message::decode(&octets).unwrap();
    //= rfc7296#section-1.5
    //= type=test
    //# The message is a response message, and thus it is sent to the IP address and port from whence it came with the same IKE SPIs and the Message ID and Exchange Type are copied from the request.
    assert_eq!(answer.header.version, 0x20);
    assert_eq!(answer.header.message_id, 77);
    assert_eq!(answer.header.exchange, ExchangeType::IKE_SA_INIT);
    assert!(answer.header.flags.response);
    assert!(answer.notify(NotifyType::INVALID_MAJOR_VERSION).is_some());

    message.header.flags.response = true;
    bench.dropped(&message.encode().unwrap(), GateDrop::Version);
    message.header.flags.response = false;
    message.header.spi_i = Spi::ZERO;
    bench.dropped(&message.encode().unwrap(), GateDrop::Version);
    let mut header = request().header;
    header.version = 0x30;
    let short = Message::new(header, Vec::new()).encode().unwrap();
    bench.dropped(&short, GateDrop::Version);
}

#[test]
fn a_higher_minor_version_is_no_matter() {
    let mut bench = Bench::new();
    let mut message = request();
    message.header.version = 0x2f;
    assert_eq!(bench.screen(&message.encode().unwrap(), CALM), INITIAL);
}

#[test]
fn error_answers_are_limited_and_never_longer_than_the_question() {
    //= rfc7296#section-2.21.4
    //= type=test
    //# A node needs to limit the rate at which it will send messages in response to unprotected messages.
    let mut bench = Bench::new();
    let header = Header::new(
        Spi(1),
        Spi(2),
        ExchangeType::INFORMATIONAL,
        Flags::request(true),
        3,
    );
    let body = crate::wire::EncryptedPayload {
        first: PayloadType::NONE,
        body: vec![0; 40],
    };
    let octets = Message::new(header, vec![Payload::Sk(body)]).encode().unwrap();
    let existing = Verdict::Existing {
        spi_i: Spi(1),
        spi_r: Spi(2),
        is_from_initiator: true,
    };
    assert_eq!(bench.screen(&octets, CALM), existing);
    let mut answered = 0;
    for _ in 0..1000 {
        match bench.gate.unknown_spi(bench.now, &octets) {
            Verdict::Reply(answer) => {
                answered += 1;
                assert!(answer.len() <= octets.len());
                let answer = Message::decode(&answer).unwrap();
                assert!(answer.notify(NotifyType::INVALID_IKE_SPI).is_some());
                assert_eq!(answer.header.message_id, 3);
            }
            verdict => assert_eq!(verdict, Verdict::Drop(GateDrop::UnknownSpi)),
        }
    }
    assert_eq!(answered, GateConfig::default().errors_per_sec);
    assert_eq!(bench.gate.counters().replies_withheld, 1000 - u64::from(answered));
    bench.now += Duration::from_secs(1);
    assert!(matches!(
        bench.gate.unknown_spi(bench.now, &octets),
        Verdict::Reply(_)
    ));

    let tiny = Message::new(header, Vec::new()).encode().unwrap();
    assert_eq!(
        bench.gate.unknown_spi(bench.now, &tiny),
        Verdict::Drop(GateDrop::UnknownSpi)
    );
}

#[test]
fn a_response_is_never_answered() {
    //= rfc7296#section-2.21.4
    //= type=test
    //# If the message is marked as a response, the node can audit the suspicious event but MUST NOT respond.
    let mut bench = Bench::new();
    let header = Header::new(
        Spi(1),
        Spi(2),
        ExchangeType::INFORMATIONAL,
        Flags::response(true),
        3,
    );
    let body = crate::wire::EncryptedPayload {
        first: PayloadType::NONE,
        body: vec![0; 40],
    };
    let octets = Message::new(header, vec![Payload::Sk(body)]).encode().unwrap();
    let verdict = bench.gate.unknown_spi(bench.now, &octets);
    assert_eq!(verdict, Verdict::Drop(GateDrop::UnknownSpi));
}

#[test]
fn headers_that_cannot_be_are_dropped_by_reason() {
    let mut bench = Bench::new();
    let good = request();
    let octets = good.encode().unwrap();
    bench.dropped(&[], GateDrop::Short);
    bench.dropped(&[0xff], GateDrop::Keepalive);
    bench.dropped(&octets[..27], GateDrop::Short);
    bench.dropped(&octets[..octets.len() - 1], GateDrop::Length);
    let mut longer = octets.clone();
    longer.push(0);
    bench.dropped(&longer, GateDrop::Length);

    let edit = |f: &dyn Fn(&mut Header)| {
        let mut message = good.clone();
        f(&mut message.header);
        message.encode().unwrap()
    };
    bench.dropped(&edit(&|h| h.spi_i = Spi::ZERO), GateDrop::Spi);
    bench.dropped(&edit(&|h| h.spi_r = Spi(1)), GateDrop::Spi);
    bench.dropped(&edit(&|h| h.flags.initiator = false), GateDrop::Flags);
    bench.dropped(&edit(&|h| h.flags.response = true), GateDrop::Flags);
    bench.dropped(&edit(&|h| h.message_id = 1), GateDrop::MessageId);
    for exchange in [0, 1, 33, 35, 36, 37, 38, 43, 44, 240, 255] {
        let with_zero = edit(&|h| h.exchange = ExchangeType(exchange));
        bench.dropped(&with_zero, GateDrop::Spi);
        let unprotected = edit(&|h| {
            h.exchange = ExchangeType(exchange);
            h.spi_r = Spi(9);
        });
        bench.dropped(&unprotected, GateDrop::Unprotected);
    }
    bench.from = bench.to;
    bench.dropped(&octets, GateDrop::Source);
    bench.from = "0.0.0.0:500".parse().unwrap();
    bench.dropped(&octets, GateDrop::Source);
    bench.from = "192.0.2.1:0".parse().unwrap();
    bench.dropped(&octets, GateDrop::Source);
}

#[test]
fn requests_without_what_they_need_are_dropped() {
    let mut bench = Bench::new();
    for missing in 0..3 {
        let mut message = request();
        message.payloads.remove(missing);
        bench.dropped(&message.encode().unwrap(), GateDrop::Malformed);
    }
    let mut message = request();
    message.payloads.push(Payload::Nonce(vec![1; 16]));
    bench.dropped(&message.encode().unwrap(), GateDrop::Malformed);
    let mut message = request();
    message.payloads.push(Payload::VendorId(vec![0; INITIAL_OCTETS]));
    bench.dropped(&message.encode().unwrap(), GateDrop::Length);
    let mut message = request();
    for _ in 0..62 {
        message.payloads.push(Payload::VendorId(Vec::new()));
    }
    bench.dropped(&message.encode().unwrap(), GateDrop::Malformed);
}

#[test]
fn an_unknown_critical_payload_is_told_before_anything_is_kept() {
    let mut bench = Bench::new();
    let mut message = request();
    let unknown = |critical| Payload::Unknown {
        kind: PayloadType(200),
        critical,
        data: vec![1, 2, 3],
    };
    message.payloads.push(unknown(false));
    assert_eq!(bench.screen(&message.encode().unwrap(), CALM), INITIAL);
    message.payloads.push(unknown(true));
    let Verdict::Reply(octets) = bench.screen(&message.encode().unwrap(), CALM) else {
        panic!("no answer")
    };
    let answer = Message::decode(&octets).unwrap();
    let notify = answer.notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD).unwrap();
    assert_eq!(notify.data, [200]);
}

#[test]
fn refusals_of_our_own_requests_find_their_ike_sa() {
    let mut bench = Bench::new();
    let header = request().header.answer();
    let notify = Notify::with_data(NotifyType::COOKIE, vec![1]);
    let octets = Message::new(header, vec![Payload::Notify(notify)])
        .encode()
        .unwrap();
    let existing = Verdict::Existing {
        spi_i: Spi(0x1122),
        spi_r: Spi::ZERO,
        is_from_initiator: false,
    };
    assert_eq!(bench.screen(&octets, CALM), existing);
}

#[test]
fn one_verified_address_cannot_take_everything() {
    let mut bench = Bench::new();
    let cookie = cookie_of(&bench.screen(&request().encode().unwrap(), BUSY));
    let good = with_cookie(&cookie);
    let limit = GateConfig::default();
    for _ in 0..limit.initials_burst {
        assert_eq!(bench.screen(&good, BUSY), VERIFIED);
    }
    bench.dropped_busy(&good);
    bench.now += Duration::from_millis(500);
    for _ in 0..limit.initials_per_source / 2 {
        assert_eq!(bench.screen(&good, BUSY), VERIFIED, "half a second earns tokens");
    }
    bench.dropped_busy(&good);
}

impl Bench {
    fn dropped_busy(&mut self, datagram: &[u8]) {
        assert_eq!(self.screen(datagram, BUSY), Verdict::Drop(GateDrop::SourceRate));
    }
}

#[test]
fn every_reason_has_its_own_place_and_name() {
    for (index, reason) in GateDrop::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), index);
    }
    let names: std::collections::BTreeSet<_> = GateDrop::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), GateDrop::COUNT);
}

#[test]
fn every_node_with_the_secret_takes_the_cookies_of_the_others() {
    let shared = |seed: u64, secret: &[u8], clock: u64| {
        let config = GateConfig {
            secret: Some(Secret::from(secret)),
            ..GateConfig::default()
        };
        let mut bench = Bench::new();
        bench.gate = Gate::new(bench.now, config, Box::new(SeededRandom::from_seed(seed)));
        bench.gate.set_clock(bench.now, Duration::from_secs(clock));
        bench
    };
    let day = 86_400 * 20_000;
    let mut a = shared(1, b"cluster", day + 100);
    let good = with_cookie(&cookie_of(&a.screen(&request().encode().unwrap(), BUSY)));
    assert_eq!(a.screen(&good, BUSY), VERIFIED);
    // Clocks that differ by half a minute either way; the next step; not the one after it.
    for clock in [70, 100, 130, 170] {
        let mut b = shared(2, b"cluster", day + clock);
        assert_eq!(b.screen(&good, BUSY), VERIFIED, "{clock}");
    }
    for clock in [59 - 60, 180] {
        let mut b = shared(2, b"cluster", (day as i64 + clock) as u64);
        assert!(matches!(b.screen(&good, BUSY), Verdict::Reply(_)), "{clock}");
    }
    let mut other = shared(2, b"another", day + 100);
    assert!(matches!(other.screen(&good, BUSY), Verdict::Reply(_)));
    // Time passes without anybody saying so.
    let mut b = shared(3, b"cluster", day + 100);
    b.now += Duration::from_secs(60);
    assert_eq!(b.screen(&good, BUSY), VERIFIED);
    b.now += Duration::from_secs(30);
    assert!(matches!(b.screen(&good, BUSY), Verdict::Reply(_)));
    // Without a secret nothing is shared.
    let mut own = Bench::new();
    own.gate.set_clock(own.now, Duration::from_secs(day + 100));
    assert!(matches!(own.screen(&good, BUSY), Verdict::Reply(_)));
}
