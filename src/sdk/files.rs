//! The files of the folder: which snapshots have a name in it, what their chunk
//! files look like from outside, and reading one.
//!
//! Names that the node does not write (it writes numbers as `10`, never as `010` or
//! `+10`) have no meaning, whatever they are. A snapshot that vanishes between two
//! looks is an everyday matter: the node prunes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::{SdkError, Unfit};
use crate::snapshot::hash::Hasher;
use crate::snapshot::{Digest, MAX_CHUNKS, MAX_HEIGHT};

/// Every chunk but the last. The SDK calls it part of the format, the same on all
/// nodes (`snapshots/stream.go`).
pub(super) const CHUNK_BYTES: u64 = 10_000_000;
/// Heights that are looked at, the newest. A node keeps two unless told otherwise;
/// one that keeps all may have thousands.
const MAX_HEIGHTS: usize = 256;
/// Formats of one height that are looked at, the newest. A node writes one.
const MAX_FORMATS: usize = 4;

/// Where a snapshot stands in the folder; newer ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name {
    pub(super) height: u64,
    pub(super) format: u32,
}

impl Name {
    fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.height.to_string())
            .join(self.format.to_string())
    }
}

/// The sizes of a snapshot's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form {
    pub(super) chunks: u32,
    pub(super) last_bytes: u64,
}

impl Form {
    /// Bytes of one chunk.
    pub(super) fn chunk_bytes(self, index: u32) -> u64 {
        if index + 1 == self.chunks {
            self.last_bytes
        } else {
            CHUNK_BYTES
        }
    }

    /// Bytes of all chunks.
    pub(super) fn total_bytes(self) -> u64 {
        u64::from(self.chunks.saturating_sub(1)) * CHUNK_BYTES + self.last_bytes
    }

    /// Whether the node would still have to begin another file to write more. All
    /// files are full while it makes a snapshot, for it writes a whole chunk at a
    /// time; of finished snapshots one in ten million is.
    pub(super) fn is_full(self) -> bool {
        self.last_bytes == CHUNK_BYTES
    }
}

/// What a snapshot looks like from outside.
pub(super) struct Look {
    /// Differs when any file of it changed.
    pub(super) stamp: Digest,
    pub(super) form: Result<Form, Unfit>,
}

/// The newest snapshots that have a name, newest first.
pub(super) fn newest(dir: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for height in greatest::<u64>(dir, MAX_HEIGHTS)? {
        if height == 0 || height > MAX_HEIGHT {
            continue;
        }
        let formats = match greatest::<u32>(&dir.join(height.to_string()), MAX_FORMATS) {
            Ok(formats) => formats,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        names.extend(formats.into_iter().map(|format| Name { height, format }));
    }
    Ok(names)
}

/// The folders whose names are numbers, the greatest so many, greatest first.
fn greatest<T: Ord + FromStr + ToString>(dir: &Path, most: usize) -> io::Result<Vec<T>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(number) = number::<T>(&entry.file_name()) else {
            continue;
        };
        // Of the entry itself: a link to a folder is none.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(number);
        }
        if found.len() > most {
            found.pop_first();
        }
    }
    Ok(found.into_iter().rev().collect())
}

/// A number as the node writes it.
fn number<T: FromStr + ToString>(name: &OsStr) -> Option<T> {
    let text = name.to_str()?;
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Looks at the files of a snapshot without opening one. Up to 5 MB of memory
/// meanwhile, for the most chunks that a snapshot has.
pub(super) fn look(dir: &Path, name: Name) -> io::Result<Look> {
    let mut files: Vec<(u32, Metadata)> = Vec::new();
    let mut too_many = false;
    for entry in fs::read_dir(name.path(dir))? {
        let entry = entry?;
        let Some(index) = number::<u32>(&entry.file_name()) else {
            continue;
        };
        if files.len() == MAX_CHUNKS as usize {
            too_many = true;
            break;
        }
        // Of the entry itself, as above.
        match entry.metadata() {
            Ok(meta) => files.push((index, meta)),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    files.sort_unstable_by_key(|(index, _)| *index);
    Ok(Look {
        stamp: stamp(&files),
        form: if too_many {
            Err(Unfit::TooManyChunks)
        } else {
            form(&files)
        },
    })
}

fn stamp(files: &[(u32, Metadata)]) -> Digest {
    let mut hasher = Hasher::new();
    for (index, meta) in files {
        hasher.update(&index.to_le_bytes());
        for number in [meta.size(), meta.ino(), meta.dev()] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [meta.mtime(), meta.mtime_nsec()] {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finish()
}

fn form(files: &[(u32, Metadata)]) -> Result<Form, Unfit> {
    let Some((_, last)) = files.last() else {
        return Err(Unfit::Empty);
    };
    let mut expected = 0;
    for (index, meta) in files {
        if *index != expected {
            return Err(Unfit::Gap(expected));
        }
        if !meta.is_file() {
            return Err(Unfit::NoFile(*index));
        }
        expected += 1;
        if meta.size() != CHUNK_BYTES && (expected as usize) < files.len() {
            return Err(Unfit::ChunkBytes {
                index: *index,
                bytes: meta.size(),
            });
        }
    }
    match last.size() {
        1..=CHUNK_BYTES => Ok(Form {
            chunks: expected,
            last_bytes: last.size(),
        }),
        other => Err(Unfit::LastChunkBytes(other)),
    }
}

/// The folder of one snapshot, held open: another one of the same name is not
/// mistaken for it.
pub(super) struct Opened {
    folder: OwnedFd,
    path: PathBuf,
}

impl Opened {
    /// Nothing when it is not there any more.
    pub(super) fn open(dir: &Path, name: Name) -> Result<Option<Self>, SdkError> {
        let path = name.path(dir);
        let open = || -> io::Result<OwnedFd> {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            // The folder that a person named may be a link.
            let mut folder = OwnedFd::from(File::open(dir)?);
            for part in [name.height.to_string(), name.format.to_string()] {
                folder = openat(&folder, part.as_str(), flags, Mode::empty())?;
            }
            Ok(folder)
        };
        match open() {
            Ok(folder) => Ok(Some(Self { folder, path })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(SdkError::Chunk { path, source }),
        }
    }

    /// A whole chunk, or nothing when the file is not there any more or has another
    /// size.
    pub(super) fn chunk(&self, index: u32, bytes: u64) -> Result<Option<Bytes>, SdkError> {
        match self.read(index, bytes) {
            Ok(read) => Ok(read),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(SdkError::Chunk {
                path: self.path.join(index.to_string()),
                source,
            }),
        }
    }

    fn read(&self, index: u32, bytes: u64) -> io::Result<Option<Bytes>> {
        // Opening what became a pipe must not wait for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(
            &self.folder,
            index.to_string().as_str(),
            flags,
            Mode::empty(),
        )?;
        let file = File::from(file);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != bytes {
            return Ok(None);
        }
        let mut read = Vec::with_capacity(bytes as usize);
        // One byte more would show that it grew.
        file.take(bytes + 1).read_to_end(&mut read)?;
        Ok((read.len() as u64 == bytes).then(|| read.into()))
    }
}

/// Whether the file, or a folder above it, was removed or is another thing now.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, StaleNetworkFileHandle};
    matches!(
        error.kind(),
        NotFound | NotADirectory | StaleNetworkFileHandle
    ) || error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
}
