//! Snapshots that somebody reads, and that stay meanwhile.

use std::sync::Arc;

use super::Store;
use super::state::Inner;
use crate::snapshot::ManifestId;

/// Keeps snapshots from being removed to keep the limits, as long as it lives.
pub struct Hold {
    store: Arc<Inner>,
    held: Vec<ManifestId>,
}

impl Store {
    /// Keeps these from being removed to keep the limits, those that come later as well.
    /// What cannot come beside them fails.
    pub fn hold(&self, ids: &[ManifestId]) -> Hold {
        self.0.state().held.extend(ids);
        Hold {
            store: self.0.clone(),
            held: ids.to_vec(),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for id in &self.held {
            if let Some(at) = state.held.iter().position(|held| held == id) {
                state.held.swap_remove(at);
            }
        }
    }
}
