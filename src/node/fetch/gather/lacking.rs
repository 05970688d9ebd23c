//! What a download does about pieces that nobody here has: other peers are asked
//! for the chunks by their own digest, holders are sought in the DHT, and when
//! nobody is left to ask, the person is told and lost peers are tried again.

use std::time::{Duration, Instant};

use super::super::recruit::Order;
use super::Gather;
use crate::snapshot::{Bitmap, ChunkId, UniqueIndex};
use crate::sync::{FetchStats, PeerKey};
use crate::wire::{MAX_PROBE_CHUNKS, RequestId};

/// How often peers are sought for chunks that nobody here has.
const SEEK_EVERY: Duration = Duration::from_secs(10);
/// Chunks sought at a time: each costs a look-up in the DHT.
const SEEK_CHUNKS: usize = 4;
/// Nobody has had anything of the rest for so long: the person is told, and who
/// may come back is tried without the usual pauses.
const DESERTED_AFTER: Duration = Duration::from_secs(2);

impl Gather {
    /// Looks for what is nowhere, and whether that is all that is left.
    pub(super) fn look_for_lacking(&mut self, stats: &FetchStats, now: Instant) {
        if stats.nowhere > 0 && now - self.sought_at >= SEEK_EVERY {
            self.sought_at = now;
            self.seek();
        }
        let is_alone = stats.nowhere > 0 && stats.nowhere == stats.pieces - stats.have;
        self.alone(is_alone, now);
    }

    /// Asks a peer without this snapshot for chunks of it that it may have under
    /// another manifest.
    pub(super) fn probe(&mut self, key: PeerKey) {
        let (from, most) = (self.probe_from, MAX_PROBE_CHUNKS);
        let lacking = self.machine.wanted_chunks(from, most);
        let nowhere = self.machine.nowhere_chunks(from, most);
        self.probe_from = after(&nowhere, most);
        let ids = self.ids(&lacking);
        if ids.is_empty() {
            return;
        }
        if let Some(member) = self.crew.get_mut(key)
            && let Ok(id) = member.asker.probe(&ids)
        {
            member.probed(id, lacking);
        }
    }

    pub(super) fn holds(&mut self, key: PeerKey, id: RequestId, bits: &Bitmap) {
        let Some(chunks) = self
            .crew
            .get_mut(key)
            .and_then(|member| member.probe_answered(id))
        else {
            return;
        };
        let held: Vec<UniqueIndex> = bits
            .iter()
            .filter_map(|number| chunks.get(number as usize).copied())
            .collect();
        if held.is_empty() {
            // It has nothing for us: its place is another's.
            self.machine.handle_left(key, Instant::now());
            self.dismiss(key);
        } else {
            self.machine.handle_chunks(key, &held, Instant::now());
        }
    }

    /// A piece came that was lacking.
    pub(super) fn delivered(&mut self, now: Instant) {
        (self.moved_at, self.moved_bytes) = (now, 0);
        self.verified_at = now;
        if std::mem::take(&mut self.is_deserted) {
            self.orders.give(Order::Relieved);
        }
    }

    /// Tells the recruiter once that nobody has anything of the rest; not while a
    /// lost peer may be replaced within a moment.
    fn alone(&mut self, is_alone: bool, now: Instant) {
        if !is_alone {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(now);
        if !self.is_deserted && now - since >= DESERTED_AFTER {
            self.is_deserted = true;
            self.orders.give(Order::Deserted);
        }
    }

    /// Asks the recruiter for holders of chunks that nobody here has: of the next
    /// few each time.
    fn seek(&mut self) {
        let lacking = self.machine.nowhere_chunks(self.seek_from, SEEK_CHUNKS);
        self.seek_from = after(&lacking, SEEK_CHUNKS);
        if !lacking.is_empty() {
            self.orders.give(Order::Lacking(self.ids(&lacking)));
        }
    }

    fn ids(&self, chunks: &[UniqueIndex]) -> Vec<ChunkId> {
        let id = |chunk: &UniqueIndex| self.manifest.unique_chunk(*chunk).id;
        chunks.iter().map(id).collect()
    }
}

/// Where the next sample begins: after a full one, or at the beginning.
fn after(sample: &[UniqueIndex], most: usize) -> u32 {
    let last = sample.last().filter(|_| sample.len() == most);
    last.map_or(0, |chunk| chunk.get() + 1)
}
