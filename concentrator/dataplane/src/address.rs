//! A service address of a cluster's slot and the interface it belongs on, and what moves it from node to node: added and
//! removed by rtnetlink, announced to the neighbours, the interface's carrier watched.
//!
//! All of it works on the network namespace of the calling thread, from any thread, with system calls that do not wait for
//! the network.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dataplane::{Address, addresses};
//! let address: Address = "192.0.2.100/24@eth0".parse()?;
//! addresses::add(&address)?;
//! addresses::announce(&address)?;
//! # Ok(()) }
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The longest name of an interface in octets: IFNAMSIZ less the final zero.
const MAX_NAME: usize = 15;

/// An address with the length of its prefix on an interface, written `192.0.2.100/24@eth0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The address and its prefix length.
    pub net: IpNet,
    /// Name of the interface, 1 to 15 octets.
    pub interface: String,
}

/// Why a text is no [`Address`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not an address with prefix and interface, as in 192.0.2.100/24@eth0: {why}")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl Address {
    /// The address alone.
    pub fn ip(&self) -> IpAddr {
        self.net.addr()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why| AddressError {
            text: text.to_owned(),
            why,
        };
        let (net, interface) = text
            .split_once('@')
            .ok_or_else(|| wrong("the interface is missing"))?;
        let net: IpNet = net
            .parse()
            .map_err(|_| wrong("the part before @ is no address with a prefix length"))?;
        let is_name = (1..=MAX_NAME).contains(&interface.len())
            && !matches!(interface, "." | "..")
            && interface
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'@'));
        if !is_name {
            return Err(wrong("the part behind @ is no name of an interface"));
        }
        let ip = net.addr();
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(wrong("it is not the address of one host"));
        }
        Ok(Self {
            net,
            interface: interface.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.net, self.interface)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// What is done with an [`Address`].
pub mod addresses {
    use std::io;

    use super::Address;
    use crate::sys::announce;
    use crate::sys::netlink::{Netlink, device_index};

    pub use crate::sys::links::{LinkEvent, LinkEvents};

    /// Puts the address on its interface; false if it is there already. It can be used at once: an IPv6 address is not
    /// probed for duplicates, and is never chosen as the source of a connection that names none. An IPv4 address stays when
    /// another one of the same prefix, which came before it, is removed.
    ///
    /// # Errors
    /// The system's reason; no such interface, for one.
    pub fn add(address: &Address) -> io::Result<bool> {
        let index = index(address)?;
        let netlink = Netlink::open()?;
        if address.net.addr().is_ipv4() {
            // Where the kernel refuses it, the addresses of one prefix should be removed last come, first gone.
            let _ = netlink.promote_secondaries(index);
        }
        match netlink.add_floating_address(index, address.net) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(named(address, e)),
        }
    }

    /// Takes the address from its interface; false if it was not there, or the interface is not.
    ///
    /// # Errors
    /// The system's reason.
    pub fn remove(address: &Address) -> io::Result<bool> {
        let index = match device_index(&address.interface) {
            Err(e) if is_no_device(&e) => return Ok(false),
            other => other.map_err(|e| named(address, e))?,
        };
        match Netlink::open()?.del_address(index, address.net) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
            Err(e) => Err(named(address, e)),
        }
    }

    /// Whether the address is on its interface, whatever put it there.
    ///
    /// # Errors
    /// The system's reason; a missing interface is none.
    pub fn present(address: &Address) -> io::Result<bool> {
        match device_index(&address.interface) {
            Err(e) if is_no_device(&e) => Ok(false),
            Err(e) => Err(named(address, e)),
            Ok(index) => Netlink::open()?
                .has_address(index, address.net)
                .map_err(|e| named(address, e)),
        }
    }

    /// Tells the neighbours on the interface that the address is here: for IPv4 by gratuitous ARP, once as a request and
    /// once as a reply (some hosts heed only one of them), for IPv6 by an unsolicited neighbour advertisement with the
    /// Override flag to all nodes (RFC 4861 section 7.2.6). Does not wait; frames get lost, so repeat it.
    ///
    /// # Errors
    /// The system's reason; an interface without Ethernet addresses is one.
    pub fn announce(address: &Address) -> io::Result<()> {
        let index = index(address)?;
        let no_mac = || {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "the interface has no Ethernet address",
            )
        };
        Netlink::open()
            .and_then(|netlink| netlink.link(index)?.mac.ok_or_else(no_mac))
            .and_then(|mac| announce::announce(index, &address.interface, mac, address.net.addr()))
            .map_err(|e| named(address, e))
    }

    /// Whether the interface is up and has a carrier, at this moment: the kernel may tell [`link_events`] of a lost carrier
    /// up to a second later.
    ///
    /// # Errors
    /// The system's reason; no such interface, for one.
    pub fn carrier(interface: &str) -> io::Result<bool> {
        let failed = |e: io::Error| io::Error::new(e.kind(), format!("{interface}: {e}"));
        let index = device_index(interface).map_err(failed)?;
        let link = Netlink::open()?.link(index).map_err(failed)?;
        Ok(link.carrier)
    }

    /// Changes of all interfaces from now on, as a descriptor to wait for.
    ///
    /// # Errors
    /// The system's reason.
    pub fn link_events() -> io::Result<LinkEvents> {
        LinkEvents::open()
    }

    fn index(address: &Address) -> io::Result<u32> {
        device_index(&address.interface).map_err(|e| named(address, e))
    }

    fn named(address: &Address, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{address}: {error}"))
    }

    fn is_no_device(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn texts_come_back_as_they_were() {
        for text in [
            "192.0.2.100/24@eth0",
            "2001:db8:2::100/64@bond0.12",
            "10.0.0.1/32@x",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (text, why) in [
            ("192.0.2.100/24", "interface is missing"),
            ("192.0.2.100@eth0", "prefix length"),
            ("192.0.2.100/33@eth0", "prefix length"),
            ("192.0.2.100/24@", "name of an interface"),
            ("192.0.2.100/24@sixteen-octets-x", "name of an interface"),
            ("192.0.2.100/24@a/b", "name of an interface"),
            ("192.0.2.100/24@a b", "name of an interface"),
            ("192.0.2.100/24@..", "name of an interface"),
            ("0.0.0.0/0@eth0", "one host"),
            ("ff02::1/64@eth0", "one host"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Address>("\"nonsense\"").is_err());
    }
}
