//! Where a file has other bytes than its clone, found without reading either.
//!
//! The two share their blocks until one is written. The maps of the file system
//! (`FIEMAP`) tell which block stands where: the same block has the same bytes. What was
//! written and is not on the disk yet is not in the maps; the page cache tells where that
//! is ([`waiting`]).
//!
//! The map of a clone is kept while its times are the same. A program that moves the blocks
//! of a file and keeps its times (a defragmenter) must leave the copies alone: they lie in a
//! folder of ours.
//!
//! XFS changes the map before it lets a page count as written. So the page cache is asked
//! first and the maps afterwards, and nothing is missed in between. btrfs has it the
//! other way round, so this is for XFS alone.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};

use super::waiting::waiting;
use crate::xian::stamp::FileStamp;

/// Extents that the system tells of at a time.
const EXTENTS_AT_A_TIME: usize = 1024;

/// A clone of which nothing was changed, as it stands on the disk.
pub(super) struct Pristine {
    stamp: FileStamp,
    map: Map,
}

impl Pristine {
    /// Of a clone that was just made. None where nothing can be told of it.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let clone = File::open(path).ok().filter(is_on_xfs)?;
        Some(Self {
            stamp: FileStamp::of(&clone, path).ok()?,
            map: Map::of(&clone).ok()?,
        })
    }
}

/// Where a file and a clone of it at `path` may differ, in order, up to `bytes`. None
/// where that cannot be told. It takes half of the time where the clone is known to be as
/// it was made.
pub(super) fn differing(
    from: &File,
    path: &Path,
    pristine: Option<Pristine>,
    bytes: u64,
) -> Option<Vec<Range<u64>>> {
    let clone = File::open(path).ok().filter(is_on_xfs)?;
    let stamp = FileStamp::of(&clone, path).ok()?;
    let mut found = Vec::new();
    waiting(from, bytes, &mut found).ok()?;
    let mut of_clone = match pristine.filter(|pristine| pristine.stamp == stamp) {
        Some(pristine) => pristine.map,
        None => {
            waiting(&clone, bytes, &mut found).ok()?;
            Map::of(&clone).ok()?
        }
    };
    compare(&mut Map::of(from).ok()?, &mut of_clone, bytes, &mut found);
    Some(united(found))
}

fn is_on_xfs(file: &File) -> bool {
    fstatfs(file).is_ok_and(|system| system.filesystem_type() == XFS_SUPER_MAGIC)
}

/// How many extents a file has; none where the file system does not tell.
pub(super) fn extents(file: &File) -> usize {
    let mut asked = call::Fiemap::new(0);
    asked.extent_count = 0;
    asked
        .fill(file)
        .map_or(0, |()| asked.mapped_extents as usize)
}

/// Has what was written of a file put on the disk, and waits for it. Where that fails,
/// whoever clones the file hears of it.
pub(super) fn write_back(file: &File) {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: an open file; the call takes no memory.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
}

/// What stands at a place of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Hole,
    /// So many bytes from the beginning of the file system.
    At(u64),
    /// Something that has no place of its own, or no bytes yet: equal to nothing.
    Other,
}

/// The extents of a file, of which one is looked at after the other.
struct Map {
    extents: Vec<call::Extent>,
    next: usize,
}

impl Map {
    fn of(file: &File) -> io::Result<Self> {
        let mut extents: Vec<call::Extent> = Vec::new();
        loop {
            let start = extents.last().map_or(0, call::Extent::end);
            let mut asked = call::Fiemap::new(start);
            asked.fill(file)?;
            let told = &asked.extents[..asked.mapped_extents as usize];
            extents.extend(told);
            let is_last = |last: &call::Extent| last.flags & call::LAST != 0;
            if told.last().is_none_or(is_last) {
                break;
            }
        }
        Ok(Self { extents, next: 0 })
    }

    /// What stands at a place, which lies behind those asked before, and up to where.
    fn at(&mut self, place: u64) -> (Block, u64) {
        while self
            .extents
            .get(self.next)
            .is_some_and(|it| it.end() <= place)
        {
            self.next += 1;
        }
        match self.extents.get(self.next) {
            None => (Block::Hole, u64::MAX),
            Some(next) if next.logical > place => (Block::Hole, next.logical),
            Some(here) if here.flags & !call::PLAIN != 0 => (Block::Other, here.end()),
            Some(here) => (
                Block::At(here.physical + (place - here.logical)),
                here.end(),
            ),
        }
    }
}

/// Finds where two maps say different things.
fn compare(one: &mut Map, other: &mut Map, bytes: u64, found: &mut Vec<Range<u64>>) {
    let mut place = 0;
    while place < bytes {
        let ((here, to), (there, also_to)) = (one.at(place), other.at(place));
        let end = to.min(also_to).min(bytes);
        if here != there || here == Block::Other {
            found.push(place..end);
        }
        place = end;
    }
}

/// The same places, in order and each once.
fn united(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut united: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}

/// The call that tells of them.
mod call {
    use super::*;

    // linux/fiemap.h.
    pub(super) const LAST: u32 = 0x1;
    /// The last one; joined from several; shared with another file.
    pub(super) const PLAIN: u32 = LAST | 0x1000 | 0x2000;

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    pub(super) struct Extent {
        pub(super) logical: u64,
        pub(super) physical: u64,
        length: u64,
        reserved: [u64; 2],
        pub(super) flags: u32,
        also_reserved: [u32; 3],
    }

    impl Extent {
        pub(super) fn end(&self) -> u64 {
            self.logical.saturating_add(self.length)
        }
    }

    #[repr(C)]
    pub(super) struct Fiemap {
        start: u64,
        length: u64,
        flags: u32,
        pub(super) mapped_extents: u32,
        pub(super) extent_count: u32,
        reserved: u32,
        pub(super) extents: [Extent; EXTENTS_AT_A_TIME],
    }

    /// Bytes of it before the extents, which the call's number has in it.
    const HEAD_BYTES: usize = std::mem::offset_of!(Fiemap, extents);

    nix::ioctl_readwrite_bad!(
        fiemap,
        nix::request_code_readwrite!(b'f', 11, HEAD_BYTES),
        Fiemap
    );

    impl Fiemap {
        /// Of all that stands behind `start`.
        pub(super) fn new(start: u64) -> Box<Self> {
            Box::new(Self {
                start,
                length: u64::MAX - start,
                flags: 0,
                mapped_extents: 0,
                extent_count: EXTENTS_AT_A_TIME as u32,
                reserved: 0,
                extents: [Extent::default(); EXTENTS_AT_A_TIME],
            })
        }

        pub(super) fn fill(&mut self, file: &File) -> io::Result<()> {
            // SAFETY: the system writes as many extents as `extent_count` says, for which
            // there is room.
            unsafe { fiemap(file.as_raw_fd(), self) }?;
            Ok(())
        }
    }
}
