//! Echo requests through a tunnel, stamped with user, number and time; their answers, checked octet by octet. Performs no
//! I/O.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use esp::ReplayWindow;

use crate::inner::{self, Stamp};
use crate::plan::Traffic;

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
        let stamp = Stamp {
            user: self.user,
            number: self.counts.sent,
            sent_at,
        };
        inner::write_request(request, &self.traffic, self.source, stamp);
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
        let stamp = inner::read_answer(inner, &self.traffic, self.source)?;
        let ours = stamp.user == self.user && stamp.number <= self.counts.sent;
        ours.then_some((stamp.number, stamp.sent_at))
    }
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
    use crate::inner::{Service, echo};

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
