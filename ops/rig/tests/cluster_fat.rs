//! One peer with a child SA for each of its workers (RFC 9611) loses its node: every child SA is carried on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use rig::cluster::clients::secret;
use rig::cluster::node::{self, Options};
use rig::cluster::scene::Scene;
use rig::cluster::world::{Plan, SERVER, service_address};
use rig::daemon::program;
use rig::process::{Process, wait_for};

/// Streams of the peer, spread over its child SAs by their flow.
const STREAMS: usize = 8;
/// Seconds for which they run.
const SECONDS: &str = "8";

fn peer(scene: &Scene) -> rig::Result<Process> {
    let (program, gateway, psk) = (program("loadtest")?, service_address(0), secret("acme"));
    let program = program.display().to_string();
    #[rustfmt::skip]
    let command = [
        program.as_str(), "tunnel", "--gateway", &gateway, "--id", "site@load.example", "--remote-id", "acme.vpn.example",
        "--psk", &psk, "--tun", "vpn1", "--ike", "aes256gcm16-prfsha384-ecp384", "--remote-ts", "10.97.0.0/24",
        "--workers", "2",
    ];
    let log = scene.folder.join("peer.log");
    let mut peer = scene.world.load.start("peer", &command, &[], &log)?;
    peer.expect_output("tunnel up", Duration::from_secs(20))?;
    Ok(peer)
}

/// The peer's session as its node has it.
#[derive(Debug)]
struct Session {
    /// The same for as long as there is no new login.
    id: String,
    /// Place, worker and packets in of each child SA, sorted.
    children: Vec<(String, u64, u64)>,
}

impl Session {
    fn places(&self) -> Vec<&str> {
        self.children.iter().map(|(place, ..)| place.as_str()).collect()
    }
}

/// The only session of a node, once it has two child SAs.
fn session(scene: &Scene, index: usize) -> rig::Result<Option<Session>> {
    let sessions = node::sessions(scene.nodes.get(index).unwrap())?;
    let [session] = sessions.as_slice() else {
        return Ok(None);
    };
    // 64-bit numbers are strings in JSON.
    let number = |value: &serde_json::Value| -> u64 {
        let text = value.as_str().map(|text| text.parse().unwrap());
        text.or_else(|| value.as_u64()).unwrap_or(0)
    };
    let children = session["children"].as_array().into_iter().flatten();
    let mut children: Vec<_> = children
        .map(|child| {
            let place = child["resource"].as_str().unwrap_or_default().to_owned();
            (place, number(&child["worker"]), number(&child["packets_in"]))
        })
        .collect();
    children.sort();
    let id = session["id"].as_str().unwrap().to_owned();
    Ok((children.len() == 2).then_some(Session { id, children }))
}

/// The streams of a report that brought something in its last two seconds.
fn alive_at_the_end(report: &serde_json::Value) -> usize {
    let intervals = report["intervals"].as_array().unwrap();
    let last = &intervals[intervals.len() - 2..];
    (0..STREAMS)
        .filter(|stream| {
            last.iter()
                .any(|part| part["streams"][*stream]["bytes"].as_f64().unwrap_or(0.0) > 0.0)
        })
        .count()
}

#[test]
fn a_fat_peer_outlives_its_node() -> rig::Result<()> {
    let plan = Plan {
        clients: 0,
        ..Plan::default()
    };
    let options = Options {
        workers: 2,
        damping_secs: 1,
        ..Options::default()
    };
    let mut scene = Scene::start(&plan, &options)?;
    let mut site = peer(&scene)?;
    let owner = scene.owner(0)?;
    wait_for("two child SAs", Duration::from_secs(20), || {
        Ok(session(&scene, owner)?.is_some())
    })
    .map_err(|error| error.context(site.output()).context(scene.logs()))?;
    let before = session(&scene, owner)?.unwrap();
    assert_ne!(before.children[0].1, before.children[1].1, "{before:?}");

    let inside = scene.folder.join("inside.log");
    std::fs::write(&inside, "")?;
    let serve = ["iperf3", "--forceflush", "-s", "-1", "-B", SERVER];
    let mut listener = scene.world.inside.start("iperf3", &serve, &[], &inside)?;
    listener.expect_output("listening", Duration::from_secs(10))?;
    let text = scene.folder.join("streams.json");
    let streams = STREAMS.to_string();
    // What it sends itself: acknowledged by the server, so that both directions pass.
    let send = [
        "iperf3", "-c", SERVER, "-t", SECONDS, "-P", &streams, "-J", "-b", "2M",
    ];
    let mut traffic = scene.world.load.start("iperf3", &send, &[], &text)?;
    std::thread::sleep(Duration::from_secs(2));
    scene.node(owner)?.kill();

    let status = traffic.wait(Duration::from_secs(30))?;
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&text)?)?;
    assert!(status.success(), "{report}");
    assert_eq!(alive_at_the_end(&report), STREAMS, "{report}");

    let heirs = (0..plan.nodes).filter(|index| *index != owner);
    let after = heirs
        .filter_map(|index| session(&scene, index).unwrap())
        .next()
        .expect("a node that carries both child SAs on");
    assert_eq!(after.id, before.id, "no new login");
    assert_eq!(after.places(), before.places());
    assert_ne!(after.children[0].1, after.children[1].1, "{after:?}");
    assert!(
        after.children.iter().all(|(.., packets)| *packets > 0),
        "{after:?}"
    );
    site.stop(Duration::from_secs(5));
    Ok(())
}
