//! The database file: its pragmas, tables and checks, and what SQLite's errors mean.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Durability;
use crate::error::StoreError;

/// Marks the file as ours ("vpns").
const APPLICATION_ID: i32 = 0x7670_6e73;
/// Version of the tables.
const SCHEMA_VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS kv (
        key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS kv_lease ON kv (lease) WHERE lease IS NOT NULL;
    CREATE TABLE IF NOT EXISTS lease (id INTEGER NOT NULL PRIMARY KEY, ttl_millis INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS counter (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO counter VALUES ('revision', 0), ('lease', 0);
";

/// Opens the file, locks it, checks it and makes the tables.
pub(super) fn open(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    let wrong = |error: &rusqlite::Error| from_sqlite(error, path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let database = Connection::open_with_flags(path, flags).map_err(|error| wrong(&error))?;
    prepare(&database, durability).map_err(|error| wrong(&error))?;

    let corrupt = |reason: String| StoreError::Corrupt {
        path: path.display().to_string(),
        reason,
    };
    let pragma = |name: &str| {
        database
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0))
            .map_err(|error| wrong(&error))
    };
    let tables: i64 = database
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| wrong(&error))?;
    match (pragma("application_id")?, pragma("user_version")?) {
        (0, 0) if tables == 0 => {}
        (APPLICATION_ID, SCHEMA_VERSION) => {}
        (APPLICATION_ID, version) => {
            return Err(corrupt(format!(
                "its tables have version {version}, this program knows {SCHEMA_VERSION}"
            )));
        }
        _ => return Err(corrupt("it belongs to another program".to_owned())),
    }
    let verdict: String = database
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| wrong(&error))?;
    if verdict != "ok" {
        return Err(corrupt(verdict));
    }
    let setup = format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {TABLES} COMMIT;"
    );
    database.execute_batch(&setup).map_err(|error| wrong(&error))?;
    Ok(database)
}

fn prepare(database: &Connection, durability: Durability) -> Result<(), rusqlite::Error> {
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    database.busy_timeout(std::time::Duration::from_millis(500))?;
    database.set_prepared_statement_cache_capacity(32);
    // Exclusive before WAL: the lock is then held for good, and no shared memory file is needed.
    database.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    database.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    database.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA temp_store = MEMORY;"
    ))
}

/// What an error of SQLite means to callers.
pub(super) fn from_sqlite(error: &rusqlite::Error, path: &Path) -> StoreError {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt {
            path: path.display().to_string(),
            reason,
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Unavailable {
            reason: format!("{} is in use by another process: {reason}", path.display()),
        },
        _ => StoreError::Io {
            reason: format!("{}: {reason}", path.display()),
        },
    }
}
