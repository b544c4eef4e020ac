//! What an attacker on the path can do: replay captured traffic to the new owner, double and reorder packets.

use std::time::Duration;

use anyhow::Context as _;

use netem::Profile;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::capture::Capture;
use crate::cluster::clients::{Client, Setting};
use crate::cluster::inner::Twice;
use crate::cluster::node::metric;
use crate::cluster::relay::Relay;
use crate::cluster::scene::Scene;
use crate::cluster::world::{Net, World, node_name, service_address};
use crate::net::Folder;
use crate::process::Process;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "replay",
        expected: "captured ESP is replayed to the new owner: nothing from before the checkpoint is accepted again",
        class: Class::Recovers,
        run: replay,
        long: false,
    },
    Fault {
        name: "duplicates",
        expected: "every packet to a node arrives twice for 5 s: each is accepted once",
        class: Class::Unnoticed,
        run: duplicates,
        long: false,
    },
    Fault {
        name: "reordering",
        expected: "a client whose datagrams are lost (2 %), doubled (10 %) and overtaken (20 %) on their way outlives a takeover",
        class: Class::Killed,
        run: reordering,
        long: false,
    },
];

/// Seconds between two checkpoints in a cluster: what arrived since the last one may be accepted once more.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// Sends the captured datagrams to a service address once more, with the sources they had. Arguments: file, address.
const REPLAY: &str = r#"
import socket, struct, sys, time
data = open(sys.argv[1], "rb").read()
to = socket.inet_aton(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
at, count = 24, 0
while at + 16 <= len(data):
    length = struct.unpack("<I", data[at + 8:at + 12])[0]
    frame = data[at + 16:at + 16 + length]
    at += 16 + length
    if frame[12:14] != b"\x08\x00" or frame[30:34] != to: continue
    packet = bytearray(frame[14:])
    # Between namespaces nobody fills checksums in: say that there is none.
    udp = (packet[0] & 15) * 4
    packet[udp + 6:udp + 8] = b"\0\0"
    s.sendto(bytes(packet), (sys.argv[2], 0))
    count += 1
    if count % 50 == 0: time.sleep(0.002)
print(count)
"#;

fn inside_capture(scene: &Scene, folder: &Folder) -> Result<Capture> {
    Capture::filtered(&scene.world.inside, "eth0", folder, "icmp", false)
}

fn replay(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    // A client whose packets can be told apart inside: pings with numbers of their own.
    let client = random.choose(&scene.clients).context("no client")?;
    let (slot, index) = (client.slot, client.index);
    let node = scene.owner(slot)?;
    let folder = Folder::new("replay")?;
    let host = scene.world.clients.get(index).context("no host")?;
    let inside = inside_capture(scene, &folder)?;
    let port = World::port(Net::Service, node);
    let filter = format!("dst host {} and udp port 4500", service_address(slot));
    let outside = Capture::filtered(&scene.world.switch, &port, &folder, &filter, true)?;
    let mut ping = host.start(
        "ping",
        &["ping", "-n", "-i", "0.05", crate::cluster::world::SERVER],
        &[],
        &folder.join("ping.log"),
    )?;
    std::thread::sleep(Duration::from_secs(4));
    let slots = scene.slots_of(node);
    // The last second before the death has not been checkpointed: that is the gap which may be replayed once.
    scene.node(node)?.kill();
    ping.stop(Duration::from_secs(1));
    let recorded = outside.finish();
    crate::process::wait_for("another owner", Duration::from_secs(5), || {
        Ok(scene.world.holders_of(slot).iter().any(|&n| n != node))
    })?;
    std::thread::sleep(Duration::from_millis(300));
    let owner = scene.owner(slot)?;
    let dropped = |scene: &Scene| metric(&scene.world, owner, "vpn_esp_drops_total").unwrap_or(0.0);
    let before = dropped(scene);
    let script = folder.write("replay.py", REPLAY)?.display().to_string();
    let (file, to) = (recorded.display().to_string(), service_address(slot));
    let sent = scene.world.load.run(&["/usr/bin/python3", &script, &file, &to])?;
    let count: f64 = sent.trim().parse()?;
    let mut after = before;
    let arrived = crate::process::wait_for(
        "the replayed packets to be dropped",
        Duration::from_secs(15),
        || {
            after = dropped(scene);
            Ok(after - before >= count / 2.0)
        },
    );
    let mut twice = Twice::default();
    twice.capture(&inside.finish())?;
    let (requests, again) = twice.counts();
    scene.node(node)?.launch()?;
    let mut hit = Hit::slots(
        slots,
        format!(
            "{} packets replayed to {} after the death of {}: {again} of {requests} echo requests accepted twice, {:.0} packets dropped",
            sent.trim(),
            node_name(owner),
            node_name(node),
            after - before
        ),
    );
    // 20 a second, one interval of checkpoints and what was under way at its ends.
    let bound = usize::try_from(CHECKPOINT.as_secs())? * 20 + 15;
    if again > bound {
        hit.wrong.push(format!(
            "S2: {again} packets were accepted twice, the gap explains {bound}"
        ));
    }
    if arrived.is_err() {
        hit.wrong.push(format!(
            "S2: of {count} replayed packets only {:.0} were counted as dropped",
            after - before
        ));
    }
    if requests < 40 {
        hit.wrong.push(format!(
            "only {requests} requests were seen inside: nothing is proved"
        ));
    }
    Ok(hit)
}

fn duplicates(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let folder = Folder::new("duplicates")?;
    let port = World::port(Net::Service, node);
    let inside = inside_capture(scene, &folder)?;
    // What the bridge sends towards the node is sent to it a second time.
    let pings: Vec<Process> = scene
        .clients
        .iter()
        .filter(|c| slots.contains(&c.slot))
        .filter_map(|c| scene.world.clients.get(c.index))
        .map(|host| {
            host.start(
                "ping",
                &["ping", "-n", "-i", "0.05", crate::cluster::world::SERVER],
                &[],
                &folder.join("ping.log"),
            )
        })
        .collect::<Result<_>>()?;
    let host = scene.world.nodes.get(node).context("a host")?;
    let mac = host.run(&["cat", "/sys/class/net/eth0/address"])?;
    let ports = scene.world.switch.run(&["ls", "/sys/class/net/svc/brif"])?;
    let of_node = |port: &str| (0..scene.nodes.len()).any(|n| port == World::port(Net::Service, n));
    let towards: Vec<_> = ports
        .split_whitespace()
        .filter(|p| !of_node(p))
        .map(|p| format!("\"{p}\""))
        .collect();
    scene.world.switch.run(&[
        "nft",
        &format!(
            "add table netdev twice; add chain netdev twice in {{ type filter hook ingress devices = {{ {} }} priority 0 ; }}; \
             add rule netdev twice in ether daddr {} udp dport 4500 dup to \"{port}\"",
            towards.join(", "),
            mac.trim()
        ),
    ])?;
    std::thread::sleep(Duration::from_secs(5));
    scene.world.switch.run(&["nft", "delete table netdev twice"])?;
    drop(pings);
    let mut twice = Twice::default();
    twice.capture(&inside.finish())?;
    let (requests, again) = twice.counts();
    let mut hit = Hit::slots(
        slots,
        format!(
            "every packet to {} twice for 5 s: {again} of {requests} echo requests accepted twice",
            node_name(node)
        ),
    );
    if again > 0 {
        hit.wrong.push(format!("S2: {again} packets were accepted twice"));
    }
    Ok(hit)
}

/// An address of the load generator's host that nobody else uses.
const RELAY: &str = "192.0.2.39";

fn reordering(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let slot = *slots.first().context("a slot")?;
    // The last client lends its namespace to a client on the bad path.
    let last = scene.clients.pop().context("no client")?;
    let index = last.index;
    drop(last);
    scene.sources.retain(|s| s.name != format!("client{index}"));
    scene.world.load.address("eth0", &format!("{RELAY}/24"))?;
    let profile = Profile {
        loss: 0.02,
        duplicate: 0.1,
        reorder: 0.2,
        reorder_by: Duration::from_millis(30),
        delay: Duration::from_millis(5),
        ..Profile::default()
    };
    let relay = Relay::start(
        &scene.world.load,
        RELAY.parse()?,
        service_address(slot).parse()?,
        profile,
        u64::try_from(random.below(1 << 30))?,
    )?;
    let setting = Setting {
        gateway: Some(RELAY.to_owned()),
        ..Setting::default()
    };
    let client = Client::start(&scene.world, &scene.authority, index, slot, &setting)?;
    client.login()?;
    let before = client.works(&scene.world)?;
    scene.node(node)?.kill();
    std::thread::sleep(Duration::from_millis(2500));
    let after = client.works(&scene.world)?;
    let logins = client.logins();
    scene.node(node)?.launch()?;
    let mut hit = Hit::slots(
        slots,
        format!(
            "{} killed under a client on a bad path; it logged in {logins} times",
            node_name(node)
        ),
    );
    if !before || !after || logins != 1 {
        hit.wrong.push(format!(
            "the client worked before: {before}, after: {after}, logins: {logins}"
        ));
    }
    drop((client, relay));
    scene
        .world
        .load
        .run(&["ip", "addr", "del", &format!("{RELAY}/24"), "dev", "eth0"])?;
    scene.usual_client(index)?;
    scene.mark_again()?;
    Ok(hit)
}
