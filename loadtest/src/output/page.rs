//! The page of a long run: plots and table in one HTML file without scripts or references.

use crate::output::plot::{self, escape};
use crate::record::Record;

/// The page.
#[must_use]
pub(super) fn html(record: &Record) -> String {
    let title = if record.name.is_empty() {
        "Silence of tunnels"
    } else {
        &record.name
    };
    let title = escape(title);
    let mut rows = String::new();
    for report in record.reports() {
        let silence = &report.affected_ms;
        rows.push_str(&format!(
            "<tr><th>{}</th><td>{:.1}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td>\
             <td>{}</td><td>{}</td><td>{:.0}</td></tr>\n",
            escape(&report.name),
            report.from_ms / 1000.0,
            report.flows,
            report.silent,
            silence.p50,
            silence.p90,
            silence.p99,
            silence.max,
            report.lost,
            report.new_logins,
            report.own_stall_ms
        ));
    }
    let mut logins = String::new();
    for login in record.logins.iter().take(1000) {
        logins.push_str(&format!(
            "<tr><td>{:.3}</td><td>{}</td><td>{}</td></tr>\n",
            login.at as f64 / 1e6,
            login.user,
            escape(&login.reason)
        ));
    }
    let logins = match logins.is_empty() {
        true => "<p>No user had to log in again.</p>".to_owned(),
        false => format!("<h2>New logins</h2><table><tr><th>at, s<th>user<th>because</tr>\n{logins}</table>"),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\n\
         body {{ font: 14px sans-serif; margin: 2em; color: #222; }} table {{ border-collapse: collapse; }}\n\
         td, th {{ padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; }} th:first-child {{ text-align: left; }}\n\
         svg {{ width: 100%; max-width: 1400px; height: auto; }}\n</style></head><body>\n<h1>{title}</h1>\n{}\n\
         <h2>Intervals</h2>\n<table><tr><th>interval<th>from, s<th>flows<th>silent<th>p50, ms<th>p90<th>p99<th>max<th>lost\
         <th>new logins<th>generator late, ms</tr>\n{rows}</table>\n{logins}\n</body></html>\n",
        plot::svg(record)
    )
}
