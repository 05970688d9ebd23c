//! `load`: chunks from files, or the state of a stopped node, become a snapshot of the
//! home.

mod xian;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode, LoadCommand, LoadKind, Loaded};
use super::progress::{Meter, Reporter, byte_progress, chunks};
use crate::snapshot::{MAX_CHUNK_BYTES, Manifest, SnapshotFields};
use crate::state::StateNotes;
use crate::store::{Imported, Origin, Store, StoreError};

/// Carries out `load`. Blocking.
pub(super) fn load(
    store: &Store,
    command: &LoadCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Loaded, Failure> {
    let started = Instant::now();
    if command.state_patches.is_some() && command.kind != LoadKind::Xian {
        let failure = "--state-patches is for --kind xian";
        return Err(Failure::new(FailureCode::Usage, failure));
    }
    let mut records = None;
    let mut was_here = false;
    let manifest = match command.kind {
        LoadKind::Xian => {
            let published = xian::load_xian(store, command, reporter, cancel)?;
            records = Some(published.records);
            published.manifest
        }
        LoadKind::Car => {
            let imported = load_car(store, command, reporter, cancel)?;
            was_here = !imported.new;
            imported.manifest
        }
        LoadKind::Files => publish(
            store,
            command,
            &chunk_files(&command.path)?,
            reporter,
            cancel,
        )?,
        LoadKind::File => publish(
            store,
            command,
            std::slice::from_ref(&command.path),
            reporter,
            cancel,
        )?,
    };
    // A CAR may hold a state as well.
    let records = records.or_else(|| Some(StateNotes::of(&manifest).ok()?.state.records));
    Ok(Loaded {
        manifest: manifest.id().to_string(),
        chunks: manifest.chunk_count(),
        bytes: manifest.total_bytes(),
        records,
        was_here,
        seconds: started.elapsed().as_secs_f64(),
        proven: store
            .get(&manifest.id())
            .is_some_and(|stored| stored.proven),
        app_hash: manifest.app_hash().map(hex::encode_upper),
    })
}

fn publish(
    store: &Store,
    command: &LoadCommand,
    files: &[PathBuf],
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Arc<Manifest>, Failure> {
    let fields = fields(command)?;
    let mut total = 0;
    for file in files {
        total += chunk_size(file)?;
    }
    reporter.phase_then(
        format!("reading {}", chunks(files.len() as u32)),
        "writing the archive and reading it back",
    );
    let mut meter = Meter::new(reporter.clone(), total);
    let mut spool = store.publish()?;
    spool.require_room(total, 0)?;
    let mut done = 0;
    for file in files {
        if cancel.is_cancelled() {
            return Err(Failure::interrupted(
                "nothing was stored; the same command starts again",
            ));
        }
        let bytes = fs::read(file).map_err(|error| Failure::given_path(file, &error))?;
        spool.push(&bytes)?;
        done += bytes.len() as u64;
        meter.tell(done, 0);
    }
    reporter.phase("writing the archive and reading it back");
    let mut progress = byte_progress(reporter, cancel);
    let archive = spool.finish(fields, Origin::Loaded, false, &mut progress)?;
    Ok(archive.manifest().clone())
}

fn load_car(
    store: &Store,
    command: &LoadCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Imported, Failure> {
    regular_file(&command.path)?;
    reporter.phase("reading and checking the CAR");
    let expected = |manifest: &Manifest| {
        if let Some(chain_id) = &command.chain_id
            && chain_id != manifest.chain_id()
        {
            return Err(format!(
                "its chain id is {}, not {chain_id}",
                manifest.chain_id()
            ));
        }
        if let Some(height) = command.height
            && height != manifest.height()
        {
            return Err(format!("its height is {}, not {height}", manifest.height()));
        }
        Ok(())
    };
    let mut progress = byte_progress(reporter, cancel);
    let imported = store.import_car(&command.path, &expected, Origin::Loaded, &mut progress);
    imported.map_err(|error| match error {
        refused @ StoreError::Refused { .. } => Failure::from(refused)
            .hint("give the right --chain-id and --height, or leave them out: a CAR names its own"),
        error => error.into(),
    })
}

/// A CAR is read by position and to its end: a pipe or a folder is none.
pub(super) fn regular_file(path: &Path) -> Result<(), Failure> {
    let meta = fs::metadata(path).map_err(|error| Failure::given_path(path, &error))?;
    if meta.is_file() {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Usage,
        format!("{} is no regular file", path.display()),
    )
    .hint("give a CAR file that `snapswarm dump` wrote"))
}

fn fields(command: &LoadCommand) -> Result<SnapshotFields, Failure> {
    // A script whose variable is not set must not make a snapshot that can never be
    // proven.
    if command.app_hash.as_deref() == Some("") {
        let failure = Failure::new(FailureCode::Usage, "--app-hash is empty");
        return Err(failure.hint("leave the flag out if the application hash is not known"));
    }
    let missing = |flag: &str| {
        Failure::new(FailureCode::Usage, format!("{flag} is missing")).hint(
            "a snapshot made from files needs --chain-id and --height; only a CAR names its own",
        )
    };
    Ok(SnapshotFields {
        chain_id: command
            .chain_id
            .clone()
            .ok_or_else(|| missing("--chain-id"))?,
        height: command.height.ok_or_else(|| missing("--height"))?,
        app_hash: from_hex("--app-hash", command.app_hash.as_deref())?,
        format: command.format.unwrap_or(1),
        hash: from_hex("--hash", command.hash.as_deref())?,
        metadata: from_hex("--metadata", command.metadata.as_deref())?.unwrap_or_default(),
    })
}

fn from_hex(flag: &str, text: Option<&str>) -> Result<Option<Bytes>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match hex::decode(text) {
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) => Err(Failure::new(
            FailureCode::Usage,
            format!("{flag} is no hexadecimal text: {error}"),
        )),
    }
}

/// The chunk files of a folder, in order: all-digit names as numbers, then the
/// others by their bytes.
fn chunk_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::given_path(folder, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::given_path(folder, &error))?;
        files.push(entry.path());
    }
    if files.is_empty() {
        return Err(
            Failure::new(FailureCode::Usage, format!("{} is empty", folder.display()))
                .hint("with --kind files each file of the folder is one chunk"),
        );
    }
    files.sort_by_cached_key(|path| order_key(path));
    check_names(&files)?;
    Ok(files)
}

/// A hidden file is no chunk, and numbers stand one behind the other: else a part
/// of a folder would become a snapshot that nobody can restore.
fn check_names(files: &[PathBuf]) -> Result<(), Failure> {
    let wrong = |path: &Path, problem: &str| {
        let failure = format!("{} {problem}", path.display());
        Failure::new(FailureCode::Usage, failure)
            .hint("each file of the folder is one chunk of the snapshot: leave others out of it")
    };
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let number = |path: &Path| name(path).parse::<u64>().ok();
    if let Some(hidden) = files.iter().find(|path| name(path).starts_with('.')) {
        return Err(wrong(hidden, "is a hidden file"));
    }
    for pair in files.windows(2) {
        if let (Some(before), Some(after)) = (number(&pair[0]), number(&pair[1]))
            && before.checked_add(1) != Some(after)
        {
            let problem = format!(
                "follows {}, and a number between is missing or twice there",
                name(&pair[0])
            );
            return Err(wrong(&pair[1], &problem));
        }
    }
    Ok(())
}

/// Numbers first, by value (length without leading zeros, then digits: no
/// number is too large), then names by their bytes.
fn order_key(path: &Path) -> (bool, usize, Vec<u8>, Vec<u8>) {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name().unwrap_or_default().as_bytes();
    if name.iter().all(u8::is_ascii_digit) {
        let zeros = name.iter().take_while(|digit| **digit == b'0').count();
        let digits = &name[zeros..];
        (false, digits.len(), digits.to_vec(), name.to_vec())
    } else {
        (true, 0, name.to_vec(), Vec::new())
    }
}

fn chunk_size(file: &Path) -> Result<u64, Failure> {
    let meta = fs::metadata(file).map_err(|error| Failure::given_path(file, &error))?;
    let problem = if !meta.is_file() {
        "is no regular file".to_owned()
    } else if meta.len() == 0 {
        "is empty; a chunk has at least one byte".to_owned()
    } else if meta.len() > u64::from(MAX_CHUNK_BYTES) {
        format!(
            "has {} bytes; CometBFT takes chunks of at most {MAX_CHUNK_BYTES}",
            meta.len()
        )
    } else {
        return Ok(meta.len());
    };
    Err(
        Failure::new(FailureCode::Usage, format!("{} {problem}", file.display())).hint(
            "each chunk of a snapshot is one file: with --kind files all of a folder, in order, with \
             --kind file the only one",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digit_names_sort_as_numbers_before_all_others() {
        let mut names: Vec<PathBuf> = ["b", "10", "9", "0002", "a10", "a9"]
            .iter()
            .map(PathBuf::from)
            .collect();
        names.sort_by_cached_key(|path| order_key(path));
        let names: Vec<_> = names.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["0002", "9", "10", "a10", "a9", "b"]);
    }

    #[test]
    fn a_folder_with_a_gap_or_a_hidden_file_is_refused() {
        let check = |names: &[&str]| {
            let files: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            check_names(&files).map_err(|failure| failure.message)
        };
        check(&["0000", "0001", "2", "a", "b"]).unwrap();
        check(&["7", "8"]).unwrap();
        assert!(check(&["0", "2"]).unwrap_err().contains("2 follows 0"));
        assert!(check(&["1", "01"]).unwrap_err().contains("01 follows 1"));
        assert!(check(&["0", ".DS_Store"]).unwrap_err().contains("hidden"));
    }
}
