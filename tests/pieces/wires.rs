//! A scripted peer at one end of a pipe, and helpers for the other end.

use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use snapswarm::net::pieces::{Budget, Client, PieceEvent, Server};
use snapswarm::wire::{
    ACK_EVERY_BYTES, Answer, Ask, FRAME_HEADER_BYTES, FrameHeader, FrameKind, RequestId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// What fits between the two ends of a pipe.
const PIPE_BYTES: usize = 64 << 10;

/// Longer than anything here takes on a busy machine; a test that would hang
/// ends with a message instead.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// One frame that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Control(Bytes),
    Data(Bytes),
}

/// A peer that does what a test tells it.
pub struct Scripted {
    pub pipe: DuplexStream,
    read_bytes: u64,
}

impl Scripted {
    /// One that asks `server`.
    pub fn asking(server: &Server) -> (Self, PeerId) {
        let peer = PeerId::random();
        (Self::asking_as(server, peer), peer)
    }

    pub fn asking_as(server: &Server, peer: PeerId) -> Self {
        let (here, there) = duplex(PIPE_BYTES);
        server.serve(peer, there.compat());
        Self {
            pipe: here,
            read_bytes: 0,
        }
    }

    /// One that answers a client.
    pub fn answering(
        budget: &Budget,
    ) -> (
        Self,
        snapswarm::net::pieces::Asker,
        mpsc::Receiver<PieceEvent>,
    ) {
        let (here, there) = duplex(PIPE_BYTES);
        let reservation = budget.reserve().expect("room for a stream");
        let (asker, events) = Client::over(there.compat(), PeerId::random(), reservation).split();
        let scripted = Self {
            pipe: here,
            read_bytes: 0,
        };
        (scripted, asker, events)
    }

    /// Writes; the other side may have cut the stream.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = soon("writing", self.pipe.write_all(bytes)).await;
    }

    pub async fn ask(&mut self, ask: Ask) {
        self.write(&ask.to_frame()).await;
    }

    pub async fn answer(&mut self, answer: Answer) {
        self.write(&answer.to_frame()).await;
    }

    pub async fn data(&mut self, bytes: &[u8]) {
        let header = FrameHeader {
            kind: FrameKind::Data,
            len: bytes.len() as u32,
        };
        self.write(&header.encode()).await;
        self.write(bytes).await;
    }

    /// A whole piece of zeros.
    pub async fn piece(&mut self, id: RequestId, size: u32) {
        self.answer(Answer::Started { id, size }).await;
        for part in vec![0; size as usize].chunks(60_000) {
            self.data(part).await;
        }
    }

    /// The next frame; nothing when the stream has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; FRAME_HEADER_BYTES];
        soon("a frame", self.pipe.read_exact(&mut header))
            .await
            .ok()?;
        let header = FrameHeader::decode(header).expect("a frame header");
        let mut payload = vec![0; header.len as usize];
        soon("a payload", self.pipe.read_exact(&mut payload))
            .await
            .ok()?;
        Some(match header.kind {
            FrameKind::Control => Frame::Control(payload.into()),
            FrameKind::Data => Frame::Data(payload.into()),
        })
    }

    /// The next ask of a client, acknowledgements passed over.
    pub async fn next_ask(&mut self) -> Option<Ask> {
        loop {
            match self.frame().await? {
                Frame::Data(data) => panic!("a client sent {} bytes of data", data.len()),
                Frame::Control(payload) => match Ask::decode(payload).expect("an ask") {
                    Ask::Ack { .. } => {}
                    ask => return Some(ask),
                },
            }
        }
    }

    /// The next answer of a server; data is acknowledged and collected.
    pub async fn next_answer(&mut self, data: &mut Vec<u8>) -> Option<Answer> {
        loop {
            match self.frame().await? {
                Frame::Control(payload) => {
                    return Some(Answer::decode(payload).expect("an answer"));
                }
                Frame::Data(bytes) => {
                    data.extend_from_slice(&bytes);
                    self.read_bytes += bytes.len() as u64;
                    let bytes = self.read_bytes;
                    if bytes >= ACK_EVERY_BYTES {
                        self.ask(Ask::Ack { bytes }).await;
                    }
                }
            }
        }
    }

    /// The next control message of a server that sends no data.
    pub async fn plain_answer(&mut self) -> Option<Answer> {
        let mut data = Vec::new();
        let answer = self.next_answer(&mut data).await;
        assert!(data.is_empty(), "{} bytes of data", data.len());
        answer
    }

    /// Reads a whole piece whose `Started` came already.
    pub async fn rest_of_piece(&mut self, size: u32, data: &mut Vec<u8>) {
        while data.len() < size as usize {
            match self.frame().await.expect("more of the piece") {
                Frame::Control(payload) => panic!("{:?}", Answer::decode(payload)),
                Frame::Data(bytes) => {
                    data.extend_from_slice(&bytes);
                    self.read_bytes += bytes.len() as u64;
                    let bytes = self.read_bytes;
                    self.ask(Ask::Ack { bytes }).await;
                }
            }
        }
        assert_eq!(data.len(), size as usize);
    }
}

/// The next event that is not progress.
pub async fn event(events: &mut mpsc::Receiver<PieceEvent>) -> PieceEvent {
    loop {
        match soon("an event", events.recv()).await.expect("not closed") {
            PieceEvent::Progress { .. } => {}
            event => return event,
        }
    }
}
