//! TCP through the tunnel: both ends ours beside both ends another's, without a cipher, and without a tunnel, over the same
//! hops in turn.

use super::path::{Kind, Path, Wire};
use super::plot::{Bar, Plot};
use super::section::{Section, Table};
use super::stats::{median, range};
use super::traffic::tcp;
use super::{Effort, wireguard};
use crate::Result;
use crate::process::run as command;
use crate::world::SERVER_V4;

const KINDS: [Kind; 6] = [
    Kind::Ours,
    Kind::OursWithoutCipher,
    Kind::StrongSwan,
    Kind::BoringTun,
    Kind::WireGuardGo,
    Kind::Plain,
];
const WIRES: [Wire; 2] = [Wire::Whole, Wire::Nic];
const TOPOLOGY: &str = "client and server in namespaces of their own, joined by veth to the gateway's; both ends of the tunnel run \
    on the same cores, and so do iperf3's. One TCP stream, AES-256-GCM (WireGuard: ChaCha20-Poly1305), MTU of the tunnel \
    1,400. \"No tunnel\" is forwarded over the same two links, with their MTU of 1,500";

pub(super) fn run(effort: &Effort) -> Result<Section> {
    let mut section = Section::new("esp", "TCP through the tunnel, one stream", TOPOLOGY, effort);
    let mut kinds = Vec::new();
    for kind in KINDS {
        match kind.obstacle() {
            None => kinds.push(kind),
            Some(why) => section.note(format!("{} was not measured: {why}", kind.name())),
        }
    }
    let mut rates: Vec<(Wire, Kind, Vec<f64>)> = WIRES
        .iter()
        .flat_map(|wire| kinds.iter().map(move |kind| (*wire, *kind, Vec::new())))
        .collect();
    for round in 1..=effort.runs {
        section.begin_round();
        for (wire, kind, samples) in &mut rates {
            let path = Path::up(*kind, *wire, 1)?;
            let rate = tcp(
                path.client(0)?,
                path.server()?,
                SERVER_V4,
                effort.seconds,
                path.folder(),
            )?;
            eprintln!(
                "run {round}: {:<20} {:<28} {:>7.2} Gbit/s",
                wire.name(),
                kind.name(),
                rate / 1e9
            );
            samples.push(rate / 1e9);
        }
    }
    let of = |wire: Wire, kind: Kind| {
        let found = rates.iter().find(|entry| (entry.0, entry.1) == (wire, kind));
        found.map_or(f64::NAN, |entry| median(&entry.2))
    };
    let mut table = Table::new(
        "Gbit/s received",
        &["", "cables", "median", "least", "most", "x strongSwan"],
    );
    let mut bars = Vec::new();
    for (wire, kind, samples) in &rates {
        let (least, most) = range(samples);
        table.row([
            kind.name().to_owned(),
            wire.name().to_owned(),
            format!("{:.2}", median(samples)),
            format!("{least:.2}"),
            format!("{most:.2}"),
            format!("{:.1}", median(samples) / of(*wire, Kind::StrongSwan)),
        ]);
        bars.push(Bar {
            name: format!(
                "{}{}",
                kind.name(),
                if *wire == Wire::Nic { " (NIC)" } else { "" }
            ),
            group: usize::from(*wire == Wire::Nic),
            samples: samples.clone(),
        });
    }
    for wire in WIRES {
        let whole = wire == Wire::Whole;
        let ours = of(wire, Kind::Ours);
        let over = [
            (Kind::StrongSwan, Some(if whole { 12.0 } else { 8.0 })),
            (Kind::BoringTun, whole.then_some(10.0)),
            (Kind::WireGuardGo, None),
            (Kind::OursWithoutCipher, whole.then_some(0.85)),
            (Kind::Plain, None),
        ];
        for (kind, least) in over {
            let what = format!("this concentrator over {}, {}", kind.name(), wire.name());
            section.ratio(what, ours / of(wire, kind), least);
        }
    }
    section.tables.push(table);
    section.plots.push(Plot::Bars {
        title: "TCP through the tunnel, Gbit/s".to_owned(),
        bars,
    });
    section.note(
        "\"Without a cipher\": the very same programs, with the AES-GCM functions of Intel's library replaced in the process by \
         functions that do nothing (ops/rig/no_cipher.c); ESP has no such mode here",
    );
    let mut versions = wireguard::versions();
    versions.extend(
        command(&["dpkg-query", "-W", "strongswan-swanctl"]).map(|text| text.trim().replace('\t', " ")),
    );
    section.note(format!("others: {}", versions.join("; ")));
    Ok(section)
}
