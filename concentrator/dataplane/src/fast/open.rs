//! Opening the fast path at the start: which devices, and why not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::hops::{Device, Hops};
use super::{FastCounters, FastPath, Place};
use crate::config::{Config, OuterMode, OuterReport, OuterWay};
use crate::sys::interfaces;
use crate::sys::neighbours::Changes;
use crate::sys::netlink::{self, Netlink};
use crate::sys::xdp::{self, Interface, Plan};

/// What was opened.
#[derive(Default)]
pub(crate) struct Opened {
    /// By worker; empty without a fast path.
    pub(crate) places: Vec<Place>,
    pub(crate) reports: Vec<OuterReport>,
    /// Keeps the programs attached.
    pub(crate) interfaces: Vec<Interface>,
}

/// Opens what the configuration asks for, in the calling thread's network namespace. `local` are the sockets for ESP in
/// UDP. What cannot be had is said in the reports, and stays with the sockets.
pub(crate) fn open(config: &Config, local: &[SocketAddr]) -> Opened {
    let mut opened = Opened::default();
    if config.outer.mode == OuterMode::Socket {
        return opened;
    }
    let addresses: Vec<(IpAddr, u16)> = local.iter().map(|l| (l.ip(), l.port())).collect();
    let names = match &config.outer.interfaces {
        names if names.is_empty() => interfaces::interfaces_of(|ip| addresses.iter().any(|(a, _)| *a == ip)),
        names => Ok(names.clone()),
    };
    let names = names.unwrap_or_default();
    if names.is_empty() {
        opened.reports.push(OuterReport {
            interface: String::new(),
            way: OuterWay::Socket,
            queues: 0,
            reason: Some("no interface has one of the addresses, and none is named".to_owned()),
        });
    }
    let (mut devices, mut ports) = (Vec::new(), Vec::new());
    for name in names {
        let report = |way, queues, reason| OuterReport {
            interface: name.clone(),
            way,
            queues,
            reason,
        };
        match open_device(config, &name, &addresses) {
            Ok((device, interface, by_worker)) => {
                let way = if interface.zero_copy {
                    OuterWay::XdpZeroCopy
                } else {
                    OuterWay::XdpCopy
                };
                opened.reports.push(report(way, interface.queues, None));
                opened.interfaces.push(interface);
                devices.push(device);
                ports.push(by_worker);
            }
            Err(e) => opened
                .reports
                .push(report(OuterWay::Socket, 0, Some(e.to_string()))),
        }
    }
    if devices.is_empty() {
        return opened;
    }
    match places(config.workers, &devices, ports) {
        Ok(places) => opened.places = places,
        Err(e) => {
            // Without the way out there is none in either: what was attached goes.
            opened.interfaces.drain(..).for_each(Interface::detach);
            for report in &mut opened.reports {
                (report.way, report.queues) = (OuterWay::Socket, 0);
                report.reason = Some(e.to_string());
            }
        }
    }
    opened
}

type Ports = Vec<Vec<xdp::Port>>;

fn open_device(
    config: &Config,
    name: &str,
    addresses: &[(IpAddr, u16)],
) -> io::Result<(Device, Interface, Ports)> {
    let index = netlink::device_index(name)?;
    let link = Netlink::open()?.link(index)?;
    let mac = link
        .mac
        .ok_or_else(|| io::Error::other("not an Ethernet device"))?;
    let plan = Plan {
        index,
        mac,
        workers: config.workers,
        addresses,
        raw_esp: config.raw_esp,
        only_zero_copy: config.outer.mode == OuterMode::Auto,
    };
    let (interface, ports) = xdp::open(&plan)?;
    let device = Device {
        index,
        name: name.to_owned(),
        mac,
        mtu: link.mtu,
    };
    Ok((device, interface, ports))
}

/// Each worker's part of all devices.
fn places(workers: u8, devices: &[Device], ports: Vec<Ports>) -> io::Result<Vec<Place>> {
    let now = Instant::now();
    let mut by_device: Vec<_> = ports.into_iter().map(Vec::into_iter).collect();
    (0..workers)
        .map(|worker| {
            Ok(Place::new(FastPath {
                worker,
                devices: by_device
                    .iter_mut()
                    .map(|all| all.next().unwrap_or_default())
                    .collect(),
                hops: Hops::new(Netlink::open()?, devices.to_vec(), now),
                changes: Changes::open()?,
                counters: FastCounters::default(),
                lost: 0,
            }))
        })
        .collect()
}
