//! Failovers at the worst moment for a peer, and tenants that behave badly or go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::clients::{Client, Setting, secret};
use crate::cluster::load::{Source, Users};
use crate::cluster::node::sessions;
use crate::cluster::scene::Scene;
use crate::cluster::world::{LOAD, node_name, service_address};
use crate::daemon::program;
use crate::pki::Key;
use crate::process::{Process, wait_for};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "kill-in-rekey",
        expected: "both sides begin rekeys of IKE SA and child SA, the node is killed in between; one SA pair is left",
        class: Class::Recovers,
        run: kill_in_rekey,
        long: false,
    },
    Fault {
        name: "kill-in-fragmented-auth",
        expected: "a client with an RSA-4096 chain logs in while its node is killed: it gets in, the others keep their tunnels",
        class: Class::Recovers,
        run: kill_in_auth,
        long: false,
    },
    Fault {
        name: "kill-in-half-open",
        expected: "a client has its answer to IKE_SA_INIT when its node is killed: it gets in by its own next try, nothing half-open is left",
        class: Class::Recovers,
        run: kill_in_half_open,
        long: false,
    },
    Fault {
        name: "tenant-deleted-in-takeover",
        expected: "a tenant is deleted while its sessions move: they end within 2 s of the takeover, nobody else's do",
        class: Class::Killed,
        run: tenant_deleted,
        long: false,
    },
    Fault {
        name: "noisy-tenant",
        expected: "a tenant that floods with logins costs the others no packet, also during a failover",
        class: Class::Killed,
        run: noisy_tenant,
        long: false,
    },
    Fault {
        name: "storm",
        expected: "2,000 users log in at once from four addresses, under cookies; established tunnels go on",
        class: Class::Died,
        run: |scene, _| storm(scene, 2000),
        long: false,
    },
    Fault {
        name: "storm-10000",
        expected: "the same with 10,000",
        class: Class::Died,
        run: |scene, _| storm(scene, 10_000),
        long: true,
    },
];

fn kill_in_rekey(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let ids: Vec<String> = sessions(scene.node(node)?)?
        .iter()
        .filter_map(|s| s["id"].as_str().map(str::to_owned))
        .collect();
    for client in scene.clients.iter().filter(|c| slots.contains(&c.slot)) {
        client.swan.begin(&["--rekey", "--child", "net"])?;
        client.swan.begin(&["--rekey", "--ike", "vpn"])?;
    }
    let daemon = scene.node(node)?;
    for (index, id) in ids.iter().enumerate().take(20) {
        let kind: &[&str] = if index % 2 == 0 {
            &["rekey", id]
        } else {
            &["rekey", id, "--ike"]
        };
        let _ = daemon.vpnctl(kind);
    }
    std::thread::sleep(Duration::from_millis(u64::try_from(random.below(60))?));
    scene.node(node)?.kill();
    std::thread::sleep(Duration::from_millis(2500));
    scene.node(node)?.launch()?;
    let mut hit = Hit::slots(
        slots.clone(),
        format!(
            "{} killed while {} sessions were rekeyed from both sides",
            node_name(node),
            ids.len().min(20)
        ),
    );
    // A retransmission may take some seconds; then each client has exactly one SA of each kind.
    for client in scene.clients.iter().filter(|c| slots.contains(&c.slot)) {
        let settled = wait_for("one IKE SA and one child", Duration::from_secs(30), || {
            let sas = client.swan.sas()?;
            let (ike, children) = (
                sas.matches("ESTABLISHED").count(),
                sas.matches("INSTALLED").count(),
            );
            anyhow::ensure!((ike, children) == (1, 1), "{sas}");
            Ok(true)
        });
        if let Err(error) = settled {
            hit.wrong.push(format!("{}: {error:#}", client.identity));
        }
    }
    Ok(hit)
}

fn kill_in_auth(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let slot = *slots.first().context("a slot")?;
    // The last client's namespace is lent to a client with another identity and longer keys.
    let Some(last) = scene.clients.pop() else {
        anyhow::bail!("no client");
    };
    let index = last.index;
    drop(last);
    scene.sources.retain(|s| s.name != format!("client{index}"));
    let setting = Setting {
        certificate: Some(Key::Rsa(4096)),
        charon: "retransmit_timeout = 1.0\n retransmit_base = 1.3\n retransmit_tries = 8".to_owned(),
        extra: "keyingtries = 0".to_owned(),
        ..Setting::default()
    };
    let client = Client::start(&scene.world, &scene.authority, index, slot, &setting)?;
    client
        .swan
        .begin(&["--initiate", "--child", "net", "--timeout", "60"])?;
    std::thread::sleep(Duration::from_millis(u64::try_from(random.below(150))?));
    scene.node(node)?.kill();
    let begin = Instant::now();
    let came_in = wait_for("the login to come through", Duration::from_secs(60), || {
        Ok(client.swan.sas()?.contains("INSTALLED") && client.works(&scene.world)?)
    });
    let took = begin.elapsed();
    scene.node(node)?.launch()?;
    let mut hit = Hit::slots(
        slots,
        format!(
            "{} killed in a fragmented IKE_AUTH; logged in {:.1} s later",
            node_name(node),
            took.as_secs_f64()
        ),
    );
    if let Err(error) = came_in {
        hit.wrong
            .push(format!("{error:#}\n{}", client.swan.sas().unwrap_or_default()));
    }
    drop(client);
    scene.usual_client(index)?;
    scene.mark_again()?;
    Ok(hit)
}

/// IKE SAs of all nodes that are not authenticated.
fn half_open(scene: &Scene) -> Result<u64> {
    let mut sum = 0;
    for daemon in &scene.nodes {
        let status = daemon.query(&["status"])?;
        sum += status["half_open"].as_u64().unwrap_or_default();
    }
    Ok(sum)
}

/// The sessions of a peer on all nodes.
fn sessions_of(scene: &Scene, peer: &str) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for daemon in &scene.nodes {
        let own = sessions(daemon)?.into_iter().filter(|s| s["peer_id"] == peer);
        all.extend(own.filter_map(|s| s["id"].as_str().map(str::to_owned)));
    }
    Ok(all)
}

fn kill_in_half_open(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let slot = *slots.first().context("a slot")?;
    // As in `kill_in_auth`: the last client's namespace is lent to one of another identity; the first one's session stays
    // until it is found dead.
    let index = scene.clients.pop().context("a client")?.index;
    scene.sources.retain(|s| s.name != format!("client{index}"));
    // It gives an IKE SA up after some five seconds, and then begins anew.
    let setting = Setting {
        certificate: Some(Key::Ecdsa(256)),
        charon: "retransmit_timeout = 0.5\n retransmit_base = 1.5\n retransmit_tries = 4".to_owned(),
        extra: "keyingtries = 0".to_owned(),
        ..Setting::default()
    };
    let client = Client::start(&scene.world, &scene.authority, index, slot, &setting)?;
    // Those of its namesake in an earlier fault may not have been found dead yet, or be on another node.
    let before = sessions_of(scene, &client.identity)?;
    let host = scene.world.clients.get(index).context("a host")?;
    // IKE_SA_INIT goes to port 500, and all that follows to 4500, since the client asks for encapsulation.
    host.run(&["nft", "add table inet held; add chain inet held out { type filter hook output priority 0 ; }; add rule inet held out udp dport 4500 drop"])?;
    client
        .swan
        .begin(&["--initiate", "--child", "net", "--timeout", "90"])?;
    let hangs = wait_for("a half-open login", Duration::from_secs(10), || {
        let status = scene.nodes.get(node).context("a node")?.query(&["status"])?;
        Ok(status["half_open"] == 1)
    });
    scene.node(node)?.kill();
    let begin = Instant::now();
    let host = scene.world.clients.get(index).context("a host")?;
    host.run(&["nft", "delete table inet held"])?;
    let came_in = wait_for("the login to come through", Duration::from_secs(30), || {
        Ok(client.swan.sas()?.contains("INSTALLED") && client.works(&scene.world)?)
    });
    let took = begin.elapsed();
    scene.node(node)?.launch()?;
    let mut hit = Hit::slots(
        slots,
        format!(
            "{} killed with a half-open login; logged in {:.1} s later",
            node_name(node),
            took.as_secs_f64()
        ),
    );
    for finding in [hangs, came_in] {
        if let Err(error) = finding {
            hit.wrong
                .push(format!("{error:#}\n{}", client.swan.sas().unwrap_or_default()));
        }
    }
    let own = sessions_of(scene, &client.identity)?.difference(&before).count();
    if own != 1 {
        hit.wrong
            .push(format!("{own} new sessions of {}", client.identity));
    }
    match half_open(scene)? {
        0 => {}
        left => hit.wrong.push(format!("{left} half-open logins are left")),
    }
    drop(client);
    scene.usual_client(index)?;
    scene.mark_again()?;
    Ok(hit)
}

fn temporary(scene: &Scene) -> String {
    let device = "vpn-temp";
    let _ = scene;
    format!(
        "kind: Tenant\nname: temp\nrouting_domain: {{ device: {device}, mtu: 1400 }}\ngateway_ids: [ temp.vpn.example ]\n\
         ---\nkind: AddressPool\ntenant: temp\nname: v4\nrange: 10.66.0.0/16\n\
         ---\nkind: Credential\ntenant: temp\nname: users\ntype: psk\nids: [ \"*@load.example\" ]\nsecret: \"{}\"\n\
         ---\nkind: Connection\ntenant: temp\nname: psk\nlocal_id: temp.vpn.example\nremote_ids: [ \"*@load.example\" ]\nauth: psk\n\
         ike_proposals: [ aes256gcm16-prfsha256-x25519 ]\nesp_proposals: [ aes256gcm16 ]\nlocal_ts: [ 10.97.0.0/24 ]\npools: [ v4 ]\n",
        secret("temp")
    )
}

fn tenant_deleted(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let yaml = temporary(scene);
    scene.node(0)?.apply("temp.yaml", &yaml)?;
    let users = Users {
        users: 60,
        sample: 0,
        tenant: "temp",
        ..Users::default()
    };
    let source = Source::begin_users(&scene.world, &scene.folder, "temp", &users)?;
    let of_temp = |scene: &Scene| -> Result<usize> {
        let mut count = 0;
        for daemon in &scene.nodes {
            let list = sessions(daemon).unwrap_or_default();
            count += list.iter().filter(|s| s["tenant"] == "temp").count();
        }
        Ok(count)
    };
    wait_for("60 sessions of the tenant", Duration::from_secs(20), || {
        Ok(of_temp(scene)? == 60)
    })
    .with_context(|| source.output())?;
    let (node, slots) = victim(scene, random)?;
    let other = (node + 1) % scene.nodes.len();
    scene.node(node)?.kill();
    std::thread::sleep(Duration::from_millis(u64::try_from(random.below(500))?));
    scene.vpnctl(other, &["delete", "tenant", "temp", "--cascade"])?;
    let begin = Instant::now();
    let gone = wait_for("its sessions to end", Duration::from_secs(4), || {
        Ok(of_temp(scene)? == 0)
    });
    let took = begin.elapsed();
    drop(source);
    scene.node(node)?.launch()?;
    std::thread::sleep(Duration::from_secs(2));
    let mut hit = Hit::slots(
        slots,
        format!(
            "tenant deleted while {} died; its sessions ended after {} ms",
            node_name(node),
            took.as_millis()
        ),
    );
    if let Err(error) = gone {
        hit.wrong.push(format!("S12: {error}"));
    }
    if of_temp(scene)? > 0 {
        hit.wrong
            .push("sessions of a deleted tenant came back with the node".to_owned());
    }
    Ok(hit)
}

/// Logs users of a tenant in at the address of a slot, all at once, from the load generator's four addresses.
fn flood(scene: &Scene, tenant: &str, slot: u8, users: u32, name: &str) -> Result<Process> {
    let program = program("loadtest")?.display().to_string();
    let (count, secret, id) = (users.to_string(), secret(tenant), format!("{tenant}.vpn.example"));
    let (locals, gateway) = (LOAD.join(","), service_address(slot));
    let identity = format!("{name}-{{user}}@{{domain}}");
    scene.world.load.start(
        "loadtest",
        &[
            &program,
            "connect",
            "--gateway",
            &gateway,
            "--users",
            &count,
            "--rate",
            "0",
            "--domain",
            "load.example",
            "--id",
            &identity,
            "--remote-id",
            &id,
            "--psk",
            &secret,
            "--local",
            &locals,
            "--remote-ts",
            "10.97.0.0/24",
            "--output",
            "json",
        ],
        &[],
        &scene.folder.join(&format!("{name}.log")),
    )
}

fn noisy_tenant(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let mut noise = flood(scene, "globex", 0, 3000, "noise")?;
    std::thread::sleep(Duration::from_secs(1));
    let (node, slots) = victim(scene, random)?;
    scene.node(node)?.kill();
    std::thread::sleep(Duration::from_millis(2500));
    scene.node(node)?.launch()?;
    noise.stop(Duration::from_secs(3));
    let mut hit = Hit::slots(slots, format!("globex floods, {} killed", node_name(node)));
    hit.spares_others = false;
    let id = scene.owner(0)?;
    let _ = scene.vpnctl(id, &["disconnect", "--all", "--tenant", "globex"]);
    Ok(hit)
}

fn storm(scene: &mut Scene, users: u32) -> Result<Hit> {
    let begin = Instant::now();
    let slots = scene.world.plan.slots;
    // A slot has addresses for its share of the pool only: users are spread as a name with several addresses spreads them.
    let each = users.div_ceil(u32::from(slots));
    let floods: Result<Vec<Process>> = (0..slots)
        .map(|slot| flood(scene, "globex", slot, each, &format!("storm{slot}")))
        .collect();
    let mut floods = floods?;
    let patience = Duration::from_secs(60 + u64::from(users) / 50);
    let mut wrong = Vec::new();
    for process in &mut floods {
        if !process.wait(patience)?.success() {
            let output = process.output();
            let end: String = output
                .chars()
                .skip(output.chars().count().saturating_sub(600))
                .collect();
            wrong.push(format!("the storm was not served: {end}"));
        }
    }
    let took = begin.elapsed();
    let mut hit = Hit::all(
        scene,
        format!(
            "{} users at once from {} addresses: all in after {:.1} s",
            each * u32::from(slots),
            LOAD.len(),
            took.as_secs_f64()
        ),
    );
    hit.wrong = wrong;
    for node in 0..scene.nodes.len() {
        let _ = scene.vpnctl(node, &["disconnect", "--all", "--tenant", "globex"]);
    }
    Ok(hit)
}
