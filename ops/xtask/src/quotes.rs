//! RFC citations in the sources.
//!
//! ```text
//! //= rfc7296#section-2.8            which rule
//! //= type=test                      (in a test)
//! //# The exact sentence.            its words, over as many lines as it takes
//! ```
//!
//! The RFC texts are no part of this repository, so `quotes.lock` keeps a digest of every quotation that was compared
//! with its RFC (`--rfcs DIR --bless`). Without the texts a quotation must stand in that list; with them, in the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const ROOTS: &[&str] = &["proto", "tenants", "concentrator", "ops", "loadtest"];
const LOCK: &str = "ops/xtask/quotes.lock";

#[derive(Debug)]
struct Quote {
    place: String,
    rfc: String,
    section: String,
    text: String,
    is_test: bool,
}

/// Checks form, wording and the presence of a test for every quoted rule.
pub(crate) fn check(rfcs: Option<&Path>, bless: bool) -> Result<String> {
    let mut files = Vec::new();
    for root in ROOTS {
        collect(Path::new(root), &mut files)?;
    }
    let mut quotes = Vec::new();
    let mut faults = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        parse(&file.display().to_string(), &text, &mut quotes, &mut faults);
    }

    let mut texts: BTreeMap<String, Option<String>> = BTreeMap::new();
    let known: BTreeSet<String> = std::fs::read_to_string(LOCK)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    let mut verified = BTreeSet::new();
    for quote in &quotes {
        let line = format!("{} {} {:016x}", quote.rfc, quote.section, digest(&quote.text));
        let stands = match rfcs {
            None => known.contains(&line),
            Some(dir) => {
                let text = texts.entry(quote.rfc.clone()).or_insert_with(|| {
                    std::fs::read_to_string(dir.join(format!("{}.txt", quote.rfc)))
                        .ok()
                        .map(|t| normalise(&unpaged(&t)))
                });
                text.as_ref()
                    .is_some_and(|t| squeeze(t).contains(&squeeze(&quote.text)))
            }
        };
        if stands {
            verified.insert(line);
        } else {
            faults.push(format!(
                "{}: not the words of {} {}: {}",
                quote.place, quote.rfc, quote.section, quote.text
            ));
        }
    }
    let tested: BTreeSet<_> = quotes
        .iter()
        .filter(|q| q.is_test)
        .map(|q| (&q.rfc, &q.section))
        .collect();
    let mut untested = BTreeSet::new();
    for quote in quotes.iter().filter(|q| !q.is_test) {
        if !tested.contains(&(&quote.rfc, &quote.section)) {
            untested.insert(format!(
                "{}: {} {} has no test that cites it",
                quote.place, quote.rfc, quote.section
            ));
        }
    }
    faults.extend(untested);
    if bless {
        let mut out = String::new();
        for line in &verified {
            writeln!(out, "{line}")?;
        }
        std::fs::write(LOCK, out).context(LOCK)?;
    }
    if !faults.is_empty() {
        bail!("quotes: {} fault(s)\n  {}", faults.len(), faults.join("\n  "));
    }
    let tests = quotes.iter().filter(|q| q.is_test).count();
    Ok(format!(
        "quotes: {} citations, {tests} of them in tests",
        quotes.len()
    ))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") && !path.starts_with("ops/xtask") {
            files.push(path);
        }
    }
    Ok(())
}

fn parse(file: &str, text: &str, quotes: &mut Vec<Quote>, faults: &mut Vec<String>) {
    let mut current: Option<Quote> = None;
    let mut finish = |quote: Option<Quote>, faults: &mut Vec<String>| {
        if let Some(mut quote) = quote {
            quote.text = normalise(&quote.text);
            if quote.text.is_empty() {
                faults.push(format!("{}: a citation without its sentence", quote.place));
            } else {
                quotes.push(quote);
            }
        }
    };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("//= ").or_else(|| line.strip_prefix("//=")) {
            let rest = rest.trim();
            if rest == "type=test" {
                match current.as_mut() {
                    Some(quote) => quote.is_test = true,
                    None => faults.push(format!("{file}:{}: type=test without a citation", index + 1)),
                }
                continue;
            }
            finish(current.take(), faults);
            match rest.split_once('#') {
                Some((rfc, section)) if rfc.starts_with("rfc") => {
                    current = Some(Quote {
                        place: format!("{file}:{}", index + 1),
                        rfc: rfc.to_owned(),
                        section: section.to_owned(),
                        text: String::new(),
                        is_test: false,
                    });
                }
                _ => faults.push(format!("{file}:{}: not a citation: {rest}", index + 1)),
            }
        } else if let Some(words) = line.strip_prefix("//#") {
            match current.as_mut() {
                Some(quote) => {
                    quote.text.push(' ');
                    quote.text.push_str(words);
                }
                None => faults.push(format!("{file}:{}: words without a citation", index + 1)),
            }
        } else {
            finish(current.take(), faults);
        }
    }
    finish(current.take(), faults);
}

/// Takes the page breaks (footer, form feed, header) out of an RFC's text.
fn unpaged(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut keep = vec![true; lines.len()];
    for (index, line) in lines.iter().enumerate() {
        if line.contains('\u{c}') {
            for near in index.saturating_sub(4)..(index + 4).min(lines.len()) {
                let l = lines.get(near).copied().unwrap_or_default();
                let furniture = l.contains("[Page ") || l.starts_with("RFC ") || l.contains('\u{c}');
                if let Some(slot) = keep.get_mut(near) {
                    *slot &= !furniture;
                }
            }
        }
    }
    lines
        .iter()
        .zip(keep)
        .filter(|(_, k)| *k)
        .map(|(l, _)| *l)
        .collect::<Vec<_>>()
        .join("\n")
}

fn normalise(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Without any white space: a word broken over two lines at its hyphen compares equal.
fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// FNV-1a: a mark of identity, not of integrity.
fn digest(text: &str) -> u64 {
    squeeze(text).bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_citation_is_read_over_several_lines() {
        let (mut quotes, mut faults) = (Vec::new(), Vec::new());
        let source = "//= rfc7296#section-2.8\n//= type=test\n//# One\n//# sentence.\nfn x() {}\n//= rfc1#section-1\nfn y() {}";
        parse("f.rs", source, &mut quotes, &mut faults);
        assert_eq!(quotes.len(), 1);
        assert_eq!(
            quotes.first().map(|q| (q.text.as_str(), q.is_test)),
            Some(("One sentence.", true))
        );
        assert_eq!(faults, ["f.rs:6: a citation without its sentence"]);
    }

    #[test]
    fn page_breaks_are_no_part_of_a_sentence() {
        let page = "A sentence\n\nKaufman, et al.  Standards Track  [Page 9]\n\u{c}\nRFC 7296  IKEv2bis  October 2014\n\nthat goes on.";
        assert_eq!(normalise(&unpaged(page)), "A sentence that goes on.");
    }
}
