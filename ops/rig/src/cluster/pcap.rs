//! Reads captures (the classic pcap format) as a stream: a capture of any length takes the memory of one frame.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::Result;

/// Octets of the largest frame that is believed; veth carries at most 64 KiB and a header.
const FRAME_MAX: usize = 256 * 1024;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// What was captured of it, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Whether that is all of it.
    pub whole: bool,
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    swapped: bool,
    /// Nanoseconds of one unit of the second time field.
    unit: u32,
    buffer: Vec<u8>,
    cut: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Self::new(BufReader::with_capacity(1 << 20, file)).with_context(|| path.display().to_string())
    }
}

impl<R: Read> Reader<R> {
    /// Reads the file's header: either order of octets, micro- or nanoseconds, Ethernet only.
    pub fn new(mut source: R) -> Result<Self> {
        let mut head = [0; 24];
        source.read_exact(&mut head).context("no pcap header")?;
        let (swapped, unit) = match word(&head, 0, false) {
            0xa1b2_c3d4 => (false, 1000),
            0xa1b2_3c4d => (false, 1),
            0xd4c3_b2a1 => (true, 1000),
            0x4d3c_b2a1 => (true, 1),
            other => bail!("{other:#010x} is no pcap magic"),
        };
        let link = word(&head, 20, swapped) & 0xffff;
        if link != ETHERNET {
            bail!("link type {link}: only Ethernet is read");
        }
        Ok(Self {
            source,
            swapped,
            unit,
            buffer: Vec::new(),
            cut: false,
        })
    }

    /// The next frame; `None` at the end, also where the writer was ended in the middle of a record.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let mut head = [0; 16];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let field = |at| word(&head, at, self.swapped);
        let (seconds, fraction, captured, length) = (field(0), field(4), field(8), field(12));
        let captured = usize::try_from(captured)?;
        if captured > FRAME_MAX {
            bail!("a frame of {captured} octets: the capture is damaged");
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(captured, 0);
        let complete = self.fill(&mut buffer)?;
        self.buffer = buffer;
        if !complete {
            return Ok(None);
        }
        Ok(Some(Frame {
            at: Duration::new(u64::from(seconds), fraction.saturating_mul(self.unit)),
            bytes: &self.buffer,
            whole: usize::try_from(length)? == captured,
        }))
    }

    /// Whether the capture ended in the middle of a record.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// Fills `buffer`; false at the end of the file.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < buffer.len() {
            match self.source.read(&mut buffer[done..]) {
                Ok(0) => {
                    self.cut |= done > 0;
                    return Ok(false);
                }
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Writes captures: for tests that forge one.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A capture without frames.
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, ETHERNET] {
            bytes.extend(word.to_le_bytes());
        }
        Self { bytes }
    }

    /// Adds a frame.
    pub fn frame(&mut self, at: Duration, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, at.subsec_micros(), length, length] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(frame);
    }

    /// The file's octets.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

fn word(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let mut octets = [0; 4];
    if let Some(part) = bytes.get(at..at + 4) {
        octets.copy_from_slice(part);
    }
    let little = u32::from_le_bytes(octets);
    if swapped { little.swap_bytes() } else { little }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_a_torn_end_is_an_end() {
        let mut writer = Writer::new();
        writer.frame(Duration::from_micros(1_500_000), b"one");
        writer.frame(Duration::from_secs(2), &[7; 3000]);
        let whole = writer.finish();
        let mut reader = Reader::new(whole.as_slice()).unwrap();
        let first = reader.next_frame().unwrap().unwrap();
        assert_eq!(
            (first.at, first.bytes, first.whole),
            (Duration::from_millis(1500), b"one".as_slice(), true)
        );
        assert_eq!(reader.next_frame().unwrap().unwrap().bytes.len(), 3000);
        assert!(reader.next_frame().unwrap().is_none());
        assert!(!reader.was_cut());

        let mut reader = Reader::new(&whole[..whole.len() - 1]).unwrap();
        assert!(reader.next_frame().unwrap().is_some());
        assert!(reader.next_frame().unwrap().is_none());
        assert!(reader.was_cut());
    }

    #[test]
    fn the_other_order_of_octets_and_nanoseconds() {
        let mut bytes = Vec::new();
        for word in [
            0xa1b2_3c4d_u32,
            0x0002_0004,
            0,
            0,
            262_144,
            1,
            3,
            500_000_000,
            2,
            60,
        ] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend([8, 9]);
        let mut reader = Reader::new(bytes.as_slice()).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        assert_eq!(
            (frame.at, frame.bytes, frame.whole),
            (Duration::from_millis(3500), [8, 9].as_slice(), false)
        );
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        assert!(Reader::new([0; 24].as_slice()).is_err());
        assert!(Reader::new(b"short".as_slice()).is_err());
        let mut writer = Writer::new();
        writer.frame(Duration::ZERO, &vec![0; FRAME_MAX + 1]);
        let bytes = writer.finish();
        assert!(Reader::new(bytes.as_slice()).unwrap().next_frame().is_err());
    }
}
