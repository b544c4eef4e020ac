//! Which connection a login is for, and why not the others.
//!
//! Hard reasons reject a candidate: disabled, another gateway address, an IDr that is not the gateway's, an
//! identity no pattern fits, another authentication method. Among the rest the narrowest wins:
//!
//! | preference, strongest first | narrower | wider |
//! |---|---|---|
//! | IDr | names exactly this connection's `local_id` or the tenant's `gateway_ids` | none named |
//! | the peer's identity | exact, then a domain | `*` |
//! | pre-shared key | one is there for this identity | none |
//! | authorities | the peer asks for, or comes from, one of this connection's | others |
//! | gateway address | named by the connection or its tenant | any |
//!
//! What is left equal is decided by the names of tenant and connection, and said in the reason.

use std::net::IpAddr;
use std::sync::Arc;

use crate::attempt::{CandidateNote, FailureKind, MAX_LIST};
use crate::identity::{IdPattern, PeerIdentity};
use crate::material::Material;
use crate::model::{Auth, Connection};
use crate::snapshot::{Candidate, Snapshot, View};

/// How a peer authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shared key message integrity code.
    Psk,
    /// Any kind of signature.
    Certificate,
}

/// What is known about a login.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The gateway address the peer called.
    pub local_addr: IpAddr,
    /// The peer's outer address.
    pub remote_addr: IpAddr,
    /// IDi.
    pub peer_id: &'a PeerIdentity,
    /// IDr, when the peer sent one.
    pub wanted_id: Option<&'a PeerIdentity>,
    /// CERTREQ: SHA-1 hashes of the public keys of authorities the peer trusts.
    pub cert_authorities: &'a [Vec<u8>],
    /// Issuers (DER names) of the certificates that the peer sent.
    pub peer_issuers: &'a [Vec<u8>],
    /// How the peer authenticates; `None` when that is not known.
    pub method: Option<Method>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Connections that were looked at, the chosen one first; at most [`MAX_LIST`].
    pub candidates: Vec<CandidateNote>,
    /// The connection to use.
    pub chosen: Option<Arc<Connection>>,
    /// Others that fit too, the best first.
    pub alternatives: Vec<Arc<Connection>>,
    /// Without a chosen one: what is wrong.
    pub failure: Option<FailureKind>,
}

/// A reason to reject a candidate.
struct Rejection {
    kind: FailureKind,
    reason: String,
}

/// How well a candidate fits; compared in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    wanted_id: bool,
    peer_id: u8,
    psk: bool,
    authority: bool,
    local_address: bool,
}

/// Finds the connection of a login.
pub(crate) fn resolve(snapshot: &Snapshot, query: &Query<'_>) -> Resolution {
    let here = snapshot.by_local.get(&query.local_addr).into_iter().flatten();
    let mut fitting: Vec<(Fit, &Candidate)> = Vec::new();
    let mut rejected: Vec<(&Candidate, Rejection)> = Vec::new();
    let listed = here
        .map(|candidate| (candidate, true))
        .chain(snapshot.anywhere.iter().map(|c| (c, false)));
    for (candidate, local_address) in listed {
        match judge(candidate, query, local_address) {
            Ok(fit) => fitting.push((fit, candidate)),
            Err(rejection) => rejected.push((candidate, rejection)),
        }
    }
    let name = |candidate: &Candidate| (candidate.1.tenant.clone(), candidate.1.name.clone());
    fitting.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| name(a.1).cmp(&name(b.1))));

    let best = fitting.first().map(|(fit, _)| *fit);
    let mut candidates = Vec::new();
    for (index, (fit, candidate)) in fitting.iter().enumerate().take(MAX_LIST) {
        let reason = match best {
            _ if index == 0 => chosen_reason(*fit, &fitting),
            Some(best) if best == *fit => "fits as well; the names decided".to_owned(),
            Some(best) => format!("fits, but less narrowly: {}", difference(best, *fit)),
            None => String::new(),
        };
        candidates.push(note(candidate, index == 0, reason));
    }
    for (candidate, rejection) in rejected.iter().take(MAX_LIST.saturating_sub(candidates.len())) {
        candidates.push(note(candidate, false, rejection.reason.clone()));
    }
    if fitting.is_empty() {
        elsewhere(snapshot, query, &mut candidates);
    }
    let failure = fitting.is_empty().then(|| overall(&rejected));
    let mut connections = fitting.into_iter().map(|(_, candidate)| Arc::clone(&candidate.1));
    Resolution {
        candidates,
        chosen: connections.next(),
        alternatives: connections.take(MAX_LIST).collect(),
        failure,
    }
}

fn note((_, connection): &Candidate, chosen: bool, reason: String) -> CandidateNote {
    CandidateNote {
        tenant: connection.tenant.clone(),
        connection: connection.name.clone(),
        chosen,
        reason,
    }
}

/// Connections of other gateway addresses, named only when nothing else fits.
fn elsewhere(snapshot: &Snapshot, query: &Query<'_>, candidates: &mut Vec<CandidateNote>) {
    let mut others: Vec<_> = snapshot
        .by_local
        .iter()
        .filter(|(address, _)| **address != query.local_addr)
        .collect();
    others.sort_unstable_by_key(|(address, _)| **address);
    for (address, list) in others {
        for candidate in list {
            if candidates.len() >= MAX_LIST {
                return;
            }
            let reason = format!("answers on {address}, the peer called {}", query.local_addr);
            candidates.push(note(candidate, false, reason));
        }
    }
}

/// The failure that tells most: a candidate that came further says more than one that was never near.
fn overall(rejected: &[(&Candidate, Rejection)]) -> FailureKind {
    let distance = |kind: FailureKind| {
        let order = [
            FailureKind::NoConnection,
            FailureKind::Disabled,
            FailureKind::AuthMethod,
        ];
        order.iter().position(|other| *other == kind)
    };
    let best = rejected
        .iter()
        .map(|(_, rejection)| rejection.kind)
        .max_by_key(|kind| distance(*kind));
    best.unwrap_or(FailureKind::NoConnection)
}

fn judge((view, connection): &Candidate, query: &Query<'_>, local_address: bool) -> Result<Fit, Rejection> {
    let reject = |kind, reason| Err(Rejection { kind, reason });
    let Some(wanted_id) = wanted_id_fits(view, connection, query) else {
        let wanted = query.wanted_id.map(|id| id.text.as_str()).unwrap_or_default();
        return reject(
            FailureKind::NoConnection,
            format!("the peer asks for \"{wanted}\" (IDr), which it is not"),
        );
    };
    let matching = connection
        .remote_ids
        .iter()
        .filter(|pattern| pattern.matches(query.peer_id));
    let Some(peer_id) = matching.map(IdPattern::specificity).max() else {
        return reject(
            FailureKind::NoConnection,
            format!("no pattern of remote_ids fits \"{}\" (IDi)", query.peer_id.text),
        );
    };
    if view.tenant.disabled {
        return reject(
            FailureKind::Disabled,
            format!("the tenant {} is disabled", view.tenant.name),
        );
    }
    if connection.disabled {
        return reject(FailureKind::Disabled, "it is disabled".to_owned());
    }
    let ours = match connection.auth {
        Auth::Psk { .. } => Method::Psk,
        Auth::Certificate { .. } => Method::Certificate,
    };
    if query.method.is_some_and(|method| method != ours) {
        return reject(
            FailureKind::AuthMethod,
            format!(
                "it wants {}, the peer authenticates otherwise",
                connection.auth.name()
            ),
        );
    }
    Ok(Fit {
        wanted_id,
        peer_id,
        psk: match &connection.auth {
            Auth::Psk { credentials } => view.psks.find(query.peer_id, credentials).is_some(),
            Auth::Certificate { .. } => false,
        },
        authority: authority_fits(view, connection, query),
        local_address,
    })
}

/// `None` when the IDr is another one's; whether it was named and fits.
fn wanted_id_fits(view: &View, connection: &Connection, query: &Query<'_>) -> Option<bool> {
    let Some(wanted) = query
        .wanted_id
        .filter(|wanted| !wanted.data.is_empty() || !wanted.text.is_empty())
    else {
        return Some(false);
    };
    let by_tenant = view
        .tenant
        .gateway_ids
        .iter()
        .any(|pattern| pattern.matches(wanted));
    match &connection.local_id {
        Some(own) if own.matches(wanted) => Some(true),
        Some(_) if by_tenant => Some(true),
        Some(_) => None,
        None if by_tenant => Some(true),
        // Without an identity of its own: the address the peer called, or a name in the certificate.
        None if wanted.address() == Some(query.local_addr) => Some(false),
        None if !view.tenant.gateway_ids.is_empty() => None,
        None => match in_certificate(view, connection, wanted) {
            Some(true) => Some(true),
            Some(false) => None,
            None => Some(false),
        },
    }
}

/// Whether the gateway's certificate holds an identity; `None` without a certificate.
fn in_certificate(view: &View, connection: &Connection, wanted: &PeerIdentity) -> Option<bool> {
    let Auth::Certificate { certificate, .. } = &connection.auth else {
        return None;
    };
    let Material::Key(key) = &**view.materials.get(certificate)? else {
        return None;
    };
    let leaf = key.certificates.first()?;
    let names = leaf.san_dns().iter().chain(leaf.san_email());
    let mut patterns = names.filter_map(|name| name.parse::<IdPattern>().ok());
    let by_name = patterns.any(|pattern| pattern.matches(wanted));
    let by_address = wanted
        .address()
        .is_some_and(|address| leaf.san_ip().contains(&address));
    let by_subject = leaf.subject_dn_der() == wanted.data.as_slice();
    Some(by_name || by_address || by_subject)
}

/// Whether the peer trusts the authority of our certificate, or comes from one that we trust.
fn authority_fits(view: &View, connection: &Connection, query: &Query<'_>) -> bool {
    let Auth::Certificate { certificate, .. } = &connection.auth else {
        return false;
    };
    let trusts = view.anchors.get(&connection.name).is_some_and(|anchors| {
        anchors.certificates().iter().any(|anchor| {
            let subject = anchor.subject_dn_der();
            query
                .peer_issuers
                .iter()
                .any(|issuer| issuer.as_slice() == subject)
        })
    });
    let wanted = |hash: [u8; 20]| {
        query
            .cert_authorities
            .iter()
            .any(|wanted| wanted.as_slice() == hash)
    };
    let Some(Material::Key(key)) = view.materials.get(certificate).map(|material| &**material) else {
        return trusts;
    };
    // The chain that is sent, and the anchors of the tenant: the root is seldom part of the chain.
    let roots = view.materials.values().filter_map(|material| match &**material {
        Material::Authorities(list) => Some(list.iter()),
        Material::Psk { .. } | Material::Key(_) | Material::Unusable(_) => None,
    });
    let issued = roots
        .flatten()
        .filter(|root| key.issuers().any(|issuer| issuer == root.subject_dn_der()));
    trusts
        || key
            .certificates
            .iter()
            .any(|certificate| wanted(certificate.spki_sha1()))
        || issued.into_iter().any(|root| wanted(root.spki_sha1()))
}

/// Names equals of the same tenant only: a tenant's administrator reads this too.
fn chosen_reason(fit: Fit, fitting: &[(Fit, &Candidate)]) -> String {
    let Some((_, (_, chosen))) = fitting.first() else {
        return String::new();
    };
    let tied: Vec<&str> = fitting
        .iter()
        .skip(1)
        .filter(|(other, _)| *other == fit)
        .take(3)
        .map(|(_, (_, other))| {
            if other.tenant == chosen.tenant {
                other.name.as_str()
            } else {
                "one of another tenant"
            }
        })
        .collect();
    if tied.is_empty() {
        "fits best".to_owned()
    } else {
        format!(
            "chosen by name among equals ({}): tell them apart by local_id, local_addresses or remote_ids",
            tied.join(", ")
        )
    }
}

/// The first preference in which the better one is narrower.
fn difference(best: Fit, other: Fit) -> &'static str {
    if best.wanted_id != other.wanted_id {
        "the chosen one is what the peer asks for (IDr)"
    } else if best.peer_id != other.peer_id {
        "the chosen one's pattern for the peer's identity is narrower"
    } else if best.psk != other.psk {
        "it has no pre-shared key for this identity"
    } else if best.authority != other.authority {
        "the chosen one shares an authority with the peer"
    } else {
        "the chosen one is of this gateway address"
    }
}

#[cfg(test)]
mod tests;
