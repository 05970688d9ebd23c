//! Snapshots out of the store into files, and in from a CAR.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::info;

use crate::snapshot::{ChunkIndex, Manifest, ManifestId};

use super::car::{CarReader, CarWriter, car_bytes};
use super::entry::Archive;
use super::outside::{NewFile, require_space, sync_folder};
use super::spool::{Sealing, read_back};
use super::staged::Staged;
use super::state::Inner;
use super::{Exported, Imported, Origin, Progress, StoreError, Verified};

/// Reads and writes of a CAR are gathered to this size.
const BUFFER_BYTES: usize = 256 << 10;

fn go_on(progress: &mut Progress, done: u64, total: u64) -> Result<(), StoreError> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Stopped),
    }
}

/// Reads every chunk at each of its places and checks it.
pub(super) fn verify(archive: &Archive, mut progress: Progress) -> Result<Verified, StoreError> {
    let manifest = archive.manifest();
    let mut done = 0;
    for index in manifest.chunk_indexes() {
        done += archive.read_chunk(index)?.len() as u64;
        go_on(&mut progress, done, manifest.total_bytes())?;
    }
    Ok(Verified {
        id: manifest.id(),
        chunks: manifest.chunk_count(),
        bytes: done,
        state: manifest.state().is_some(),
    })
}

/// Writes a new CAR file.
pub(super) fn export_car(
    archive: &Archive,
    path: &Path,
    mut progress: Progress,
) -> Result<Exported, StoreError> {
    let manifest = archive.manifest();
    let failed = &StoreError::outside(path, car_bytes(manifest));
    let file = NewFile::create(path, car_bytes(manifest))?;
    let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut car = CarWriter::new(writer, manifest).map_err(failed)?;
    let mut done = 0;
    let mut next = 0;
    for index in manifest.chunk_indexes() {
        let unique = manifest.unique_at(index);
        if unique.get() < next {
            continue;
        }
        next = unique.get() + 1;
        let bytes = archive.read_chunk(index)?;
        car.block(manifest.unique_chunk(unique).id.digest(), &bytes)
            .map_err(failed)?;
        done += bytes.len() as u64;
        go_on(&mut progress, done, manifest.unique_bytes())?;
    }
    let writer = car.finish().map_err(failed)?;
    let file = writer
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    Ok(Exported {
        file: path.to_owned(),
        file_bytes: file.finish()?,
    })
}

/// Opens a CAR file and reads its manifest.
fn open_car(path: &Path) -> Result<CarReader<BufReader<File>>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    CarReader::open(BufReader::with_capacity(BUFFER_BYTES, file), path)
}

/// Reads a whole CAR file and checks it.
pub(super) fn verify_car(path: &Path, progress: Progress) -> Result<Verified, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    super::check_car(BufReader::with_capacity(BUFFER_BYTES, file), path, progress)
}

/// Makes an archive of a CAR file.
pub(super) fn import_car(
    store: &Arc<Inner>,
    path: &Path,
    check: &dyn Fn(&Manifest) -> Result<(), String>,
    origin: Origin,
    progress: Progress,
) -> Result<Imported, StoreError> {
    let began = std::time::Instant::now();
    let mut car = open_car(path)?;
    let manifest = car.manifest().clone();
    check(&manifest).map_err(|reason| StoreError::Refused {
        path: path.to_owned(),
        reason,
    })?;
    if store
        .complete_already(&manifest.id(), origin, false)?
        .is_some()
    {
        return Ok(Imported {
            manifest,
            new: false,
        });
    }
    let staged = Staged::create(store, manifest.clone())?;
    let mut sealing = Sealing::new(&manifest, progress);
    while let Some((chunk, bytes)) = car.next_chunk()? {
        staged.write(chunk, 0, bytes)?;
        sealing.more(bytes.len())?;
    }
    staged.sync()?;
    read_back(&staged, &mut sealing)?;
    store.publish(staged, origin, false)?;
    info!(
        height = manifest.height(),
        chain = manifest.chain_id(),
        chunks = manifest.chunk_count(),
        bytes = manifest.total_bytes(),
        seconds = began.elapsed().as_secs_f64(),
        manifest = %manifest.id(),
        "Created state snapshot"
    );
    Ok(Imported {
        manifest,
        new: true,
    })
}

/// Writes each chunk as a file of its own into a new or an empty folder.
pub(super) fn export_files(
    archive: &Archive,
    folder: &Path,
    mut progress: Progress,
) -> Result<(), StoreError> {
    let is_new = !folder.exists();
    std::fs::create_dir_all(folder).map_err(StoreError::outside(folder, 0))?;
    if !super::home::entries(folder)?.is_empty() {
        return Err(StoreError::NotEmpty(folder.to_owned()));
    }
    let mut made = Vec::new();
    let written = write_files(archive, folder, &mut made, &mut progress);
    if written.is_err() {
        // Half a snapshot would stand in the way of the next attempt. What others
        // put there meanwhile stays.
        for file in &made {
            let _ = std::fs::remove_file(file);
        }
        if is_new {
            let _ = std::fs::remove_dir(folder);
        }
    }
    written
}

/// The file of a chunk: no name ever comes from the network.
fn chunk_file(folder: &Path, index: ChunkIndex) -> PathBuf {
    folder.join(format!("{:04}", index.get()))
}

fn write_files(
    archive: &Archive,
    folder: &Path,
    made: &mut Vec<PathBuf>,
    progress: &mut Progress,
) -> Result<(), StoreError> {
    let manifest = archive.manifest();
    require_space(folder, manifest.total_bytes())?;
    let mut done = 0;
    for index in manifest.chunk_indexes() {
        let bytes = archive.read_chunk(index)?;
        let path = chunk_file(folder, index);
        File::create_new(&path)
            .and_then(|mut file| {
                made.push(path.clone());
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .map_err(StoreError::outside(&path, manifest.total_bytes() - done))?;
        done += bytes.len() as u64;
        go_on(progress, done, manifest.total_bytes())?;
    }
    sync_folder(folder)
}

/// The archive of a snapshot for a person who named it.
pub(super) fn archive(store: &Inner, id: &ManifestId) -> Result<Archive, StoreError> {
    let entry = store.entry(id).ok_or(StoreError::NotFound(*id))?;
    if !entry.is_complete() {
        return Err(StoreError::Incomplete(*id));
    }
    store.open_archive(entry)
}
