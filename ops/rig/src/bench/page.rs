//! All sections as one HTML page without scripts or references.

use super::plot::{escape, svg};
use super::section::{Section, Table};

/// The page.
pub(super) fn html(sections: &[Section]) -> String {
    let mut body = String::from("<h1>Benchmarks</h1>\n");
    body += "<p>Ratios within one run are what counts: whoever is compared took turns on the same cores. The marks in a bar are \
             the single runs.</p>\n";
    body += "<table><tr><th>ratio<th>is<th>wanted</tr>\n";
    for section in sections {
        for ratio in section.ratios.iter().filter(|ratio| ratio.least.is_some()) {
            let (class, least) = match (ratio.is_met(), ratio.least) {
                (Some(true), Some(least)) => ("met", format!("{least}")),
                (_, least) => ("missed", least.map_or(String::new(), |least| format!("{least}"))),
            };
            body += &format!(
                "<tr class=\"{class}\"><td><a href=\"#{}\">{}</a><td>{:.2}<td>{least}</tr>\n",
                section.name,
                escape(&ratio.what),
                ratio.value
            );
        }
    }
    body += "</table>\n";
    for section in sections {
        body += &one(section);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Benchmarks</title><style>\n\
         body {{ font: 14px sans-serif; margin: 2em auto; max-width: 1000px; color: #222; }} table {{ border-collapse: collapse; }}\n\
         td, th {{ padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; }}\n\
         td:first-child, th:first-child {{ text-align: left; }} svg {{ width: 100%; max-width: 860px; height: auto; }}\n\
         .met td {{ background: #eaf5ea; }} .missed td {{ background: #fbeaea; }} .fact {{ color: #555; margin: 2px 0; }}\n\
         </style></head><body>\n{body}</body></html>\n"
    )
}

fn one(section: &Section) -> String {
    let mut text = format!(
        "<h2 id=\"{}\">{}</h2>\n<p class=\"fact\">{}</p>\n<p class=\"fact\">{} UTC; {} runs of {} s in turn, medians; load \
         average {}; {}</p>\n",
        section.name,
        escape(&section.title),
        escape(&section.topology),
        escape(&section.taken),
        section.runs,
        section.seconds,
        escape(&section.load_in_words()),
        escape(&section.machine)
    );
    for plot in &section.plots {
        text += &svg(plot);
    }
    if !section.ratios.is_empty() {
        text += "<ul>\n";
    }
    for ratio in &section.ratios {
        let wanted = ratio
            .least
            .map_or(String::new(), |least| format!(" (wanted: {least})"));
        text += &format!("<li>{:.2} {}{wanted}</li>\n", ratio.value, escape(&ratio.what));
    }
    if !section.ratios.is_empty() {
        text += "</ul>\n";
    }
    for note in &section.notes {
        text += &format!("<p>{}</p>\n", escape(note));
    }
    for table in &section.tables {
        text += &rows(table);
    }
    text
}

fn rows(table: &Table) -> String {
    let mut text = format!("<h3>{}</h3>\n<table><tr>", escape(&table.title));
    for column in &table.columns {
        text += &format!("<th>{}", escape(column));
    }
    text += "</tr>\n";
    for row in &table.rows {
        text += "<tr>";
        for cell in row {
            text += &format!("<td>{}", escape(cell));
        }
        text += "</tr>\n";
    }
    text + "</table>\n"
}
