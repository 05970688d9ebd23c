use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::snapshot::{ManifestBuilder, SnapshotFields};

const RTT: Duration = Duration::from_millis(10);

fn manifest_of(sizes: &[usize]) -> Arc<Manifest> {
    let mut builder = ManifestBuilder::new();
    for (number, size) in sizes.iter().enumerate() {
        builder.push(&vec![number as u8; *size]).unwrap();
    }
    let fields = SnapshotFields {
        chain_id: "test-1".to_owned(),
        height: 5,
        app_hash: None,
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    Arc::new(builder.finish(fields).unwrap())
}

struct Download {
    fetch: Fetch,
    manifest: Arc<Manifest>,
    now: Instant,
}

impl Download {
    fn with(sizes: &[usize], limits: FetchLimits) -> Self {
        let manifest = manifest_of(sizes);
        let now = Instant::now();
        let have = Bitmap::new(manifest.piece_count());
        Self {
            fetch: Fetch::new(manifest.clone(), have, limits, 1, now),
            manifest,
            now,
        }
    }

    /// Chunks of one small piece each, told at once.
    fn of(pieces: usize) -> Self {
        let limits = FetchLimits {
            have_when: HaveWhen::PieceVerified,
            ..FetchLimits::default()
        };
        Self::with(&vec![100; pieces], limits)
    }

    fn seeder(&mut self, peer: u64) {
        let (fetch, peer) = (&mut self.fetch, PeerKey(peer));
        fetch.handle_joined(peer, RTT, self.now);
        fetch.handle_holding(peer, PeerHolding::Complete, self.now);
    }

    fn partial(&mut self, peer: u64, pieces: &[u32]) {
        self.fetch.handle_joined(PeerKey(peer), RTT, self.now);
        self.fetch.handle_have(PeerKey(peer), pieces, self.now);
    }

    fn drain(&mut self) -> Vec<FetchAction> {
        std::iter::from_fn(|| self.fetch.poll(self.now)).collect()
    }

    fn requests(&mut self) -> Vec<(u64, u32)> {
        let actions = self.drain().into_iter();
        actions
            .filter_map(|action| match action {
                FetchAction::Request { peer, piece } => Some((peer.0, piece.get())),
                _ => None,
            })
            .collect()
    }

    fn piece(&self, number: u32) -> PieceIndex {
        self.manifest.piece_index(number).unwrap()
    }

    fn give(&mut self, peer: u64, piece: u32) {
        let (peer, piece) = (PeerKey(peer), self.piece(piece));
        assert!(self.fetch.handle_received(peer, piece, self.now));
        self.fetch.handle_verified(peer, piece, self.now);
    }

    fn refuse(&mut self, peer: u64, piece: u32, refusal: Refusal) {
        let (peer, piece) = (PeerKey(peer), self.piece(piece));
        self.fetch.handle_refused(peer, piece, refusal, self.now);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + REFILL_EVERY);
            self.fetch.handle_timeout(self.now);
        }
    }
}

#[test]
fn a_lost_peers_requests_return_to_missing_and_go_to_others() {
    let mut download = Download::of(3);
    download.seeder(1);
    assert_eq!(download.requests().len(), 3);
    download.fetch.handle_left(PeerKey(1), download.now);
    for piece in download.manifest.piece_indexes() {
        assert_eq!(download.fetch.piece_state(piece), PieceState::Missing);
    }
    download.fetch.audit().unwrap();
    download.seeder(2);
    assert_eq!(download.requests().len(), 3);
}

#[test]
fn chunks_that_nobody_here_has_are_named_in_order_and_before_the_others() {
    let numbers = |chunks: Vec<UniqueIndex>| -> Vec<u32> {
        chunks.into_iter().map(UniqueIndex::get).collect()
    };
    let mut download = Download::of(8);
    download.partial(1, &[0, 2, 4]);
    let fetch = &download.fetch;
    assert_eq!(numbers(fetch.nowhere_chunks(0, 9)), [1, 3, 5, 6, 7]);
    assert_eq!(numbers(fetch.nowhere_chunks(0, 2)), [1, 3]);
    assert_eq!(numbers(fetch.nowhere_chunks(4, 2)), [5, 6]);
    assert_eq!(numbers(fetch.wanted_chunks(0, 9)), [1, 3, 5, 6, 7, 0, 2, 4]);
    assert_eq!(numbers(fetch.wanted_chunks(6, 3)), [6, 7, 0]);

    // What is here is not wanted; what is asked of somebody still is.
    download.requests();
    download.give(1, 2);
    assert_eq!(
        numbers(download.fetch.wanted_chunks(0, 9)),
        [1, 3, 5, 6, 7, 0, 4]
    );
    download.seeder(2);
    assert!(download.fetch.nowhere_chunks(0, 9).is_empty());
    download.fetch.handle_left(PeerKey(2), download.now);
    download.fetch.handle_left(PeerKey(1), download.now);
    assert_eq!(
        numbers(download.fetch.nowhere_chunks(0, 9)),
        [0, 1, 3, 4, 5, 6, 7]
    );
}

#[test]
fn a_stranger_gets_few_requests_and_a_proven_seeder_its_window() {
    let mut download = Download::of(30);
    download.seeder(1);
    let asked = download.requests();
    assert_eq!(asked.len(), 4);
    let peer = PeerKey(1);
    let piece = download.piece(asked[0].1);
    assert!(download.fetch.handle_received(peer, piece, download.now));
    assert_eq!(
        download.requests(),
        [],
        "what is unverified counts for a stranger"
    );
    download.fetch.handle_verified(peer, piece, download.now);
    assert_eq!(download.requests().len(), 5, "three are open of eight");
}

#[test]
fn the_rarest_piece_that_a_peer_has_is_asked_first() {
    let mut download = Download::of(6);
    download.partial(1, &[0, 1, 2, 3, 4]);
    download.partial(2, &[0, 1, 2, 3]);
    download.partial(3, &[0, 1, 2, 3]);
    let asked = download.requests();
    assert_eq!(asked[0], (1, 4));
    assert_eq!(download.fetch.stats(download.now).nowhere, 1);
}

#[test]
fn all_joiners_rank_the_same_seeders_alike() {
    let mut first = Vec::new();
    for seed in [1, 2] {
        let mut download = Download::of(400);
        download.fetch.rng = ChaCha8Rng::seed_from_u64(seed);
        (10..14).for_each(|peer| download.seeder(peer));
        first.push(download.requests());
    }
    let [a, b] = [&first[0], &first[1]];
    assert_ne!(a, b, "which pieces is chance");
    for (peer, piece) in a {
        let elsewhere = b.iter().any(|(other, same)| same == piece && other != peer);
        assert!(!elsewhere, "of whom is not: {piece}");
    }
}

#[test]
fn refusals_make_pauses_that_grow_and_end_and_nobody_is_banned() {
    let mut download = Download::of(1);
    download.seeder(1);
    let mut waits = Vec::new();
    for _ in 0..14 {
        let asked_at = download.now;
        assert_eq!(download.requests(), [(1, 0)]);
        download.refuse(1, 0, Refusal::Busy);
        assert_eq!(download.drain(), []);
        loop {
            download.pass(REFILL_EVERY);
            let until = download.fetch.records[&PeerKey(1)].pause_until;
            if until.is_none_or(|until| until <= download.now) {
                break;
            }
        }
        waits.push(download.now - asked_at);
    }
    assert!(waits[0] < Duration::from_millis(400), "{waits:?}");
    assert!(waits[13] > Duration::from_secs(20), "{waits:?}");
    let longest = peer::LONGEST_PAUSE + 2 * REFILL_EVERY;
    assert!(waits.iter().all(|wait| *wait <= longest), "{waits:?}");
    download.requests();
    download.give(1, 0);
    assert!(download.fetch.records[&PeerKey(1)].pause_until.is_none());
}

#[test]
fn a_window_refused_at_once_is_one_reason_for_a_pause() {
    let mut download = Download::of(4);
    download.seeder(1);
    for (peer, piece) in download.requests() {
        download.refuse(peer, piece, Refusal::Busy);
    }
    let record = &download.fetch.records[&PeerKey(1)];
    assert_eq!((record.refusals, record.refusals_in_row), (4, 1));
}

#[test]
fn a_piece_that_is_gone_is_not_asked_of_that_peer_again() {
    let mut download = Download::of(2);
    download.seeder(1);
    assert_eq!(download.requests().len(), 2);
    download.give(1, 1);
    download.refuse(1, 0, Refusal::Gone);
    download.pass(Duration::from_secs(60));
    assert_eq!(download.requests(), []);
    assert_eq!(download.fetch.stats(download.now).nowhere, 1);
    download.fetch.handle_have(PeerKey(1), &[0], download.now);
    download.pass(Duration::from_secs(60));
    assert!(download.requests().contains(&(1, 0)), "it says so again");
}

#[test]
fn a_silent_peer_loses_its_requests_and_is_tried_again_with_one() {
    let mut download = Download::of(4);
    download.seeder(1);
    let asked = download.requests();
    assert_eq!(asked.len(), 4);
    let piece = download.piece(asked[0].1);
    download
        .fetch
        .handle_started(PeerKey(1), piece, download.now);
    download.pass(Duration::from_secs(60));
    let actions = download.drain();
    let cancels = actions
        .iter()
        .filter(|a| matches!(a, FetchAction::Cancel { .. }));
    assert!(cancels.count() >= 4, "{actions:?}");
    let stats = download.fetch.stats(download.now);
    assert!(stats.peers[0].stalls >= 1 && stats.asked <= 1, "{stats:?}");
    download.fetch.audit().unwrap();
}

#[test]
fn a_partial_peer_takes_over_what_waits_at_a_seeder() {
    let mut download = Download::of(3);
    download.seeder(1);
    assert_eq!(download.requests().len(), 3);
    download.partial(2, &[]);
    download.fetch.handle_have(PeerKey(2), &[1], download.now);
    let piece = download.piece(1);
    let expected = [
        FetchAction::Cancel {
            peer: PeerKey(1),
            piece,
        },
        FetchAction::Request {
            peer: PeerKey(2),
            piece,
        },
    ];
    assert_eq!(download.drain()[..2], expected);
}

#[test]
fn wrong_bytes_ban_who_announced_and_only_silence_who_did_not() {
    let mut download = Download::of(8);
    download.seeder(1);
    let chunks: Vec<UniqueIndex> = download.manifest.unique_indexes().collect();
    download.fetch.handle_joined(PeerKey(2), RTT, download.now);
    download
        .fetch
        .handle_chunks(PeerKey(2), &chunks, download.now);
    let asked = download.requests();
    for peer in [1, 2] {
        let (_, piece) = asked.iter().find(|(of, _)| *of == peer).unwrap();
        let piece = download.piece(*piece);
        let peer = PeerKey(peer);
        assert!(download.fetch.handle_received(peer, piece, download.now));
        download.fetch.handle_bad(peer, piece, download.now);
    }
    let actions = download.drain();
    let bans: Vec<&FetchAction> = actions
        .iter()
        .filter(|action| matches!(action, FetchAction::Ban { .. }))
        .collect();
    let offence = Offence::WrongBytes;
    assert_eq!(
        bans,
        [&FetchAction::Ban {
            peer: PeerKey(1),
            offence
        }]
    );
    // Neither announcing nor coming back makes up for it.
    download.seeder(2);
    download.fetch.handle_left(PeerKey(2), download.now);
    download.seeder(2);
    download.seeder(1);
    let actions = download.drain();
    assert_eq!(actions, [FetchAction::Disconnect { peer: PeerKey(1) }]);
}

#[test]
fn numbers_beyond_the_snapshot_are_a_fault() {
    for wrong in [0, 1] {
        let mut download = Download::of(8);
        download.partial(1, &[]);
        match wrong {
            0 => download.fetch.handle_have(PeerKey(1), &[8], download.now),
            _ => {
                let holding = PeerHolding::Pieces(Bitmap::new(9));
                download
                    .fetch
                    .handle_holding(PeerKey(1), holding, download.now);
            }
        }
        let ban = FetchAction::Ban {
            peer: PeerKey(1),
            offence: Offence::Protocol,
        };
        assert_eq!(download.drain(), [ban]);
    }
}

#[test]
fn verified_pieces_are_told_within_twenty_milliseconds_together() {
    let mut download = Download::of(8);
    download.seeder(1);
    let asked = download.requests();
    download.give(1, asked[0].1);
    download.now += Duration::from_millis(10);
    download.give(1, asked[1].1);
    let told = |actions: Vec<FetchAction>| {
        let batches = actions.into_iter().filter_map(|action| match action {
            FetchAction::Have { pieces } => Some(pieces.len()),
            _ => None,
        });
        batches.collect::<Vec<_>>()
    };
    assert!(told(download.drain()).is_empty());
    assert_eq!(
        download.fetch.poll_timeout(),
        Some(download.now + Duration::from_millis(10))
    );
    download.now += Duration::from_millis(10);
    assert_eq!(told(download.drain()), [2]);
}

#[test]
fn by_chunk_a_piece_is_told_when_its_whole_chunk_was_checked() {
    let mib = crate::snapshot::PIECE_BYTES as usize;
    let mut download = Download::with(&[mib + 1, 2 * mib], FetchLimits::default());
    download.seeder(1);
    let asked = download.requests();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0].1 / 2, asked[1].1 / 2, "a begun chunk comes first");
    for (peer, piece) in &asked[..2] {
        download.give(*peer, *piece);
    }
    let chunk = download.manifest.piece(download.piece(asked[0].1)).chunk;
    let actions = download.drain();
    assert!(
        actions.contains(&FetchAction::CheckChunk(chunk)),
        "{actions:?}"
    );
    download.now += HAVE_DELAY;
    assert_eq!(download.drain(), []);
    download
        .fetch
        .handle_chunk_checked(chunk, true, download.now);
    download.now += HAVE_DELAY;
    let pieces = download.manifest.pieces_of(chunk).collect();
    assert_eq!(download.drain(), [FetchAction::Have { pieces }]);
}

#[test]
fn what_was_here_and_checked_is_neither_fetched_nor_checked_again() {
    let manifest = manifest_of(&[100, 100, 100]);
    let now = Instant::now();
    let mut have = Bitmap::new(3);
    have.insert(0);
    have.insert(1);
    let limits = FetchLimits::default();
    let first = manifest.unique_index(0);
    let mut fetch = Fetch::new(manifest.clone(), have, limits, 1, now).with_checked(first);
    let second = manifest.unique_index(1).unwrap();
    assert_eq!(fetch.poll(now), Some(FetchAction::CheckChunk(second)));
    assert_eq!(fetch.poll(now), None);
    fetch.handle_chunk_checked(second, true, now);
    fetch.handle_joined(PeerKey(1), RTT, now);
    fetch.handle_holding(PeerKey(1), PeerHolding::Complete, now);
    let piece = manifest.piece_index(2).unwrap();
    let peer = PeerKey(1);
    assert_eq!(fetch.poll(now), Some(FetchAction::Request { peer, piece }));
    assert!(fetch.handle_received(peer, piece, now));
    fetch.handle_verified(peer, piece, now);
    let third = manifest.unique_index(2).unwrap();
    assert_eq!(fetch.poll(now), Some(FetchAction::CheckChunk(third)));
    fetch.handle_chunk_checked(third, true, now);
    assert!(matches!(fetch.poll(now), Some(FetchAction::Have { .. })));
    assert_eq!(fetch.poll(now), Some(FetchAction::Finished));
    assert_eq!(fetch.poll(now), None);
    assert_eq!(fetch.poll_timeout(), None);
}

#[test]
fn a_chunk_that_was_lost_on_disk_is_fetched_again() {
    let mut download = Download::of(2);
    download.seeder(1);
    for (peer, piece) in download.requests() {
        download.give(peer, piece);
    }
    download.drain();
    let chunk = download.manifest.unique_index(0).unwrap();
    download.fetch.handle_lost(chunk, download.now);
    download.fetch.audit().unwrap();
    assert_eq!(download.requests(), [(1, 0)]);
}

#[test]
fn a_place_taken_for_nothing_goes_to_a_newcomer_after_a_minute() {
    let limits = FetchLimits {
        peers: 1,
        ..FetchLimits::default()
    };
    let mut download = Download::with(&[100], limits);
    download.seeder(1);
    download.drain();
    download.seeder(2);
    let refused = FetchAction::Disconnect { peer: PeerKey(2) };
    assert_eq!(download.drain(), [refused]);
    download.now += YIELD_AFTER + Duration::from_secs(1);
    download.seeder(2);
    let actions = download.drain();
    let away = FetchAction::Disconnect { peer: PeerKey(1) };
    assert_eq!(actions[0], away);
    assert!(matches!(
        actions[1],
        FetchAction::Request {
            peer: PeerKey(2),
            ..
        }
    ));
}

#[test]
fn the_memory_of_peers_that_left_is_bounded_and_bans_stay_in_it() {
    let mut download = Download::of(1);
    download.partial(0, &[]);
    download.fetch.handle_fault(PeerKey(0), download.now);
    for peer in 1..2000 {
        download.partial(peer, &[]);
        download.fetch.handle_left(PeerKey(peer), download.now);
    }
    assert!(download.fetch.records.len() <= MAX_RECORDS + 1);
    assert!(download.fetch.records[&PeerKey(0)].banned);
}
