//! Sessions: show, follow, end, rekey.

use anyhow::Result;
use api::v1::session_service_client::SessionServiceClient;
use api::v1::{
    DisconnectRequest, GetSessionRequest, ListSessionsRequest, RekeyRequest, Session, WatchSessionsRequest,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::cli::{DisconnectArguments, RekeyArguments, SessionsArguments};
use crate::output::{Output, ago, octets};

const HEAD: &[&str] = &[
    "SESSION",
    "TENANT",
    "PEER",
    "FROM",
    "VIRTUAL ADDRESSES",
    "STATE",
    "UP",
    "IN",
    "OUT",
    "SUITE",
];

/// Shows sessions.
pub(crate) async fn show(channel: Channel, arguments: &SessionsArguments, output: &Output) -> Result<()> {
    let mut client = SessionServiceClient::new(channel);
    if let Some(id) = arguments.id.clone() {
        let session = client.get(GetSessionRequest { id }).await?.into_inner();
        if output.is_table() {
            return output.raw(serde_yaml_ng::to_string(&session)?.as_bytes());
        }
        return output.value(&session);
    }
    let tenant = arguments.tenant.clone().unwrap_or_default();
    if arguments.watch {
        return watch(&mut client, tenant, output).await;
    }
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSessionsRequest {
            tenant: tenant.clone(),
            page_size: 500,
            page_token,
            identity: arguments.identity.clone().unwrap_or_default(),
            address: arguments.address.clone().unwrap_or_default(),
        };
        let answer = client.list(request).await?.into_inner();
        sessions.extend(answer.sessions);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if output.is_table() {
        output.table(HEAD, sessions.iter().map(row).collect())
    } else {
        output.value(&sessions)
    }
}

async fn watch(client: &mut SessionServiceClient<Channel>, tenant: String, output: &Output) -> Result<()> {
    let mut stream = client.watch(WatchSessionsRequest { tenant }).await?.into_inner();
    while let Some(event) = stream.next().await {
        let event = event?;
        if !output.is_table() {
            output.item(&event)?;
            continue;
        }
        let kind = api::words::word(&event.kind());
        let reason = if event.reason.is_empty() {
            String::new()
        } else {
            format!("  ({})", event.reason)
        };
        let text = event
            .session
            .as_ref()
            .map(|s| row(s).join("  "))
            .unwrap_or_default();
        output.line(&format!("{kind:<8} {text}{reason}"))?;
    }
    Ok(())
}

fn row(s: &Session) -> Vec<String> {
    vec![
        s.id.clone(),
        s.tenant.clone(),
        s.peer_id.clone(),
        s.remote_address.clone(),
        s.virtual_addresses.join(", "),
        s.state.clone(),
        ago(s.established_time.as_ref()),
        octets(s.octets_in),
        octets(s.octets_out),
        s.ike_suite.clone(),
    ]
}

/// Ends sessions.
pub(crate) async fn disconnect(
    channel: Channel,
    arguments: &DisconnectArguments,
    output: &Output,
) -> Result<()> {
    let request = DisconnectRequest {
        ids: arguments.ids.clone(),
        tenant: arguments.tenant.clone().unwrap_or_default(),
        identity: arguments.identity.clone().unwrap_or_default(),
        all: arguments.all,
        validate_only: arguments.dry_run,
    };
    let answer = SessionServiceClient::new(channel)
        .disconnect(request)
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&answer.ids);
    }
    for id in &answer.ids {
        output.line(id)?;
    }
    eprintln!(
        "{} session(s) {}",
        answer.ids.len(),
        if arguments.dry_run {
            "would end"
        } else {
            "are ending"
        }
    );
    Ok(())
}

/// Starts rekeys.
pub(crate) async fn rekey(channel: Channel, arguments: &RekeyArguments, output: &Output) -> Result<()> {
    let request = RekeyRequest {
        id: arguments.id.clone(),
        ike: arguments.ike,
        child_spi: arguments.child.clone().unwrap_or_default(),
    };
    let answer = SessionServiceClient::new(channel)
        .rekey(request)
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&answer.started);
    }
    eprintln!("{} rekey(s) started", answer.started);
    Ok(())
}
