//! `snapswarm dump`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Cid, home, text};
use crate::node::command::{Command, DumpCommand, DumpFormat, Failure, Outcome};

/// Write a snapshot into a CAR file, or the records of its state into other forms
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm dump bafkrei... snapshot.car\n  \
    snapswarm dump bafkrei... state.jsonl --format jsonl\n  \
    snapswarm dump bafkrei... state.db --format sqlite\n\n\
    jsonl: {\"scope\", \"key\" or \"key_hex\", \"value\" or \"value_hex\", \"stamp\", \"tombstone\"}\n\
    on each line; the hex forms are of bytes that are no UTF-8.\n\
    sqlite: a table records (scope, key, name, value, stamp); name is the key with a colon\n\
    between its parts.\n\
    Of a delta all these write the whole state that it leads to; its base has to be here.")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
    /// The file to write, with --format xian the folder; must not exist
    file: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Car)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// The snapshot itself, which `load --kind car` takes
    Car,
    /// Records, one JSON document on each line
    Jsonl,
    /// Records in a database of SQLite
    Sqlite,
    /// The storage folder of a Xian node
    Xian,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        Ok(Command::Dump(DumpCommand {
            manifest: self.snapshot.cid.clone(),
            file: home::absolute(&self.file)?,
            format: match self.format {
                Format::Car => DumpFormat::Car,
                Format::Jsonl => DumpFormat::Jsonl,
                Format::Sqlite => DumpFormat::Sqlite,
                Format::Xian => DumpFormat::Xian,
            },
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Dumped(dumped) = outcome else {
        return None;
    };
    let records = dumped.records.map(|records| {
        let records = text::count(records, "record", "records");
        format!("{records}, ")
    });
    let mut out = format!(
        "Wrote {} ({}{}): {}\n",
        text::safe(&dumped.file.display().to_string()),
        records.unwrap_or_default(),
        text::bytes(dumped.file_bytes),
        text::safe(&dumped.manifest),
    );
    if !dumped.only.is_empty() {
        out += &format!(
            "Only of {}: a part of a state, and nothing that a validating node can start from.\n",
            text::safe(&dumped.only.join(", "))
        );
    }
    Some(out)
}
