//! Roles through real mutual TLS: who may do what, and what a tenant's administrator sees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::time::SystemTime;

use api::v1;
use api::v1::apply_service_client::ApplyServiceClient;
use api::v1::attempt_service_client::AttemptServiceClient;
use api::v1::audit_service_client::AuditServiceClient;
use api::v1::connection_service_client::ConnectionServiceClient;
use api::v1::node_service_client::NodeServiceClient;
use api::v1::session_service_client::SessionServiceClient;
use api::v1::tenant_service_client::TenantServiceClient;
use rcgen::DnType;
use support::{Rig, site};
use tenants::attempt::{AttemptRecord, CandidateNote};
use tonic::Code;
use tonic::transport::Channel;

/// A server with two tenants.
async fn rig() -> Rig {
    let rig = Rig::new().await;
    let mut client = ApplyServiceClient::new(rig.operator().await);
    for name in ["acme", "globex"] {
        let request = v1::ApplyRequest {
            resources: site(name),
            validate_only: false,
        };
        client.apply(request).await.unwrap();
        rig.daemon.add(&format!("{name}-1"), name, "alice");
    }
    rig
}

async fn list_tenants(channel: Channel) -> Result<Vec<String>, Code> {
    let answer = TenantServiceClient::new(channel)
        .list(v1::ListTenantsRequest::default())
        .await;
    answer
        .map(|answer| {
            answer
                .into_inner()
                .tenants
                .into_iter()
                .map(|tenant| tenant.name)
                .collect()
        })
        .map_err(|status| status.code())
}

#[tokio::test]
async fn without_a_certificate_or_a_role_nobody_gets_in() {
    let rig = rig().await;
    assert_eq!(
        list_tenants(rig.tls(None).await).await,
        Err(Code::Unauthenticated)
    );
    for subject in [
        &[(DnType::CommonName, "jo")][..],
        &[(DnType::OrganizationalUnitName, "janitor")][..],
        &[(DnType::OrganizationalUnitName, "tenant-admin")][..],
        &[(DnType::CommonName, "x, OU=operator")][..],
    ] {
        let channel = rig.tls(Some(rig.pki.issue(&[], subject))).await;
        assert_eq!(
            list_tenants(channel).await,
            Err(Code::PermissionDenied),
            "{subject:?}"
        );
    }
}

#[tokio::test]
async fn an_auditor_reads_everything_and_changes_nothing() {
    let rig = rig().await;
    let auditor = rig.role("auditor", None).await;
    assert_eq!(list_tenants(auditor.clone()).await.unwrap(), ["acme", "globex"]);
    let records = AuditServiceClient::new(auditor.clone())
        .list(v1::ListAuditRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(records.records.len(), 8);
    let denied = |status: tonic::Status| assert_eq!(status.code(), Code::PermissionDenied);
    let mut apply = ApplyServiceClient::new(auditor.clone());
    denied(
        apply
            .apply(v1::ApplyRequest {
                resources: vec![],
                validate_only: true,
            })
            .await
            .unwrap_err(),
    );
    let mut sessions = SessionServiceClient::new(auditor.clone());
    denied(
        sessions
            .disconnect(v1::DisconnectRequest::default())
            .await
            .unwrap_err(),
    );
    denied(
        NodeServiceClient::new(auditor)
            .reload(v1::ReloadRequest::default())
            .await
            .unwrap_err(),
    );
}

#[tokio::test]
async fn a_tenants_administrator_sees_and_changes_one_tenant() {
    let rig = rig().await;
    let admin = rig.role("tenant-admin", Some("acme")).await;
    assert_eq!(list_tenants(admin.clone()).await.unwrap(), ["acme"]);

    let mut connections = ConnectionServiceClient::new(admin.clone());
    let own = v1::ListConnectionsRequest::default();
    let found = connections.list(own).await.unwrap().into_inner().connections;
    assert!(found.iter().all(|connection| connection.tenant == "acme") && found.len() == 1);
    let foreign = v1::ListConnectionsRequest {
        tenant: "globex".into(),
        ..Default::default()
    };
    assert_eq!(
        connections.list(foreign).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let foreign = v1::GetConnectionRequest {
        tenant: "globex".into(),
        name: "users".into(),
    };
    assert_eq!(
        connections.get(foreign).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let delete = |tenant: &str| v1::DeleteConnectionRequest {
        tenant: tenant.into(),
        name: "users".into(),
        ..Default::default()
    };
    assert_eq!(
        connections.delete(delete("globex")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    connections.delete(delete("acme")).await.unwrap();

    // A set with one foreign resource, or with the tenant itself, is refused as a whole.
    let mut apply = ApplyServiceClient::new(admin.clone());
    let without_tenant = |name: &str| site(name).into_iter().skip(1).collect::<Vec<_>>();
    let mixed: Vec<_> = without_tenant("acme")
        .into_iter()
        .chain(without_tenant("globex"))
        .collect();
    for resources in [mixed, site("acme")] {
        let request = v1::ApplyRequest {
            resources,
            validate_only: false,
        };
        assert_eq!(
            apply.apply(request).await.unwrap_err().code(),
            Code::PermissionDenied
        );
    }
    assert!(rig.registry.connection("acme", "users").is_none());
    let own = v1::ApplyRequest {
        resources: without_tenant("acme"),
        validate_only: false,
    };
    apply.apply(own).await.unwrap();

    let status = NodeServiceClient::new(admin.clone())
        .status(v1::NodeStatusRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let audit = AuditServiceClient::new(admin)
        .list(v1::ListAuditRequest::default())
        .await
        .unwrap()
        .into_inner();
    let tenant_of = |record: &v1::AuditRecord| record.change.clone().unwrap_or_default().tenant;
    assert!(!audit.records.is_empty() && audit.records.iter().all(|record| tenant_of(record) == "acme"));
}

#[tokio::test]
async fn sessions_and_attempts_of_others_are_not_there() {
    let rig = rig().await;
    for tenant in ["acme", "globex"] {
        let mut record = AttemptRecord::new(
            SystemTime::now(),
            "192.0.2.7:500".parse().unwrap(),
            "198.51.100.1:500".parse().unwrap(),
        );
        record.tenant = Some(tenant.into());
        for candidate in ["acme", "globex"] {
            record.candidates.push(CandidateNote {
                tenant: candidate.into(),
                connection: "users".into(),
                chosen: candidate == tenant,
                reason: String::new(),
            });
        }
        rig.attempts.record(record);
    }
    let admin = rig.role("tenant-admin", Some("acme")).await;
    let mut sessions = SessionServiceClient::new(admin.clone());
    let found = sessions
        .list(v1::ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .sessions;
    assert_eq!(
        found
            .iter()
            .map(|session| session.id.as_str())
            .collect::<Vec<_>>(),
        ["acme-1"]
    );
    let foreign = v1::GetSessionRequest {
        id: "globex-1".into(),
    };
    assert_eq!(
        sessions.get(foreign).await.unwrap_err().code(),
        Code::NotFound,
        "as if it were not there"
    );
    let foreign = v1::DisconnectRequest {
        ids: support::strings(&["globex-1"]),
        ..Default::default()
    };
    assert!(
        sessions
            .disconnect(foreign)
            .await
            .unwrap()
            .into_inner()
            .ids
            .is_empty()
    );
    let everybody = v1::DisconnectRequest {
        identity: "alice".into(),
        ..Default::default()
    };
    assert_eq!(
        sessions.disconnect(everybody).await.unwrap().into_inner().ids,
        ["acme-1"]
    );
    assert!(rig.daemon.sessions.lock().unwrap().contains_key("globex-1"));

    let mut attempts = AttemptServiceClient::new(admin);
    let found = attempts
        .list(v1::ListAttemptsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .attempts;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].tenant, "acme");
    assert!(
        found[0]
            .candidates
            .iter()
            .all(|candidate| candidate.tenant == "acme")
    );
}

#[tokio::test]
async fn health_and_reflection_need_a_role_too() {
    let rig = rig().await;
    let check = async |channel: Channel| {
        let request = tonic_health::pb::HealthCheckRequest::default();
        tonic_health::pb::health_client::HealthClient::new(channel)
            .check(request)
            .await
            .map(|_| ())
    };
    check(rig.role("auditor", None).await).await.unwrap();
    assert_eq!(
        check(rig.tls(None).await).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}
