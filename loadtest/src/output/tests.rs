//! Reports of a small run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;
use crate::flow::{Flow, Silence, Tally};
use crate::record::{FlowRecord, Relogin, UserRecord};

fn record(name: &str, epoch: u64, silence: (u64, u64)) -> Record {
    let mut flow = Flow::new(50_000, 60_000);
    let first = flow.sent(0);
    flow.received(1000, first);
    Record {
        name: name.to_owned(),
        epoch_unix_us: epoch,
        length: 5_000_000,
        marks: vec![Mark {
            name: "kill <a> & co".to_owned(),
            at: 2_000_000,
        }],
        flows: vec![FlowRecord {
            name: "user-00001".to_owned(),
            user: 1,
            from: 0,
            to: 5_000_000,
            interval: 50_000,
            threshold: 60_000,
            tally: Tally {
                lost: 7,
                ..flow.tally()
            },
            silences: vec![Silence {
                from: silence.0,
                to: silence.1,
            }],
            open: None,
            losses: Vec::new(),
        }],
        users: vec![UserRecord {
            user: 1,
            up: true,
            new_logins: 1,
            ..UserRecord::default()
        }],
        logins: vec![Relogin {
            user: 1,
            at: 2_600_000,
            reason: "closed: the peer does not answer".to_owned(),
        }],
        ..Record::default()
    }
}

#[test]
fn several_runs_become_one_on_one_clock() {
    let a = record("a", 1_000_000_000, (2_000_000, 2_400_000));
    let b = record("b", 1_000_500_000, (1_480_000, 1_900_000));
    let json: Record = serde_json::from_str(&serde_json::to_string(&b).unwrap()).unwrap();
    assert_eq!(json, b);
    let mut b = b;
    b.marks[0].at = 1_510_000;
    let whole = join("both", vec![b, a]);
    assert_eq!(
        (whole.epoch_unix_us, whole.length, whole.flows.len()),
        (1_000_000_000, 5_500_000, 2)
    );
    assert_eq!(whole.flows[0].name, "b user-00001");
    assert_eq!(
        whole.flows[0].silences,
        [Silence {
            from: 1_980_000,
            to: 2_400_000
        }]
    );
    let marks: Vec<u64> = whole.marks.iter().map(|mark| mark.at).collect();
    assert_eq!(marks, [2_000_000]);
    let report = whole.report_of("kill <a> & co").unwrap();
    assert_eq!(
        (report.silent, report.silence_ms.max, report.new_logins),
        (2, 420.0, 2)
    );
}

#[test]
fn a_run_can_be_read_and_seen() {
    let record = record("x", 0, (2_000_000, 2_700_000));
    let table = table(&record);
    assert!(
        table.contains("kill <a> & co") && table.contains("700") && table.contains("7 lost"),
        "{table}"
    );
    assert!(
        table.contains("new login 1 because closed: the peer does not answer, e.g. user 00001"),
        "{table}"
    );
    let page = page::html(&record);
    assert!(
        page.contains("kill &lt;a&gt; &amp; co") && !page.contains("<a>"),
        "{page}"
    );
    let svg = plot::svg(&record);
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    // One bar for the silence, one circle for the login; every element that is opened is closed.
    assert!(svg.contains("#4292c6") && svg.contains("user 1: closed"));
    for tag in ["text", "circle", "rect", "line"] {
        let open = svg.matches(&format!("<{tag} ")).count();
        let closed = svg.matches(&format!("</{tag}>")).count();
        assert!(open > 0 && closed <= open);
    }
    // Nothing happened at all: still a picture.
    assert!(plot::svg(&Record::default()).contains("</svg>"));
}
