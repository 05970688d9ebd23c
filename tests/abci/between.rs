//! A running adapter, a shelf that does what a test says, and the calls of CometBFT.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use snapswarm::abci::{
    Adapter, AdapterSettings, Address, Chain, CommitHold, Learnt, Offered, Snapshots, Standing,
    Times, Verdict, Verified,
};
use snapswarm::snapshot::{ChunkId, Offer, hash};
use tendermint_proto::v0_38::abci::{
    RequestApplySnapshotChunk, RequestCheckTx, RequestFinalizeBlock, RequestListSnapshots,
    RequestLoadSnapshotChunk, RequestOfferSnapshot, Snapshot, request, response,
};
use tokio_util::sync::CancellationToken;

use crate::app::FakeApp;
use crate::node::Node;

/// The application hash that CometBFT trusts.
pub const APP_HASH: &[u8] = b"the trusted application hash";

/// What a test's shelf does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    Panics,
    Hangs,
}

/// A shelf with one snapshot of height 10.
pub struct Shelf {
    chunks: Arc<Vec<Bytes>>,
    mood: Mutex<Mood>,
    /// What it says to an offer; "wait" and "hold": it is to wait, for ever with the
    /// second.
    pub verdict: Mutex<&'static str>,
    pub app_version: Option<u64>,
    pub readable: Arc<AtomicBool>,
    pub asked: AtomicU64,
    /// Chunks that are being read, and the most there were at once.
    pub reading: AtomicU64,
    pub most_reading: AtomicU64,
}

impl Shelf {
    pub fn new() -> Self {
        Self {
            chunks: Arc::new(vec!["one".into(), "two".into(), "three".into()]),
            mood: Mutex::new(Mood::Well),
            verdict: Mutex::new("checked"),
            app_version: None,
            readable: Arc::new(AtomicBool::new(true)),
            asked: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            most_reading: AtomicU64::new(0),
        }
    }

    pub fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn mood(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => {}
            Mood::Panics => panic!("as the test says"),
            Mood::Hangs => std::thread::sleep(Duration::from_secs(3600)),
        }
    }

    fn offer() -> Offer {
        Offer {
            height: 10,
            format: 1,
            chunks: 3,
            hash: "hash".into(),
            metadata: "metadata".into(),
        }
    }
}

pub struct Held(Arc<Vec<Bytes>>, Arc<AtomicBool>);

impl Verified for Held {
    fn id(&self, chunk: u32) -> Option<ChunkId> {
        Some(ChunkId(hash::sha256(self.0.get(chunk as usize)?)))
    }

    fn chunk(&self, chunk: u32) -> std::io::Result<Bytes> {
        match self.1.load(Ordering::SeqCst) {
            true => Ok(self.0[chunk as usize].clone()),
            false => Err(std::io::Error::other("the disk is gone")),
        }
    }
}

impl Snapshots for Shelf {
    fn list(&self, chain: &Chain) -> Vec<Offer> {
        self.mood();
        let offer = Self::offer();
        (offer.height + 2 <= chain.tip)
            .then_some(offer)
            .into_iter()
            .collect()
    }

    fn chunk(&self, _: &Chain, _: u64, _: u32, chunk: u32) -> Option<Bytes> {
        self.mood();
        let reading = self.reading.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_reading.fetch_max(reading, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        self.reading.fetch_sub(1, Ordering::SeqCst);
        self.chunks.get(chunk as usize).cloned()
    }

    fn offered(&self, _: &Chain, offered: &Offered) -> Verdict {
        self.mood();
        match *self.verdict.lock().unwrap() {
            "wait" if !offered.may_wait => Verdict::Reject("it took too long".to_owned()),
            "wait" | "hold" => Verdict::Wait("it is coming".to_owned()),
            "checked" => {
                Verdict::Checked(Arc::new(Held(self.chunks.clone(), self.readable.clone())))
            }
            "unchecked" => Verdict::Unchecked,
            reason => Verdict::Reject(reason.to_owned()),
        }
    }

    fn app_version(&self, _: &Chain, _: u64) -> Option<u64> {
        self.app_version
    }

    fn snapshots(&self, _: &Chain) -> Vec<u8> {
        self.mood();
        b"{\"snapshots\":[]}".to_vec()
    }

    fn sync_status(&self, chain: &Chain, standing: &Standing) -> Vec<u8> {
        self.mood();
        let restoring = standing.restoring.as_ref();
        format!(
            "{:?} {:?}",
            chain.id,
            restoring.map(|one| (one.applied, one.replaced))
        )
        .into_bytes()
    }
}

/// Pauses that no test waits for; patience that no test wears out.
pub fn short() -> Times {
    Times {
        ask_again: Duration::from_millis(5),
        unreadable: [1, 2, 3].map(Duration::from_millis),
        ..Times::default()
    }
}

fn settings(app: &Address, listen: &str, times: Times) -> AdapterSettings {
    AdapterSettings {
        app: app.clone(),
        listen: listen.parse().unwrap(),
        chain_id: None,
        times,
    }
}

/// A running adapter before an application.
pub struct Between {
    pub address: Address,
    pub shelf: Arc<Shelf>,
    pub learnt: Learnt,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Between {
    pub fn start(app: &Address) -> Self {
        Self::with(app, "tcp://127.0.0.1:0", Shelf::new())
    }

    pub fn with(app: &Address, listen: &str, shelf: Shelf) -> Self {
        Self::patient(app, listen, shelf, short())
    }

    /// One that was told its chain.
    pub fn saying(app: &Address, chain_id: &str) -> Self {
        let mut settings = settings(app, "tcp://127.0.0.1:0", short());
        settings.chain_id = Some(chain_id.to_owned());
        Self::of(settings, Shelf::new(), None)
    }

    /// One that is as patient as a test says.
    pub fn patient(app: &Address, listen: &str, shelf: Shelf, times: Times) -> Self {
        Self::of(settings(app, listen, times), shelf, None)
    }

    /// One that holds answers to Commit.
    pub fn holding(app: &Address, hold: CommitHold) -> Self {
        let settings = settings(app, "tcp://127.0.0.1:0", short());
        Self::of(settings, Shelf::new(), Some(hold))
    }

    fn of(settings: AdapterSettings, shelf: Shelf, hold: Option<CommitHold>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shelf = Arc::new(shelf);
        let adapter = runtime
            .block_on(Adapter::bind(settings, shelf.clone()))
            .unwrap();
        if let Some(hold) = hold {
            adapter.hold_commits(hold);
        }
        let (address, learnt) = (adapter.address().clone(), adapter.learnt());
        let stop = CancellationToken::new();
        runtime.spawn(adapter.run(stop.clone()));
        Self {
            address,
            shelf,
            learnt,
            stop,
            _runtime: runtime,
        }
    }

    pub fn node(&self) -> Node {
        Node::connect(&self.address)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.stop.cancel();
        // A shelf that hangs is not waited for.
        let runtime = std::mem::replace(
            &mut self._runtime,
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
        );
        runtime.shutdown_background();
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn check_tx(text: &str) -> request::Value {
    let tx = Bytes::copy_from_slice(text.as_bytes());
    request::Value::CheckTx(RequestCheckTx { tx, r#type: 0 })
}

pub fn block(height: i64, hash: &'static str) -> request::Value {
    request::Value::FinalizeBlock(RequestFinalizeBlock {
        height,
        hash: hash.into(),
        ..Default::default()
    })
}

pub fn offer() -> request::Value {
    let offer = Shelf::offer();
    request::Value::OfferSnapshot(RequestOfferSnapshot {
        snapshot: Some(Snapshot {
            height: offer.height,
            format: offer.format,
            chunks: offer.chunks,
            hash: offer.hash,
            metadata: offer.metadata,
        }),
        app_hash: APP_HASH.into(),
    })
}

pub fn apply(index: u32, chunk: impl Into<Bytes>) -> request::Value {
    request::Value::ApplySnapshotChunk(RequestApplySnapshotChunk {
        index,
        chunk: chunk.into(),
        sender: format!("peer{index}"),
    })
}

pub fn load(chunk: u32) -> request::Value {
    request::Value::LoadSnapshotChunk(RequestLoadSnapshotChunk {
        height: 10,
        format: 1,
        chunk,
    })
}

/// The bytes of a chunk that was loaded.
pub fn loaded(answer: response::Value) -> Bytes {
    match answer {
        response::Value::LoadSnapshotChunk(answer) => answer.chunk,
        other => panic!("{other:?}"),
    }
}

/// Result and rejected senders of an answer about a chunk.
pub fn applied(answer: response::Value) -> (i32, Vec<String>) {
    match answer {
        response::Value::ApplySnapshotChunk(answer) => (answer.result, answer.reject_senders),
        other => panic!("{other:?}"),
    }
}

pub fn offered(answer: &response::Value) -> i32 {
    match answer {
        response::Value::OfferSnapshot(answer) => answer.result,
        other => panic!("{other:?}"),
    }
}

pub fn listed(node: &mut Node) -> Vec<u64> {
    let asked = request::Value::ListSnapshots(RequestListSnapshots {});
    match node.call(asked) {
        response::Value::ListSnapshots(list) => {
            list.snapshots.iter().map(|one| one.height).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The bytes of the chunks that the application was given.
pub fn given(app: &FakeApp) -> Vec<Bytes> {
    let chunk = |call| match call {
        request::Value::ApplySnapshotChunk(apply) => Some(apply.chunk),
        _ => None,
    };
    app.calls().into_iter().filter_map(chunk).collect()
}
