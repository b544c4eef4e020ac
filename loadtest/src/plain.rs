//! `loadtest stamp`: the packets of `steady` from plain UDP sockets, one flow for each echo server. For a host whose
//! tunnel another client has made.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli;
use crate::control::{Control, Order, Request};
use crate::inner::{STAMP, Stamp};
use crate::monitor::Monitor;
use crate::output;
use crate::plan::interval;
use crate::record::Record;

/// Late answers are awaited this long after the last packet.
const GRACE: Duration = Duration::from_secs(1);
/// Largest payload (octets).
const MAX_SIZE: usize = 9000;
/// Answers read from one socket before others get their turn.
const READ_BURST: usize = 64;
/// Longest sleep.
const IDLE: Duration = Duration::from_secs(60);

struct Line {
    to: SocketAddr,
    number: u32,
    flow: usize,
    socket: UdpSocket,
    next_at: Instant,
}

/// Sends, measures, reports. False if silence was too long, or nobody answered.
///
/// # Errors
/// If it cannot be run at all.
pub fn stamp(options: &cli::Stamp) -> Result<bool> {
    let control = Control::start(options.watch.control.as_deref())?;
    let (record, asked) = run(options, &control)?;
    let success = record.is_success(options.watch.max_silence_ms);
    output::write(&record, &options.watch, success)?;
    if let Some(request) = asked {
        request.answer(&serde_json::json!({ "ok": true, "success": success, "marks": record.reports() }));
    }
    Ok(success)
}

fn run(options: &cli::Stamp, control: &Control) -> Result<(Record, Option<Request>)> {
    ensure!(
        (STAMP..=MAX_SIZE).contains(&options.size),
        "--size {}: must be {STAMP} to {MAX_SIZE} octets",
        options.size
    );
    let watch = &options.watch;
    let gap = Duration::try_from_secs_f64(watch.gap_ms / 1000.0).context("--gap-ms")?;
    let pace = interval(options.rate)?;
    let start = Instant::now();
    let mut monitor = Monitor::new(
        start,
        SystemTime::now(),
        &watch.name,
        pace,
        gap,
        watch.events.as_deref(),
    )?;
    let mut lines = Vec::new();
    for (index, to) in options.to.iter().enumerate() {
        let number = options.first.saturating_add(u32::try_from(index)?);
        let any: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0u16; 8].into()
        };
        let local = options.local.unwrap_or(any);
        let socket = UdpSocket::bind((local, 0)).with_context(|| format!("socket at {local}"))?;
        socket.set_nonblocking(true)?;
        let flow = monitor.add_flow(format!("plain-{number:05}"), number);
        lines.push(Line {
            to: *to,
            number,
            flow,
            socket,
            next_at: start,
        });
    }
    let duration = watch.seconds.map(Duration::try_from_secs_f64).transpose();
    let mut until = duration.context("--seconds")?.map(|duration| start + duration);
    let mut stopping = false;
    let mut asked = None;
    let mut packet = vec![0; options.size];
    let mut buffer = vec![0; 65_536];
    loop {
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            if stopping {
                break;
            }
            monitor.stop_flows(now);
            (stopping, until) = (true, Some(now + GRACE));
        }
        let due = lines.iter().map(|line| line.next_at).filter(|_| !stopping);
        let due = due.chain(until).min();
        wait(
            control,
            &lines,
            due.map_or(IDLE, |due| due.saturating_duration_since(now)),
        )?;
        let woken = Instant::now();
        if let Some(due) = due.filter(|due| *due < woken) {
            monitor.lateness(due, woken);
        }
        for line in &mut lines {
            line.read(&mut monitor, &mut buffer);
            if !stopping && line.next_at <= woken {
                line.send(woken, &mut monitor, &mut packet, pace);
            }
        }
        while let Some(request) = control.next() {
            let now = Instant::now();
            if request.order == Order::Quit {
                asked = Some(request);
                if !stopping {
                    until = Some(now);
                }
                continue;
            }
            let answer = monitor.answer(now, &request.order, Vec::new());
            request.answer(&answer);
        }
    }
    let now = Instant::now();
    monitor.close_flows(now);
    Ok((monitor.record(now, Vec::new()), asked))
}

fn wait(control: &Control, lines: &[Line], time: Duration) -> Result<()> {
    let orders = control.waker();
    let mut ready = vec![PollFd::new(&orders, PollFlags::IN)];
    ready.extend(lines.iter().map(|line| PollFd::new(&line.socket, PollFlags::IN)));
    let time = Timespec::try_from(time).context("time")?;
    match poll(&mut ready, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("poll"),
    }
}

impl Line {
    fn send(&mut self, now: Instant, monitor: &mut Monitor, packet: &mut [u8], pace: Duration) {
        self.next_at += pace;
        if self.next_at + pace < now {
            // Left-out packets are not sent later in a burst.
            self.next_at = now + pace;
        }
        let at = monitor.micros(now);
        let Some(flow) = monitor.flow(self.flow) else {
            return;
        };
        let stamp = Stamp {
            user: self.number,
            number: flow.sent(at),
            sent_at: at,
        };
        stamp.write(packet);
        if self.socket.send_to(packet, self.to).is_err() {
            flow.unsent();
        }
    }

    fn read(&mut self, monitor: &mut Monitor, buffer: &mut [u8]) {
        for _ in 0..READ_BURST {
            match self.socket.recv_from(buffer) {
                Ok((len, from)) if from == self.to => {
                    let stamp = buffer.get(..len).and_then(Stamp::read);
                    let number = stamp
                        .filter(|stamp| stamp.user == self.number)
                        .map(|stamp| stamp.number);
                    monitor.received(Instant::now(), self.flow, number);
                }
                Ok(_) => {}
                // An ICMP error that some packet met.
                Err(error) if error.kind() != ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
