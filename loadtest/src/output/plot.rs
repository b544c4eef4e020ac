//! The plots of a long run, as one SVG without scripts: who was silent when, and how long the silences of each interval
//! were.

use std::fmt::{Display, Write as _};

use crate::flow::Silence;
use crate::record::{MarkReport, Record};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 30.0;
/// Height of the labels above the first plot.
const HEAD: f64 = 120.0;
/// Height of all rows of the first plot, if they are many.
const ROWS: f64 = 500.0;
const MAX_ROW: f64 = 14.0;
/// Height of one interval in the second plot.
const STRIP: f64 = 22.0;
/// Silences that are drawn: the longest ones.
const MAX_DRAWN: usize = 20_000;
/// Intervals in the second plot: those with the longest silences.
const MAX_STRIPS: usize = 120;
/// Marks with a label; of more, some stay without.
const MAX_LABELS: usize = 60;
/// Letters of a flow's name that have room.
const MAX_NAME: usize = 26;
/// Ends of the logarithmic scale of silences (ms).
const SCALE: (f64, f64) = (30.0, 100_000.0);
/// Silences up to so many milliseconds have this colour.
const COLOURS: [(f64, &str, &str); 5] = [
    (100.0, "#9ecae1", "≤ 100 ms"),
    (700.0, "#4292c6", "≤ 700 ms"),
    (1000.0, "#fdae61", "≤ 1 s"),
    (3000.0, "#f46d43", "≤ 3 s"),
    (f64::INFINITY, "#a50026", "longer"),
];

fn colour(ms: f64) -> &'static str {
    let fitting = COLOURS.iter().find(|(most, ..)| ms <= *most);
    fitting.map_or("#a50026", |(_, colour, _)| colour)
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// The end of a long name, which tells it from others.
fn tail(name: &str) -> &str {
    let letters = name.chars().count();
    let start = name.char_indices().nth(letters.saturating_sub(MAX_NAME));
    start.and_then(|(at, _)| name.get(at..)).unwrap_or(name)
}

/// Text as XML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// An SVG in the making; writing to a string does not fail.
struct Canvas(String);

impl Canvas {
    fn put(&mut self, element: impl Display) {
        let _ = writeln!(self.0, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        let text = escape(text);
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" {style}>{text}</text>"#
        ));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        self.put(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {style}/>"#
        ));
    }

    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        self.put(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.2}" fill="{fill}"/>"#
        ));
    }
}

/// Both plots.
#[must_use]
pub(super) fn svg(record: &Record) -> String {
    let row = (ROWS / record.flows.len().max(1) as f64).min(MAX_ROW);
    let rows = row * record.flows.len() as f64;
    let reports = strips(record);
    let second = HEAD + rows + 90.0;
    let height = second + 60.0 + STRIP * reports.len() as f64 + 40.0;
    let mut canvas = Canvas(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#222\">\n"
    ));
    canvas.put(format_args!(
        r##"<rect width="{WIDTH}" height="{height:.0}" fill="#fff"/>"##
    ));
    time_plot(&mut canvas, record, row, rows);
    distribution(&mut canvas, &reports, second);
    canvas.put("</svg>");
    canvas.0
}

/// The intervals of the second plot, in order.
fn strips(record: &Record) -> Vec<MarkReport> {
    let mut reports: Vec<MarkReport> = record
        .reports()
        .into_iter()
        .filter(|report| report.flows > 0)
        .collect();
    if reports.len() > MAX_STRIPS {
        reports.sort_by(|a, b| b.silence_ms.max.total_cmp(&a.silence_ms.max));
        reports.truncate(MAX_STRIPS);
        reports.sort_by(|a, b| a.from_ms.total_cmp(&b.from_ms));
    }
    reports
}

fn time_plot(canvas: &mut Canvas, record: &Record, row: f64, rows: f64) {
    let length = record.length.max(1) as f64;
    let x = |at: u64| LEFT + (WIDTH - LEFT - RIGHT) * (at as f64 / length);
    let y = |index: usize| HEAD + row * index as f64;
    let title = if record.name.is_empty() {
        "Silence of each flow"
    } else {
        &record.name
    };
    canvas.text(LEFT, 20.0, r#"font-size="15" font-weight="bold""#, title);
    legend(canvas);

    for (index, flow) in record.flows.iter().enumerate() {
        let thick = (row * 0.8).max(0.3);
        canvas.bar(
            (x(flow.from), y(index)),
            (x(flow.to) - x(flow.from), thick),
            "#e8f1e4",
        );
        if row >= 9.0 {
            let name = tail(&flow.name);
            canvas.text(
                LEFT - 6.0,
                y(index) + row * 0.75,
                r#"text-anchor="end" font-size="9""#,
                name,
            );
        }
    }
    if row < 9.0 {
        canvas.text(
            LEFT - 6.0,
            HEAD + 10.0,
            r#"text-anchor="end""#,
            &format!("{} flows", record.flows.len()),
        );
    }
    let mut silences: Vec<(usize, Silence)> = Vec::new();
    for (index, flow) in record.flows.iter().enumerate() {
        let open = flow.open.filter(|open| open.length() > flow.threshold);
        silences.extend(
            flow.silences
                .iter()
                .copied()
                .chain(open)
                .map(|silence| (index, silence)),
        );
    }
    silences.sort_by_key(|(_, silence)| std::cmp::Reverse(silence.length()));
    silences.truncate(MAX_DRAWN);
    for (index, silence) in silences {
        let (from, width) = (x(silence.from), (x(silence.to) - x(silence.from)).max(1.2));
        canvas.bar(
            (from, y(index)),
            (width, (row * 0.8).max(0.3)),
            colour(ms(silence.length())),
        );
    }
    for login in record.logins.iter().take(MAX_DRAWN) {
        let place = record.flows.iter().position(|flow| flow.user == login.user);
        let (cx, cy) = (
            x(login.at),
            place.map_or(HEAD + rows + 6.0, |index| y(index) + row * 0.4),
        );
        canvas.put(format_args!(
            r##"<circle cx="{cx:.1}" cy="{cy:.1}" r="3" fill="none" stroke="#000"><title>user {}: {}</title></circle>"##,
            login.user,
            escape(&login.reason)
        ));
    }
    let below = HEAD + rows;
    for stall in &record.stalls {
        let (from, width) = (x(stall.from), (x(stall.to) - x(stall.from)).max(1.0));
        canvas.bar((from, below + 10.0), (width, 6.0), "#777");
    }
    canvas.text(
        LEFT - 6.0,
        below + 17.0,
        r#"text-anchor="end" font-size="9""#,
        "generator late",
    );

    let every = record.marks.len().div_ceil(MAX_LABELS).max(1);
    for (index, mark) in record.marks.iter().enumerate() {
        let at = x(mark.at);
        canvas.line(
            (at, HEAD - 6.0),
            (at, below + 4.0),
            r##"stroke="#555" stroke-width="0.7" stroke-dasharray="3 2""##,
        );
        if index % every == 0 {
            let style = format!(
                r#"font-size="9" transform="rotate(-50 {at:.1} {:.1})""#,
                HEAD - 9.0
            );
            let name: String = mark.name.chars().take(24).collect();
            canvas.text(at, HEAD - 9.0, &style, &name);
        }
    }
    let step = tick(length / 1e6 / 10.0);
    let mut second = 0.0;
    while second * 1e6 <= length {
        let at = x((second * 1e6) as u64);
        canvas.line((at, below + 20.0), (at, below + 25.0), r##"stroke="#222""##);
        canvas.text(
            at,
            below + 37.0,
            r#"text-anchor="middle""#,
            &format!("{second} s"),
        );
        second += step;
    }
    canvas.line(
        (LEFT, below + 20.0),
        (WIDTH - RIGHT, below + 20.0),
        r##"stroke="#222""##,
    );
}

fn legend(canvas: &mut Canvas) {
    let mut x = LEFT;
    for (_, colour, name) in COLOURS {
        canvas.bar((x, 30.0), (12.0, 9.0), colour);
        canvas.text(x + 16.0, 38.0, "", name);
        x += 85.0;
    }
    canvas.put(format_args!(
        r##"<circle cx="{:.1}" cy="34.5" r="3" fill="none" stroke="#000"/>"##,
        x + 5.0
    ));
    canvas.text(x + 16.0, 38.0, "", "new login");
}

/// A round number of seconds from tick to tick, at least `least`.
fn tick(least: f64) -> f64 {
    let steps = [
        1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0,
    ];
    steps.into_iter().find(|step| *step >= least).unwrap_or(86_400.0)
}

fn distribution(canvas: &mut Canvas, reports: &[MarkReport], top: f64) {
    let (low, high) = (SCALE.0.ln(), SCALE.1.ln());
    let right = WIDTH - RIGHT - 250.0;
    let x = |ms: f64| LEFT + (right - LEFT) * ((ms.clamp(SCALE.0, SCALE.1).ln() - low) / (high - low));
    let rows = top + 40.0;
    let bottom = rows + STRIP * reports.len() as f64;
    canvas.text(
        LEFT,
        top,
        r#"font-size="15" font-weight="bold""#,
        "Longest silence of each flow that was silent, by interval",
    );
    for (at, name) in [
        (30.0, "30 ms"),
        (100.0, "100 ms"),
        (300.0, "300 ms"),
        (700.0, "700"),
        (1000.0, "1 s"),
        (3000.0, "3 s"),
        (10_000.0, "10 s"),
        (100_000.0, "100 s"),
    ] {
        canvas.line((x(at), rows - 8.0), (x(at), bottom), r##"stroke="#ddd""##);
        canvas.text(x(at), rows - 12.0, r#"text-anchor="middle" font-size="9""#, name);
    }
    canvas.text(
        right + 32.0,
        rows - 12.0,
        r#"font-size="9""#,
        "p50 / p99 / max ms, lost, new logins",
    );
    for (index, report) in reports.iter().enumerate() {
        let middle = rows + STRIP * (index as f64 + 0.5);
        let name: String = report.name.chars().take(24).collect();
        canvas.text(LEFT - 6.0, middle + 4.0, r#"text-anchor="end""#, &name);
        for (place, user) in report
            .users
            .iter()
            .filter(|user| user.silence_ms > 0.0)
            .enumerate()
        {
            // Spread by a fixed pattern, so that equal values can be told apart.
            let offset = ((place * 7) % 13) as f64 - 6.0;
            canvas.put(format_args!(
                r#"<circle cx="{:.1}" cy="{:.1}" r="2" fill="{}" fill-opacity="0.6"/>"#,
                x(user.silence_ms),
                middle + offset,
                colour(user.silence_ms)
            ));
        }
        let silence = &report.affected_ms;
        for value in [silence.p50, silence.p99]
            .into_iter()
            .filter(|value| *value > 0.0)
        {
            canvas.line(
                (x(value), middle - 9.0),
                (x(value), middle + 9.0),
                r##"stroke="#222" stroke-width="1.4""##,
            );
        }
        let figures = format!(
            "{:.0} / {:.0} / {:.0}, {}, {}",
            silence.p50, silence.p99, silence.max, report.lost, report.new_logins
        );
        canvas.text(right + 32.0, middle + 4.0, "", &figures);
    }
}
