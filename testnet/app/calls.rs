//! What each call does. An error ends the program.

use std::path::PathBuf;

use anyhow::bail;
use bytes::Bytes;
use tendermint_proto::v0_38::abci::response_apply_snapshot_chunk::Result as Applied;
use tendermint_proto::v0_38::abci::response_offer_snapshot::Result as Offered;
use tendermint_proto::v0_38::abci::response_process_proposal::ProposalStatus;
use tendermint_proto::v0_38::abci::response_verify_vote_extension::VerifyStatus;
use tendermint_proto::v0_38::abci::{
    ExecTxResult, RequestApplySnapshotChunk, RequestFinalizeBlock, RequestInitChain,
    RequestLoadSnapshotChunk, RequestOfferSnapshot, RequestPrepareProposal, RequestQuery,
    ResponseApplySnapshotChunk, ResponseCheckTx, ResponseCommit, ResponseEcho, ResponseException,
    ResponseExtendVote, ResponseFinalizeBlock, ResponseFlush, ResponseInfo, ResponseInitChain,
    ResponseListSnapshots, ResponseLoadSnapshotChunk, ResponseOfferSnapshot,
    ResponsePrepareProposal, ResponseProcessProposal, ResponseQuery, ResponseVerifyVoteExtension,
    request, response,
};

use super::Options;
use super::log::Log;
use super::restore::{Restoring, Step};
use super::script::{Acting, Before, Denied, Retold};
use super::snapshots::Snapshots;
use super::state::{State, StateFolder, Values, replace};

/// What Info and the headers of a chain without consensus parameters of its own say.
const APP_VERSION: u64 = 1;
/// The code of a transaction or a query that is none.
const REFUSED: u32 = 1;
/// Characters of a text from outside in a line of the log.
const MAX_LOG_CHARS: usize = 64;

/// The application behind all connections.
pub struct App {
    folder: StateFolder,
    state: State,
    /// After FinalizeBlock, before Commit.
    pending: Option<State>,
    first_height: u64,
    snapshots: Snapshots,
    restoring: Option<Restoring>,
    /// Is there while a snapshot is taken, where the script says so.
    part: PathBuf,
    /// Whether it was there when the snapshot was offered.
    stumbles: bool,
    /// The height at which Info tells something wrong.
    denied: Option<(u64, Denied)>,
    acting: Acting,
    empty_check: bool,
    log: Log,
}

impl App {
    /// The application as an earlier process left it.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let (folder, state) = StateFolder::open(&options.data)?;
        let mut log = Log::open(options)?;
        let hash = hex::encode(state.app_hash);
        log.line(format_args!(
            "start height={} app_hash={hash}",
            state.height
        ));
        Ok(Self {
            folder,
            state,
            pending: None,
            first_height: 1,
            snapshots: Snapshots::open(options)?,
            restoring: None,
            part: options.data.join("part"),
            stumbles: false,
            denied: None,
            acting: Acting::open(options.script.clone(), options.marks())?,
            empty_check: options.empty_check,
            log,
        })
    }

    /// What the script wants before a call is answered.
    pub fn before(&mut self, asked: &request::Value) -> anyhow::Result<Vec<Before>> {
        let request::Value::ApplySnapshotChunk(apply) = asked else {
            return Ok(Vec::new());
        };
        let before = self.acting.before(apply.index)?;
        for one in &before {
            self.log
                .line(format_args!("apply index={} : {one:?}", apply.index));
        }
        Ok(before)
    }

    /// Answers a call.
    pub fn answer(&mut self, asked: request::Value) -> anyhow::Result<response::Value> {
        use request::Value as Asked;
        use response::Value;
        Ok(match asked {
            Asked::Echo(echo) => Value::Echo(ResponseEcho {
                message: echo.message,
            }),
            Asked::Flush(_) => Value::Flush(ResponseFlush {}),
            Asked::Info(_) => Value::Info(self.info()),
            Asked::InitChain(init) => self.init_chain(&init)?,
            Asked::Query(query) => Value::Query(self.query(query)),
            Asked::CheckTx(check) => Value::CheckTx(match Values::read_tx(&check.tx) {
                Ok(_) => ResponseCheckTx::default(),
                Err(log) => ResponseCheckTx {
                    code: REFUSED,
                    log: log.to_owned(),
                    ..Default::default()
                },
            }),
            Asked::PrepareProposal(prepare) => Value::PrepareProposal(proposal(prepare)),
            Asked::ProcessProposal(_) => Value::ProcessProposal(ResponseProcessProposal {
                status: ProposalStatus::Accept.into(),
            }),
            Asked::ExtendVote(_) => Value::ExtendVote(ResponseExtendVote::default()),
            Asked::VerifyVoteExtension(_) => {
                Value::VerifyVoteExtension(ResponseVerifyVoteExtension {
                    status: VerifyStatus::Accept.into(),
                })
            }
            Asked::FinalizeBlock(block) => self.finalize_block(block)?,
            Asked::Commit(_) => Value::Commit(self.commit()?),
            Asked::ListSnapshots(_) => Value::ListSnapshots(self.list()),
            Asked::LoadSnapshotChunk(load) => Value::LoadSnapshotChunk(self.load(load)),
            Asked::OfferSnapshot(offer) => Value::OfferSnapshot(self.offered(offer)?),
            Asked::ApplySnapshotChunk(apply) => Value::ApplySnapshotChunk(self.apply(&apply)?),
        })
    }

    fn info(&mut self) -> ResponseInfo {
        let mut app_hash = self.state.app_hash;
        let mut app_version = APP_VERSION;
        match self.denied {
            Some((height, Denied::Hash)) if height == self.state.height => app_hash[0] ^= 0xff,
            Some((height, Denied::Version)) if height == self.state.height => app_version += 1,
            _ => {}
        }
        let (height, hash) = (self.state.height, hex::encode(app_hash));
        self.log
            .line(format_args!("info -> height={height} app_hash={hash}"));
        ResponseInfo {
            data: "testnet-app".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            app_version,
            last_block_height: self.state.height as i64,
            // Nothing is said of the hash before there is a state.
            last_block_app_hash: match height {
                0 => Bytes::new(),
                _ => app_hash.to_vec().into(),
            },
        }
    }

    fn init_chain(&mut self, init: &RequestInitChain) -> anyhow::Result<response::Value> {
        self.reset()?;
        self.first_height = u64::try_from(init.initial_height).unwrap_or(0).max(1);
        Ok(response::Value::InitChain(ResponseInitChain {
            app_hash: self.state.app_hash.to_vec().into(),
            ..Default::default()
        }))
    }

    /// As before the first block.
    fn reset(&mut self) -> anyhow::Result<()> {
        self.restoring = None;
        self.pending = None;
        self.denied = None;
        self.state = State::empty();
        self.folder.save(&self.state)?;
        self.snapshots.clear()
    }

    fn query(&self, query: RequestQuery) -> ResponseQuery {
        let key = match query.data.is_empty() {
            true => query.path.trim_start_matches('/').to_owned().into(),
            false => query.data,
        };
        let value = self.state.values.get(&key).cloned();
        ResponseQuery {
            code: if value.is_some() { 0 } else { REFUSED },
            log: match &value {
                Some(_) => String::new(),
                None => "no value has this key".to_owned(),
            },
            value: value.unwrap_or_default(),
            key,
            height: self.state.height as i64,
            ..Default::default()
        }
    }

    fn finalize_block(&mut self, block: RequestFinalizeBlock) -> anyhow::Result<response::Value> {
        let Some(height) = u64::try_from(block.height)
            .ok()
            .filter(|height| *height > 0)
        else {
            return Ok(exception(format!("no block has height {}", block.height)));
        };
        let next = match self.state.height {
            0 => self.first_height,
            last => last + 1,
        };
        if self.empty_check && height != next {
            self.log
                .line(format_args!("finalize height={height} : next is {next}"));
            bail!("FinalizeBlock is about height {height} where {next} is next");
        }
        let mut values = self.state.values.clone();
        let mut tx_results = Vec::with_capacity(block.txs.len());
        for tx in &block.txs {
            tx_results.push(match Values::read_tx(tx) {
                Ok((key, value)) => {
                    values.set(key, value);
                    ExecTxResult::default()
                }
                Err(log) => ExecTxResult {
                    code: REFUSED,
                    log: log.to_owned(),
                    ..Default::default()
                },
            });
        }
        let pending = match tx_results.iter().any(|result| result.code == 0) {
            true => State::new(height, values),
            // An empty block is not worth a hash over everything.
            false => State {
                height,
                ..self.state.clone()
            },
        };
        let app_hash = pending.app_hash.to_vec().into();
        self.pending = Some(pending);
        Ok(response::Value::FinalizeBlock(ResponseFinalizeBlock {
            tx_results,
            app_hash,
            ..Default::default()
        }))
    }

    fn commit(&mut self) -> anyhow::Result<ResponseCommit> {
        if let Some(state) = self.pending.take() {
            // Before the state: a kill in between has the block played again, and
            // the snapshot made again, where the other order would lack it.
            if self.snapshots.is_due(state.height) {
                let made = self.snapshots.take(&state)?;
                let (height, chunks) = (made.height, made.chunks);
                self.log
                    .line(format_args!("snapshot height={height} chunks={chunks}"));
            }
            self.folder.save(&state)?;
            self.state = state;
            self.denied = None;
        }
        Ok(ResponseCommit::default())
    }

    fn list(&mut self) -> ResponseListSnapshots {
        let snapshots = self.snapshots.list();
        let heights: Vec<u64> = snapshots.iter().map(|one| one.height).collect();
        self.log.line(format_args!("list -> heights={heights:?}"));
        ResponseListSnapshots { snapshots }
    }

    fn load(&mut self, load: RequestLoadSnapshotChunk) -> ResponseLoadSnapshotChunk {
        let (height, format, index) = (load.height, load.format, load.chunk);
        let chunk = self.snapshots.chunk(height, format, index);
        let len = chunk.len();
        self.log.line(format_args!(
            "load height={height} format={format} index={index} -> bytes={len}"
        ));
        ResponseLoadSnapshotChunk { chunk }
    }

    fn offered(&mut self, offer: RequestOfferSnapshot) -> anyhow::Result<ResponseOfferSnapshot> {
        let snapshot = offer.snapshot.unwrap_or_default();
        let (height, format, chunks) = (snapshot.height, snapshot.format, snapshot.chunks);
        let app_hash = hex::encode(&offer.app_hash);
        let result = match self.acting.offered(height)? {
            Some(result) => result,
            None => match Restoring::begin(snapshot, offer.app_hash) {
                Ok(restoring) => {
                    self.reset()?;
                    self.restoring = Some(restoring);
                    self.stumbles = self.part.exists();
                    Offered::Accept
                }
                Err(result) => result,
            },
        };
        if result != Offered::Accept {
            self.restoring = None;
        }
        self.log.line(format_args!(
            "offer height={height} format={format} chunks={chunks} app_hash={} -> {}",
            shown(&app_hash),
            result.as_str_name()
        ));
        let result = result.into();
        Ok(ResponseOfferSnapshot { result })
    }

    fn apply(
        &mut self,
        apply: &RequestApplySnapshotChunk,
    ) -> anyhow::Result<ResponseApplySnapshotChunk> {
        let index = apply.index;
        let mut reject_senders = Vec::new();
        let Retold { result, refetch } = match self.acting.applied(index)? {
            Some(retold) => retold,
            None => {
                let (result, is_fault) = self.take(index, &apply.chunk)?;
                if is_fault && !apply.sender.is_empty() {
                    reject_senders.push(apply.sender.clone());
                }
                let refetch = is_fault;
                Retold { result, refetch }
            }
        };
        if !matches!(result, Applied::Accept | Applied::Retry) {
            self.restoring = None;
        }
        self.log.line(format_args!(
            "apply index={index} bytes={} sender={} -> {}",
            apply.chunk.len(),
            shown(&apply.sender),
            result.as_str_name()
        ));
        Ok(ResponseApplySnapshotChunk {
            result: result.into(),
            refetch_chunks: Vec::from_iter(refetch.then_some(index)),
            reject_senders,
        })
    }

    /// Takes a chunk; the answer, and whether its sender is to blame.
    fn take(&mut self, index: u32, chunk: &[u8]) -> anyhow::Result<(Applied, bool)> {
        let Some(restoring) = self.restoring.as_mut().filter(|_| !self.stumbles) else {
            return Ok((Applied::Abort, false));
        };
        if self.acting.keeps_part()? {
            replace(&self.part, &[])?;
        }
        match restoring.apply(index, chunk) {
            Step::Answer { result, is_fault } => Ok((result, is_fault)),
            Step::Complete(state) => {
                self.folder.save(&state)?;
                self.restoring = None;
                if self.part.exists() {
                    std::fs::remove_file(&self.part)?;
                }
                self.denied = self.acting.denies()?.map(|what| (state.height, what));
                let hash = hex::encode(state.app_hash);
                self.log.line(format_args!(
                    "restored height={} app_hash={hash}",
                    state.height
                ));
                self.state = state;
                Ok((Applied::Accept, false))
            }
        }
    }
}

/// The transactions from the front that fit.
fn proposal(prepare: RequestPrepareProposal) -> ResponsePrepareProposal {
    /// Of a transaction in a block: a key and a length.
    const MAX_OVERHEAD_BYTES: usize = 11;
    let mut left = usize::try_from(prepare.max_tx_bytes).unwrap_or(0);
    let fits = |tx: &Bytes| {
        let rest = left.checked_sub(tx.len() + MAX_OVERHEAD_BYTES);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    let txs = prepare.txs.into_iter().take_while(fits).collect();
    ResponsePrepareProposal { txs }
}

/// An answer instead of the one that was asked for.
pub fn exception(error: String) -> response::Value {
    response::Value::Exception(ResponseException { error })
}

/// A text from outside, short and on one line.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_LOG_CHARS).collect();
    short.escape_default().to_string()
}
