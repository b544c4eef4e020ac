//! Sending a client to another gateway out of a session.

use super::*;

fn other() -> GatewayId {
    "gw2.example.org".parse().unwrap()
}

#[test]
fn a_client_is_told_where_to_go_and_given_time() {
    //= rfc5685#section-5
    //= type=test
    //# The gateway MUST NOT include any nonce data in the REDIRECT payload, since it is a gateway- initiated redirect and is protected by the IKEv2 security association.
    let mut pair = Pair::new();
    pair.command_b(Command::Redirect { to: other() });
    let request = pair.reach_a();
    assert!(request.is_only(NotifyType::REDIRECT));
    let Payload::Notify(notify) = &request.payloads[0] else {
        panic!("{request:?}");
    };
    assert_eq!(notify.data[..2], [3, 15]);
    assert_eq!(notify.data[2..], *b"gw2.example.org");
    assert_eq!(pair.a.redirected, Some(other()));
    assert!(pair.reach_b().is_empty());
    // The client deletes the SA when it has another one: nothing is left to do.
    pair.pass(Duration::from_secs(20));
    assert_eq!(pair.b.closed, None);
    pair.command_a(Command::Close);
    pair.settle();
    assert_eq!(pair.b.closed, Some(CloseReason::DeletedByPeer));
}

#[test]
fn a_client_that_does_not_go_is_told_to() {
    //= rfc5685#section-5
    //= type=test
    //# The gateway MAY also decide to delete the security associations without any signaling from the client, again by sending an INFORMATIONAL message with a DELETE payload; however, it should allow sufficient time for the client to set up the required security associations with the new security gateway.
    let mut pair = Pair::new();
    pair.command_b(Command::Redirect { to: other() });
    pair.settle();
    // The deadline survives a restart.
    pair.b.restart(pair.now, 2, Timing::default());
    pair.pass(Duration::from_secs(29));
    assert_eq!(pair.b.closed, None);
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.b.closed, Some(CloseReason::Redirected));
    assert_eq!(pair.a.closed, Some(CloseReason::DeletedByPeer));
}

#[test]
fn nobody_is_redirected_who_cannot_be() {
    //= rfc5685#section-10
    //= type=test
    //# But this protocol is asymmetric, meaning that only the original responder can redirect the original initiator to another server.
    let mut pair = Pair::new();
    assert!(pair.b.core.supports_redirect() && !pair.a.core.supports_redirect());
    pair.command_a(Command::Redirect { to: other() });
    assert!(pair.a.out.is_empty());
    assert_eq!(pair.a.warnings.len(), 1);
    pair.b.core.redirectable = false;
    pair.command_b(Command::Redirect { to: other() });
    assert!(pair.b.out.is_empty());
    assert_eq!(pair.b.warnings.len(), 1);
    // A client's REDIRECT is not followed either.
    pair.command_a(Command::CheckLiveness);
    let letter = pair.hold_a();
    let forged = pair.a.reseal(&letter, &[Payload::Notify(other().redirect(&[]))]);
    pair.give_b(&forged);
    assert_eq!(pair.b.redirected, None);
    assert!(pair.hold_b().seen.unwrap().is_empty());
}
