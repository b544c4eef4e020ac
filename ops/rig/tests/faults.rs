//! Crashes under traffic: a part that fails comes back, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::{Folder, Host};
use rig::pki::Key;
use rig::process::{Process, wait_for};
use rig::swan::Swan;
use rig::world::SERVER_V4;

struct Ping {
    process: Process,
}

impl Ping {
    fn start(host: &Host, folder: &Folder, name: &str) -> rig::Result<Self> {
        let command = ["ping", "-n", "-D", "-i", "0.02", "-W", "3", SERVER_V4];
        let mut process = host.start("ping", &command, &[], &folder.join(name))?;
        process.expect_output("icmp_seq=5", Duration::from_secs(10))?;
        Ok(Self { process })
    }

    /// The seconds of the longest time without an answer, and the time since the last one.
    fn silence(&self) -> (f64, f64) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a clock")
            .as_secs_f64();
        let times: Vec<f64> = self
            .process
            .output()
            .lines()
            .filter(|l| l.contains("icmp_seq="))
            .filter_map(|l| l.strip_prefix('[')?.split_once(']')?.0.parse().ok())
            .collect();
        let longest = times.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
        (longest, now - times.last().copied().unwrap_or(0.0))
    }
}

/// Two tenants, a client each: the first is the victim, the second the bystander.
struct Scene {
    victim_client: Swan,
    _bystander_client: Swan,
    victim: Ping,
    bystander: Ping,
    victim_session: String,
    gateway: Gateway,
    _logs: Folder,
}

impl Scene {
    fn new() -> rig::Result<Self> {
        // Two workers, so that the bystander may be at the one that stays.
        let settings = Settings {
            fault_injection: true,
            workers: 2,
            ..Settings::default()
        };
        let gateway = Gateway::start(Key::Ecdsa(256), settings)?;
        let folder = Folder::new("faults")?;
        let victim_client = gateway.psk_client(
            &gateway.world.home,
            "acme",
            "alice@corp.example",
            &Options::default(),
        )?;
        victim_client.initiate("net")?;
        let victim_session = gateway.expect_sessions(1)?[0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        // The virtual address says which worker has a session: the bystander must not get the victim's.
        gateway.daemon.apply(
            "pool.yaml",
            "kind: AddressPool\ntenant: globex\nname: v4\nrange: 10.30.0.0/24\nexclusions: [ 10.30.0.1 ]\n",
        )?;
        let bystander_client = gateway.psk_client(
            &gateway.world.direct,
            "globex",
            "bob@corp.example",
            &Options::direct(),
        )?;
        bystander_client.initiate("net")?;
        gateway.expect_sessions(2)?;
        let victim = Ping::start(&gateway.world.home, &folder, "victim.log")?;
        let bystander = Ping::start(&gateway.world.direct, &folder, "bystander.log")?;
        Ok(Self {
            victim_client,
            _bystander_client: bystander_client,
            victim,
            bystander,
            victim_session,
            gateway,
            _logs: folder,
        })
    }

    /// Makes a part panic, and sees that it did.
    fn crash(&self, target: &str, selector: &str) -> rig::Result<()> {
        let panics = || self.gateway.daemon.log().matches("panicked").count();
        let before = panics();
        self.gateway.daemon.vpnctl(&["fault", target, selector])?;
        wait_for(&format!("the panic of {target}"), Duration::from_secs(2), || {
            Ok(panics() > before)
        })
        .map_err(|e| e.context(self.gateway.daemon.log()))
    }

    /// After a fault: both answer again, the bystander without a gap, and nobody has logged in anew.
    fn is_well(&self, what: &str, victim_limit: f64) -> rig::Result<()> {
        std::thread::sleep(Duration::from_millis(1500));
        let (longest, last) = self.victim.silence();
        assert!(
            last < 1.0,
            "{what}: the victim is silent for {last} s\n{}",
            self.gateway.daemon.log()
        );
        assert!(
            longest < victim_limit,
            "{what}: the victim was silent for {longest} s"
        );
        let (longest, last) = self.bystander.silence();
        assert!(
            longest < 0.25 && last < 0.5,
            "{what}: the bystander was silent for {longest} s, {last} s"
        );
        assert_eq!(
            self.victim_client.count_in_log("initiating IKE_SA"),
            1,
            "{what}: a new login"
        );
        assert_eq!(self.gateway.expect_sessions(2)?.len(), 2);
        Ok(())
    }
}

#[test]
fn a_panic_in_each_actor() -> rig::Result<()> {
    let scene = Scene::new()?;
    let session = scene.victim_session.clone();
    for (target, selector) in [
        ("ike_sa", session.as_str()),
        ("child_sa", session.as_str()),
        ("tenant", "acme"),
        ("listener", ""),
        ("replicator", ""),
    ] {
        scene.crash(target, selector)?;
        scene.is_well(target, 1.0)?;
        // It is not only the data path that has come back: the control path answers too.
        scene
            .victim_client
            .control(&["--rekey", "--child", "net"])
            .map_err(|e| e.context(format!("after {target}\n{}", scene.gateway.daemon.log())))?;
        wait_for("the rekey", Duration::from_secs(5), || {
            Ok(scene.victim_client.sas()?.matches("INSTALLED").count() == 1)
        })?;
        scene.is_well(&format!("rekey after {target}"), 1.0)?;
    }
    Ok(())
}

#[test]
fn a_panic_in_a_worker() -> rig::Result<()> {
    let scene = Scene::new()?;
    let sessions = scene.gateway.sessions()?;
    let worker = |tenant: &str| {
        sessions
            .iter()
            .find(|s| s["tenant"] == tenant)
            .map(|s| s["worker"].as_u64().unwrap_or(0))
            .expect("a session")
    };
    let (victim, bystander) = (worker("acme"), worker("globex"));
    assert_ne!(victim, bystander, "both sessions are at one worker");
    scene.crash("worker", &victim.to_string())?;
    std::thread::sleep(Duration::from_millis(1500));
    let (longest, last) = scene.victim.silence();
    assert!(
        longest < 1.0 && last < 0.5,
        "the victim was silent for {longest} s, {last} s"
    );
    let (longest, _) = scene.bystander.silence();
    assert!(
        longest < 0.25,
        "the bystander at the other worker was silent for {longest} s"
    );
    assert_eq!(scene.victim_client.count_in_log("initiating IKE_SA"), 1);
    Ok(())
}

#[test]
fn kill_9_and_restart() -> rig::Result<()> {
    let mut scene = Scene::new()?;
    for _ in 0..2 {
        scene.gateway.daemon.kill();
        scene.gateway.daemon.launch()?;
        wait_for("the pings to go on", Duration::from_secs(5), || {
            Ok(scene.victim.silence().1 < 0.2 && scene.bystander.silence().1 < 0.2)
        })
        .map_err(|e| e.context(scene.gateway.daemon.log()))?;
    }
    assert_eq!(
        scene.victim_client.count_in_log("initiating IKE_SA"),
        1,
        "a new login"
    );
    // Signs of life are in no record, so message IDs are tried until the client answers. Not by RFC 6311: with AES-GCM
    // strongSwan has no IV left for a second answer with message ID zero, and drops the IKE SA.
    let client = &scene.victim_client;
    wait_for("an answer to a sign of life", Duration::from_secs(20), || {
        Ok(client.count_in_log("generating INFORMATIONAL response") >= 1)
    })
    .map_err(|e| e.context(client.log()))?;
    assert_eq!(client.count_in_log("requested MID sync"), 0);
    scene.victim_client.control(&["--rekey", "--ike", "vpn"])?;
    scene.victim_client.control(&["--rekey", "--child", "net"])?;
    std::thread::sleep(Duration::from_millis(500));
    // Between the crash and the end of the restart nobody can be served; after it everybody is, at once.
    for ping in [&scene.victim, &scene.bystander] {
        let (longest, last) = ping.silence();
        assert!(longest < 5.0 && last < 0.5, "silent for {longest} s, {last} s");
    }
    assert_eq!(scene.gateway.expect_sessions(2)?.len(), 2);
    Ok(())
}

#[test]
fn an_orderly_restart() -> rig::Result<()> {
    let mut scene = Scene::new()?;
    scene.gateway.daemon.stop()?;
    scene.gateway.daemon.launch()?;
    wait_for("the pings to go on", Duration::from_secs(5), || {
        Ok(scene.victim.silence().1 < 0.2)
    })?;
    assert_eq!(
        scene.victim_client.count_in_log("initiating IKE_SA"),
        1,
        "a new login"
    );
    Ok(())
}
