//! Logins that must fail: the client gets the right notify, the operator the reason in words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::pki::{Key, Validity, authority};
use rig::swan::Swan;

/// The client is refused with `notify`, and the newest attempt's texts hold each of `words`.
fn refused(gateway: &Gateway, client: &Swan, notify: &str, words: &[&str]) -> rig::Result<()> {
    assert!(client.initiate("net").is_err(), "the login succeeded");
    assert!(
        client.log().contains(&format!("received {notify}")),
        "no {notify}:\n{}",
        client.log()
    );
    let attempts = gateway.attempts()?;
    let newest = attempts.first().expect("an attempt record");
    let text = newest.to_string().to_lowercase();
    for word in words {
        assert!(
            text.contains(word),
            "{word:?} is not in the attempt record {newest:#}"
        );
    }
    assert!(gateway.sessions()?.is_empty());
    Ok(())
}

#[test]
fn a_wrong_or_unknown_secret() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    let wrong = Options {
        secret: Some("not the secret".to_owned()),
        ..Options::default()
    };
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &wrong)?;
    refused(
        &gateway,
        &client,
        "AUTHENTICATION_FAILED",
        &["alice@corp.example", "pre-shared key"],
    )?;
    drop(client);
    let client = gateway.psk_client(home, "acme", "mallory@elsewhere.example", &Options::default())?;
    refused(
        &gateway,
        &client,
        "AUTHENTICATION_FAILED",
        &["mallory@elsewhere.example", "identity"],
    )
}

#[test]
fn bad_certificates() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    for (name, validity, word) in [
        ("old", Validity::Expired, "expired"),
        ("early", Validity::Future, "is not valid for another"),
    ] {
        let user = gateway.user(name, Key::Ecdsa(256), validity)?;
        let identity = format!("{name}@corp.example");
        let client = gateway.certificate_client(home, "acme", &user, &identity, &Options::default())?;
        refused(&gateway, &client, "AUTHENTICATION_FAILED", &[&identity, word])?;
    }
    let other = authority(gateway.pki.path(), "stranger authority", Key::Ecdsa(256))?;
    let user = gateway.issue(
        &other,
        "stranger",
        Key::Ecdsa(256),
        &["stranger@corp.example"],
        &["clientAuth"],
        Validity::Valid,
    )?;
    let client =
        gateway.certificate_client(home, "acme", &user, "stranger@corp.example", &Options::default())?;
    refused(
        &gateway,
        &client,
        "AUTHENTICATION_FAILED",
        &["stranger@corp.example", "stranger authority"],
    )
}

#[test]
fn no_common_proposal() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    let options = Options {
        proposals: "aes192-sha512-ecp521".to_owned(),
        ..Options::default()
    };
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &options)?;
    refused(&gateway, &client, "NO_PROPOSAL_CHOSEN", &["aes-cbc-192"])
}
