//! Inner packets and the sets of them that a security association carries: selectors, narrowing, packet summaries,
//! Internet checksums. Performs no I/O, allocates only where a list is returned, and cannot panic on any input.
//!
//! ```
//! use ip::{Selector, narrow};
//! let wanted: Selector = "0.0.0.0/0".parse()?;
//! let policy: Selector = "10.1.0.0/16[tcp/443]".parse()?;
//! assert_eq!(narrow(&[wanted], &[policy]), vec![policy]);
//! # Ok::<(), ip::SelectorError>(())
//! ```
#![deny(clippy::indexing_slicing, missing_docs)]

pub mod checksum;
pub mod fragment;
pub mod icmp;
pub mod packet;
mod selector;
mod selector_text;
mod usual;

pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use selector::{MAX_NARROWED, Selector, SelectorError, narrow};
pub use usual::Usual;

/// Next-layer protocol numbers (IANA "Assigned Internet Protocol Numbers") that this workspace names.
pub mod protocol {
    /// Any protocol, in a selector (RFC 7296 section 3.13.1). As an IPv6 next header: hop-by-hop options.
    pub const ANY: u8 = 0;
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// IPv4 within another header: the next header of a tunnel-mode packet (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 within another header.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const IPV6_ROUTE: u8 = 43;
    /// IPv6 fragment header.
    pub const IPV6_FRAGMENT: u8 = 44;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// AH (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// No next header: the dummy packets of RFC 4303 section 2.6.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const IPV6_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
}
