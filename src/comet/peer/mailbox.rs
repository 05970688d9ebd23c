//! Where a harvester's connection puts what was asked for; everything else is
//! dropped there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::connection::Inbox;
use super::packet::Receipt;
use super::{ChunkKey, Message, PeerError};
use crate::snapshot::Offer;

/// CometBFT sends its ten newest snapshots (`statesync/reactor.go`).
const MAX_OFFERS: usize = 10;
/// The metadata of all offers of a list. Real metadata is 32 bytes for each
/// chunk at most: 3.2 MB in the largest snapshot.
const MAX_OFFER_BYTES: usize = 16_000_000;
/// The node asks its application before it answers.
const LIST_PATIENCE: Duration = Duration::from_secs(5);
/// The answers to one request follow each other at once.
const LIST_QUIET: Duration = Duration::from_millis(400);

/// Shared by the harvester and its connection.
#[derive(Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    wake: Condvar,
}

#[derive(Default)]
pub(super) struct Mail {
    /// Offers, while a list is being made.
    pub(super) list: Option<List>,
    /// Chunks, while a snapshot is being read.
    pub(super) chunks: Option<Chunks>,
    /// Why the connection ended.
    pub(super) closed: Option<PeerError>,
}

#[derive(Default)]
pub(super) struct List {
    pub(super) offers: Vec<Offer>,
    metadata_bytes: usize,
    newest: Option<Instant>,
}

impl List {
    pub(super) fn is_over(&self, asked: Instant) -> bool {
        match self.newest {
            None => asked.elapsed() >= LIST_PATIENCE,
            Some(newest) => self.offers.len() >= MAX_OFFERS || newest.elapsed() >= LIST_QUIET,
        }
    }

    fn push(&mut self, offer: Offer) {
        let bytes = self.metadata_bytes + offer.metadata.len();
        if self.offers.len() < MAX_OFFERS && bytes <= MAX_OFFER_BYTES {
            self.metadata_bytes = bytes;
            self.offers.push(offer);
        }
        self.newest = Some(Instant::now());
    }
}

pub(super) struct Chunks {
    pub(super) height: u64,
    pub(super) format: u32,
    pub(super) under_way: BTreeSet<u32>,
    /// With nothing for one that the node lacks.
    pub(super) arrived: BTreeMap<u32, Option<Bytes>>,
    /// When a part of any chunk last came, or when asking began anew.
    pub(super) progress: Instant,
}

impl Chunks {
    /// Takes a chunk that was asked for, once.
    fn arrive(&mut self, key: ChunkKey, bytes: Option<Bytes>) {
        if key.height == self.height
            && key.format == self.format
            && self.under_way.remove(&key.index)
        {
            self.arrived.insert(key.index, bytes);
        }
    }
}

impl Mailbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(
        &self,
        mail: MutexGuard<'a, Mail>,
        time: Duration,
    ) -> MutexGuard<'a, Mail> {
        self.wake
            .wait_timeout(mail, time)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.lock());
        self.wake.notify_all();
    }

    /// Works on the chunks of the snapshot that is being read.
    pub(super) fn chunks<T: Default>(&self, work: impl FnOnce(&mut Chunks) -> T) -> T {
        self.lock().chunks.as_mut().map(work).unwrap_or_default()
    }
}

impl Inbox for Mailbox {
    fn message(&self, message: Message) {
        match message {
            Message::Snapshot(offer) => self.change(|mail| {
                if let Some(list) = &mut mail.list {
                    list.push(offer);
                }
            }),
            Message::Chunk(key, bytes) => self.change(|mail| {
                if let Some(chunks) = &mut mail.chunks {
                    chunks.arrive(key, bytes);
                }
            }),
            // A node that is joining itself asks everyone. We have nothing.
            Message::SnapshotsRequest | Message::ChunkRequest(_) => {}
        }
    }

    fn progress(&self) {
        if let Some(chunks) = &mut self.lock().chunks {
            chunks.progress = Instant::now();
        }
    }

    fn sent(&self, _: Receipt) {}

    fn closed(&self, why: PeerError) {
        self.change(|mail| {
            mail.closed.get_or_insert(why);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(height: u64, metadata: usize) -> Offer {
        Offer {
            height,
            format: 1,
            chunks: 1,
            hash: Bytes::from_static(b"h"),
            metadata: vec![0; metadata].into(),
        }
    }

    #[test]
    fn a_list_takes_ten_offers_and_bounded_metadata() {
        let mut list = List::default();
        for height in 1..=12 {
            list.push(offer(height, 0));
        }
        assert_eq!(list.offers.len(), MAX_OFFERS);
        assert!(list.is_over(Instant::now()));

        let mut list = List::default();
        for height in 1..=6 {
            list.push(offer(height, 3_900_000));
        }
        assert_eq!(list.offers.len(), 4);
    }

    #[test]
    fn only_chunks_that_were_asked_for_are_kept_and_each_once() {
        let mut chunks = Chunks {
            height: 5,
            format: 1,
            under_way: [2, 3].into(),
            arrived: BTreeMap::new(),
            progress: Instant::now(),
        };
        let key = |height, format, index| ChunkKey {
            height,
            format,
            index,
        };
        let bytes = || Some(Bytes::from_static(b"x"));
        chunks.arrive(key(4, 1, 2), bytes());
        chunks.arrive(key(5, 0, 2), bytes());
        chunks.arrive(key(5, 1, 4), bytes());
        assert!(chunks.arrived.is_empty());
        chunks.arrive(key(5, 1, 3), bytes());
        chunks.arrive(key(5, 1, 3), None);
        assert_eq!(chunks.arrived, [(3, bytes())].into());
    }
}
