//! The few calls that are read and written here, and the numbers of all that are
//! told apart. Their fields are the same in every version from 0.37 to 1.0
//! (facts/cometbft-state-sync.md), so the types of 0.38 serve all.

use bytes::Bytes;
use prost::Message;
use tendermint_proto::v0_38::abci::{
    Request, RequestApplySnapshotChunk, RequestEcho, RequestInfo, RequestOfferSnapshot, Response,
    ResponseApplySnapshotChunk, ResponseCheckTx, ResponseEcho, ResponseFlush, ResponseInfo,
    ResponseListSnapshots, ResponseLoadSnapshotChunk, ResponseOfferSnapshot, ResponseQuery,
    Snapshot, request, response,
};

use super::client::AppInfo;
use crate::snapshot::{ChunkId, Offer};

/// Numbers of the calls in a request.
pub(super) mod call {
    pub(crate) const ECHO: u32 = 1;
    pub(crate) const FLUSH: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const INIT_CHAIN: u32 = 5;
    pub(crate) const QUERY: u32 = 6;
    pub(crate) const CHECK_TX: u32 = 8;
    pub(crate) const END_BLOCK: u32 = 10;
    pub(crate) const COMMIT: u32 = 11;
    pub(crate) const LIST_SNAPSHOTS: u32 = 12;
    pub(crate) const OFFER_SNAPSHOT: u32 = 13;
    pub(crate) const LOAD_SNAPSHOT_CHUNK: u32 = 14;
    pub(crate) const APPLY_SNAPSHOT_CHUNK: u32 = 15;
    pub(crate) const FINALIZE_BLOCK: u32 = 20;
}

/// Numbers of the fields that are read as they go by.
pub(super) mod field {
    pub(crate) const INIT_CHAIN_CHAIN_ID: u64 = 2;
    pub(crate) const END_BLOCK_HEIGHT: u64 = 1;
    pub(crate) const FINALIZE_BLOCK_HEIGHT: u64 = 5;
    /// In the answers.
    pub(crate) const FINALIZE_BLOCK_APP_HASH: u64 = 5;
    pub(crate) const COMMIT_DATA: u64 = 2;
    pub(crate) const INFO_LAST_BLOCK_HEIGHT: u64 = 4;
}

/// An answer that tells of an error of the application: it may come instead of any
/// other.
pub(super) const EXCEPTION: u32 = 1;

/// Results of OfferSnapshot.
pub(super) mod offer_result {
    pub(crate) const ACCEPT: i32 = 1;
    /// Another snapshot may do; CometBFT does not offer this one again while its
    /// process lives.
    pub(crate) const REJECT: i32 = 3;
}

/// Results of ApplySnapshotChunk.
pub(super) mod apply_result {
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const ABORT: i32 = 2;
    pub(crate) const RETRY: i32 = 3;
    pub(crate) const RETRY_SNAPSHOT: i32 = 4;
    pub(crate) const REJECT_SNAPSHOT: i32 = 5;
}

/// Any code but 0 is an application's no.
const NO_ANSWER: u32 = 1;

/// Begins what stands for a chunk: this, and the chunk's SHA-256.
const STUB_MARK: &[u8; 16] = b"snapswarm stub 1";

/// Bytes of a stub.
pub const STUB_BYTES: usize = STUB_MARK.len() + 32;

/// The stub of a chunk. A peer of CometBFT that knows of an adapter with the same
/// snapshot behind it may give this instead of the bytes; the adapter puts the bytes
/// in its place. It never reaches an application.
pub fn stub(chunk: &ChunkId) -> Bytes {
    let mut bytes = Vec::with_capacity(STUB_BYTES);
    bytes.extend_from_slice(STUB_MARK);
    bytes.extend_from_slice(chunk.0.as_bytes());
    bytes.into()
}

/// Whether bytes stand for some chunk.
pub(super) fn is_stub(bytes: &[u8]) -> bool {
    bytes.len() == STUB_BYTES && bytes.starts_with(STUB_MARK)
}

/// A request's call; nothing when it is not understood. A chunk in it stays where it
/// is and is not copied.
pub(super) fn request(body: &Bytes) -> Option<request::Value> {
    Request::decode(body.clone()).ok()?.value
}

/// An answer's.
pub(super) fn response(body: &Bytes) -> Option<response::Value> {
    Response::decode(body.clone()).ok()?.value
}

/// The frame of an answer.
pub(super) fn answer(value: response::Value) -> Bytes {
    let value = Some(value);
    Response { value }.encode_length_delimited_to_vec().into()
}

/// The frame of a request.
pub(super) fn ask(value: request::Value) -> Bytes {
    let value = Some(value);
    Request { value }.encode_length_delimited_to_vec().into()
}

pub(super) fn ask_info() -> Bytes {
    ask(request::Value::Info(RequestInfo::default()))
}

pub(super) fn answer_list(offers: Vec<Offer>) -> Bytes {
    let snapshots = offers.into_iter().map(snapshot).collect();
    answer(response::Value::ListSnapshots(ResponseListSnapshots {
        snapshots,
    }))
}

/// Without bytes CometBFT takes the chunk for missing.
pub(super) fn answer_load(chunk: Option<Bytes>) -> Bytes {
    let chunk = chunk.unwrap_or_default();
    answer(response::Value::LoadSnapshotChunk(
        ResponseLoadSnapshotChunk { chunk },
    ))
}

pub(super) fn answer_accept() -> Bytes {
    answer_offer(offer_result::ACCEPT)
}

pub(super) fn answer_reject() -> Bytes {
    answer_offer(offer_result::REJECT)
}

fn answer_offer(result: i32) -> Bytes {
    answer(response::Value::OfferSnapshot(ResponseOfferSnapshot {
        result,
    }))
}

pub(super) fn answer_echo(echo: RequestEcho) -> Bytes {
    let message = echo.message;
    answer(response::Value::Echo(ResponseEcho { message }))
}

pub(super) fn answer_flush() -> Bytes {
    answer(response::Value::Flush(ResponseFlush {}))
}

pub(super) fn answer_info(info: AppInfo) -> Bytes {
    answer(response::Value::Info(ResponseInfo {
        app_version: info.app_version,
        last_block_height: i64::try_from(info.height).unwrap_or(i64::MAX),
        last_block_app_hash: info.app_hash,
        ..ResponseInfo::default()
    }))
}

/// A transaction that cannot be checked, for this reason.
pub(super) fn answer_check_tx(why: &str) -> Bytes {
    answer(response::Value::CheckTx(ResponseCheckTx {
        code: NO_ANSWER,
        log: why.to_owned(),
        ..ResponseCheckTx::default()
    }))
}

/// A question that cannot be answered, for this reason.
pub(super) fn answer_no_query(why: &str) -> Bytes {
    answer(response::Value::Query(ResponseQuery {
        code: NO_ANSWER,
        log: why.to_owned(),
        ..ResponseQuery::default()
    }))
}

pub(super) fn answer_apply(
    result: i32,
    refetch_chunks: Vec<u32>,
    reject_senders: Vec<String>,
) -> Bytes {
    answer(response::Value::ApplySnapshotChunk(
        ResponseApplySnapshotChunk {
            result,
            refetch_chunks,
            reject_senders,
        },
    ))
}

pub(super) fn answer_query(json: Vec<u8>, height: u64) -> Bytes {
    answer(response::Value::Query(ResponseQuery {
        value: json.into(),
        height: i64::try_from(height).unwrap_or(i64::MAX),
        ..ResponseQuery::default()
    }))
}

/// What CometBFT offers, with the application hash that it trusts; nothing when it
/// offers nothing that can be.
pub(super) fn offered(request: RequestOfferSnapshot) -> Option<(Offer, Bytes)> {
    Some((offer(request.snapshot?), request.app_hash))
}

pub(super) fn offer(snapshot: Snapshot) -> Offer {
    Offer {
        height: snapshot.height,
        format: snapshot.format,
        chunks: snapshot.chunks,
        hash: snapshot.hash,
        metadata: snapshot.metadata,
    }
}

fn snapshot(offer: Offer) -> Snapshot {
    Snapshot {
        height: offer.height,
        format: offer.format,
        chunks: offer.chunks,
        hash: offer.hash,
        metadata: offer.metadata,
    }
}

/// The same request with other bytes.
pub(super) fn ask_apply(request: &RequestApplySnapshotChunk, chunk: Bytes) -> Bytes {
    ask(request::Value::ApplySnapshotChunk(
        RequestApplySnapshotChunk {
            chunk,
            ..request.clone()
        },
    ))
}

/// Whether an answer is the one to a Flush.
pub(super) fn is_flush(value: &response::Value) -> bool {
    matches!(value, response::Value::Flush(ResponseFlush {}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    #[test]
    fn the_numbers_of_the_calls_are_those_of_the_types() {
        let info = ask_info();
        assert_eq!(u32::from(info[1] >> 3), call::INFO);
        let apply = ask_apply(
            &RequestApplySnapshotChunk::default(),
            Bytes::from_static(b"x"),
        );
        assert_eq!(u32::from(apply[1] >> 3), call::APPLY_SNAPSHOT_CHUNK);
        let Some(request::Value::ApplySnapshotChunk(apply)) = request(&apply.slice(1..)) else {
            panic!("not an apply");
        };
        assert_eq!(apply.chunk, "x");
        let reject = answer_reject();
        assert_eq!(reject, Bytes::from_static(&[4, 0x72, 2, 8, 3]));
    }

    #[test]
    fn a_stub_names_its_chunk() {
        let chunk = ChunkId(sha256(b"x"));
        let bytes = stub(&chunk);
        assert_eq!(bytes.len(), STUB_BYTES);
        assert!(bytes.ends_with(chunk.0.as_bytes()));
        assert!(is_stub(&bytes) && !is_stub(&bytes[1..]) && !is_stub(&[0; STUB_BYTES]));
        assert_ne!(bytes, stub(&ChunkId(sha256(b"y"))));
    }
}
