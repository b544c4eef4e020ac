//! Tenants of the cluster, and real clients (strongSwan) of them.

use std::path::Path;

use anyhow::Context as _;

use super::world::{POOL, POOL_GLOBEX, POOL_V6, World, service_address};
use crate::Result;
use crate::net::Folder;
use crate::pki::{self, Key, Pair, Request, Validity};
use crate::swan::Swan;

/// The pre-shared key of a tenant's users.
pub fn secret(tenant: &str) -> String {
    format!("the cluster secret of {tenant}")
}

/// The authority and what it has issued.
#[derive(Debug)]
pub struct Authority {
    folder: Folder,
    pair: Pair,
}

impl Authority {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let folder = Folder::new("cluster-pki")?;
        let pair = pki::authority(folder.path(), "authority", Key::Ecdsa(256))?;
        Ok(Self { folder, pair })
    }

    fn issue(&self, name: &str, key: Key, alternative: &str, usage: &str) -> Result<Pair> {
        pki::issue(
            self.folder.path(),
            &self.pair,
            &Request {
                name,
                key,
                alternative_names: &[alternative],
                usages: &[usage],
                validity: Validity::Valid,
                is_authority: false,
            },
        )
    }

    /// The resources of both tenants, as an operator would write them.
    pub fn resources(&self) -> Result<String> {
        let gateway = self.issue(
            "acme.vpn.example",
            Key::Ecdsa(256),
            "acme.vpn.example",
            "serverAuth",
        )?;
        Ok(format!(
            "{}---\n{}---\n{}",
            tenant("acme", POOL),
            certificates(&gateway, &self.pair.certificate),
            tenant("globex", POOL_GLOBEX)
        ))
    }
}

fn tenant(name: &str, pool: &str) -> String {
    let secret = secret(name);
    let (v6, pools, anchors) = if name == "acme" {
        (
            format!("---\nkind: AddressPool\ntenant: {name}\nname: v6\nrange: {POOL_V6}\n"),
            "[ v4, v6 ]",
            "trust_anchors: [ authority ]\n",
        )
    } else {
        (String::new(), "[ v4 ]", "")
    };
    format!(
        "kind: Tenant\nname: {name}\nrouting_domain: {{ device: vpn-{name}, mtu: 1400 }}\ngateway_ids: [ {name}.vpn.example ]\n\
         limits: {{ max_sessions: 40000, max_half_open: 20000 }}\n{anchors}\
         ---\nkind: AddressPool\ntenant: {name}\nname: v4\nrange: {pool}\n{v6}\
         ---\nkind: Credential\ntenant: {name}\nname: users\ntype: psk\nids: [ \"*@corp.example\", \"*@load.example\" ]\nsecret: \"{secret}\"\n\
         ---\nkind: Connection\ntenant: {name}\nname: psk\nlocal_id: {name}.vpn.example\nremote_ids: [ \"*@corp.example\", \"*@load.example\" ]\n\
         auth: psk\nike_proposals: [ aes256gcm16-prfsha384-ecp384, aes256gcm16-prfsha256-x25519 ]\nesp_proposals: [ aes256gcm16 ]\n\
         local_ts: [ 10.97.0.0/24, \"fd97::/64\" ]\npools: {pools}\ndpd_secs: 20\nper_resource_sas: auto\n"
    )
}

fn certificates(gateway: &Pair, authority: &Path) -> String {
    format!(
        "kind: Credential\ntenant: acme\nname: authority\ntype: ca_certificate\ncertificates_file: \"{}\"\n\
         ---\nkind: Credential\ntenant: acme\nname: gateway\ntype: private_key\ncertificates_file: \"{}\"\nprivate_key_file: \"{}\"\n\
         ---\nkind: Connection\ntenant: acme\nname: certificates\nlocal_id: acme.vpn.example\nremote_ids: [ \"*@cert.example\" ]\n\
         auth: certificate\ncertificate: gateway\n\
         ike_proposals: [ aes256gcm16-prfsha384-ecp384 ]\nesp_proposals: [ aes256gcm16 ]\n\
         local_ts: [ 10.97.0.0/24, \"fd97::/64\" ]\npools: [ v4, v6 ]\ndpd_secs: 20\n",
        authority.display(),
        gateway.certificate.display(),
        gateway.key.display(),
    )
}

/// A real client at a slot.
#[derive(Debug)]
pub struct Client {
    /// Its charon.
    pub swan: Swan,
    /// Its number in the world.
    pub index: usize,
    /// The slot whose address it uses.
    pub slot: u8,
    /// Its identity.
    pub identity: String,
}

/// How a client is configured; the rest is as strongSwan has it.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The gateway's address, if not that of the slot.
    pub gateway: Option<String>,
    /// Whether it proves itself with a certificate.
    pub certificate: Option<Key>,
    /// `rekey_time` of the child, 0 for never.
    pub child_rekey_secs: u32,
    /// `rekey_time` of the IKE SA, 0 for never.
    pub ike_rekey_secs: u32,
    /// Lines for charon's own section.
    pub charon: String,
    /// Lines for the connection.
    pub extra: String,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            gateway: None,
            certificate: None,
            child_rekey_secs: 0,
            ike_rekey_secs: 0,
            charon: String::new(),
            extra: "dpd_delay = 15".to_owned(),
        }
    }
}

impl Client {
    /// Starts client `index` for a slot, without logging in.
    pub fn start(
        world: &World,
        authority: &Authority,
        index: usize,
        slot: u8,
        setting: &Setting,
    ) -> Result<Self> {
        let host = world.clients.get(index).context("no such client")?;
        let swan = Swan::start(host, &setting.charon)?;
        swan.install("x509ca", &authority.pair.certificate)?;
        // Behind the NAT it finds out by itself that it must encapsulate; elsewhere it has to be told, for it has no raw ESP.
        let encap = if index < 2 { "no" } else { "yes" };
        let gateway = setting.gateway.clone().unwrap_or_else(|| service_address(slot));
        let (identity, local, remote, secrets);
        if let Some(key) = setting.certificate {
            identity = format!("client{index}@cert.example");
            let pair = authority.issue(&format!("client{index}"), key, &identity, "clientAuth")?;
            swan.install("x509", &pair.certificate)?;
            swan.install("private", &pair.key)?;
            local = format!("auth = pubkey\n certs = client{index}.cert.pem\n id = {identity}");
            remote = "auth = pubkey\n id = acme.vpn.example";
            secrets = String::new();
        } else {
            identity = format!("client{index}@corp.example");
            local = format!("auth = psk\n id = {identity}");
            remote = "auth = psk\n id = acme.vpn.example";
            secrets = format!("\nsecrets {{ ike-a {{ secret = \"{}\" }} }}", secret("acme"));
        }
        swan.load(&format!(
            "connections {{ vpn {{\n version = 2\n remote_addrs = {gateway}\n vips = 0.0.0.0\n encap = {encap}\n \
             proposals = aes256gcm16-prfsha384-ecp384\n fragmentation = yes\n rekey_time = {ike}\n {extra}\n local {{ {local}\n }}\n \
             remote {{ {remote}\n }}\n children {{ net {{\n remote_ts = 10.97.0.0/24\n esp_proposals = aes256gcm16\n \
             rekey_time = {child}\n }} }} }} }}{secrets}",
            ike = setting.ike_rekey_secs,
            child = setting.child_rekey_secs,
            extra = setting.extra,
        ))?;
        Ok(Self {
            swan,
            index,
            slot,
            identity,
        })
    }

    /// Logs in.
    pub fn login(&self) -> Result<()> {
        self.swan
            .initiate("net")
            .map(drop)
            .with_context(|| format!("client{}:\n{}", self.index, self.swan.log()))
    }

    /// How many logins it has begun. A rekey of the IKE SA that the client begins is logged in the same words.
    pub fn logins(&self) -> usize {
        let log = self.swan.log();
        let rekeys = log.matches("=> REKEYING").count();
        log.matches("initiating IKE_SA vpn")
            .count()
            .saturating_sub(rekeys)
    }

    /// Whether its tunnel carries a packet to the server and back.
    pub fn works(&self, world: &World) -> Result<bool> {
        let host = world.clients.get(self.index).context("no such client")?;
        Ok(host.ping(super::world::SERVER, 3, "0.2")? > 0)
    }
}
