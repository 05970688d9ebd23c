//! What the hall does with the storage of a Xian node: publishing its state and the
//! deltas between its states, and the processes that read and write its files, which are
//! this program by a verb of its own that people have no use for.

mod copied;
mod deltas;
mod publish;

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

pub(super) use self::copied::publish_copy;
pub(super) use self::deltas::{DeltaOrder, make_deltas};
pub(super) use self::publish::{Making, Published, publish};
pub use crate::xian::Work;
use crate::xian::Workers;

/// The verb.
pub const VERB: &str = "__xian";

/// This program as it runs, also where its file was replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

/// How it is started as a worker: as many as there are cores.
pub fn workers() -> Workers {
    Workers {
        program: PROGRAM.into(),
        arguments: vec![VERB.into()],
        at_most: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        patience: Workers::PATIENCE,
    }
}

/// Does the work of one. Blocking; the process does nothing else.
pub fn work(work: Work, file: &Path) -> io::Result<()> {
    crate::xian::work(work, file)
}
