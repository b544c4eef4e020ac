//! The protected half of a handshake: keys, sealing, opening, fragments.

use std::time::Instant;

use crypto::{KeyError, Opener, Random, Sealer};

use crate::keys::IkeKeys;
use crate::types::{Counters, IkeSuite, Role};
use crate::wire::protect::{Content, IvSource, ProtectError, open, seal, seal_fragmented};
use crate::wire::{DecodeError, Header, Payload, Progress, Reassembler, decode_payloads, encode_payloads};

/// Keys of an IKE SA in use.
pub(crate) struct Channel {
    pub(crate) suite: IkeSuite,
    pub(crate) keys: IkeKeys,
    pub(crate) ivs: IvSource,
    /// Largest datagram, if the peer understands fragments.
    pub(crate) fragment_size: Option<usize>,
    sealer: Sealer,
    opener: Opener,
    reassembler: Reassembler,
}

/// What a datagram turned out to be.
pub(crate) enum Received {
    /// Not authentic, or not addressed to this state: nothing happened.
    Dropped,
    /// An authentic fragment; more are needed.
    Part,
    /// An authentic message, which may be malformed inside.
    Message(Result<Vec<Payload>, DecodeError>),
}

impl Channel {
    pub(crate) fn new(
        role: Role,
        suite: IkeSuite,
        keys: IkeKeys,
        generation: u16,
        fragment_size: Option<usize>,
    ) -> Result<Self, KeyError> {
        let (enc, integ) = keys.sent_by(role);
        let sealer = Sealer::new(suite.suite, enc.expose(), integ.expose())?;
        let (enc, integ) = keys.sent_by(role.peer());
        let opener = Opener::new(suite.suite, enc.expose(), integ.expose())?;
        Ok(Self {
            suite,
            keys,
            ivs: IvSource::new(generation),
            fragment_size,
            sealer,
            opener,
            reassembler: Reassembler::new(),
        })
    }

    /// Seals payloads into one datagram, or into fragments if the peer understands them and one would be too long.
    pub(crate) fn seal(
        &mut self,
        header: &Header,
        payloads: &[Payload],
        random: &mut dyn Random,
    ) -> Result<Vec<Vec<u8>>, ProtectError> {
        let (first, plaintext) = encode_payloads(payloads)?;
        match self.fragment_size {
            Some(size) => seal_fragmented(
                header,
                first,
                &plaintext,
                &self.sealer,
                &mut self.ivs,
                random,
                size,
            ),
            None => Ok(vec![seal(
                header,
                first,
                &plaintext,
                &self.sealer,
                &mut self.ivs,
                random,
            )?]),
        }
    }

    /// Opens a datagram whose header was found fitting.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        message_id: u32,
        datagram: &[u8],
        counters: &mut Counters,
    ) -> Received {
        let opened = match open(datagram, &self.opener) {
            Ok(opened) => opened,
            Err(ProtectError::NotAuthentic) => {
                counters.integrity_failures += 1;
                return Received::Dropped;
            }
            Err(_) => {
                counters.malformed += 1;
                return Received::Dropped;
            }
        };
        let (first, plaintext) = match opened.content {
            Content::Whole { first, plaintext } => (first, plaintext),
            Content::Fragment(_) if self.fragment_size.is_none() => {
                counters.unexpected += 1;
                return Received::Dropped;
            }
            Content::Fragment(fragment) => {
                counters.fragments_in += 1;
                match self.reassembler.add(now, message_id, fragment) {
                    Progress::Complete { first, plaintext } => (first, plaintext),
                    Progress::Waiting { .. } => return Received::Part,
                    Progress::Ignored(_) => {
                        counters.fragments_dropped += 1;
                        return Received::Part;
                    }
                }
            }
        };
        Received::Message(decode_payloads(first, &plaintext))
    }
}
