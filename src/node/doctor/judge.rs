//! From facts to findings. Pure.
//!
//! Each file of this folder looks at one part; what it could not look at, it says. A
//! *problem* is what does not work or will not, as far as the facts tell; what depends
//! on plans that nobody told is a *hint*.

mod chain;
mod daemon;
mod disk;
mod home;
mod node;
mod p2p;
#[cfg(test)]
mod sample;
mod snapshot;
mod state_sync;
mod versions;

use super::facts::Facts;
use super::finding::Finding;

/// What the facts mean, part by part.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let parts: [fn(&Facts) -> Vec<Finding>; 9] = [
        home::judge,
        daemon::judge,
        snapshot::judge,
        disk::judge,
        chain::judge,
        node::judge,
        versions::judge,
        state_sync::judge,
        p2p::judge,
    ];
    parts.iter().flat_map(|part| part(facts)).collect()
}
