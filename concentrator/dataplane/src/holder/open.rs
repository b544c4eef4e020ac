//! Every socket that the holder opens at the start, and how packets are steered among them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::{IkeSocket, OpenError};
use crate::config::Config;
use crate::forward_io::ForwardPort;
use crate::sys::socket::{self, EspSocket};
use crate::sys::{bpf, interfaces};
use crate::worker::WorkerPorts;

/// Room for IKE messages that wait (octets): some thousand, as when all clients of a node speak at once. The kernel's own
/// choice has room for less than three hundred.
const IKE_BUFFER: usize = 2 << 20;

/// The addresses to listen on, the unspecified ones replaced by those of the interfaces.
fn expand(listen: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for address in listen {
        let wanted = if address.is_unspecified() {
            let mut all = interfaces::interface_addresses()?;
            all.retain(|a| a.is_ipv4() == address.is_ipv4());
            all
        } else {
            vec![*address]
        };
        for address in wanted {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

/// Everything that is opened at the start.
pub(super) type Sockets = (Vec<IkeSocket>, Vec<WorkerPorts>, Vec<ForwardPort>);

pub(super) fn sockets(config: &Config) -> Result<Sockets, OpenError> {
    let listen = expand(&config.listen)?;
    if listen.is_empty() {
        return Err(OpenError::Config("no address to listen on"));
    }
    let mut ike = Vec::new();
    let mut ports: Vec<WorkerPorts> = (0..config.workers).map(|_| WorkerPorts::default()).collect();
    let steering = bpf::steering_program(config.workers);
    for ip in listen {
        let at = |port| SocketAddr::new(ip, port);
        let failed = |what, address| {
            move |source| OpenError::Socket {
                what,
                address,
                source,
            }
        };

        let plain = at(config.ike_port);
        let opened = socket::open_udp(plain, false).map_err(failed("IKE socket", plain))?;
        socket::set_buffers(&opened, IKE_BUFFER);
        let local = socket::bound(&opened, plain).map_err(failed("IKE socket", plain))?;
        ike.push(IkeSocket {
            socket: socket::into_std(opened),
            local,
            nat: false,
        });

        // Member 0 of the group is IKE's, the others follow in the order of the workers.
        let nat = at(config.nat_port);
        let opened = socket::open_udp(nat, true).map_err(failed("NAT traversal socket", nat))?;
        socket::set_buffers(&opened, IKE_BUFFER);
        let local = socket::bound(&opened, nat).map_err(failed("NAT traversal socket", nat))?;
        bpf::attach_steering(&opened, &steering).map_err(failed("steering program", local))?;
        ike.push(IkeSocket {
            socket: socket::into_std(opened),
            local,
            nat: true,
        });
        for worker in &mut ports {
            let esp = EspSocket::udp(local, config.socket_buffer).map_err(failed("ESP socket", local))?;
            worker.push(esp);
        }
        if config.raw_esp {
            for (index, worker) in (0..).zip(&mut ports) {
                let esp = EspSocket::raw(ip, index, config.workers, config.socket_buffer);
                worker.push(esp.map_err(failed("raw ESP socket", at(0)))?);
            }
        }
    }
    let forwards = match &config.forward {
        None => Vec::new(),
        Some(forward) => {
            ForwardPort::open_all(forward, config.workers, config.socket_buffer).map_err(|source| {
                OpenError::Socket {
                    what: "socket for forwarded packets",
                    address: forward.listen,
                    source,
                }
            })?
        }
    };
    Ok((ike, ports, forwards))
}
