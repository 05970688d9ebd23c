//! Snapshots of state content in a home, made for tests.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use snapswarm::snapshot::{ManifestId, STATE_FORMAT, SnapshotFields, StateFields};
use snapswarm::state::{
    Change, ChunkSize, Differences, Encoder, Key, Place, Record, Scope, Stamp, StampText,
    StateDigest, StateError, StateHasher, StateNotes,
};
use snapswarm::store::{Origin, Store, StoreSettings};
use snapswarm::xian::{Reading, StorageRecords, Workers};

pub const CHAIN: &str = "state-1";

pub fn record(scope: &str, key: &[u8], value: Option<&[u8]>, stamp: Stamp) -> Record {
    let place = Place {
        scope: Scope::new(scope).unwrap(),
        key: Key::new(Bytes::copy_from_slice(key)).unwrap(),
    };
    Record::new(place, value.map(Bytes::copy_from_slice), stamp).unwrap()
}

pub fn text_stamp(text: &str) -> Stamp {
    Stamp::Text(StampText::new(text).unwrap())
}

/// Two contracts with so many records each, in order, each with a value that holds
/// `word`.
pub fn records(count: u32, word: &str) -> Vec<Record> {
    let of = |scope: &'static str| {
        (0..count).map(move |number| {
            // Digits that no compressor shrinks, so that there are several chunks.
            let digits = snapswarm::snapshot::hash::sha256(&number.to_be_bytes());
            let key = format!("balances\0{number:06}");
            let value = format!("\"{word} {}\"", hex::encode(digits.as_bytes()));
            let stamp = Stamp::Int(number.into());
            record(scope, key.as_bytes(), Some(value.as_bytes()), stamp)
        })
    };
    of("contract_state/con_a")
        .chain(of("contract_state/con_b"))
        .collect()
}

pub fn digest(records: &[Record]) -> StateDigest {
    let mut hasher = StateHasher::new();
    for record in records {
        hasher.push(record).unwrap();
    }
    hasher.finish()
}

fn each(records: &[Record]) -> impl Iterator<Item = Result<Record, StateError>> {
    records.iter().cloned().map(Ok)
}

pub struct Snapshot<'a> {
    pub height: u64,
    pub app_hash: &'static [u8],
    pub base: Option<&'a str>,
    pub chunk_size: ChunkSize,
    pub changes: Vec<Change>,
    pub state: StateDigest,
}

impl Snapshot<'_> {
    pub fn full(height: u64, records: &[Record]) -> Self {
        Self {
            height,
            app_hash: b"abcdefgh",
            base: None,
            // Several chunks of a small state.
            chunk_size: ChunkSize::MIN,
            changes: records.iter().cloned().map(Change::Put).collect(),
            state: digest(records),
        }
    }

    pub fn delta<'a>(
        height: u64,
        base: &'a str,
        before: &[Record],
        after: &[Record],
    ) -> Snapshot<'a> {
        let changes = Differences::new(each(before), each(after));
        Snapshot {
            base: Some(base),
            changes: changes
                .map(|difference| difference.unwrap().into_change())
                .collect(),
            ..Snapshot::full(height, after)
        }
    }

    /// Puts it into a home that nobody else has open; gives its CID.
    pub fn publish(&self, home: &Path) -> String {
        let store = Store::open(home, StoreSettings::default()).unwrap();
        let mut spool = store.publish().unwrap();
        let mut encoder = Encoder::new(self.chunk_size).unwrap();
        let mut chunks = Vec::new();
        for change in &self.changes {
            chunks.extend(encoder.push(change).unwrap());
        }
        let end = encoder.finish().unwrap();
        chunks.push(end.chunk);
        for chunk in &chunks {
            spool.push(&chunk.bytes).unwrap();
        }
        let notes = StateNotes {
            state: self.state,
            patches_sha256: None,
        };
        let fields = SnapshotFields {
            chain_id: CHAIN.to_owned(),
            height: self.height,
            app_hash: Some(Bytes::from_static(self.app_hash)),
            format: STATE_FORMAT,
            hash: None,
            metadata: notes.encode().into(),
        };
        let state = StateFields {
            base: self.base.map(|base| base.parse::<ManifestId>().unwrap()),
            scopes: end.scopes,
            chunks: chunks.iter().map(|chunk| chunk.scopes).collect(),
        };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let archive = spool
            .finish_state(fields, state, Origin::Loaded, false, &mut go_on)
            .unwrap();
        archive.manifest().id().to_string()
    }
}

/// A snapshot whose chunks are its application's own.
pub fn publish_opaque(home: &Path) -> String {
    let store = Store::open(home, StoreSettings::default()).unwrap();
    let mut spool = store.publish().unwrap();
    spool.push(b"of the application's own").unwrap();
    let fields = SnapshotFields {
        chain_id: CHAIN.to_owned(),
        height: 1,
        app_hash: None,
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let archive = spool.finish(fields, Origin::Loaded, false, &mut go_on);
    archive.unwrap().manifest().id().to_string()
}

/// Begins to download what another home has; gives its CID.
pub fn begin_download(from: &Path, cid: &str, to: &Path) {
    let store = Store::open_for_reading(from, StoreSettings::default()).unwrap();
    let manifest = store.manifest(&cid.parse().unwrap()).unwrap();
    let store = Store::open(to, StoreSettings::default()).unwrap();
    drop(store.begin_download(manifest).unwrap());
}

/// The storage that the newest driver of a Xian chain made.
pub fn golden_storage() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xian/storage")
}

/// The records of a Xian node's storage.
pub fn read_storage(storage: &Path) -> Vec<Record> {
    let reading = Reading {
        workers: Workers {
            program: env!("CARGO_BIN_EXE_snapswarm").into(),
            arguments: vec!["__xian".into()],
            at_most: NonZeroUsize::MIN,
            patience: Workers::PATIENCE,
        },
        spool: std::env::temp_dir(),
        spool_bytes: 1 << 30,
    };
    let records = StorageRecords::open(storage, &reading).unwrap();
    records.collect::<Result<_, _>>().unwrap()
}

/// The names in a folder, hidden ones too, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
