//! `get`, `list`, `describe` and `delete` of the four kinds of resources.

use anyhow::Result;
use api::v1::address_pool_service_client::AddressPoolServiceClient;
use api::v1::connection_service_client::ConnectionServiceClient;
use api::v1::credential_service_client::CredentialServiceClient;
use api::v1::tenant_service_client::TenantServiceClient;
use api::v1::{
    AddressPool, Connection, Credential, DeleteAddressPoolRequest, DeleteConnectionRequest,
    DeleteCredentialRequest, DeleteTenantRequest, GetAddressPoolRequest, GetConnectionRequest,
    GetCredentialRequest, GetTenantRequest, ListAddressPoolsRequest, ListConnectionsRequest,
    ListCredentialsRequest, ListTenantsRequest, Tenant,
};
use serde::Serialize;
use serde_json::Value;
use tonic::transport::Channel;

use crate::cli::{DeleteArguments, Kind, ListArguments, OneArguments};
use crate::output::Output;

const PAGE: u32 = 500;

/// Reads all pages of a list.
macro_rules! all {
    ($client:expr, $request:ident { $($field:ident: $value:expr),* }, $items:ident) => {{
        let mut client = $client;
        let mut items = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = $request { page_size: PAGE, page_token, $($field: $value,)* ..$request::default() };
            let answer = client.list(request).await?.into_inner();
            items.extend(answer.$items);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break items;
            }
        }
    }};
}

/// Shows the resources of a kind.
pub(crate) async fn list(channel: Channel, arguments: &ListArguments, output: &Output) -> Result<()> {
    let tenant = arguments.tenant.clone().unwrap_or_default();
    let wanted = |name: &str| arguments.name.as_deref().is_none_or(|n| n == name);
    let (documents, head, rows): (Vec<Value>, &[&str], Vec<Vec<String>>) = match arguments.kind {
        Kind::Tenant => {
            let mut items = all!(TenantServiceClient::new(channel), ListTenantsRequest {}, tenants);
            items.retain(|t| wanted(&t.name) && (tenant.is_empty() || t.name == tenant));
            (
                documents("Tenant", &items)?,
                TENANT_HEAD,
                items.iter().map(tenant_row).collect(),
            )
        }
        Kind::Connection => {
            let client = ConnectionServiceClient::new(channel);
            let mut items = all!(
                client,
                ListConnectionsRequest {
                    tenant: tenant.clone()
                },
                connections
            );
            items.retain(|c| wanted(&c.name));
            (
                documents("Connection", &items)?,
                CONNECTION_HEAD,
                items.iter().map(connection_row).collect(),
            )
        }
        Kind::Pool => {
            let client = AddressPoolServiceClient::new(channel);
            let mut items = all!(
                client,
                ListAddressPoolsRequest {
                    tenant: tenant.clone()
                },
                address_pools
            );
            items.retain(|p| wanted(&p.name));
            (
                documents("AddressPool", &items)?,
                POOL_HEAD,
                items.iter().map(pool_row).collect(),
            )
        }
        Kind::Credential => {
            let client = CredentialServiceClient::new(channel);
            let mut items = all!(
                client,
                ListCredentialsRequest {
                    tenant: tenant.clone()
                },
                credentials
            );
            items.retain(|c| wanted(&c.name));
            (
                documents("Credential", &items)?,
                CREDENTIAL_HEAD,
                items.iter().map(credential_row).collect(),
            )
        }
    };
    if let (Some(name), true) = (&arguments.name, documents.is_empty()) {
        anyhow::bail!("there is no {:?} {name}", arguments.kind);
    }
    if output.is_table() {
        output.table(head, rows)
    } else {
        output.value(&documents)
    }
}

/// Shows one resource in full.
pub(crate) async fn describe(channel: Channel, arguments: &OneArguments, output: &Output) -> Result<()> {
    let document = get(channel, arguments).await?;
    if output.is_table() {
        return output.raw(serde_yaml_ng::to_string(&document)?.as_bytes());
    }
    output.value(&document)
}

async fn get(channel: Channel, arguments: &OneArguments) -> Result<Value> {
    let name = arguments.name.clone();
    let tenant = arguments.tenant.clone().unwrap_or_default();
    match arguments.kind {
        Kind::Tenant => {
            let item = TenantServiceClient::new(channel)
                .get(GetTenantRequest { name })
                .await?
                .into_inner();
            document("Tenant", &item)
        }
        Kind::Connection => {
            let request = GetConnectionRequest { tenant, name };
            document(
                "Connection",
                &ConnectionServiceClient::new(channel)
                    .get(request)
                    .await?
                    .into_inner(),
            )
        }
        Kind::Pool => {
            let request = GetAddressPoolRequest { tenant, name };
            document(
                "AddressPool",
                &AddressPoolServiceClient::new(channel)
                    .get(request)
                    .await?
                    .into_inner(),
            )
        }
        Kind::Credential => {
            let request = GetCredentialRequest { tenant, name };
            document(
                "Credential",
                &CredentialServiceClient::new(channel)
                    .get(request)
                    .await?
                    .into_inner(),
            )
        }
    }
}

/// Deletes one resource.
pub(crate) async fn delete(channel: Channel, arguments: &DeleteArguments, output: &Output) -> Result<()> {
    let name = arguments.one.name.clone();
    let tenant = arguments.one.tenant.clone().unwrap_or_default();
    let (resource_version, validate_only) = (String::new(), arguments.dry_run);
    match arguments.one.kind {
        Kind::Tenant => {
            let cascade = arguments.cascade;
            let request = DeleteTenantRequest {
                name: name.clone(),
                resource_version,
                validate_only,
                cascade,
            };
            TenantServiceClient::new(channel)
                .delete(request)
                .await
                .map(drop)?;
        }
        Kind::Connection => {
            let request = DeleteConnectionRequest {
                tenant,
                name: name.clone(),
                resource_version,
                validate_only,
            };
            ConnectionServiceClient::new(channel)
                .delete(request)
                .await
                .map(drop)?;
        }
        Kind::Pool => {
            let request = DeleteAddressPoolRequest {
                tenant,
                name: name.clone(),
                resource_version,
                validate_only,
            };
            AddressPoolServiceClient::new(channel)
                .delete(request)
                .await
                .map(drop)?;
        }
        Kind::Credential => {
            let request = DeleteCredentialRequest {
                tenant,
                name: name.clone(),
                resource_version,
                validate_only,
            };
            CredentialServiceClient::new(channel)
                .delete(request)
                .await
                .map(drop)?;
        }
    }
    if output.is_table() {
        eprintln!(
            "{name} {}",
            if arguments.dry_run {
                "could be deleted"
            } else {
                "deleted"
            }
        );
    }
    Ok(())
}

/// The form that `apply` reads: the fields, with `kind` in front; a credential's own kind is called `type`.
fn document<T: Serialize>(kind: &str, item: &T) -> Result<Value> {
    let mut fields = serde_json::Map::new();
    fields.insert("kind".to_owned(), kind.into());
    if let Value::Object(own) = serde_json::to_value(item)? {
        for (name, value) in own {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == "";
            if !empty {
                fields.insert(if name == "kind" { "type".to_owned() } else { name }, value);
            }
        }
    }
    Ok(Value::Object(fields))
}

fn documents<T: Serialize>(kind: &str, items: &[T]) -> Result<Vec<Value>> {
    items.iter().map(|item| document(kind, item)).collect()
}

const TENANT_HEAD: &[&str] = &[
    "TENANT",
    "STATE",
    "ROUTING DOMAIN",
    "GATEWAY IDS",
    "LOCAL ADDRESSES",
    "DESCRIPTION",
];

fn tenant_row(t: &Tenant) -> Vec<String> {
    let netns = t
        .routing_domain
        .as_ref()
        .map(|d| d.netns.clone())
        .filter(|n| !n.is_empty());
    vec![
        t.name.clone(),
        state(t.disabled),
        netns.map_or("host".to_owned(), |n| format!("netns {n}")),
        joined(&t.gateway_ids),
        joined(&t.local_addresses),
        t.description.clone(),
    ]
}

const CONNECTION_HEAD: &[&str] = &[
    "TENANT",
    "CONNECTION",
    "STATE",
    "AUTH",
    "PEERS",
    "LOCAL TS",
    "POOLS",
];

fn connection_row(c: &Connection) -> Vec<String> {
    vec![
        c.tenant.clone(),
        c.name.clone(),
        state(c.disabled),
        api::words::word(&c.auth()),
        joined(&c.remote_ids),
        joined(&c.local_ts),
        joined(&c.pools),
    ]
}

const POOL_HEAD: &[&str] = &["TENANT", "POOL", "RANGE", "IN USE", "CAPACITY"];

fn pool_row(p: &AddressPool) -> Vec<String> {
    vec![
        p.tenant.clone(),
        p.name.clone(),
        p.range.clone(),
        p.in_use.to_string(),
        p.capacity.to_string(),
    ]
}

const CREDENTIAL_HEAD: &[&str] = &["TENANT", "CREDENTIAL", "TYPE", "FOR", "GOOD UNTIL"];

fn credential_row(c: &Credential) -> Vec<String> {
    let first = c.certificate_info.first();
    let whom = if c.ids.is_empty() {
        first.map(|i| i.subject.clone()).unwrap_or_default()
    } else {
        joined(&c.ids)
    };
    let until = c
        .certificate_info
        .iter()
        .filter_map(|i| i.not_after.as_ref())
        .min_by_key(|t| t.seconds);
    vec![
        c.tenant.clone(),
        c.name.clone(),
        api::words::word(&c.kind()),
        whom,
        until.map(api::time::to_rfc3339).unwrap_or_default(),
    ]
}

fn state(disabled: bool) -> String {
    if disabled {
        "disabled".to_owned()
    } else {
        "enabled".to_owned()
    }
}

fn joined(items: &[String]) -> String {
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_credential_can_be_applied_again() {
        let credential = Credential {
            tenant: "acme".into(),
            name: "x".into(),
            kind: 1,
            ..Credential::default()
        };
        let value = document("Credential", &credential).unwrap();
        assert_eq!(value["kind"], "Credential");
        assert_eq!(value["type"], "psk");
        assert!(value.get("secret").is_none());
    }
}
