//! The room `comet` against real CometBFT nodes with an app that nobody here
//! wrote: harvest, feed, restore, catch up.

#[path = "support/comet_nodes.rs"]
mod comet_nodes;
#[path = "support/comet_tools.rs"]
mod comet_tools;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use comet_nodes::{CometNode, NodePlan, wait_until};
use comet_tools::comet_tools;
use snapswarm::comet::peer::{
    ChunkSource, FedStats, FeedEvent, FeedSettings, HarvestSettings, Harvester, Identity,
    NodeAddress, PeerError, Stop, feed,
};
use snapswarm::comet::rpc::{Restored, RpcError};
use snapswarm::snapshot::{Offer, Source, SourceError};
use tokio::task::JoinHandle;
use toml::Table;

const CHAIN: &str = "comet-real-1";
/// As `join` will set them: CometBFT's default of 5 MB/s is made for the
/// internet.
const RAISED_RATE: i64 = 512_000_000;

fn plan(settings: Table) -> NodePlan {
    NodePlan {
        snapshot_interval: 5,
        block_ms: 300,
        p2p_rate: RAISED_RATE,
        settings,
    }
}

fn harvester(node: &CometNode) -> Harvester {
    let settings = HarvestSettings {
        node: node.address(),
        chain_id: Some(CHAIN.to_owned()),
    };
    Harvester::new(settings, Identity::generate(), Stop::new())
}

/// A snapshot in memory.
struct Snapshot {
    offer: Offer,
    chunks: Vec<Bytes>,
}

impl ChunkSource for Snapshot {
    fn chunk(&self, index: u32) -> io::Result<Bytes> {
        Ok(self.chunks[index as usize].clone())
    }
}

fn harvest(harvester: &mut Harvester, offer: &Offer) -> Result<Snapshot, SourceError> {
    let mut chunks = Vec::new();
    let mut reading = harvester.open(offer)?;
    while let Some(chunk) = reading.next_chunk()? {
        chunks.push(chunk);
    }
    Ok(Snapshot {
        offer: offer.clone(),
        chunks,
    })
}

/// Lists until there is a snapshot of so many chunks.
fn wait_for_offer(harvester: &mut Harvester, chunks: u32) -> Offer {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let offers = harvester.list().unwrap();
        if let Some(offer) = offers.into_iter().find(|offer| offer.chunks >= chunks) {
            return offer;
        }
        assert!(Instant::now() < end, "no snapshot of {chunks} chunks");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A validator with state, and its newest snapshot that has so many chunks.
async fn validator_with_snapshot(folder: &std::path::Path, mb: usize) -> (CometNode, Snapshot) {
    let mut validator = CometNode::validator(&comet_tools(), folder, CHAIN, plan(Table::new()));
    validator.start();
    validator.wait_for_height(1).await;
    validator.write_state(mb * 5, 200_000).await;
    let mut source = harvester(&validator);
    let snapshot = blocking(move || {
        let offer = wait_for_offer(&mut source, mb as u32);
        harvest(&mut source, &offer).unwrap()
    })
    .await;
    // A joiner's light client needs two blocks above the snapshot.
    validator.wait_for_height(snapshot.offer.height + 2).await;
    (validator, snapshot)
}

/// A feeder on a thread of its own.
struct Feeding {
    stop: Stop,
    events: Arc<Mutex<Vec<FeedEvent>>>,
    thread: JoinHandle<Result<FedStats, PeerError>>,
}

impl Feeding {
    fn start(
        settings: FeedSettings,
        identity: &Identity,
        offer: &Offer,
        chunks: Arc<dyn ChunkSource>,
    ) -> Self {
        let stop = Stop::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let thread = tokio::task::spawn_blocking({
            let (stop, events) = (stop.clone(), events.clone());
            let (identity, offer) = (identity.clone(), offer.clone());
            move || {
                let mut note = |event| events.lock().unwrap().push(event);
                feed(&settings, &identity, &offer, &*chunks, &mut note, &stop)
            }
        });
        Self {
            stop,
            events,
            thread,
        }
    }

    async fn end(mut self) -> (FedStats, Vec<FeedEvent>) {
        self.stop.stop();
        let stats = (&mut self.thread).await.unwrap().unwrap();
        (stats, std::mem::take(&mut self.events.lock().unwrap()))
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        // Also when the test panics: the runtime waits for its threads.
        self.stop.stop();
    }
}

fn p2p_settings(p2p: Table) -> Table {
    let mut settings = Table::new();
    settings.insert("p2p".into(), p2p.into());
    settings
}

async fn joiner(
    folder: &std::path::Path,
    validator: &CometNode,
    offer: &Offer,
    settings: Table,
) -> CometNode {
    let trust = validator.trusted(offer.height).await;
    CometNode::joiner(
        &comet_tools(),
        folder,
        validator,
        CHAIN,
        trust,
        plan(settings),
    )
}

/// The joiner has taken the snapshot; gives it its normal peer and sees it
/// follow the chain with the validator's own hashes.
async fn restored_and_following(joiner: &CometNode, validator: &CometNode, offer: &Offer) {
    let rpc = joiner.rpc();
    let app_hash = validator.rpc().app_hash_after(offer.height).await.unwrap();
    wait_until("the restore", async || {
        matches!(
            rpc.restored(offer.height, &app_hash).await,
            Ok(Restored::State)
        )
    })
    .await;
    // What the log says only confirms what the RPC told.
    wait_until("the log line", async || {
        joiner.log_count("Snapshot restored") == 1
    })
    .await;
    let status = rpc.status().await.unwrap();
    assert_eq!((status.height, status.chain_id.as_str()), (0, CHAIN));

    rpc.dial_peers(&[validator.address()]).await.unwrap();
    let goal = offer.height + 3;
    joiner.wait_for_height(goal + 1).await;
    assert!(matches!(
        rpc.restored(offer.height, &app_hash).await.unwrap(),
        Restored::Following { height, .. } if height > goal
    ));
    assert_eq!(
        rpc.app_hash_after(goal).await.unwrap(),
        validator.rpc().app_hash_after(goal).await.unwrap(),
        "the same state as the validator's"
    );
    assert_eq!(
        rpc.peer_count().await.unwrap(),
        2,
        "the feeder and the validator"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harvested_snapshot_is_the_nodes_own_and_a_joiner_that_dials_us_restores_it() {
    let home = tempfile::tempdir().unwrap();
    let (validator, snapshot) = validator_with_snapshot(&home.path().join("v"), 3).await;
    let own = format!("data/app/snapshots/{}.json", snapshot.offer.height);
    assert_eq!(
        snapshot.chunks.concat(),
        std::fs::read(validator.home.join(own)).unwrap(),
        "byte for byte the file of the application"
    );

    // The e2e application's snapshot hash is its application hash.
    let rpc = validator.rpc();
    let height = snapshot.offer.height;
    assert_eq!(
        rpc.app_hash_after(height).await.unwrap(),
        snapshot.offer.hash
    );
    assert!(matches!(
        rpc.app_hash_after(height + 1_000_000).await,
        Err(RpcError::TooNew { .. })
    ));
    assert_eq!(rpc.chain_id().await.unwrap(), CHAIN);

    let identity = Identity::generate();
    let listen: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let mut joining = joiner(
        &home.path().join("j"),
        &validator,
        &snapshot.offer,
        Table::new(),
    )
    .await;
    let offer = snapshot.offer.clone();
    let settings = FeedSettings {
        node: joining.address(),
        listen: Some(listen),
        chain_id: Some(CHAIN.to_owned()),
    };
    let feeding = Feeding::start(settings, &identity, &offer, Arc::new(snapshot));
    let bound = bound_address(&feeding).await;
    let us = format!("{}@{bound}", identity.id());
    joining.configure(p2p_settings(toml::toml! { persistent_peers = us }));
    joining.start();
    restored_and_following(&joining, &validator, &offer).await;
    let (stats, events) = feeding.end().await;
    assert_eq!(stats.connections, 1, "never dropped: {events:?}");
    assert_eq!(stats.chunks_sent, u64::from(offer.chunks), "{events:?}");
}

async fn bound_address(feeding: &Feeding) -> SocketAddr {
    let mut bound = None;
    wait_until("the feeder's listener", async || {
        bound = feeding
            .events
            .lock()
            .unwrap()
            .iter()
            .find_map(|event| match event {
                FeedEvent::Listening { addr } => Some(*addr),
                _ => None,
            });
        bound.is_some()
    })
    .await;
    bound.unwrap()
}

/// Gives the first chunk and keeps the others back until it is stopped.
struct Halting {
    snapshot: Snapshot,
    given: AtomicU32,
    stop: Stop,
}

impl ChunkSource for Halting {
    fn chunk(&self, index: u32) -> io::Result<Bytes> {
        if self.given.fetch_add(1, Ordering::SeqCst) > 0 {
            self.stop.wait(Duration::from_secs(60));
        }
        self.snapshot.chunk(index)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feeder_that_dies_midway_comes_back_and_the_joiner_finishes() {
    let home = tempfile::tempdir().unwrap();
    let (validator, snapshot) = validator_with_snapshot(&home.path().join("v"), 3).await;
    let identity = Identity::generate();
    let us = identity.id().to_string();
    // The other way to meet: nobody gets in but us, and we dial.
    let settings = p2p_settings(toml::toml! {
        max_num_inbound_peers = 0
        unconditional_peer_ids = us
    });
    let mut joining = joiner(
        &home.path().join("j"),
        &validator,
        &snapshot.offer,
        settings,
    )
    .await;
    let feed_settings = FeedSettings {
        node: joining.address(),
        listen: None,
        chain_id: Some(CHAIN.to_owned()),
    };
    let offer = snapshot.offer.clone();

    let halting = Arc::new(Halting {
        snapshot,
        given: AtomicU32::new(0),
        stop: Stop::new(),
    });
    let first = Feeding::start(feed_settings.clone(), &identity, &offer, halting.clone());
    joining.start();
    wait_until("the first chunk", async || {
        halting.given.load(Ordering::SeqCst) > 1
    })
    .await;
    halting.stop.stop();
    first.stop.stop();
    let (stats, events) = first.end().await;
    assert!(stats.chunks_sent < u64::from(offer.chunks), "{events:?}");
    assert_eq!(joining.log_count("Snapshot restored"), 0);

    let halting = Arc::into_inner(halting).unwrap();
    let second = Feeding::start(feed_settings, &identity, &offer, Arc::new(halting.snapshot));
    restored_and_following(&joining, &validator, &offer).await;
    let (stats, events) = second.end().await;
    assert!(
        stats.chunks_sent < u64::from(offer.chunks) + 1,
        "what the joiner had is not sent again: {events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harvester_outlives_restarts_of_its_node_and_says_gone_when_it_prunes() {
    let home = tempfile::tempdir().unwrap();
    let (mut validator, snapshot) = validator_with_snapshot(&home.path().join("v"), 3).await;
    let mut source = harvester(&validator);
    let offer = snapshot.offer.clone();

    // A node that is killed while a snapshot is read, and comes back.
    let (first_is_read, wait_for_first) = tokio::sync::oneshot::channel();
    let (restarted, wait_for_restart) = std::sync::mpsc::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let listed = source.list().unwrap();
        assert!(listed.contains(&offer), "still there: {listed:?}");
        assert!(listed.is_sorted_by_key(|offer| std::cmp::Reverse(offer.height)));
        assert!(listed.len() <= 10);
        let mut reading = source.open(&offer).unwrap();
        let mut chunks = vec![reading.next_chunk().unwrap().unwrap()];
        first_is_read.send(()).unwrap();
        wait_for_restart.recv().unwrap();
        while let Some(chunk) = reading.next_chunk().unwrap() {
            chunks.push(chunk);
        }
        assert_eq!(chunks, snapshot.chunks);
        drop(reading);
        let oldest = source.list().unwrap().pop().unwrap();
        (source, oldest)
    });
    wait_for_first.await.unwrap();
    validator.kill();
    validator.start();
    restarted.send(()).unwrap();
    let (mut source, oldest) = reading.await.unwrap();

    // A snapshot that is pruned before it is read to its end: the application
    // keeps ten.
    let gone = oldest.height + 11 * 5;
    validator.wait_for_height(gone + 1).await;
    let error = blocking(move || {
        let mut reading = source.open(&oldest).unwrap();
        let error = reading.next_chunk().unwrap_err();
        (error, oldest.height)
    })
    .await;
    assert!(
        matches!(error, (SourceError::Gone { height, .. }, wanted) if height == wanted),
        "{error:?}"
    );

    // Nobody there at all: an error that says so, and not at once again and
    // again.
    validator.kill();
    let mut source = harvester(&validator);
    let start = Instant::now();
    let errors = blocking(move || {
        (0..4)
            .map(|_| source.list().unwrap_err().to_string())
            .collect::<Vec<_>>()
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(250 + 500 + 1000));
    assert!(
        errors
            .iter()
            .all(|error| error.contains("cannot reach the node")),
        "{errors:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_node_and_the_wrong_chain_are_refused_and_a_full_node_is_told_from_them() {
    let home = tempfile::tempdir().unwrap();
    let mut validator = CometNode::validator(
        &comet_tools(),
        &home.path().join("v"),
        CHAIN,
        plan(p2p_settings(toml::toml! { max_num_inbound_peers = 0 })),
    );
    validator.start();
    validator.wait_for_height(1).await;
    let offer = Offer {
        height: 5,
        format: 1,
        chunks: 1,
        hash: Bytes::from_static(b"hash"),
        metadata: Bytes::new(),
    };
    let try_to_feed = |node: NodeAddress, chain_id: &str| {
        let settings = FeedSettings {
            node,
            listen: None,
            chain_id: Some(chain_id.to_owned()),
        };
        let offer = offer.clone();
        let snapshot = Snapshot {
            offer: offer.clone(),
            chunks: vec![],
        };
        blocking(move || {
            feed(
                &settings,
                &Identity::generate(),
                &offer,
                &snapshot,
                &mut |_| {},
                &Stop::new(),
            )
        })
    };
    let other = NodeAddress {
        id: Identity::generate().id(),
        ..validator.address()
    };
    assert!(matches!(
        try_to_feed(other, CHAIN).await,
        Err(PeerError::WrongNode { .. })
    ));
    assert!(matches!(
        try_to_feed(validator.address(), "another-chain").await,
        Err(PeerError::WrongChain { .. })
    ));
    let mut source = harvester(&validator);
    let full = blocking(move || source.list().unwrap_err().to_string()).await;
    assert!(full.contains("unconditional_peer_ids"), "{full}");
}
