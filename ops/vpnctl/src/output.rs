//! Writing answers: tables for people, JSON and YAML for programs.

use std::io::{self, Write as _};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::Format;

/// Where and how answers are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// Writes in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether people read it.
    pub(crate) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// Octets as they are.
    pub(crate) fn raw(self, octets: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(octets)?;
        out.flush()?;
        Ok(())
    }

    /// A line of text.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// A value for programs: pretty JSON, or YAML (a list is a series of documents).
    pub(crate) fn value<T: Serialize>(self, value: &T) -> Result<()> {
        if self.format == Format::Json {
            return self.line(&serde_json::to_string_pretty(value)?);
        }
        let value = serde_json::to_value(value)?;
        match value.as_array() {
            Some(items) => {
                let documents = items
                    .iter()
                    .map(serde_yaml_ng::to_string)
                    .collect::<Result<Vec<_>, _>>()?;
                self.raw(documents.join("---\n").as_bytes())
            }
            None => self.raw(serde_yaml_ng::to_string(&value)?.as_bytes()),
        }
    }

    /// One value of a stream: a line of JSON, or a YAML document.
    pub(crate) fn item<T: Serialize>(self, value: &T) -> Result<()> {
        if self.format == Format::Json {
            self.line(&serde_json::to_string(value)?)
        } else {
            self.raw(format!("---\n{}", serde_yaml_ng::to_string(value)?).as_bytes())
        }
    }

    /// A table without frame; the columns are as wide as they must be.
    pub(crate) fn table(self, head: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        self.line(&table(head, rows))
    }
}

/// Rows under their heads, without a frame.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(head.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|l| l.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether the reader of our output has gone away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// A count of octets for people.
pub(crate) fn octets(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        unit = next;
        if value < 1024.0 || next == "TiB" {
            break;
        }
        value /= 1024.0;
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// How long ago something was.
pub(crate) fn ago(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let past = std::time::SystemTime::now()
        .duration_since(api::time::system_time(time))
        .unwrap_or_default()
        .as_secs();
    match past {
        0..=119 => format!("{past} s"),
        120..=7199 => format!("{} min", past / 60),
        7200..=172_799 => format!("{} h", past / 3600),
        _ => format!("{} d", past / 86_400),
    }
}

/// A moment given as RFC 3339, or as a time ago (`90s`, `15m`, `2h`, `1d`).
pub(crate) fn moment(text: &str) -> Result<prost_types::Timestamp> {
    if let Some(time) = api::time::from_rfc3339(text) {
        return Ok(time);
    }
    let seconds = text
        .char_indices()
        .last()
        .and_then(|(at, unit)| {
            let number: u64 = text.get(..at)?.parse().ok()?;
            let scale = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return None,
            };
            number.checked_mul(scale)
        })
        .ok_or_else(|| {
            anyhow::anyhow!("{text:?} is no time: write 2026-01-31T12:00:00Z, or 15m, 2h, 1d for a time ago")
        })?;
    let then = std::time::SystemTime::now().checked_sub(std::time::Duration::from_secs(seconds));
    Ok(api::time::timestamp(then.unwrap_or(std::time::UNIX_EPOCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_readable() {
        assert_eq!(octets(0), "0 B");
        assert_eq!(octets(1023), "1023 B");
        assert_eq!(octets(1536), "1.5 KiB");
        assert_eq!(octets(5 << 40), "5.0 TiB");
    }

    #[test]
    fn moments_are_read_in_both_forms() {
        assert_eq!(moment("2026-01-31T12:00:00Z").unwrap().seconds, 1_769_860_800);
        let now = api::time::timestamp(std::time::SystemTime::now()).seconds;
        assert!((now - moment("2h").unwrap().seconds - 7200).abs() <= 2);
        assert!(moment("soon").is_err());
        assert!(moment("é").is_err());
        assert!(moment("99999999999999999999d").is_err());
    }
}
