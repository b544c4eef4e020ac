//! The file of a backup: what a cluster needs to live again, sealed by the cluster key. Performs no I/O.
//!
//! ```text
//!   "VPNCLBK1" ‖ u16 length ‖ file key, wrapped by the cluster key ‖ frame…      frame = u32 length ‖ sealed
//!   frame 0: header (JSON)     frames 1..n: entries     last frame: how many entries there were
//! ```
//! Every frame is sealed under the file key with its number and whether it is the last, so that frames that are left
//! out, repeated, exchanged or cut off are noticed.

use crypto::{Random, Secret, SystemRandom, open_blob, seal_blob};
use serde::{Deserialize, Serialize};
use store::Limits;

use crate::keys;
use crate::vault::{ClusterKeys, VaultError};

const MAGIC: &[u8; 8] = b"VPNCLBK1";
const CONTEXT: &[u8] = b"backup\0";
/// A frame is full when it has so many octets.
const FRAME: usize = 256 << 10;
/// No frame is longer.
const MAX_FRAME: usize = FRAME + Limits::KEY + Limits::VALUE + 1_024;

/// What is wrong with a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It begins otherwise.
    #[error("this is no backup of a cluster, or one of a newer version")]
    Magic,
    /// The cluster key is another one, or is not in the key file.
    #[error("the backup's key: {0}")]
    Key(VaultError),
    /// A frame does not open.
    #[error("the backup is damaged in frame {0}")]
    Frame(u64),
    /// It ends before its last frame.
    #[error("the backup is cut off after {0} frames")]
    CutOff(u64),
    /// Something follows the last frame.
    #[error("something follows the end of the backup")]
    Trailing,
    /// The cipher refused, or an entry passes the store's limits.
    #[error("the backup cannot be written")]
    Write,
}

/// What a backup says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When it was begun, in seconds since 1970.
    pub time: u64,
    /// The node that made it.
    pub node: String,
    /// The program's version.
    pub version: String,
}

/// Whether a key belongs into a backup: configuration, address leases, audit trail, the epoch, generations and
/// the root secret. Sessions do not, nor what names a node or is bound to a lease.
pub fn belongs(key: &str) -> bool {
    ["config/", "pool/", "audit/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
        || key == keys::EPOCH
        || key == keys::ROOT
        || matches!(keys::Path::parse(key), Some(keys::Path::Generation(_)))
}

/// Writes a backup.
pub struct Writer {
    key: Secret,
    frame: u64,
    entries: u64,
    plain: Vec<u8>,
}

impl Writer {
    /// Begins a backup; with its first octets.
    ///
    /// # Errors
    /// [`BackupError::Write`].
    pub fn begin(
        keys: &ClusterKeys,
        header: &Header,
        random: &mut dyn Random,
    ) -> Result<(Self, Vec<u8>), BackupError> {
        let key = Secret::random(random, 32);
        let wrapped = keys.wrap(CONTEXT, key.clone()).map_err(BackupError::Key)?;
        let length = u16::try_from(wrapped.len()).map_err(|_| BackupError::Write)?;
        let mut writer = Self {
            key,
            frame: 0,
            entries: 0,
            plain: serde_json::to_vec(header).map_err(|_| BackupError::Write)?,
        };
        let first = writer.seal(false)?;
        let begin = [MAGIC.as_slice(), &length.to_be_bytes(), &wrapped, &first].concat();
        Ok((writer, begin))
    }

    /// Adds an entry; gives octets when a frame is full.
    ///
    /// # Errors
    /// [`BackupError::Write`].
    pub fn push(&mut self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, BackupError> {
        let key_length = u16::try_from(key.len()).map_err(|_| BackupError::Write)?;
        let value_length = u32::try_from(value.len()).map_err(|_| BackupError::Write)?;
        if key.len() > Limits::KEY || value.len() > Limits::VALUE {
            return Err(BackupError::Write);
        }
        self.plain.extend_from_slice(&key_length.to_be_bytes());
        self.plain.extend_from_slice(key.as_bytes());
        self.plain.extend_from_slice(&value_length.to_be_bytes());
        self.plain.extend_from_slice(value);
        self.entries += 1;
        if self.plain.len() < FRAME {
            return Ok(None);
        }
        self.seal(false).map(Some)
    }

    /// The last octets. A backup without them is worthless.
    ///
    /// # Errors
    /// [`BackupError::Write`].
    pub fn finish(mut self) -> Result<Vec<u8>, BackupError> {
        let mut end = if self.plain.is_empty() {
            Vec::new()
        } else {
            self.seal(false)?
        };
        self.plain.extend_from_slice(&self.entries.to_be_bytes());
        end.extend(self.seal(true)?);
        Ok(end)
    }

    fn seal(&mut self, last: bool) -> Result<Vec<u8>, BackupError> {
        let plain = std::mem::take(&mut self.plain);
        let associated = associated(self.frame, last);
        self.frame += 1;
        let sealed = seal_blob(&self.key, &associated, &plain, &mut SystemRandom);
        let sealed = sealed.map_err(|_| BackupError::Write)?;
        let length = u32::try_from(sealed.len()).map_err(|_| BackupError::Write)?;
        Ok([length.to_be_bytes().as_slice(), &sealed].concat())
    }
}

fn associated(frame: u64, last: bool) -> Vec<u8> {
    [b"frame\0".as_slice(), &frame.to_be_bytes(), &[u8::from(last)]].concat()
}

/// A part of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// First, and once.
    Header(Header),
    /// Entries in the order of their writing.
    Entries(Vec<(String, Vec<u8>)>),
    /// Last, and once: it is complete.
    End,
}

/// Reads a backup that arrives in pieces.
pub struct Reader<'a> {
    keys: &'a ClusterKeys,
    key: Option<Secret>,
    buffer: Vec<u8>,
    frame: u64,
    entries: u64,
    ended: bool,
}

impl<'a> Reader<'a> {
    /// Reads with these keys.
    pub fn new(keys: &'a ClusterKeys) -> Self {
        Self {
            keys,
            key: None,
            buffer: Vec::new(),
            frame: 0,
            entries: 0,
            ended: false,
        }
    }

    /// Takes octets in. Ask for all parts before the next.
    pub fn feed(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next part; `None`: more octets are needed.
    ///
    /// # Errors
    /// What is wrong with the backup.
    pub fn part(&mut self) -> Result<Option<Part>, BackupError> {
        if self.ended {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(BackupError::Trailing),
            };
        }
        let Some(key) = self.file_key()? else {
            return Ok(None);
        };
        let Some((length, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(BackupError::Frame(self.frame));
        }
        let Some(sealed) = rest.get(..length) else {
            return Ok(None);
        };
        let plain = open_blob(&key, &associated(self.frame, false), sealed);
        let last = plain.is_err();
        let plain = plain.or_else(|_| open_blob(&key, &associated(self.frame, true), sealed));
        let plain = plain.map_err(|_| BackupError::Frame(self.frame))?;
        self.buffer.drain(..4 + length);
        let part = self.parse(plain.expose(), last);
        let part = part.ok_or(BackupError::Frame(self.frame))?;
        self.frame += 1;
        Ok(Some(part))
    }

    /// To be asked after the last octets.
    ///
    /// # Errors
    /// [`BackupError::CutOff`] unless the end was read.
    pub fn finish(self) -> Result<(), BackupError> {
        match (self.ended, self.buffer.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(BackupError::Trailing),
            (false, _) => Err(BackupError::CutOff(self.frame)),
        }
    }

    /// The file key, once its octets are there.
    fn file_key(&mut self) -> Result<Option<Secret>, BackupError> {
        if self.key.is_none() {
            let begin = self.buffer.iter().zip(MAGIC);
            if begin.clone().any(|(octet, expected)| octet != expected) {
                return Err(BackupError::Magic);
            }
            let Some(length) = self.buffer.get(MAGIC.len()..MAGIC.len() + 2) else {
                return Ok(None);
            };
            let length = length
                .iter()
                .fold(0, |length, octet| length << 8 | usize::from(*octet));
            let end = MAGIC.len() + 2 + length;
            let Some(wrapped) = self.buffer.get(MAGIC.len() + 2..end) else {
                return Ok(None);
            };
            self.key = Some(self.keys.unwrap(CONTEXT, wrapped).map_err(BackupError::Key)?);
            self.buffer.drain(..end);
        }
        Ok(self.key.clone())
    }

    fn parse(&mut self, plain: &[u8], last: bool) -> Option<Part> {
        if self.frame == 0 {
            let header = serde_json::from_slice(plain).ok().filter(|_| !last)?;
            return Some(Part::Header(header));
        }
        if last {
            let count = u64::from_be_bytes(plain.try_into().ok()?);
            self.ended = count == self.entries;
            return self.ended.then_some(Part::End);
        }
        let (mut rest, mut entries) = (plain, Vec::new());
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (key, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            let (length, after) = after.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (value, after) = after.split_at_checked(length)?;
            entries.push((std::str::from_utf8(key).ok()?.to_owned(), value.to_vec()));
            rest = after;
        }
        self.entries += u64::try_from(entries.len()).ok()?;
        Some(Part::Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use crypto::SeededRandom;
    use proptest::prelude::*;

    use super::*;

    fn cluster_keys(n: u8) -> ClusterKeys {
        let hex: String = (0..32_u8).map(|octet| format!("{:02x}", octet ^ n)).collect();
        ClusterKeys::parse(&Secret::from(hex.into_bytes())).unwrap()
    }

    fn write(entries: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
        write_seeded(entries, 1)
    }

    fn write_seeded(entries: &[(String, Vec<u8>)], seed: u64) -> Vec<Vec<u8>> {
        let header = Header {
            time: 1,
            node: "a".into(),
            version: "1".into(),
        };
        let mut random = SeededRandom::from_seed(seed);
        let (mut writer, begin) = Writer::begin(&cluster_keys(0), &header, &mut random).unwrap();
        let mut pieces = vec![begin];
        for (key, value) in entries {
            pieces.extend(writer.push(key, value).unwrap());
        }
        pieces.push(writer.finish().unwrap());
        pieces
    }

    /// Everything that was read, and how it ended.
    fn read(keys: &ClusterKeys, file: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>, BackupError> {
        let mut reader = Reader::new(keys);
        let (mut entries, mut header) = (Vec::new(), None);
        for octets in file.chunks(step) {
            reader.feed(octets);
            while let Some(part) = reader.part()? {
                match part {
                    Part::Header(read) => assert!(header.replace(read).is_none()),
                    Part::Entries(read) => entries.extend(read),
                    Part::End => {}
                }
            }
        }
        reader.finish()?;
        assert_eq!(header.unwrap().node, "a");
        Ok(entries)
    }

    fn many() -> Vec<(String, Vec<u8>)> {
        (0..42_u32)
            .map(|n| (format!("config/{n}"), vec![b'x'; 20_000]))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_in_whatever_pieces() {
        let pieces = write(&many());
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() < 1 << 20));
        let file = pieces.concat();
        for step in [1_000, 7_777, file.len()] {
            assert_eq!(read(&cluster_keys(0), &file, step).unwrap(), many());
        }
        assert_eq!(read(&cluster_keys(0), &write(&[]).concat(), 1).unwrap(), vec![]);
        let sealed = file
            .windows(8)
            .any(|octets| octets == b"config/1" || octets == b"xxxxxxxx");
        assert!(!sealed, "nothing of it can be seen");
    }

    #[test]
    fn other_keys_and_other_files_are_refused() {
        let file = write(&many()).concat();
        let error = read(&cluster_keys(1), &file, 100).unwrap_err();
        assert!(matches!(
            error,
            BackupError::Key(VaultError::UnknownClusterKey(_))
        ));
        assert_eq!(
            read(&cluster_keys(0), b"SQLite format 3", 4),
            Err(BackupError::Magic)
        );
        assert_eq!(read(&cluster_keys(0), b"", 4), Err(BackupError::CutOff(0)));
        assert_eq!(read(&cluster_keys(0), b"VPN", 4), Err(BackupError::CutOff(0)));
    }

    #[test]
    fn no_frame_can_be_left_out_repeated_exchanged_or_cut_off() {
        let pieces = write(&many());
        let keys = cluster_keys(0);
        let parts: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let joined = |order: &[usize]| order.iter().map(|n| parts[*n]).collect::<Vec<_>>().concat();
        assert_eq!(parts.len(), 5);
        assert!(read(&keys, &joined(&[0, 1, 2, 3, 4]), 999).is_ok());
        assert_eq!(
            read(&keys, &joined(&[0, 2, 3, 4]), 999),
            Err(BackupError::Frame(1))
        );
        assert_eq!(
            read(&keys, &joined(&[0, 1, 1, 2, 3, 4]), 999),
            Err(BackupError::Frame(2))
        );
        assert_eq!(
            read(&keys, &joined(&[0, 2, 1, 3, 4]), 999),
            Err(BackupError::Frame(1))
        );
        assert_eq!(
            read(&keys, &joined(&[0, 1, 2, 3]), 999),
            Err(BackupError::CutOff(4))
        );
        assert_eq!(
            read(&keys, &joined(&[0, 1, 2, 3, 4, 4]), 999),
            Err(BackupError::Trailing)
        );
        let end = joined(&[0, 1, 2, 3, 4]);
        assert!(read(&keys, &end[..end.len() - 1], 999).is_err());
        // Frames of another backup under the same cluster key.
        let other = write_seeded(&many(), 2);
        let mixed = [parts[0], &other[1], parts[2], parts[3], parts[4]].concat();
        assert!(read(&keys, &mixed, 999) == Err(BackupError::Frame(1)));
    }

    #[test]
    fn only_what_a_new_life_needs_is_taken() {
        for key in [
            "config/acme/tenant",
            "pool/acme/10.0.0.1",
            "audit/1",
            "epoch",
            "root",
            "slot/003/gen",
        ] {
            assert!(belongs(key), "{key}");
        }
        for key in [
            "slot/003/owner",
            "slot/003/keys",
            "slot/003/sa/1",
            "node/a",
            "member/a",
            "x",
        ] {
            assert!(!belongs(key), "{key}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_changed_octet_is_noticed(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let entries = vec![("config/a".to_owned(), b"value".to_vec())];
            let mut file = write(&entries).concat();
            let place = place.index(file.len());
            file[place] ^= 1 << bit;
            prop_assert!(read(&cluster_keys(0), &file, 50).is_err());
        }

        #[test]
        fn entries_round_trip(entries in prop::collection::vec(("[a-z/]{0,30}", prop::collection::vec(any::<u8>(), 0..200)), 0..20)) {
            let file = write(&entries).concat();
            prop_assert_eq!(read(&cluster_keys(0), &file, 64).unwrap(), entries);
        }
    }
}
