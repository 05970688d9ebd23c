//! Downloads of a part of a snapshot: of the chunks that hold some scopes.
//!
//! Such a download is as any other, but that nobody waits for the rest: its file has
//! holes in place of the chunks that were not asked for, it keeps its place as what a
//! person brought does, and it is marked with the scopes. It is never sealed.

use std::sync::Arc;

use crate::snapshot::{Manifest, Scope};

use super::StoreError;
use super::catalogue::Marks;
use super::download::Download;
use super::state::Inner;

/// Begins one of so many bytes, or goes on with it; then `only` are scopes more.
pub(super) fn begin(
    store: &Arc<Inner>,
    manifest: Arc<Manifest>,
    only: &[Scope],
    bytes: u64,
) -> Result<Download, StoreError> {
    let id = manifest.id();
    let download = Download::begin(store, manifest, bytes)?;
    store.mark(&id, |marks| {
        let added = only.iter().map(|scope| scope.as_str().to_owned());
        marks.only.extend(added);
        marks.only.sort();
        marks.only.dedup();
    })?;
    Ok(download)
}

/// The scopes that were asked for, in order. A name in the catalogue that is no scope is
/// passed over.
pub(super) fn scopes(marks: &Marks) -> Vec<Scope> {
    let names = marks.only.iter();
    names.filter_map(|name| Scope::new(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use crate::snapshot::UniqueIndex;
    use crate::store::testing::{manifest_at, noise, piece};
    use crate::store::{ChunkVerdict, Store, StoreSettings};

    use super::*;

    const CHUNK_BYTES: u64 = 1 << 20;

    fn snapshot(height: u64) -> (Arc<Manifest>, Vec<Vec<u8>>) {
        let chunk = |number| noise(height * 10 + number, CHUNK_BYTES as usize);
        let chunks: Vec<Vec<u8>> = (0..4).map(chunk).collect();
        let slices: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
        (Arc::new(manifest_at(height, &slices)), chunks)
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

    /// Brings the second chunk.
    fn bring(store: &Store, manifest: &Arc<Manifest>, chunks: &[Vec<u8>], only: &str) {
        let download = store.begin_selection(manifest.clone(), &[scope(only)], CHUNK_BYTES);
        let download = download.unwrap();
        let chunk: UniqueIndex = manifest.unique_index(1).unwrap();
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

    #[test]
    fn a_part_has_holes_and_is_known_by_all_that_was_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let (manifest, chunks) = snapshot(1);
        let store = open(home.path(), None);
        bring(&store, &manifest, &chunks, "b");
        bring(&store, &manifest, &chunks, "a");
        bring(&store, &manifest, &chunks, "b");
        drop(store);
        let store = open(home.path(), None);
        let stored = store.get(&manifest.id()).unwrap();
        assert_eq!(stored.only, [scope("a"), scope("b")]);
        assert!(!stored.complete);
        assert_eq!(stored.have_bytes, CHUNK_BYTES);
        let blocks = std::fs::metadata(&stored.file).unwrap().blocks();
        assert!(blocks * 512 < 2 * CHUNK_BYTES, "{blocks} blocks");
        assert!(store.archive(&manifest.id()).is_err());
    }

    #[test]
    fn a_part_stays_where_a_download_that_rests_makes_room() {
        let (one, chunks) = snapshot(1);
        let (other, _) = snapshot(2);
        let quota = Some(6 * CHUNK_BYTES);
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), quota);
        bring(&store, &one, &chunks, "a");
        let refused = store.begin_download(other.clone());
        assert!(matches!(refused, Err(StoreError::OverQuota { .. })));
        assert!(store.get(&one.id()).is_some());

        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), quota);
        drop(store.begin_download(one.clone()).unwrap());
        store.begin_download(other).unwrap();
        assert!(store.get(&one.id()).is_none());
    }
}
