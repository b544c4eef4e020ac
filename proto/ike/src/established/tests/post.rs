//! What the two ends are given, and what travels between them: settings, SPIs, dice, letters that can be looked into.

use super::*;

/// A side's allocator: knows what is taken, so that leaks show.
#[derive(Default)]
pub(in crate::established) struct Spis {
    pub(in crate::established) taken: Mutex<BTreeSet<u32>>,
    pub(in crate::established) next: Mutex<u32>,
    pub(in crate::established) side: u8,
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        Spi(u64::from(self.side) << 56 | u64::from(*next))
    }

    fn esp(&self, worker: u8) -> u32 {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        let spi = u32::from(worker) << 29 | u32::from(self.side) << 16 | (*next + 0x100);
        assert!(self.taken.lock().unwrap().insert(spi));
        spi
    }

    fn release_esp(&self, spi: u32) {
        assert!(
            self.taken.lock().unwrap().remove(&spi),
            "{spi:08x} released twice"
        );
    }

    fn claim_esp(&self, spi: u32) -> bool {
        self.taken.lock().unwrap().insert(spi)
    }
}

/// A seeded stream whose nonces (the only 32-octet draws) may be made to start with a chosen octet.
pub(in crate::established) struct Dice {
    pub(in crate::established) seeded: SeededRandom,
    pub(in crate::established) nonce: Arc<Mutex<Option<u8>>>,
}

impl Random for Dice {
    fn fill(&mut self, buf: &mut [u8]) {
        self.seeded.fill(buf);
        if let (32, Some(first)) = (buf.len(), *self.nonce.lock().unwrap()) {
            buf[0] = first;
        }
    }
}

/// A datagram on its way, with what a sniffer that has the keys sees in it.
#[derive(Clone, Debug)]
pub(in crate::established) struct Letter {
    pub(in crate::established) bytes: Vec<u8>,
    pub(in crate::established) durable: bool,
    pub(in crate::established) from: SocketAddr,
    pub(in crate::established) to: SocketAddr,
    pub(in crate::established) seen: Option<Seen>,
}

/// The inside of a letter.
#[derive(Clone, Debug)]
pub(in crate::established) struct Seen {
    pub(in crate::established) header: Header,
    pub(in crate::established) payloads: Vec<Payload>,
}

impl Seen {
    pub(in crate::established) fn has_notify(&self, kind: NotifyType) -> bool {
        Payloads(&self.payloads).notify(kind).is_some()
    }

    /// The only payload is this notify.
    pub(in crate::established) fn is_only(&self, kind: NotifyType) -> bool {
        self.payloads.len() == 1 && self.has_notify(kind)
    }

    pub(in crate::established) fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    pub(in crate::established) fn deleted(&self) -> Vec<u32> {
        let spis = |payload: &Payload| match payload {
            Payload::Delete { spis, .. } => spis.clone(),
            _ => Vec::new(),
        };
        self.payloads.iter().flat_map(spis).collect()
    }

    pub(in crate::established) fn deletes_ike(&self) -> bool {
        let ike = |p: &Payload| {
            matches!(
                p,
                Payload::Delete {
                    protocol: ProtocolId::IKE,
                    ..
                }
            )
        };
        self.payloads.iter().any(ike)
    }
}

/// How a pair is set up.
#[derive(Clone)]
pub(in crate::established) struct Setup {
    pub(in crate::established) groups: (Vec<Group>, Vec<Group>),
    pub(in crate::established) ike_groups: (Vec<Group>, Vec<Group>),
    pub(in crate::established) child_life: Lifetime,
    pub(in crate::established) ike_life: Lifetime,
    pub(in crate::established) rekey: RekeyPolicy,
    pub(in crate::established) liveness: Option<Duration>,
    pub(in crate::established) nat: (NatFindings, NatFindings),
    pub(in crate::established) fragment_size: Option<usize>,
    pub(in crate::established) timing: Timing,
    pub(in crate::established) max_children: u16,
    pub(in crate::established) message_id_sync: bool,
    /// Workers of further child SAs with the same selectors, of the initiator and of the responder.
    pub(in crate::established) resources: (Vec<u8>, Vec<u8>),
    /// What IKE_AUTH has agreed on about the first one.
    pub(in crate::established) first: Resource,
    /// IKE messages under AES-CBC: with counter modes nobody synchronizes after a takeover.
    pub(in crate::established) random_ivs: bool,
    pub(in crate::established) seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let curve = vec![Group::Curve25519];
        Self {
            groups: (Vec::new(), Vec::new()),
            ike_groups: (curve.clone(), curve),
            child_life: Lifetime::default(),
            ike_life: Lifetime::default(),
            rekey: RekeyPolicy::AtSoftLimit,
            liveness: None,
            nat: (NatFindings::default(), NatFindings::default()),
            fragment_size: None,
            timing: Timing::default(),
            max_children: 8,
            message_id_sync: true,
            resources: (Vec::new(), Vec::new()),
            first: Resource::None,
            random_ivs: false,
            seed: 1,
        }
    }
}
