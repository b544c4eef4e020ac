//! The way to each peer as the kernel knows it, kept for a while: device and Ethernet addresses.
//!
//! Whatever is not known, not certain or too much to ask for at the moment is sent by the ordinary sockets, which are
//! always right: the kernel resolves what it does not know on the way.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::frame::ETHERNET;
use crate::sys::announce::Mac;
use crate::sys::neighbours::{Change, Kernel};
use crate::sys::xdp::FRAME_LIMIT;

/// Ways, and neighbours, that are kept: 100 octets each.
const MAX_KEPT: usize = 1 << 16;
/// How long the kernel is not asked again: where the way is known, and where it is not.
const FRESH: Duration = Duration::from_secs(5);
const FRESH_UNKNOWN: Duration = Duration::from_secs(1);
/// How long a way may be used if there is no time to ask again.
const USABLE: Duration = Duration::from_secs(60);
/// Questions in so much time: at most about 4 % of a processor.
const QUESTIONS: u32 = 200;
const WINDOW: Duration = Duration::from_millis(100);

/// A device that packets may leave by.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    /// Octets of the largest IP packet.
    pub(crate) mtu: u32,
}

/// The way to one peer.
#[derive(Clone, Copy, Debug)]
struct Hop {
    /// Position of the device and the addresses of the Ethernet header; `None`: by the socket.
    way: Option<(u8, [u8; 12])>,
    mtu: u16,
    identification: u16,
    generation: u32,
    /// Of [`Hops::news`].
    news: u32,
    made: Instant,
}

/// What a packet needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    /// Position of the device.
    pub(crate) device: usize,
    /// Destination and source.
    pub(crate) ethernet: [u8; 12],
    /// Octets of the largest IP packet.
    pub(crate) mtu: usize,
    /// For the first packet; the next ones count on.
    pub(crate) identification: u16,
}

/// A neighbour, and when the kernel was asked.
#[derive(Clone, Copy, Debug)]
struct Seen {
    mac: Mac,
    at: Instant,
}

/// The ways of one worker.
pub(crate) struct Hops<K> {
    kernel: K,
    devices: Vec<Device>,
    hops: FxHashMap<(IpAddr, IpAddr), Hop>,
    neighbours: FxHashMap<(u32, IpAddr), Seen>,
    /// Ways of older ones have to be asked for again.
    generation: u32,
    /// Something has changed since the generation began.
    is_outdated: bool,
    /// Neighbours that answered so far: what was not known before may be now.
    news: u32,
    window: Instant,
    questions: u32,
}

impl<K: Kernel> Hops<K> {
    pub(crate) fn new(kernel: K, devices: Vec<Device>, now: Instant) -> Self {
        Self {
            kernel,
            devices,
            hops: FxHashMap::default(),
            neighbours: FxHashMap::default(),
            generation: 0,
            is_outdated: false,
            news: 0,
            window: now,
            questions: 0,
        }
    }

    /// The way from an address of ours to a peer; `None`: this packet goes by the socket. `packets` are sent that way.
    pub(crate) fn way(&mut self, from: IpAddr, to: IpAddr, packets: u16, now: Instant) -> Option<Way> {
        self.turn_over(now);
        let known = self.hops.get_mut(&(from, to));
        let is_current = known.as_ref().is_some_and(|hop| {
            hop.generation == self.generation && (hop.way.is_some() || hop.news == self.news)
        });
        let age = known
            .as_ref()
            .map_or(Duration::MAX, |hop| now.saturating_duration_since(hop.made));
        let fresh = match &known {
            Some(Hop { way: Some(_), .. }) => FRESH,
            _ => FRESH_UNKNOWN,
        };
        let hop = match known {
            Some(hop) if is_current && age < fresh => hop,
            known => {
                if self.questions < QUESTIONS {
                    self.questions += 1;
                    let before = known.map_or(0, |hop| hop.identification);
                    if !self.ask(from, to, before, now) {
                        return None;
                    }
                } else if !is_current || age >= USABLE {
                    return None;
                }
                self.hops.get_mut(&(from, to))?
            }
        };
        let (device, ethernet) = hop.way?;
        let identification = hop.identification;
        hop.identification = identification.wrapping_add(packets);
        Some(Way {
            device: usize::from(device),
            ethernet,
            mtu: usize::from(hop.mtu),
            identification,
        })
    }

    /// Begins a new window for questions; what changed in the last one counts from here on.
    fn turn_over(&mut self, now: Instant) {
        if now.saturating_duration_since(self.window) < WINDOW {
            return;
        }
        (self.window, self.questions) = (now, 0);
        if std::mem::take(&mut self.is_outdated) {
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// Asks the kernel for a way and keeps the answer; false if this packet should go by the socket nevertheless, so
    /// that the kernel makes sure of the neighbour.
    fn ask(&mut self, from: IpAddr, to: IpAddr, identification: u16, now: Instant) -> bool {
        make_room(&mut self.hops, |hop| {
            now.saturating_duration_since(hop.made) < USABLE
        });
        let mut hop = Hop {
            way: None,
            mtu: 0,
            identification,
            generation: self.generation,
            news: self.news,
            made: now,
        };
        let mut is_sure = true;
        let route = self.kernel.route(from, to);
        let device = route.and_then(|route| {
            let mut devices = (0u8..).zip(&self.devices);
            Some((route, devices.find(|(_, d)| d.index == route.device)?))
        });
        if let Some((route, (position, device))) = device {
            let (index, own, mtu) = (device.index, device.mac, device.mtu);
            let mtu = route.mtu.unwrap_or(mtu).min(mtu);
            hop.mtu = u16::try_from(mtu)
                .unwrap_or(u16::MAX)
                .min(FRAME_LIMIT - ETHERNET as u16);
            let neighbour = self.neighbour(index, route.gateway.unwrap_or(to), now);
            if let Some((mac, confirmed)) = neighbour {
                is_sure = confirmed;
                let mut ethernet = [0; 12];
                for (to, octet) in ethernet.iter_mut().zip(mac.into_iter().chain(own)) {
                    *to = octet;
                }
                hop.way = Some((position, ethernet));
            }
        }
        self.hops.insert((from, to), hop);
        is_sure
    }

    /// The Ethernet address of a neighbour, and whether it is known to be right now.
    fn neighbour(&mut self, device: u32, address: IpAddr, now: Instant) -> Option<(Mac, bool)> {
        if let Some(seen) = self.neighbours.get(&(device, address))
            && now.saturating_duration_since(seen.at) < FRESH
        {
            return Some((seen.mac, true));
        }
        make_room(&mut self.neighbours, |seen| {
            now.saturating_duration_since(seen.at) < USABLE
        });
        let found = self.kernel.neighbour(device, address);
        match found {
            Some(found) => drop(self.neighbours.insert(
                (device, address),
                Seen {
                    mac: found.mac,
                    at: now,
                },
            )),
            None => drop(self.neighbours.remove(&(device, address))),
        }
        found.map(|found| (found.mac, found.confirmed))
    }

    /// Takes note of a change; gives the device that is gone, by its position.
    pub(crate) fn changed(&mut self, change: Change) -> Option<usize> {
        let position = |index| self.devices.iter().position(|d| d.index == index);
        match change {
            Change::Routes => self.is_outdated = true,
            Change::Neighbour { device, address, mac } => {
                let known = self.neighbours.get(&(device, address)).map(|seen| seen.mac);
                match known {
                    None => self.news = self.news.wrapping_add(u32::from(mac.is_some())),
                    Some(_) if known == mac => {}
                    Some(_) => {
                        self.neighbours.remove(&(device, address));
                        self.is_outdated = true;
                    }
                }
            }
            Change::Device { device, mtu } => {
                let at = position(device);
                if let Some(device) = at.and_then(|at| self.devices.get_mut(at)) {
                    // Of the routes that go with a link that goes down, no news come.
                    device.mtu = mtu;
                    self.is_outdated = true;
                }
            }
            Change::Gone { device } => {
                let at = position(device);
                self.is_outdated |= at.is_some();
                return at;
            }
        }
        None
    }

    /// The devices, by position.
    pub(crate) fn devices(&self) -> &[Device] {
        &self.devices
    }
}

/// Makes room for one more: what is old goes first, then everything.
fn make_room<A, B>(kept: &mut FxHashMap<A, B>, mut is_young: impl FnMut(&B) -> bool) {
    if kept.len() >= MAX_KEPT {
        kept.retain(|_, value| is_young(value));
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
    }
}

#[cfg(test)]
#[path = "hops_tests.rs"]
mod tests;
