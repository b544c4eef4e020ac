//! A real strongSwan client logs in, behind the NAT and without it, with every kind of credential, and reaches its server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::Host;
use rig::pki::{Key, Validity};
use rig::swan::Swan;
use rig::world::{GATEWAY_V6, SERVER_V4, SERVER_V6};

/// Brings the tunnel up, passes IPv4, IPv6 and TCP through it, and takes it down again.
fn use_tunnel(gateway: &Gateway, host: &Host, client: &Swan) -> rig::Result<()> {
    if let Err(error) = client.initiate("net") {
        anyhow::bail!(
            "{error}\nclient:\n{}\ngateway:\n{}",
            client.log(),
            gateway.daemon.log()
        );
    }
    assert_eq!(gateway.expect_sessions(1)?.len(), 1);
    let answered = host.ping(SERVER_V4, 5, "0.05")?;
    assert_eq!(answered, 5, "IPv4: {}\n{}", client.sas()?, gateway.daemon.log());
    let answered = host.ping(SERVER_V6, 5, "0.05")?;
    assert_eq!(answered, 5, "IPv6: {}\n{}", client.sas()?, gateway.daemon.log());
    transfer(gateway, host)?;
    client.control(&["--terminate", "--ike", "vpn"])?;
    gateway.expect_sessions(0)?;
    Ok(())
}

/// 8 MiB by TCP each way, compared octet by octet through their digest.
fn transfer(gateway: &Gateway, host: &Host) -> rig::Result<()> {
    let server = &gateway.world.site("acme")?.server;
    let folder = rig::net::Folder::new("transfer")?;
    let script = folder.write("serve.py", SERVE)?;
    let mut process = server.start(
        "server",
        &["/usr/bin/python3", &script.display().to_string()],
        &[],
        &folder.join("server.log"),
    )?;
    process.expect_output("listening", std::time::Duration::from_secs(10))?;
    let client = folder.write("fetch.py", FETCH)?;
    let answer = host.run(&["timeout", "60", "/usr/bin/python3", &client.display().to_string()])?;
    assert_eq!(answer.trim(), "same");
    Ok(())
}

const SERVE: &str = r#"
import socket
s = socket.create_server(("10.20.0.2", 7000))
print("listening", flush=True)
c, _ = s.accept()
n = 8 << 20
data = b""
while len(data) < n:
    part = c.recv(65536)
    if not part: break
    data += part
c.sendall(data)
c.close()
"#;

const FETCH: &str = r#"
import os, socket, threading
c = socket.create_connection(("10.20.0.2", 7000), 20)
data = os.urandom(8 << 20)
c.sendall(data)
back = b""
while len(back) < len(data):
    part = c.recv(65536)
    if not part: break
    back += part
print("same" if back == data else "different")
"#;

fn certificates(key: Key) -> rig::Result<()> {
    let gateway = Gateway::start(key, Settings::default())?;
    let user = gateway.user("alice", key, Validity::Valid)?;
    let home = &gateway.world.home;
    let client =
        gateway.certificate_client(home, "acme", &user, "alice@corp.example", &Options::default())?;
    use_tunnel(&gateway, home, &client)?;
    drop(client);
    let direct = &gateway.world.direct;
    let client =
        gateway.certificate_client(direct, "acme", &user, "alice@corp.example", &Options::direct())?;
    use_tunnel(&gateway, direct, &client)
}

#[test]
fn with_a_pre_shared_key() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    use_tunnel(&gateway, home, &client)?;
    drop(client);
    let direct = &gateway.world.direct;
    let client = gateway.psk_client(direct, "acme", "alice@corp.example", &Options::direct())?;
    use_tunnel(&gateway, direct, &client)
}

#[test]
fn with_rsa_2048() -> rig::Result<()> {
    certificates(Key::Rsa(2048))
}

#[test]
fn with_an_rsa_4096_chain_in_fragments() -> rig::Result<()> {
    certificates(Key::Rsa(4096))
}

#[test]
fn with_ecdsa_p256() -> rig::Result<()> {
    certificates(Key::Ecdsa(256))
}

#[test]
fn with_ecdsa_p384() -> rig::Result<()> {
    certificates(Key::Ecdsa(384))
}

#[test]
fn with_ed25519() -> rig::Result<()> {
    certificates(Key::Ed25519)
}

#[test]
fn over_ipv6() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let direct = &gateway.world.direct;
    let options = Options {
        gateway: GATEWAY_V6.to_owned(),
        ..Options::direct()
    };
    let client = gateway.psk_client(direct, "acme", "alice@corp.example", &options)?;
    use_tunnel(&gateway, direct, &client)
}

/// Every suite that both sides know, one login each.
#[test]
fn with_every_suite() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    for (ike, esp) in [
        ("aes128gcm16-prfsha256-x25519", "chacha20poly1305"),
        ("aes256-sha384-modp4096", "aes128-sha1"),
        ("aes128ctr-sha256-ecp256", "aes256ctr-sha512"),
        ("aes256-sha256-modp2048", "aes128gcm16"),
    ] {
        let options = Options {
            proposals: ike.to_owned(),
            esp_proposals: esp.to_owned(),
            ..Options::default()
        };
        let client = gateway.psk_client(home, "acme", "alice@corp.example", &options)?;
        use_tunnel(&gateway, home, &client).map_err(|e| e.context(format!("{ike} / {esp}")))?;
    }
    Ok(())
}
