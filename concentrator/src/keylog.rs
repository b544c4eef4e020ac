//! `debug.key_log = DIR`: the keys of every session, in the table formats of Wireshark and tshark.
//!
//! The files are made with mode 0600 and only appended to. Whoever has them reads the traffic: the daemon warns when
//! it starts.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ike::{KeyLog, KeyLogTable};

/// Writes both tables.
pub struct KeyLogWriter {
    ike: Mutex<File>,
    esp: Mutex<File>,
}

impl KeyLogWriter {
    /// Opens `ikev2_decryption_table` and `esp_sa` in `directory`, which is made when it is missing.
    ///
    /// # Errors
    /// The directory or a file cannot be made.
    pub fn open(directory: &Path) -> std::io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let open = |name: &str| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(directory.join(name))
                .map(Mutex::new)
        };
        Ok(Self {
            ike: open("ikev2_decryption_table")?,
            esp: open("esp_sa")?,
        })
    }

    /// Appends one line.
    pub fn write(&self, entry: &KeyLog) {
        let file = match entry.table {
            KeyLogTable::Ike => &self.ike,
            KeyLogTable::Esp => &self.esp,
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that a reader never sees half a line. A full disk costs the line and nothing else.
        let _ = file.write_all(format!("{}\n", entry.line).as_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn lines_land_in_their_tables_and_only_root_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let writer = KeyLogWriter::open(&path).unwrap();
        writer.write(&KeyLog {
            table: KeyLogTable::Ike,
            line: "one".into(),
        });
        writer.write(&KeyLog {
            table: KeyLogTable::Esp,
            line: "two".into(),
        });
        drop(writer);
        let writer = KeyLogWriter::open(&path).unwrap();
        writer.write(&KeyLog {
            table: KeyLogTable::Ike,
            line: "three".into(),
        });
        assert_eq!(
            std::fs::read_to_string(path.join("ikev2_decryption_table")).unwrap(),
            "one\nthree\n"
        );
        assert_eq!(std::fs::read_to_string(path.join("esp_sa")).unwrap(), "two\n");
        assert_eq!(
            std::fs::metadata(path.join("esp_sa")).unwrap().mode() & 0o777,
            0o600
        );
    }
}
