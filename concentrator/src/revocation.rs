//! Sessions whose tenant, connection or key is gone: they end within a second, whatever their peers say.

use std::sync::Arc;

use ike::Identity;
use ike::wire::IdType;
use tenants::{Auth, Connection};

use crate::actors::Dismiss;
use crate::decide;
use crate::node::Node;
use crate::recovery;
use crate::session::Session;
use crate::slot::Slot;

/// Ends what must not stay. To be called after every change of the configuration.
pub fn look(node: &Arc<Node>) {
    for session in node.sessions.page(None, usize::MAX) {
        judge(node, &session);
    }
}

/// The same for the sessions of one slot, after it was taken over.
pub fn look_at(node: &Arc<Node>, slot: &Slot) {
    for session in &slot.sessions {
        judge(node, &session);
    }
}

fn judge(node: &Arc<Node>, session: &Arc<Session>) {
    if stays(node, session) {
        return;
    }
    session.update(|standing| standing.state = "closing");
    node.sessions.changed(session);
    match session.addr.load_full().filter(|addr| addr.connected()) {
        // Bounded: by the changes of the configuration.
        Some(addr) => addr.do_send(Dismiss::Revoked),
        // Its actor is being made again: not for this session.
        None => recovery::abandon(node, session.facts.id, "revoked"),
    }
}

fn stays(node: &Node, session: &Session) -> bool {
    let facts = &session.facts;
    let tenant = node.registry.tenant(&facts.tenant);
    let connection = node.registry.connection(&facts.tenant, &facts.connection);
    match (tenant, connection) {
        (Some(tenant), Some(connection)) => {
            !tenant.disabled && !connection.disabled && has_key(node, &connection, &facts.peer_id)
        }
        _ => false,
    }
}

/// Whether the pre-shared key of a user is still there. An identity whose text does not say all of it (a distinguished
/// name) is not judged; nor is a user with a certificate.
fn has_key(node: &Node, connection: &Connection, peer_id: &str) -> bool {
    if !matches!(connection.auth, Auth::Psk { .. }) {
        return true;
    }
    let identity = match peer_id.parse::<Identity>() {
        Ok(identity) if identity.kind != IdType::DER_ASN1_DN && identity.to_string() == peer_id => identity,
        Ok(_) | Err(_) => return true,
    };
    // A name and a mail address look alike in text: the session may have been of either kind.
    let namesake = match identity.kind {
        IdType::FQDN => Some(Identity::email(peer_id)),
        IdType::RFC822_ADDR => Some(Identity::fqdn(peer_id)),
        _ => None,
    };
    [Some(identity), namesake].iter().flatten().any(|identity| {
        node.registry
            .psk(connection, &decide::identity(identity))
            .is_some()
    })
}
