//! The rig itself: strongSwan at both ends, so that a fault of the rig is not taken for one of the product.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::pki::{Key, Request, Validity};
use rig::swan::Swan;
use rig::world::{GATEWAY_V4, World};

#[test]
fn strongswan_reaches_strongswan_through_the_nat() -> rig::Result<()> {
    let world = World::new(&[])?;
    assert_eq!(
        world.home.ping(GATEWAY_V4, 2, "0.1")?,
        2,
        "no way through the NAT"
    );
    assert_eq!(world.direct.ping(rig::world::GATEWAY_V6, 2, "0.1")?, 2, "no IPv6");
    let folder = rig::net::Folder::new("pki")?;
    let ca = rig::pki::authority(folder.path(), "ca", Key::Ecdsa(256))?;
    let server = rig::pki::issue(
        folder.path(),
        &ca,
        &Request {
            name: "gw",
            key: Key::Ecdsa(256),
            alternative_names: &["gw.example"],
            usages: &["serverAuth"],
            validity: Validity::Valid,
            is_authority: false,
        },
    )?;
    world
        .gateway
        .run(&["ip", "addr", "add", "10.20.0.1/32", "dev", "lo"])?;
    let gateway = Swan::start(&world.gateway, "")?;
    gateway.install("x509", &server.certificate)?;
    gateway.install("private", &server.key)?;
    gateway.load("connections { c { pools = p\n local { auth = pubkey\n certs = gw.cert.pem\n id = gw.example }\n remote { auth = psk }\n children { n { local_ts = 10.20.0.0/24 } } } }\n pools { p { addrs = 10.30.0.0/24 } }\n secrets { ike-1 { secret = \"correct horse\" } }")?;
    let client = Swan::start(&world.home, "")?;
    client.install("x509ca", &ca.certificate)?;
    client.load(&format!("connections {{ c {{ remote_addrs = {GATEWAY_V4}\n vips = 0.0.0.0\n local {{ auth = psk\n id = alice }}\n remote {{ auth = pubkey\n id = gw.example }}\n children {{ n {{ remote_ts = 10.20.0.0/24 }} }} }} }}\n secrets {{ ike-1 {{ secret = \"correct horse\" }} }}"))?;
    client.initiate("n")?;
    assert_eq!(world.home.ping("10.20.0.1", 5, "0.1")?, 5, "{}", client.log());
    Ok(())
}

#[test]
fn the_python_initiator_reaches_strongswan() -> rig::Result<()> {
    let world = World::new(&[])?;
    world
        .gateway
        .run(&["ip", "addr", "add", "10.20.0.2/24", "dev", "lo"])?;
    let gateway = Swan::start(&world.gateway, "")?;
    gateway.load(
        "connections { c { pools = p\n proposals = aes256-sha256-modp2048\n local { auth = psk\n id = gw.example }\n \
         remote { auth = psk }\n children { n { local_ts = 10.20.0.0/24\n esp_proposals = aes256-sha256 } } } }\n \
         pools { p { addrs = 10.30.0.0/24 } }\n secrets { ike-1 { secret = \"correct horse\" } }",
    )?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/initiator.py");
    let mut command = vec![
        "/usr/bin/python3",
        script,
        "--gateway",
        GATEWAY_V4,
        "--local",
        "192.0.2.2",
        "--udp",
    ];
    command.extend([
        "--id",
        "carol@corp.example",
        "--remote-id",
        "gw.example",
        "--psk",
        "correct horse",
    ]);
    command.extend(["--target", "10.20.0.2"]);
    let text = world.direct.run(&command).map_err(|e| e.context(gateway.log()))?;
    assert!(text.contains("echo 5 of 5") && text.contains("deleted"), "{text}");
    Ok(())
}
