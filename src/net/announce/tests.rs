use super::*;
use crate::snapshot::Digest;

fn id(n: u32) -> Digest {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(n.to_be_bytes()).into())
}

fn chunks(count: u32) -> Vec<ChunkId> {
    (0..count).map(|n| ChunkId(id(n))).collect()
}

fn announcement(chunk_count: u32) -> Announcement {
    Announcement {
        chains: vec!["chain-1".to_owned()],
        manifests: vec![ManifestId(id(1_000_000))],
        chunks: chunks(chunk_count),
        policy: AnnouncePolicy::ManifestsAndChunks,
    }
}

/// An announcer in a large DHT, its virtual clock, and what it published.
struct Bench {
    announcer: Announcer,
    now: Instant,
    published: Vec<(Duration, DhtKey)>,
    held: BTreeSet<DhtKey>,
    start: Instant,
}

impl Bench {
    fn new(pacing: Pacing) -> Self {
        let now = Instant::now();
        let mut announcer = Announcer::new(pacing, [0; 32], now);
        announcer.handle_routing(100, now);
        Self {
            announcer,
            now,
            published: Vec::new(),
            held: BTreeSet::new(),
            start: now,
        }
    }

    /// Runs until `until`; every publication takes `takes`.
    fn run(&mut self, until: Duration, takes: Duration) {
        let end = self.start + until;
        let mut under_way: VecDeque<(Instant, DhtKey)> = VecDeque::new();
        loop {
            while let Some(action) = self.announcer.poll(self.now) {
                match action {
                    AnnounceAction::Hold(key) => assert!(self.held.insert(key)),
                    AnnounceAction::Withdraw(key) => assert!(self.held.remove(&key)),
                    AnnounceAction::Publish(key) => {
                        assert!(self.held.contains(&key), "published before held");
                        self.published.push((self.now - self.start, key));
                        under_way.push_back((self.now + takes, key));
                        assert!(under_way.len() <= self.announcer.pacing.in_flight);
                    }
                }
            }
            let done = under_way.front().map(|(at, _)| *at);
            let next = self.announcer.poll_timeout();
            let next = done.map_or(next, |done| done.min(next));
            if next > end {
                self.now = end;
                return;
            }
            assert!(next > self.now || done.is_some_and(|at| at <= self.now));
            self.now = self.now.max(next);
            while under_way.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, key) = under_way.pop_front().unwrap();
                self.announcer.handle_published(key, self.now);
            }
        }
    }
}

const FAST: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn chains_go_first_then_manifests_then_chunks() {
    let mut bench = Bench::new(Pacing::default());
    let wanted = announcement(50);
    bench.announcer.handle_wanted(&wanted, bench.now);
    bench.run(MINUTE, FAST);
    let order: Vec<DhtKey> = bench.published.iter().map(|(_, key)| *key).collect();
    assert_eq!(order.len(), 52);
    assert_eq!(order[0], Key::Chain("chain-1".to_owned()).digest());
    assert_eq!(order[1], Key::Manifest(wanted.manifests[0]).digest());
}

#[test]
fn a_thousand_chunks_are_published_within_the_pace_and_before_the_next_round() {
    let pacing = Pacing::default();
    let mut bench = Bench::new(pacing.clone());
    bench
        .announcer
        .handle_wanted(&announcement(1000), bench.now);
    bench.run(39 * MINUTE, FAST);
    assert_eq!(bench.published.len(), 1002);
    for (n, (at, _)) in bench.published.iter().enumerate() {
        let allowed = at.as_secs_f64() * f64::from(pacing.per_second);
        assert!(
            n as f64 <= allowed + f64::from(pacing.burst),
            "{n} at {at:?}"
        );
    }
    bench.run(79 * MINUTE, FAST);
    assert_eq!(bench.published.len(), 2004, "each is renewed once");
}

#[test]
fn slow_publications_never_pile_up_beyond_the_limit() {
    let mut bench = Bench::new(Pacing::default());
    bench.announcer.handle_wanted(&announcement(100), bench.now);
    // The limit is asserted by the bench.
    bench.run(10 * MINUTE, Duration::from_secs(30));
    assert!(bench.published.len() > 100);
}

#[test]
fn above_the_budget_a_rotating_sample_covers_every_chunk_within_the_rounds() {
    let pacing = Pacing {
        max_chunk_keys: 100,
        ..Pacing::default()
    };
    let mut bench = Bench::new(pacing.clone());
    bench.announcer.handle_wanted(&announcement(450), bench.now);
    bench.run(39 * MINUTE, FAST);
    assert_eq!(bench.held.len(), 102);
    bench.run(5 * 40 * MINUTE - MINUTE, FAST);
    assert!(bench.held.len() <= pacing.max_keys());
    let distinct: BTreeSet<DhtKey> = bench.published.iter().map(|(_, key)| *key).collect();
    assert_eq!(distinct.len(), 452, "five rounds of 100 cover 450");
}

#[test]
fn what_is_gone_is_withdrawn_and_what_stays_is_not_published_again() {
    let mut bench = Bench::new(Pacing::default());
    bench.announcer.handle_wanted(&announcement(10), bench.now);
    bench.run(MINUTE, FAST);
    bench.published.clear();
    let mut fewer = announcement(10);
    fewer.manifests.clear();
    fewer.chunks.truncate(4);
    bench.announcer.handle_wanted(&fewer, bench.now);
    bench.run(2 * MINUTE, FAST);
    assert_eq!(bench.held.len(), 5);
    assert!(bench.published.is_empty());
}

#[test]
fn a_key_withdrawn_while_under_way_leaves_no_trace() {
    let mut bench = Bench::new(Pacing::default());
    bench.announcer.handle_wanted(&announcement(0), bench.now);
    let publish = std::iter::from_fn(|| bench.announcer.poll(bench.now))
        .find_map(|action| match action {
            AnnounceAction::Publish(key) => Some(key),
            _ => None,
        })
        .unwrap();
    bench
        .announcer
        .handle_wanted(&Announcement::default(), bench.now);
    bench.announcer.handle_published(publish, bench.now);
    assert_eq!(bench.announcer.stats().active, 0);
    assert!(bench.announcer.active.is_empty());
}

#[test]
fn the_manifests_policy_tells_no_chunk() {
    let mut bench = Bench::new(Pacing::default());
    let mut wanted = announcement(10);
    wanted.policy = AnnouncePolicy::Manifests;
    bench.announcer.handle_wanted(&wanted, bench.now);
    bench.run(MINUTE, FAST);
    assert_eq!(bench.published.len(), 2);
}

#[test]
fn nothing_is_published_before_there_is_a_dht_and_all_of_it_when_there_is() {
    let mut bench = Bench::new(Pacing::default());
    bench.announcer.handle_routing(0, bench.now);
    bench.announcer.handle_wanted(&announcement(3), bench.now);
    bench.run(MINUTE, FAST);
    assert_eq!(bench.held.len(), 5, "but it is held");
    assert!(bench.published.is_empty());
    bench.announcer.handle_routing(1, bench.now);
    bench.run(2 * MINUTE, FAST);
    assert_eq!(bench.published.len(), 5);
}

#[test]
fn a_dht_that_grows_gets_the_records_again_until_it_is_large_enough() {
    let mut bench = Bench::new(Pacing::default());
    bench.announcer.handle_routing(1, bench.now);
    bench.announcer.handle_wanted(&announcement(0), bench.now);
    bench.run(MINUTE, FAST);
    assert_eq!(bench.published.len(), 2);
    bench.announcer.handle_routing(25, bench.now);
    bench.run(2 * MINUTE, FAST);
    assert_eq!(bench.published.len(), 4);
    bench.announcer.handle_routing(30, bench.now);
    bench.run(3 * MINUTE, FAST);
    assert_eq!(bench.published.len(), 4, "twenty hold it already");
}

#[test]
fn a_failed_publication_is_tried_again_after_a_minute() {
    let mut bench = Bench::new(Pacing::default());
    let mut wanted = announcement(0);
    wanted.chains.clear();
    bench.announcer.handle_wanted(&wanted, bench.now);
    assert!(matches!(
        bench.announcer.poll(bench.now),
        Some(AnnounceAction::Hold(_))
    ));
    let Some(AnnounceAction::Publish(key)) = bench.announcer.poll(bench.now) else {
        panic!("due at once");
    };
    bench.announcer.handle_failed(key, bench.now);
    assert_eq!(bench.announcer.poll(bench.now), None);
    let again = bench.now + RETRY;
    assert_eq!(bench.announcer.poll_timeout(), again);
    assert_eq!(
        bench.announcer.poll(again),
        Some(AnnounceAction::Publish(key))
    );
}

#[test]
fn chains_and_manifests_beyond_their_limit_are_left_out() {
    let pacing = Pacing {
        max_other_keys: 3,
        ..Pacing::default()
    };
    let mut bench = Bench::new(pacing);
    let wanted = Announcement {
        chains: vec!["a".to_owned()],
        manifests: (0..5).map(|n| ManifestId(id(n))).collect(),
        ..Announcement::default()
    };
    bench.announcer.handle_wanted(&wanted, bench.now);
    bench.run(MINUTE, FAST);
    assert_eq!(bench.held.len(), 3);
    assert!(
        bench
            .held
            .contains(&Key::Manifest(ManifestId(id(0))).digest())
    );
    assert_eq!(bench.announcer.stats().wanted, 6);
}

#[test]
fn a_pace_of_nothing_and_a_round_longer_than_a_record_lives_are_refused() {
    assert!(Pacing::default().check().is_ok());
    let stopped = Pacing {
        per_second: 0,
        ..Pacing::default()
    };
    assert!(stopped.check().is_err());
    let late = Pacing {
        republish_every: RECORD_TTL,
        ..Pacing::default()
    };
    assert!(late.check().is_err());
}
