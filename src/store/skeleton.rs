//! Making an archive: an HDF5 file without content, byte for byte the same from
//! the same manifest.
//!
//! ```text
//! /                attributes for people, never read back
//! /manifest        u8[manifest bytes]   the canonical manifest
//! /chunks/000000   u8[chunk bytes]      one for each ABCI index
//! /chunks/000001
//! …
//! ```
//!
//! libhdf5 makes groups, attributes and contiguous datasets that have their place
//! at once and are never filled, closes the file and is done with it. Whatever
//! goes into the datasets afterwards goes by positional writes. libhdf5 is killed
//! safely only here, where its file counts for nothing yet.

use std::path::Path;

use hdf5_metno as hdf5;
use hdf5_metno::file::{FileBuilder, FileCloseDegree, LibraryVersion};
use hdf5_metno::plist::dataset_create::{AllocTime, FillTime, Layout as StorageLayout};
use hdf5_metno::types::VarLenUnicode;

use crate::snapshot::Manifest;

use super::StoreError;
use super::layout::Layout;

/// Datasets of this size and above begin on a boundary of [`ALIGNMENT_BYTES`]:
/// 0.02 % more file for reads that touch no page twice.
const ALIGNED_FROM_BYTES: u64 = 1 << 20;
/// A page.
const ALIGNMENT_BYTES: u64 = 4096;

/// What HDF5 takes at most for each chunk beside its bytes (measured: 352 bytes
/// of headers and links), used to judge free space before the file exists.
const OVERHEAD_PER_CHUNK_BYTES: u64 = 512;
/// What it takes at most for the file as a whole.
const OVERHEAD_PER_FILE_BYTES: u64 = 64 << 10;

/// A little more than the bytes that the archive of `manifest` will have.
pub(super) fn estimated_bytes(manifest: &Manifest) -> u64 {
    let chunks = u64::from(manifest.chunk_count());
    let aligned = manifest
        .chunk_indexes()
        .filter(|index| {
            let size = manifest.unique_chunk(manifest.unique_at(*index)).size;
            u64::from(size) >= ALIGNED_FROM_BYTES
        })
        .count() as u64;
    manifest.total_bytes()
        + manifest.encoded().len() as u64
        + Layout::user_block_bytes(manifest.chunk_count())
        + chunks * OVERHEAD_PER_CHUNK_BYTES
        + aligned * ALIGNMENT_BYTES
        + OVERHEAD_PER_FILE_BYTES
}

/// Creates the skeleton of `manifest` at `path`, which must not exist. Neither
/// the index nor any content is in it yet, and nothing is synced.
pub(super) fn create(path: &Path, manifest: &Manifest) -> Result<Layout, StoreError> {
    let failed = |problem: hdf5::Error| StoreError::Hdf5 {
        path: path.to_owned(),
        problem: problem.to_string(),
    };
    let (manifest_offset, chunk_offsets) = build(path, manifest).map_err(failed)?;
    let file_len = std::fs::metadata(path)
        .map_err(StoreError::io("read the size of", path))?
        .len();
    Ok(Layout {
        manifest: manifest.id(),
        manifest_offset,
        manifest_len: manifest.encoded().len() as u64,
        file_len,
        chunk_offsets,
    })
}

fn build(path: &Path, manifest: &Manifest) -> hdf5::Result<(u64, Vec<u64>)> {
    let file = FileBuilder::new()
        .with_fcpl(|create| {
            create
                .userblock(Layout::user_block_bytes(manifest.chunk_count()))
                .obj_track_times(false)
        })
        .with_fapl(|access| {
            access
                .sec2()
                .libver_bounds(LibraryVersion::V18, LibraryVersion::V18)
                .fclose_degree(FileCloseDegree::Strong)
                .alignment(ALIGNED_FROM_BYTES, ALIGNMENT_BYTES)
        })
        .create_excl(path)?;
    write_attributes(&file, manifest)?;
    let manifest_offset = add_dataset(&file, "manifest", manifest.encoded().len())?;
    let chunks = file
        .create_group_builder()
        .obj_track_times(false)
        .create("chunks")?;
    let mut offsets = Vec::with_capacity(manifest.chunk_count() as usize);
    for index in manifest.chunk_indexes() {
        let size = manifest.unique_chunk(manifest.unique_at(index)).size;
        let name = format!("{:06}", index.get());
        offsets.push(add_dataset(&chunks, &name, size as usize)?);
    }
    drop(chunks);
    file.close()?;
    Ok((manifest_offset, offsets))
}

/// A dataset whose bytes have a place and no content; gives the place.
fn add_dataset(group: &hdf5::Group, name: &str, len: usize) -> hdf5::Result<u64> {
    let dataset = group
        .new_dataset_builder()
        .with_dcpl(|create| {
            create
                .layout(StorageLayout::Contiguous)
                .alloc_time(Some(AllocTime::Early))
                .fill_time(FillTime::Never)
                .obj_track_times(false)
        })
        .empty::<u8>()
        .shape(len)
        .create(name)?;
    dataset
        .offset()
        .ok_or_else(|| hdf5::Error::from(format!("dataset {name} has no place in the file")))
}

/// A few fields for people with h5dump.
fn write_attributes(file: &hdf5::File, manifest: &Manifest) -> hdf5::Result<()> {
    let text = |name: &str, value: String| -> hdf5::Result<()> {
        let value: VarLenUnicode = value
            .parse()
            .map_err(|_| hdf5::Error::from(format!("attribute {name} has a zero byte")))?;
        file.new_attr::<VarLenUnicode>()
            .create(name)?
            .write_scalar(&value)
    };
    let number = |name: &str, value: u64| -> hdf5::Result<()> {
        file.new_attr::<u64>().create(name)?.write_scalar(&value)
    };
    text("kind", "snapswarm snapshot archive, version 1".to_owned())?;
    text("manifest_cid", manifest.id().to_string())?;
    text("chain_id", manifest.chain_id().to_owned())?;
    number("height", manifest.height())?;
    text(
        "app_hash",
        hex::encode(manifest.app_hash().map_or(&[][..], |hash| hash)),
    )?;
    number("format", u64::from(manifest.format()))?;
    text("hash", hex::encode(manifest.hash()))?;
    number("chunks", u64::from(manifest.chunk_count()))?;
    number("bytes", manifest.total_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::testing::manifest_of;
    use super::*;

    fn made(manifest: &Manifest) -> (Vec<u8>, Layout) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skeleton");
        let layout = create(&path, manifest).unwrap();
        (std::fs::read(&path).unwrap(), layout)
    }

    #[test]
    fn the_same_manifest_gives_the_same_bytes() {
        let (large, small) = (vec![7; 3 << 20], vec![1; 5000]);
        let manifest = manifest_of(&[b"one", &large, b"two", b"one", &small]);
        let (first, layout) = made(&manifest);
        let (second, same) = made(&manifest);
        assert!(first == second, "two skeletons differ");
        assert_eq!(layout, same);
        assert_eq!(layout.file_len, first.len() as u64);
        assert_eq!(layout.chunk_offsets.len(), 5);
        assert_eq!(layout.chunk_offsets[1] % ALIGNMENT_BYTES, 0);
        layout.check(&manifest, Path::new("skeleton")).unwrap();
    }

    #[test]
    fn places_do_not_overlap_and_the_estimate_covers_the_file() {
        let chunks: Vec<Vec<u8>> = (0..300u32)
            .map(|n| vec![n as u8; (n as usize * 7919) % (2 << 20) + 1])
            .collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
        let manifest = manifest_of(&chunks);
        let (bytes, layout) = made(&manifest);
        let mut places: Vec<(u64, u64)> = manifest
            .chunk_indexes()
            .map(|index| {
                let size = manifest.unique_chunk(manifest.unique_at(index)).size;
                (layout.chunk_offset(index), u64::from(size))
            })
            .collect();
        places.push((layout.manifest_offset, layout.manifest_len));
        places.push((0, Layout::user_block_bytes(manifest.chunk_count())));
        places.sort_unstable();
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        assert!(estimated_bytes(&manifest) >= bytes.len() as u64);
    }

    #[test]
    fn a_file_that_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skeleton");
        std::fs::write(&path, b"mine").unwrap();
        assert!(matches!(
            create(&path, &manifest_of(&[b"chunk"])),
            Err(StoreError::Hdf5 { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
