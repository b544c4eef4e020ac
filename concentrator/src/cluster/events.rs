//! What happens in the cluster, for the log, the counters and the stream of events.

use cluster::Event;

/// The parts of an event that have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// A short word.
    pub kind: &'static str,
    /// The slot that it is about.
    pub slot: Option<u8>,
    /// The slot's generation.
    pub generation: Option<u64>,
    /// The other node that it is about.
    pub about: &'a str,
    /// Whether somebody should look.
    pub trouble: bool,
}

/// The parts of an event.
#[must_use]
#[allow(clippy::wildcard_enum_match_arm, reason = "the enumeration is open")]
pub fn facts(event: &Event) -> Facts<'_> {
    let plain = |kind| Facts {
        kind,
        slot: None,
        generation: None,
        about: "",
        trouble: false,
    };
    let node = |kind, about, trouble| Facts {
        about,
        trouble,
        ..plain(kind)
    };
    let of = |kind, slot: &u8, generation: Option<&u64>| Facts {
        slot: Some(*slot),
        generation: generation.copied(),
        ..plain(kind)
    };
    let trouble = |facts| Facts {
        trouble: true,
        ..facts
    };
    match event {
        Event::NodeUp { name } => node("node_up", name, false),
        Event::NodeSuspected { name, .. } => node("suspected", name, true),
        Event::NodeDied { name } => node("died", name, true),
        Event::NodeNotDead { name } => node("not_dead", name, true),
        Event::TableDiffers { name } => node("table_differs", name, true),
        Event::NameTaken { .. } => trouble(plain("name_taken")),
        Event::Claiming { slot, generation, .. } => of("claiming", slot, Some(generation)),
        Event::ClaimLost { slot } => of("claim_lost", slot, None),
        Event::Damped { slot, .. } => of("damped", slot, None),
        Event::Taking { slot, generation, .. } => of("taking", slot, Some(generation)),
        Event::Serving { slot, generation, .. } => of("serving", slot, Some(generation)),
        Event::HandoverBegun { slot, to } => Facts {
            about: to,
            ..of("handover", slot, None)
        },
        Event::HandedOver { slot, to, generation } => Facts {
            about: to,
            ..of("handed_over", slot, Some(generation))
        },
        Event::HandoverFailed { slot, to, .. } => trouble(Facts {
            about: to,
            ..of("handover_failed", slot, None)
        }),
        Event::Dropped { slot, generation, .. } => of("dropped", slot, Some(generation)),
        Event::ServeFailed { slot, .. } => trouble(of("serve_failed", slot, None)),
        Event::Slow { slot, .. } => trouble(of("slow", slot, None)),
        Event::LeaseLost => trouble(plain("lease_lost")),
        Event::DeadlinePassed { .. } => trouble(plain("deadline_passed")),
        Event::Store { reachable: true } => plain("store_up"),
        Event::Store { reachable: false } => trouble(plain("store_down")),
        Event::Static { on: true } => trouble(plain("static_on")),
        Event::Static { on: false } => plain("static_off"),
        Event::StoreWentBack { .. } => trouble(plain("store_went_back")),
        Event::NewEpoch { .. } => trouble(plain("epoch")),
        Event::Refenced { slot, generation, .. } => of("refenced", slot, Some(generation)),
        Event::ServiceLink { up: true } => plain("link_up"),
        Event::ServiceLink { up: false } => trouble(plain("link_down")),
        Event::Draining { on: true } => plain("draining"),
        Event::Draining { on: false } => plain("undrained"),
        Event::Redirecting { to: Some(to) } => node("redirecting", to, false),
        Event::Redirecting { to: None } => plain("redirected"),
        Event::Membership { name, member: true } => node("joined", name, false),
        Event::Membership { name, member: false } => node("left", name, false),
        _ => plain("other"),
    }
}

/// Writes an event to the log.
pub fn log(event: &Event) {
    let facts = facts(event);
    let (kind, slot, generation) = (facts.kind, facts.slot, facts.generation);
    if facts.trouble {
        tracing::warn!(kind, slot, generation, "{event}");
    } else {
        tracing::info!(kind, slot, generation, "{event}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_name_what_they_are_about() {
        let event = Event::HandedOver {
            slot: 3,
            to: "b".into(),
            generation: 7,
        };
        let facts = facts(&event);
        assert_eq!(
            (
                facts.kind,
                facts.slot,
                facts.generation,
                facts.about,
                facts.trouble
            ),
            ("handed_over", Some(3), Some(7), "b", false)
        );
    }
}
