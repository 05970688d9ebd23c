//! Reading a node's own files beside it: after each chunk as long a rest as the chunk took,
//! so that the node has half of a core and of its disk even while a large snapshot is read.

use std::thread;
use std::time::{Duration, Instant};

/// A disk that hangs for long does not make the rest as long.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Rests after the work that began then.
pub(super) fn rest(began: Instant) {
    thread::sleep(began.elapsed().min(LONGEST_REST));
}
