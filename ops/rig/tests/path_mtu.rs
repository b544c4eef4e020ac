//! A strongSwan client behind a router with a narrow link: what the gateway learns of the way, what it tells the servers,
//! and that everything flows, over IPv4 and IPv6, with ICMP and without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::Command;
use std::time::Duration;

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options, secret};
use rig::net::Host;
use rig::pki::Key;
use rig::process::wait_for;
use rig::swan::Swan;
use rig::world::GATEWAY_V6;

/// The MTU of the link to the client.
const NARROW: u64 = 1300;

/// A gateway whose client is behind the narrow link and logged in.
struct Scene {
    client: Swan,
    gateway: Gateway,
    virtual_v4: String,
    virtual_v6: String,
}

impl Scene {
    fn new(df: &str, over_v6: bool) -> rig::Result<Self> {
        let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
        let df = if df.is_empty() {
            String::new()
        } else {
            format!("df: {df}\n")
        };
        gateway.daemon.apply(
            "narrow.yaml",
            &format!(
                "kind: Connection\ntenant: acme\nname: narrow\nlocal_id: acme.vpn.example\nremote_ids: [ \"*@narrow.example\" ]\n\
                 auth: psk\nlocal_ts: [ 10.20.0.0/24, \"fd20::/64\" ]\npools: [ v4, v6 ]\nesp_proposals: [ aes256gcm16 ]\n{df}\
                 ---\nkind: Credential\ntenant: acme\nname: narrow\ntype: psk\nids: [ \"*@narrow.example\" ]\nsecret: \"{}\"\n",
                secret("acme")
            ),
        )?;
        let narrow = NARROW.to_string();
        let world = &gateway.world;
        world
            .inet
            .run(&["ip", "link", "set", "to-direct", "mtu", &narrow])?;
        world.direct.run(&["ip", "link", "set", "eth0", "mtu", &narrow])?;
        let mut options = Options::direct();
        if over_v6 {
            options.gateway = GATEWAY_V6.to_owned();
        }
        let client = gateway.psk_client(&world.direct, "acme", "alice@narrow.example", &options)?;
        client.initiate("net")?;
        let session = gateway.expect_sessions(1)?.remove(0);
        let addresses = session["virtual_addresses"].as_array().unwrap().clone();
        let of = |is_v6: bool| {
            let mut texts = addresses.iter().filter_map(|a| a.as_str());
            texts.find(|a| a.contains(':') == is_v6).unwrap().to_owned()
        };
        let (virtual_v4, virtual_v6) = (of(false), of(true));
        Ok(Self {
            client,
            gateway,
            virtual_v4,
            virtual_v6,
        })
    }

    fn server(&self) -> &Host {
        &self.gateway.world.site("acme").unwrap().server
    }

    /// Lets the router keep to itself what it could say of packets that are too big.
    fn silence(&self) -> rig::Result<()> {
        let rules = "add table inet hush; add chain inet hush out { type filter hook output priority 0 ; }; \
                     add rule inet hush out icmp type destination-unreachable drop; \
                     add rule inet hush out icmpv6 type packet-too-big drop";
        self.gateway.world.inet.run(&["nft", rules]).map(drop)
    }

    /// What the gateway has learned: outer MTU and largest inner packet.
    fn learned(&self) -> rig::Result<(u64, u64)> {
        let child = &self.gateway.sessions()?[0]["children"][0];
        let number = |name: &str| child[name].as_u64().unwrap_or(0);
        Ok((number("path_mtu"), number("inner_mtu")))
    }

    fn expect_learned(&self, expected: (u64, u64)) -> rig::Result<()> {
        wait_for("the path MTU", Duration::from_secs(10), || {
            Ok(self.learned()? == expected)
        })
    }

    /// Pings the client from the server with so many octets of payload, three times; DF is set. The answers, and what was said.
    fn ping(&self, to: &str, payload: u64) -> rig::Result<(u32, String)> {
        // What the kernel has learned for itself would hide what it is told.
        let server = self.server();
        server.run(&["ip", "-4", "route", "flush", "cache"])?;
        server.run(&["ip", "-6", "route", "flush", "cache"])?;
        let payload = payload.to_string();
        let out = Command::new("ip")
            .args(["netns", "exec", server.name(), "ping", "-n", "-M", "do"])
            .args(["-c", "3", "-i", "0.2", "-W", "1", "-s", &payload, to])
            .output()?;
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((rig::net::received(&text).unwrap_or(0), text))
    }

    /// 4 MiB by TCP from the server to the client: true if they arrive whole.
    fn download(&self, address: &str) -> rig::Result<bool> {
        let folder = rig::net::Folder::new("download")?;
        let script = folder.write("serve.py", SERVE)?.display().to_string();
        let server = self.server();
        let mut process = server.start(
            "server",
            &["/usr/bin/python3", &script, address],
            &[],
            &folder.join("log"),
        )?;
        process.expect_output("listening", Duration::from_secs(10))?;
        let fetch = folder.write("fetch.py", FETCH)?.display().to_string();
        let direct = &self.gateway.world.direct;
        let command = ["timeout", "40", "/usr/bin/python3", &fetch, address];
        Ok(direct.run(&command).is_ok_and(|said| said.trim() == "whole"))
    }

    fn counter(&self, name: &str) -> rig::Result<u64> {
        let status = self.gateway.daemon.query(&["status"])?;
        Ok(status["counters"][name].as_u64().unwrap_or(0))
    }

    fn context(&self) -> String {
        format!(
            "{}\n{}",
            self.client.sas().unwrap_or_default(),
            self.gateway.daemon.vpnctl(&["status"]).unwrap_or_default()
        )
    }
}

const SERVE: &str = r#"
import socket, sys
s = socket.create_server((sys.argv[1], 7100), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
c, _ = s.accept()
c.sendall(bytes(i * 7 % 251 for i in range(4 << 20)))
c.close()
"#;

const FETCH: &str = r#"
import socket, sys
c = socket.create_connection((sys.argv[1], 7100), 20)
c.settimeout(20)
back = b""
while True:
    part = c.recv(65536)
    if not part: break
    back += part
print("whole" if back == bytes(i * 7 % 251 for i in range(4 << 20)) else "broken")
"#;

const SERVER_V4: &str = rig::world::SERVER_V4;
const SERVER_V6: &str = rig::world::SERVER_V6;

//= rfc4301#section-8.2.1
//= type=test
//# Case 1: Original (cleartext) packet is IPv4 and has the DF bit set.  The implementation SHOULD discard the packet and send a
//# PMTU ICMP message.
#[test]
fn with_df_the_mtu_is_learned_and_told_exactly() -> rig::Result<()> {
    let scene = Scene::new("copy", false)?;
    assert_eq!(scene.learned()?, (0, 0));
    // TCP begins with segments that are too big for the link, and adapts.
    assert!(scene.download(SERVER_V4)?, "{}", scene.context());
    // AES-GCM in UDP over IPv4 takes 62 octets of 1300.
    scene.expect_learned((NARROW, 1238))?;
    // 28 octets are those of IPv4 and ICMP.
    let (answers, said) = scene.ping(&scene.virtual_v4, 1238 - 28)?;
    assert_eq!(answers, 3, "{said}\n{}", scene.context());
    let (answers, said) = scene.ping(&scene.virtual_v4, 1239 - 28)?;
    assert_eq!(answers, 0);
    assert!(said.contains("mtu = 1238") || said.contains("mtu=1238"), "{said}");
    // IPv6 inside is told the same; 48 octets are those of IPv6 and ICMPv6. Below 1280 packets pass, fragmented outside.
    let (answers, said) = scene.ping(&scene.virtual_v6, 1280 - 48)?;
    assert_eq!(answers, 3, "{said}");
    let (answers, said) = scene.ping(&scene.virtual_v6, 1281 - 48)?;
    assert!(answers == 0 && said.contains("mtu=1280"), "{said}");
    wait_for("the counters", Duration::from_secs(5), || {
        Ok(scene.counter("path_learned")? > 0 && scene.counter("path_cut_outside")? >= 3)
    })?;
    assert!(scene.counter("path_icmp_sent")? > 0);
    // A child SA that follows knows it from the beginning.
    scene.client.control(&["--rekey", "--child", "net"])?;
    wait_for("the new child SA", Duration::from_secs(10), || {
        let sessions = scene.gateway.sessions()?;
        let children = sessions[0]["children"].as_array().cloned().unwrap_or_default();
        Ok(children.len() == 1 && children[0]["rekeys"] == 1)
    })?;
    assert_eq!(scene.ping(&scene.virtual_v4, 1238 - 28)?.0, 3);
    scene.expect_learned((NARROW, 1238))
}

#[test]
fn over_ipv6_the_mtu_is_learned_whatever_the_policy() -> rig::Result<()> {
    let scene = Scene::new("", true)?;
    assert!(scene.download(SERVER_V6)?, "{}", scene.context());
    scene.expect_learned((NARROW, 1218))?;
    assert!(scene.download(SERVER_V4)?, "{}", scene.context());
    assert_eq!(scene.ping(&scene.virtual_v4, 1218 - 28)?.0, 3);
    let (answers, said) = scene.ping(&scene.virtual_v4, 1219 - 28)?;
    assert!(
        answers == 0 && (said.contains("mtu = 1218") || said.contains("mtu=1218")),
        "{said}"
    );
    // The smallest MTU of IPv6 does not fit: the gateway fragments outside, the client puts together.
    let (answers, said) = scene.ping(&scene.virtual_v6, 1280 - 48)?;
    assert_eq!(answers, 3, "{said}\n{}", scene.context());
    let (answers, said) = scene.ping(&scene.virtual_v6, 1281 - 48)?;
    assert!(answers == 0 && said.contains("mtu=1280"), "{said}");
    Ok(())
}

//= rfc4301#section-8.1
//= type=test
//# This means that it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy from inner
//# header) for each SA.
#[test]
fn where_icmp_is_lost_everything_passes_with_df_clear_and_only_with_it() -> rig::Result<()> {
    // Clear is the default.
    let scene = Scene::new("", false)?;
    scene.silence()?;
    assert!(scene.download(SERVER_V4)?, "{}", scene.context());
    // The router fragments, and the client puts together.
    assert_eq!(scene.ping(&scene.virtual_v4, 1400 - 28)?.0, 3);
    assert_eq!(scene.ping(&scene.virtual_v6, 1400 - 48)?.0, 3);
    assert_eq!(scene.learned()?, (0, 0));
    drop(scene);
    let scene = Scene::new("set", false)?;
    scene.silence()?;
    assert_eq!(scene.ping(&scene.virtual_v4, 1238 - 28)?.0, 3);
    assert_eq!(scene.ping(&scene.virtual_v4, 1239 - 28)?.0, 0, "a black hole");
    Ok(())
}
