//! Look-ups for providers, under way and waiting.

use std::collections::{BTreeSet, HashMap, VecDeque};

use libp2p::PeerId;
use libp2p::kad::QueryId;
use tokio::sync::mpsc;

use super::keys::DhtKey;

/// Look-ups in the DHT at the same time; each talks to three peers at once.
pub(super) const MAX_FINDS: usize = 32;
/// Look-ups that wait for their turn or for a first DHT peer.
pub(super) const MAX_WAITING_FINDS: usize = 256;
/// Providers found and not yet taken; more are dropped, the look-up goes on.
pub(super) const MAX_FOUND: usize = 256;

/// One look-up.
#[derive(Debug)]
pub(super) struct Find {
    pub key: DhtKey,
    sink: mpsc::Sender<PeerId>,
    told: BTreeSet<PeerId>,
}

impl Find {
    pub fn new(key: DhtKey, sink: mpsc::Sender<PeerId>) -> Self {
        Self {
            key,
            sink,
            told: BTreeSet::new(),
        }
    }

    /// Tells a provider, once.
    pub fn tell(&mut self, peer: PeerId) {
        if self.told.len() < 2 * MAX_FOUND && self.told.insert(peer) {
            // Full: whoever reads has enough to do.
            let _ = self.sink.try_send(peer);
        }
    }

    /// Whether nobody reads any more, or all that can be told is told.
    pub fn is_over(&self) -> bool {
        self.sink.is_closed()
    }
}

/// All look-ups.
#[derive(Debug, Default)]
pub(super) struct Finds {
    pub running: HashMap<QueryId, Find>,
    waiting: VecDeque<Find>,
}

impl Finds {
    /// Takes a look-up in; gives it back when too many wait.
    pub fn push(&mut self, find: Find) -> Result<(), Find> {
        self.waiting.retain(|waiting| !waiting.is_over());
        if self.waiting.len() >= MAX_WAITING_FINDS {
            return Err(find);
        }
        self.waiting.push_back(find);
        Ok(())
    }

    /// The next one whose turn it is.
    pub fn next(&mut self) -> Option<Find> {
        while self.running.len() < MAX_FINDS {
            let find = self.waiting.pop_front()?;
            if !find.is_over() {
                return Some(find);
            }
        }
        None
    }
}
