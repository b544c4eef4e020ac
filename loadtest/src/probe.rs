//! Echo requests through a tunnel, stamped with user, number and time; their answers, checked octet by octet. Performs no
//! I/O.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use esp::ReplayWindow;
use ip::{checksum, packet, protocol};

use crate::plan::Traffic;

const MAGIC: &[u8; 8] = b"vpnprobe";
/// Magic, user, number, nanoseconds.
const STAMP: usize = 8 + 4 + 8 + 8;
/// Octets of the ICMP and of the UDP header.
const HEADER: usize = 8;
const SOURCE_PORT: u16 = 40_007;

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// ICMP or ICMPv6 echo.
    Icmp,
    /// A UDP echo service at this port.
    Udp(u16),
}

impl Service {
    /// Octets of the smallest inner packet.
    #[must_use]
    pub fn least_size(self, target: IpAddr) -> usize {
        ip_header(target) + HEADER + STAMP
    }
}

fn ip_header(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => packet::IPV4_HEADER,
        IpAddr::V6(_) => packet::IPV6_HEADER,
    }
}

/// What one user's probe has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests sent.
    pub sent: u64,
    /// Answers to different requests.
    pub received: u64,
    /// Further answers to the same request, or answers too late to tell.
    pub duplicated: u64,
    /// Answers that a later one had overtaken.
    pub reordered: u64,
    /// Packets that are no answer: another user's, changed, or something else altogether.
    pub foreign: u64,
    /// Longest time without an answer while requests were sent.
    pub longest_silence: Duration,
}

/// The probe of one user.
#[derive(Debug)]
pub struct Probe {
    traffic: Traffic,
    source: IpAddr,
    user: u32,
    /// Stamps count from here.
    epoch: Instant,
    next_at: Instant,
    until: Instant,
    last_answer: Instant,
    answered: ReplayWindow,
    counts: Counts,
}

impl Probe {
    /// A probe from the inner address `source` that sends from `now` until `until`; its first packet leaves within the
    /// first interval, at a place that depends on the user, so that users do not send in step.
    #[must_use]
    pub fn new(now: Instant, until: Instant, traffic: Traffic, source: IpAddr, user: u32) -> Self {
        let place = f64::from(user.wrapping_mul(0x9e37_79b1)) / f64::from(u32::MAX);
        Self {
            traffic,
            source,
            user,
            epoch: now,
            next_at: now + traffic.interval.mul_f64(place),
            until,
            last_answer: now,
            answered: ReplayWindow::new(esp::MAX_WINDOW, 0),
            counts: Counts::default(),
        }
    }

    /// Moves the end of sending.
    pub fn set_end(&mut self, until: Instant) {
        self.until = until;
    }

    /// When the next request is due; None after the last.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.next_at < self.until).then_some(self.next_at)
    }

    /// What was seen, with the silence that lasts until `now` (at most until the end of sending).
    #[must_use]
    pub fn counts(&self, now: Instant) -> Counts {
        let mut counts = self.counts;
        let silent = now.min(self.until).saturating_duration_since(self.last_answer);
        if counts.sent > counts.received {
            counts.longest_silence = counts.longest_silence.max(silent);
        }
        counts
    }

    /// Writes the next request if it is due; gives its octets in `buf`. None also if the buffer is too small.
    pub fn poll(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        if self.deadline()? > now {
            return None;
        }
        let request = buf.get_mut(..self.traffic.size)?;
        self.next_at += self.traffic.interval;
        self.counts.sent += 1;
        let sent_at = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        write_request(
            request,
            &self.traffic,
            self.source,
            self.user,
            self.counts.sent,
            sent_at,
        );
        Some(self.traffic.size)
    }

    /// Checks an inner packet; gives the round-trip time of an answer that counts.
    pub fn answer(&mut self, now: Instant, inner: &[u8]) -> Option<Duration> {
        let Some((number, sent_at)) = self.read_answer(inner) else {
            self.counts.foreign += 1;
            return None;
        };
        let overtaken = number < self.answered.top();
        if self.answered.accept(number).is_err() {
            self.counts.duplicated += 1;
            return None;
        }
        self.counts.received += 1;
        self.counts.reordered += u64::from(overtaken);
        let silence = now.min(self.until).saturating_duration_since(self.last_answer);
        self.counts.longest_silence = self.counts.longest_silence.max(silence);
        self.last_answer = now;
        Some(now.saturating_duration_since(self.epoch + Duration::from_nanos(sent_at)))
    }

    /// Number and time of the request that this is the answer to.
    fn read_answer(&self, inner: &[u8]) -> Option<(u64, u64)> {
        let summary = packet::summarize(inner).ok()?;
        let segment = inner.get(summary.header_len..summary.total_len)?;
        if summary.src != self.traffic.target
            || summary.dst != self.source
            || inner.len() != self.traffic.size
        {
            return None;
        }
        let (first, _) = segment.split_first_chunk::<2>()?;
        let right = match (self.traffic.service, self.source) {
            (Service::Icmp, IpAddr::V4(_)) => {
                summary.protocol == protocol::ICMP && *first == [0, 0] && checksum::checksum(segment) == 0
            }
            (Service::Icmp, IpAddr::V6(_)) => {
                summary.protocol == protocol::ICMPV6
                    && *first == [129, 0]
                    && checksum::transport(summary.src, summary.dst, protocol::ICMPV6, segment) == 0
            }
            (Service::Udp(port), _) => {
                summary.protocol == protocol::UDP
                    && summary.ports == Some((port, SOURCE_PORT))
                    && checksum::transport(summary.src, summary.dst, protocol::UDP, segment) == 0
            }
        };
        let (stamp, filling) = segment.get(HEADER..)?.split_first_chunk::<STAMP>()?;
        let (magic, rest) = stamp.split_first_chunk::<8>()?;
        let (user, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let sent_at = u64::from_be_bytes(rest.try_into().ok()?);
        let number = u64::from_be_bytes(*number);
        let ours = magic == MAGIC && u32::from_be_bytes(*user) == self.user && number <= self.counts.sent;
        (right && ours && filling.iter().all(|octet| *octet == number as u8)).then_some((number, sent_at))
    }
}

/// Fills `request` with an echo request; its length is that of the packet.
fn write_request(
    request: &mut [u8],
    traffic: &Traffic,
    source: IpAddr,
    user: u32,
    number: u64,
    sent_at: u64,
) {
    let length = request.len();
    let next = match (traffic.service, source) {
        (Service::Icmp, IpAddr::V4(_)) => protocol::ICMP,
        (Service::Icmp, IpAddr::V6(_)) => protocol::ICMPV6,
        (Service::Udp(_), _) => protocol::UDP,
    };
    let Some((header, segment)) = request.split_at_mut_checked(ip_header(source)) else {
        return;
    };
    write_ip(header, length, next, source, traffic.target);
    segment.fill(number as u8);
    let segment_len = segment.len();
    if let Some((head, rest)) = segment.split_first_chunk_mut::<HEADER>() {
        *head = match traffic.service {
            Service::Icmp => {
                let [u0, u1] = (user as u16).to_be_bytes();
                let [n0, n1] = (number as u16).to_be_bytes();
                let kind = if source.is_ipv4() { 8 } else { 128 };
                [kind, 0, 0, 0, u0, u1, n0, n1]
            }
            Service::Udp(port) => {
                let ([s0, s1], [d0, d1]) = (SOURCE_PORT.to_be_bytes(), port.to_be_bytes());
                let [l0, l1] = (segment_len as u16).to_be_bytes();
                [s0, s1, d0, d1, l0, l1, 0, 0]
            }
        };
        if let Some(stamp) = rest.first_chunk_mut::<STAMP>() {
            let octets = MAGIC
                .iter()
                .copied()
                .chain(user.to_be_bytes())
                .chain(number.to_be_bytes())
                .chain(sent_at.to_be_bytes());
            for (to, from) in stamp.iter_mut().zip(octets) {
                *to = from;
            }
        }
    }
    let sum = match (traffic.service, source) {
        (Service::Icmp, IpAddr::V4(_)) => checksum::checksum(segment),
        _ => checksum::transport(source, traffic.target, next, segment),
    };
    let at = if matches!(traffic.service, Service::Icmp) {
        2
    } else {
        6
    };
    // A UDP checksum of zero would mean "none"; its other form is all ones.
    let sum = if sum == 0 && next == protocol::UDP {
        0xffff
    } else {
        sum
    };
    if let Some(field) = segment.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

fn write_ip(header: &mut [u8], length: usize, next: u8, source: IpAddr, target: IpAddr) {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let [l0, l1] = (length as u16).to_be_bytes();
            let start = [0x45, 0, l0, l1, 0, 0, 0x40, 0, 64, next, 0, 0];
            let octets = start.into_iter().chain(source.octets()).chain(target.octets());
            for (to, from) in header.iter_mut().zip(octets) {
                *to = from;
            }
            let [c0, c1] = checksum::checksum(header).to_be_bytes();
            if let Some([a, b]) = header.get_mut(10..12) {
                (*a, *b) = (c0, c1);
            }
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let [l0, l1] = ((length - packet::IPV6_HEADER) as u16).to_be_bytes();
            let start = [0x60, 0, 0, 0, l0, l1, next, 64];
            let octets = start.into_iter().chain(source.octets()).chain(target.octets());
            for (to, from) in header.iter_mut().zip(octets) {
                *to = from;
            }
        }
        _ => {}
    }
}

/// What a host at the target would answer to `request`; for tests.
#[must_use]
pub fn echo(request: &[u8]) -> Option<Vec<u8>> {
    let summary = packet::summarize(request).ok()?;
    let mut answer = request.to_vec();
    let (header, segment) = answer.split_at_mut_checked(summary.header_len)?;
    let len = header.len() + segment.len();
    write_ip(header, len, summary.protocol, summary.dst, summary.src);
    let sum_at = match (summary.protocol, summary.ports?) {
        (protocol::ICMP, (0x0800, _)) | (protocol::ICMPV6, (0x8000, _)) => {
            *segment.first_mut()? = if summary.version == 4 { 0 } else { 129 };
            2
        }
        (protocol::UDP, (source, target)) => {
            let ([s0, s1], [t0, t1]) = (source.to_be_bytes(), target.to_be_bytes());
            *segment.first_chunk_mut::<4>()? = [t0, t1, s0, s1];
            6
        }
        _ => return None,
    };
    segment.get_mut(sum_at..sum_at + 2)?.fill(0);
    let sum = if summary.protocol == protocol::ICMP {
        checksum::checksum(segment)
    } else {
        checksum::transport(summary.dst, summary.src, summary.protocol, segment)
    };
    segment
        .get_mut(sum_at..sum_at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn probe(service: Service, v6: bool) -> (Instant, Probe) {
        let (source, target) = if v6 {
            ("fd00::5", "fd00::1")
        } else {
            ("10.0.0.5", "10.0.0.1")
        };
        let (source, target): (IpAddr, IpAddr) = (source.parse().unwrap(), target.parse().unwrap());
        let now = Instant::now();
        let traffic = Traffic {
            target,
            service,
            size: 120,
            interval: SECOND / 10,
        };
        (now, Probe::new(now, now + SECOND * 10, traffic, source, 0))
    }

    #[test]
    fn answers_are_recognised_for_every_service() {
        for service in [Service::Icmp, Service::Udp(7)] {
            for v6 in [false, true] {
                let (now, mut probe) = probe(service, v6);
                let mut buf = [0; 200];
                let len = probe.poll(now, &mut buf).unwrap();
                let answer = echo(&buf[..len]).unwrap();
                assert_eq!(
                    probe.answer(now + SECOND / 50, &answer),
                    Some(SECOND / 50),
                    "{service:?} {v6}"
                );
                assert_eq!(probe.answer(now + SECOND / 50, &answer), None);
                // The request itself is no answer, nor is one with a changed octet anywhere.
                assert_eq!(probe.answer(now, &buf[..len]), None);
                let mut foreign = 1;
                for at in answer.len() - 40..answer.len() {
                    let mut bad = answer.clone();
                    bad[at] ^= 1;
                    assert_eq!(probe.answer(now, &bad), None);
                    foreign += 1;
                }
                let counts = probe.counts(now);
                assert_eq!(
                    (counts.sent, counts.received, counts.duplicated, counts.foreign),
                    (1, 1, 1, foreign)
                );
            }
        }
    }

    #[test]
    fn pace_losses_and_silence() {
        let (start, mut probe) = probe(Service::Icmp, false);
        let mut buf = [0; 200];
        let mut requests = Vec::new();
        for tick in 0..2000 {
            let now = start + SECOND * tick / 100;
            while let Some(len) = probe.poll(now, &mut buf) {
                let number = requests.len();
                requests.push(buf[..len].to_vec());
                // Answers 20 to 49 are lost; 51 comes before 50.
                if !(20..=50).contains(&number) {
                    probe.answer(now, &echo(&buf[..len]).unwrap()).unwrap();
                }
                if number == 51 {
                    probe.answer(now, &echo(&requests[50]).unwrap()).unwrap();
                }
            }
        }
        assert_eq!(requests.len(), 100);
        assert_eq!(probe.deadline(), None);
        let counts = probe.counts(start + SECOND * 30);
        assert_eq!((counts.sent, counts.received, counts.reordered), (100, 70, 1));
        assert_eq!(counts.longest_silence, SECOND * 32 / 10);
    }
}
