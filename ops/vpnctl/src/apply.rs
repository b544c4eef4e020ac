//! `vpnctl apply`: YAML documents made into resources.
//!
//! ```yaml
//! kind: Credential          # Tenant, Connection, AddressPool or Credential
//! tenant: acme
//! name: gateway
//! type: private_key         # a credential's own kind
//! private_key_file: gw.key  # read from beside this file
//! ```

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use api::v1::resource::Resource as Kind;
use api::v1::{ApplyRequest, ChangeAction, Resource, apply_service_client::ApplyServiceClient};
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::Value;
use tonic::transport::Channel;

use crate::output::Output;

/// Files larger than this are refused.
const MAX_FILE: u64 = 16 << 20;

/// Reads every document of the files.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = if name == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(MAX_FILE)
                .read_to_string(&mut text)
                .context("standard input")?;
            text
        } else {
            bounded(file)?
        };
        let folder = file
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
            let place = || format!("{name}, document {}", index + 1);
            let value = Value::deserialize(document).with_context(place)?;
            if !value.is_null() {
                resources.push(resource(value, folder).with_context(place)?);
            }
        }
    }
    if resources.is_empty() {
        bail!("there is no resource in the files");
    }
    Ok(resources)
}

fn bounded(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if size > MAX_FILE {
        bail!("{} is larger than {MAX_FILE} octets", path.display());
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn resource(value: Value, folder: &Path) -> Result<Resource> {
    let Value::Object(mut fields) = value else {
        bail!("a document must be a mapping with a `kind`")
    };
    let kind = match fields.remove("kind") {
        Some(Value::String(kind)) => kind,
        _ => bail!("`kind` is missing: Tenant, Connection, AddressPool or Credential"),
    };
    if kind == "Credential" {
        if let Some(own) = fields.remove("type") {
            fields.insert("kind".to_owned(), own);
        }
        for field in ["certificates", "private_key", "secret"] {
            let Some(file) = fields.remove(&format!("{field}_file")) else {
                continue;
            };
            let file = file
                .as_str()
                .with_context(|| format!("`{field}_file` must be a path"))?
                .to_owned();
            if fields.contains_key(field) {
                bail!("`{field}` and `{field}_file` are both there");
            }
            let text = bounded(&folder.join(file))?;
            let text = if field == "secret" {
                text.trim_end_matches(['\r', '\n']).to_owned()
            } else {
                text
            };
            fields.insert(field.to_owned(), Value::String(text));
        }
    }
    let fields = Value::Object(fields);
    let resource = match kind.as_str() {
        "Tenant" => Kind::Tenant(typed(fields)?),
        "Connection" => Kind::Connection(typed(fields)?),
        "AddressPool" => Kind::AddressPool(typed(fields)?),
        "Credential" => Kind::Credential(typed(fields)?),
        other => bail!("`kind` is {other:?}: it must be Tenant, Connection, AddressPool or Credential"),
    };
    Ok(Resource {
        resource: Some(resource),
    })
}

fn typed<T: DeserializeOwned>(fields: Value) -> Result<T> {
    let name = fields
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or("without a name")
        .to_owned();
    serde_json::from_value(fields).with_context(|| format!("resource {name}"))
}

/// Sends them, and says what has changed.
pub(crate) async fn send(
    channel: Channel,
    resources: Vec<Resource>,
    dry_run: bool,
    output: &Output,
) -> Result<()> {
    let request = ApplyRequest {
        resources,
        validate_only: dry_run,
    };
    let answer = ApplyServiceClient::new(channel)
        .apply(request)
        .await?
        .into_inner();
    if !output.is_table() {
        return output.value(&answer.changes);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &answer.changes {
        let (mark, word) = match change.action() {
            ChangeAction::Create => ("+", "created"),
            ChangeAction::Update => ("~", "updated"),
            ChangeAction::Delete => ("-", "deleted"),
            ChangeAction::Unchanged | ChangeAction::Unspecified => (" ", "unchanged"),
        };
        *counts.entry(word).or_default() += 1;
        let name = if change.tenant.is_empty() || change.tenant == change.name {
            change.name.clone()
        } else {
            format!("{}/{}", change.tenant, change.name)
        };
        output.line(&format!("{mark} {} {name}", change.kind))?;
        if change.action() == ChangeAction::Update {
            for field in &change.fields {
                output.line(&format!("    {}: {} → {}", field.path, field.before, field.after))?;
            }
        }
    }
    let words: Vec<_> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    eprintln!(
        "{}{}",
        words.join(", "),
        if dry_run {
            " (dry run: nothing was written)"
        } else {
            ""
        }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Resource>> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("psk"), "hush\n")?;
        let file = folder.path().join("x.yaml");
        std::fs::write(&file, text)?;
        read(&[file])
    }

    #[test]
    fn documents_become_resources() {
        let text = "kind: Tenant\nname: acme\n---\nkind: Credential\ntenant: acme\nname: users\ntype: psk\nsecret_file: psk\n";
        let resources = parse(text).unwrap();
        assert_eq!(resources.len(), 2);
        let Some(Kind::Credential(credential)) = resources[1].resource.clone() else {
            panic!("no credential")
        };
        assert_eq!(credential.secret, "hush");
        assert_eq!(credential.kind(), api::v1::CredentialKind::Psk);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("name: acme", "`kind` is missing"),
            ("kind: Tennant\nname: acme", "Tennant"),
            ("kind: Tenant\nnmae: acme", "nmae"),
            ("kind: Connection\nname: c\nauth: eap", "psk, certificate"),
            ("kind: Credential\nname: c\nsecret: a\nsecret_file: psk", "both"),
            ("kind: Credential\nname: c\nsecret_file: absent", "absent"),
            ("- 1", "mapping"),
            ("", "no resource"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
