//! Messages of state sync.

use bytes::Bytes;
use prost::Message as _;
use tendermint_proto::v0_38::statesync::{self as proto, message::Sum};

use super::packet::{Channel, MessageLimits};
use super::{PeerError, ProtocolError};
use crate::snapshot::{MAX_CHUNKS, MAX_HEIGHT, MAX_SNAPSHOT_HASH_BYTES, Offer};

/// The largest message of the snapshot channel (`statesync/messages.go`).
pub const MAX_SNAPSHOT_MESSAGE_BYTES: usize = 4_000_000;
/// The largest message of the chunk channel (`statesync/messages.go`).
pub const MAX_CHUNK_MESSAGE_BYTES: usize = 16_000_000;
/// Requests have at most 30 bytes; a side that only serves takes no more.
const MAX_REQUEST_BYTES: usize = 1024;

/// What a side takes that asks a node for snapshots and chunks.
pub(super) const ASKING_LIMITS: MessageLimits = MessageLimits {
    snapshots: MAX_SNAPSHOT_MESSAGE_BYTES,
    chunks: MAX_CHUNK_MESSAGE_BYTES,
};
/// What a side takes that only serves.
pub(super) const SERVING_LIMITS: MessageLimits = MessageLimits {
    snapshots: MAX_REQUEST_BYTES,
    chunks: MAX_REQUEST_BYTES,
};

/// Names a chunk in the peer protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChunkKey {
    /// Height of the snapshot.
    pub height: u64,
    /// Format of the snapshot.
    pub format: u32,
    /// ABCI index.
    pub index: u32,
}

/// A decoded message. Its fields are within the limits of the snapshot format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Asks for offers.
    SnapshotsRequest,
    /// An offer.
    Snapshot(Offer),
    /// Asks for a chunk.
    ChunkRequest(ChunkKey),
    /// A chunk, or nothing when the sender lacks it.
    Chunk(ChunkKey, Option<Bytes>),
}

impl Message {
    /// Decodes a whole message of a channel. Allocates no more than it is given.
    pub fn decode(channel: Channel, bytes: &[u8]) -> Result<Self, ProtocolError> {
        let limit = match channel {
            Channel::Snapshots => MAX_SNAPSHOT_MESSAGE_BYTES,
            Channel::Chunks => MAX_CHUNK_MESSAGE_BYTES,
        };
        if bytes.len() > limit {
            return Err(ProtocolError::TooLong {
                what: "state sync message",
                limit,
            });
        }
        let message = proto::Message::decode(bytes).map_err(|error| ProtocolError::Syntax {
            what: "state sync message",
            problem: error.to_string(),
        })?;
        let misplaced = |what| {
            Err(ProtocolError::Misplaced {
                what,
                channel: channel.number(),
            })
        };
        match (message.sum, channel) {
            (Some(Sum::SnapshotsRequest(_)), Channel::Snapshots) => Ok(Self::SnapshotsRequest),
            (Some(Sum::SnapshotsResponse(offer)), Channel::Snapshots) => {
                Ok(Self::Snapshot(check_offer(offer)?))
            }
            (Some(Sum::ChunkRequest(ask)), Channel::Chunks) => Ok(Self::ChunkRequest(ChunkKey {
                height: ask.height,
                format: ask.format,
                index: ask.index,
            })),
            (Some(Sum::ChunkResponse(chunk)), Channel::Chunks) => check_chunk(chunk),
            (Some(Sum::SnapshotsRequest(_)), _) => misplaced("request for snapshots"),
            (Some(Sum::SnapshotsResponse(_)), _) => misplaced("snapshot"),
            (Some(Sum::ChunkRequest(_)), _) => misplaced("request for a chunk"),
            (Some(Sum::ChunkResponse(_)), _) => misplaced("chunk"),
            (None, _) => Err(ProtocolError::Syntax {
                what: "state sync message",
                problem: "of no known kind".to_owned(),
            }),
        }
    }
}

fn check_offer(offer: proto::SnapshotsResponse) -> Result<Offer, ProtocolError> {
    let wrong = |field, problem: String| ProtocolError::Field {
        what: "snapshot",
        field,
        problem,
    };
    if offer.height == 0 || offer.height > MAX_HEIGHT {
        return Err(wrong("height", offer.height.to_string()));
    }
    if offer.chunks == 0 || offer.chunks > MAX_CHUNKS {
        return Err(wrong("number of chunks", offer.chunks.to_string()));
    }
    if offer.hash.is_empty() || offer.hash.len() > MAX_SNAPSHOT_HASH_BYTES {
        return Err(wrong("hash", format!("{} bytes", offer.hash.len())));
    }
    Ok(Offer {
        height: offer.height,
        format: offer.format,
        chunks: offer.chunks,
        hash: offer.hash.into(),
        metadata: offer.metadata.into(),
    })
}

/// CometBFT reads an empty chunk as a missing one.
fn check_chunk(answer: proto::ChunkResponse) -> Result<Message, ProtocolError> {
    if answer.missing && !answer.chunk.is_empty() {
        return Err(ProtocolError::Field {
            what: "chunk",
            field: "mark",
            problem: "missing, and yet there".to_owned(),
        });
    }
    let key = ChunkKey {
        height: answer.height,
        format: answer.format,
        index: answer.index,
    };
    let bytes = (!answer.chunk.is_empty()).then(|| answer.chunk.into());
    Ok(Message::Chunk(key, bytes))
}

fn encode(sum: Sum) -> Bytes {
    proto::Message { sum: Some(sum) }.encode_to_vec().into()
}

/// The message that asks for offers.
pub(super) fn snapshots_request() -> Bytes {
    encode(Sum::SnapshotsRequest(proto::SnapshotsRequest {}))
}

/// The message that asks for a chunk.
pub(super) fn chunk_request(key: ChunkKey) -> Bytes {
    encode(Sum::ChunkRequest(proto::ChunkRequest {
        height: key.height,
        format: key.format,
        index: key.index,
    }))
}

/// The message that offers a snapshot, if a node can take it.
pub(super) fn snapshot(offer: &Offer) -> Result<Bytes, PeerError> {
    let unfit = |problem: String| PeerError::Unfit { problem };
    let fields = proto::SnapshotsResponse {
        height: offer.height,
        format: offer.format,
        chunks: offer.chunks,
        hash: offer.hash.to_vec(),
        metadata: offer.metadata.to_vec(),
    };
    check_offer(fields.clone()).map_err(|error| unfit(error.to_string()))?;
    let message = encode(Sum::SnapshotsResponse(fields));
    if message.len() > MAX_SNAPSHOT_MESSAGE_BYTES {
        return Err(unfit(format!(
            "its metadata makes an offer of {} bytes, and CometBFT takes {MAX_SNAPSHOT_MESSAGE_BYTES}",
            message.len()
        )));
    }
    Ok(message)
}

/// What stands before the bytes of a chunk of this length in the message that
/// carries it. The chunk is the last field there, so message = head + chunk.
pub(super) fn chunk_head(key: ChunkKey, chunk_len: usize) -> Result<Bytes, PeerError> {
    /// Tag of field 4, length-delimited: `chunk_response` in `Message`, and
    /// `chunk` in `ChunkResponse`.
    const FIELD_4: u8 = 4 << 3 | 2;
    let unfit = |problem: String| PeerError::Unfit { problem };
    if chunk_len == 0 {
        return Err(unfit(format!(
            "chunk {} is empty, which CometBFT takes for a missing one",
            key.index
        )));
    }
    let mut fields = proto::ChunkResponse {
        height: key.height,
        format: key.format,
        index: key.index,
        chunk: Vec::new(),
        missing: false,
    }
    .encode_to_vec();
    fields.push(FIELD_4);
    prost::encode_length_delimiter(chunk_len, &mut fields).expect("a Vec takes any length");
    let mut head = vec![FIELD_4];
    prost::encode_length_delimiter(fields.len() + chunk_len, &mut head)
        .expect("a Vec takes any length");
    head.extend_from_slice(&fields);
    if head.len() + chunk_len > MAX_CHUNK_MESSAGE_BYTES {
        return Err(unfit(format!(
            "chunk {} has {chunk_len} bytes; with its message it passes the {MAX_CHUNK_MESSAGE_BYTES} \
             that CometBFT takes",
            key.index
        )));
    }
    Ok(head.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            height: 7,
            format: 0,
            chunks: 3,
            hash: Bytes::from_static(b"hash"),
            metadata: Bytes::from_static(b"meta"),
        }
    }

    #[test]
    fn what_we_write_is_what_a_node_reads() {
        let key = ChunkKey {
            height: 9,
            format: 1,
            index: 0,
        };
        let read = |channel, bytes: &[u8]| Message::decode(channel, bytes).unwrap();
        assert_eq!(
            read(Channel::Snapshots, &snapshots_request()),
            Message::SnapshotsRequest
        );
        assert_eq!(
            read(Channel::Snapshots, &snapshot(&offer()).unwrap()),
            Message::Snapshot(offer())
        );
        assert_eq!(
            read(Channel::Chunks, &chunk_request(key)),
            Message::ChunkRequest(key)
        );
        for len in [1, 127, 128, 70_000] {
            let mut message = chunk_head(key, len).unwrap().to_vec();
            message.resize(message.len() + len, 0xab);
            assert_eq!(
                read(Channel::Chunks, &message),
                Message::Chunk(key, Some(vec![0xab; len].into()))
            );
            let Some(Sum::ChunkResponse(fields)) =
                proto::Message::decode(&message[..]).unwrap().sum
            else {
                panic!("not a chunk")
            };
            assert_eq!(
                message,
                &encode(Sum::ChunkResponse(fields))[..],
                "byte for byte the usual encoding"
            );
        }
    }

    #[test]
    fn a_chunk_message_may_be_as_long_as_its_limit_and_no_longer() {
        let key = ChunkKey {
            height: 1 << 40,
            format: 1,
            index: 99_999,
        };
        let head = chunk_head(key, 15_000_000).unwrap().len();
        assert!(chunk_head(key, MAX_CHUNK_MESSAGE_BYTES - head).is_ok());
        assert!(chunk_head(key, MAX_CHUNK_MESSAGE_BYTES - head + 1).is_err());
        assert!(chunk_head(key, 0).is_err());
        let longest = crate::snapshot::MAX_CHUNK_BYTES as usize;
        assert!(
            chunk_head(key, longest).is_ok(),
            "every chunk of a manifest"
        );
    }

    #[test]
    fn an_offer_that_no_node_takes_is_not_sent() {
        for change in [
            |o: &mut Offer| o.height = 0,
            |o: &mut Offer| o.chunks = 0,
            |o: &mut Offer| o.chunks = MAX_CHUNKS + 1,
            |o: &mut Offer| o.hash = Bytes::new(),
            |o: &mut Offer| o.metadata = vec![0; 4_000_000].into(),
        ] {
            let mut offer = offer();
            change(&mut offer);
            assert!(matches!(snapshot(&offer), Err(PeerError::Unfit { .. })));
        }
    }

    #[test]
    fn impossible_messages_are_refused() {
        let missing = |chunk: &[u8]| {
            encode(Sum::ChunkResponse(proto::ChunkResponse {
                height: 1,
                missing: true,
                chunk: chunk.to_vec(),
                ..Default::default()
            }))
        };
        let key = ChunkKey {
            height: 1,
            format: 0,
            index: 0,
        };
        assert_eq!(
            Message::decode(Channel::Chunks, &missing(b"")),
            Ok(Message::Chunk(key, None))
        );
        assert!(Message::decode(Channel::Chunks, &missing(b"x")).is_err());
        assert!(matches!(
            Message::decode(Channel::Chunks, &snapshots_request()),
            Err(ProtocolError::Misplaced { channel: 0x61, .. })
        ));
        assert!(matches!(
            Message::decode(Channel::Snapshots, &[]),
            Err(ProtocolError::Syntax { .. })
        ));
    }
}
