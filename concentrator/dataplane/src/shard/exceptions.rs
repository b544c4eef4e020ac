//! Packets that do not show by their own header which SA they belong to: later fragments, and ICMP errors, which belong
//! where the packets that they quote do.

use std::time::Instant;

use esp::DropReason;
use ip::fragment;
use ip::icmp;
use ip::packet::{self, Fragment, Summary};

use super::pair::Pair;
use super::{Place, Shard};
use crate::pmtu::{Fragments, Pass, PathCounters, PathEvent, Way};

/// Lets a fragment pass whose SA is found, or says why not: malicious ones never, and where state is needed as the fragments
/// before allow ([`needs_state`]).
//= rfc4301#section-7.3
//# Also, the receiver MUST discard non-initial fragments that do not comply with the security policy applied to the overall
//# packet.
pub(super) fn guard(
    fragments: &mut Fragments,
    counters: &mut PathCounters,
    (place, needs_state, way): (Place, bool, Way),
    inner: &[u8],
    summary: &Summary,
    now: Instant,
) -> Result<(), DropReason> {
    let Some(piece) = fragment::piece(inner, summary) else {
        return Ok(());
    };
    if fragment::is_malicious(&piece, summary) {
        counters.count(PathEvent::FragmentMalicious);
        return Err(DropReason::Fragment);
    }
    match (needs_state, summary.fragment) {
        //= rfc4301#section-7.1
        //# An SA defined in this fashion will carry all traffic including initial and non-initial fragments for the indicated
        //# Local/Remote addresses and specified Next Layer protocol(s).
        (false, _) => return Ok(()),
        (true, Fragment::Later) => {}
        (true, _) => {
            fragments.first(place, way, &piece, now);
            return Ok(());
        }
    }
    let pass = fragments.later(place, way, &piece, now);
    counters.count(match pass {
        Pass::Yes => PathEvent::FragmentPassed,
        Pass::Unknown => PathEvent::FragmentUnknown,
        Pass::Overlaps => PathEvent::FragmentOverlaps,
    });
    if pass == Pass::Yes {
        Ok(())
    } else {
        Err(DropReason::Fragment)
    }
}

/// Whether a fragment on a pair is checked against, or remembered for, others of its packet: one that is of selectors with
/// ports. A later fragment that is of the selectors all the same is of some without.
pub(super) fn needs_state(pair: &Pair, summary: &Summary, is_by_selectors: bool) -> bool {
    pair.fragments_too && (summary.fragment == Fragment::First || !is_by_selectors)
}

/// A packet from a peer that is not of its SA's selectors: whether it belongs there all the same. Later fragments are for
/// [`guard`] to judge.
pub(super) fn belongs_anyway(
    counters: &mut PathCounters,
    pair: &Pair,
    inner: &[u8],
) -> Result<Summary, DropReason> {
    let summary = packet::summarize(inner).map_err(|_| DropReason::InnerMalformed)?;
    if summary.fragment == Fragment::Later && pair.has_ports {
        return if pair.fragments_too {
            Ok(summary)
        } else {
            //= rfc4301#section-7.3
            //# However, a receiver MUST discard non-initial fragments that arrive on an SA with non-trivial port (or ICMP
            //# type/code or MH type) selector values unless this feature has been negotiated.
            counters.count(PathEvent::FragmentUnknown);
            Err(DropReason::Fragment)
        };
    }
    //= rfc4301#section-6.2
    //# Specifically, the receiver must extract the header of the triggering packet from the ICMP payload, and reverse fields
    //# as described above to determine if the packet is consistent with the selectors for the SA via which the ICMP error
    //# message was received.  If the packet fails this check, the IPsec implementation MUST NOT forwarded the ICMP message to
    //# the destination.
    let quoted = icmp::quoted(inner, &summary)
        .filter(|quoted| quoted.src == summary.dst && quoted.belongs(&pair.ts_local, &pair.ts_remote));
    let is_host = !summary.src.is_multicast() && !summary.src.is_unspecified() && !summary.src.is_loopback();
    if quoted.is_some() && is_host {
        counters.count(PathEvent::ErrorPassed);
        Ok(summary)
    } else {
        Err(DropReason::SelectorMismatch)
    }
}

impl Shard {
    /// The pair for an outbound packet that no selectors match.
    pub(super) fn choose_again(
        &mut self,
        domain: u32,
        inner: &[u8],
        summary: &Summary,
        is_final: bool,
    ) -> Option<Place> {
        if summary.fragment == Fragment::Later {
            return self.choose_by_first(domain, inner, summary);
        }
        //= rfc4301#section-6.2
        //# If no SA exists that would carry the outbound ICMP message in question, and if no SPD entry would allow carriage of
        //# this outbound ICMP error message, then an IPsec implementation MUST map the message to the SA that would carry the
        //# return traffic associated with the packet that triggered the ICMP error message.
        let quoted = icmp::quoted(inner, summary).filter(|quoted| quoted.src == summary.dst)?;
        let back = Summary {
            src: quoted.dst,
            dst: quoted.src,
            ports: quoted.ports.map(|(from, to)| (to, from)),
            ..quoted
        };
        let place = self.choose(domain, &back, is_final).ok()?;
        self.counters.paths.count(PathEvent::ErrorPassed);
        Some(place)
    }

    /// The pair that the first fragment of the same packet went by.
    fn choose_by_first(&self, domain: u32, inner: &[u8], summary: &Summary) -> Option<Place> {
        let piece = fragment::piece(inner, summary)?;
        let among = |places: &[Place]| {
            let mut newest_first = places.iter().rev().copied();
            newest_first.find(|place| {
                let pair = self.pairs.get(*place as usize).and_then(Option::as_deref);
                pair.is_some_and(|pair| pair.fragments_too)
                    && self.paths.fragments.knows(*place, Way::Out, &piece)
            })
        };
        self.routes.get(&domain)?.find(summary.dst, among)
    }
}
