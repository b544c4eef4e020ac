//! Field masks and field-by-field differences, both over the serde form of the external model.

use api::v1;
use api::v1::resource::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::validate::{Violation, Violations};

/// Fields that the server fills in: not part of what people want.
const OUTPUT_ONLY: &[&str] = &[
    "resource_version",
    "create_time",
    "update_time",
    "capacity",
    "in_use",
    "certificate_info",
];
/// Names of a resource: never changed by an update.
const NAMES: &[&str] = &["name", "tenant"];

/// `current` with those fields of `wanted` that the mask names; all of `wanted` when the mask is empty.
///
/// # Errors
/// A path of the mask that is not a field.
pub(crate) fn overlay(
    current: &Resource,
    wanted: &Resource,
    mask: &[String],
) -> Result<Resource, Violations> {
    fn of<T: Serialize + DeserializeOwned>(
        current: &T,
        wanted: &T,
        mask: &[String],
    ) -> Result<T, Violations> {
        let (mut merged, wanted) = (json(current), json(wanted));
        let mut violations = Violations::default();
        for path in mask {
            if !copy(&mut merged, &wanted, path) {
                violations.list.push(Violation {
                    field: "update_mask".to_owned(),
                    reason: format!("\"{path}\" is not a field"),
                    allowed: fields(&wanted).join(", "),
                });
            }
        }
        violations.into_result(())?;
        serde_json::from_value(merged).map_err(|error| Violations::one("update_mask", error.to_string(), ""))
    }
    if mask.is_empty() {
        return Ok(wanted.clone());
    }
    match (current, wanted) {
        (Resource::Tenant(a), Resource::Tenant(b)) => of(a, b, mask).map(Resource::Tenant),
        (Resource::Credential(a), Resource::Credential(b)) => of(a, b, mask).map(Resource::Credential),
        (Resource::AddressPool(a), Resource::AddressPool(b)) => of(a, b, mask).map(Resource::AddressPool),
        (Resource::Connection(a), Resource::Connection(b)) => of(a, b, mask).map(Resource::Connection),
        _ => Err(Violations::one("resource", "is of another kind", "")),
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn json_of(resource: &Resource) -> Value {
    match resource {
        Resource::Tenant(value) => json(value),
        Resource::Credential(value) => json(value),
        Resource::AddressPool(value) => json(value),
        Resource::Connection(value) => json(value),
    }
}

/// Fields that a mask may name at the top.
fn fields(value: &Value) -> Vec<String> {
    let writable = |name: &&String| !OUTPUT_ONLY.contains(&name.as_str()) && !NAMES.contains(&name.as_str());
    value
        .as_object()
        .map(|map| map.keys().filter(writable).cloned().collect())
        .unwrap_or_default()
}

/// Copies the field at a dotted path; `false` when there is none.
fn copy(into: &mut Value, from: &Value, path: &str) -> bool {
    let (head, rest) = path
        .split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)));
    if OUTPUT_ONLY.contains(&head) {
        return false;
    }
    let Some(wanted) = from.get(head) else {
        // A message that is not there: its fields have their defaults.
        return false;
    };
    let Some(map) = into.as_object_mut() else {
        return false;
    };
    match rest {
        None => {
            map.insert(head.to_owned(), wanted.clone());
            true
        }
        Some(rest) => map.get_mut(head).is_some_and(|into| copy(into, wanted, rest)),
    }
}

/// Fields that differ, in the order of their names. `before` is `None` for a new resource, `after` for a deleted one.
pub(crate) fn changes(before: Option<&Resource>, after: Option<&Resource>) -> Vec<v1::FieldChange> {
    let flat = |resource: Option<&Resource>| {
        let mut leaves = Vec::new();
        if let Some(resource) = resource {
            flatten("", &json_of(resource), &mut leaves);
        }
        leaves
    };
    let (before, after) = (flat(before), flat(after));
    let find = |leaves: &[(String, Value)], path: &str| {
        leaves
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, value)| value.clone())
    };
    let mut paths: Vec<&String> = before.iter().chain(&after).map(|(path, _)| path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
        .into_iter()
        .filter_map(|path| {
            let (old, new) = (find(&before, path), find(&after, path));
            let (old_empty, new_empty) = (
                old.as_ref().is_none_or(is_empty),
                new.as_ref().is_none_or(is_empty),
            );
            if old == new || (old_empty && new_empty) {
                return None;
            }
            Some(match path.as_str() {
                "secret_digest" => v1::FieldChange {
                    path: "secret".to_owned(),
                    before: if old_empty {
                        String::new()
                    } else {
                        "(secret)".to_owned()
                    },
                    after: if new_empty {
                        String::new()
                    } else {
                        "(secret)".to_owned()
                    },
                },
                _ => v1::FieldChange {
                    path: path.clone(),
                    before: text(old, old_empty),
                    after: text(new, new_empty),
                },
            })
        })
        .collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) | Value::Object(_) => false,
    }
}

fn text(value: Option<Value>, empty: bool) -> String {
    match value {
        Some(value) if !empty => value.to_string(),
        _ => String::new(),
    }
}

/// Leaves with their dotted paths; lists are leaves, and secrets are left out.
fn flatten(prefix: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    let Some(map) = value.as_object() else { return };
    for (name, value) in map {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let hidden = prefix.is_empty()
            && (OUTPUT_ONLY.contains(&name.as_str())
                || NAMES.contains(&name.as_str())
                || matches!(name.as_str(), "secret" | "private_key"));
        if hidden {
            continue;
        }
        if value.is_object() {
            flatten(&path, value, leaves);
        } else {
            leaves.push((path, value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]

    use super::*;

    fn pool(range: &str, description: &str) -> Resource {
        Resource::AddressPool(v1::AddressPool {
            tenant: "acme".into(),
            name: "v4".into(),
            range: range.into(),
            description: description.into(),
            resource_version: description.into(),
            ..Default::default()
        })
    }

    #[test]
    fn a_mask_copies_what_it_names() {
        let (current, wanted) = (pool("10.0.0.0/8", "old"), pool("10.1.0.0/16", "new"));
        let merged = overlay(&current, &wanted, &["description".into()]).unwrap();
        let Resource::AddressPool(merged) = merged else {
            panic!()
        };
        assert_eq!(
            (merged.range.as_str(), merged.description.as_str()),
            ("10.0.0.0/8", "new")
        );
        let error = overlay(&current, &wanted, &["descriptoin".into()]).unwrap_err();
        assert!(
            error.to_string().contains("descriptoin") && error.to_string().contains("description"),
            "{error}"
        );
        assert!(overlay(&current, &wanted, &["capacity".into()]).is_err());
    }

    #[test]
    fn masks_reach_into_messages() {
        let tenant = |mtu, netns: &str| {
            Resource::Tenant(v1::Tenant {
                name: "acme".into(),
                routing_domain: Some(v1::RoutingDomain {
                    mtu,
                    netns: netns.into(),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        let merged = overlay(
            &tenant(1400, "a"),
            &tenant(1300, "b"),
            &["routing_domain.mtu".into()],
        )
        .unwrap();
        assert_eq!(merged, tenant(1300, "a"));
    }

    #[test]
    fn changes_are_by_field_and_hide_secrets() {
        let found = changes(
            Some(&pool("10.0.0.0/8", "old")),
            Some(&pool("10.1.0.0/16", "old")),
        );
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].path.as_str(), found[0].after.as_str()),
            ("range", "\"10.1.0.0/16\"")
        );
        let credential = |secret: &str, digest: &str| {
            Resource::Credential(v1::Credential {
                secret: secret.into(),
                secret_digest: digest.into(),
                ..Default::default()
            })
        };
        let found = changes(Some(&credential("alpha", "1")), Some(&credential("beta", "2")));
        assert_eq!(
            found,
            [v1::FieldChange {
                path: "secret".into(),
                before: "(secret)".into(),
                after: "(secret)".into()
            }]
        );
        assert!(changes(Some(&pool("10.0.0.0/8", "a")), Some(&pool("10.0.0.0/8", "a"))).is_empty());
    }
}
