//! Drawings as SVG, without scripts and without a library.

use std::fmt::{Display, Write as _};

use serde::{Deserialize, Serialize};

use super::stats::{median, range};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 130.0;
const HEAD: f64 = 46.0;
const BAR: f64 = 26.0;
/// Height of the field of a plot of lines.
const FIELD: f64 = 300.0;
const COLOURS: [&str; 8] = [
    "#1b6ca8", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#5c677d", "#a44a3f", "#00798c",
];

/// A drawing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plot {
    /// A bar for each, as long as the median, with a mark for each sample.
    Bars {
        /// What is drawn, with its unit.
        title: String,
        /// What is compared.
        bars: Vec<Bar>,
    },
    /// Lines over a common axis.
    Lines {
        /// What is drawn.
        title: String,
        /// The axis below, with its unit.
        x: String,
        /// The axis at the left, with its unit.
        y: String,
        /// Whether the axis below is logarithmic.
        log: bool,
        /// The lines.
        series: Vec<Series>,
    },
}

/// One of the bars.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    /// What it stands for.
    pub name: String,
    /// Bars of one group have one colour.
    pub group: usize,
    /// What was measured.
    pub samples: Vec<f64>,
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    /// What it stands for.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// Leaves out what was not measured.
    pub(super) fn drop_gaps(&mut self) {
        match self {
            Self::Bars { bars, .. } => bars
                .iter_mut()
                .for_each(|bar| bar.samples.retain(|sample| sample.is_finite())),
            Self::Lines { series, .. } => series
                .iter_mut()
                .for_each(|line| line.points.retain(|(x, y)| x.is_finite() && y.is_finite())),
        }
    }
}

/// An SVG in the making; writing to a string does not fail.
struct Canvas(String);

impl Canvas {
    fn new(height: f64, title: &str) -> Self {
        let mut canvas = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"#222\">\n"
        ));
        canvas.put(format_args!(
            r##"<rect width="{WIDTH}" height="{height:.0}" fill="#fff"/>"##
        ));
        canvas.text(12.0, 22.0, r#"font-size="15" font-weight="bold""#, title);
        canvas
    }

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

    fn finish(mut self) -> String {
        self.put("</svg>");
        self.0
    }
}

/// Text as XML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The drawing.
pub(super) fn svg(plot: &Plot) -> String {
    match plot {
        Plot::Bars { title, bars } => draw_bars(title, bars),
        Plot::Lines {
            title,
            x,
            y,
            log,
            series,
        } => draw_lines(title, (x, y), *log, series),
    }
}

fn colour(number: usize) -> &'static str {
    COLOURS.get(number % COLOURS.len()).copied().unwrap_or("#222")
}

fn draw_bars(title: &str, bars: &[Bar]) -> String {
    let gaps = bars
        .windows(2)
        .filter(|pair| matches!(pair, [a, b] if a.group != b.group));
    let height = HEAD + BAR * bars.len() as f64 + 12.0 * gaps.count() as f64 + 14.0;
    let mut canvas = Canvas::new(height, title);
    let most = range(
        &bars
            .iter()
            .flat_map(|bar| bar.samples.clone())
            .collect::<Vec<_>>(),
    )
    .1;
    let scale = (WIDTH - LEFT - RIGHT) / if most > 0.0 { most } else { 1.0 };
    let mut y = HEAD;
    let mut group = bars.first().map_or(0, |bar| bar.group);
    for bar in bars {
        if bar.group != group {
            (y, group) = (y + 12.0, bar.group);
        }
        let value = median(&bar.samples);
        canvas.text(LEFT - 10.0, y + BAR * 0.62, r#"text-anchor="end""#, &bar.name);
        if value.is_finite() {
            canvas.put(format_args!(
                r#"<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
                y + 3.0,
                (value * scale).max(1.0),
                BAR - 6.0,
                colour(group)
            ));
            for sample in &bar.samples {
                let x = LEFT + sample * scale;
                canvas.line(
                    (x, y + 5.0),
                    (x, y + BAR - 5.0),
                    r##"stroke="#000" stroke-opacity="0.45""##,
                );
            }
            let end = LEFT + range(&bar.samples).1.max(value) * scale + 6.0;
            canvas.text(end, y + BAR * 0.62, "", &number(value));
        }
        y += BAR;
    }
    canvas.finish()
}

/// A figure with three digits that mean something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        a if a >= 1e6 => format!("{:.2} M", value / 1e6),
        a if a >= 1e4 => format!("{:.1} k", value / 1e3),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 0.1 || a == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn draw_lines(title: &str, (x_name, y_name): (&str, &str), log: bool, series: &[Series]) -> String {
    let (left, right) = (70.0, 230.0);
    let bottom = HEAD + 14.0 + FIELD;
    let mut canvas = Canvas::new(bottom + 52.0, title);
    let points = || series.iter().flat_map(|line| &line.points);
    let (mut from, mut to) = range(&points().map(|point| point.0).collect::<Vec<_>>());
    if !log {
        from = from.min(0.0);
    }
    if !(from.is_finite() && to > from) {
        (from, to) = (from.min(1.0), to.max(2.0));
    }
    let step = step(range(&points().map(|point| point.1).collect::<Vec<_>>()).1 / 5.0);
    let top = (range(&points().map(|point| point.1).collect::<Vec<_>>()).1 / step)
        .ceil()
        .max(1.0)
        * step;
    let place = |value: f64| match log {
        true => (value.max(1e-9).ln() - from.max(1e-9).ln()) / (to.ln() - from.max(1e-9).ln()),
        false => (value - from) / (to - from),
    };
    let x = |value: f64| left + (WIDTH - left - right) * place(value);
    let y = |value: f64| bottom - FIELD * value / top;

    canvas.text(left, HEAD, r##"fill="#555""##, y_name);
    let mut tick = 0.0;
    while tick <= top * 1.001 {
        canvas.line((left, y(tick)), (WIDTH - right, y(tick)), r##"stroke="#ddd""##);
        canvas.text(left - 8.0, y(tick) + 4.0, r#"text-anchor="end""#, &number(tick));
        tick += step;
    }
    let mut ticks: Vec<f64> = points().map(|point| point.0).collect();
    ticks.sort_by(f64::total_cmp);
    let mut last = f64::NEG_INFINITY;
    for tick in ticks {
        if x(tick) - last >= 46.0 {
            last = x(tick);
            canvas.line((last, bottom), (last, bottom + 5.0), r##"stroke="#222""##);
            canvas.text(last, bottom + 19.0, r#"text-anchor="middle""#, &axis(tick));
        }
    }
    canvas.line((left, bottom), (WIDTH - right, bottom), r##"stroke="#222""##);
    canvas.text(
        (left + WIDTH - right) / 2.0,
        bottom + 40.0,
        r##"text-anchor="middle" fill="#555""##,
        x_name,
    );
    for (index, line) in series.iter().enumerate() {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        canvas.put(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>"#,
            path.join(" "),
            colour(index)
        ));
        for point in &line.points {
            canvas.put(format_args!(
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{}"/>"#,
                x(point.0),
                y(point.1),
                colour(index)
            ));
        }
        let at = HEAD + 20.0 + 18.0 * index as f64;
        canvas.put(format_args!(
            r#"<rect x="{:.1}" y="{:.1}" width="14" height="4" fill="{}"/>"#,
            WIDTH - right + 16.0,
            at - 6.0,
            colour(index)
        ));
        canvas.text(WIDTH - right + 36.0, at, "", &line.name);
    }
    canvas.finish()
}

/// A value on the axis below: whole numbers stay whole.
fn axis(value: f64) -> String {
    match value.fract() == 0.0 && value.abs() < 1e6 {
        true => format!("{value:.0}"),
        false => number(value),
    }
}

/// A round number that is at least `least`.
fn step(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_no_less_than_asked() {
        assert_eq!(
            [step(0.3), step(1.0), step(17.0), step(0.0)],
            [0.5, 1.0, 20.0, 1.0]
        );
    }

    #[test]
    fn a_drawing_has_all_that_was_measured_and_nothing_that_was_not() {
        let mut bars = Plot::Bars {
            title: "a < b".to_owned(),
            bars: vec![
                Bar {
                    name: "first".to_owned(),
                    group: 0,
                    samples: vec![1.0, 3.0, f64::NAN, 2.0],
                },
                Bar {
                    name: "second".to_owned(),
                    group: 1,
                    samples: vec![],
                },
            ],
        };
        bars.drop_gaps();
        let text = svg(&bars);
        assert!(text.contains("a &lt; b") && text.contains(">2.00<") && !text.contains("NaN"));
        let lines = Plot::Lines {
            title: String::new(),
            x: "x".to_owned(),
            y: "y".to_owned(),
            log: true,
            series: vec![Series {
                name: "one".to_owned(),
                points: vec![(64.0, 1.0), (9000.0, 4.0)],
            }],
        };
        let text = svg(&lines);
        assert!(text.contains("polyline") && text.contains(">9000<") && !text.contains("NaN"));
    }
}
