//! The reader of a served stream: takes what the peer asks, one ask after the
//! other, so that a flood waits in the peer's own stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::AsyncRead;
use tokio::time::Instant;

use super::frames::Frames;
use super::link::Link;
use super::ordering::Message;
use super::pace::{NUMBERS_PER_MESSAGE, Pace};
use super::server::House;
use super::{Closed, Fault};
use crate::snapshot::{Bitmap, ChunkId, Manifest, ManifestId, PIECE_BYTES};
use crate::sync::PeerHolding;
use crate::wire::{
    ACK_EVERY_BYTES, Answer, Ask, FrameKind, Holding, MAX_OPEN_REQUESTS, MAX_OPEN_SNAPSHOTS,
    Refusal, RequestId,
};

pub(super) struct Answering<R> {
    pub(super) frames: Frames<R>,
    pub(super) link: Arc<Link>,
    pub(super) house: Arc<House>,
    pub(super) pace: Pace,
    /// Snapshots that the peer opened here, with their number of pieces.
    pub(super) opened: BTreeMap<ManifestId, u32>,
    pub(super) acknowledged: u64,
}

impl<R: AsyncRead + Unpin> Answering<R> {
    pub(super) async fn run(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.frame().await {
                return closed;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), Closed> {
        let header = self.frames.header().await?;
        if header.kind == FrameKind::Data {
            return Err(Fault::DataWithoutStart(header.len).into());
        }
        let payload = self.frames.payload(header).await?;
        let ask = Ask::decode(payload).map_err(Fault::Wire)?;
        self.pace.take(self.weight(&ask)).await;
        self.link.answers_have_room().await;
        match ask {
            Ask::Ack { bytes } => self.acknowledged(bytes),
            Ask::Request { id, chunk, piece } => self.request(id, chunk, piece).await,
            Ask::Cancel(id) => self.cancel(id).await,
            Ask::Open(manifest) => self.open(manifest).await,
            Ask::Probe { id, chunks } => self.probe(id, chunks).await,
            Ask::Holdings { manifest, holding } => self.holdings(manifest, holding).await,
            Ask::Have { manifest, pieces } => self.have(manifest, pieces).await,
        }
    }

    /// What an ask costs of the allowance. Acknowledgements that are due cost
    /// nothing: there are only as many as there is data.
    fn weight(&self, ask: &Ask) -> usize {
        match ask {
            Ask::Ack { bytes } if *bytes >= self.acknowledged + ACK_EVERY_BYTES => 0,
            Ask::Ack { .. } | Ask::Request { .. } | Ask::Cancel(_) => 1,
            Ask::Have { pieces, .. } => 1 + pieces.len() / NUMBERS_PER_MESSAGE,
            Ask::Open(_) | Ask::Probe { .. } | Ask::Holdings { .. } => NUMBERS_PER_MESSAGE,
        }
    }

    fn acknowledged(&mut self, bytes: u64) -> Result<(), Closed> {
        self.link
            .credit(|credit| credit.acknowledge(bytes, Instant::now()))?;
        self.acknowledged = bytes;
        self.link.wake.notify_one();
        Ok(())
    }

    async fn request(&self, id: RequestId, chunk: ChunkId, piece: u32) -> Result<(), Closed> {
        let over_limit = self.link.open_requests() >= MAX_OPEN_REQUESTS;
        if !self.link.enter(id) {
            return Err(Fault::RepeatedRequest(id).into());
        }
        let refusal = if self.house.serves_nobody() {
            Some(Refusal::NotAllowed)
        } else if over_limit {
            Some(Refusal::OverLimit)
        } else {
            self.refusal_of(chunk, piece).await
        };
        if let Some(refusal) = refusal {
            self.house.refuse(&self.link, id, refusal);
            return Ok(());
        }
        self.tell(Message::Requested {
            conn: self.link.conn,
            id,
            chunk,
            piece,
        })
        .await
    }

    /// A piece that is not here is refused at once: the asking side has better
    /// use for its window.
    async fn refusal_of(&self, chunk: ChunkId, piece: u32) -> Option<Refusal> {
        let library = Arc::clone(&self.house.library);
        let size = self
            .house
            .look_up(move || library.chunk_size(&chunk))
            .await
            .flatten()
            .unwrap_or(0);
        (piece >= size.div_ceil(PIECE_BYTES)).then_some(Refusal::Gone)
    }

    async fn cancel(&self, id: RequestId) -> Result<(), Closed> {
        self.link.take_back(id);
        self.tell(Message::Cancelled {
            conn: self.link.conn,
            id,
        })
        .await
    }

    async fn open(&mut self, manifest: ManifestId) -> Result<(), Closed> {
        let known = self.opened.contains_key(&manifest);
        if self.house.serves_nobody() {
            return self.refuse_holdings(manifest, Refusal::NotAllowed);
        }
        if !known && self.opened.len() >= MAX_OPEN_SNAPSHOTS {
            return self.refuse_holdings(manifest, Refusal::OverLimit);
        }
        // First, so that nothing that comes while the holdings are read is lost.
        self.link.subscribe(manifest);
        let Some(snapshot) = self.house.snapshot(manifest, self.link.peer).await else {
            return self.refuse_holdings(manifest, Refusal::Gone);
        };
        self.opened
            .insert(manifest, snapshot.manifest.piece_count());
        self.tell(Message::Opened {
            conn: self.link.conn,
            manifest: snapshot.manifest,
        })
        .await?;
        self.link.say_holdings(manifest, snapshot.holding);
        Ok(())
    }

    fn refuse_holdings(&mut self, manifest: ManifestId, refusal: Refusal) -> Result<(), Closed> {
        self.opened.remove(&manifest);
        self.link.say_holdings(manifest, Holding::Refused(refusal));
        Ok(())
    }

    async fn probe(&self, id: RequestId, chunks: Vec<ChunkId>) -> Result<(), Closed> {
        let library = Arc::clone(&self.house.library);
        let count = chunks.len() as u32;
        let held = self.house.look_up(move || library.holds(&chunks)).await;
        let held = held.unwrap_or_else(|| Bitmap::new(count));
        self.link.say(&Answer::Holds {
            id,
            chunks: held.as_bytes().to_vec().into(),
        });
        Ok(())
    }

    /// News of a snapshot that is not open here are passed over: the peer may
    /// not yet know that its open was refused.
    async fn holdings(&self, manifest: ManifestId, holding: Holding) -> Result<(), Closed> {
        let Some(pieces) = self.opened.get(&manifest) else {
            return Ok(());
        };
        let holding = match holding {
            Holding::Complete => PeerHolding::Complete,
            Holding::Refused(_) => PeerHolding::Nothing,
            Holding::Pieces(bits) => {
                let bits = Bitmap::from_bytes(*pieces, &bits).map_err(|error| Fault::Holdings {
                    manifest,
                    problem: error.to_string(),
                })?;
                PeerHolding::Pieces(bits)
            }
        };
        self.tell(Message::Holds {
            conn: self.link.conn,
            manifest,
            holding,
        })
        .await
    }

    async fn have(&self, manifest: ManifestId, pieces: Vec<u32>) -> Result<(), Closed> {
        let Some(count) = self.opened.get(&manifest) else {
            return Ok(());
        };
        if let Some(beyond) = pieces.iter().find(|piece| **piece >= *count) {
            return Err(Fault::Holdings {
                manifest,
                problem: format!("piece {beyond} of {count}"),
            }
            .into());
        }
        self.tell(Message::Has {
            conn: self.link.conn,
            manifest,
            pieces,
        })
        .await
    }

    async fn tell(&self, message: Message) -> Result<(), Closed> {
        self.house
            .orders
            .send(message)
            .await
            .map_err(|_| Closed::Here)
    }
}

/// A snapshot as it is here at one moment.
pub(super) struct OpenedSnapshot {
    pub(super) manifest: Arc<Manifest>,
    pub(super) holding: Holding,
}
