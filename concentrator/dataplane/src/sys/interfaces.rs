//! The addresses that the interfaces have.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

/// The addresses of all interfaces in the calling thread's network namespace, but those of one link only.
pub(crate) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    Ok(named_addresses()?
        .into_iter()
        .map(|(_, address)| address)
        .collect())
}

/// The interfaces that have an address which is wanted.
pub(crate) fn interfaces_of(is_wanted: impl Fn(IpAddr) -> bool) -> io::Result<Vec<String>> {
    let all = named_addresses()?;
    let mut names: Vec<String> = all
        .into_iter()
        .filter(|(_, address)| is_wanted(*address) && !address.is_loopback())
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn named_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs stores a list at the pointer it is given, which lives across the call.
    super::check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut addresses = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is a node of the list, which lives until freeifaddrs below.
        let node = unsafe { next.read() };
        // SAFETY: every node has a name, a C string that lives as long as the list.
        let name = unsafe { CStr::from_ptr(node.ifa_name) };
        let address = socket_address(node.ifa_addr);
        addresses.extend(address.map(|address| (name.to_string_lossy().into_owned(), address)));
        next = node.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and is not used after this.
    unsafe { libc::freeifaddrs(list) };
    addresses.retain(|(_, a)| match a {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    });
    Ok(addresses)
}

/// The address in a `sockaddr` of an ifaddrs node.
fn socket_address(pointer: *const libc::sockaddr) -> Option<IpAddr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, and every sockaddr starts with its family.
    let family = unsafe { pointer.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr of this family is a sockaddr_in.
            let v4 = unsafe { pointer.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::from(u32::from_be(v4.sin_addr.s_addr).to_be_bytes()))
        }
        libc::AF_INET6 => {
            // SAFETY: a sockaddr of this family is a sockaddr_in6.
            let v6 = unsafe { pointer.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::from(v6.sin6_addr.s6_addr))
        }
        _ => None,
    }
}
