//! CometBFT's side of a connection, and a snapshot to join from.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tendermint_proto::v0_38::abci::response_apply_snapshot_chunk::Result as Applied;
use tendermint_proto::v0_38::abci::response_offer_snapshot::Result as Offered;
use tendermint_proto::v0_38::abci::{
    Request, RequestApplySnapshotChunk, RequestCommit, RequestFinalizeBlock, RequestInfo,
    RequestInitChain, RequestListSnapshots, RequestLoadSnapshotChunk, RequestOfferSnapshot,
    RequestQuery, Response, ResponseApplySnapshotChunk, ResponseInfo, Snapshot, request, response,
};

use crate::scripted_app::{ScriptedApp, read_frame};

/// CometBFT's side of a connection. It sends no Flush: the application waits for none.
pub struct Node(pub BufReader<TcpStream>);

impl Node {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address.strip_prefix("tcp://").unwrap()).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, value: request::Value) {
        let value = Some(value);
        self.send_bytes(&Request { value }.encode_length_delimited_to_vec());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The next answer; nothing when the connection has ended.
    pub fn answer(&mut self) -> Option<response::Value> {
        let body = read_frame(&mut self.0).ok()??;
        Response::decode(&*body).unwrap().value
    }

    pub fn call(&mut self, value: request::Value) -> response::Value {
        self.send(value);
        self.answer().unwrap()
    }

    /// A call; nothing when the connection ends first.
    pub fn ask(&mut self, value: request::Value) -> Option<response::Value> {
        let value = Some(value);
        let bytes = Request { value }.encode_length_delimited_to_vec();
        self.0.get_mut().write_all(&bytes).ok()?;
        self.answer()
    }

    pub fn info(&mut self) -> ResponseInfo {
        match self.call(request::Value::Info(RequestInfo::default())) {
            response::Value::Info(info) => info,
            other => panic!("{other:?}"),
        }
    }

    /// A block; its application hash.
    pub fn block(&mut self, height: i64, txs: &[&str]) -> Bytes {
        let hash = match self.call(finalize(height, txs)) {
            response::Value::FinalizeBlock(block) => block.app_hash,
            other => panic!("{other:?}"),
        };
        self.call(request::Value::Commit(RequestCommit {}));
        hash
    }

    pub fn snapshots(&mut self) -> Vec<Snapshot> {
        match self.call(request::Value::ListSnapshots(RequestListSnapshots {})) {
            response::Value::ListSnapshots(list) => list.snapshots,
            other => panic!("{other:?}"),
        }
    }

    pub fn chunks(&mut self, snapshot: &Snapshot) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        for chunk in 0..snapshot.chunks {
            chunks.push(self.chunk(snapshot.height, snapshot.format, chunk));
        }
        chunks
    }

    pub fn chunk(&mut self, height: u64, format: u32, chunk: u32) -> Bytes {
        let load = RequestLoadSnapshotChunk {
            height,
            format,
            chunk,
        };
        match self.call(request::Value::LoadSnapshotChunk(load)) {
            response::Value::LoadSnapshotChunk(answer) => answer.chunk,
            other => panic!("{other:?}"),
        }
    }

    pub fn offer(&mut self, made: &Made) -> Offered {
        self.offer_of(made.snapshot.clone(), made.app_hash.clone())
    }

    pub fn offer_of(&mut self, snapshot: Snapshot, app_hash: Bytes) -> Offered {
        let snapshot = Some(snapshot);
        let offer = RequestOfferSnapshot { snapshot, app_hash };
        match self.call(request::Value::OfferSnapshot(offer)) {
            response::Value::OfferSnapshot(answer) => answer.result(),
            other => panic!("{other:?}"),
        }
    }

    pub fn apply(&mut self, made: &Made, index: u32) -> Applied {
        self.apply_bytes(index, made.chunks[index as usize].clone())
            .result()
    }

    pub fn apply_bytes(&mut self, index: u32, chunk: Bytes) -> ResponseApplySnapshotChunk {
        match self.call(apply(index, chunk)) {
            response::Value::ApplySnapshotChunk(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Offers, and applies chunks while they are accepted; the last answer.
    pub fn restore(&mut self, made: &Made) -> Applied {
        assert_eq!(self.offer(made), Offered::Accept);
        let mut result = Applied::Unknown;
        for index in 0..made.snapshot.chunks {
            result = self.apply(made, index);
            if result != Applied::Accept {
                break;
            }
        }
        result
    }
}

pub fn finalize(height: i64, txs: &[&str]) -> request::Value {
    request::Value::FinalizeBlock(RequestFinalizeBlock {
        height,
        txs: txs.iter().map(|tx| Bytes::from((*tx).to_owned())).collect(),
        ..Default::default()
    })
}

pub fn apply(index: u32, chunk: Bytes) -> request::Value {
    request::Value::ApplySnapshotChunk(RequestApplySnapshotChunk {
        index,
        chunk,
        sender: format!("peer\n{index}"),
    })
}

pub fn value_of(node: &mut Node, key: &str) -> Option<Bytes> {
    let query = RequestQuery {
        data: key.to_owned().into(),
        ..Default::default()
    };
    match node.call(request::Value::Query(query)) {
        response::Value::Query(answer) => (answer.code == 0).then_some(answer.value),
        other => panic!("{other:?}"),
    }
}

/// A snapshot of height 2, and what it is of.
pub struct Made {
    pub snapshot: Snapshot,
    pub chunks: Vec<Bytes>,
    pub app_hash: Bytes,
}

pub const OPTIONS: [&str; 4] = ["--snapshot-interval", "2", "--chunk-bytes", "40"];

pub fn made() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let app = ScriptedApp::start(&folder.path().join("app"), &OPTIONS);
    let mut node = Node::connect(&app.address);
    node.call(request::Value::InitChain(RequestInitChain::default()));
    node.block(1, &["one=1", "two=2"]);
    let app_hash = node.block(2, &["one=11", "empty=", "more==x"]);
    let snapshot = node.snapshots().pop().unwrap();
    let chunks = node.chunks(&snapshot);
    assert!(chunks.len() > 2);
    Made {
        snapshot,
        chunks,
        app_hash,
    }
}
