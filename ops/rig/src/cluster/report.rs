//! Measured silences as a table, and as a picture (SVG, alone and in a page of HTML).

use std::fmt::Write as _;

use super::faults::Class;
use super::trial::{Trial, percentile};

/// The measurements of one fault.
#[derive(Debug, Clone)]
pub struct Row {
    /// The fault.
    pub fault: &'static str,
    /// Its bar.
    pub class: Class,
    /// How often it happened.
    pub runs: usize,
    /// Milliseconds of every flow that was hit, longest first.
    pub hit: Vec<f64>,
    /// The longest silence of a flow that was to be spared.
    pub others: f64,
    /// New logins.
    pub new_logins: u64,
    /// The longest time that an address was on two nodes.
    pub double: f64,
    /// Runs with a finding.
    pub failed: usize,
}

impl Row {
    /// Whether the bar holds for 99 of a hundred flows.
    pub fn holds(&self) -> bool {
        self.class
            .bar_ms()
            .is_none_or(|bar| percentile(&self.hit, 99.0) <= bar)
    }
}

/// Sums trials up by fault, in the order of their first appearance.
pub fn rows(trials: &[Trial]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for trial in trials {
        let index = rows
            .iter()
            .position(|r| r.fault == trial.fault)
            .unwrap_or(rows.len());
        if index == rows.len() {
            rows.push(Row {
                fault: trial.fault,
                class: trial.class,
                runs: 0,
                hit: Vec::new(),
                others: 0.0,
                new_logins: 0,
                double: 0.0,
                failed: 0,
            });
        }
        if let Some(row) = rows.get_mut(index) {
            row.runs += 1;
            row.hit.extend(&trial.hit);
            row.others = row.others.max(trial.others);
            row.new_logins += trial.new_logins;
            row.double = row.double.max(trial.double);
            row.failed += usize::from(!trial.wrong.is_empty());
        }
    }
    for row in &mut rows {
        row.hit.sort_by(|a, b| b.total_cmp(a));
    }
    rows
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<26}{:>5}{:>7}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>9}  {}\n",
        "fault",
        "runs",
        "flows",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "max ms",
        "bar ms",
        "others",
        "2 nodes",
        "logins"
    );
    for row in rows {
        let bar = row
            .class
            .bar_ms()
            .map_or_else(|| "–".to_owned(), |b| format!("{b:.0}"));
        let p = |percent| percentile(&row.hit, percent);
        let mark = if row.holds() && row.failed == 0 {
            ""
        } else {
            "  ✗"
        };
        let _ = writeln!(
            out,
            "{:<26}{:>5}{:>7}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9}{:>8.0}{:>9.0}  {}{mark}",
            row.fault,
            row.runs,
            row.hit.len(),
            p(50.0),
            p(90.0),
            p(99.0),
            row.hit.first().copied().unwrap_or(0.0),
            bar,
            row.others,
            row.double,
            row.new_logins,
        );
    }
    out
}

const LEFT: f64 = 200.0;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 26.0;

/// Where a duration stands on the axis: logarithmic from 10 ms to 30 s.
fn x(millis: f64) -> f64 {
    let span = (30_000.0_f64 / 10.0).ln();
    LEFT + WIDTH * ((millis.clamp(10.0, 30_000.0) / 10.0).ln() / span)
}

/// The picture: a row for each fault, a dot for each silence, a line for its bar.
pub fn svg(rows: &[Row], title: &str) -> String {
    let height = 60.0 + HEIGHT * rows.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {height}\" width=\"{w}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\">{title}</text>\n",
        w = LEFT + WIDTH + 40.0
    );
    for (millis, label) in [
        (10.0, "10 ms"),
        (30.0, "30"),
        (100.0, "100"),
        (300.0, "300"),
        (1000.0, "1 s"),
        (3000.0, "3 s"),
        (10_000.0, "10 s"),
        (30_000.0, "30 s"),
    ] {
        let at = x(millis);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"40\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"36\" text-anchor=\"middle\" fill=\"#555\">{label}</text>",
            y = height - 15.0
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = 55.0 + HEIGHT * index as f64;
        let _ = writeln!(
            out,
            "<text x=\"10\" y=\"{:.1}\">{}</text>",
            middle + 4.0,
            row.fault
        );
        for (dot, millis) in row.hit.iter().filter(|m| **m > 0.0).enumerate() {
            // Spread a little, so that equal values show.
            let y = middle + ((dot * 7 % 11) as f64 - 5.0);
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"1.8\" fill=\"#2563eb\" fill-opacity=\"0.45\"/>",
                x(*millis)
            );
        }
        let p99 = x(percentile(&row.hit, 99.0));
        let _ = writeln!(
            out,
            "<line x1=\"{p99:.1}\" x2=\"{p99:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\" stroke-width=\"1.5\"><title>p99</title></line>",
            middle - 9.0,
            middle + 9.0
        );
        if let Some(bar) = row.class.bar_ms() {
            let at = x(bar);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dc2626\" stroke-width=\"2\"><title>bar</title></line>",
                middle - 11.0,
                middle + 11.0
            );
        }
    }
    out + "</svg>\n"
}

/// A page with the picture, the table and what was wrong.
pub fn html(rows: &[Row], trials: &[Trial], title: &str) -> String {
    let mut out = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<body style=\"font-family:sans-serif;max-width:980px;margin:2em auto\">\n\
         <h1>{title}</h1>\n<p>Each dot is the longest silence of one client in one run; black: 99 of a hundred are left of it; red: the bar.</p>\n{}\n<pre>{}</pre>\n<ol>\n",
        svg(rows, title),
        escape(&table(rows))
    );
    for trial in trials {
        let _ = writeln!(out, "<li><b>{}</b>: {}", trial.fault, escape(&trial.note));
        for wrong in &trial.wrong {
            let _ = writeln!(out, "<br><span style=\"color:#dc2626\">{}</span>", escape(wrong));
        }
        let _ = writeln!(out, "</li>");
    }
    out + "</ol>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(hit: Vec<f64>, wrong: &[&str]) -> Trial {
        Trial {
            fault: "kill",
            class: Class::Killed,
            note: "a < b".to_owned(),
            hit,
            others: 12.0,
            new_logins: 0,
            own_stall: 0.0,
            double: 0.0,
            moves: 2,
            wrong: wrong.iter().map(|w| (*w).to_owned()).collect(),
        }
    }

    #[test]
    fn trials_of_a_fault_become_one_row_which_holds_or_not() {
        let good = rows(&[trial(vec![400.0, 300.0], &[]), trial(vec![500.0], &[])]);
        assert_eq!((good.len(), good[0].runs, good[0].hit.len()), (1, 2, 3));
        assert!(good[0].holds());
        assert!(!table(&good).contains('✗'));
        let bad = rows(&[trial(vec![900.0], &[])]);
        assert!(!bad[0].holds());
        assert!(table(&bad).contains('✗'));
        let failed = rows(&[trial(vec![10.0], &["S7"])]);
        assert!(table(&failed).contains('✗'));
    }

    #[test]
    fn the_page_has_every_dot_and_no_raw_text() {
        let trials = [trial(vec![400.0, 300.0, 0.0], &["S1 <x>"])];
        let page = html(&rows(&trials), &trials, "silences");
        assert_eq!(page.matches("<circle").count(), 2);
        assert!(page.contains("a &lt; b") && page.contains("S1 &lt;x&gt;"));
    }
}
