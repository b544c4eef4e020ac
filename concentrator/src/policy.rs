//! From a connection to what a core may negotiate: pure functions over the registry's model.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crypto::cert::ChainError;
use crypto::{Random as _, SystemRandom};
use dashmap::DashMap;
use esp::tunnel::DfRule;
use ike::auth::{AuthFailure, AuthJob};
use ike::wire::proposal::{ChildProposal, IkeProposal, parse_child_list, parse_ike_list};
use ike::{ChildPolicy, Identity, InitPolicy, Lifetime, RekeyPolicy};
use ip::Selector;
use tenants::model::{Connection, Df, RekeyPolicy as WhoRekeys, Tenant};
use tenants::proposal::{ProposalCheck, ProposalError};
use tenants::{FailureKind, Registry};

/// What is accepted at a local address from a peer that is not known: the union over the connections that are
/// reachable there, the strongest proposal first as each connection has them.
#[must_use]
pub fn init(registry: &Registry, local: IpAddr) -> InitPolicy {
    let mut proposals: Vec<IkeProposal> = Vec::new();
    let mut certreq = Vec::new();
    for connection in connections_at(registry, local) {
        for proposal in ike_proposals(&connection) {
            if !proposals.contains(&proposal) {
                proposals.push(proposal);
            }
        }
        for hash in registry.anchors(&connection).spki_sha1s() {
            if !certreq.contains(&hash) {
                certreq.push(hash);
            }
        }
    }
    if proposals.is_empty() {
        proposals = IkeProposal::defaults();
    }
    InitPolicy {
        certreq,
        ..InitPolicy::new(proposals)
    }
}

/// Connections that answer at a local address.
fn connections_at(registry: &Registry, local: IpAddr) -> Vec<Arc<Connection>> {
    let mut found = Vec::new();
    for tenant in registry.tenants().into_iter().filter(|tenant| !tenant.disabled) {
        for connection in connections(registry, &tenant.name) {
            let own = &connection.local_addresses;
            let addresses = if own.is_empty() {
                &tenant.local_addresses
            } else {
                own
            };
            if !connection.disabled && (addresses.is_empty() || addresses.contains(&local)) {
                found.push(connection);
            }
        }
    }
    found
}

/// The connections of a tenant.
#[must_use]
pub fn connections(registry: &Registry, tenant: &str) -> Vec<Arc<Connection>> {
    let state = registry.tenant_state(tenant);
    state
        .iter()
        .flat_map(|state| state.connections.values())
        .map(|(connection, _)| Arc::clone(connection))
        .collect()
}

/// What becomes of the DF bit of a session's outer packets: as its connection says, else as its tenant.
#[must_use]
pub fn df(registry: &Registry, tenant: &str, connection: &str) -> DfRule {
    let of_connection = registry
        .connection(tenant, connection)
        .and_then(|connection| connection.df);
    let df = of_connection.or_else(|| Some(registry.tenant(tenant)?.routing_domain.df));
    match df.unwrap_or_default() {
        Df::Clear => DfRule::Clear,
        Df::Set => DfRule::Set,
        Df::Copy => DfRule::Copy,
    }
}

/// The IKE proposals of a connection.
#[must_use]
pub fn ike_proposals(connection: &Connection) -> Vec<IkeProposal> {
    let parsed: Vec<IkeProposal> = connection
        .ike_proposals
        .iter()
        .filter_map(|text| parse_ike_list(text).ok())
        .flatten()
        .collect();
    if parsed.is_empty() {
        IkeProposal::defaults()
    } else {
        parsed
    }
}

/// The ESP proposals of a connection.
#[must_use]
pub fn child_proposals(connection: &Connection) -> Vec<ChildProposal> {
    let parsed: Vec<ChildProposal> = connection
        .esp_proposals
        .iter()
        .filter_map(|text| parse_child_list(text).ok())
        .flatten()
        .collect();
    if parsed.is_empty() {
        ChildProposal::defaults()
    } else {
        parsed
    }
}

/// What child SAs of a peer may be.
#[must_use]
pub fn child(
    connection: &Connection,
    tenant: &Tenant,
    addresses: &[IpAddr],
    remote: IpAddr,
    (worker, workers): (u8, u8),
) -> ChildPolicy {
    let ts_remote = if !connection.remote_ts.is_empty() {
        connection.remote_ts.clone()
    } else if addresses.is_empty() {
        vec![Selector::host(remote)]
    } else {
        addresses.iter().copied().map(Selector::host).collect()
    };
    let lifetimes = &connection.lifetimes;
    let mut lifetime = spread(lifetimes.child(), lifetimes.rekey_margin());
    lifetime.hard_octets = lifetimes.child_octets;
    lifetime.soft_octets = lifetimes.child_octets.map(|octets| octets / 8 * 7);
    ChildPolicy {
        proposals: child_proposals(connection),
        ts_local: connection.local_ts.clone(),
        ts_remote,
        lifetime,
        replay_window: connection.replay_window,
        worker,
        resources: resources(worker, workers, connection.per_resource_sas.count(workers)),
        rekey: match connection.rekey_policy {
            WhoRekeys::Initiate => RekeyPolicy::AtSoftLimit,
            WhoRekeys::LastResort => RekeyPolicy::BeforeHardLimit,
            WhoRekeys::Never => RekeyPolicy::Never,
        },
        max_children: u16::try_from(tenant.limits.max_children).unwrap_or(u16::MAX),
    }
}

/// The workers of `count` further child SAs with the same selectors, in turn from the one behind the peer's own, which has
/// the first child SA.
fn resources(worker: u8, workers: u8, count: u8) -> Vec<u8> {
    let workers = u16::from(workers.max(1));
    (1..=u16::from(count))
        .filter_map(|step| u8::try_from((u16::from(worker) + step) % workers).ok())
        .collect()
}

/// The lifetime of an IKE SA.
#[must_use]
pub fn ike_lifetime(connection: &Connection) -> Lifetime {
    spread(connection.lifetimes.ike(), connection.lifetimes.rekey_margin())
}

/// A soft limit before the hard one, earlier by a random part of the margin.
//= rfc7296#section-2.8
//# To reduce the probability of this happening, the timing of rekeying requests SHOULD be jittered (delayed by a random amount of time after the need for rekeying is noticed).
fn spread(hard: Duration, margin: Duration) -> Lifetime {
    let margin = margin.min(hard / 2);
    let jitter = margin.mul_f64(f64::from(SystemRandom.u32()) / f64::from(u32::MAX) / 4.0);
    Lifetime {
        soft: Some(hard.saturating_sub(margin) + jitter),
        hard: Some(hard),
        ..Lifetime::default()
    }
}

/// The ESP worker of a peer: where the kernel delivers the packets for its virtual address.
#[must_use]
pub fn worker(connection: &Connection, addresses: &[IpAddr], remote: IpAddr, workers: u8) -> u8 {
    let inner = addresses
        .first()
        .copied()
        .or_else(|| connection.remote_ts.first().map(Selector::start))
        .unwrap_or(remote);
    dataplane::worker_for(inner, workers)
}

/// Who we say we are: as configured, or as the peer wants us, or as our certificate has it, or our address.
#[must_use]
pub fn local_id(connection: &Connection, job: &AuthJob, certificate: Option<&[u8]>) -> Identity {
    if let Some(id) = connection
        .local_id
        .as_ref()
        .and_then(|pattern| pattern.to_string().parse().ok())
    {
        return id;
    }
    if let Some(leaf) = certificate.and_then(|der| crypto::cert::Certificate::from_der(der).ok()) {
        if let Some(wanted) = job
            .wanted_local_id
            .as_ref()
            .filter(|wanted| ike::auth::names(&leaf, wanted))
        {
            return wanted.clone();
        }
        return Identity::dn(leaf.subject_dn_der());
    }
    job.wanted_local_id
        .clone()
        .unwrap_or_else(|| Identity::address(job.local.ip()))
}

/// The operator's word for a failure.
#[must_use]
pub fn failure_kind(failure: &AuthFailure) -> FailureKind {
    match failure {
        AuthFailure::EapWanted | AuthFailure::Method { .. } => FailureKind::AuthMethod,
        AuthFailure::WrongKey(_) | AuthFailure::EmptyKey => FailureKind::PskMismatch,
        AuthFailure::Chain { error, .. } => match error {
            ChainError::Expired { .. } => FailureKind::CertificateExpired,
            ChainError::NotYetValid { .. } => FailureKind::CertificateNotYetValid,
            ChainError::UnknownIssuer { .. } => FailureKind::CertificateUntrusted,
            ChainError::MissingEku { .. } | ChainError::KeyUsage { .. } => FailureKind::CertificateUsage,
            ChainError::BadSignature { .. }
            | ChainError::NotACa { .. }
            | ChainError::PathTooLong
            | ChainError::WeakKey { .. }
            | ChainError::UnsupportedKey { .. }
            | ChainError::WeakSignature { .. }
            | ChainError::NameConstraint { .. }
            | ChainError::CriticalExtension { .. }
            | ChainError::Malformed
            | ChainError::Other { .. } => FailureKind::CertificateOther,
        },
        AuthFailure::NameMismatch { .. } => FailureKind::CertificateName,
        AuthFailure::NoCertificate | AuthFailure::BadCertificate { .. } => FailureKind::CertificateOther,
        AuthFailure::KeyKind { .. }
        | AuthFailure::Algorithm(_)
        | AuthFailure::HashNotOffered(_)
        | AuthFailure::Truncated
        | AuthFailure::Signature(_) => FailureKind::Signature,
        AuthFailure::NoCommonHash(_) | AuthFailure::Sign(_) => FailureKind::LocalCredential,
    }
}

/// What is accepted before a peer is known, by local address; made again when the registry has changed.
#[derive(Default)]
pub struct Policies {
    /// Bounded by the local addresses.
    by_address: DashMap<IpAddr, Arc<InitPolicy>>,
}

impl Policies {
    /// The policy at a local address.
    #[must_use]
    pub fn at(&self, registry: &Registry, local: IpAddr) -> Arc<InitPolicy> {
        if let Some(found) = self.by_address.get(&local) {
            return Arc::clone(&found);
        }
        let policy = Arc::new(init(registry, local));
        self.by_address.insert(local, Arc::clone(&policy));
        policy
    }

    /// The registry has changed.
    pub fn forget(&self) {
        self.by_address.clear();
    }
}

/// Decides whether proposal texts are usable: by the same parser that reads them at a login.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proposals;

impl ProposalCheck for Proposals {
    fn ike(&self, text: &str) -> Result<(), ProposalError> {
        parse_ike_list(text).map(|_| ()).map_err(|error| ProposalError {
            reason: error.to_string(),
        })
    }

    fn esp(&self, text: &str) -> Result<(), ProposalError> {
        parse_child_list(text).map(|_| ()).map_err(|error| ProposalError {
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use tenants::model::{Auth, Lifetimes, Limits, RoutingDomain, UserLimit};

    use super::*;

    fn connection() -> Connection {
        Connection {
            tenant: "acme".into(),
            name: "users".into(),
            description: String::new(),
            disabled: false,
            local_addresses: vec![],
            local_id: None,
            remote_ids: vec![],
            auth: Auth::Psk { credentials: vec![] },
            ike_proposals: vec![],
            esp_proposals: vec!["aes128-sha256-modp2048".into()],
            local_ts: vec![Selector::prefix("10.0.0.0/8".parse().unwrap())],
            remote_ts: vec![],
            pools: vec![],
            dns: vec![],
            split_subnets: vec![],
            lifetimes: Lifetimes {
                ike_secs: 14_400,
                child_secs: 3_600,
                child_octets: Some(8_000),
                rekey_margin_secs: 360,
            },
            dpd_secs: Some(30),
            replay_window: 1_024,
            rekey_policy: WhoRekeys::LastResort,
            mobike: false,
            per_resource_sas: tenants::model::PerResourceSas::Off,
            df: None,
        }
    }

    fn tenant() -> Tenant {
        Tenant {
            name: "acme".into(),
            description: String::new(),
            disabled: false,
            routing_domain: RoutingDomain {
                netns: None,
                device: "tun0".into(),
                mtu: 1_400,
                df: tenants::model::Df::Clear,
                addresses: vec![],
            },
            limits: Limits {
                max_sessions: 1,
                max_half_open: 1,
                max_sessions_per_user: 1,
                user_limit: UserLimit::Keep,
                max_children: 100_000,
                rates: Default::default(),
            },
            local_addresses: vec![],
            gateway_ids: vec![],
            trust_anchors: vec![],
            allow_weak_algorithms: false,
        }
    }

    #[test]
    fn a_rekey_begins_within_the_margin_and_never_at_one_moment_for_all() {
        let times: Vec<Duration> = (0..50)
            .map(|_| ike_lifetime(&connection()).soft.unwrap())
            .collect();
        let margin = Duration::from_secs(360);
        for time in &times {
            let before = Duration::from_secs(14_400) - *time;
            assert!(before <= margin && before >= margin * 3 / 4, "{before:?}");
        }
        assert!(times.iter().any(|time| *time != times[0]), "jittered");
    }

    #[test]
    fn a_user_may_send_from_its_own_addresses_alone() {
        let remote = "198.51.100.7".parse().unwrap();
        let addresses = ["10.77.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
        let policy = child(&connection(), &tenant(), &addresses, remote, (3, 4));
        assert_eq!(policy.ts_remote, addresses.map(Selector::host));
        assert_eq!((policy.worker, policy.rekey), (3, RekeyPolicy::BeforeHardLimit));
        assert_eq!(
            (policy.lifetime.soft_octets, policy.lifetime.hard_octets),
            (Some(7_000), Some(8_000))
        );
        assert_eq!(policy.max_children, u16::MAX, "cut to what the core can count");
        assert_eq!(
            policy.proposals,
            parse_child_list("aes128-sha256-modp2048").unwrap()
        );
        // Without a virtual address it is the outer one, and a site's networks are its own.
        assert_eq!(
            child(&connection(), &tenant(), &[], remote, (0, 1)).ts_remote,
            vec![Selector::host(remote)]
        );
        let site = Connection {
            remote_ts: vec![Selector::prefix("10.9.0.0/16".parse().unwrap())],
            ..connection()
        };
        assert_eq!(
            child(&site, &tenant(), &[], remote, (0, 1)).ts_remote,
            site.remote_ts
        );
    }

    #[test]
    fn further_child_sas_begin_at_the_worker_behind_the_peers_own() {
        use tenants::model::PerResourceSas::{Auto, Number, Off};
        let of = |setting, place| {
            let site = Connection {
                per_resource_sas: setting,
                ..connection()
            };
            child(&site, &tenant(), &[], "198.51.100.7".parse().unwrap(), place).resources
        };
        assert_eq!(of(Off, (1, 4)), Vec::<u8>::new());
        assert_eq!(of(Auto, (1, 4)), [2, 3, 0, 1]);
        assert_eq!(of(Number(2), (3, 4)), [0, 1]);
        // More than there are workers: the peer has that many, and shares ours.
        assert_eq!(of(Number(3), (0, 2)), [1, 0, 1]);
        assert_eq!(of(Auto, (0, 1)), [0]);
    }

    #[test]
    fn the_worker_is_the_one_that_the_kernel_delivers_the_users_packets_to() {
        let address: IpAddr = "10.77.0.5".parse().unwrap();
        let remote = "198.51.100.7".parse().unwrap();
        assert_eq!(
            worker(&connection(), &[address], remote, 4),
            dataplane::worker_for(address, 4)
        );
        assert_eq!(
            worker(&connection(), &[], remote, 4),
            dataplane::worker_for(remote, 4)
        );
    }

    #[test]
    fn texts_are_checked_by_the_parser_that_reads_them() {
        assert!(Proposals.ike("aes256gcm16-prfsha384-ecp384").is_ok());
        assert!(Proposals.ike("rot13-md4").is_err());
        assert!(Proposals.esp("aes256gcm16").is_ok());
    }
}
