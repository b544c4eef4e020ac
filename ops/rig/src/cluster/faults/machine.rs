//! The machine below: its disk, its descriptors, its clock.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::scene::Scene;
use crate::cluster::world::node_name;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "disk-full",
        expected: "the node's own disk takes nothing more for 5 s: sessions go on, the node stays up",
        class: Class::Unnoticed,
        run: disk_full,
        long: false,
    },
    Fault {
        name: "descriptors",
        expected: "no file descriptor is to be had for 5 s: sessions go on, the node stays up",
        class: Class::Unnoticed,
        run: descriptors,
        long: false,
    },
    Fault {
        name: "clock",
        expected: "a node comes back with a boot clock that is a day ahead (a time namespace): nothing that it left is misjudged",
        class: Class::Died,
        run: clock,
        long: false,
    },
];

/// Starts a node again with its state on a small disk of its own (a tmpfs in the daemon's mount namespace), fills that up,
/// and takes the filling away.
fn disk_full(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, _) = victim(scene, random)?;
    let state = scene.node(node)?.folder().join("state");
    let script = format!(
        "cp -a {0} {0}.copy && mount -t tmpfs -o size=8m,mode=0700 tmpfs {0} && cp -a {0}.copy/. {0}/ && rm -rf {0}.copy && exec \"$@\"",
        state.display()
    );
    let daemon = scene.node(node)?;
    daemon.stop()?;
    daemon.wrap(&["sh", "-c", &script, "sh"]);
    daemon.launch()?;
    let pid = daemon.id().context("it runs")?;
    scene.world.expect_served(Duration::from_secs(10))?;
    scene.give_slot(node)?;
    scene.expect_flows(Duration::from_secs(20))?;
    scene.mark("fault")?;
    let slots = scene.slots_of(node);
    let filling = std::path::PathBuf::from(format!("/proc/{pid}/root{}/filling", state.display()));
    let mut file = std::fs::File::create(&filling)?;
    let mut octets = 0;
    while file.write_all(&[0; 4096]).is_ok() {
        octets += 4096;
        anyhow::ensure!(octets < 64 << 20, "the disk is larger than it should be");
    }
    drop(file);
    std::thread::sleep(Duration::from_secs(5));
    let mut hit = Hit::slots(
        slots,
        format!(
            "disk of {} full ({octets} octets of filling) for 5 s",
            node_name(node)
        ),
    );
    std::fs::remove_file(&filling)?;
    std::thread::sleep(Duration::from_secs(1));
    let silences = scene.since("fault")?;
    if silences.new_logins > 0 {
        hit.wrong.push("a new login".to_owned());
    }
    let daemon = scene.node(node)?;
    if !daemon.is_running() {
        hit.wrong.push(format!("{} has ended", node_name(node)));
    }
    // Back to the real disk; what the small one had is gone, as with a disk that was replaced.
    daemon.wrap(&[]);
    daemon.stop()?;
    daemon.launch()?;
    Ok(hit)
}

fn descriptors(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let daemon = scene.node(node)?;
    let pid = daemon.id().context("it runs")?.to_string();
    let used = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let before = crate::process::run(&[
        "prlimit",
        "--pid",
        &pid,
        "--nofile",
        "--raw",
        "--noheadings",
        "--output",
        "SOFT,HARD",
    ])?;
    let mut words = before.split_whitespace();
    let (soft, hard) = (words.next().context("a limit")?, words.next().context("a limit")?);
    crate::process::run(&["prlimit", "--pid", &pid, &format!("--nofile={used}:{hard}")])?;
    std::thread::sleep(Duration::from_secs(5));
    crate::process::run(&["prlimit", "--pid", &pid, &format!("--nofile={soft}:{hard}")])?;
    let mut hit = Hit::slots(
        slots,
        format!(
            "{} may open nothing beyond its {used} files for 5 s",
            node_name(node)
        ),
    );
    if !scene.node(node)?.is_running() {
        hit.wrong.push(format!("{} has ended", node_name(node)));
    }
    Ok(hit)
}

fn clock(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let daemon = scene.node(node)?;
    daemon.kill();
    daemon.wrap(&[
        "unshare",
        "-T",
        "--boottime",
        "86400",
        "--monotonic",
        "86400",
        "--",
    ]);
    std::thread::sleep(Duration::from_secs(2));
    daemon.launch()?;
    std::thread::sleep(Duration::from_secs(3));
    scene.give_slot(node)?;
    std::thread::sleep(Duration::from_secs(2));
    // And back again: as a machine that was started anew, whose boot clock begins at nothing.
    let daemon = scene.node(node)?;
    daemon.kill();
    daemon.wrap(&[]);
    std::thread::sleep(Duration::from_secs(2));
    daemon.launch()?;
    let mut hit = Hit::slots(
        slots,
        format!("boot clock of {} a day ahead and back", node_name(node)),
    );
    hit.spares_others = false;
    Ok(hit)
}
