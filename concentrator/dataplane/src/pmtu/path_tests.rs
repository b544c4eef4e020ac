#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crypto::{Cipher, Integrity, Secret, Suite};
use esp::{OutboundParams, OutboundSa};
use proptest::prelude::*;

use super::*;

const ENCAPSULATIONS: [Encapsulation; 4] = [
    Encapsulation::RawV4,
    Encapsulation::RawV6,
    Encapsulation::UdpV4,
    Encapsulation::UdpV6,
];

fn suites() -> Vec<Suite> {
    let integrity = [
        Integrity::HmacSha1_96,
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ];
    let with = |cipher| {
        let separate = integrity.map(move |i| Suite::new(cipher, Some(i)).ok());
        separate.into_iter().flatten()
    };
    let all = Cipher::ALL
        .into_iter()
        .flat_map(|cipher| Suite::new(cipher, None).into_iter().chain(with(cipher)));
    all.collect()
}

fn sealed(suite: Suite, inner: usize) -> usize {
    let mut sa = OutboundSa::new(&OutboundParams {
        spi: 0x1000,
        suite,
        enc_key: Secret::from(vec![1; suite.enc_key_len()]),
        integ_key: Secret::from(vec![2; suite.integ_key_len()]),
        esn: true,
        generation: 1,
        first_seq: 1,
        ceiling: u64::MAX,
        tfc_pad_to: 0,
    })
    .unwrap();
    let mut buffer = vec![0x45; inner + esp::HEAD_ROOM + esp::TAIL_ROOM];
    let start = esp::HEAD_ROOM;
    sa.seal(&mut buffer, start..start + inner, 4).unwrap().len()
}

fn path(suite: Suite, encapsulation: Encapsulation) -> Path {
    Path::new(Layout::of(suite), encapsulation, None)
}

//= rfc4301#section-8.2.1
//= type=test
//# The PMTU determined by this message is used to update the SAD PMTU field, taking into account the size of the AH or ESP
//# header that will be applied, any crypto synchronization data, and the overhead imposed by an additional IP header, in the
//# case of a tunnel mode SA.
#[test]
fn a_packet_of_the_limit_fits_sealed_and_one_octet_more_does_not() {
    let now = Instant::now();
    assert_eq!(suites().len(), 28);
    for suite in suites() {
        for encapsulation in ENCAPSULATIONS {
            // Sixteen in a row: every remainder of a block. And the largest.
            for mtu in (1285..1301).chain([1500, 9000, 9216]) {
                let mut path = path(suite, encapsulation);
                assert!(path.learn(mtu, &PathMtu::default(), now));
                let (limit, outer) = (usize::from(path.limit()), encapsulation.octets());
                assert!(sealed(suite, limit) + outer <= usize::from(mtu), "{suite} {mtu}");
                assert!(
                    sealed(suite, limit + 1) + outer > usize::from(mtu),
                    "{suite} {mtu}"
                );
            }
        }
    }
}

//= rfc4301#section-6.1.1
//= type=test
//# For example, there could be the ability to establish a minimum PMTU for traffic (on a per destination basis), to prevent
//# receipt of an unauthenticated ICMP from setting the PMTU to a trivial size.
#[test]
fn nothing_below_the_floor_is_believed_and_df_is_clear_there() {
    let now = Instant::now();
    let suite = suites()[0];
    for (encapsulation, floor, expected) in [
        (Encapsulation::UdpV4, 576, 576),
        (Encapsulation::UdpV4, 1200, 1200),
        (Encapsulation::UdpV4, 0, 576),
        (Encapsulation::UdpV6, 576, 1280),
    ] {
        let config = PathMtu {
            floor,
            ..PathMtu::default()
        };
        let mut path = path(suite, encapsulation);
        assert!(path.allows_df());
        assert!(path.learn(68, &config, now));
        assert_eq!(path.mtu(), Some(expected));
        assert!(!path.allows_df());
        // Said again, it stays so; and a path that has just this MTU may have DF.
        path.learn(68, &config, now);
        path.learn(expected, &config, now);
        assert!(!path.allows_df());
        path.forget();
        path.learn(expected, &config, now);
        assert!(path.allows_df() && path.mtu() == Some(expected));
    }
}

//= rfc4301#section-8.2.2
//= type=test
//# In all IPsec implementations, the PMTU associated with an SA MUST be "aged" and some mechanism is required to update the
//# PMTU in a timely manner, especially for discovering if the PMTU is smaller than required by current network conditions.
#[test]
fn what_was_learned_is_forgotten_after_its_time_since_it_was_last_said() {
    let (start, config) = (Instant::now(), PathMtu::default());
    let at = |secs| start + Duration::from_secs(secs);
    let mut path = path(suites()[0], Encapsulation::UdpV4);
    assert!(path.learn(1300, &config, start));
    assert!(!path.learn(1300, &config, at(500)), "no news");
    assert!(!path.learn(1400, &config, at(550)), "never up");
    assert!(!path.grow_old(config.age, at(1099)));
    assert_eq!(path.mtu(), Some(1300));
    assert!(path.grow_old(config.age, at(1100)));
    assert_eq!((path.mtu(), path.limit()), (None, u16::MAX));
    assert!(!path.grow_old(config.age, at(9999)));
}

#[test]
fn a_given_limit_stays_and_a_successor_inherits_on_the_same_way_only() {
    let (now, config) = (Instant::now(), PathMtu::default());
    let layout = Layout::of(suites()[0]);
    let mut path = Path::new(layout, Encapsulation::UdpV4, Some(1100));
    path.learn(1300, &config, now);
    assert_eq!((path.limit(), path.mtu()), (1100, Some(1300)));
    let mut same = Path::new(layout, Encapsulation::UdpV4, None);
    same.inherit(&path);
    assert_eq!(same.mtu(), Some(1300));
    let mut other = Path::new(layout, Encapsulation::UdpV6, None);
    other.inherit(&path);
    assert_eq!(other.mtu(), None);
}

proptest! {
    /// Whatever is said in whatever order: never below the floor, never up but by age, the limit that of the MTU.
    #[test]
    fn any_history_keeps_the_rules(said in proptest::collection::vec((any::<u16>(), 0u64..400), 1..40), floor: u16) {
        let config = PathMtu { floor, ..PathMtu::default() };
        let suite = suites()[0];
        let mut path = path(suite, Encapsulation::RawV4);
        let mut now = Instant::now();
        for (mtu, pause) in said {
            now += Duration::from_secs(pause);
            let before = if path.grow_old(config.age, now) { None } else { path.mtu() };
            path.learn(mtu, &config, now);
            let after = path.mtu().unwrap();
            prop_assert!(after >= floor.max(LEAST_V4));
            prop_assert!(before.is_none_or(|before| after <= before));
            let expected = Layout::of(suite).inner_mtu(after.into(), Encapsulation::RawV4).unwrap();
            prop_assert_eq!(usize::from(path.limit()), expected);
        }
    }
}
