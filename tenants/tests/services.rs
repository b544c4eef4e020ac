//! The services through real gRPC clients: resources, sets, sessions, attempts, the audit trail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use api::v1;
use api::v1::address_pool_service_client::AddressPoolServiceClient;
use api::v1::apply_service_client::ApplyServiceClient;
use api::v1::attempt_service_client::AttemptServiceClient;
use api::v1::audit_service_client::AuditServiceClient;
use api::v1::connection_service_client::ConnectionServiceClient;
use api::v1::credential_service_client::CredentialServiceClient;
use api::v1::node_service_client::NodeServiceClient;
use api::v1::session_service_client::SessionServiceClient;
use api::v1::tenant_service_client::TenantServiceClient;
use support::{Rig, site};
use tenants::attempt::{AttemptRecord, CandidateNote};
use tonic::Code;
use tonic::transport::Channel;

async fn apply(channel: &Channel, resources: Vec<v1::Resource>, validate_only: bool) -> Vec<v1::Change> {
    let request = v1::ApplyRequest {
        resources,
        validate_only,
    };
    ApplyServiceClient::new(channel.clone())
        .apply(request)
        .await
        .unwrap()
        .into_inner()
        .changes
}

fn actions(changes: &[v1::Change]) -> Vec<v1::ChangeAction> {
    changes.iter().map(v1::Change::action).collect()
}

#[tokio::test]
async fn root_is_operator_on_the_socket_and_nobody_else_is() {
    let rig = Rig::new().await;
    let uid = std::fs::metadata(rig.directory.path()).unwrap().uid();
    let answer = TenantServiceClient::new(rig.socket().await)
        .list(v1::ListTenantsRequest::default())
        .await;
    match uid {
        0 => assert!(answer.unwrap().into_inner().tenants.is_empty()),
        _ => assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied),
    }
}

#[tokio::test]
async fn a_set_is_tried_applied_and_applied_again() {
    let rig = Rig::new().await;
    let channel = rig.operator().await;
    let tried = apply(&channel, site("acme"), true).await;
    assert_eq!(actions(&tried), [v1::ChangeAction::Create; 4]);
    assert!(rig.registry.tenants().is_empty(), "a dry run writes nothing");
    assert_eq!(
        actions(&apply(&channel, site("acme"), false).await),
        [v1::ChangeAction::Create; 4]
    );
    assert_eq!(
        actions(&apply(&channel, site("acme"), false).await),
        [v1::ChangeAction::Unchanged; 4]
    );

    let wrong = vec![v1::Resource { resource: None }];
    let request = v1::ApplyRequest {
        resources: wrong,
        validate_only: false,
    };
    let status = ApplyServiceClient::new(channel).apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_resource_lives_through_create_get_update_delete() {
    let rig = Rig::new().await;
    let channel = rig.operator().await;
    apply(&channel, site("acme"), false).await;
    let mut pools = AddressPoolServiceClient::new(channel.clone());
    let name = |name: &str| v1::GetAddressPoolRequest {
        tenant: "acme".into(),
        name: name.into(),
    };
    let wanted = v1::AddressPool {
        tenant: "acme".into(),
        name: "v6".into(),
        range: "2001:db8::/120".into(),
        ..Default::default()
    };
    let create = v1::CreateAddressPoolRequest {
        address_pool: Some(wanted.clone()),
        validate_only: false,
    };
    let made = pools.create(create.clone()).await.unwrap().into_inner();
    assert_eq!(made.capacity, 255);
    assert_eq!(
        pools.create(create).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    assert_eq!(pools.get(name("v6")).await.unwrap().into_inner(), made);

    let update = |pool: v1::AddressPool, paths: &[&str]| v1::UpdateAddressPoolRequest {
        address_pool: Some(pool),
        update_mask: Some(prost_types::FieldMask {
            paths: support::strings(paths),
        }),
        validate_only: false,
    };
    let described = v1::AddressPool {
        description: "new".into(),
        range: "ignored".into(),
        ..made.clone()
    };
    let changed = pools
        .update(update(described.clone(), &["description"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (changed.description.as_str(), changed.range.as_str()),
        ("new", "2001:db8::/120")
    );
    let stale = pools
        .update(update(described.clone(), &["description"]))
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Code::Aborted, "{stale}");
    let unknown = pools
        .update(update(changed.clone(), &["colour"]))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(unknown.message().contains("colour"), "{unknown}");

    let delete = |name: &str, version: &str, validate_only| v1::DeleteAddressPoolRequest {
        tenant: "acme".into(),
        name: name.into(),
        resource_version: version.into(),
        validate_only,
    };
    let used = pools.delete(delete("v4", "", false)).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    assert!(used.message().contains("Connection acme/users"), "{used}");
    assert_eq!(
        pools
            .delete(delete("v6", &made.resource_version, false))
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );
    pools
        .delete(delete("v6", &changed.resource_version, true))
        .await
        .unwrap();
    pools.get(name("v6")).await.unwrap();
    pools
        .delete(delete("v6", &changed.resource_version, false))
        .await
        .unwrap();
    assert_eq!(pools.get(name("v6")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn wrong_fields_are_named_with_what_is_allowed() {
    let rig = Rig::new().await;
    let channel = rig.operator().await;
    apply(&channel, site("acme"), false).await;
    let connection = v1::Connection {
        tenant: "acme".into(),
        name: "bad".into(),
        ..Default::default()
    };
    let request = v1::CreateConnectionRequest {
        connection: Some(connection),
        validate_only: true,
    };
    let status = ConnectionServiceClient::new(channel)
        .create(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for part in [
        "Connection acme/bad: auth is missing; allowed: psk, certificate",
        "local_ts",
        "remote_ids",
        "pools",
    ] {
        assert!(status.message().contains(part), "{part}: {}", status.message());
    }
}

#[tokio::test]
async fn lists_are_paged_and_filtered_and_show_no_secret() {
    let rig = Rig::new().await;
    let channel = rig.operator().await;
    for name in ["a", "b", "c", "d", "e"] {
        apply(&channel, site(name), false).await;
    }
    let mut tenants = TenantServiceClient::new(channel.clone());
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListTenantsRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = tenants.list(request).await.unwrap().into_inner();
        assert!(page.tenants.len() <= 2);
        seen.extend(page.tenants.into_iter().map(|tenant| tenant.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    let bad = v1::ListTenantsRequest {
        page_token: "nonsense".into(),
        ..Default::default()
    };
    assert_eq!(tenants.list(bad).await.unwrap_err().code(), Code::InvalidArgument);

    let mut credentials = CredentialServiceClient::new(channel);
    let list = |tenant: &str, kind: v1::CredentialKind| v1::ListCredentialsRequest {
        tenant: tenant.into(),
        kind: kind.into(),
        ..Default::default()
    };
    let all = credentials
        .list(list("", v1::CredentialKind::Unspecified))
        .await
        .unwrap()
        .into_inner()
        .credentials;
    assert_eq!(all.len(), 5);
    assert!(
        all.iter()
            .all(|credential| credential.secret.is_empty() && !credential.secret_digest.is_empty())
    );
    let one = credentials
        .list(list("a", v1::CredentialKind::Psk))
        .await
        .unwrap()
        .into_inner()
        .credentials;
    assert_eq!(one.len(), 1);
    let none = credentials
        .list(list("a", v1::CredentialKind::PrivateKey))
        .await
        .unwrap()
        .into_inner();
    assert!(none.credentials.is_empty());
}

#[tokio::test]
async fn sessions_are_listed_watched_and_ended() {
    let rig = Rig::new().await;
    for (id, tenant, peer) in [
        ("01", "acme", "alice"),
        ("02", "acme", "bob"),
        ("03", "globex", "alice"),
    ] {
        rig.daemon.add(id, tenant, peer);
    }
    let channel = rig.operator().await;
    let mut sessions = SessionServiceClient::new(channel.clone());
    let page = v1::ListSessionsRequest {
        page_size: 2,
        ..Default::default()
    };
    let first = sessions.list(page.clone()).await.unwrap().into_inner();
    assert_eq!(first.sessions.len(), 2);
    let rest = v1::ListSessionsRequest {
        page_token: first.next_page_token,
        ..page
    };
    let rest = sessions.list(rest).await.unwrap().into_inner();
    assert_eq!(
        (rest.sessions[0].id.as_str(), rest.next_page_token.as_str()),
        ("03", "")
    );
    let mut watch = sessions
        .watch(v1::WatchSessionsRequest {
            tenant: "globex".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().session.unwrap().id, "03");
    assert_eq!(watch.message().await.unwrap(), None);

    let vague = sessions
        .disconnect(v1::DisconnectRequest {
            all: true,
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(vague.code(), Code::InvalidArgument);
    let alice = v1::DisconnectRequest {
        identity: "alice".into(),
        validate_only: true,
        ..Default::default()
    };
    assert_eq!(
        sessions.disconnect(alice.clone()).await.unwrap().into_inner().ids,
        ["01", "03"]
    );
    assert_eq!(
        rig.daemon.sessions.lock().unwrap().len(),
        3,
        "a dry run ends nothing"
    );
    sessions
        .disconnect(v1::DisconnectRequest {
            validate_only: false,
            ..alice
        })
        .await
        .unwrap();
    assert_eq!(rig.daemon.sessions.lock().unwrap().len(), 1);

    let mut audit = AuditServiceClient::new(channel);
    for tenant in ["acme", "globex"] {
        let request = v1::ListAuditRequest {
            tenant: tenant.into(),
            ..Default::default()
        };
        let records = audit.list(request).await.unwrap().into_inner().records;
        assert_eq!(records.len(), 1, "each tenant sees its own session end");
        assert_eq!(records[0].method, "vpn.v1.SessionService/Disconnect");
        assert!(records[0].actor.contains("CN=jo"), "{}", records[0].actor);
    }
}

fn attempt(tenant: Option<&str>, peer: &str) -> AttemptRecord {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let mut record = AttemptRecord::new(
        time,
        "192.0.2.7:4500".parse().unwrap(),
        "198.51.100.1:4500".parse().unwrap(),
    );
    record.tenant = tenant.map(str::to_owned);
    record.peer_id = peer.to_owned();
    let candidate = |tenant: &str| CandidateNote {
        tenant: tenant.into(),
        connection: "users".into(),
        chosen: false,
        reason: "why".into(),
    };
    record.candidates = vec![candidate("acme"), candidate("globex")];
    record
}

#[tokio::test]
async fn attempts_are_found_by_what_people_know() {
    let rig = Rig::new().await;
    for (tenant, peer) in [(Some("acme"), "alice"), (Some("globex"), "bob"), (None, "eve")] {
        rig.attempts.record(attempt(tenant, peer));
    }
    let mut attempts = AttemptServiceClient::new(rig.operator().await);
    let peers = async |attempts: &mut AttemptServiceClient<Channel>, request: v1::ListAttemptsRequest| {
        let found = attempts.list(request).await.unwrap().into_inner().attempts;
        found
            .into_iter()
            .map(|attempt| attempt.peer_id)
            .collect::<Vec<_>>()
    };
    let all = v1::ListAttemptsRequest::default();
    assert_eq!(peers(&mut attempts, all.clone()).await, ["eve", "bob", "alice"]);
    let by_tenant = v1::ListAttemptsRequest {
        tenant: "acme".into(),
        ..all.clone()
    };
    assert_eq!(peers(&mut attempts, by_tenant).await, ["alice"]);
    let by_identity = v1::ListAttemptsRequest {
        identity: "BO".into(),
        ..all.clone()
    };
    assert_eq!(peers(&mut attempts, by_identity).await, ["bob"]);
    let elsewhere = v1::ListAttemptsRequest {
        address: "192.0.2.8".into(),
        ..all.clone()
    };
    assert!(peers(&mut attempts, elsewhere).await.is_empty());
    let since = Some(prost_types::Timestamp {
        seconds: 2_000,
        nanos: 0,
    });
    assert!(
        peers(&mut attempts, v1::ListAttemptsRequest { since, ..all.clone() })
            .await
            .is_empty()
    );
    let wrong = v1::ListAttemptsRequest {
        address: "here".into(),
        ..all
    };
    assert_eq!(
        attempts.list(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let mut watch = attempts
        .watch(v1::WatchAttemptsRequest::default())
        .await
        .unwrap()
        .into_inner();
    rig.attempts.record(attempt(None, "mallory"));
    let seen = watch.message().await.unwrap().unwrap();
    assert_eq!(seen.peer_id, "mallory");
    assert!(!seen.likely_fix.is_empty());
}

#[tokio::test]
async fn the_node_refuses_faults_that_are_off() {
    let rig = Rig::new().await;
    let mut node = NodeServiceClient::new(rig.operator().await);
    assert_eq!(
        node.status(v1::NodeStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .node,
        "test"
    );
    let refused = node
        .inject_fault(v1::InjectFaultRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}
