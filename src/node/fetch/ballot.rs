//! Who speaks for the snapshots that a search hears of.
//!
//! Endorsements of one snapshot come from many peers, each passing on those that it
//! knows. They are counted for what a claim says of a snapshot: a claim that lies
//! about its height has none.

use std::collections::BTreeMap;

use super::candidates::Subject;
use crate::node::services::Services;
use crate::snapshot::{EndorsementError, Endorsements, ManifestId};
use crate::wire::CatalogueEntry;

/// Snapshots whose endorsements are kept: with as many as each can have, about 1 MB.
/// Only endorsers that the settings list can take up places.
const MAX_SNAPSHOTS: usize = 256;

/// Endorsements of one chain's snapshots.
pub(super) struct Ballot<'a> {
    services: &'a Services,
    /// By manifest and claimed height.
    heard: BTreeMap<(ManifestId, u64), Endorsements>,
}

impl<'a> Ballot<'a> {
    pub(super) fn new(services: &'a Services) -> Self {
        Self {
            services,
            heard: BTreeMap::new(),
        }
    }

    /// Takes the endorsements out of a peer's entries and keeps those that count. One
    /// that is forged is the peer's fault: it passes on what it has checked.
    pub(super) fn take(&mut self, entries: &mut [CatalogueEntry]) -> Result<(), EndorsementError> {
        for entry in entries {
            let told = std::mem::take(&mut entry.endorsements);
            let key = (entry.manifest, entry.height);
            if told.is_empty()
                || self.heard.len() >= MAX_SNAPSHOTS && !self.heard.contains_key(&key)
            {
                continue;
            }
            let none = || Endorsements::none(entry.manifest);
            let mut set = self.heard.get(&key).cloned().unwrap_or_else(none);
            let admitted = self.services.trust.admit(&entry.name(), &told, &mut set);
            if !set.is_empty() {
                self.heard.insert(key, set);
            }
            admitted?;
        }
        Ok(())
    }

    /// Whether the settings or those who speak for it make a snapshot believed.
    pub(super) fn is_believed(&self, subject: &Subject) -> bool {
        let set = self.of(subject.manifest, subject.height);
        let basis = self.services.trust.basis(&subject.manifest, &set);
        basis.is_some()
    }

    /// All that is known of a snapshot: what was heard, and what was here.
    pub(super) fn of(&self, manifest: ManifestId, height: u64) -> Endorsements {
        let here = self.services.store.manifest(&manifest);
        let mut set = match here.is_some_and(|here| here.height() == height) {
            true => self.services.store.endorsements(&manifest),
            false => Endorsements::none(manifest),
        };
        for one in self
            .heard
            .get(&(manifest, height))
            .into_iter()
            .flat_map(Endorsements::iter)
        {
            set.insert(*one);
        }
        set
    }
}
