//! A node that downloads: carries out what its scheduler says, and tells it
//! what comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use snapswarm::snapshot::{Bitmap, Manifest, PieceIndex, UniqueIndex};
use snapswarm::sync::{Fetch, FetchAction, HaveWhen, Offence, PeerHolding, PeerKey};
use snapswarm::wire::Refusal;

use super::check::Book;
use super::link::{Answer, Ask, Truth};
use super::plan::Plan;
use super::world::{Event, NodeId, World};

pub struct Joiner {
    pub fetch: Fetch,
    pub book: Book,
    /// Counts starts: verifications of an earlier one are lost.
    run: u32,
    stopped: bool,
    timer: u64,
    next_id: u32,
    checked: BTreeSet<u32>,
    pub bans: Vec<(PeerKey, Offence)>,
    pub lifted: Vec<PeerKey>,
    pub finished_at: Option<Duration>,
    pub condemned: bool,
}

impl Joiner {
    pub fn new(
        id: NodeId,
        manifest: &Arc<Manifest>,
        have: Bitmap,
        plan: &Plan,
        now: Instant,
    ) -> Self {
        let seed = plan.seed.wrapping_mul(1000) + id as u64;
        Self {
            fetch: Fetch::new(manifest.clone(), have.clone(), plan.limits, seed, now),
            book: Book::new(manifest, have),
            run: 0,
            stopped: false,
            timer: u64::MAX,
            next_id: 0,
            checked: BTreeSet::new(),
            bans: Vec::new(),
            lifted: Vec::new(),
            finished_at: None,
            condemned: false,
        }
    }

    pub fn is_done(&self) -> bool {
        self.finished_at.is_some() || self.condemned
    }

    /// The process is killed.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.run += 1;
    }

    /// It is started again, with what was written. Gives what it may serve.
    pub fn resume(
        &mut self,
        id: NodeId,
        manifest: &Arc<Manifest>,
        plan: &Plan,
        now: Instant,
    ) -> Bitmap {
        let have = self.book.stored.clone();
        let checked: Vec<UniqueIndex> = manifest
            .unique_indexes()
            .filter(|chunk| self.checked.contains(&chunk.get()))
            .collect();
        let seed = plan.seed.wrapping_mul(1000) + id as u64 + 500 + u64::from(self.run);
        self.fetch = Fetch::new(manifest.clone(), have.clone(), plan.limits, seed, now)
            .with_checked(checked);
        let servable = match plan.limits.have_when {
            HaveWhen::PieceVerified => have.clone(),
            HaveWhen::ChunkChecked => checked_pieces(manifest, &self.checked),
        };
        self.book = Book::new(manifest, have);
        self.stopped = false;
        self.timer = u64::MAX;
        servable
    }

    pub fn compare(&self, manifest: &Manifest) {
        if !self.stopped {
            self.book.compare(&self.fetch, manifest);
            self.fetch.audit().expect("both sides of the books agree");
        }
    }
}

fn checked_pieces(manifest: &Manifest, checked: &BTreeSet<u32>) -> Bitmap {
    let mut pieces = Bitmap::new(manifest.piece_count());
    for chunk in checked {
        let chunk = manifest.unique_index(*chunk).expect("a chunk");
        for piece in manifest.pieces_of(chunk) {
            pieces.insert(piece.get());
        }
    }
    pieces
}

impl World {
    fn joiner(&mut self, id: NodeId) -> Option<&mut Joiner> {
        let joiner = self.nodes[id].joiner.as_mut()?;
        (!joiner.stopped).then_some(joiner)
    }

    pub fn peer_joined(&mut self, asker: NodeId, server: NodeId, rtt: Duration, now: Instant) {
        if let Some(joiner) = self.joiner(asker) {
            let peer = PeerKey(server as u64);
            joiner.book.joined(peer);
            joiner.fetch.handle_joined(peer, rtt, now);
        }
        self.drain_fetch(asker);
    }

    pub fn peer_left(&mut self, asker: NodeId, server: NodeId, now: Instant) {
        if let Some(joiner) = self.joiner(asker) {
            let peer = PeerKey(server as u64);
            joiner.book.left(peer);
            joiner.fetch.handle_left(peer, now);
        }
    }

    /// An answer came through the downlink.
    pub fn deliver(&mut self, asker: NodeId, server: NodeId, answer: Answer) {
        let link = self.links.get_mut(&(asker, server)).expect("a live link");
        if link.held.is_empty() {
            self.take(asker, server, answer);
        } else {
            link.held.push_back(answer);
        }
        self.drain_fetch(asker);
        self.release(asker);
    }

    /// Takes what waited for a place in the budget.
    fn release(&mut self, asker: NodeId) {
        let servers: Vec<NodeId> = self.servers_of(asker);
        for server in servers {
            while let Some(answer) = self.link(asker, server).held.pop_front() {
                let waits = matches!(answer, Answer::Started(_));
                if waits && !self.has_place(asker, server) {
                    self.link(asker, server).held.push_front(answer);
                    break;
                }
                self.take(asker, server, answer);
                self.drain_fetch(asker);
            }
        }
    }

    /// Whether one more piece may be read: within the budget, or the only one
    /// of its link.
    fn has_place(&mut self, asker: NodeId, server: NodeId) -> bool {
        let budget = self.plan.limits.buffered_pieces as usize;
        let reading = self.reading(asker);
        let Some(joiner) = self.joiner(asker) else {
            return true;
        };
        let used = reading + joiner.book.verifying();
        used < budget || joiner.book.verifying_of(PeerKey(server as u64)) == 0
    }

    fn reading(&self, asker: NodeId) -> usize {
        let links = self.links.iter().filter(|((a, _), _)| *a == asker);
        links.filter(|(_, link)| link.reading.is_some()).count()
    }

    fn take(&mut self, asker: NodeId, server: NodeId, answer: Answer) {
        let now = self.instant();
        let peer = PeerKey(server as u64);
        if self.joiner(asker).is_none() {
            return;
        }
        match answer {
            Answer::Holdings(bitmap) => self.take_holdings(asker, peer, bitmap, now),
            Answer::Chunks(chunks) => self.take_chunks(asker, peer, &chunks, now),
            Answer::Have(pieces) => {
                let len = self.manifest.piece_count();
                let joiner = self.joiner(asker).expect("checked above");
                if pieces.iter().all(|piece| *piece < len) {
                    joiner.book.claims(peer, pieces.iter().copied());
                }
                joiner.fetch.handle_have(peer, &pieces, now);
            }
            Answer::Started(id) => self.take_started(asker, server, id),
            Answer::Data {
                id,
                bytes,
                last,
                truth,
            } => {
                self.ask(asker, server, Ask::Ack(bytes));
                self.take_data(asker, server, (id, bytes, last, truth));
            }
            Answer::Refused(id, refusal) => {
                if let Some(piece) = self.link(asker, server).asked.remove(&id) {
                    let joiner = self.joiner(asker).expect("checked above");
                    joiner.book.close(peer, piece);
                    if refusal == Refusal::Gone {
                        joiner.book.gone(peer, piece);
                    }
                    joiner.fetch.handle_refused(peer, piece, refusal, now);
                }
            }
            Answer::Aborted(id) => {
                let link = self.link(asker, server);
                link.reading.take_if(|reading| *reading == id);
                if let Some(piece) = link.asked.remove(&id) {
                    let joiner = self.joiner(asker).expect("checked above");
                    joiner.book.close(peer, piece);
                    joiner.fetch.handle_aborted(peer, piece, now);
                }
            }
        }
    }

    fn take_holdings(&mut self, asker: NodeId, peer: PeerKey, bitmap: Bitmap, now: Instant) {
        let len = self.manifest.piece_count();
        let joiner = self.joiner(asker).expect("checked by the caller");
        if bitmap.len() == len {
            joiner.book.holding(peer, bitmap.clone());
        }
        let holding = if bitmap.is_full() && bitmap.len() == len {
            PeerHolding::Complete
        } else {
            PeerHolding::Pieces(bitmap)
        };
        joiner.fetch.handle_holding(peer, holding, now);
    }

    fn take_chunks(&mut self, asker: NodeId, peer: PeerKey, chunks: &[u32], now: Instant) {
        let manifest = self.manifest.clone();
        let joiner = self.joiner(asker).expect("checked by the caller");
        let chunks: Vec<UniqueIndex> = chunks
            .iter()
            .filter_map(|chunk| manifest.unique_index(*chunk))
            .collect();
        for chunk in &chunks {
            let pieces = manifest.pieces_of(*chunk).map(PieceIndex::get);
            joiner.book.claims(peer, pieces);
        }
        joiner.fetch.handle_chunks(peer, &chunks, now);
    }

    fn take_started(&mut self, asker: NodeId, server: NodeId, id: u32) {
        let now = self.instant();
        let Some(piece) = self.link(asker, server).asked.get(&id).copied() else {
            return;
        };
        if !self.has_place(asker, server) {
            self.link(asker, server)
                .held
                .push_front(Answer::Started(id));
            return;
        }
        self.link(asker, server).reading = Some(id);
        let used = self.reading(asker)
            + self.nodes[asker]
                .joiner
                .as_ref()
                .map_or(0, |j| j.book.verifying());
        let bound = self.plan.limits.buffered_pieces as usize + self.servers_of(asker).len();
        assert!(used <= bound, "{used} pieces in memory, at most {bound}");
        let joiner = self.joiner(asker).expect("checked by the caller");
        joiner
            .fetch
            .handle_started(PeerKey(server as u64), piece, now);
    }

    fn take_data(
        &mut self,
        asker: NodeId,
        server: NodeId,
        (id, bytes, last, truth): (u32, u32, bool, Truth),
    ) {
        let now = self.instant();
        let peer = PeerKey(server as u64);
        let Some(piece) = self.link(asker, server).asked.get(&id).copied() else {
            let joiner = self.joiner(asker).expect("checked by the caller");
            return joiner.fetch.handle_stray(peer, bytes);
        };
        let unannounced = self.nodes[server].plan.unannounced;
        let joiner = self.joiner(asker).expect("checked by the caller");
        joiner.fetch.handle_progress(peer, piece, bytes, now);
        if !last {
            return;
        }
        let run = joiner.run;
        let mut verify = false;
        if truth == Truth::Short {
            joiner.book.close(peer, piece);
            joiner.fetch.handle_bad(peer, piece, now);
            if unannounced {
                joiner.book.shunned(peer);
            }
        } else {
            verify = joiner.fetch.handle_received(peer, piece, now);
            assert!(verify, "an open request is always wanted");
            joiner.book.received(peer, piece);
        }
        let link = self.link(asker, server);
        link.asked.remove(&id);
        link.reading = None;
        if verify {
            let takes = Duration::from_micros(self.rng.random_range(500..8000));
            let right = truth == Truth::Right;
            self.schedule(takes, Event::Verify(asker, run, peer, piece, right));
        }
    }

    pub fn verify(
        &mut self,
        node: NodeId,
        run: u32,
        peer: PeerKey,
        piece: PieceIndex,
        right: bool,
    ) {
        let now = self.instant();
        let unannounced = self.nodes[peer.0 as usize].plan.unannounced;
        let Some(joiner) = self.joiner(node).filter(|joiner| joiner.run == run) else {
            return;
        };
        joiner.book.judged(peer, piece, right);
        if right {
            joiner.fetch.handle_verified(peer, piece, now);
        } else {
            joiner.fetch.handle_bad(peer, piece, now);
            if unannounced {
                joiner.book.shunned(peer);
            }
        }
        self.drain_fetch(node);
        self.release(node);
    }

    pub fn check(&mut self, node: NodeId, run: u32, chunk: u32) {
        let now = self.instant();
        let ok = self.plan.false_chunk != Some(chunk);
        let index = self.manifest.unique_index(chunk).expect("a chunk");
        let manifest = self.manifest.clone();
        let Some(joiner) = self.joiner(node).filter(|joiner| joiner.run == run) else {
            return;
        };
        for piece in manifest.pieces_of(index) {
            assert!(
                joiner.book.stored.contains(piece.get()),
                "checked too early"
            );
        }
        if ok {
            joiner.checked.insert(chunk);
        }
        joiner.fetch.handle_chunk_checked(index, ok, now);
        self.drain_fetch(node);
    }

    pub fn fetch_timer(&mut self, node: NodeId) {
        let now = self.instant();
        if let Some(joiner) = self.joiner(node) {
            joiner.timer = u64::MAX;
            joiner.fetch.handle_timeout(now);
        }
        self.drain_fetch(node);
    }

    /// Carries out what the scheduler says.
    pub fn drain_fetch(&mut self, node: NodeId) {
        let now = self.instant();
        while let Some(action) = self.joiner(node).and_then(|j| j.fetch.poll(now)) {
            self.note(&(node, &action));
            self.carry_out(node, action);
        }
        let Some(joiner) = self.joiner(node) else {
            return;
        };
        let next = joiner.fetch.poll_timeout();
        let timer = joiner.timer;
        if let Some(at) = next.map(|at| self.since_origin(at).max(self.now + 1))
            && at < timer
        {
            self.joiner(node).expect("checked above").timer = at;
            self.schedule_at(at, Event::FetchTimer(node));
        }
    }

    fn carry_out(&mut self, node: NodeId, action: FetchAction) {
        let now = self.instant();
        let limit = self.plan.limits.buffered_pieces;
        match action {
            FetchAction::Request { peer, piece } => {
                let joiner = self.joiner(node).expect("it polled");
                joiner.book.request(peer, piece, &joiner.fetch, limit, now);
                let id = joiner.next_id;
                joiner.next_id += 1;
                let server = peer.0 as usize;
                self.link(node, server).asked.insert(id, piece);
                self.ask(node, server, Ask::Request(id, piece));
            }
            FetchAction::Cancel { peer, piece } => {
                let server = peer.0 as usize;
                self.joiner(node)
                    .expect("it polled")
                    .book
                    .close(peer, piece);
                let link = self.link(node, server);
                let id = link.asked.iter().find(|(_, asked)| **asked == piece);
                let id = *id.expect("cancels what is open").0;
                link.asked.remove(&id);
                link.reading.take_if(|reading| *reading == id);
                self.ask(node, server, Ask::Cancel(id));
            }
            FetchAction::Have { pieces } => self.tell(node, &pieces),
            FetchAction::CheckChunk(chunk) => {
                let run = self.joiner(node).expect("it polled").run;
                let takes = Duration::from_millis(self.rng.random_range(1..15));
                self.schedule(takes, Event::Check(node, run, chunk.get()));
            }
            FetchAction::Ban { peer, offence } => {
                let joiner = self.joiner(node).expect("it polled");
                joiner.bans.push((peer, offence));
                joiner.book.banned.insert(peer);
                joiner.book.left(peer);
                // The connection ends a moment later: nothing may be asked on it.
                let link = self.link(node, peer.0 as usize);
                link.asked.clear();
                let epoch = link.epoch;
                let after = Duration::from_millis(20);
                self.schedule(after, Event::Closed(node, peer.0 as usize, epoch));
            }
            FetchAction::Lift { peer } => {
                let joiner = self.joiner(node).expect("it polled");
                joiner.lifted.push(peer);
                assert!(joiner.book.banned.remove(&peer), "lifts what is banned");
            }
            FetchAction::Disconnect { peer } => {
                self.close(node, peer.0 as usize);
                self.redial(node, peer.0 as usize, 10.0);
            }
            FetchAction::Condemned => {
                self.joiner(node).expect("it polled").condemned = true;
            }
            FetchAction::Finished => self.finish(node),
        }
    }

    fn finish(&mut self, node: NodeId) {
        let at = Duration::from_nanos(self.now);
        let leaves = self.nodes[node].plan.leaves;
        let joiner = self.joiner(node).expect("it polled");
        assert!(joiner.book.stored.is_full(), "finished without every piece");
        joiner.finished_at.get_or_insert(at);
        assert!(
            self.nodes[node].servable.is_full(),
            "finished with pieces untold"
        );
        if leaves {
            self.schedule(Duration::from_millis(100), Event::Leave(node, false));
        }
    }

    /// New pieces are told to all neighbours, on the streams of both ways.
    fn tell(&mut self, node: NodeId, pieces: &[PieceIndex]) {
        let numbers: Vec<u32> = pieces.iter().map(|piece| piece.get()).collect();
        for piece in &numbers {
            let stored = &self.joiner(node).expect("it polled").book.stored;
            assert!(stored.contains(*piece), "tells what it has not");
            self.nodes[node].servable.insert(*piece);
            self.nodes[node].claims.insert(*piece);
        }
        for (asker, server) in self.links.keys().copied().collect::<Vec<_>>() {
            if server == node {
                self.answer(asker, server, Answer::Have(numbers.clone()));
            } else if asker == node {
                self.ask(asker, server, Ask::Have(numbers.clone()));
            }
        }
    }

    fn link(&mut self, asker: NodeId, server: NodeId) -> &mut super::link::Link {
        self.links.get_mut(&(asker, server)).expect("a link")
    }

    fn servers_of(&self, asker: NodeId) -> Vec<NodeId> {
        let links = self.links.keys().filter(|(a, _)| *a == asker);
        links.map(|(_, server)| *server).collect()
    }
}
