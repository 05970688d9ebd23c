//! Taking snapshots from a running node.
//!
//! Listing: a request is answered by one message for each snapshot, at most ten
//! and without an end mark, so a list is over when ten are there or a while
//! passes without another.
//!
//! Reading: chunks are asked for ahead, in order, at most [`MAX_UNDER_WAY`]
//! (fewer when they are large: [`MAX_UNDER_WAY_BYTES`]), because a busy node
//! drops an answer silently when ten wait for longer than 10 s. A chunk is
//! *under way* (asked for) or *arrived*; everything else that comes is dropped
//! on arrival. When no part of any chunk came for [`ASK_AGAIN`], everything
//! under way is asked for again. After a lost connection the node must still
//! list the same snapshot; a chunk that it calls missing means that it pruned
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::backoff::Backoff;
use super::connection::Connection;
use super::handshake::{Expected, secure};
use super::mailbox::{Chunks, List, Mailbox};
use super::message::{ASKING_LIMITS, chunk_request, snapshots_request};
use super::packet::{Channel, Outgoing};
use super::socket::{dial, place};
use super::{ChunkKey, Identity, NodeAddress, PeerError, Stop};
use crate::snapshot::{MAX_CHUNK_BYTES, Offer, OpenSnapshot, Source, SourceError};

/// Chunks under way or arrived and not yet taken.
const MAX_UNDER_WAY: usize = 4;
/// Their bytes, as far as two chunks, the least that keep a node busy, allow.
const MAX_UNDER_WAY_BYTES: usize = 40_000_000;
/// No part of a chunk for so long: the request, or its answer, was dropped.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// No progress for so long, with whatever means: the caller should know.
const GIVE_UP: Duration = Duration::from_secs(120);
/// How often a waiting thread looks whether it should stop.
const STOP_TICK: Duration = Duration::from_millis(100);

/// Which node to take snapshots from.
#[derive(Clone, Debug)]
pub struct HarvestSettings {
    /// The node.
    pub node: NodeAddress,
    /// Refuse a node of another chain.
    pub chain_id: Option<String>,
}

/// A [`Source`] that asks a CometBFT node for its snapshots, as any peer would.
/// Blocking. It connects when it is first used and again, with growing pauses,
/// whenever the connection is lost; between calls the connection is kept.
pub struct Harvester {
    settings: HarvestSettings,
    identity: Identity,
    stop: Stop,
    place: String,
    mailbox: Arc<Mailbox>,
    connection: Option<Connection>,
    backoff: Backoff,
    chain_id: Option<String>,
}

impl Harvester {
    /// Connects to nothing yet. After `stop` every call fails with
    /// [`PeerError::Stopped`].
    pub fn new(settings: HarvestSettings, identity: Identity, stop: Stop) -> Self {
        Self {
            place: place(&settings.node),
            settings,
            identity,
            stop,
            mailbox: Arc::default(),
            connection: None,
            backoff: Backoff::new(),
            chain_id: None,
        }
    }

    /// Whether a connection stands now.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some() && self.mailbox.lock().closed.is_none()
    }

    /// The chain that the node named when it was last connected.
    pub fn chain_id(&self) -> Option<&str> {
        self.chain_id.as_deref()
    }

    /// Sees to it that a connection stands: one try, after the pause that
    /// earlier failures call for. True when it is a new one.
    pub fn connect(&mut self) -> Result<bool, PeerError> {
        if self.is_connected() {
            return Ok(false);
        }
        if self.connection.take().is_some() {
            self.backoff.failed();
        }
        if self.backoff.wait(&self.stop) {
            return Err(PeerError::Stopped);
        }
        match self.try_connect() {
            Ok(connection) => {
                self.chain_id = Some(connection.info().chain_id.clone());
                self.connection = Some(connection);
                Ok(true)
            }
            Err(error) => {
                self.backoff.failed();
                Err(error)
            }
        }
    }

    fn try_connect(&self) -> Result<Connection, PeerError> {
        let expected = Expected {
            place: &self.place,
            id: self.settings.node.id,
            chain_id: self.settings.chain_id.as_deref(),
        };
        let socket = dial(&self.settings.node, self.identity.id())?;
        let secured = secure(socket, &self.identity, &expected)?;
        self.mailbox.lock().closed = None;
        Connection::start(secured, &self.place, ASKING_LIMITS, self.mailbox.clone())
    }

    fn send(&self, channel: Channel, message: Bytes) {
        if let Some(connection) = &self.connection {
            // A connection that is over tells so in the mailbox.
            connection.send(Outgoing::new(channel, message));
        }
    }

    /// Asks the connected node for its snapshots; newest first.
    fn ask_for_offers(&mut self) -> Result<Vec<Offer>, PeerError> {
        self.mailbox
            .change(|mail| mail.list = Some(List::default()));
        self.send(Channel::Snapshots, snapshots_request());
        let asked = Instant::now();
        let mut mail = self.mailbox.lock();
        let list = loop {
            if self.stop.is_stopped() {
                return Err(PeerError::Stopped);
            }
            if let Some(why) = mail.closed.take() {
                mail.list = None;
                drop(mail);
                self.connection = None;
                self.backoff.failed();
                return Err(why);
            }
            if mail.list.as_ref().is_none_or(|list| list.is_over(asked)) {
                break mail.list.take().unwrap_or_default();
            }
            mail = self.mailbox.wait(mail, STOP_TICK);
        };
        drop(mail);
        let mut offers = list.offers;
        if !offers.is_empty() {
            self.backoff.worked();
        }
        offers.sort_by_key(|offer| std::cmp::Reverse((offer.height, offer.format)));
        offers.dedup();
        Ok(offers)
    }
}

fn failed(error: PeerError) -> SourceError {
    SourceError::Failed(Box::new(error))
}

impl Source for Harvester {
    fn list(&mut self) -> Result<Vec<Offer>, SourceError> {
        self.connect().map_err(failed)?;
        self.ask_for_offers().map_err(failed)
    }

    fn open(&mut self, offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError> {
        self.mailbox.change(|mail| {
            mail.chunks = Some(Chunks {
                height: offer.height,
                format: offer.format,
                under_way: BTreeSet::new(),
                arrived: BTreeMap::new(),
                progress: Instant::now(),
            });
        });
        Ok(Box::new(Reading {
            harvester: self,
            offer: offer.clone(),
            next: 0,
            next_to_ask: 0,
            largest: 0,
            asked: Instant::now(),
        }))
    }
}

/// A snapshot under reading.
struct Reading<'a> {
    harvester: &'a mut Harvester,
    offer: Offer,
    /// The chunk to give next.
    next: u32,
    /// The first chunk that was never asked for.
    next_to_ask: u32,
    /// Bytes of the largest chunk so far.
    largest: usize,
    /// When anything was last asked for.
    asked: Instant,
}

impl Drop for Reading<'_> {
    /// What is still under way has no taker any more.
    fn drop(&mut self) {
        self.harvester.mailbox.change(|mail| mail.chunks = None);
    }
}

impl OpenSnapshot for Reading<'_> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.next == self.offer.chunks {
            return Ok(None);
        }
        let mut give_up = Instant::now() + GIVE_UP;
        loop {
            self.stand(give_up)?;
            self.ask_ahead();
            match self.wait() {
                Arrival::Chunk(bytes) => return self.took(bytes).map(Some),
                Arrival::Missing => return Err(self.gone()),
                Arrival::Lost | Arrival::Late => {}
                Arrival::Progress => give_up = Instant::now() + GIVE_UP,
                Arrival::Stopped => return Err(failed(PeerError::Stopped)),
            }
            if Instant::now() >= give_up {
                return Err(failed(PeerError::Unanswered {
                    place: self.harvester.place.clone(),
                    what: format!(
                        "chunk {} of the snapshot of height {}",
                        self.next, self.offer.height
                    ),
                }));
            }
        }
    }
}

enum Arrival {
    Chunk(Bytes),
    Missing,
    Progress,
    Late,
    Lost,
    Stopped,
}

impl Reading<'_> {
    fn gone(&self) -> SourceError {
        SourceError::Gone {
            height: self.offer.height,
            format: self.offer.format,
        }
    }

    /// Sees to it that a connection stands; on a new one, that the node still
    /// has this very snapshot, and that everything is asked for anew.
    fn stand(&mut self, give_up: Instant) -> Result<(), SourceError> {
        loop {
            match self.stand_once() {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(self.gone()),
                Err(error) if error.is_retryable() && Instant::now() < give_up => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn stand_once(&mut self) -> Result<bool, PeerError> {
        if !self.harvester.connect()? {
            return Ok(true);
        }
        let offers = self.harvester.ask_for_offers()?;
        // A node that has just started may not have answered yet: that is for
        // the chunks to show.
        if !offers.is_empty() && !offers.contains(&self.offer) {
            return Ok(false);
        }
        self.ask_again();
        Ok(true)
    }

    fn ask_again(&mut self) {
        let under_way = self.harvester.mailbox.chunks(|chunks| {
            chunks.progress = Instant::now();
            chunks.under_way.clone()
        });
        for index in under_way {
            self.ask(index);
        }
    }

    fn ask(&mut self, index: u32) {
        let key = ChunkKey {
            height: self.offer.height,
            format: self.offer.format,
            index,
        };
        self.harvester.send(Channel::Chunks, chunk_request(key));
        self.asked = Instant::now();
    }

    /// Fills the window with the chunks that come next.
    fn ask_ahead(&mut self) {
        let window = match self.largest {
            // The size of a chunk is known when the first is there.
            0 => 1,
            largest => (MAX_UNDER_WAY_BYTES / largest).clamp(2, MAX_UNDER_WAY),
        };
        while self.next_to_ask < self.offer.chunks {
            let index = self.next_to_ask;
            let room = self.harvester.mailbox.chunks(|chunks| {
                let room = chunks.under_way.len() + chunks.arrived.len() < window;
                if room {
                    chunks.under_way.insert(index);
                }
                room
            });
            if !room {
                return;
            }
            self.next_to_ask += 1;
            self.ask(index);
        }
    }

    /// Waits until something happens to the next chunk.
    fn wait(&mut self) -> Arrival {
        let started = Instant::now();
        let harvester = &*self.harvester;
        let mut mail = harvester.mailbox.lock();
        loop {
            if harvester.stop.is_stopped() {
                return Arrival::Stopped;
            }
            let Some(chunks) = &mut mail.chunks else {
                return Arrival::Lost;
            };
            match chunks.arrived.remove(&self.next) {
                Some(Some(bytes)) => return Arrival::Chunk(bytes),
                Some(None) => return Arrival::Missing,
                None => {}
            }
            let progress = chunks.progress;
            if mail.closed.is_some() {
                return Arrival::Lost;
            }
            let now = Instant::now();
            if now.duration_since(progress.max(self.asked)) >= ASK_AGAIN {
                drop(mail);
                self.ask_again();
                return Arrival::Late;
            }
            if progress > started && now.duration_since(started) >= ASK_AGAIN {
                return Arrival::Progress;
            }
            mail = harvester.mailbox.wait(mail, STOP_TICK);
        }
    }

    fn took(&mut self, bytes: Bytes) -> Result<Bytes, SourceError> {
        if bytes.len() > MAX_CHUNK_BYTES as usize {
            return Err(failed(PeerError::Unfit {
                problem: format!(
                    "chunk {} has {} bytes, more than any chunk may have ({MAX_CHUNK_BYTES})",
                    self.next,
                    bytes.len()
                ),
            }));
        }
        self.harvester.backoff.worked();
        self.largest = self.largest.max(bytes.len());
        self.next += 1;
        // So that the node works while the caller does.
        self.ask_ahead();
        Ok(bytes)
    }
}
