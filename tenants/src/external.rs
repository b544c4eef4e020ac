//! From the internal model back to the external one, complete with defaults and without secrets.

use std::time::{Duration, UNIX_EPOCH};

use api::time::timestamp;
use api::v1;
use api::v1::resource::Resource;
use crypto::cert::Certificate;

use crate::identity::IdPattern;
use crate::model::{
    AddressPool, Auth, Connection, Credential, CredentialKind, Df, Rate, RekeyPolicy, Tenant, UserLimit,
};
use crate::object::{Id, Kind, Meta, Object};

/// The external form; `meta` is `None` for what is not stored yet.
pub(crate) fn to_api(object: &Object, meta: Option<&Meta>) -> Resource {
    match object {
        Object::Tenant(value) => Resource::Tenant(tenant(value, meta)),
        Object::Credential(value) => Resource::Credential(credential(value, meta)),
        Object::AddressPool(value) => Resource::AddressPool(pool(value, meta)),
        Object::Connection(value) => Resource::Connection(connection(value, meta)),
    }
}

/// The name of an external resource, not checked.
pub(crate) fn id_of(resource: &Resource) -> Id {
    match resource {
        Resource::Tenant(tenant) => Id::new(Kind::Tenant, &tenant.name, &tenant.name),
        Resource::Credential(value) => Id::new(Kind::Credential, &value.tenant, &value.name),
        Resource::AddressPool(value) => Id::new(Kind::AddressPool, &value.tenant, &value.name),
        Resource::Connection(value) => Id::new(Kind::Connection, &value.tenant, &value.name),
    }
}

/// The `resource_version` that an external resource carries.
pub(crate) fn version_of(resource: &Resource) -> &str {
    match resource {
        Resource::Tenant(value) => &value.resource_version,
        Resource::Credential(value) => &value.resource_version,
        Resource::AddressPool(value) => &value.resource_version,
        Resource::Connection(value) => &value.resource_version,
    }
}

fn version(meta: Option<&Meta>) -> String {
    meta.map(|meta| meta.revision.to_string()).unwrap_or_default()
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn tenant(tenant: &Tenant, meta: Option<&Meta>) -> v1::Tenant {
    let domain = &tenant.routing_domain;
    let limits = &tenant.limits;
    let policy = match limits.user_limit {
        UserLimit::Keep => v1::UserLimitPolicy::Keep,
        UserLimit::ReplaceOldest => v1::UserLimitPolicy::ReplaceOldest,
        UserLimit::Refuse => v1::UserLimitPolicy::Refuse,
    };
    v1::Tenant {
        name: tenant.name.clone(),
        resource_version: version(meta),
        create_time: meta.map(|meta| timestamp(meta.created)),
        update_time: meta.map(|meta| timestamp(meta.updated)),
        description: tenant.description.clone(),
        disabled: tenant.disabled,
        routing_domain: Some(v1::RoutingDomain {
            netns: domain.netns.clone().unwrap_or_default(),
            device: domain.device.clone(),
            mtu: domain.mtu.into(),
            addresses: texts(&domain.addresses),
            df: df(domain.df).into(),
        }),
        limits: Some(v1::TenantLimits {
            max_sessions: limits.max_sessions,
            max_half_open: limits.max_half_open,
            max_sessions_per_user: limits.max_sessions_per_user,
            user_limit_policy: policy.into(),
            max_children: limits.max_children,
            rate_in: rate(limits.rates.all_in),
            rate_out: rate(limits.rates.all_out),
            session_rate_in: rate(limits.rates.session_in),
            session_rate_out: rate(limits.rates.session_out),
        }),
        local_addresses: texts(&tenant.local_addresses),
        gateway_ids: texts(&tenant.gateway_ids),
        trust_anchors: tenant.trust_anchors.clone(),
        allow_weak_algorithms: tenant.allow_weak_algorithms,
    }
}

fn df(policy: Df) -> v1::DfPolicy {
    match policy {
        Df::Clear => v1::DfPolicy::Clear,
        Df::Set => v1::DfPolicy::Set,
        Df::Copy => v1::DfPolicy::Copy,
    }
}

/// Nothing for no limit.
fn rate(rate: Rate) -> Option<v1::RateLimit> {
    (rate != Rate::default()).then_some(v1::RateLimit {
        octets_per_sec: rate.octets,
        packets_per_sec: rate.packets,
    })
}

fn connection(connection: &Connection, meta: Option<&Meta>) -> v1::Connection {
    let mut external = v1::Connection {
        tenant: connection.tenant.clone(),
        name: connection.name.clone(),
        resource_version: version(meta),
        create_time: meta.map(|meta| timestamp(meta.created)),
        update_time: meta.map(|meta| timestamp(meta.updated)),
        description: connection.description.clone(),
        disabled: connection.disabled,
        local_addresses: texts(&connection.local_addresses),
        local_id: connection
            .local_id
            .as_ref()
            .map(IdPattern::to_string)
            .unwrap_or_default(),
        remote_ids: texts(&connection.remote_ids),
        ike_proposals: connection.ike_proposals.clone(),
        esp_proposals: connection.esp_proposals.clone(),
        local_ts: texts(&connection.local_ts),
        remote_ts: texts(&connection.remote_ts),
        pools: connection.pools.clone(),
        dns: texts(&connection.dns),
        split_subnets: texts(&connection.split_subnets),
        lifetimes: Some(v1::Lifetimes {
            ike_secs: connection.lifetimes.ike_secs,
            child_secs: connection.lifetimes.child_secs,
            child_octets: connection.lifetimes.child_octets.unwrap_or(0),
            rekey_margin_secs: connection.lifetimes.rekey_margin_secs,
        }),
        dpd_secs: Some(connection.dpd_secs.unwrap_or(0)),
        replay_window: Some(connection.replay_window),
        mobike: None,
        per_resource_sas: connection.per_resource_sas.to_string(),
        df: connection.df.map(df).unwrap_or_default().into(),
        ..v1::Connection::default()
    };
    external.set_rekey_policy(match connection.rekey_policy {
        RekeyPolicy::Initiate => v1::RekeyPolicy::Initiate,
        RekeyPolicy::LastResort => v1::RekeyPolicy::LastResort,
        RekeyPolicy::Never => v1::RekeyPolicy::Never,
    });
    match &connection.auth {
        Auth::Psk { credentials } => {
            external.set_auth(v1::AuthMethod::Psk);
            external.psks.clone_from(credentials);
        }
        Auth::Certificate {
            certificate,
            trust_anchors,
        } => {
            external.set_auth(v1::AuthMethod::Certificate);
            external.certificate.clone_from(certificate);
            external.trust_anchors.clone_from(trust_anchors);
        }
    }
    external
}

fn pool(pool: &AddressPool, meta: Option<&Meta>) -> v1::AddressPool {
    v1::AddressPool {
        tenant: pool.tenant.clone(),
        name: pool.name.clone(),
        resource_version: version(meta),
        create_time: meta.map(|meta| timestamp(meta.created)),
        update_time: meta.map(|meta| timestamp(meta.updated)),
        description: pool.description.clone(),
        range: pool.range_text.clone(),
        exclusions: texts(&pool.exclusions),
        not_sticky: !pool.sticky,
        capacity: pool.capacity(),
        in_use: 0,
    }
}

fn credential(credential: &Credential, meta: Option<&Meta>) -> v1::Credential {
    let mut external = v1::Credential {
        tenant: credential.tenant.clone(),
        name: credential.name.clone(),
        resource_version: version(meta),
        create_time: meta.map(|meta| timestamp(meta.created)),
        update_time: meta.map(|meta| timestamp(meta.updated)),
        description: credential.description.clone(),
        secret_digest: credential.secret_digest.clone(),
        ..v1::Credential::default()
    };
    match &credential.kind {
        CredentialKind::Psk { ids, .. } => {
            external.set_kind(v1::CredentialKind::Psk);
            external.ids = texts(ids);
        }
        CredentialKind::CaCertificate { certificates } => {
            external.set_kind(v1::CredentialKind::CaCertificate);
            external.certificates.clone_from(certificates);
        }
        CredentialKind::PrivateKey { certificates, .. } => {
            external.set_kind(v1::CredentialKind::PrivateKey);
            external.certificates.clone_from(certificates);
        }
    }
    external
}

/// What the certificates of a credential say; parsed for each answer, not for each comparison.
pub(crate) fn certificate_info(pem: &str) -> Vec<v1::CertificateInfo> {
    let certificates = Certificate::from_pem(pem.as_bytes()).unwrap_or_default();
    let time = |secs: i64| {
        let secs = Duration::from_secs(u64::try_from(secs).unwrap_or(0));
        UNIX_EPOCH.checked_add(secs).map(timestamp)
    };
    certificates
        .iter()
        .map(|certificate| v1::CertificateInfo {
            subject: certificate.subject_text(),
            issuer: certificate.issuer_text(),
            serial: certificate
                .serial()
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect(),
            not_before: time(certificate.not_before()),
            not_after: time(certificate.not_after()),
            names: certificate
                .san_dns()
                .iter()
                .chain(certificate.san_email())
                .cloned()
                .chain(certificate.san_ip().iter().map(ToString::to_string))
                .collect(),
            is_ca: certificate.is_ca(),
        })
        .collect()
}
