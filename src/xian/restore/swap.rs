//! Putting a new storage in the place of the old one, so that a crash at any point
//! leaves one of them whole, or is followed by going on.
//!
//! A storage is three names: `contract_state`, `run_state`, `__latest_block.json`. No
//! call changes three at once, so a journal, the file `swap`, says that it is going on:
//!
//! 1. all of `new/` is synced, files and folders;
//! 2. `swap` is written under another name, synced and renamed; from here on the new
//!    storage is the one;
//! 3. the old `__latest_block.json` is moved aside, then the old folders: a node that is
//!    started too early finds no block rather than that of other files;
//! 4. what was moved is synced;
//! 5. the new folders are moved in, then the new `__latest_block.json`, and synced;
//! 6. `swap` is removed, then what is left of `new/`.
//!
//! Each name that still stands in `new/` is yet to be moved in, and if it also stands in
//! the storage, that one is yet to be moved aside: so going on is doing it again. A crash
//! before step 2 has touched nothing, and `new/` is thrown away.
//!
//! `old/` is there already where an earlier restore was not found good yet. Then what
//! stands in the storage comes from a snapshot, goes to `dropped/`, and is removed in
//! step 6.
//!
//! A restore is undone in the same way: `old/` is what is moved in, and what was restored
//! goes to `dropped/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{exists, remove_all, write_synced};
use crate::xian::layout::{CONTRACTS, RUN};
use crate::xian::{LatestBlock, XianError};

/// Where a restore lies in a storage. The chain looks at nothing that begins with a dot.
const ROOM: &str = ".snapswarm-restore";
/// Where in a storage is kept what stood there before a restore.
pub const KEPT: &str = ".snapswarm-restore/old";
/// The journal's form.
const VERSION: u32 = 1;

/// What `swap` says.
#[derive(Serialize, Deserialize)]
struct Journal {
    version: u32,
    /// The folder, beside it, that takes the old storage: `old` or `dropped`.
    aside: String,
    /// Whether `old/` is moved in, and not `new/`.
    #[serde(default)]
    undo: bool,
}

/// The places of a restore.
pub(super) struct Folders {
    storage: PathBuf,
    room: PathBuf,
    pub(super) new: PathBuf,
    old: PathBuf,
    dropped: PathBuf,
    journal: PathBuf,
    accepted: PathBuf,
}

impl Folders {
    pub(super) fn of(storage: &Path) -> Self {
        let room = storage.join(ROOM);
        Self {
            storage: storage.to_owned(),
            new: room.join("new"),
            old: room.join("old"),
            dropped: room.join("dropped"),
            journal: room.join("swap"),
            accepted: room.join("accepted"),
            room,
        }
    }

    /// Folders are moved by renaming: behind a link they would come to another disk.
    pub(super) fn check_storage(&self) -> Result<(), XianError> {
        for name in [CONTRACTS, RUN] {
            let path = self.storage.join(name);
            if exists(&path)? && !is_folder(&path)? {
                return Err(XianError::Stray {
                    path,
                    problem: "is no folder, or a link to one".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn is_folder(path: &Path) -> Result<bool, XianError> {
    let meta = path.symlink_metadata();
    Ok(meta.map_err(XianError::io("look at", path))?.is_dir())
}

/// What is done to the disk, step by step: tests stop it between any two.
#[derive(Default)]
pub(super) struct Steps {
    #[cfg(test)]
    pub(super) left: Option<std::cell::Cell<usize>>,
}

impl Steps {
    fn take(&self, path: &Path) -> Result<(), XianError> {
        #[cfg(test)]
        if let Some(left) = &self.left {
            let Some(fewer) = left.get().checked_sub(1) else {
                return Err(XianError::io("go on at", path)(std::io::Error::other(
                    "off",
                )));
            };
            left.set(fewer);
        }
        let _ = path;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), XianError> {
        self.take(from)?;
        fs::rename(from, to).map_err(XianError::io("move", from))
    }

    fn sync(&self, folder: &Path) -> Result<(), XianError> {
        self.take(folder)?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(XianError::io("sync", folder))
    }
}

/// Puts `new/`, whose files are synced, into place.
pub(super) fn swap(folders: &Folders, steps: &Steps) -> Result<(), XianError> {
    for folder in [folders.new.join(CONTRACTS), folders.new.join(RUN)] {
        steps.sync(&folder)?;
    }
    steps.sync(&folders.new)?;
    // It was about another restore.
    steps.take(&folders.accepted)?;
    remove_file(&folders.accepted)?;
    let aside = if exists(&folders.old)? {
        "dropped"
    } else {
        "old"
    };
    let journal = Journal {
        version: VERSION,
        aside: aside.to_owned(),
        undo: false,
    };
    begin(folders, &journal, steps)
}

/// Step 2, and on.
fn begin(folders: &Folders, journal: &Journal, steps: &Steps) -> Result<(), XianError> {
    let draft = folders.room.join("swap.new");
    let text = serde_json::to_string(journal);
    let text = text.map_err(|error| XianError::io("write", &draft)(error.into()))?;
    steps.take(&draft)?;
    write_synced(&draft, text.as_bytes())?;
    steps.rename(&draft, &folders.journal)?;
    steps.sync(&folders.room)?;
    go_on(folders, journal, steps)
}

/// Steps 3 to 6, or what is left of them.
fn go_on(folders: &Folders, journal: &Journal, steps: &Steps) -> Result<(), XianError> {
    let aside = match &journal.aside[..] {
        "old" => &folders.old,
        _ => &folders.dropped,
    };
    let new = match journal.undo {
        true => &folders.old,
        false => &folders.new,
    };
    steps.take(aside)?;
    fs::create_dir_all(aside).map_err(XianError::io("create", aside))?;
    let latest = LatestBlock::path(Path::new(""));
    let names = [latest.as_path(), Path::new(CONTRACTS), Path::new(RUN)];
    for name in names {
        let (new, place) = (new.join(name), folders.storage.join(name));
        if exists(&new)? && exists(&place)? && !exists(&aside.join(name))? {
            steps.rename(&place, &aside.join(name))?;
        }
    }
    steps.sync(aside)?;
    steps.sync(&folders.storage)?;
    for name in names.iter().rev() {
        let (new, place) = (new.join(name), folders.storage.join(name));
        if exists(&new)? {
            steps.rename(&new, &place)?;
        }
    }
    steps.sync(&folders.storage)?;
    if exists(new)? {
        steps.sync(new)?;
    }
    steps.take(&folders.dropped)?;
    remove_all(&folders.dropped)?;
    if journal.undo {
        // While it stands something is kept there: it goes first.
        steps.take(new)?;
        remove_all(new)?;
    }
    steps.take(&folders.journal)?;
    fs::remove_file(&folders.journal).map_err(XianError::io("remove", &folders.journal))?;
    steps.sync(&folders.room)?;
    steps.take(new)?;
    remove_all(new)
}

/// Ends what a restore that was cut off has begun: puts its storage into place where it
/// was whole, and throws it away where it was not. To be called while the node does not
/// run, before it is started. Says whether a storage was put into place.
pub fn recover(storage: &Path) -> Result<bool, XianError> {
    recover_by(&Folders::of(storage), &Steps::default())
}

fn recover_by(folders: &Folders, steps: &Steps) -> Result<bool, XianError> {
    if !exists(&folders.journal)? {
        steps.take(&folders.new)?;
        remove_all(&folders.new)?;
        remove_all(&folders.dropped)?;
        return Ok(false);
    }
    let damaged = |problem: String| XianError::Damaged {
        path: folders.journal.clone(),
        problem,
    };
    let text = fs::read(&folders.journal).map_err(XianError::io("read", &folders.journal))?;
    let journal: Journal =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if journal.version != VERSION {
        return Err(damaged(format!(
            "its version is {}, {VERSION} is known here",
            journal.version
        )));
    }
    go_on(folders, &journal, steps)?;
    Ok(true)
}

/// Puts back what the node had before its restore, where that is still kept: the state that
/// was restored is not the chain's, or of no use. A node that had nothing is empty
/// afterwards. To be called while the node does not run; a crash is followed by
/// [`recover`]. Says whether there was anything to be undone.
pub fn undo(storage: &Path) -> Result<bool, XianError> {
    recover(storage)?;
    undo_by(&Folders::of(storage), &Steps::default())
}

/// Notes, durably, that the state which was restored is the chain's: whoever restores it
/// has compared it with what the chain has.
pub fn accept(storage: &Path) -> Result<(), XianError> {
    let folders = Folders::of(storage);
    let block = LatestBlock::read(storage)?;
    write_synced(&folders.accepted, block.to_json().as_bytes())?;
    Steps::default().sync(&folders.room)
}

/// Whether the storage holds what a restore put there, and no block more: then nothing is
/// lost by an [`undo`].
pub fn is_as_restored(storage: &Path) -> Result<bool, XianError> {
    let folders = Folders::of(storage);
    if !exists(&folders.old)? {
        return Ok(false);
    }
    if !exists(&folders.accepted)? {
        return Ok(true);
    }
    let text = fs::read(&folders.accepted).map_err(XianError::io("read", &folders.accepted))?;
    // It is missing while an undo that was cut off waits for its end.
    Ok(text == LatestBlock::read_or_none(storage)?.to_json().as_bytes())
}

/// Whether an earlier restore left something beside the storage, which a next one goes on
/// with or makes room of.
pub fn has_left_something(storage: &Path) -> bool {
    Folders::of(storage).room.exists()
}

/// Whether a restore was put into place, and cut off before anybody accepted it.
pub fn is_unaccepted(storage: &Path) -> Result<bool, XianError> {
    let folders = Folders::of(storage);
    Ok(exists(&folders.old)? && !exists(&folders.accepted)?)
}

/// Whether what the node had before its restore is still kept.
pub fn keeps_old(storage: &Path) -> Result<bool, XianError> {
    exists(&Folders::of(storage).old)
}

fn undo_by(folders: &Folders, steps: &Steps) -> Result<bool, XianError> {
    let old = &folders.old;
    if !exists(old)? {
        return Ok(false);
    }
    // What is missing has to be moved in, too: as a node has it before its first block.
    for folder in [old.join(CONTRACTS), old.join(RUN)] {
        steps.take(&folder)?;
        fs::create_dir_all(&folder).map_err(XianError::io("create", &folder))?;
    }
    let latest = LatestBlock::path(old);
    if !exists(&latest)? {
        steps.take(&latest)?;
        write_synced(&latest, LatestBlock::NONE.to_json().as_bytes())?;
    }
    steps.sync(old)?;
    let journal = Journal {
        version: VERSION,
        aside: "dropped".to_owned(),
        undo: true,
    };
    begin(folders, &journal, steps)?;
    Ok(true)
}

/// Removes what the node had before its restore, if anything is kept: the node has
/// caught up.
pub fn discard_old(storage: &Path) -> Result<(), XianError> {
    let folders = Folders::of(storage);
    if exists(&folders.journal)? {
        return Err(XianError::Records {
            problem: "a restore was cut off and is not finished yet".to_owned(),
        });
    }
    // Half of it must never be taken for all of it.
    remove_all(&folders.dropped)?;
    if exists(&folders.old)? {
        fs::rename(&folders.old, &folders.dropped).map_err(XianError::io("move", &folders.old))?;
    }
    remove_file(&folders.accepted)?;
    remove_all(&folders.dropped)?;
    match fs::remove_dir(&folders.room) {
        Err(error) if exists(&folders.room)? => Err(XianError::io("remove", &folders.room)(error)),
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<(), XianError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(XianError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::xian::restore::write_synced;

    const NAMES: [&str; 3] = ["__latest_block.json", "contract_state/c", "run_state/__n"];

    /// Writes a storage whose three parts say `word`.
    fn fill(storage: &Path, word: &str) {
        for name in NAMES {
            let path = storage.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_synced(&path, word.as_bytes()).unwrap();
        }
    }

    /// What the three parts say; nothing of one that is missing.
    fn words(storage: &Path) -> [Option<String>; 3] {
        NAMES.map(|name| fs::read_to_string(storage.join(name)).ok())
    }

    fn whole(word: &str) -> [Option<String>; 3] {
        [0; 3].map(|_| Some(word.to_owned()))
    }

    /// Steps that end after so many.
    fn only(steps: usize) -> Steps {
        Steps {
            left: Some(Cell::new(steps)),
        }
    }

    fn prepared() -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(folder.path());
        fill(&folders.storage, "old");
        fill(&folders.new, "new");
        (folder, folders)
    }

    /// A node that is started now finds a block only where the files are of that block.
    fn assert_no_lie(storage: &Path) {
        let words = words(storage);
        if words[0].is_some() {
            assert!(words == whole("old") || words == whole("new"), "{words:?}");
        }
    }

    #[test]
    fn killed_at_any_step_the_old_storage_or_the_new_one_is_there_afterwards() {
        let mut finished = None;
        let mut outcomes = [0, 0];
        for at in 0.. {
            let (_folder, folders) = prepared();
            if swap(&folders, &only(at)).is_ok() {
                finished = Some(at);
                break;
            }
            assert_no_lie(&folders.storage);
            // Going on is killed at any step, too.
            for again in 0..3 {
                let _ = recover_by(&folders, &only(at * again / 2));
                assert_no_lie(&folders.storage);
            }
            recover(&folders.storage).unwrap();
            let words = words(&folders.storage);
            assert!(
                words == whole("old") || words == whole("new"),
                "{at}: {words:?}"
            );
            let is_new = words == whole("new");
            outcomes[usize::from(is_new)] += 1;
            assert!(!folders.new.exists() && !folders.journal.exists());
            assert_eq!(folders.old.exists(), is_new);
            assert!(!recover(&folders.storage).unwrap());
        }
        assert!(finished.unwrap() > 15, "{finished:?}");
        assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
    }

    #[test]
    fn the_old_storage_is_kept_until_it_is_told_to_go() {
        let (_folder, folders) = prepared();
        fs::write(folders.storage.join("contract_state/c.bak"), b"mine").unwrap();
        fs::write(folders.storage.join("other"), b"mine").unwrap();
        swap(&folders, &Steps::default()).unwrap();
        assert!(keeps_old(&folders.storage).unwrap());
        assert_eq!(folders.storage.join(KEPT), folders.old);
        assert_eq!(words(&folders.storage), whole("new"));
        assert_eq!(words(&folders.old), whole("old"));
        assert!(folders.old.join("contract_state/c.bak").exists());
        assert!(folders.storage.join("other").exists());
        discard_old(&folders.storage).unwrap();
        assert!(!folders.room.exists() && !keeps_old(&folders.storage).unwrap());
        assert_eq!(words(&folders.storage), whole("new"));
        discard_old(&folders.storage).unwrap();
    }

    #[test]
    fn a_restore_is_unaccepted_until_somebody_says_otherwise_and_the_next_one_anew() {
        let (_folder, folders) = prepared();
        let storage = &folders.storage;
        let unaccepted = || is_unaccepted(storage).unwrap();
        let as_restored = || is_as_restored(storage).unwrap();
        let is_at = |height| {
            let block = LatestBlock {
                height,
                ..LatestBlock::NONE
            };
            fs::write(LatestBlock::path(storage), block.to_json()).unwrap();
        };
        assert!(!unaccepted() && !as_restored(), "nothing was restored");
        swap(&folders, &Steps::default()).unwrap();
        is_at(7);
        assert!(unaccepted() && as_restored());
        accept(storage).unwrap();
        assert!(!unaccepted() && as_restored());
        is_at(8);
        assert!(!as_restored(), "the node went on");
        fill(&folders.new, "new");
        swap(&folders, &Steps::default()).unwrap();
        assert!(unaccepted() && as_restored());
        is_at(7);
        accept(storage).unwrap();
        discard_old(storage).unwrap();
        assert!(!unaccepted() && !folders.room.exists());
    }

    #[test]
    fn of_several_restores_the_first_old_storage_is_kept() {
        for at in 0.. {
            let (_folder, folders) = prepared();
            swap(&folders, &Steps::default()).unwrap();
            fill(&folders.new, "newer");
            let is_done = swap(&folders, &only(at)).is_ok();
            recover(&folders.storage).unwrap();
            let words_now = words(&folders.storage);
            assert!(words_now == whole("new") || words_now == whole("newer"));
            assert_eq!(words(&folders.old), whole("old"));
            assert!(!folders.dropped.exists());
            if is_done {
                assert_eq!(words_now, whole("newer"));
                break;
            }
        }
    }

    #[test]
    fn a_new_node_has_nothing_to_keep() {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let folders = Folders::of(folder.path());
            fill(&folders.new, "new");
            let is_done = swap(&folders, &only(at)).is_ok();
            recover(&folders.storage).unwrap();
            let words = words(&folders.storage);
            assert!(
                words == whole("new") || words == [None, None, None],
                "{words:?}"
            );
            if is_done {
                break;
            }
        }
    }

    #[test]
    fn killed_at_any_step_of_an_undoing_one_of_the_two_storages_is_there_afterwards() {
        for at in 0.. {
            let (_folder, folders) = prepared();
            swap(&folders, &Steps::default()).unwrap();
            let is_done = undo_by(&folders, &only(at)).is_ok();
            assert_no_lie(&folders.storage);
            for again in 0..3 {
                let _ = recover_by(&folders, &only(at * again / 2));
                assert_no_lie(&folders.storage);
            }
            recover(&folders.storage).unwrap();
            let now = words(&folders.storage);
            match folders.old.exists() {
                true => assert_eq!((now, words(&folders.old)), (whole("new"), whole("old"))),
                false => assert_eq!(now, whole("old"), "{at}"),
            }
            assert!(!folders.dropped.exists());
            if is_done {
                assert!(at > 10 && !folders.old.exists());
                break;
            }
        }
    }

    #[test]
    fn undone_a_node_that_had_nothing_is_empty() {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let folders = Folders::of(folder.path());
            assert!(!undo(folder.path()).unwrap(), "there is nothing to undo");
            fill(&folders.new, "new");
            swap(&folders, &Steps::default()).unwrap();
            let is_done = undo_by(&folders, &only(at)).is_ok();
            recover(&folders.storage).unwrap();
            if is_done {
                assert_eq!(LatestBlock::read(folder.path()).unwrap(), LatestBlock::NONE);
                let words = words(folder.path());
                assert_eq!(words[1..], [None, None]);
                break;
            }
            if LatestBlock::read(folder.path()).is_err() {
                assert_eq!(words(folder.path()), whole("new"));
            }
        }
    }

    #[test]
    fn a_journal_that_is_not_ours_is_not_obeyed() {
        for text in ["", "{}", r#"{"version":2,"aside":"old"}"#] {
            let (_folder, folders) = prepared();
            fs::write(&folders.journal, text).unwrap();
            let error = recover(&folders.storage).unwrap_err();
            assert!(matches!(error, XianError::Damaged { .. }), "{error}");
            assert_eq!(words(&folders.storage), whole("old"));
            assert!(discard_old(&folders.storage).is_err());
        }
    }

    #[test]
    fn a_storage_behind_links_is_not_swapped() {
        let (_folder, folders) = prepared();
        fs::remove_dir_all(folders.storage.join(CONTRACTS)).unwrap();
        std::os::unix::fs::symlink("/tmp", folders.storage.join(CONTRACTS)).unwrap();
        let error = folders.check_storage().unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
    }
}
