//! `dump`: a snapshot as a file of a person's. Blocking.
//!
//! A CAR holds the snapshot itself and comes back with `load`. The other forms hold the
//! records of a state, in the order of places:
//!
//! * `jsonl`, text with a record on each line: see [`jsonl`];
//! * `sqlite`, a database: see [`sqlite`];
//! * `xian`, the storage folder of a Xian node.
//!
//! Of a snapshot that is here for some scopes only, the records of these are written.
//!
//! What is written appears under its name when it is whole and on the disk.

mod jsonl;
mod sqlite;
mod xian;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use self::jsonl::Lines;
use self::sqlite::Database;
use self::xian::Storage;
use super::command::{DumpCommand, DumpFormat, Dumped, Failure};
use super::content::{Content, Reading};
use super::progress::{Reporter, byte_progress};
use super::shelf;
use crate::state::Record;
use crate::store::Store;

/// Carries out `dump`.
pub(super) fn dump(
    store: &Store,
    command: &DumpCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Dumped, Failure> {
    let file = &command.file;
    match command.format {
        DumpFormat::Car => car(store, command, reporter, cancel),
        DumpFormat::Jsonl => records(store, command, reporter, cancel, |content| {
            Lines::create(file, content)
        }),
        DumpFormat::Sqlite => records(store, command, reporter, cancel, |content| {
            Database::create(file, content)
        }),
        DumpFormat::Xian => records(store, command, reporter, cancel, |content| {
            Storage::create(file, content)
        }),
    }
}

fn car(
    store: &Store,
    command: &DumpCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Dumped, Failure> {
    let stored = shelf::find(store, &command.manifest)?;
    shelf::folder_of(&command.file)?;
    tell(reporter, &command.file);
    let mut progress = byte_progress(reporter, cancel);
    let exported = store.export_car(&stored.manifest.id(), &command.file, &mut progress)?;
    Ok(Dumped {
        manifest: stored.manifest.id().to_string(),
        file: exported.file,
        file_bytes: exported.file_bytes,
        format: DumpFormat::Car,
        records: None,
        only: Vec::new(),
    })
}

/// Where records go.
trait Sink {
    /// Takes the next one.
    fn put(&mut self, record: &Record) -> Result<(), Failure>;

    /// All are there: gives what was written its name, and tells how many bytes it has.
    fn finish(self) -> Result<u64, Failure>;
}

fn records<S: Sink>(
    store: &Store,
    command: &DumpCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
    create: impl FnOnce(&Content) -> Result<S, Failure>,
) -> Result<Dumped, Failure> {
    let content = Content::open_part(store, &command.manifest)?;
    shelf::folder_of(&command.file)?;
    let mut sink = create(&content)?;
    tell(reporter, &command.file);
    let reading = Reading::new(reporter, cancel, content.chunk_bytes());
    let mut records = 0;
    for record in content.records(&reading)? {
        sink.put(&record?)?;
        records += 1;
    }
    Ok(Dumped {
        manifest: content.manifest().id().to_string(),
        file: command.file.clone(),
        file_bytes: sink.finish()?,
        format: command.format,
        records: Some(records),
        only: content.only().iter().map(ToString::to_string).collect(),
    })
}

fn tell(reporter: &Reporter, file: &Path) {
    reporter.phase(format!("writing {}", file.display()));
}
