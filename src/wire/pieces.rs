//! Messages of the piece protocol, checked.

use bytes::Bytes;
use prost::Message;

use super::shapes::{ANSWER, ASK};
use super::{FrameHeader, FrameKind, MAX_CONTROL_BYTES, Refusal, WireError, limit_len};
use crate::snapshot::shape::Shape;
use crate::snapshot::{ChunkId, Digest, ManifestId, proto};

/// The number of a request or probe on its stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u32);

/// What the asking side says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Tell what you have of this snapshot, and what you get from now on.
    Open(ManifestId),
    /// Which of these chunks have you, under whatever manifest?
    Probe {
        /// Number of the probe.
        id: RequestId,
        /// Chunks asked about, at most
        /// [`MAX_PROBE_CHUNKS`](super::MAX_PROBE_CHUNKS).
        chunks: Vec<ChunkId>,
    },
    /// Send this piece.
    Request {
        /// Number of the request.
        id: RequestId,
        /// The chunk.
        chunk: ChunkId,
        /// Which piece of the chunk, from 0; below
        /// [`MAX_PIECES_PER_CHUNK`](crate::snapshot::MAX_PIECES_PER_CHUNK).
        piece: u32,
    },
    /// Take this request back.
    Cancel(RequestId),
    /// I have these pieces of the snapshot now.
    Have {
        /// The snapshot.
        manifest: ManifestId,
        /// Piece numbers, at most [`MAX_HAVE_PIECES`](super::MAX_HAVE_PIECES).
        pieces: Vec<u32>,
    },
    /// What I have of the snapshot.
    Holdings {
        /// The snapshot.
        manifest: ManifestId,
        /// Of it.
        holding: Holding,
    },
    /// All data bytes read from this stream so far.
    Ack {
        /// Cumulative.
        bytes: u64,
    },
}

/// What the answering side says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// What I have of the snapshot.
    Holdings {
        /// The snapshot.
        manifest: ManifestId,
        /// Of it.
        holding: Holding,
    },
    /// I have these pieces of the snapshot now.
    Have {
        /// The snapshot.
        manifest: ManifestId,
        /// Piece numbers, at most [`MAX_HAVE_PIECES`](super::MAX_HAVE_PIECES).
        pieces: Vec<u32>,
    },
    /// The answer to a probe.
    Holds {
        /// Number of the probe.
        id: RequestId,
        /// One bit for each chunk asked about, as
        /// [`Bitmap`](crate::snapshot::Bitmap) has them. Their number can be
        /// checked only by who asked.
        chunks: Bytes,
    },
    /// The next data frames are this piece.
    Started {
        /// Number of the request.
        id: RequestId,
        /// Bytes of the piece: 1 to
        /// [`PIECE_BYTES`](crate::snapshot::PIECE_BYTES).
        size: u32,
    },
    /// The piece is not given.
    Refused {
        /// Number of the request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The started piece ends here.
    Aborted(RequestId),
}

/// How much of a snapshot a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Holding {
    /// Everything.
    Complete,
    /// Some pieces, as the bytes of a [`Bitmap`](crate::snapshot::Bitmap) over
    /// piece numbers. Their number can be checked only by who has the manifest.
    Pieces(Bytes),
    /// Nothing, or nothing for this peer.
    Refused(Refusal),
}

impl Ask {
    /// The whole control frame. Panics when the message passes a limit that the
    /// other side would call a fault.
    pub fn to_frame(&self) -> Bytes {
        use proto::ask::Kind;
        let kind = match self {
            Self::Open(manifest) => Kind::Open(proto::Open {
                manifest: digest_bytes(manifest.digest()),
            }),
            Self::Probe { id, chunks } => Kind::Probe(proto::Probe {
                id: id.0,
                chunks: chunks
                    .iter()
                    .flat_map(|chunk| *chunk.digest().as_bytes())
                    .collect::<Vec<u8>>()
                    .into(),
            }),
            Self::Request { id, chunk, piece } => Kind::Request(proto::Request {
                id: id.0,
                chunk: digest_bytes(chunk.digest()),
                piece: *piece,
            }),
            Self::Cancel(id) => Kind::Cancel(proto::Cancel { id: id.0 }),
            Self::Have { manifest, pieces } => Kind::Have(encode_have(manifest, pieces)),
            Self::Holdings { manifest, holding } => {
                Kind::Holdings(encode_holdings(manifest, holding))
            }
            Self::Ack { bytes } => Kind::Ack(proto::Ack { bytes: *bytes }),
        };
        control_frame(&proto::Ask { kind: Some(kind) }, &ASK)
    }

    /// Reads the payload of a control frame.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        use proto::ask::Kind;
        limit_len("control frame", payload.len(), MAX_CONTROL_BYTES as usize)?;
        ASK.check(&payload)?;
        let kind = proto::Ask::decode(payload)?
            .kind
            .ok_or_else(unknown_message)?;
        Ok(match kind {
            Kind::Open(open) => Self::Open(decode_manifest(&open.manifest)?),
            Kind::Probe(probe) => Self::Probe {
                id: RequestId(probe.id),
                chunks: decode_chunks(&probe.chunks)?,
            },
            Kind::Request(request) => Self::Request {
                id: RequestId(request.id),
                chunk: ChunkId(decode_digest("chunk", &request.chunk)?),
                piece: request.piece,
            },
            Kind::Cancel(cancel) => Self::Cancel(RequestId(cancel.id)),
            Kind::Have(have) => {
                let (manifest, pieces) = decode_have(have)?;
                Self::Have { manifest, pieces }
            }
            Kind::Holdings(holdings) => {
                let (manifest, holding) = decode_holdings(holdings)?;
                Self::Holdings { manifest, holding }
            }
            Kind::Ack(ack) => Self::Ack { bytes: ack.bytes },
        })
    }
}

impl Answer {
    /// The whole control frame. Panics when the message passes a limit that the
    /// other side would call a fault.
    pub fn to_frame(&self) -> Bytes {
        use proto::answer::Kind;
        let kind = match self {
            Self::Holdings { manifest, holding } => {
                Kind::Holdings(encode_holdings(manifest, holding))
            }
            Self::Have { manifest, pieces } => Kind::Have(encode_have(manifest, pieces)),
            Self::Holds { id, chunks } => Kind::Holds(proto::Holds {
                id: id.0,
                chunks: chunks.clone(),
            }),
            Self::Started { id, size } => Kind::Started(proto::Started {
                id: id.0,
                size: *size,
            }),
            Self::Refused { id, refusal } => Kind::Refused(proto::Refused {
                id: id.0,
                refusal: refusal.encode(),
            }),
            Self::Aborted(id) => Kind::Aborted(proto::Aborted { id: id.0 }),
        };
        control_frame(&proto::Answer { kind: Some(kind) }, &ANSWER)
    }

    /// Reads the payload of a control frame.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        use proto::answer::Kind;
        limit_len("control frame", payload.len(), MAX_CONTROL_BYTES as usize)?;
        ANSWER.check(&payload)?;
        let kind = proto::Answer::decode(payload)?
            .kind
            .ok_or_else(unknown_message)?;
        Ok(match kind {
            Kind::Holdings(holdings) => {
                let (manifest, holding) = decode_holdings(holdings)?;
                Self::Holdings { manifest, holding }
            }
            Kind::Have(have) => {
                let (manifest, pieces) = decode_have(have)?;
                Self::Have { manifest, pieces }
            }
            Kind::Holds(holds) => Self::Holds {
                id: RequestId(holds.id),
                chunks: holds.chunks,
            },
            Kind::Started(proto::Started { size: 0, .. }) => {
                return Err(WireError::Field {
                    field: "piece size",
                    problem: "is zero".to_owned(),
                });
            }
            Kind::Started(started) => Self::Started {
                id: RequestId(started.id),
                size: started.size,
            },
            Kind::Refused(refused) => Self::Refused {
                id: RequestId(refused.id),
                refusal: Refusal::decode(refused.refusal)?,
            },
            Kind::Aborted(aborted) => Self::Aborted(RequestId(aborted.id)),
        })
    }
}

fn control_frame(message: &impl Message, shape: &Shape) -> Bytes {
    let len = message.encoded_len();
    assert!(
        len <= MAX_CONTROL_BYTES as usize,
        "a control message of {len} bytes"
    );
    let header = FrameHeader {
        kind: FrameKind::Control,
        len: len as u32,
    };
    let mut frame = Vec::with_capacity(super::FRAME_HEADER_BYTES + len);
    frame.extend_from_slice(&header.encode());
    message
        .encode(&mut frame)
        .expect("a Vec grows as far as needed");
    if let Err(error) = shape.check(&frame[super::FRAME_HEADER_BYTES..]) {
        panic!("a message that no peer would take: {error:?}");
    }
    frame.into()
}

fn unknown_message() -> WireError {
    WireError::Syntax("a message of an unknown kind".to_owned())
}

pub(super) fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

pub(super) fn decode_digest(field: &'static str, bytes: &[u8]) -> Result<Digest, WireError> {
    Digest::from_slice(bytes).ok_or_else(|| WireError::Field {
        field,
        problem: format!("a SHA-256 has 32 bytes, not {}", bytes.len()),
    })
}

pub(super) fn decode_manifest(bytes: &[u8]) -> Result<ManifestId, WireError> {
    decode_digest("manifest", bytes).map(ManifestId)
}

fn decode_chunks(bytes: &[u8]) -> Result<Vec<ChunkId>, WireError> {
    bytes
        .chunks(32)
        .map(|digest| decode_digest("chunks", digest).map(ChunkId))
        .collect()
}

fn encode_have(manifest: &ManifestId, pieces: &[u32]) -> proto::Have {
    proto::Have {
        manifest: digest_bytes(manifest.digest()),
        pieces: pieces.to_vec(),
    }
}

fn decode_have(have: proto::Have) -> Result<(ManifestId, Vec<u32>), WireError> {
    Ok((decode_manifest(&have.manifest)?, have.pieces))
}

fn encode_holdings(manifest: &ManifestId, holding: &Holding) -> proto::Holdings {
    let mut message = proto::Holdings {
        manifest: digest_bytes(manifest.digest()),
        ..Default::default()
    };
    match holding {
        Holding::Complete => message.complete = true,
        Holding::Pieces(pieces) => message.pieces = pieces.clone(),
        Holding::Refused(refusal) => message.refusal = refusal.encode(),
    }
    message
}

fn decode_holdings(message: proto::Holdings) -> Result<(ManifestId, Holding), WireError> {
    let manifest = decode_manifest(&message.manifest)?;
    let holding = match (message.complete, message.refusal) {
        (true, 0) if message.pieces.is_empty() => Holding::Complete,
        (false, 0) => Holding::Pieces(message.pieces),
        (false, code) if message.pieces.is_empty() => Holding::Refused(Refusal::decode(code)?),
        _ => {
            return Err(WireError::Field {
                field: "holdings",
                problem: "says two things at once".to_owned(),
            });
        }
    };
    Ok((manifest, holding))
}
