//! The loop of one download: what happens is told to the scheduler, what the
//! scheduler says is done.
//!
//! `select` waits for one event (a peer's, the disk's, a timer's); applying it
//! never waits. Work that blocks runs in [`Disk`]; streams are opened by the
//! recruiter.

mod lacking;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::disk::{Disk, DiskEvent};
use super::part::Part;
use super::recruit::{Order, Orders, Recruit};
use super::single::Wanted;
use crate::net::pieces::{Closed, MAX_CLIENT_STREAMS, PieceEvent};
use crate::node::progress::Meter;
use crate::node::services::Services;
use crate::snapshot::{Bitmap, Manifest, PIECE_BYTES, UniqueIndex};
use crate::store::{ChunkVerdict, Download, StoreError};
use crate::sync::{Fetch, FetchAction, FetchLimits, Offence, PeerHolding, PeerKey};
use crate::wire::{Holding, Refusal};

/// Peers of a download. With the streams that the recruiter is opening they fill
/// what the budget of received pieces has places for, so the scheduler, which
/// sends the useless away, always decides about the last place.
const MAX_PEERS: u32 = 24;
const _: () = assert!(MAX_PEERS as usize + super::roster::MAX_OPENING <= MAX_CLIENT_STREAMS);
/// A disk that gives back other bytes than were written so many times in one
/// download is broken.
const MAX_DAMAGED_CHUNKS: u32 = 3;
/// Taken as a peer's round trip until it was measured.
const UNKNOWN_RTT: Duration = Duration::from_millis(50);
/// So many bytes of a piece are a sign of life of a download: a slow uplink needs
/// longer for a piece than a person waits, and a trickler shall not hold one up
/// with a byte now and then.
const SIGN_OF_LIFE_BYTES: u32 = 64 << 10;
/// So many signs of life make a piece. Who sends them and never a whole piece that
/// is right holds a download up for so many times a person's patience at most.
const SIGNS_PER_PIECE: u32 = PIECE_BYTES / SIGN_OF_LIFE_BYTES;
/// How often progress is told and the peers are looked over.
const TICK: Duration = Duration::from_millis(250);
/// How a download ended, other than by an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Everything is here and checked.
    Finished,
    /// The manifest is false: its pieces do not make its chunks.
    Condemned,
    /// The person stopped it.
    Cancelled,
    /// For the time given nobody delivered anything.
    Deserted,
}

/// One download under way.
pub(super) struct Gather {
    services: Arc<Services>,
    manifest: Arc<Manifest>,
    download: Arc<Download>,
    /// What is wanted, where it is not all.
    part: Option<Part>,
    machine: Fetch,
    crew: Crew,
    disk: Disk,
    orders: Orders,
    have_bytes: u64,
    patience: Duration,
    /// The same while nothing came yet.
    first_patience: Duration,
    begun_at: Instant,
    /// When something came or was done that leads to the end.
    moved_at: Instant,
    /// Bytes that came since then.
    moved_bytes: u32,
    /// When a piece was last found right.
    verified_at: Instant,
    sought_at: Instant,
    /// The chunks from which on the next look-up, and the next probe, go on.
    seek_from: u32,
    probe_from: u32,
    /// Since when nobody has anything of the rest.
    alone_since: Option<Instant>,
    /// Whether the recruiter was told so.
    is_deserted: bool,
    damaged_chunks: u32,
}

impl Gather {
    pub(super) fn new(
        services: Arc<Services>,
        download: Arc<Download>,
        wanted: &Wanted<'_>,
        orders: Orders,
    ) -> Self {
        let part = wanted.part.clone();
        let manifest = download.manifest().clone();
        let now = Instant::now();
        let mut checked: Vec<UniqueIndex> = download
            .checked()
            .iter()
            .filter_map(|number| manifest.unique_index(number))
            .collect();
        let mut have = download.have();
        let have_bytes = here(&manifest, part.as_ref(), &have);
        for chunk in part.iter().flat_map(|part| part.others(&manifest)) {
            checked.push(chunk);
            for piece in manifest.pieces_of(chunk) {
                have.insert(piece.get());
            }
        }
        let machine = Fetch::new(
            manifest.clone(),
            have,
            FetchLimits {
                peers: MAX_PEERS,
                ..FetchLimits::default()
            },
            rand::random(),
            now,
        )
        .with_checked(checked);
        Self {
            services,
            manifest,
            disk: Disk::new(download.clone()),
            download,
            part,
            machine,
            crew: Crew::default(),
            orders,
            have_bytes,
            patience: wanted.patience,
            first_patience: wanted.first_patience,
            begun_at: now,
            moved_at: now,
            moved_bytes: 0,
            verified_at: now,
            sought_at: now,
            seek_from: 0,
            probe_from: 0,
            alone_since: None,
            is_deserted: false,
            damaged_chunks: 0,
        }
    }

    /// Runs to an end. The disk's work is finished and synced in every case.
    pub(super) async fn run(
        mut self,
        mut recruits: mpsc::Receiver<Recruit>,
        mut meter: Meter,
        cancel: &CancellationToken,
    ) -> (Result<End, StoreError>, Crew, Arc<Download>) {
        let end = self.work(&mut recruits, &mut meter, cancel).await;
        for (key, _) in self.crew.keys() {
            self.crew.leave(key);
        }
        let end = match (end, self.disk.finish().await) {
            (Ok(end), Ok(_)) => Ok(end),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        };
        (end, self.crew, self.download)
    }

    async fn work(
        &mut self,
        recruits: &mut mpsc::Receiver<Recruit>,
        meter: &mut Meter,
        cancel: &CancellationToken,
    ) -> Result<End, StoreError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(end) = self.act() {
                return Ok(end);
            }
            let timeout = self.machine.poll_timeout();
            tokio::select! {
                () = cancel.cancelled() => return Ok(End::Cancelled),
                (key, event) = self.crew.next() => self.peer_said(key, event),
                event = self.disk.next() => self.disk_said(event)?,
                Some(recruit) = recruits.recv() => self.recruit(recruit),
                () = super::until(timeout.map(Into::into)) => self.machine.handle_timeout(Instant::now()),
                _ = tick.tick() => {
                    if self.tick(meter) {
                        return Ok(End::Deserted);
                    }
                }
            }
        }
    }

    /// Does all that the scheduler says now.
    fn act(&mut self) -> Option<End> {
        while let Some(action) = self.machine.poll(Instant::now()) {
            match action {
                FetchAction::Request { peer, piece } => self.request(peer, piece),
                FetchAction::Cancel { peer, piece } => {
                    if let Some(member) = self.crew.get_mut(peer) {
                        member.cancel(piece);
                    }
                }
                FetchAction::Have { pieces } => {
                    let numbers: Vec<u32> = pieces.iter().map(|piece| piece.get()).collect();
                    let id = self.manifest.id();
                    self.crew.tell_have(id, &numbers);
                    self.services.net.publish_have(&id, &numbers);
                }
                FetchAction::CheckChunk(chunk) => self.disk.check(chunk),
                FetchAction::Ban { peer, offence } => self.ban(peer, offence),
                FetchAction::Lift { peer } => self.lift(peer),
                FetchAction::Disconnect { peer } => self.dismiss(peer),
                FetchAction::Condemned => return Some(End::Condemned),
                FetchAction::Finished => return Some(End::Finished),
            }
        }
        None
    }

    fn request(&mut self, key: PeerKey, piece: crate::snapshot::PieceIndex) {
        let Some(member) = self.crew.get_mut(key) else {
            return;
        };
        let place = self.manifest.piece(piece);
        let chunk = self.manifest.unique_chunk(place.chunk).id;
        match member.asker.request(chunk, place.index_in_chunk, place.len) {
            Ok(id) => member.asked(id, piece),
            // The stream is gone; its last event is on its way and frees the
            // piece.
            Err(error) => tracing::debug!(peer = %member.peer, %error, "not asked"),
        }
    }

    fn recruit(&mut self, recruit: Recruit) {
        let Some(key) = self.crew.join(recruit.peer, recruit.client) else {
            self.orders.give(Order::Left(recruit.peer));
            return;
        };
        let rtt = self
            .services
            .net
            .connected()
            .iter()
            .find(|peer| peer.peer == recruit.peer)
            .and_then(|peer| peer.rtt)
            .unwrap_or(UNKNOWN_RTT);
        self.machine.handle_joined(key, rtt, Instant::now());
        let own = Holding::Pieces(Bytes::copy_from_slice(self.download.have().as_bytes()));
        if let Some(member) = self.crew.get(key) {
            member.open(self.manifest.id(), own);
        }
    }

    fn peer_said(&mut self, key: PeerKey, event: PieceEvent) {
        let now = Instant::now();
        let Some(member) = self.crew.get_mut(key) else {
            return;
        };
        match event {
            PieceEvent::Holdings { holding, .. } => self.holding(key, holding),
            PieceEvent::Have { pieces, .. } => self.machine.handle_have(key, &pieces, now),
            PieceEvent::Holds { id, chunks } => self.holds(key, id, &chunks),
            PieceEvent::Started { id } => {
                if let Some(piece) = member.piece(id) {
                    self.machine.handle_started(key, piece, now);
                }
            }
            PieceEvent::Progress { id, bytes } => {
                if let Some(piece) = member.piece(id) {
                    let more = member.advance(id, bytes);
                    self.machine.handle_progress(key, piece, more, now);
                    self.moved(more, now);
                }
            }
            PieceEvent::Received { id, bytes } => {
                if let Some((piece, told)) = member.settle(id) {
                    let more = (bytes.len() as u32).saturating_sub(told);
                    self.machine.handle_progress(key, piece, more, now);
                    if self.machine.handle_received(key, piece, now) {
                        self.disk.receive(key, piece, bytes);
                    }
                }
            }
            PieceEvent::Refused { id, refusal } => {
                if let Some((piece, _)) = member.settle(id) {
                    self.machine
                        .handle_refused(key, piece, as_told(refusal), now);
                }
            }
            PieceEvent::Aborted { id } => {
                if let Some((piece, _)) = member.settle(id) {
                    self.machine.handle_aborted(key, piece, now);
                }
            }
            PieceEvent::Closed(closed) => self.closed(key, &closed),
        }
    }

    /// Bytes of a piece came.
    fn moved(&mut self, bytes: u32, now: Instant) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
        if self.moved_bytes >= SIGN_OF_LIFE_BYTES {
            (self.moved_at, self.moved_bytes) = (now, 0);
        }
    }

    fn holding(&mut self, key: PeerKey, holding: Holding) {
        let now = Instant::now();
        let told = match holding {
            Holding::Complete => PeerHolding::Complete,
            Holding::Pieces(bits) => match Bitmap::from_bytes(self.manifest.piece_count(), &bits) {
                Ok(bits) => PeerHolding::Pieces(bits),
                Err(error) => {
                    tracing::warn!(peer = ?self.peer(key), %error, "a false bitmap");
                    self.machine.handle_fault(key, now);
                    return;
                }
            },
            Holding::Refused(_) => {
                self.machine.handle_holding(key, PeerHolding::Nothing, now);
                self.probe(key);
                return;
            }
        };
        self.machine.handle_holding(key, told, now);
    }

    fn closed(&mut self, key: PeerKey, closed: &Closed) {
        let now = Instant::now();
        tracing::debug!(peer = ?self.peer(key), %closed, "piece stream ended");
        if let Some(fault) = closed.blame() {
            tracing::warn!(peer = ?self.peer(key), %fault, "a peer broke the piece protocol");
            self.machine.handle_fault(key, now);
        } else {
            self.machine.handle_left(key, now);
            self.dismiss(key);
        }
    }

    fn disk_said(&mut self, event: DiskEvent) -> Result<(), StoreError> {
        let now = Instant::now();
        match event {
            DiskEvent::Verified(pieces) => {
                for (peer, piece, good) in pieces {
                    if good {
                        self.delivered(now);
                        self.have_bytes += u64::from(self.manifest.piece(piece).len);
                        self.machine.handle_verified(peer, piece, now);
                    } else {
                        self.machine.handle_bad(peer, piece, now);
                    }
                }
            }
            DiskEvent::Checked(chunks) => {
                for (chunk, verdict) in chunks {
                    self.chunk_checked(chunk, verdict, now)?;
                }
            }
            DiskEvent::Synced => {}
            DiskEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn chunk_checked(
        &mut self,
        chunk: UniqueIndex,
        verdict: ChunkVerdict,
        now: Instant,
    ) -> Result<(), StoreError> {
        match verdict {
            ChunkVerdict::Checked => {
                self.moved_at = now;
                self.machine.handle_chunk_checked(chunk, true, now);
            }
            ChunkVerdict::ManifestFalse => self.machine.handle_chunk_checked(chunk, false, now),
            ChunkVerdict::Damaged(pieces) => {
                tracing::error!(
                    snapshot = %self.manifest.id(), chunk = chunk.get(), pieces = pieces.len(),
                    "the disk gave back other bytes than were written; the chunk is fetched again"
                );
                let have = self.download.have();
                self.have_bytes = here(&self.manifest, self.part.as_ref(), &have);
                self.damaged_chunks += 1;
                if self.damaged_chunks > MAX_DAMAGED_CHUNKS {
                    return Err(StoreError::Damaged {
                        path: self.download.path().to_owned(),
                        problem: format!(
                            "the disk gave back other bytes than were written to {} chunks",
                            self.damaged_chunks
                        ),
                    });
                }
                self.machine.handle_lost(chunk, now);
            }
        }
        Ok(())
    }

    /// Tells progress and looks the peers over; true when the download is
    /// deserted.
    fn tick(&mut self, meter: &mut Meter) -> bool {
        let now = Instant::now();
        for peer in self.services.net.connected() {
            if let Some(rtt) = peer.rtt
                && self.crew.contains(&peer.peer)
            {
                self.machine
                    .handle_rtt(super::crew::key_of(&peer.peer), rtt, now);
            }
        }
        let stats = self.machine.stats(now);
        let delivering = stats
            .peers
            .iter()
            .filter(|p| p.connected && p.outstanding > 0);
        let peers = delivering.count() as u32;
        meter.tell(self.have_bytes, peers);
        self.services
            .download_progress(&self.manifest, self.have_bytes, meter.rate(), peers);
        self.look_for_lacking(&stats, now);
        let patience = match self.moved_at == self.begun_at {
            true => self.first_patience,
            false => self.patience,
        };
        !self.disk.is_busy() && is_deserted(now, self.moved_at, self.verified_at, patience)
    }

    fn ban(&mut self, key: PeerKey, offence: Offence) {
        if let Some(peer) = self.peer(key) {
            self.crew.leave(key);
            self.services.referee.ban(peer, offence);
            self.orders.give(Order::Left(peer));
        }
    }

    fn lift(&mut self, key: PeerKey) {
        if let Some(peer) = self.crew.peer_of(key) {
            self.services.referee.lift(peer);
        }
    }

    fn dismiss(&mut self, key: PeerKey) {
        if let Some(peer) = self.peer(key) {
            self.crew.leave(key);
            self.orders.give(Order::Left(peer));
        }
    }

    fn peer(&self, key: PeerKey) -> Option<PeerId> {
        self.crew.get(key).map(|member| member.peer)
    }
}

/// Whether nobody delivers: not a sign of life for as long as the person waits, nor
/// a right piece for as long as signs of life could take to make one.
fn is_deserted(now: Instant, moved_at: Instant, verified_at: Instant, patience: Duration) -> bool {
    now - moved_at >= patience || now - verified_at >= patience.saturating_mul(SIGNS_PER_PIECE)
}

/// What a refusal on the wire means to the scheduler.
fn as_told(refusal: Refusal) -> crate::sync::Refusal {
    match refusal {
        Refusal::Gone => crate::sync::Refusal::Gone,
        Refusal::Busy => crate::sync::Refusal::Busy,
        Refusal::OverLimit => crate::sync::Refusal::OverLimit,
        Refusal::NotAllowed => crate::sync::Refusal::NotAllowed,
    }
}

/// Bytes that are here of what is wanted.
pub(super) fn here(manifest: &Manifest, part: Option<&Part>, have: &Bitmap) -> u64 {
    match part {
        None => bytes_of(manifest, have),
        Some(part) => part.bytes_here(manifest, have),
    }
}

/// Bytes of these pieces.
pub(super) fn bytes_of(manifest: &Manifest, pieces: &Bitmap) -> u64 {
    pieces
        .iter()
        .filter_map(|number| manifest.piece_index(number))
        .map(|piece| u64::from(manifest.piece(piece).len))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_without_a_right_piece_hold_a_download_up_for_a_bounded_time() {
        let (start, patience) = (Instant::now(), Duration::from_secs(60));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!is_deserted(after(59), start, start, patience));
        assert!(is_deserted(after(60), start, start, patience));
        // A slow uplink needs sixteen times 64 KiB for a piece.
        assert!(!is_deserted(after(959), after(950), start, patience));
        assert!(is_deserted(after(960), after(950), start, patience));
        assert!(!is_deserted(after(960), after(950), after(900), patience));
    }
}
