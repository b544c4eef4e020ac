//! Who may call which method: one table, and whatever is not in it is refused.

use crypto::cert::Certificate;

use crate::audit::Actor;
use crate::identity::parse_dn;

/// What a caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The provider's engineers: everything.
    Operator,
    /// A customer's own administrator: everything of one tenant, but not the tenant itself.
    TenantAdmin(String),
    /// Looks at everything and changes nothing.
    Auditor,
}

impl Role {
    /// As written in the audit trail and in certificates.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::TenantAdmin(_) => Actor::TENANT_ADMIN,
            Role::Auditor => "auditor",
        }
    }
}

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any role; a tenant's administrator sees the own tenant only.
    Read,
    /// To change what a tenant has: the operator, or the tenant's administrator.
    Manage,
    /// To look at the node or the cluster: the operator or an auditor.
    Inspect,
    /// To change the installation: the operator.
    Operate,
}

/// Every method of `vpn.v1`, and health and reflection beside it.
const TABLE: &[(&str, Need)] = &[
    ("vpn.v1.TenantService/Get", Need::Read),
    ("vpn.v1.TenantService/List", Need::Read),
    ("vpn.v1.TenantService/Create", Need::Operate),
    ("vpn.v1.TenantService/Update", Need::Operate),
    ("vpn.v1.TenantService/Delete", Need::Operate),
    ("vpn.v1.ConnectionService/Get", Need::Read),
    ("vpn.v1.ConnectionService/List", Need::Read),
    ("vpn.v1.ConnectionService/Create", Need::Manage),
    ("vpn.v1.ConnectionService/Update", Need::Manage),
    ("vpn.v1.ConnectionService/Delete", Need::Manage),
    ("vpn.v1.AddressPoolService/Get", Need::Read),
    ("vpn.v1.AddressPoolService/List", Need::Read),
    ("vpn.v1.AddressPoolService/Create", Need::Manage),
    ("vpn.v1.AddressPoolService/Update", Need::Manage),
    ("vpn.v1.AddressPoolService/Delete", Need::Manage),
    ("vpn.v1.CredentialService/Get", Need::Read),
    ("vpn.v1.CredentialService/List", Need::Read),
    ("vpn.v1.CredentialService/Create", Need::Manage),
    ("vpn.v1.CredentialService/Update", Need::Manage),
    ("vpn.v1.CredentialService/Delete", Need::Manage),
    ("vpn.v1.SessionService/Get", Need::Read),
    ("vpn.v1.SessionService/List", Need::Read),
    ("vpn.v1.SessionService/Watch", Need::Read),
    ("vpn.v1.SessionService/Disconnect", Need::Manage),
    ("vpn.v1.SessionService/Rekey", Need::Manage),
    ("vpn.v1.AttemptService/List", Need::Read),
    ("vpn.v1.AttemptService/Watch", Need::Read),
    ("vpn.v1.NodeService/Status", Need::Inspect),
    ("vpn.v1.NodeService/Reload", Need::Operate),
    ("vpn.v1.NodeService/Redirect", Need::Operate),
    ("vpn.v1.NodeService/InjectFault", Need::Operate),
    ("vpn.v1.ApplyService/Apply", Need::Manage),
    ("vpn.v1.AuditService/List", Need::Read),
    ("vpn.v1.ClusterService/Status", Need::Inspect),
    ("vpn.v1.ClusterService/WatchEvents", Need::Inspect),
    ("vpn.v1.ClusterService/Drain", Need::Operate),
    ("vpn.v1.ClusterService/Undrain", Need::Operate),
    ("vpn.v1.ClusterService/Move", Need::Operate),
    ("vpn.v1.ClusterService/Leave", Need::Operate),
    ("vpn.v1.ClusterService/Join", Need::Operate),
    ("vpn.v1.ClusterService/Forget", Need::Operate),
    ("vpn.v1.ClusterService/Backup", Need::Operate),
    ("vpn.v1.ClusterService/Restore", Need::Operate),
    ("vpn.v1.ClusterService/RotateKeys", Need::Operate),
    ("grpc.health.v1.Health/Check", Need::Read),
    ("grpc.health.v1.Health/Watch", Need::Read),
    ("grpc.health.v1.Health/List", Need::Read),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Need::Read,
    ),
];

/// Every method that can be called.
pub fn methods() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// What a method (`package.Service/Method`) needs; `None`: nobody may call it.
pub fn need(method: &str) -> Option<Need> {
    TABLE
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, need)| *need)
}

/// Whether a role is enough for a need.
pub fn allows(role: &Role, need: Need) -> bool {
    match need {
        Need::Read => true,
        Need::Manage => !matches!(role, Role::Auditor),
        Need::Inspect => !matches!(role, Role::TenantAdmin(_)),
        Need::Operate => matches!(role, Role::Operator),
    }
}

/// The role that a client certificate gives: its subject has one organizational unit `operator`, `auditor` or
/// `tenant-admin`, the last with the tenant's name as organization. Anything else gives none.
pub fn of_certificate(certificate: &Certificate) -> Option<Role> {
    if !certificate.has_client_auth() && certificate.has_eku() {
        return None;
    }
    of_subject(&certificate.subject_text())
}

fn of_subject(subject: &str) -> Option<Role> {
    let rdns = parse_dn(subject)?;
    let values = |kind: &str| -> Vec<String> {
        rdns.iter()
            .filter(|rdn| rdn.attribute == kind)
            .map(|rdn| rdn.value.clone())
            .collect()
    };
    let units = values("OU");
    let [unit] = units.as_slice() else { return None };
    match unit.as_str() {
        "operator" => Some(Role::Operator),
        "auditor" => Some(Role::Auditor),
        "tenant-admin" => match values("O").as_slice() {
            [tenant] => Some(Role::TenantAdmin(tenant.clone())),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_method_of_the_descriptor_set_is_in_the_table() {
        for method in api::methods().unwrap() {
            assert!(need(&method).is_some(), "{method} is not in the table");
        }
    }

    #[test]
    fn the_table_has_no_method_that_is_not_there() {
        let methods = api::methods().unwrap();
        for (method, _) in TABLE.iter().filter(|(m, _)| m.starts_with("vpn.")) {
            assert!(methods.iter().any(|m| m == method), "{method} does not exist");
        }
    }

    #[test]
    fn an_auditor_changes_nothing_and_a_tenants_administrator_not_the_node() {
        for (method, need) in TABLE {
            let changes = [
                "Create",
                "Update",
                "Delete",
                "Disconnect",
                "Rekey",
                "Reload",
                "Redirect",
                "InjectFault",
                "Apply",
                "Drain",
                "Undrain",
                "Move",
                "Leave",
                "Join",
                "Forget",
                "Backup",
                "Restore",
                "RotateKeys",
            ];
            let is_change = changes.iter().any(|c| method.ends_with(&format!("/{c}")));
            assert_eq!(allows(&Role::Auditor, *need), !is_change, "{method}");
            assert!(allows(&Role::Operator, *need));
            let node = method.contains("NodeService")
                || method.contains("ClusterService")
                || method.contains("TenantService/") && is_change;
            assert_eq!(allows(&Role::TenantAdmin("a".into()), *need), !node, "{method}");
        }
        assert_eq!(need("vpn.v1.TenantService/Unheard"), None);
    }

    #[test]
    fn subjects_give_roles_and_odd_ones_give_none() {
        assert_eq!(of_subject("CN=jo, OU=operator"), Some(Role::Operator));
        assert_eq!(
            of_subject("O=acme, OU=tenant-admin, CN=x"),
            Some(Role::TenantAdmin("acme".into()))
        );
        assert_eq!(of_subject("OU=tenant-admin"), None);
        assert_eq!(of_subject("OU=operator, OU=auditor"), None);
        assert_eq!(of_subject("CN=jo"), None);
        assert_eq!(of_subject("CN=jo\\, OU=operator"), None);
    }
}
