//! One end of a tunnel with fixed keys, to measure the data plane alone. Not for secrets: the keys are in this file.
//!
//! ```text
//! static_tunnel SIDE LOCAL PEER ADDRESS ROUTE [name=value ...]
//!   SIDE     left or right           LOCAL, PEER  outer addresses
//!   ADDRESS  of the TUN device       ROUTE        prefix behind the peer
//!   netns=NAME    namespace of the sockets       tun-netns=NAME  namespace of the device
//!   encap=udp|raw  suite=gcm128|gcm256|chacha|cbc256  mtu=OCTETS  workers=1..8  core=CPU of worker 0
//!   aead=ring|aws-lc|ipsec-mb (where it is built in)
//! ```
//! Prints rates and drops to stderr once a second while there is traffic.

#![allow(clippy::print_stderr, reason = "a program for the command line")]

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::channel;
use std::time::Duration;

use crypto::{Cipher, Integrity, Secret, Suite};
use dataplane::{Activate, Config, Domain, Encap, Holder, Limits, SaPair, WorkerCommand, WorkerEvent};
use ip::{IpNet, Selector};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [side, local, peer, address, route, options @ ..] = &arguments[..] else {
        return Err("usage: static_tunnel SIDE LOCAL PEER ADDRESS ROUTE [name=value ...]".into());
    };
    let options: HashMap<&str, &str> = options.iter().filter_map(|o| o.split_once('=')).collect();
    let option = |name: &str| options.get(name).map(|s| (*s).to_owned());
    let (local, peer): (IpAddr, IpAddr) = (local.parse()?, peer.parse()?);
    let (address, route): (IpNet, IpNet) = (address.parse()?, route.parse()?);
    let workers: u8 = option("workers").map_or(Ok(1), |w| w.parse())?;
    let encap = if option("encap").as_deref() == Some("raw") {
        Encap::Raw
    } else {
        Encap::Udp
    };
    let suite = match option("suite").as_deref() {
        None | Some("gcm128") => Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None),
        Some("gcm256") => Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None),
        Some("chacha") => Suite::new(Cipher::ChaCha20Poly1305, None),
        Some("cbc256") => Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)),
        Some(other) => return Err(format!("unknown suite {other}").into()),
    }?;

    if let Some(name) = option("aead") {
        let provider = crypto::Provider::named(&name).ok_or("this program has no such aead")?;
        provider.prefer(suite.cipher);
    }
    let cores = option("core")
        .map(|c| c.parse())
        .transpose()?
        .into_iter()
        .collect();
    let config = Config {
        listen: vec![local],
        workers,
        netns: option("netns"),
        cores,
        ..Config::default()
    };
    let holder = Holder::open(config)?;
    for ike in holder.ike_sockets()? {
        dataplane::allow_bursts(&ike.socket)?;
    }
    let mut domain = Domain::new(1, "static", "static0");
    domain.netns = option("tun-netns");
    domain.mtu = option("mtu").map_or(Ok(1400), |m| m.parse())?;
    domain.addresses = vec![address];
    domain.routes = vec![route];
    eprintln!("{:?}", holder.attach_domain(domain)?);

    // The SAs are those of the worker at which packets for the peer's address arrive.
    let is_left = side == "left";
    let worker = dataplane::worker_for(route.hosts().next().unwrap_or(route.addr()), workers);
    let spi = |left: bool, worker: u8| u32::from(worker) << 29 | if left { 0x1001 } else { 0x1002 };
    let peer_worker = option("peer-worker").map_or(Ok(worker), |w| w.parse())?;
    let (spi_in, spi_out) = (spi(is_left, worker), spi(!is_left, peer_worker));
    let key = |spi: u32, len: usize| Secret::from(vec![spi as u8; len]);
    let port = if encap == Encap::Udp { 4500 } else { 0 };
    let pair = SaPair {
        session: 1,
        slot: 0,
        domain: 1,
        inbound: esp::InboundParams {
            spi: spi_in,
            suite,
            enc_key: key(spi_in, suite.enc_key_len()),
            integ_key: key(spi_in, suite.integ_key_len()),
            esn: true,
            window: 1024,
            checkpoint: 0,
        },
        outbound: esp::OutboundParams {
            spi: spi_out,
            suite,
            enc_key: key(spi_out, suite.enc_key_len()),
            integ_key: key(spi_out, suite.integ_key_len()),
            esn: true,
            generation: 1,
            first_seq: 1,
            ceiling: u64::MAX,
            tfc_pad_to: 0,
        },
        ts_local: vec![Selector::prefix(address.trunc())],
        ts_remote: vec![Selector::prefix(route)],
        peer: SocketAddr::new(peer, port),
        local: SocketAddr::new(local, port),
        encap,
        activate: Activate::Now,
        limits: Limits::default(),
        resource: dataplane::Resource::None,
        path_mtu: None,
        df: esp::tunnel::DfRule::Clear,
        fragments_too: true,
    };
    let (events, received) = channel();
    let mut handles = Vec::new();
    for index in 0..workers {
        let events = events.clone();
        handles.push(holder.start_worker(index, Box::new(move |event| drop(events.send(event))))?);
    }
    let mut pair = Some(Box::new(pair));
    for handle in &handles {
        if let Some(pair) = (handle.index() == worker).then(|| pair.take()).flatten() {
            handle.send(WorkerCommand::Install(pair))?;
        }
    }
    let mut last = 0;
    loop {
        match received.recv_timeout(Duration::from_secs(3600)) {
            Ok(WorkerEvent::Stats(stats)) => {
                let octets: u64 = stats.iter().map(|s| s.octets_in + s.octets_out).sum();
                eprintln!("{:.2} Gbit/s", (octets - last) as f64 * 8e-9);
                last = octets;
                for handle in &handles {
                    let index = handle.index();
                    handle.send(WorkerCommand::ReadCounters(Box::new(move |c| {
                        let drops: Vec<_> = c.drops.iter().filter(|(_, n)| *n > 0).collect();
                        eprintln!(
                            "worker {index}: inner in {} out {} in {} writes; outer in {} in {} reads, out {} in {} sends; \
                             handed over {}; {drops:?}",
                            c.inner_in, c.inner_out, c.inner_writes, c.outer_in, c.outer_reads, c.outer_out,
                            c.outer_writes, c.handed_over,
                        );
                    })))?;
                }
            }
            Ok(event) => eprintln!("{event:?}"),
            Err(_) => {}
        }
    }
}
