//! What ESP costs beyond its cipher: the whole transform (header, padding, sequence numbers or replay window, selectors)
//! against the same provider's AEAD alone on the same octets, interleaved in one run.
//!
//! ```text
//! transform [--runs N] [--json FILE] [--quick] [--only WORDS]      default: 5 runs, medians
//!     --only "ipsec-mb AES_GCM_16-128 1400": rows that have all of these words
//! ```
//! One SA at a time in batches of 32, then 1,000 SAs of which every packet has a random one. Ratios are what counts;
//! absolute figures are the processor's.

#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crypto::aead::{Aad, AeadJob, BatchAead as _, TAG_LEN};
use crypto::{Cipher, Integrity, Provider, Secret, Suite};
use esp::{BATCH, InboundParams, InboundSa, OutboundParams, OutboundSa, PacketBuf};
use ip::{Selector, Usual};

const SIZES: [usize; 8] = [64, 128, 256, 512, 1024, 1400, 4096, 9000];
/// Packets that are sealed, then opened: their buffers fit a second-level cache up to 1,400 octets.
const PACKETS: usize = 256;
const MANY: usize = 1_000;
/// How many packets before its turn an SA's key is asked for.
const AHEAD: usize = 2;
/// Rounds over all packets, even if they take longer than they should.
const MIN_ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One peer: what it is sent, and what it would open.
struct Pair {
    out: OutboundSa,
    inn: InboundSa,
    local: Vec<Selector>,
    remote: Vec<Selector>,
    usual: Option<Usual>,
}

fn pair(suite: Suite, spi: u32) -> Result<Pair> {
    let key = |len: usize| {
        Secret::from(
            (0..len)
                .map(|i| (spi as usize * 31 + i) as u8)
                .collect::<Vec<_>>(),
        )
    };
    let out = OutboundParams {
        spi,
        suite,
        enc_key: key(suite.enc_key_len()),
        integ_key: key(suite.integ_key_len()),
        esn: true,
        generation: 1,
        first_seq: 1,
        ceiling: u64::MAX,
        tfc_pad_to: 0,
    };
    let inn = InboundParams {
        spi,
        suite,
        enc_key: key(suite.enc_key_len()),
        integ_key: key(suite.integ_key_len()),
        esn: true,
        window: 1024,
        checkpoint: 0,
    };
    let local = vec![Selector::prefix("10.0.0.0/8".parse()?)];
    let remote = vec![Selector::host([192, 0, 2, 7].into())];
    Ok(Pair {
        out: OutboundSa::new(&out)?,
        inn: InboundSa::new(&inn)?,
        usual: Usual::of(&remote, &local),
        local,
        remote,
    })
}

/// A UDP packet over IPv4 of that many octets.
fn inner(len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 7, 10, 0, 0, 1, 4, 0, 4, 0]);
    packet.extend(((len - 20) as u16).to_be_bytes());
    packet.resize(len, 7);
    packet
}

/// Buffers with a packet each, and where it lies.
struct Buffers {
    data: Vec<Vec<u8>>,
    start: usize,
    len: usize,
}

impl Buffers {
    fn new(len: usize) -> Self {
        let start = esp::HEAD_ROOM.next_multiple_of(64);
        let packet = inner(len);
        let one = || {
            let mut data = vec![0; start + len + esp::TAIL_ROOM];
            data[start..start + len].copy_from_slice(&packet);
            data
        };
        Self {
            data: (0..PACKETS).map(|_| one()).collect(),
            start,
            len,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Cost {
    seal: f64,
    open: f64,
}

/// Runs `seal` and `open` in turn over all buffers for about `time`, and gives what each took a packet, in ns: the median
/// of the rounds, which does not mind that some of them were interrupted.
fn timed(
    time: Duration,
    mut seal: impl FnMut() -> Result<()>,
    mut open: impl FnMut() -> Result<()>,
) -> Result<Cost> {
    let begin = Instant::now();
    let mut rounds = Vec::new();
    while begin.elapsed() < time || rounds.len() < MIN_ROUNDS {
        let start = Instant::now();
        seal()?;
        let middle = Instant::now();
        open()?;
        let each = |time: Duration| time.as_nanos() as f64 / PACKETS as f64;
        rounds.push(Cost {
            seal: each(middle - start),
            open: each(middle.elapsed()),
        });
    }
    Ok(median(rounds))
}

/// The AEAD alone, on as many octets as ESP has it encrypt.
fn raw(provider: Provider, suite: Suite, len: usize, time: Duration) -> Result<Cost> {
    let key = crypto::aead::batch(provider, suite.cipher, &vec![9; suite.enc_key_len() - 4])?;
    let body = esp::Layout::of(suite).body_len(len);
    // The same octets of the same buffers, as close in the cache as ESP's.
    let buffers = std::cell::RefCell::new(Buffers::new(len));
    let mut counter = 0_u64;
    let run = |start: u64, sealing: bool| -> Result<()> {
        let Buffers {
            data, start: text, ..
        } = &mut *buffers.borrow_mut();
        let text = *text..*text + body + TAG_LEN;
        for (batch, chunk) in data.chunks_mut(BATCH).enumerate() {
            let first = start + (batch * BATCH) as u64;
            let mut number = first;
            let mut jobs: [AeadJob<'_>; BATCH] = {
                let mut slices = chunk.iter_mut();
                std::array::from_fn(|_| {
                    number += 1;
                    let mut nonce = [3; 12];
                    nonce[4..].copy_from_slice(&number.to_be_bytes());
                    AeadJob {
                        nonce,
                        aad: Aad::from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, number as u8]),
                        data: slices
                            .next()
                            .and_then(|data| data.get_mut(text.clone()))
                            .unwrap_or_default(),
                    }
                })
            };
            if sealing {
                key.seal_batch(&mut jobs)?;
            } else {
                let mut ok = [false; BATCH];
                key.open_batch(&mut jobs, &mut ok);
                if ok.contains(&false) {
                    return Err("a packet was not authentic".into());
                }
            }
        }
        Ok(())
    };
    let last = std::cell::Cell::new(0);
    timed(
        time,
        || {
            counter += PACKETS as u64;
            last.set(counter);
            run(counter, true)
        },
        || run(last.get(), false),
    )
}

/// ESP with one SA, in batches.
fn one(suite: Suite, len: usize, time: Duration) -> Result<Cost> {
    let Pair {
        mut out,
        mut inn,
        local,
        remote,
        usual,
    } = pair(suite, 0x1000)?;
    let buffers = std::cell::RefCell::new(Buffers::new(len));
    let head = out.layout().head();
    let sealed = out.sealed_len(len);
    timed(
        time,
        || {
            let Buffers { data, start, len } = &mut *buffers.borrow_mut();
            let mut batch = Vec::with_capacity(BATCH);
            for chunk in data.chunks_mut(BATCH) {
                batch.clear();
                batch.extend(
                    chunk
                        .iter_mut()
                        .map(|data| PacketBuf::outbound(data, *start, *start + *len, 4)),
                );
                out.seal_batch(&mut batch);
                if batch.iter().any(|packet| packet.result.is_err()) {
                    return Err("a packet was not sealed".into());
                }
            }
            Ok(())
        },
        || {
            let Buffers { data, start, .. } = &mut *buffers.borrow_mut();
            let mut batch = Vec::with_capacity(BATCH);
            for chunk in data.chunks_mut(BATCH) {
                batch.clear();
                batch.extend(
                    chunk
                        .iter_mut()
                        .map(|data| PacketBuf::inbound(data, *start - head, *start - head + sealed)),
                );
                inn.open_batch(&mut batch);
                for packet in &batch {
                    packet.result?;
                    esp::tunnel::check_inner(packet.packet(), usual.as_ref(), &remote, &local)?;
                }
            }
            Ok(())
        },
    )
}

/// ESP with many SAs, each packet of a random one, sealed and opened one at a time as they come. As the worker does
/// with what it has received, the key of the packet after the next is asked for beforehand.
fn many(suite: Suite, len: usize, time: Duration) -> Result<Cost> {
    let mut outs = Vec::new();
    let mut inns = Vec::new();
    for number in 0..MANY {
        let Pair {
            out,
            inn,
            local,
            remote,
            usual,
        } = pair(suite, 0x1000 + number as u32)?;
        outs.push(out);
        inns.push((inn, usual, local, remote));
    }
    let head = esp::Layout::of(suite).head();
    let sealed = esp::Layout::of(suite).sealed_len(len);
    let buffers = std::cell::RefCell::new(Buffers::new(len));
    let order = std::cell::RefCell::new(Vec::new());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % MANY as u64) as usize
    };
    timed(
        time,
        || {
            let Buffers { data, start, len } = &mut *buffers.borrow_mut();
            let mut order = order.borrow_mut();
            order.clear();
            order.extend((0..PACKETS).map(|_| next()));
            for (at, (data, number)) in data.iter_mut().zip(order.iter()).enumerate() {
                if let Some(next) = order.get(at + AHEAD).and_then(|number| outs.get(*number)) {
                    next.prefetch();
                }
                let out = outs.get_mut(*number).ok_or("no such SA")?;
                out.seal(data, *start..*start + *len, 4)?;
            }
            Ok(())
        },
        || {
            let Buffers { data, start, .. } = &mut *buffers.borrow_mut();
            let order = order.borrow();
            for (at, (data, number)) in data.iter_mut().zip(order.iter()).enumerate() {
                if let Some((next, ..)) = order.get(at + AHEAD).and_then(|number| inns.get(*number)) {
                    next.prefetch();
                }
                let (inn, usual, local, remote) = inns.get_mut(*number).ok_or("no such SA")?;
                let range = *start - head..*start - head + sealed;
                let opened = inn.open(data, range)?;
                let inner = data.get(opened.inner).unwrap_or_default();
                esp::tunnel::check_inner(inner, usual.as_ref(), remote, local)?;
            }
            Ok(())
        },
    )
}

fn median(mut values: Vec<Cost>) -> Cost {
    let middle = values.len() / 2;
    values.sort_by(|a, b| a.seal.total_cmp(&b.seal));
    let seal = values.get(middle).map_or(0.0, |cost| cost.seal);
    values.sort_by(|a, b| a.open.total_cmp(&b.open));
    let open = values.get(middle).map_or(0.0, |cost| cost.open);
    Cost { seal, open }
}

fn main() -> Result<()> {
    let mut runs = 5;
    let mut json = None;
    let mut only = String::new();
    let mut time = Duration::from_millis(40);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = arguments.next().ok_or("--runs N")?.parse()?,
            "--json" => json = Some(arguments.next().ok_or("--json FILE")?),
            "--only" => only = arguments.next().ok_or("--only WORDS")?,
            "--quick" => time = Duration::from_millis(4),
            other => return Err(format!("{other} is not known").into()),
        }
    }
    let wanted = |provider: &str, suite: Suite, len: usize| {
        let row = format!(" {provider} {suite} {len} ");
        only.split_whitespace()
            .all(|word| row.contains(&format!(" {word} ")))
    };
    let gcm = |key_bits| Cipher::AesGcm16 { key_bits };
    let aeads = [gcm(128), gcm(256), Cipher::ChaCha20Poly1305];
    let mut rows = String::new();
    println!("nanoseconds a packet, medians of {runs} runs; %: the AEAD alone over ESP around it");
    println!(
        "{:<10} {:<42} {:>6} {:>15} {:>15} {:>15} {:>12} {:>12}",
        "provider",
        "suite",
        "octets",
        "AEAD seal/open",
        "ESP seal/open",
        "1,000 SAs",
        "% of AEAD",
        "1/1,000 SAs"
    );
    for cipher in aeads {
        let suite = Suite::new(cipher, None)?;
        for provider in Provider::ALL.iter().copied().filter(|one| one.has(cipher)) {
            provider.prefer(cipher);
            for len in SIZES
                .into_iter()
                .filter(|len| wanted(provider.name(), suite, *len))
            {
                let mut taken = [const { Vec::new() }; 3];
                for _ in 0..runs {
                    let costs = [
                        raw(provider, suite, len, time)?,
                        one(suite, len, time)?,
                        many(suite, len, time)?,
                    ];
                    taken.iter_mut().zip(costs).for_each(|(all, cost)| all.push(cost));
                }
                let [aead, esp, many] = taken.map(median);
                println!(
                    "{:<10} {:<42} {:>6} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>5.0} {:>5.0}  {:>5.0} {:>5.0}",
                    provider.name(),
                    suite.to_string(),
                    len,
                    aead.seal,
                    aead.open,
                    esp.seal,
                    esp.open,
                    many.seal,
                    many.open,
                    aead.seal / esp.seal * 100.0,
                    aead.open / esp.open * 100.0,
                    esp.seal / many.seal * 100.0,
                    esp.open / many.open * 100.0,
                );
                writeln!(
                    rows,
                    r#"{{"provider":"{}","suite":"{suite}","octets":{len},"aead":[{:.1},{:.1}],"esp":[{:.1},{:.1}],"many":[{:.1},{:.1}]}}"#,
                    provider.name(),
                    aead.seal,
                    aead.open,
                    esp.seal,
                    esp.open,
                    many.seal,
                    many.open
                )?;
            }
        }
    }
    for (cipher, integrity) in [
        (Cipher::AesCbc { key_bits: 128 }, Integrity::HmacSha1_96),
        (Cipher::AesCbc { key_bits: 256 }, Integrity::HmacSha256_128),
        (Cipher::AesCtr { key_bits: 256 }, Integrity::HmacSha256_128),
    ] {
        let suite = Suite::new(cipher, Some(integrity))?;
        for len in SIZES.into_iter().filter(|len| wanted("aws-lc", suite, *len)) {
            let mut taken = [const { Vec::new() }; 2];
            for _ in 0..runs {
                let costs = [one(suite, len, time)?, many(suite, len, time)?];
                taken.iter_mut().zip(costs).for_each(|(all, cost)| all.push(cost));
            }
            let [esp, many] = taken.map(median);
            println!(
                "{:<10} {:<42} {:>6} {:>15} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
                "aws-lc",
                suite.to_string(),
                len,
                "",
                esp.seal,
                esp.open,
                many.seal,
                many.open
            );
            writeln!(
                rows,
                r#"{{"provider":"aws-lc","suite":"{suite}","octets":{len},"esp":[{:.1},{:.1}],"many":[{:.1},{:.1}]}}"#,
                esp.seal, esp.open, many.seal, many.open
            )?;
        }
    }
    if let Some(path) = json {
        std::fs::write(path, rows)?;
    }
    Ok(())
}
