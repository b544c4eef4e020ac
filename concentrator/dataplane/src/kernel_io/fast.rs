//! What a worker sends by AF_XDP beside its sockets.

use std::net::SocketAddr;
use std::time::Duration;

use esp::tunnel::Outer;

use super::KernelIo;
use crate::fast::frame::Around;
use crate::fast::{FastCounters, Lent, Sent};
use crate::io::{PacketIo as _, PortId, Refused};

/// How often losses of AF_XDP are asked for.
const LOSSES_EVERY: Duration = Duration::from_secs(1);

impl KernelIo<'_> {
    /// The worker's turn is over: sends what AF_XDP has in line and gives back what it has read. Tells what it did.
    pub(crate) fn end_turn(&mut self) -> FastCounters {
        self.flush_fast();
        let Some(fast) = self.seat.fast.as_mut().and_then(Lent::path) else {
            return FastCounters::default();
        };
        fast.settle();
        if self.now >= self.losses_at {
            self.losses_at = self.now + LOSSES_EVERY;
            fast.count_losses();
        }
        fast.take_counters()
    }

    /// Sends what AF_XDP has in line, if packets may still be carried.
    pub(super) fn flush_fast(&mut self) {
        let may_carry = self.seat.may_carry();
        if let Some(fast) = self
            .seat
            .fast
            .as_mut()
            .and_then(Lent::path)
            .filter(|fast| fast.has_line())
        {
            fast.flush(may_carry);
        }
    }

    /// Sends by AF_XDP; `None` if the socket is to do it.
    pub(super) fn transmit_fast(
        &mut self,
        port: PortId,
        data: &[u8],
        segment: usize,
        to: SocketAddr,
        outer: Outer,
    ) -> Option<Result<(), Refused>> {
        let now = self.now;
        let (from, encap) = self.describe(port)?;
        let fast = self.seat.fast.as_mut().and_then(Lent::path)?;
        let around = Around {
            from,
            to,
            encap,
            tos: outer.traffic_class,
            dont_fragment: outer.dont_fragment,
        };
        match fast.send(&around, data, segment, now) {
            Sent::Yes => Some(Ok(())),
            Sent::Full => Some(Err(Refused::Full)),
            Sent::No => {
                // What is in line was sent before.
                self.flush_fast();
                None
            }
        }
    }
}
