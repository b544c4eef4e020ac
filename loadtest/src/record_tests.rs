//! Which interval a silence belongs to, and what the reports say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use proptest::prelude::*;

use super::*;

fn flow(user: u32, silences: &[(u64, u64)], losses: &[(u64, u64, u64)]) -> FlowRecord {
    FlowRecord {
        name: format!("user-{user:05}"),
        user,
        from: 0,
        to: 10_000_000,
        interval: 50_000,
        threshold: 60_000,
        tally: Tally {
            received: 1,
            ..Tally::default()
        },
        silences: silences
            .iter()
            .map(|(from, to)| Silence { from: *from, to: *to })
            .collect(),
        open: None,
        losses: losses
            .iter()
            .map(|(from, to, packets)| Loss {
                from: *from,
                to: *to,
                packets: *packets,
            })
            .collect(),
    }
}

fn record(marks: &[(&str, u64)], flows: Vec<FlowRecord>) -> Record {
    Record {
        name: "test".to_owned(),
        epoch_unix_us: 1_700_000_000_000_000,
        length: 10_000_000,
        marks: marks
            .iter()
            .map(|(name, at)| Mark {
                name: (*name).to_owned(),
                at: *at,
            })
            .collect(),
        flows,
        ..Record::default()
    }
}

proptest! {
    #[test]
    fn every_silence_belongs_somewhere_and_where_most_of_it_lies(
        mut cuts in proptest::collection::vec(0u64..10_000, 0..12),
        from in 0u64..9_999,
        length in 1u64..5_000,
    ) {
        cuts.sort_unstable();
        let silence = Silence { from, to: (from + length).min(10_000) };
        let edges: Vec<u64> = std::iter::once(0).chain(cuts).chain([10_000]).collect();
        let spans: Vec<Span> = edges.windows(2).map(|pair| Span { from: pair[0], to: pair[1] }).collect();
        let owners: Vec<&Span> = spans.iter().filter(|span| span.owns(silence, &spans)).collect();
        let overlap = |span: &Span| silence.to.min(span.to).saturating_sub(silence.from.max(span.from));
        let most = spans.iter().map(overlap).max().unwrap();
        prop_assert!(owners.iter().any(|span| overlap(span) == most));
        for span in &spans {
            let full = span.to > span.from && silence.from <= span.from && span.to <= silence.to;
            prop_assert!(!full || owners.contains(&span), "{:?} fills {:?}", silence, span);
            prop_assert!(overlap(span) > 0 || !owners.contains(&span));
        }
        let partial = owners.iter().filter(|span| overlap(span) < span.to - span.from).count();
        prop_assert!(partial <= 1, "{} intervals have it in part", partial);
    }
}

#[test]
fn a_silence_that_began_just_before_its_mark_counts_for_the_mark() {
    // The last packet came 40 ms before the kill, the next one 300 ms after it.
    let record = record(
        &[("kill", 5_000_000), ("calm", 7_000_000)],
        vec![
            flow(1, &[(4_960_000, 5_300_000)], &[(5_010_000, 5_260_000, 6)]),
            flow(2, &[], &[]),
        ],
    );
    let reports = record.reports();
    let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["start", "kill", "calm"]);
    assert_eq!([0, 1, 2].map(|i| reports[i].silent), [0, 1, 0]);
    assert_eq!([0, 1, 2].map(|i| reports[i].lost), [0, 6, 0]);
    let kill = &reports[1];
    assert_eq!(
        (
            kill.flows,
            kill.silence_ms.max,
            kill.silence_ms.min,
            kill.affected_ms.p50
        ),
        (2, 340.0, 0.0, 340.0)
    );
    assert_eq!((kill.users[0].user, kill.users[0].silence_ms), (1, 340.0));
    assert_eq!(kill.users[0].from_unix_ms, 1_700_000_000_000.0 + 4960.0);
    assert_eq!(record.report_of("kill").as_ref(), Some(kill));
    assert_eq!(record.report_of("nothing"), None);
    let since = record.report_since("kill").unwrap();
    assert_eq!(
        (since.to_ms, since.lost, since.silence_ms.max),
        (10_000.0, 6, 340.0)
    );
    assert!(record.is_success(None) && record.is_success(Some(340.0)) && !record.is_success(Some(339.0)));
}

#[test]
fn losses_are_shared_out_by_the_time_of_sending() {
    let record = record(
        &[("a", 1_000_000), ("b", 2_000_000)],
        vec![flow(1, &[], &[(500_000, 2_450_000, 40)])],
    );
    let lost: Vec<u64> = record.reports().iter().map(|report| report.lost).collect();
    assert_eq!(lost, [10, 20, 10]);
}

#[test]
fn a_user_that_stays_silent_shows_in_every_interval_until_the_end() {
    let mut quiet = flow(1, &[], &[]);
    quiet.open = Some(Silence {
        from: 900_000,
        to: 10_000_000,
    });
    let mut record = record(
        &[("a", 1_000_000), ("b", 2_000_000), ("c", 9_000_000)],
        vec![quiet],
    );
    let silent: Vec<usize> = record.reports().iter().map(|report| report.silent).collect();
    assert_eq!(silent, [0, 1, 1, 1]);
    assert!(record.reports()[3].users[0].open);
    assert_eq!(record.longest_silence_ms(), 9100.0);
    record.logins.push(Relogin {
        user: 1,
        at: 1_500_000,
        reason: "the peer does not answer".to_owned(),
    });
    assert!(!record.is_success(None));
    assert_eq!(record.report_of("a").unwrap().new_logins, 1);
}
