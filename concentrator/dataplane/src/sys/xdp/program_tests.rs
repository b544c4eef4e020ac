#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::*;

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const V4: [u8; 4] = [192, 0, 2, 1];
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
const PORT: u16 = 4500;

/// The program with sockets for the places of queue 0 that are named, in a kernel that lets us.
struct Loaded {
    program: OwnedFd,
    _sockets: Vec<OwnedFd>,
}

impl Loaded {
    fn new(workers: u8, present: &[u8], raw_esp: bool) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let maps = Maps::new(2).unwrap();
        maps.add_address(V4.into(), PORT).unwrap();
        maps.add_address("2001:db8::1".parse().unwrap(), PORT).unwrap();
        let sockets = present.iter().map(|worker| {
            // A socket with a ring is all that the map wants.
            let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
            sockopt::set_xdp_rx_ring_size(&socket, 64).unwrap();
            maps.add_socket(0, *worker, &socket).unwrap();
            socket
        });
        let _sockets = sockets.collect();
        let facts = Facts {
            mac: MAC,
            queues: 1,
            workers,
            raw_esp,
        };
        Some(Self {
            program: load(&facts, &maps).unwrap(),
            _sockets,
        })
    }

    fn verdict(&self, packet: &[u8]) -> u32 {
        ebpf::run(&self.program, packet).unwrap()
    }
}

/// An Ethernet frame of an IP packet; `v6` chooses the version.
fn frame(v6: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut f = MAC.to_vec();
    f.extend_from_slice(&[2, 0, 0, 0, 0, 9]);
    if v6 {
        f.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend_from_slice(&(body.len() as u16).to_be_bytes());
        f.extend_from_slice(&[protocol, 64]);
        f.extend_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        f.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    } else {
        f.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
        f.extend_from_slice(&(20 + body.len() as u16).to_be_bytes());
        f.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 9]);
        f.extend_from_slice(&V4);
    }
    f.extend_from_slice(body);
    f
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut u = 33333u16.to_be_bytes().to_vec();
    u.extend_from_slice(&port.to_be_bytes());
    u.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    u.extend_from_slice(&[0, 0]);
    u.extend_from_slice(payload);
    u
}

fn esp(spi: u32, len: usize) -> Vec<u8> {
    let mut e = spi.to_be_bytes().to_vec();
    e.resize(len.max(4), 7);
    e
}

#[test]
fn esp_in_udp_and_plain_is_taken_and_ike_is_not() {
    let Some(loaded) = Loaded::new(2, &[0, 1], true) else {
        return;
    };
    for v6 in [false, true] {
        for spi in [0x1000_0001u32, 0x2000_0001, 0xffff_ffff, 1] {
            assert_eq!(
                loaded.verdict(&frame(v6, 17, &udp(PORT, &esp(spi, 100)))),
                REDIRECT
            );
            assert_eq!(loaded.verdict(&frame(v6, 50, &esp(spi, 100))), REDIRECT);
        }
        // The non-ESP marker, SPI 0, other ports, other protocols.
        assert_eq!(loaded.verdict(&frame(v6, 17, &udp(PORT, &esp(0, 300)))), PASS);
        assert_eq!(loaded.verdict(&frame(v6, 50, &esp(0, 100))), PASS);
        assert_eq!(loaded.verdict(&frame(v6, 17, &udp(500, &esp(9, 300)))), PASS);
        assert_eq!(loaded.verdict(&frame(v6, 17, &udp(0, &esp(9, 300)))), PASS);
        for protocol in [1, 6, 51, 58, 0, 43, 44, 60] {
            assert_eq!(
                loaded.verdict(&frame(v6, protocol, &udp(PORT, &esp(9, 300)))),
                PASS
            );
        }
    }
    let Some(loaded) = Loaded::new(1, &[0], false) else {
        return;
    };
    assert_eq!(
        loaded.verdict(&frame(false, 50, &esp(9, 100))),
        PASS,
        "plain ESP is switched off"
    );
    assert_eq!(
        loaded.verdict(&frame(true, 17, &udp(PORT, &esp(9, 100)))),
        REDIRECT
    );
}

//= rfc3948#section-2.3
//= type=test
//# The receiver SHOULD ignore a received NAT-keepalive packet.
#[test]
fn a_keep_alive_is_the_kernels_even_where_the_wire_pads_it() {
    let Some(loaded) = Loaded::new(1, &[0], true) else {
        return;
    };
    for payload in [&[0xff][..], &[], &[1, 2, 3]] {
        for v6 in [false, true] {
            let mut packet = frame(v6, 17, &udp(PORT, payload));
            assert_eq!(loaded.verdict(&packet), PASS);
            packet.resize(90, 0xaa);
            assert_eq!(loaded.verdict(&packet), PASS);
        }
    }
}

#[test]
fn what_is_not_plainly_ours_is_the_kernels() {
    let Some(loaded) = Loaded::new(1, &[0], true) else {
        return;
    };
    let good = frame(false, 17, &udp(PORT, &esp(9, 100)));
    let six = frame(true, 17, &udp(PORT, &esp(9, 100)));
    let changed = |packet: &[u8], at: usize, octets: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + octets.len()].copy_from_slice(octets);
        packet
    };
    assert_eq!(loaded.verdict(&good), REDIRECT);
    let cases = [
        ("another's Ethernet address", changed(&good, 5, &[2])),
        ("broadcast", changed(&good, 0, &[0xff; 6])),
        ("ARP", changed(&good, 12, &[0x08, 0x06])),
        ("VLAN", changed(&good, 12, &[0x81, 0x00])),
        ("IP options", changed(&good, 14, &[0x46])),
        ("first fragment", changed(&good, 20, &[0x20, 0])),
        ("last fragment", changed(&good, 20, &[0, 1])),
        ("another's IPv4 address", changed(&good, 30, &[192, 0, 2, 2])),
        ("another's IPv6 address", changed(&six, 53, &[2])),
        (
            "too long for a frame",
            frame(false, 17, &udp(PORT, &esp(9, 1500))),
        ),
        ("cut off", good[..45].to_vec()),
        ("cut off", six[..65].to_vec()),
        ("ICMPv6", changed(&six, 20, &[58])),
    ];
    for (what, packet) in cases {
        assert_eq!(loaded.verdict(&packet), PASS, "{what}");
    }
    assert_eq!(
        loaded.verdict(&changed(&good, 20, &[0x40, 0])),
        REDIRECT,
        "DF is no fragment"
    );
    let largest = usize::from(FRAME_LIMIT) - 14 - 20 - 8;
    assert_eq!(
        loaded.verdict(&frame(false, 17, &udp(PORT, &esp(9, largest)))),
        REDIRECT
    );
    assert_eq!(
        loaded.verdict(&frame(false, 17, &udp(PORT, &esp(9, largest + 1)))),
        PASS
    );
}

#[test]
fn the_spi_chooses_the_worker_as_the_sockets_do() {
    for workers in [1, 3, 8] {
        for worker in 0..workers {
            let Some(loaded) = Loaded::new(workers, &[worker], true) else {
                return;
            };
            for top in 0..8u32 {
                let spi = top << 29 | 0x77;
                let expected = if crate::serving_worker(spi, workers) == worker {
                    REDIRECT
                } else {
                    PASS
                };
                assert_eq!(loaded.verdict(&frame(false, 50, &esp(spi, 64))), expected);
                assert_eq!(
                    loaded.verdict(&frame(true, 17, &udp(PORT, &esp(spi, 64)))),
                    expected
                );
            }
        }
    }
}
