//! A watch with a clock of its own.

use super::*;
use crate::node::command::Progress;
use crate::snapshot::{ManifestBuilder, SnapshotFields};

const PATIENCE: Duration = Duration::from_secs(10);

fn manifest(chunks: u8) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in 0..chunks {
        builder.push(&[chunk; 10]).unwrap();
    }
    let fields = SnapshotFields {
        chain_id: "chain".to_owned(),
        height: 10,
        app_hash: Some(Bytes::from_static(b"hash")),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    builder.finish(fields).unwrap()
}

fn sent(index: u32) -> FeedEvent {
    FeedEvent::ChunkSent { index, bytes: 10 }
}

/// Runs a test with a watch over a snapshot of two chunks.
fn watching(test: impl FnOnce(&mut Watch, &mut mpsc::Receiver<Progress>, Instant)) {
    let (sender, mut told) = mpsc::channel(64);
    let reporter = Reporter::new(sender);
    let (rpc, manifest) = (Rpc::new("http://127.0.0.1:1").unwrap(), manifest(2));
    let app_hash = manifest.app_hash().unwrap().clone();
    let mut watch = Watch::new(
        &rpc,
        &manifest,
        &app_hash,
        &reporter,
        PATIENCE,
        Stubs::default(),
    );
    test(&mut watch, &mut told, Instant::now());
}

#[test]
fn an_application_may_take_its_time_with_the_last_chunk_while_the_rpc_answers() {
    watching(|watch, told, start| {
        watch.heard(sent(0), start);
        watch.heard(sent(1), start);
        let mut now = start;
        for _ in 0..10 {
            now += PATIENCE / 2;
            assert!(!watch.is_stuck(now));
            assert!(!watch.is_restored(Ok(Seen::NotYet), now).unwrap());
        }
        let mut notes = 0;
        while let Ok(news) = told.try_recv() {
            notes += u32::from(matches!(news, Progress::Note { .. }));
        }
        assert_eq!(notes, 5, "one each time that the patience passes");
        // The RPC falls silent.
        assert!(watch.is_stuck(now + PATIENCE));
    });
}

#[test]
fn answers_are_no_progress_before_all_chunks_are_sent() {
    watching(|watch, _, start| {
        watch.heard(sent(0), start);
        let later = start + PATIENCE;
        watch.is_restored(Ok(Seen::NotYet), later).unwrap();
        assert!(watch.is_stuck(later));
    });
}

#[test]
fn a_node_that_asks_again_after_the_last_chunk_has_refused_the_snapshot() {
    let offers = || vec![FeedEvent::Offered; 1 + OFFERS_OF_A_CONNECTION as usize];
    for again in [offers(), vec![sent(0)]] {
        watching(|watch, _, start| {
            watch.heard(sent(0), start);
            watch.heard(sent(1), start);
            for event in again {
                watch.heard(event, start);
            }
            let later = start + PATIENCE;
            watch.is_restored(Ok(Seen::NotYet), later).unwrap();
            assert!(watch.is_stuck(later));
        });
    }
}

#[test]
fn blocks_from_right_above_the_snapshot_on_are_a_restore() {
    assert_eq!(verdict(10, 11, false), Verdict::Restored);
    assert_eq!(verdict(10, 0, false), Verdict::Restored);
}

#[test]
fn blocks_below_the_snapshot_are_no_restore() {
    assert_eq!(verdict(10, 1, true), Verdict::Otherwise);
    assert_eq!(verdict(10, 10, true), Verdict::Otherwise);
}

#[test]
fn blocks_from_further_above_are_a_restore_only_after_all_chunks_were_sent() {
    assert_eq!(verdict(10, 12, true), Verdict::Restored);
    assert_eq!(verdict(10, 12, false), Verdict::Otherwise);
}

#[test]
fn a_node_that_stays_silent_after_the_last_chunk_is_given_up_after_the_limit() {
    assert_eq!(work_limit(PATIENCE), WORK_PATIENCES * PATIENCE);
    assert_eq!(work_limit(PATIENCE / 100), WORK_MIN);
    let hour = Duration::from_secs(3600);
    assert!(work_limit(Duration::MAX) > hour);

    watching(|watch, _, start| {
        watch.heard(sent(0), start);
        let last_chunk = start + PATIENCE / 2;
        watch.heard(sent(1), last_chunk);
        // State sync has failed; the RPC answers that nothing is restored, each
        // second, for ever.
        let end = last_chunk + work_limit(PATIENCE);
        let mut now = last_chunk;
        while now + LOOK_EVERY < end {
            now += LOOK_EVERY;
            assert!(!watch.is_restored(Ok(Seen::NotYet), now).unwrap());
            assert!(!watch.is_stuck(now) && !watch.works_too_long(now));
        }
        assert!(watch.works_too_long(end));
        let failure = watch.never_done();
        assert_eq!(failure.code, FailureCode::Failed);
        assert!(failure.message.contains("720 seconds"), "{failure:?}");
        let hint = failure.hint.unwrap();
        assert!(hint.contains("State sync failed"), "{hint}");
    });
}

#[test]
fn a_state_with_another_application_hash_is_told_once_the_node_has_all_chunks() {
    let other = || {
        Ok(Seen::OtherState {
            app_hash: Bytes::from_static(&[0xEE]),
        })
    };
    watching(|watch, _, start| {
        watch.heard(sent(0), start);
        assert!(!watch.is_restored(other(), start).unwrap());
        watch.heard(sent(1), start);
        let failure = watch.is_restored(other(), start).unwrap_err();
        assert_eq!(failure.code, FailureCode::Verification);
        let ours = hex::encode_upper(b"hash");
        for hash in ["EE", &ours] {
            assert!(failure.message.contains(hash), "{failure:?}");
        }
    });
}

#[test]
fn an_application_at_the_snapshots_height_is_judged_by_its_hash() {
    let ours = Bytes::from_static(b"hash");
    let app = |height, app_hash: &'static [u8]| {
        let app_hash = Bytes::from_static(app_hash);
        let app = AppState {
            height,
            app_hash,
            app_version: 1,
        };
        seen_of(app, 10, &ours)
    };
    assert_eq!(app(10, b"hash"), Seen::State);
    assert_eq!(app(0, b""), Seen::NotYet);
    assert_eq!(app(9, b"other"), Seen::NotYet);
    let app_hash = Bytes::from_static(b"other");
    assert_eq!(app(10, b"other"), Seen::OtherState { app_hash });
}
