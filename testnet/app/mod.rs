//! An ABCI application of keys and values, for networks and tests: whole enough
//! for real CometBFT, and bad in every way that a state sync must survive.
//!
//! * **State**: a map from key to value. A transaction is `KEY=VALUE`, split at the
//!   first `=`, with a key that is not empty. The application hash is the SHA-256
//!   of the map's bytes ([`state`]) and of nothing else: an empty block leaves it
//!   as it is, and equal maps at different heights have the same.
//! * **Calls**: one thread for each connection, answers in order, each written at
//!   once and not only at Flush. The messages are those of 0.38; the wire of 0.39,
//!   0.40 and 1.0 is the same for what is read and written here.
//! * **Restarts**: each commit is on disk before it is answered, by renaming: a
//!   process that is killed continues. A machine that loses power is not provided for.
//! * **Snapshots**: format 1, taken inside of Commit, the same on every node with the same
//!   `--chunk-bytes` ([`snapshots`]).
//! * **Misbehaviour**: `--script` ([`script`]).
//!
//! Whatever a peer sends is answered with a result, an Exception or the end of its
//! connection. Only a script, `--empty-check` and a disk that fails end the program.
//!
//! | file | what it is for |
//! |---|---|
//! | `calls` | what each call does |
//! | `state`, `snapshots`, `restore` | the map and its place on disk; snapshots made; one restored |
//! | `script` | misbehaviour: its grammar and how often |
//! | `server`, `frame`, `log` | sockets and frames; lines about the calls |

mod calls;
pub mod frame;
mod log;
mod restore;
mod script;
pub mod server;
mod snapshots;
mod state;

use std::path::PathBuf;

use clap::Parser;

use script::Script;

/// CometBFT takes no message about a chunk above 16 000 000 bytes.
const MAX_CHUNK_BYTES: u32 = 15_990_000;

/// An ABCI application of keys and values that misbehaves when it is told to.
///
/// Prints its address as its first line. Transactions are KEY=VALUE; a query with a
/// key as its data (or its path) answers the value.
///
/// Example: testnet-app --data DIR --listen tcp://127.0.0.1:26658 --script 'apply=retry-snapshot@2x1'
#[derive(Clone, Parser)]
#[command(name = "testnet-app", version)]
pub struct Options {
    /// Folder of the state, the snapshots and the marks; made when it is missing.
    #[arg(long)]
    pub data: PathBuf,
    /// Where CometBFT connects; port 0 takes a free one.
    #[arg(long, default_value = "tcp://127.0.0.1:26658")]
    pub listen: String,
    /// Blocks between two snapshots; 0 makes none.
    #[arg(long, default_value_t = 10)]
    pub snapshot_interval: u64,
    /// Snapshots kept; 0 keeps all.
    #[arg(long, default_value_t = 5)]
    pub keep: usize,
    /// Bytes of each chunk but the last.
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CHUNK_BYTES)))]
    pub chunk_bytes: u32,
    /// What it does wrong.
    #[arg(long, default_value = "", value_parser = Script::parse, long_help = script::HELP)]
    pub script: Script,
    /// Where it keeps count of what the script did, for the next start; `marks` in the
    /// data folder unless given. For when that folder is emptied between two starts.
    #[arg(long)]
    pub marks: Option<PathBuf>,
    /// End with an error when FinalizeBlock is not about the next height.
    #[arg(long)]
    pub empty_check: bool,
    /// Append the lines about the calls to this file too.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Write no lines to stderr: for a server inside of a test.
    #[arg(long, hide = true)]
    pub quiet: bool,
}

impl Options {
    fn marks(&self) -> PathBuf {
        self.marks
            .clone()
            .unwrap_or_else(|| self.data.join("marks"))
    }
}
