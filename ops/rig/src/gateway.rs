//! The usual gateway of the tests: a concentrator with two tenants that look alike from inside.
//!
//! Both tenants have the same inner prefix, the same pool and the same users; only the gateway's name by which a client
//! asks (IDr), the keys and the authorities differ.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::Result;
use crate::daemon::{Daemon, Settings};
use crate::net::{Folder, Host};
use crate::pki::{self, Key, Pair, Request, Validity};
use crate::process::wait_for;
use crate::swan::Swan;
use crate::world::{GATEWAY_V4, GATEWAY_V6, World};

/// The key of every user of a tenant, who logs in without a certificate.
pub fn secret(tenant: &str) -> String {
    format!("the secret of {tenant}")
}

/// A gateway in its world.
#[derive(Debug)]
pub struct Gateway {
    /// The concentrator; first, so that it ends before its namespaces do.
    pub daemon: Daemon,
    /// The hosts.
    pub world: World,
    /// The certificates.
    pub pki: Folder,
    /// The authority of the kind of key that the tenants' gateways have.
    pub authority: Pair,
}

impl Gateway {
    /// Starts it with tenants `acme` and `globex`; the gateway's own keys are of `key`.
    pub fn start(key: Key, settings: Settings) -> Result<Self> {
        Self::start_on(&[GATEWAY_V4, GATEWAY_V6], key, settings)
    }

    /// The same on these addresses; those that the world's gateway does not have are added, IPv4 only.
    pub fn start_on(addresses: &[&str], key: Key, settings: Settings) -> Result<Self> {
        let world = World::new(&["acme", "globex"])?;
        for address in addresses {
            if ![GATEWAY_V4, GATEWAY_V6].contains(address) {
                world.gateway.address("eth0", &format!("{address}/24"))?;
            }
        }
        let pki = Folder::new("pki")?;
        let authority = pki::authority(pki.path(), "authority", key)?;
        let mut settings = settings;
        settings.listen = addresses.iter().map(|address| (*address).to_owned()).collect();
        let daemon = Daemon::start(&world.gateway, &settings)?;
        let gateway = Self {
            daemon,
            world,
            pki,
            authority,
        };
        for tenant in ["acme", "globex"] {
            gateway.add_tenant(tenant, key)?;
        }
        Ok(gateway)
    }

    fn add_tenant(&self, tenant: &str, key: Key) -> Result<()> {
        let name = format!("{tenant}.vpn.example");
        // A chain of three with long keys does not fit into one datagram: this is what fragmentation is for.
        let issuer = self.issuer(tenant, key)?;
        let pair = self.issue(&issuer, &name, key, &[&name], &["serverAuth"], Validity::Valid)?;
        let chain = [read(&pair.certificate)?, read(&issuer.certificate)?].concat();
        self.daemon.folder();
        let folder = self.pki.path();
        std::fs::write(folder.join(format!("{tenant}.chain.pem")), chain)?;
        let yaml = resources(
            tenant,
            self.world.site(tenant)?.domain.name(),
            folder,
            &pair,
            &self.authority,
        );
        self.daemon.apply(&format!("{tenant}.yaml"), &yaml)?;
        Ok(())
    }

    fn issuer(&self, tenant: &str, key: Key) -> Result<Pair> {
        let name = format!("{tenant} issuing");
        let request = Request {
            name: &name,
            key,
            alternative_names: &[],
            usages: &[],
            validity: Validity::Valid,
            is_authority: true,
        };
        pki::issue(self.pki.path(), &self.authority, &request)
    }

    /// Issues a leaf certificate.
    pub fn issue(
        &self,
        issuer: &Pair,
        name: &str,
        key: Key,
        alternative_names: &[&str],
        usages: &[&str],
        validity: Validity,
    ) -> Result<Pair> {
        pki::issue(
            self.pki.path(),
            issuer,
            &Request {
                name,
                key,
                alternative_names,
                usages,
                validity,
                is_authority: false,
            },
        )
    }

    /// A user's certificate, straight from the authority.
    pub fn user(&self, name: &str, key: Key, validity: Validity) -> Result<Pair> {
        let mail = format!("{name}@corp.example");
        self.issue(&self.authority, name, key, &[&mail], &["clientAuth"], validity)
    }

    /// A client that will log in with the tenant's secret as `identity`.
    pub fn psk_client(&self, host: &Host, tenant: &str, identity: &str, options: &Options) -> Result<Swan> {
        let swan = Swan::start(host, &options.charon)?;
        swan.install("x509ca", &self.authority.certificate)?;
        let local = format!("auth = psk\n id = {identity}");
        let remote = format!("auth = psk\n id = {tenant}.vpn.example");
        let secret = options.secret.clone().unwrap_or_else(|| secret(tenant));
        swan.load(&format!(
            "{}\nsecrets {{ ike-a {{ secret = \"{secret}\" }} }}",
            connection(&local, &remote, options)
        ))?;
        Ok(swan)
    }

    /// A client that will log in with a certificate.
    pub fn certificate_client(
        &self,
        host: &Host,
        tenant: &str,
        pair: &Pair,
        identity: &str,
        options: &Options,
    ) -> Result<Swan> {
        let swan = Swan::start(host, &options.charon)?;
        swan.install("x509ca", &self.authority.certificate)?;
        swan.install("x509", &pair.certificate)?;
        swan.install("private", &pair.key)?;
        let certificate = pair
            .certificate
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        let local = format!("auth = pubkey\n certs = \"{certificate}\"\n id = {identity}");
        let remote = format!("auth = pubkey\n id = {tenant}.vpn.example");
        swan.load(&connection(&local, &remote, options))?;
        Ok(swan)
    }

    /// The sessions as `vpnctl` tells them.
    pub fn sessions(&self) -> Result<Vec<serde_json::Value>> {
        let answer = self.daemon.query(&["sessions"])?;
        list(&answer, "sessions")
    }

    /// Waits until there are so many sessions.
    pub fn expect_sessions(&self, count: usize) -> Result<Vec<serde_json::Value>> {
        let mut last = Vec::new();
        wait_for(&format!("{count} sessions"), Duration::from_secs(10), || {
            last = self.sessions()?;
            Ok(last.len() == count)
        })
        .with_context(|| format!("there are {}: {last:?}", last.len()))?;
        Ok(last)
    }

    /// The newest login attempts, newest first.
    pub fn attempts(&self) -> Result<Vec<serde_json::Value>> {
        let answer = self.daemon.query(&["attempts"])?;
        list(&answer, "attempts")
    }
}

fn list(answer: &serde_json::Value, key: &str) -> Result<Vec<serde_json::Value>> {
    let array = answer
        .as_array()
        .or_else(|| answer.get(key).and_then(serde_json::Value::as_array));
    Ok(array.with_context(|| format!("no list in {answer}"))?.clone())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// What differs between the clients of the tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's address.
    pub gateway: String,
    /// Pretend to be behind a NAT (the user-space ESP of this client can do no other).
    pub encap: bool,
    /// The IKE proposals.
    pub proposals: String,
    /// The ESP proposals.
    pub esp_proposals: String,
    /// Another secret than the right one.
    pub secret: Option<String>,
    /// Lines for the section of the connection.
    pub extra: String,
    /// Lines for the configuration of charon.
    pub charon: String,
    /// The networks asked for.
    pub remote_ts: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gateway: GATEWAY_V4.to_owned(),
            encap: false,
            proposals: "aes256gcm16-prfsha384-ecp384,aes256-sha256-modp2048".to_owned(),
            esp_proposals: "aes256gcm16,aes256-sha256".to_owned(),
            secret: None,
            extra: String::new(),
            charon: String::new(),
            remote_ts: "10.20.0.0/24,fd20::/64".to_owned(),
        }
    }
}

impl Options {
    /// For a host that is not behind a NAT.
    pub fn direct() -> Self {
        Self {
            encap: true,
            ..Self::default()
        }
    }
}

fn connection(local: &str, remote: &str, options: &Options) -> String {
    let encap = if options.encap { "yes" } else { "no" };
    format!(
        "connections {{ vpn {{\n version = 2\n remote_addrs = {}\n vips = 0.0.0.0,::\n encap = {encap}\n proposals = {}\n \
         fragmentation = yes\n {}\n local {{ {local}\n }}\n remote {{ {remote}\n }}\n children {{ net {{\n \
         remote_ts = {}\n esp_proposals = {}\n rekey_time = 0\n }} }} }} }}",
        options.gateway, options.proposals, options.extra, options.remote_ts, options.esp_proposals,
    )
}

/// The tenant's resources as an operator would write them.
pub fn resources(tenant: &str, netns: &str, folder: &Path, gateway: &Pair, authority: &Pair) -> String {
    let secret = secret(tenant);
    let chain = folder.join(format!("{tenant}.chain.pem"));
    format!(
        "kind: Tenant\nname: {tenant}\nrouting_domain: {{ netns: {netns}, device: vpn0, mtu: 1400 }}\n\
         limits: {{ max_sessions: 100000, max_half_open: 20000 }}\ngateway_ids: [ {tenant}.vpn.example ]\ntrust_anchors: [ authority ]\n\
         ---\nkind: AddressPool\ntenant: {tenant}\nname: v4\nrange: 10.30.0.0/24\n\
         ---\nkind: AddressPool\ntenant: {tenant}\nname: v6\nrange: fd30::/112\n\
         ---\nkind: Credential\ntenant: {tenant}\nname: users\ntype: psk\nids: [ \"*@corp.example\" ]\nsecret: \"{secret}\"\n\
         ---\nkind: Credential\ntenant: {tenant}\nname: authority\ntype: ca_certificate\ncertificates_file: \"{authority}\"\n\
         ---\nkind: Credential\ntenant: {tenant}\nname: gateway\ntype: private_key\ncertificates_file: \"{chain}\"\nprivate_key_file: \"{key}\"\n\
         ---\nkind: Connection\ntenant: {tenant}\nname: psk\nlocal_id: {tenant}.vpn.example\nremote_ids: [ \"*@corp.example\" ]\n\
         auth: psk\nike_proposals: [ aes256gcm16-prfsha384-ecp384, aes256-sha256-modp2048, aes128gcm16-prfsha256-x25519, aes256-sha384-modp4096, aes128ctr-sha256-ecp256 ]\n\
         esp_proposals: [ aes256gcm16, aes256gcm16-ecp384, aes128gcm16, aes256-sha256, aes128-sha1, chacha20poly1305, aes256ctr-sha512 ]\n\
         local_ts: [ 10.20.0.0/24, \"fd20::/64\" ]\npools: [ v4, v6 ]\ndns: [ 10.20.0.2 ]\ndpd_secs: 5\nper_resource_sas: auto\n\
         ---\nkind: Connection\ntenant: {tenant}\nname: certificates\nlocal_id: {tenant}.vpn.example\nremote_ids: [ \"*@corp.example\" ]\n\
         auth: certificate\ncertificate: gateway\nlocal_ts: [ 10.20.0.0/24, \"fd20::/64\" ]\npools: [ v4, v6 ]\ndns: [ 10.20.0.2 ]\n\
         ike_proposals: [ aes256gcm16-prfsha384-ecp384, aes256-sha256-modp2048 ]\nesp_proposals: [ aes256gcm16, aes256-sha256 ]\n",
        authority = authority.certificate.display(),
        chain = chain.display(),
        key = gateway.key.display(),
    )
}
