//! Downloads of a part of a snapshot: of the chunks that hold some scopes.
//!
//! Such a download is as any other, but that nobody waits for the rest: its file has
//! holes in place of the chunks that were not asked for, and counts without them. It
//! keeps its place as what a person brought does, and it is marked with the scopes. It
//! is sealed only when that is all of the snapshot.
//!
//! Who asks for more of it makes room for that first: for other scopes as much as they
//! add, for all of it the holes are given their blocks, and the mark goes.

use std::fs::File;

use crate::snapshot::{Bitmap, ChunkIndex, Manifest, Scope};
use crate::state::Selection;

use super::StoreError;
use super::catalogue::Marks;
use super::entry::Entry;
use super::staged::Room;
use super::state::Inner;

/// The scopes that were asked for, in order. A name in the catalogue that is no scope is
/// passed over.
pub(super) fn scopes(marks: &Marks) -> Vec<Scope> {
    let names = marks.only.iter();
    names.filter_map(|name| Scope::new(name).ok()).collect()
}

/// How the catalogue names scopes.
pub(super) fn names(scopes: &[Scope]) -> Vec<String> {
    let names = scopes.iter().map(|scope| scope.as_str().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// Bytes of the chunks that the file of a part does not hold.
pub(super) fn hole_bytes(manifest: &Manifest, only: &[Scope], have: &Bitmap) -> u64 {
    let size = |chunk: ChunkIndex| manifest.unique_chunk(manifest.unique_at(chunk)).size;
    let holes = holes(manifest, only, have).into_iter();
    holes.map(|chunk| u64::from(size(chunk))).sum()
}

/// The chunks that hold none of these scopes, and of which no piece is here either. Of no
/// scope named, and where the snapshot does not have them all, there are none.
fn holes(manifest: &Manifest, only: &[Scope], have: &Bitmap) -> Vec<ChunkIndex> {
    let selection = match only {
        [] => None,
        only => Selection::new(manifest, only).ok(),
    };
    let Some(selection) = selection else {
        return Vec::new();
    };
    let is_hole = |chunk: &ChunkIndex| {
        let mut pieces = manifest.pieces_of(manifest.unique_at(*chunk));
        selection.chunks.binary_search(chunk).is_err()
            && !pieces.any(|piece| have.contains(piece.get()))
    };
    manifest.chunk_indexes().filter(is_hole).collect()
}

/// Gives a download that is here room for these scopes beside those that were asked for
/// before; of none named, for all of it.
pub(super) fn give_room(
    store: &Inner,
    entry: &Entry,
    file: &File,
    only: &[Scope],
) -> Result<(), StoreError> {
    let (id, manifest) = (entry.id(), entry.manifest());
    let before = match store.state().records.get(&id) {
        Some(record) => record.only(),
        None => return Err(StoreError::NotFound(id)),
    };
    if before.is_empty() && only.is_empty() {
        return Ok(());
    }
    let mut after = only.to_vec();
    if !only.is_empty() {
        after.extend_from_slice(&before);
        after.sort();
        after.dedup();
    }
    let have = entry.have();
    let bytes_before = hole_bytes(manifest, &before, &have);
    let needed = bytes_before.saturating_sub(hole_bytes(manifest, &after, &have));
    let _until_it_counts = Room::make(store, needed)?;
    let (disk, path) = (&store.disk, &entry.path);
    disk.require_space(path, needed)?;
    let give_back = |only: &[Scope]| {
        holes(manifest, only, &have)
            .into_iter()
            .try_for_each(|chunk| {
                let begin = entry.contents.layout.chunk_offset(chunk);
                let size = manifest.unique_chunk(manifest.unique_at(chunk)).size;
                disk.give_back(file, path, begin..begin + u64::from(size))
            })
    };
    if only.is_empty() {
        let allocated = disk.allocate(file, path, entry.contents.layout.file_len);
        // What it got of a disk that is full now is of no use to it.
        allocated.inspect_err(|_| drop(give_back(&before)))?;
        return store.mark(&id, |marks| marks.only.clear());
    }
    // A file with holes is marked at any moment.
    store.mark(&id, |marks| marks.only = names(&after))?;
    give_back(&after)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;

    use crate::snapshot::{
        ManifestBuilder, STATE_FORMAT, ScopeRange, SnapshotFields, StateFields, UniqueIndex,
    };
    use crate::store::testing::{fields, noise, piece};
    use crate::store::{ChunkVerdict, Download, Store, StoreSettings};

    use super::*;

    const CHUNK_BYTES: u64 = 1 << 20;
    /// More than index and manifest of a snapshot of four chunks take.
    const HEAD_BYTES: u64 = CHUNK_BYTES / 2;

    /// Four chunks, of the scopes a, b, c and d.
    fn snapshot(height: u64) -> (Arc<Manifest>, Vec<Vec<u8>>) {
        let chunk = |number| noise(height * 10 + number, CHUNK_BYTES as usize);
        let chunks: Vec<Vec<u8>> = (0..4).map(chunk).collect();
        let mut builder = ManifestBuilder::new();
        for chunk in &chunks {
            builder.push(chunk).unwrap();
        }
        let fields = SnapshotFields {
            format: STATE_FORMAT,
            ..fields(height)
        };
        let range = |number| ScopeRange {
            first: number,
            last: number,
        };
        let state = StateFields {
            base: None,
            scopes: ["a", "b", "c", "d"].map(scope).to_vec(),
            chunks: (0..4).map(range).collect(),
        };
        (
            Arc::new(builder.finish_state(fields, state).unwrap()),
            chunks,
        )
    }

    fn scope(name: &str) -> Scope {
        Scope::new(name).unwrap()
    }

    fn open(home: &Path, quota_bytes: Option<u64>) -> Store {
        let settings = StoreSettings {
            quota_bytes,
            ..StoreSettings::default()
        };
        Store::open(home, settings).unwrap()
    }

    fn begin(store: &Store, manifest: &Arc<Manifest>, only: &str) -> Download {
        let download = store.begin_selection(manifest.clone(), &[scope(only)]);
        download.unwrap()
    }

    fn write(download: &Download, manifest: &Manifest, chunks: &[Vec<u8>], number: u32) {
        let chunk: UniqueIndex = manifest.unique_index(number).unwrap();
        let slices: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
        let pieces = manifest.pieces_of(chunk);
        let pieces: Vec<_> = pieces
            .map(|index| piece(manifest, &slices, index))
            .collect();
        download.write(&pieces).unwrap();
        assert_eq!(
            download.check_chunks(&[chunk]).unwrap(),
            [ChunkVerdict::Checked]
        );
        download.sync().unwrap();
    }

    /// Whether so many chunks are counted, and the heads of snapshots.
    fn counts(bytes: u64, chunks: u64) -> bool {
        (chunks * CHUNK_BYTES..chunks * CHUNK_BYTES + HEAD_BYTES).contains(&bytes)
    }

    #[test]
    fn a_part_has_holes_and_is_known_by_all_that_was_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let (manifest, chunks) = snapshot(1);
        let store = open(home.path(), None);
        write(&begin(&store, &manifest, "b"), &manifest, &chunks, 1);
        assert!(counts(store.disk_bytes(), 1));
        drop(begin(&store, &manifest, "a"));
        drop(begin(&store, &manifest, "b"));
        assert!(counts(store.disk_bytes(), 2), "what is to come counts");
        drop(store);
        let store = open(home.path(), None);
        let stored = store.get(&manifest.id()).unwrap();
        assert_eq!(stored.only, [scope("a"), scope("b")]);
        assert!(!stored.complete);
        assert_eq!(stored.have_bytes, CHUNK_BYTES);
        assert!(counts(stored.file_bytes, 2), "{}", stored.file_bytes);
        let blocks = std::fs::metadata(&stored.file).unwrap().blocks();
        assert!(blocks * 512 < 2 * CHUNK_BYTES, "{blocks} blocks");
        assert!(store.archive(&manifest.id()).is_err());
        // A deletion tells how much room there is now.
        store.delete(&manifest.id()).unwrap();
        assert_eq!(store.disk_bytes(), 0);
    }

    #[test]
    fn a_part_stays_where_a_download_that_rests_makes_room() {
        let (one, chunks) = snapshot(1);
        let (other, _) = snapshot(2);
        let quota = Some(4 * CHUNK_BYTES + 2 * HEAD_BYTES);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), quota);
        write(&begin(&store, &one, "a"), &one, &chunks, 0);
        let refused = store.begin_download(other.clone());
        assert!(matches!(refused, Err(StoreError::OverQuota { .. })));
        assert!(store.get(&one.id()).is_some());

        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), quota);
        drop(store.begin_download(one.clone()).unwrap());
        store.begin_download(other).unwrap();
        assert!(store.get(&one.id()).is_none());
    }

    #[test]
    fn the_quota_has_room_beside_a_part_for_what_the_part_does_not_take() {
        let (one, chunks) = snapshot(1);
        let (other, _) = snapshot(2);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), Some(5 * CHUNK_BYTES + 2 * HEAD_BYTES));
        write(&begin(&store, &one, "a"), &one, &chunks, 0);
        store.begin_download(other).unwrap();
        assert!(counts(store.disk_bytes(), 5), "{}", store.disk_bytes());
    }

    #[test]
    fn the_rest_of_a_part_needs_its_room_and_without_it_the_part_stays() {
        let (manifest, chunks) = snapshot(1);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), Some(2 * CHUNK_BYTES + 2 * HEAD_BYTES));
        write(&begin(&store, &manifest, "c"), &manifest, &chunks, 2);
        let refused = store.begin_download(manifest.clone());
        assert!(
            matches!(refused, Err(StoreError::OverQuota { needed, .. }) if needed == 3 * CHUNK_BYTES)
        );
        drop(begin(&store, &manifest, "d"));
        let refused = store.begin_selection(manifest.clone(), &[scope("a")]);
        assert!(
            matches!(refused, Err(StoreError::OverQuota { needed, .. }) if needed == CHUNK_BYTES)
        );
        let stored = store.get(&manifest.id()).unwrap();
        assert_eq!(stored.only, [scope("c"), scope("d")]);
        assert_eq!(stored.have_bytes, CHUNK_BYTES);
        assert!(counts(stored.file_bytes, 2), "{}", stored.file_bytes);
    }

    #[test]
    fn a_part_that_gets_the_rest_is_a_snapshot_as_any_other() {
        let (manifest, chunks) = snapshot(1);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), Some(4 * CHUNK_BYTES + 2 * HEAD_BYTES));
        write(&begin(&store, &manifest, "c"), &manifest, &chunks, 2);
        let download = store.begin_download(manifest.clone()).unwrap();
        let stored = store.get(&manifest.id()).unwrap();
        assert_eq!(stored.only, []);
        assert!(counts(stored.file_bytes, 4), "{}", stored.file_bytes);
        assert_eq!(download.have().count(), 1);
        for number in [0, 1, 3] {
            write(&download, &manifest, &chunks, number);
        }
        download.seal().unwrap();
        drop((download, store));
        let catalogue = std::fs::read_to_string(home.path().join("catalogue.json")).unwrap();
        assert!(!catalogue.contains("only"), "{catalogue}");
        let store = open(home.path(), None);
        assert!(store.get(&manifest.id()).unwrap().complete);
        store
            .verify(&manifest.id(), &mut |_, _| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }

    #[test]
    fn all_that_was_asked_for_in_parts_is_a_snapshot_as_any_other() {
        let (manifest, chunks) = snapshot(1);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), None);
        for (number, only) in ["a", "b", "c", "d"].iter().enumerate() {
            let download = begin(&store, &manifest, only);
            write(&download, &manifest, &chunks, number as u32);
        }
        begin(&store, &manifest, "a").seal().unwrap();
        let catalogue = std::fs::read_to_string(home.path().join("catalogue.json")).unwrap();
        assert!(!catalogue.contains("only"), "{catalogue}");
    }

    #[test]
    fn a_download_of_which_a_part_is_wanted_now_gives_the_room_of_the_rest_back() {
        let (manifest, chunks) = snapshot(1);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), None);
        let download = store.begin_download(manifest.clone()).unwrap();
        write(&download, &manifest, &chunks, 3);
        drop(download);
        assert!(counts(store.disk_bytes(), 4));
        let download = begin(&store, &manifest, "a");
        assert_eq!(download.have().count(), 1, "what is here stays");
        let stored = store.get(&manifest.id()).unwrap();
        assert!(counts(stored.file_bytes, 2), "{}", stored.file_bytes);
        let blocks = std::fs::metadata(&stored.file).unwrap().blocks();
        assert!(
            blocks * 512 < 2 * CHUNK_BYTES + HEAD_BYTES,
            "{blocks} blocks"
        );
        write(&download, &manifest, &chunks, 0);
        assert_eq!(download.checked().count(), 2);
    }
}
