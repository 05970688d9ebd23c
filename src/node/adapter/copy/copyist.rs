//! The thread that copies. It alone has the copy, and does one thing after the other.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::mpsc;

use super::desk::{Desk, Hold, Order};
use crate::xian::{Copied, Copier, CopyStats, XianError};

/// What the copyist tells. Who leads it takes a word at a time.
pub(super) const WORDS: usize = 8;

/// A word of the copyist.
pub(super) enum Told {
    /// It cannot begin.
    NoCopy(XianError),
    /// What changed was copied while the node was at work.
    Ahead(Result<CopyStats, XianError>),
    /// The answer to the Commit of this height went on, and the copy is whole, or failed
    /// after that.
    Copied(u64, Result<Copied, XianError>),
}

/// Copies from one folder into another until nobody has orders any more.
pub(super) fn start(
    storage: PathBuf,
    copy: PathBuf,
    desk: Arc<Desk>,
    told: mpsc::Sender<Told>,
) -> std::io::Result<()> {
    let orders = desk.new_copyist();
    let work = move || run(&storage, &copy, &orders, &desk, &told);
    std::thread::Builder::new()
        .name("xian-copy".to_owned())
        .spawn(work)
        .map(drop)
}

fn run(
    storage: &Path,
    copy: &Path,
    orders: &Receiver<Order>,
    desk: &Desk,
    told: &mpsc::Sender<Told>,
) {
    let _only = desk.only_copyist();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut copier = match Copier::new(storage, copy, threads) {
        Ok(copier) => copier,
        Err(error) => {
            let _ = told.blocking_send(Told::NoCopy(error));
            return;
        }
    };
    while let Ok(order) = orders.recv() {
        let word = match order {
            Order::Ahead => Some(Told::Ahead(copier.ahead(&|| desk.is_hurried()))),
            Order::Held(hold) => {
                desk.calm();
                let height = hold.height;
                held(&mut copier, hold).map(|copied| Told::Copied(height, copied))
            }
        };
        if let Some(word) = word
            && told.blocking_send(word).is_err()
        {
            return;
        }
    }
}

/// Copies the rest. Nothing when there is no copy, which was said.
fn held(copier: &mut Copier, hold: Hold) -> Option<Result<Copied, XianError>> {
    let held = match copier.held(hold.height, hold.time()) {
        Ok(held) => held,
        Err(error) => {
            hold.say(Err(error.to_string()));
            return None;
        }
    };
    // The node goes on by this word; where nobody hears it, it did before.
    hold.say(Ok(())).then(|| held.write())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::abci::Commits;
    use crate::xian::LatestBlock;

    const LONG: Duration = Duration::from_secs(60);

    fn commit(storage: &Path, height: u64) {
        fs::create_dir_all(storage.join("contract_state")).unwrap();
        fs::write(storage.join("contract_state/currency"), height.to_string()).unwrap();
        let latest = format!(r#"{{"hash": "61", "height": {height}}}"#);
        fs::write(storage.join("__latest_block.json"), latest).unwrap();
    }

    #[test]
    fn a_commit_is_copied_as_it_was_and_one_of_another_height_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let [storage, copy] = ["xian", "copy"].map(|name| folder.path().join(name));
        commit(&storage, 9);
        let desk = Arc::new(Desk::new(storage.clone(), 10));
        let (told, mut words) = mpsc::channel(WORDS);
        start(storage.clone(), copy.clone(), desk.clone(), told).unwrap();
        assert!(desk.copy_ahead());
        assert!(matches!(words.blocking_recv(), Some(Told::Ahead(Ok(_)))));

        desk.committed(10, Instant::now() + LONG);
        let status = desk.status();
        assert_eq!(status.skipped, 1);
        assert!(status.last_error.unwrap().contains("height 9"));

        commit(&storage, 20);
        desk.committed(20, Instant::now() + LONG);
        assert_eq!(desk.status().skipped, 1);
        // The node goes on, and the copy stays.
        commit(&storage, 21);
        let Some(Told::Copied(20, Ok(copied))) = words.blocking_recv() else {
            panic!("no copy");
        };
        assert_eq!(copied.block.height, 20);
        assert_eq!(LatestBlock::read(&copy).unwrap(), copied.block);
        let currency = fs::read_to_string(copy.join("contract_state/currency")).unwrap();
        assert_eq!(currency, "20");
    }

    #[test]
    fn a_folder_that_cannot_be_emptied_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        let desk = Arc::new(Desk::new(folder.path().to_owned(), 10));
        let (told, mut words) = mpsc::channel(WORDS);
        start(folder.path().to_owned(), file.join("copy"), desk, told).unwrap();
        assert!(matches!(words.blocking_recv(), Some(Told::NoCopy(_))));
        assert!(words.blocking_recv().is_none());
    }
}
