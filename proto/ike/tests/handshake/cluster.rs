//! What a cluster needs of the set-up: redirection to another gateway, message IDs that can be synchronized, records of other
//! versions.

use ike::wire::{Message, Notify, NotifyType, Payload, Payloads};
use ike::{CloseReason, Event, GatewayId, IkeSa, Phase, RestoreError, Role, Snapshot};

use crate::pair::{GATEWAY, Pair, Setup};

fn redirecting(to: &str) -> Setup {
    let mut setup = Setup::psk();
    setup.init.redirect = Some(to.parse().unwrap());
    setup.config.redirect = true;
    setup
}

fn redirected(pair: &Pair) -> Vec<GatewayId> {
    let to = |event: &Event| match event {
        Event::Redirected { to } => Some(to.clone()),
        _ => None,
    };
    pair.initiator.events.iter().filter_map(to).collect()
}

fn message(bytes: &[u8]) -> Message {
    Message::decode(bytes).unwrap()
}

#[test]
fn a_client_that_says_so_is_redirected_before_anything_is_made_for_it() {
    //= rfc5685#section-3
    //= type=test
    //# The notification includes information about the selected VPN gateway and the nonce data from the Ni payload in the IKE_SA_INIT request.
    //= rfc5685#section-3
    //= type=test
    //# Note that when the IKE_SA_INIT response includes the REDIRECT notification, the exchange does not result in the creation of an IKE_SA and the responder Security Parameter Index (SPI) will be zero.
    //= rfc5685#section-9.2
    //= type=test
    //# The 'Nonce Data' field is present in the REDIRECT payload only when the REDIRECT payload is sent in the IKE_SA_INIT response message.
    for (to, kind, octets) in [
        ("192.0.2.77", 1, vec![192, 0, 2, 77]),
        (
            "2001:db8::77",
            2,
            "2001:db8::77"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
                .to_vec(),
        ),
        ("gw2.example.org", 3, b"gw2.example.org".to_vec()),
    ] {
        let pair = redirecting(to).run();
        assert_eq!(redirected(&pair), [to.parse().unwrap()]);
        assert!(!pair.initiator.has_failed() && !pair.responder.has_failed());
        assert_eq!(pair.initiator.sa.phase(), Phase::Closed);
        assert_eq!(pair.responder.sa.phase(), Phase::Closed);
        assert!(pair.responder.events.iter().any(|event| matches!(
            event,
            Event::Closed {
                reason: CloseReason::Redirected
            }
        )));
        let request = message(&pair.initiator.sent[0].bytes);
        let answer = message(&pair.responder.sent[0].bytes);
        assert!(answer.header.spi_r.is_zero());
        assert_eq!(answer.payloads.len(), 1);
        let data = &answer.notify(NotifyType::REDIRECT).unwrap().data;
        let mut expected = vec![kind, u8::try_from(octets.len()).unwrap()];
        expected.extend(octets);
        expected.extend(request.nonce().unwrap());
        assert_eq!(*data, expected);
        assert!(pair.responder.steps().contains(&"redirect") && !pair.responder.steps().contains(&"dh"));
    }
}

#[test]
fn others_are_served_here() {
    //= rfc5685#section-3
    //= type=test
    //# If the IKE_SA_INIT request did not indicate support for the redirect mechanism, the responder MUST NOT send the REDIRECT payload to the VPN client.
    let mut setup = redirecting("192.0.2.77");
    setup.config.redirect = false;
    let mut pair = setup.run();
    pair.assert_up();
    assert!(!pair.responder.sa.supports_redirect());
    // So is one who was sent, from there or from a third gateway: it is not passed around.
    for from in ["192.0.2.78", "192.0.2.77"] {
        let mut setup = redirecting("192.0.2.77");
        setup.config.redirected_from = Some(from.parse().unwrap());
        pair = setup.run();
        pair.assert_up();
        assert!(pair.responder.sa.supports_redirect());
    }
    //= rfc5685#section-3
    //= type=test
    //# In the IKE_SA_INIT exchange with the new VPN gateway, the client MUST include the REDIRECTED_FROM payload (see Section 9.3).
    let request = message(&pair.initiator.sent[0].bytes);
    let from = request.notify(NotifyType::REDIRECTED_FROM).unwrap();
    assert_eq!(from.data, [1, 4, 192, 0, 2, 77]);
    // A gateway that redirects nobody remembers who could be.
    let mut setup = Setup::psk();
    setup.config.redirect = true;
    let pair = setup.run();
    pair.assert_up();
    assert!(pair.responder.sa.supports_redirect() && !pair.initiator.sa.supports_redirect());
}

#[test]
fn a_redirect_with_another_nonce_is_nobodys_word() {
    //= rfc5685#section-3
    //= type=test
    //# If the values do not match, the client MUST silently discard the response (and keep waiting for another response).
    let mut setup = Setup::psk();
    setup.config.redirect = true;
    let mut pair = setup.pair();
    pair.start();
    let request = message(&pair.initiator.sent[0].bytes);
    let to: GatewayId = "203.0.113.66".parse().unwrap();
    let nonce = request.nonce().unwrap().to_vec();
    let mut wrong = nonce.clone();
    wrong[0] ^= 1;
    for nonce in [Vec::new(), wrong, nonce[..31].to_vec()] {
        let bytes = Message::new(
            request.header.answer(),
            vec![Payload::Notify(to.redirect(&nonce))],
        )
        .encode()
        .unwrap();
        let input = ike::Input::Datagram {
            local: pair.initiator.sa.local(),
            remote: GATEWAY.parse().unwrap(),
            bytes,
        };
        let now = pair.now;
        assert!(pair.initiator.handle(now, input).is_empty());
    }
    assert_eq!(redirected(&pair), []);
    pair.run();
    pair.assert_up();
}

#[test]
fn names_of_gateways_are_plain() {
    for text in ["", "a b", "gw\n", "gw/../x", "\u{e4}.example"] {
        text.parse::<GatewayId>().unwrap_err();
    }
    for text in ["192.0.2.1", "2001:db8::1", "gw-2.example.org"] {
        assert_eq!(text.parse::<GatewayId>().unwrap().to_string(), text);
    }
    for data in [
        vec![],
        vec![1, 4, 1, 2, 3],
        vec![1, 3, 1, 2, 3],
        vec![2, 4, 1, 2, 3, 4],
        vec![3, 0],
        vec![3, 2, b'a', b'\n'],
        vec![4, 1, 1],
        vec![1, 4, 1, 2, 3, 4, 0xee],
    ] {
        let notify = Notify::with_data(NotifyType::REDIRECT, data.clone());
        assert_eq!(GatewayId::of_redirect(&notify), None, "{data:?}");
    }
}

#[test]
fn message_ids_can_be_synchronized_if_both_say_so() {
    //= rfc6311#section-5
    //= type=test
    //# When negotiating these capabilities, the responder MUST NOT assert support of a capability unless such support was asserted by the initiator.
    for says in [true, false] {
        let mut setup = Setup::psk();
        setup.config.message_id_sync = says;
        let pair = setup.run();
        pair.assert_up();
        for side in [&pair.initiator, &pair.responder] {
            let core = side.sa.established().unwrap();
            assert_eq!(core.supports_message_id_sync(), says);
        }
    }
}

#[test]
fn a_record_says_which_version_it_has() {
    let mut pair = Setup::psk().run();
    let snapshot = pair.responder.sa.snapshot(pair.now).unwrap();
    let mut octets = postcard::to_stdvec(&snapshot).unwrap();
    assert_eq!(octets[0], 3);
    postcard::from_bytes::<Snapshot>(&octets).unwrap();
    octets[0] = 1;
    let older: Snapshot = postcard::from_bytes(&octets).unwrap();
    let context = Setup::psk().context(&pair.responder.spis, 9);
    let refused = IkeSa::restore(pair.now, context, older.clone(), std::time::Duration::ZERO, 9);
    assert_eq!(refused.unwrap_err(), RestoreError::Version(1));
    postcard::to_stdvec(&older).unwrap_err();
    let json: Snapshot = serde_json::from_str("[7, {\"more\": 1}]").unwrap();
    let context = Setup::psk().context(&pair.responder.spis, 9);
    let refused = IkeSa::restore(pair.now, context, json, std::time::Duration::ZERO, 9).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the record has version 7, this software reads version 3"
    );
    // What is asked of a core that is not up, or told.
    assert_eq!(Payloads(&[]).notify(NotifyType::REDIRECT), None);
    let now = pair.now;
    let sent = pair
        .initiator
        .handle(now, ike::Input::Command(ike::Command::Close));
    pair.post(Role::Initiator, sent);
    pair.run();
    assert_eq!(pair.responder.sa.message_ids(), ike::MessageIds::default());
    pair.responder.sa.taken_over(now, None);
    assert_eq!(pair.responder.sa.deadline(), None);
}
