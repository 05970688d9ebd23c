//! Reading a snapshot whole: whether it is finished, and what the node would say of
//! it.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{SdkError, Unfit};
use super::files::{Form, Name, Opened};
use super::pace;
use super::stream::Stream;
use crate::snapshot::hash::{Hasher, sha256};
use crate::snapshot::{Digest, Offer};

/// Between two of these it is asked whether to stop: decoded it is a quarter of a
/// GB at most, a second of work.
const BLOCK_BYTES: usize = 256 << 10;
/// Before each SHA-256 in the metadata: field 1, 32 bytes
/// (`cosmos.base.snapshots.v1beta1.Metadata`).
const CHUNK_HASH_KEY: [u8; 2] = [1 << 3 | 2, 32];

/// A finished snapshot.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) offer: Offer,
    pub(super) form: Form,
    /// The SHA-256 of each chunk.
    pub(super) chunks: Vec<Digest>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Examined {
    Finished(Finished),
    Unfit(Unfit),
    /// A file is gone, or is not what it was.
    Changed,
    Stopped,
}

/// Reads all chunks, one at a time.
pub(super) fn examine(
    opened: &Opened,
    name: Name,
    form: Form,
    stop: &dyn Fn() -> bool,
) -> Result<Examined, SdkError> {
    let mut whole = Hasher::new();
    let mut stream = Stream::new();
    let mut chunks = Vec::new();
    for index in 0..form.chunks {
        let began = Instant::now();
        let Some(bytes) = opened.chunk(index, form.chunk_bytes(index))? else {
            return Ok(Examined::Changed);
        };
        chunks.push(sha256(&bytes));
        whole.update(&bytes);
        for block in bytes.chunks(BLOCK_BYTES) {
            if stop() {
                return Ok(Examined::Stopped);
            }
            if let Err(unfit) = stream.push(block) {
                return Ok(Examined::Unfit(unfit));
            }
        }
        pace::rest(began);
    }
    if let Err(unfit) = stream.finish() {
        return Ok(Examined::Unfit(unfit));
    }
    let offer = Offer {
        height: name.height,
        format: name.format,
        chunks: form.chunks,
        hash: Bytes::copy_from_slice(whole.finish().as_bytes()),
        metadata: metadata(&chunks),
    };
    Ok(Examined::Finished(Finished {
        offer,
        form,
        chunks,
    }))
}

/// The protobuf message that the SDK makes of the chunks' hashes.
fn metadata(chunks: &[Digest]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(chunks.len() * (CHUNK_HASH_KEY.len() + 32));
    for chunk in chunks {
        bytes.put_slice(&CHUNK_HASH_KEY);
        bytes.put_slice(chunk.as_bytes());
    }
    bytes.freeze()
}
