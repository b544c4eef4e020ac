//! Compiles the protos without protoc: protox parses them, tonic-prost-build generates the code, and the
//! descriptor set is kept beside it for the reflection service and the role table's test.

use std::path::PathBuf;

use prost::Message;

/// Every proto, relative to `proto/`.
const PROTOS: &[&str] = &[
    "vpn/v1/tenant.proto",
    "vpn/v1/connection.proto",
    "vpn/v1/pool.proto",
    "vpn/v1/credential.proto",
    "vpn/v1/session.proto",
    "vpn/v1/attempt.proto",
    "vpn/v1/node.proto",
    "vpn/v1/apply.proto",
    "vpn/v1/audit.proto",
    "vpn/v1/cluster.proto",
];

/// Enumeration fields with the module that writes them as words.
const ENUM_FIELDS: &[(&str, &str)] = &[
    ("TenantLimits.user_limit_policy", "user_limit_policy"),
    ("Connection.auth", "auth_method"),
    ("Connection.rekey_policy", "rekey_policy"),
    ("Connection.df", "df_policy"),
    ("RoutingDomain.df", "df_policy"),
    ("Credential.kind", "credential_kind"),
    ("SessionEvent.kind", "session_event_kind"),
    ("Attempt.outcome", "attempt_outcome"),
    ("Change.action", "change_action"),
    ("ClusterNode.state", "cluster_node_state"),
    ("ClusterSlot.state", "cluster_slot_state"),
];

/// Time fields of messages that are also written as JSON or YAML.
const TIME_FIELDS: &[&str] = &[
    "Tenant.create_time",
    "Tenant.update_time",
    "Connection.create_time",
    "Connection.update_time",
    "AddressPool.create_time",
    "AddressPool.update_time",
    "Credential.create_time",
    "Credential.update_time",
    "CertificateInfo.not_before",
    "CertificateInfo.not_after",
    "Session.established_time",
    "Session.ike_rekey_time",
    "ChildSa.established_time",
    "ChildSa.rekey_time",
    "ChildSa.last_in_time",
    "Attempt.time",
    "NodeStatus.start_time",
    "AuditRecord.time",
    "ClusterStatus.time",
    "ClusterNode.start_time",
    "ClusterSlot.since_time",
    "ClusterEvent.time",
    "RestoreResponse.backup_time",
];

/// Messages that are also written as JSON or YAML: everything but requests and their answers.
const JSON_MESSAGES: &[&str] = &[
    "Tenant",
    "RoutingDomain",
    "TenantLimits",
    "RateLimit",
    "Connection",
    "Lifetimes",
    "AddressPool",
    "Credential",
    "CertificateInfo",
    "Session",
    "ChildSa",
    "SessionEvent",
    "Attempt",
    "AttemptCandidate",
    "AttemptStep",
    "NodeStatus",
    "WorkerStatus",
    "TenantStatus",
    "ReloadResponse",
    "Change",
    "FieldChange",
    "AuditRecord",
    "ClusterStatus",
    "ClusterNode",
    "ClusterPath",
    "ClusterSlot",
    "ClusterPoolBlock",
    "ClusterEtcd",
    "ClusterEtcdMember",
    "ClusterOrderResponse",
    "RedirectResponse",
    "ClusterEvent",
    "RestoreResponse",
    "RotateKeysResponse",
    "RotatedKey",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("vpn_v1.bin"), descriptors.encode_to_vec())?;

    let mut builder = tonic_prost_build::configure().btree_map(".");
    for message in JSON_MESSAGES {
        let path = format!(".vpn.v1.{message}");
        builder = builder
            .message_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .message_attribute(&path, "#[serde(default, deny_unknown_fields)]");
    }
    for (field, module) in ENUM_FIELDS {
        builder = builder.field_attribute(
            format!(".vpn.v1.{field}"),
            format!("#[serde(with = \"crate::words::{module}\")]"),
        );
    }
    for field in TIME_FIELDS {
        builder = builder.field_attribute(
            format!(".vpn.v1.{field}"),
            "#[serde(with = \"crate::time::serde_option\", skip_serializing_if = \"Option::is_none\")]",
        );
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
