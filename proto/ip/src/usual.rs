//! The usual question to a pair of selector lists, prepared: whether they take an IPv4 packet by its addresses alone.

use std::net::IpAddr;

use crate::Selector;

/// One IPv4 range of each end, both of which take every protocol and port. A packet between them belongs to the lists
/// they are from; whether another one does, only the lists can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usual {
    from: Span,
    to: Span,
}

/// The addresses `first..=first + rest`, in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    first: u32,
    rest: u32,
}

impl Usual {
    /// The first such range of each list; none where a list has none.
    #[must_use]
    pub fn of(from: &[Selector], to: &[Selector]) -> Option<Self> {
        Some(Self {
            from: from.iter().find_map(Span::of)?,
            to: to.iter().find_map(Span::of)?,
        })
    }

    /// Whether a packet with these addresses, in host order, belongs to the lists for certain.
    #[must_use]
    #[inline(always)]
    pub fn takes(&self, src: u32, dst: u32) -> bool {
        self.from.has(src) && self.to.has(dst)
    }
}

impl Span {
    fn of(selector: &Selector) -> Option<Self> {
        let (IpAddr::V4(start), IpAddr::V4(end)) = (selector.start(), selector.end()) else {
            return None;
        };
        (selector.protocol() == 0 && selector.is_any_port()).then(|| Self {
            first: start.to_bits(),
            rest: end.to_bits().wrapping_sub(start.to_bits()),
        })
    }

    #[inline(always)]
    fn has(self, addr: u32) -> bool {
        addr.wrapping_sub(self.first) <= self.rest
    }
}
