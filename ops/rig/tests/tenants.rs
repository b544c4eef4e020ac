//! Two tenants that look alike from inside reach only their own networks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::{Folder, Host};
use rig::pki::Key;
use std::time::Duration;

#[test]
fn the_same_prefix_and_the_same_user_at_once() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let (home, direct) = (&gateway.world.home, &gateway.world.direct);
    let at_acme = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    let at_globex = gateway.psk_client(direct, "globex", "alice@corp.example", &Options::direct())?;
    at_acme.initiate("net")?;
    at_globex.initiate("net")?;
    let sessions = gateway.expect_sessions(2)?;
    let addresses: Vec<_> = sessions
        .iter()
        .map(|s| s["virtual_addresses"].to_string())
        .collect();
    assert_eq!(
        addresses[0], addresses[1],
        "the pools are alike, so are the first addresses"
    );
    let folder = Folder::new("tenants")?;
    let mut servers = Vec::new();
    for tenant in ["acme", "globex"] {
        let script = format!(
            "import socket\ns = socket.create_server(('10.20.0.2', 7000))\nprint('listening', flush=True)\nwhile True:\n c, _ = s.accept()\n c.sendall(b'{tenant}')\n c.close()\n"
        );
        let path = folder
            .write(&format!("{tenant}.py"), script)?
            .display()
            .to_string();
        let log = folder.join(&format!("{tenant}.log"));
        let mut process =
            gateway
                .world
                .site(tenant)?
                .server
                .start("server", &["/usr/bin/python3", &path], &[], &log)?;
        process.expect_output("listening", Duration::from_secs(10))?;
        servers.push(process);
    }
    assert_eq!(ask(home)?, "acme");
    assert_eq!(ask(direct)?, "globex");
    Ok(())
}

fn ask(host: &Host) -> rig::Result<String> {
    host.run(&[
        "/usr/bin/python3",
        "-c",
        "import socket; print(socket.create_connection(('10.20.0.2', 7000), 10).recv(100).decode(), end='')",
    ])
}

#[test]
fn the_secret_of_one_tenant_opens_nothing_at_the_other() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let options = Options {
        secret: Some(rig::gateway::secret("acme")),
        ..Options::default()
    };
    let client = gateway.psk_client(&gateway.world.home, "globex", "alice@corp.example", &options)?;
    assert!(client.initiate("net").is_err());
    assert!(
        client.log().contains("received AUTHENTICATION_FAILED"),
        "{}",
        client.log()
    );
    assert!(gateway.sessions()?.is_empty());
    Ok(())
}
