//! Stateless screening of every datagram before anything is allocated or any actor hears of it.
//!
//! ```text
//! datagram ──► Gate::screen ──► Drop(reason)          counted, nothing else
//!                           ├─► Reply(octets)         COOKIE, INVALID_MAJOR_VERSION, UNSUPPORTED_CRITICAL_PAYLOAD
//!                           ├─► Initial{..}           a well-formed IKE_SA_INIT request: make an IKE SA
//!                           └─► Existing{..}          look the SPIs up; unknown ones go to Gate::unknown_spi
//! ```
//! No answer is longer than the datagram that caused it, and all but cookies are limited in number, so that the gate
//! amplifies nothing. Performs no I/O and reads no clock.
//!
//! IKEv1 is counted and dropped. RFC 7296 section 2.5 asks for INVALID_MAJOR_VERSION on versions above 2 only; an IKEv1
//! peer could not read an IKEv2 answer, and an IKEv1 answer would be unauthenticated advice that RFC 2408 lets it ignore.

mod cookie;
mod counters;
mod limit;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::{Random, Secret};

pub use counters::{GateCounters, GateDrop};

use crate::wire::{
    ExchangeType, Header, Message, Notify, NotifyType, Payload, PayloadType, Reader, Spi, limits,
};
use cookie::Cookies;
use limit::{Bucket, Rate, SourceLimits};

/// Octets of an IKE_SA_INIT request beyond which it is dropped: it is kept until AUTH has been checked. The largest that
/// clients send, with ML-KEM, is about half of it.
pub const INITIAL_OCTETS: usize = 4096;

/// Limits of a gate.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Half-open IKE SAs from which on cookies are demanded.
    pub cookie_threshold: usize,
    /// How long a cookie secret makes cookies; they are accepted for as long again.
    pub cookie_lifetime: Duration,
    /// Error answers a second, over all sources.
    pub errors_per_sec: u32,
    /// New IKE SAs a second from one address, once it has returned a cookie. Carriers put hundreds of users behind one.
    pub initials_per_source: u32,
    /// How many of them it may send at once: when an access network comes back, all who share its address log in together.
    pub initials_burst: u32,
    /// Every node that holds the same secret makes and accepts the same cookies, so that a client may return one to another
    /// node than it got it from; [`Gate::set_clock`] says which time it is for all of them. `None`: secrets of this gate's
    /// own.
    pub secret: Option<Secret>,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            cookie_threshold: 256,
            cookie_lifetime: Duration::from_secs(60),
            errors_per_sec: 100,
            initials_per_source: 200,
            initials_burst: 2000,
            secret: None,
        }
    }
}

impl GateConfig {
    /// Of error answers: at most those of one second at once.
    fn error_rate(&self) -> Rate {
        Rate {
            per_sec: self.errors_per_sec,
            burst: self.errors_per_sec,
        }
    }
}

/// How busy the node is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// IKE SAs that are not established yet.
    pub half_open: usize,
    /// Some queue for slow work is long; cookies are demanded whatever the number of half-open SAs.
    pub busy: bool,
}

/// What to do with a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Forget it; it has been counted.
    Drop(GateDrop),
    /// Send these octets back to where it came from.
    Reply(Vec<u8>),
    /// It belongs to an IKE SA that these SPIs name, if there is one.
    Existing {
        /// SPI of the original initiator.
        spi_i: Spi,
        /// SPI of the original responder; zero in answers that refuse our IKE_SA_INIT request.
        spi_r: Spi,
        /// Sent by the original initiator: the responder's SPI is ours. Otherwise the initiator's is.
        is_from_initiator: bool,
    },
    /// A request for a new IKE SA, or a retransmission of one.
    Initial {
        /// SPI of the initiator.
        spi_i: Spi,
        /// The source address has returned a cookie, so it is no forgery.
        verified: bool,
    },
}

/// The gate of one node.
pub struct Gate {
    config: GateConfig,
    cookies: Cookies,
    errors: Bucket,
    sources: SourceLimits,
    counters: GateCounters,
}

impl Gate {
    /// A gate with fresh secrets.
    pub fn new(now: Instant, config: GateConfig, mut random: Box<dyn Random>) -> Self {
        Self {
            errors: Bucket::full(now, config.error_rate()),
            sources: SourceLimits::new(random.u64()),
            cookies: Cookies::new(now, config.cookie_lifetime, config.secret.clone(), random),
            counters: GateCounters::default(),
            config,
        }
    }

    /// Says what the wall clock shows (`since_epoch`: time since 1970). Only a gate with [`GateConfig::secret`] asks for it:
    /// call it at the start and now and then. Nodes may differ by up to half of [`GateConfig::cookie_lifetime`].
    pub fn set_clock(&mut self, now: Instant, since_epoch: Duration) {
        self.cookies.set_clock(now, since_epoch);
    }

    /// What has passed, been answered and been dropped so far.
    pub fn counters(&self) -> &GateCounters {
        &self.counters
    }

    /// Judges a datagram. `datagram` starts with the IKE header: a non-ESP marker has been removed.
    pub fn screen(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        load: Load,
    ) -> Verdict {
        let verdict = match self.judge(now, from, to, datagram, load) {
            Ok(verdict) => verdict,
            Err(reason) => Verdict::Drop(reason),
        };
        match &verdict {
            Verdict::Drop(reason) => self.counters.drop(*reason),
            Verdict::Reply(_) => self.counters.replies += 1,
            Verdict::Existing { .. } => self.counters.existing += 1,
            Verdict::Initial { .. } => self.counters.initial += 1,
        }
        verdict
    }

    /// Judges a datagram for which [`screen`](Self::screen) said [`Verdict::Existing`] and whose SPIs nobody knows.
    pub fn unknown_spi(&mut self, now: Instant, datagram: &[u8]) -> Verdict {
        let answer = Header::of_datagram(datagram).ok().and_then(|(header, _)| {
            //= rfc7296#section-2.21.4
            //# If the message is marked as a response, the node can audit the suspicious event but MUST NOT respond.
            if header.flags.response {
                return None;
            }
            //= rfc7296#section-2.21.4
            //# The response MUST NOT be cryptographically protected and MUST contain an INVALID_IKE_SPI Notify payload.
            self.error(
                now,
                &header,
                datagram.len(),
                Notify::new(NotifyType::INVALID_IKE_SPI),
            )
        });
        match answer {
            Some(octets) => {
                self.counters.replies += 1;
                Verdict::Reply(octets)
            }
            None => {
                self.counters.drop(GateDrop::UnknownSpi);
                Verdict::Drop(GateDrop::UnknownSpi)
            }
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        load: Load,
    ) -> Result<Verdict, GateDrop> {
        if from.port() == 0 || from.ip().is_unspecified() || from.ip().is_multicast() || from == to {
            return Err(GateDrop::Source);
        }
        if datagram == [0xff] {
            return Err(GateDrop::Keepalive);
        }
        let mut reader = Reader::new(datagram);
        let header = Header::read(&mut reader).map_err(|_| GateDrop::Short)?;
        match header.major() {
            2 => {}
            1 => return Err(GateDrop::IkeV1),
            //= rfc7296#section-2.5
            //# If an endpoint receives a message with a higher major version number, it MUST drop the message and SHOULD send an unauthenticated Notify message of type INVALID_MAJOR_VERSION containing the highest (closest) version number it supports.
            3.. if !header.flags.response && !header.spi_i.is_zero() => {
                let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION);
                return self
                    .error(now, &header, datagram.len(), notify)
                    .map(Verdict::Reply)
                    .ok_or(GateDrop::Version);
            }
            _ => return Err(GateDrop::Version),
        }
        if header.length as usize != datagram.len() || datagram.len() > limits::MESSAGE_OCTETS {
            return Err(GateDrop::Length);
        }
        if header.spi_i.is_zero() {
            return Err(GateDrop::Spi);
        }
        if header.exchange == ExchangeType::IKE_SA_INIT {
            if !header.flags.response {
                return self.initial(now, from, &header, reader, datagram.len(), load);
            }
            // An answer to a request of ours: only we, as initiator, ever sent one under this SPI.
            if header.flags.initiator {
                return Err(GateDrop::Flags);
            }
        } else {
            if header.spi_r.is_zero() {
                return Err(GateDrop::Spi);
            }
            // Every exchange after IKE_SA_INIT is protected. What is not can at best be a hint, and hints are forged.
            if !matches!(header.next_payload, PayloadType::SK | PayloadType::SKF) {
                return Err(GateDrop::Unprotected);
            }
        }
        Ok(Verdict::Existing {
            spi_i: header.spi_i,
            spi_r: header.spi_r,
            is_from_initiator: header.flags.initiator,
        })
    }

    /// Judges an IKE_SA_INIT request without keeping anything of it.
    fn initial(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: &Header,
        reader: Reader<'_>,
        octets: usize,
        load: Load,
    ) -> Result<Verdict, GateDrop> {
        //= rfc7296#section-3.1
        //# This value MUST be zero in the first message of an IKE initial exchange (including repeats of that message including a cookie).
        if !header.spi_r.is_zero() {
            return Err(GateDrop::Spi);
        }
        if !header.flags.initiator {
            return Err(GateDrop::Flags);
        }
        if header.message_id != 0 {
            return Err(GateDrop::MessageId);
        }
        if octets > INITIAL_OCTETS {
            return Err(GateDrop::Length);
        }
        let sketch = Sketch::of(header.next_payload, reader).ok_or(GateDrop::Malformed)?;
        if let Some(kind) = sketch.critical {
            let notify = Notify::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0]);
            return self
                .error(now, header, octets, notify)
                .map(Verdict::Reply)
                .ok_or(GateDrop::Malformed);
        }
        let nonce = sketch
            .nonce
            .filter(|_| sketch.sa && sketch.ke)
            .ok_or(GateDrop::Malformed)?;
        self.cookies.rotate(now);
        //= rfc7296#section-2.6
        //# When one party receives an IKE_SA_INIT request containing a cookie whose contents do not match the value expected, that party MUST ignore the cookie and process the message as if no cookie had been included; usually this means sending a response containing a new cookie.
        let verified = sketch
            .cookie
            .is_some_and(|cookie| self.cookies.check(cookie, from.ip(), header.spi_i, nonce));
        if verified {
            self.counters.cookies_good += 1;
            let rate = Rate {
                per_sec: self.config.initials_per_source,
                burst: self.config.initials_burst,
            };
            if !self.sources.take(now, from.ip(), rate) {
                return Err(GateDrop::SourceRate);
            }
        } else {
            if sketch.cookie.is_some() {
                self.counters.cookies_bad += 1;
            }
            //= rfc7296#section-2.6
            //# When a responder detects a large number of half-open IKE SAs, it SHOULD reply to IKE_SA_INIT requests with a response containing the COOKIE notification.
            if load.busy || load.half_open >= self.config.cookie_threshold {
                let cookie = self.cookies.make(from.ip(), header.spi_i, nonce);
                let notify = Notify::with_data(NotifyType::COOKIE, cookie);
                let answer = answer(header, notify)
                    .filter(|answer| answer.len() <= octets)
                    .ok_or(GateDrop::Malformed)?;
                self.counters.cookies_sent += 1;
                return Ok(Verdict::Reply(answer));
            }
        }
        Ok(Verdict::Initial {
            spi_i: header.spi_i,
            verified,
        })
    }

    /// An unprotected error answer, unless it would be longer than what it answers or too many were sent.
    fn error(&mut self, now: Instant, header: &Header, octets: usize, notify: Notify) -> Option<Vec<u8>> {
        let answer = answer(header, notify).filter(|answer| answer.len() <= octets)?;
        //= rfc7296#section-2.21.4
        //# A node needs to limit the rate at which it will send messages in response to unprotected messages.
        if self.errors.take(now, self.config.error_rate()) {
            Some(answer)
        } else {
            self.counters.replies_withheld += 1;
            None
        }
    }
}

/// The unprotected response with one notify.
fn answer(header: &Header, notify: Notify) -> Option<Vec<u8>> {
    //= rfc7296#section-1.5
    //# The message is a response message, and thus it is sent to the IP address and port from whence it came with the same IKE SPIs and the Message ID and Exchange Type are copied from the request.
    Message::new(header.answer(), vec![Payload::Notify(notify)])
        .encode()
        .ok()
}

/// What the gate wants to know about the payloads of an IKE_SA_INIT request.
#[derive(Default)]
struct Sketch<'a> {
    sa: bool,
    ke: bool,
    nonce: Option<&'a [u8]>,
    cookie: Option<&'a [u8]>,
    critical: Option<PayloadType>,
}

impl<'a> Sketch<'a> {
    /// Walks the chain of payloads; `None` if it is not one.
    fn of(first: PayloadType, mut reader: Reader<'a>) -> Option<Self> {
        let mut sketch = Self::default();
        let mut kind = first;
        let mut count = 0;
        while kind != PayloadType::NONE {
            count += 1;
            if count > limits::PAYLOADS {
                return None;
            }
            let next = PayloadType(reader.u8("next payload").ok()?);
            let critical = reader.u8("critical bit").ok()? & 0x80 != 0;
            let length = usize::from(reader.u16("payload length").ok()?);
            let mut body = reader.part(length.checked_sub(4)?, "payload").ok()?;
            match kind {
                PayloadType::SA => sketch.sa = body.left() > 0,
                PayloadType::KE => sketch.ke = body.left() > 4,
                PayloadType::NONCE => {
                    let nonce = body.rest();
                    if !crate::wire::NONCE_OCTETS.contains(&nonce.len()) || sketch.nonce.is_some() {
                        return None;
                    }
                    sketch.nonce = Some(nonce);
                }
                PayloadType::NOTIFY => {
                    body.u8("protocol").ok()?;
                    let spi = body.u8("SPI size").ok()?;
                    let notify = NotifyType(body.u16("type").ok()?);
                    body.take(spi.into(), "SPI").ok()?;
                    if notify == NotifyType::COOKIE && sketch.cookie.is_none() {
                        sketch.cookie = Some(body.rest());
                    }
                }
                PayloadType::SK | PayloadType::SKF => return None,
                kind if critical && kind.name().is_none() => sketch.critical = Some(kind),
                _ => {}
            }
            kind = next;
        }
        reader.is_empty().then_some(sketch)
    }
}

#[cfg(test)]
mod tests;
