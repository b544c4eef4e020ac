//! tshark reads a whole session with the key log and finds nothing malformed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::capture::{Capture, tshark};
use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::pki::{Key, Validity};
use rig::world::SERVER_V4;

#[test]
fn a_whole_session_is_readable() -> rig::Result<()> {
    let settings = Settings {
        key_log: true,
        ..Settings::default()
    };
    // RSA-4096, so that IKE_AUTH comes in fragments.
    let gateway = Gateway::start(Key::Rsa(4096), settings)?;
    let capture = Capture::start(&gateway.world.gateway, "eth0", &gateway.pki)?;
    let user = gateway.user("alice", Key::Rsa(4096), Validity::Valid)?;
    let home = &gateway.world.home;
    let client =
        gateway.certificate_client(home, "acme", &user, "alice@corp.example", &Options::default())?;
    client.initiate("net")?;
    assert_eq!(home.ping(SERVER_V4, 5, "0.05")?, 5);
    client.control(&["--rekey", "--child", "net"])?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(home.ping(SERVER_V4, 5, "0.05")?, 5);
    client.control(&["--rekey", "--ike", "vpn"])?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    client.control(&["--terminate", "--ike", "vpn"])?;
    gateway.expect_sessions(0)?;
    let file = capture.finish();
    let keys = gateway.daemon.keys();

    let malformed = tshark(&file, Some(&keys), &["-Y", "_ws.malformed"])?;
    assert_eq!(malformed, "", "malformed");
    let fields =
        |filter: &str, field: &str| tshark(&file, Some(&keys), &["-Y", filter, "-T", "fields", "-e", field]);
    let exchanges = fields("isakmp", "isakmp.exchangetype")?;
    for (number, name) in [
        ("34", "IKE_SA_INIT"),
        ("35", "IKE_AUTH"),
        ("36", "CREATE_CHILD_SA"),
        ("37", "INFORMATIONAL"),
    ] {
        assert!(exchanges.lines().any(|l| l == number), "no {name} in the capture");
    }
    // Fragments were sent, and what lay inside the encrypted payloads was read.
    assert!(
        !fields(
            "isakmp.nextpayload == 53 || isakmp.typepayload == 53",
            "frame.number"
        )?
        .is_empty(),
        "no fragments"
    );
    assert!(
        !fields("isakmp.auth.method", "isakmp.auth.method")?.is_empty(),
        "no AUTH payload was decrypted"
    );
    assert!(
        !fields("isakmp.delete.protoid", "isakmp.delete.protoid")?.is_empty(),
        "no DELETE was decrypted"
    );
    // Inner packets of both directions and of the SAs before and after the rekey.
    let inner = fields("esp && icmp", "ip.src")?;
    assert!(
        inner.lines().count() >= 18,
        "only {} decrypted echo packets:\n{inner}",
        inner.lines().count()
    );
    let wrong = tshark(&file, Some(&keys), &["-Y", "esp.icv_bad == 1"])?;
    assert_eq!(wrong, "", "bad ICVs");
    Ok(())
}

#[test]
fn nothing_is_logged_without_being_asked() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let client = gateway.psk_client(
        &gateway.world.home,
        "acme",
        "alice@corp.example",
        &Options::default(),
    )?;
    client.initiate("net")?;
    assert!(!gateway.daemon.keys().exists());
    let log = gateway.daemon.log();
    assert!(
        !log.contains(&rig::gateway::secret("acme")),
        "the pre-shared key is in the log"
    );
    Ok(())
}
