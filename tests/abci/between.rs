//! A running adapter, a shelf that does what a test says, and the calls of CometBFT.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use snapswarm::abci::{
    Adapter, AdapterSettings, Address, Chain, Learnt, Restoring, Snapshots, Verdict, Verified,
};
use snapswarm::snapshot::{ChunkId, Offer, hash};
use tendermint_proto::v0_38::abci::{
    RequestApplySnapshotChunk, RequestCheckTx, RequestFinalizeBlock, RequestListSnapshots,
    RequestOfferSnapshot, Snapshot, request, response,
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
    pub verdict: Mutex<&'static str>,
    pub app_version: Option<u64>,
    pub readable: Arc<AtomicBool>,
    pub asked: AtomicU64,
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
        self.chunks.get(chunk as usize).cloned()
    }

    fn offered(&self, _: &Chain, _: &Offer, _: &Bytes) -> Verdict {
        self.mood();
        match *self.verdict.lock().unwrap() {
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

    fn sync_status(&self, chain: &Chain, restoring: Option<&Restoring>) -> Vec<u8> {
        self.mood();
        format!(
            "{:?} {:?}",
            chain.id,
            restoring.map(|one| (one.applied, one.replaced))
        )
        .into_bytes()
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shelf = Arc::new(shelf);
        let settings = AdapterSettings {
            app: app.clone(),
            listen: listen.parse().unwrap(),
            chain_id: None,
        };
        let adapter = runtime
            .block_on(Adapter::bind(settings, shelf.clone()))
            .unwrap();
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
