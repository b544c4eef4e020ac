//! The ESP SAs of one user: installed, used, replaced. Performs no I/O.

use crypto::KeyError;
use esp::{DropCounters, DropReason, InboundParams, InboundSa, OutboundParams, OutboundSa, tunnel};
use ike::{Activate, ChildSa};

struct Child {
    spi_in: u32,
    inbound: InboundSa,
    outbound: OutboundSa,
    usable: bool,
    /// A younger one has been usable: what arrives on this one is still opened, and nothing is sent on it any more.
    spent: bool,
}

/// The child SAs of one IKE SA, oldest first, and what they dropped.
#[derive(Default)]
pub(crate) struct Children {
    list: Vec<Child>,
    buffer: Vec<u8>,
    pub(crate) drops: DropCounters,
}

impl Children {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes a new child SA into use.
    ///
    /// # Errors
    /// [`KeyError`] if a key does not fit its cipher.
    pub(crate) fn install(&mut self, child: &ChildSa) -> Result<(), KeyError> {
        let inbound = InboundSa::new(&InboundParams {
            spi: child.spi_in,
            suite: child.suite,
            enc_key: child.keys_in.enc.clone(),
            integ_key: child.keys_in.integ.clone(),
            esn: child.esn,
            window: child.replay_window,
            checkpoint: 0,
        })?;
        // Keys are fresh at each login and at each rekey: counting from 1 in generation 0 never uses an IV twice.
        let outbound = OutboundSa::new(&OutboundParams {
            spi: child.spi_out,
            suite: child.suite,
            enc_key: child.keys_out.enc.clone(),
            integ_key: child.keys_out.integ.clone(),
            esn: child.esn,
            generation: 0,
            first_seq: 1,
            ceiling: u64::MAX,
            tfc_pad_to: 0,
        })?;
        self.list.push(Child {
            spi_in: child.spi_in,
            inbound,
            outbound,
            usable: false,
            spent: false,
        });
        if child.activate == Activate::Now {
            self.make_usable(self.list.len() - 1);
        }
        Ok(())
    }

    /// Whatever is sent goes there, until a younger one is usable.
    fn make_usable(&mut self, place: usize) {
        for older in self.list.iter_mut().take(place) {
            older.spent = true;
        }
        if let Some(child) = self.list.get_mut(place) {
            child.usable = true;
        }
    }

    /// Forgets a child SA.
    pub(crate) fn remove(&mut self, spi_in: u32) {
        self.list.retain(|child| child.spi_in != spi_in);
    }

    /// Seals an inner packet of at most `size` octets, which `write` puts down and tells the length of. None if it wrote
    /// none, or if it could not be sealed, which is counted.
    pub(crate) fn seal(
        &mut self,
        size: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Vec<u8>> {
        let needed = esp::HEAD_ROOM + size + esp::TAIL_ROOM;
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        let len = write(self.buffer.get_mut(esp::HEAD_ROOM..esp::HEAD_ROOM + size)?)?;
        let inner = esp::HEAD_ROOM..esp::HEAD_ROOM + len;
        let next_header = self
            .buffer
            .get(inner.clone())
            .and_then(tunnel::next_header_of)
            .unwrap_or_default();
        // The newest child that may be used: the one before it while a rekey is under way, until that is gone.
        let newest = self.list.len().checked_sub(1);
        let fit = |child: &Child| child.usable && !child.spent;
        let place = self.list.iter().rposition(fit).or(newest);
        let sealed = match place.and_then(|place| self.list.get_mut(place)) {
            Some(child) => child.outbound.seal(&mut self.buffer, inner, next_header),
            None => Err(DropReason::NoSa),
        };
        match sealed {
            Ok(esp) => self.buffer.get(esp).map(<[u8]>::to_vec),
            Err(reason) => {
                self.drops.count(reason);
                None
            }
        }
    }

    /// Opens an ESP packet in place; gives the inner one. None for what is dropped, which is counted.
    pub(crate) fn open<'a>(&mut self, bytes: &'a mut [u8]) -> Option<&'a [u8]> {
        let spi = bytes.first_chunk().map(|spi| u32::from_be_bytes(*spi));
        let place = self.list.iter().position(|child| Some(child.spi_in) == spi);
        let Some((place, child)) = place.and_then(|place| Some((place, self.list.get_mut(place)?))) else {
            self.drops.count(DropReason::UnknownSpi);
            return None;
        };
        let end = bytes.len();
        let opened = child.inbound.open(bytes, 0..end);
        let first = !child.usable
            && opened
                .as_ref()
                .map_or_else(|reason| reason.is_authentic(), |_| true);
        if first {
            self.make_usable(place);
        }
        match opened {
            Ok(opened) => bytes.get(opened.inner),
            Err(reason) => {
                self.drops.count(reason);
                None
            }
        }
    }
}
