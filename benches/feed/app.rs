//! An application that has one snapshot of made-up bytes and takes any: nothing of
//! its own costs time, so that what moves the chunks is what is measured.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tendermint_proto::v0_38::abci::{
    Request, Response, ResponseApplySnapshotChunk, ResponseCommit, ResponseEcho,
    ResponseFinalizeBlock, ResponseFlush, ResponseInfo, ResponseInitChain, ResponseListSnapshots,
    ResponseLoadSnapshotChunk, ResponseOfferSnapshot, ResponsePrepareProposal,
    ResponseProcessProposal, ResponseQuery, Snapshot, request, response,
};

use super::frame::read_frame;

/// The application hash of every height.
pub const APP_HASH: [u8; 32] = [7; 32];
/// What CometBFT calls ACCEPT, in all its answers.
const ACCEPT: i32 = 1;
/// Between two chunks in the buffer from which all are cut.
const STEP: usize = 4093;

/// A snapshot whose chunks are windows into one buffer.
pub struct Blob {
    pub height: u64,
    pub chunks: u32,
    chunk_bytes: usize,
    buffer: Bytes,
}

impl Blob {
    pub fn new(height: u64, chunks: u32, chunk_bytes: usize) -> Self {
        let mut buffer = vec![0; chunk_bytes + chunks as usize * STEP];
        ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut buffer);
        Self {
            height,
            chunks,
            chunk_bytes,
            buffer: buffer.into(),
        }
    }

    pub fn chunk(&self, index: u32) -> Bytes {
        let from = index as usize * STEP;
        self.buffer.slice(from..from + self.chunk_bytes)
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.chunks) * self.chunk_bytes as u64
    }
}

#[derive(Default)]
struct State {
    height: u64,
    offered_at: Option<Instant>,
    restored_in: Option<Duration>,
}

/// The application, on threads that end with their connections.
pub struct App {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl App {
    pub fn start(blob: Arc<Blob>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("tcp://{}", listener.local_addr()?);
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, blob) = (shared.clone(), blob.clone());
                std::thread::spawn(move || serve(stream, &state, &blob));
            }
        });
        Ok(Self { address, state })
    }

    /// From the offer that was accepted to the last chunk.
    pub fn restored_in(&self) -> Option<Duration> {
        lock(&self.state).restored_in
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the connection ends.
fn serve(mut stream: TcpStream, state: &Mutex<State>, blob: &Blob) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut calls = BufReader::with_capacity(1 << 20, stream.try_clone().ok()?);
    while let Some(body) = read_frame(&mut calls).ok()? {
        let asked = Request::decode(Bytes::from(body)).ok()?.value?;
        let value = Some(answer(asked, state, blob));
        let bytes = Response { value }.encode_length_delimited_to_vec();
        stream.write_all(&bytes).ok()?;
    }
    None
}

fn answer(asked: request::Value, state: &Mutex<State>, blob: &Blob) -> response::Value {
    use request::Value as Asked;
    use response::Value as Answer;
    match asked {
        Asked::Echo(echo) => Answer::Echo(ResponseEcho {
            message: echo.message,
        }),
        Asked::Flush(_) => Answer::Flush(ResponseFlush {}),
        Asked::Info(_) => Answer::Info(ResponseInfo {
            app_version: 1,
            last_block_height: lock(state).height as i64,
            last_block_app_hash: Bytes::copy_from_slice(&APP_HASH),
            ..Default::default()
        }),
        Asked::InitChain(_) => Answer::InitChain(ResponseInitChain {
            app_hash: Bytes::copy_from_slice(&APP_HASH),
            ..Default::default()
        }),
        Asked::PrepareProposal(asked) => {
            Answer::PrepareProposal(ResponsePrepareProposal { txs: asked.txs })
        }
        Asked::ProcessProposal(_) => {
            Answer::ProcessProposal(ResponseProcessProposal { status: ACCEPT })
        }
        Asked::FinalizeBlock(block) => {
            lock(state).height = block.height as u64;
            Answer::FinalizeBlock(ResponseFinalizeBlock {
                app_hash: Bytes::copy_from_slice(&APP_HASH),
                ..Default::default()
            })
        }
        Asked::Commit(_) => Answer::Commit(ResponseCommit::default()),
        Asked::ListSnapshots(_) => Answer::ListSnapshots(ResponseListSnapshots {
            snapshots: listed(state, blob),
        }),
        Asked::LoadSnapshotChunk(asked) => Answer::LoadSnapshotChunk(ResponseLoadSnapshotChunk {
            chunk: blob.chunk(asked.chunk),
        }),
        Asked::OfferSnapshot(_) => {
            lock(state).offered_at = Some(Instant::now());
            Answer::OfferSnapshot(ResponseOfferSnapshot { result: ACCEPT })
        }
        Asked::ApplySnapshotChunk(asked) => {
            if asked.index + 1 == blob.chunks {
                let mut state = lock(state);
                state.height = blob.height;
                state.restored_in = state.offered_at.map(|at| at.elapsed());
            }
            Answer::ApplySnapshotChunk(ResponseApplySnapshotChunk {
                result: ACCEPT,
                ..Default::default()
            })
        }
        _ => Answer::Query(ResponseQuery::default()),
    }
}

fn listed(state: &Mutex<State>, blob: &Blob) -> Vec<Snapshot> {
    let is_there = lock(state).height >= blob.height;
    let snapshot = Snapshot {
        height: blob.height,
        format: 1,
        chunks: blob.chunks,
        hash: Bytes::from_static(b"blob"),
        metadata: Bytes::new(),
    };
    is_there.then_some(snapshot).into_iter().collect()
}
