//! The benchmarks: each subcommand of `ops/bench` is one file here and gives one [`Section`], which is printed, kept as
//! JSON, and drawn.
//!
//! ```text
//!   path     client ── cable ── gateway ── TUN ── server, with any of the tunnels, or none
//!   traffic  what is sent over it, and what is counted
//!   esp, many, thin, overload, latency, syscalls, fat, transform   ──►  Section  ──►  text, JSON, SVG, one HTML page
//! ```
//! Figures are only compared with others of the same run: whoever is measured takes turns, and medians are told.

mod esp;
mod fat;
mod latency;
mod many;
mod overload;
mod page;
mod path;
mod plot;
mod section;
mod stats;
mod syscalls;
mod thin;
mod traffic;
mod transform;
mod wireguard;

use std::path::PathBuf;

pub use section::Section;

use crate::Result;

/// How long and how often.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Repetitions, in turn; medians are told.
    pub runs: usize,
    /// Seconds of each.
    pub seconds: u32,
    /// Where JSON and SVG go.
    pub out: PathBuf,
}

/// What can be measured.
#[derive(Debug, Clone)]
pub enum Bench {
    /// ESP without I/O beside its cipher alone.
    Transform {
        /// Rows that have all of these words; empty: all rows.
        only: String,
    },
    /// TCP through the tunnel beside other tunnels.
    Esp,
    /// One client's rate with so many other tunnels, for each of the numbers.
    Many(Vec<u32>),
    /// Many users, one packet at a time.
    Thin {
        /// How many.
        users: u32,
        /// Packets a second and user.
        pps: f64,
    },
    /// More than the gateway can carry.
    Overload {
        /// Octets of each datagram's payload.
        size: u32,
        /// What the gateway has of its core, in %.
        share: u32,
    },
    /// Round trips, idle and beside bulk.
    Latency,
    /// System calls a packet.
    Syscalls,
    /// One peer with so many workers at both ends, beside one worker at both ends.
    Fat(u8),
}

impl Bench {
    /// All of them, as the report has them; `quick` has fewer tunnels.
    pub fn all(quick: bool) -> Vec<Self> {
        let (many, users) = match quick {
            true => (vec![200], 100),
            false => (vec![1000, 10_000], 1000),
        };
        vec![
            Self::Esp,
            Self::Transform { only: String::new() },
            Self::Many(many),
            Self::Thin { users, pps: 20.0 },
            Self::Overload { size: 512, share: 15 },
            Self::Latency,
            Self::Syscalls,
            Self::Fat(2),
        ]
    }

    /// The subcommand.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Transform { .. } => "transform",
            Self::Esp => "esp",
            Self::Many(_) => "many",
            Self::Thin { .. } => "thin",
            Self::Overload { .. } => "overload",
            Self::Latency => "latency",
            Self::Syscalls => "syscalls",
            Self::Fat(_) => "fat",
        }
    }

    /// Measures, and writes JSON and SVG.
    pub fn run(&self, effort: &Effort) -> Result<Section> {
        let mut section = match self {
            Self::Transform { only } => transform::run(effort, only),
            Self::Esp => esp::run(effort),
            Self::Many(others) => many::run(effort, others),
            Self::Thin { users, pps } => thin::run(effort, *users, *pps),
            Self::Overload { size, share } => overload::run(effort, *size, *share),
            Self::Latency => latency::run(effort),
            Self::Syscalls => syscalls::run(effort),
            Self::Fat(workers) => fat::run(effort, *workers),
        }?;
        section.finish();
        section.write(&effort.out)?;
        Ok(section)
    }
}

/// Draws what lies in the folder as one page.
pub fn draw(out: &std::path::Path) -> Result<PathBuf> {
    let mut sections = Vec::new();
    for bench in Bench::all(false) {
        let path = out.join(format!("{}.json", bench.name()));
        if let Ok(text) = std::fs::read_to_string(&path) {
            sections.push(serde_json::from_str(&text)?);
        }
    }
    anyhow::ensure!(
        !sections.is_empty(),
        "nothing was measured into {}",
        out.display()
    );
    let page = out.join("index.html");
    std::fs::write(&page, page::html(&sections))?;
    Ok(page)
}
