//! Where pages of a file wait to be written, as the page cache tells (`cachestat`, Linux
//! 6.5).
//!
//! Linux (6.18 was seen to do it) may pass over pages where a question begins inside a
//! large folio and the process is due to give way to another in that moment: some of the
//! pages behind the folio are not counted. So every question begins at a multiple of the
//! largest folio, and only its end differs: what waits between two places is what is
//! counted up to the later one, less what is counted up to the earlier one.
//!
//! Pages become clean meanwhile, and who makes others dirty touches the file, which is read
//! again then. So the later place is always asked for first: what waits between the two is
//! never counted too low by it, and where it is too high, too much is read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::libc;

/// Elsewhere folios may be larger.
const PAGE_BYTES: u64 = 4 << 10;
/// The page cache has no larger folio, and each begins at a multiple of its size.
const LARGEST_FOLIO_PAGES: u64 = 512;

/// Finds where pages wait to be written, or are being written, up to `bytes`; down to a
/// page, because what waits is in memory, and what stands beside it may be on the disk
/// alone. Fails where that is not told.
pub(super) fn waiting(file: &File, bytes: u64, found: &mut Vec<Range<u64>>) -> io::Result<()> {
    // SAFETY: it takes a number.
    if unsafe { libc::sysconf(libc::_SC_PAGESIZE) } != PAGE_BYTES as libc::c_long {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let pages = bytes.div_ceil(PAGE_BYTES);
    let mut first = 0;
    let mut in_pages = Vec::new();
    while first < pages {
        let end = pages.min(first + LARGEST_FOLIO_PAGES);
        let mut window = Window {
            first,
            count: |end: u64| count(file, first * PAGE_BYTES..end * PAGE_BYTES),
        };
        let to_end = (window.count)(end)?;
        window.find(first..end, 0, to_end, &mut in_pages)?;
        first = end;
    }
    let range = |pages: Range<u64>| pages.start * PAGE_BYTES..bytes.min(pages.end * PAGE_BYTES);
    found.extend(in_pages.into_iter().map(range));
    Ok(())
}

/// Pages behind the place at which every question begins.
struct Window<F> {
    first: u64,
    /// How many wait up to a page.
    count: F,
}

impl<F: FnMut(u64) -> io::Result<u64>> Window<F> {
    /// Finds those that wait among `pages`, of which so many were counted up to their end,
    /// and, asked later, up to their start.
    fn find(
        &mut self,
        pages: Range<u64>,
        mut to_start: u64,
        to_end: u64,
        found: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        if to_start > 0 && to_end <= to_start {
            // A page that begins to be written in that moment is counted twice.
            to_start = to_start.min((self.count)(pages.start)?);
        }
        let (waiting, all) = (to_end.saturating_sub(to_start), pages.end - pages.start);
        if waiting == 0 {
            return Ok(());
        }
        if waiting >= all || all == 1 {
            found.push(pages);
            return Ok(());
        }
        let middle = pages.start + all / 2;
        let to_middle = (self.count)(middle)?;
        let to_start = match pages.start == self.first {
            true => 0,
            false => (self.count)(pages.start)?,
        };
        self.find(pages.start..middle, to_start, to_middle, found)?;
        self.find(middle..pages.end, to_middle, to_end, found)
    }
}

/// How many pages of a part of a file wait.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
fn count(file: &File, range: Range<u64>) -> io::Result<u64> {
    const CACHESTAT: libc::c_long = 451;
    const DIRTY: usize = 1;
    const WRITEBACK: usize = 2;
    // linux/mman.h: offset and length; numbers of pages, of which two are used.
    let asked: [u64; 2] = [range.start, range.end - range.start];
    let mut pages = [0_u64; 5];
    // SAFETY: both are as large as the call takes them, and nothing else is written.
    let told = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            asked.as_ptr(),
            pages.as_mut_ptr(),
            0,
        )
    };
    nix::errno::Errno::result(told)?;
    Ok(pages[DIRTY] + pages[WRITEBACK])
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
fn count(_: &File, _: Range<u64>) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Some pages wait, and become clean one after the other while they are asked about.
    #[test]
    fn what_waits_to_the_end_is_found_whatever_becomes_clean_meanwhile() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..3000 {
            let first = random.random_range(0..3) * LARGEST_FOLIO_PAGES;
            let end = first + random.random_range(1..=LARGEST_FOLIO_PAGES);
            let mut waiting: BTreeSet<u64> = (0..random.random_range(0..60))
                .map(|_| random.random_range(first..end))
                .collect();
            let from_page = random.random_range(first..end);
            waiting.extend(from_page..end.min(from_page + random.random_range(0..40)));
            let often = random.random_range(2..40);
            let mut found = Vec::new();
            let mut window = Window {
                first,
                count: |end: u64| {
                    let counted = waiting.range(first..end).count() as u64;
                    if random.random_range(0..often) == 0 {
                        let nth = random.random_range(0..60);
                        if let Some(clean) = waiting.iter().nth(nth).copied() {
                            waiting.remove(&clean);
                        }
                    }
                    Ok(counted)
                },
            };
            let to_end = (window.count)(end).unwrap();
            window.find(first..end, 0, to_end, &mut found).unwrap();
            for page in waiting {
                assert!(
                    found.iter().any(|range| range.contains(&page)),
                    "{page}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn where_nothing_changes_meanwhile_exactly_what_waits_is_found() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..1000 {
            let waiting: BTreeSet<u64> = (0..random.random_range(0..60))
                .map(|_| random.random_range(0..LARGEST_FOLIO_PAGES))
                .collect();
            let mut found = Vec::new();
            let mut window = Window {
                first: 0,
                count: |end: u64| Ok(waiting.range(..end).count() as u64),
            };
            let to_end = (window.count)(LARGEST_FOLIO_PAGES).unwrap();
            let all = 0..LARGEST_FOLIO_PAGES;
            window.find(all, 0, to_end, &mut found).unwrap();
            let found: Vec<u64> = found.into_iter().flatten().collect();
            assert_eq!(found, Vec::from_iter(waiting));
        }
    }
}
