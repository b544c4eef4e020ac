//! The standard small Internet of the tests.

use crate::Result;
use crate::net::Host;

/// The gateway's public addresses.
pub const GATEWAY_V4: &str = "198.51.100.2";
/// See [`GATEWAY_V4`].
pub const GATEWAY_V6: &str = "2001:db8:51::2";
/// The server that each tenant has behind the gateway.
pub const SERVER_V4: &str = "10.20.0.2";
/// See [`SERVER_V4`].
pub const SERVER_V6: &str = "fd20::2";

/// A tenant's own network: its routing domain and the server in it.
#[derive(Debug)]
pub struct Site {
    /// The tenant's name.
    pub name: String,
    /// The routing domain in which the concentrator puts the tenant's TUN device.
    pub domain: Host,
    /// The server.
    pub server: Host,
}

/// All hosts; see the picture at the top of the crate.
#[derive(Debug)]
pub struct World {
    /// A client behind the NAT.
    pub home: Host,
    /// The NAT.
    pub nat: Host,
    /// The Internet: one router.
    pub inet: Host,
    /// A client with a public address (IPv4 and IPv6).
    pub direct: Host,
    /// The gateway.
    pub gateway: Host,
    /// The tenants' networks.
    pub sites: Vec<Site>,
}

impl World {
    /// Builds it with a site for each name.
    pub fn new(sites: &[&str]) -> Result<Self> {
        crate::cleanup::sweep();
        let inet = Host::new("inet")?;
        inet.forward()?;
        let gateway = Host::new("gw")?;
        gateway.link("eth0", &inet, "to-gw")?;
        gateway.address("eth0", "198.51.100.2/24")?;
        gateway.address("eth0", "2001:db8:51::2/64")?;
        inet.address("to-gw", "198.51.100.1/24")?;
        inet.address("to-gw", "2001:db8:51::1/64")?;
        gateway.route("default", "198.51.100.1")?;
        gateway.route("default", "2001:db8:51::1")?;

        let nat = Host::new("nat")?;
        nat.forward()?;
        nat.link("out", &inet, "to-nat")?;
        nat.address("out", "203.0.113.2/24")?;
        inet.address("to-nat", "203.0.113.1/24")?;
        nat.route("default", "203.0.113.1")?;
        nat.run(&["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oifname out masquerade"])?;

        let home = Host::new("home")?;
        home.link("eth0", &nat, "in")?;
        home.address("eth0", "10.99.0.2/24")?;
        nat.address("in", "10.99.0.1/24")?;
        home.route("default", "10.99.0.1")?;

        let direct = Host::new("direct")?;
        direct.link("eth0", &inet, "to-direct")?;
        direct.address("eth0", "192.0.2.2/24")?;
        direct.address("eth0", "2001:db8:2::2/64")?;
        inet.address("to-direct", "192.0.2.1/24")?;
        inet.address("to-direct", "2001:db8:2::1/64")?;
        direct.route("default", "192.0.2.1")?;
        direct.route("default", "2001:db8:2::1")?;

        let sites = sites
            .iter()
            .map(|name| Site::new(name))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            home,
            nat,
            inet,
            direct,
            gateway,
            sites,
        })
    }

    /// The site of a tenant.
    pub fn site(&self, name: &str) -> Result<&Site> {
        self.sites
            .iter()
            .find(|s| s.name == name)
            .ok_or_else(|| anyhow::anyhow!("no site {name}"))
    }
}

impl Site {
    fn new(name: &str) -> Result<Self> {
        let domain = Host::new(name)?;
        domain.forward()?;
        let server = Host::new(&format!("srv-{name}"))?;
        domain.link("lan", &server, "eth0")?;
        domain.address("lan", "10.20.0.1/24")?;
        domain.address("lan", "fd20::1/64")?;
        server.address("eth0", "10.20.0.2/24")?;
        server.address("eth0", "fd20::2/64")?;
        server.route("default", "10.20.0.1")?;
        server.route("default", "fd20::1")?;
        Ok(Self {
            name: name.to_owned(),
            domain,
            server,
        })
    }
}
