//! Records as a database of SQLite.
//!
//! ```text
//! snapshot (manifest TEXT, chain_id TEXT, height INTEGER, app_hash TEXT, only TEXT)
//! records  (scope TEXT, key BLOB, name TEXT, value, stamp)  by (scope, key)
//! ```
//!
//! `snapshot` has one row; `only` is NULL where the records are the whole state, else a
//! JSON list of the scopes that were fetched.
//!
//! `key` has the key's bytes, and `name` the same as text to search by: a colon stands
//! where the key has a NUL (between the parts of a Xian path); it is NULL where the key
//! is no UTF-8. `value` is TEXT where it is UTF-8 without a NUL, else a BLOB; NULL in a
//! tombstone. `stamp` is NULL, TEXT or INTEGER.
//!
//! The database is written once, beside its name: it needs neither a journal nor the
//! syncs of its own.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, params};

use super::Sink;
use crate::node::command::{Failure, FailureCode};
use crate::node::content::Content;
use crate::snapshot::Scope;
use crate::state::{Record, Stamp};
use crate::store::NewFile;

/// Pages that SQLite keeps in memory, in KiB; what is above is written.
const CACHE_KIB: i64 = 8 << 10;
/// What a record takes beside what it says: a little less than was measured, for it
/// decides what is refused.
const LEAST_RECORD_BYTES: u64 = 80;

const BEGIN: &str = "
    CREATE TABLE snapshot (
        manifest TEXT NOT NULL, chain_id TEXT NOT NULL, height INTEGER NOT NULL, app_hash TEXT,
        only TEXT
    );
    CREATE TABLE records (
        scope TEXT NOT NULL, key BLOB NOT NULL, name TEXT, value, stamp,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID;
    BEGIN;
";

const INSERT: &str =
    "INSERT INTO records (scope, key, name, value, stamp) VALUES (?1, ?2, ?3, ?4, ?5)";

/// A database that is being written.
pub(super) struct Database {
    connection: Connection,
    file: NewFile,
}

impl Database {
    pub(super) fn create(path: &Path, content: &Content) -> Result<Self, Failure> {
        let records = content.least_records().saturating_mul(LEAST_RECORD_BYTES);
        let file = NewFile::create(path, content.least_bytes().saturating_add(records))?;
        let begun = begin(file.beside(), content);
        match begun {
            Ok(connection) => Ok(Self { connection, file }),
            Err(error) => Err(failed(&file, &error)),
        }
    }
}

impl Sink for Database {
    fn put(&mut self, record: &Record) -> Result<(), Failure> {
        let put = insert(&self.connection, record);
        put.map_err(|error| failed(&self.file, &error))
    }

    fn finish(self) -> Result<u64, Failure> {
        let Self { connection, file } = self;
        let ended = connection.execute_batch("COMMIT");
        ended
            .and_then(|()| connection.close().map_err(|(_, error)| error))
            .map_err(|error| failed(&file, &error))?;
        Ok(file.finish()?)
    }
}

fn begin(path: &Path, content: &Content) -> rusqlite::Result<Connection> {
    let manifest = content.manifest();
    let only: Vec<&str> = content.only().iter().map(Scope::as_str).collect();
    let only = (!only.is_empty()).then(|| serde_json::json!(only).to_string());
    let connection = Connection::open(path)?;
    // A file that has no name yet is begun anew after a crash.
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.execute_batch(BEGIN)?;
    connection.execute(
        "INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            manifest.id().to_string(),
            manifest.chain_id(),
            // Heights are signed in CometBFT.
            manifest.height().cast_signed(),
            manifest.app_hash().map(hex::encode_upper),
            only,
        ],
    )?;
    Ok(connection)
}

fn insert(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let key = record.key().as_bytes();
    let name = str::from_utf8(key).ok().map(|key| key.replace('\0', ":"));
    let value = record.value().map_or(ValueRef::Null, |value| {
        match value.contains(&0) || str::from_utf8(value).is_err() {
            true => ValueRef::Blob(value),
            false => ValueRef::Text(value),
        }
    });
    let stamp = match record.stamp() {
        Stamp::Absent => ValueRef::Null,
        Stamp::Text(text) => ValueRef::Text(text.as_str().as_bytes()),
        Stamp::Int(number) => ValueRef::Integer(*number),
    };
    let (value, stamp) = (ToSqlOutput::Borrowed(value), ToSqlOutput::Borrowed(stamp));
    let mut insert = connection.prepare_cached(INSERT)?;
    insert.execute(params![record.scope().as_str(), key, name, value, stamp])?;
    Ok(())
}

fn failed(file: &NewFile, error: &rusqlite::Error) -> Failure {
    let path = file.path();
    if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
        return file.failed(std::io::ErrorKind::StorageFull.into()).into();
    }
    let problem = format!("cannot write {}: {error}", path.display());
    Failure::new(FailureCode::Storage, problem)
}
