//! The result of one benchmark: what is printed, kept as JSON, and drawn.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plot::{self, Plot};
use super::stats::{median, range};
use crate::Result;
use crate::process::run;

/// One benchmark's result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Section {
    /// The subcommand.
    pub name: String,
    /// What was measured, in a line.
    pub title: String,
    /// Who was joined to whom, and how.
    pub topology: String,
    /// Repetitions.
    pub runs: usize,
    /// Seconds of each.
    pub seconds: u32,
    /// Load average of the machine when each round began.
    pub load: Vec<f64>,
    /// Processor and kernel.
    pub machine: String,
    /// When, in UTC.
    pub taken: String,
    /// All figures.
    pub tables: Vec<Table>,
    /// What counts.
    pub ratios: Vec<Ratio>,
    /// Drawings.
    pub plots: Vec<Plot>,
    /// What one should know to read the figures.
    pub notes: Vec<String>,
}

/// Figures in rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    /// What they are, with the unit.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, as many cells as columns.
    pub rows: Vec<Vec<String>>,
}

/// One figure in relation to another of the same run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratio {
    /// This over that.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// What it is to be at least.
    pub least: Option<f64>,
}

impl Ratio {
    /// Whether it is what it is to be; `None` if nothing was asked for.
    pub fn is_met(&self) -> Option<bool> {
        self.least.map(|least| self.value >= least)
    }
}

impl Table {
    /// An empty table.
    pub(super) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Section {
    /// An empty result.
    pub(super) fn new(name: &str, title: &str, topology: &str, effort: &super::Effort) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            topology: topology.to_owned(),
            runs: effort.runs,
            seconds: effort.seconds,
            machine: machine(),
            taken: run(&["date", "-u", "+%Y-%m-%d %H:%M"])
                .map_or(String::new(), |date| date.trim().to_owned()),
            ..Self::default()
        }
    }

    /// Notes the load at the beginning of a round.
    pub(super) fn begin_round(&mut self) {
        self.load.push(load());
    }

    /// Adds `value`, which is to be `least` at least.
    pub(super) fn ratio(&mut self, what: impl Into<String>, value: f64, least: Option<f64>) {
        self.ratios.push(Ratio {
            what: what.into(),
            value,
            least,
        });
    }

    /// Adds what is said of the figures.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Leaves out what was not measured, which JSON cannot tell.
    pub(super) fn finish(&mut self) {
        self.ratios.retain(|ratio| ratio.value.is_finite());
        for plot in &mut self.plots {
            plot.drop_gaps();
        }
    }

    /// Writes `NAME.json` and the drawings into the folder.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = folder.join(format!("{}.json", self.name));
        std::fs::write(json, serde_json::to_string_pretty(self)? + "\n")?;
        for (number, drawing) in self.plots.iter().enumerate() {
            let name = match number {
                0 => format!("{}.svg", self.name),
                _ => format!("{}-{}.svg", self.name, number + 1),
            };
            std::fs::write(folder.join(name), plot::svg(drawing))?;
        }
        Ok(())
    }

    /// The load averages in words.
    pub(super) fn load_in_words(&self) -> String {
        let (least, most) = range(&self.load);
        match self.load.is_empty() {
            true => "unknown".to_owned(),
            false => format!("{:.1} (median; {least:.1} to {most:.1})", median(&self.load)),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(f, "  topology      {}", self.topology)?;
        writeln!(
            f,
            "  measured      {} UTC, {} runs of {} s in turn, medians",
            self.taken, self.runs, self.seconds
        )?;
        writeln!(f, "  machine       {}", self.machine)?;
        writeln!(f, "  load average  {}", self.load_in_words())?;
        for table in &self.tables {
            writeln!(f, "\n{}", table.title)?;
            let width = |column: usize| {
                let cells = table.rows.iter().filter_map(|row| row.get(column));
                let all = cells.chain(table.columns.get(column));
                all.map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            for row in std::iter::once(&table.columns).chain(&table.rows) {
                let cells = row.iter().enumerate().map(|(column, cell)| match column {
                    0 => format!("{cell:<width$}", width = width(column)),
                    _ => format!("{cell:>width$}", width = width(column)),
                });
                writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
            }
        }
        if !self.ratios.is_empty() {
            writeln!(f, "\nratios")?;
        }
        for ratio in &self.ratios {
            let verdict = match (ratio.least, ratio.is_met()) {
                (Some(least), Some(true)) => format!("  (wanted: {least})"),
                (Some(least), _) => format!("  (wanted: {least}, MISSED)"),
                (None, _) => String::new(),
            };
            writeln!(f, "  {:>8.2}  {}{verdict}", ratio.value, ratio.what)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

/// The machine's load average of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(f64::NAN)
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}
