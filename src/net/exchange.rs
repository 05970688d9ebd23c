//! The asking side of the two short protocols.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use tokio::sync::mpsc;

use super::error::NetError;
use crate::snapshot::ManifestId;
use crate::wire::{
    CatalogueEntry, CatalogueRequest, CatalogueResponse, MAX_CATALOGUE_BYTES,
    MAX_MANIFEST_RESPONSE_BYTES, ManifestRequest, ManifestResponse, WireError,
};

/// Bytes reserved before the first byte of a message is here; what is announced
/// beyond grows with what comes.
const FIRST_RESERVE_BYTES: usize = 64 << 10;

/// What a peer has, and whom it named. All of it is the peer's claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueAnswer {
    /// As the peer ordered them; at most [`crate::wire::MAX_CATALOGUE_ENTRIES`].
    pub entries: Vec<CatalogueEntry>,
    /// Others that serve the chain, as the peer says; [`super::Net::connect`]
    /// knows where they are. At most [`crate::wire::MAX_PEER_HINTS`].
    pub peers: Vec<PeerId>,
}

/// Providers as they are found, each once; ends when the look-up does. Dropping
/// it ends the look-up.
#[derive(Debug)]
pub struct Providers {
    pub(super) found: mpsc::Receiver<PeerId>,
}

impl futures::Stream for Providers {
    type Item = PeerId;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerId>> {
        self.found.poll_recv(cx)
    }
}

/// Why an exchange failed, before it is known with whom.
#[derive(Debug)]
pub(super) enum ExchangeError {
    Io(io::Error),
    Wire(WireError),
    Refused(crate::wire::Refusal),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<WireError> for ExchangeError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl ExchangeError {
    pub fn with(self, peer: PeerId) -> NetError {
        match self {
            Self::Io(source) => NetError::Stream { peer, source },
            Self::Wire(source) => NetError::Protocol { peer, source },
            Self::Refused(refusal) => NetError::Refused { peer, refusal },
        }
    }
}

/// Asks for a catalogue over a fresh stream.
pub(super) async fn catalogue<S>(
    mut stream: S,
    chain_id: Option<&str>,
) -> Result<CatalogueResponse, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = CatalogueRequest {
        chain_id: chain_id.map(str::to_owned),
    };
    write_message(&mut stream, &request.encode()).await?;
    stream.close().await?;
    let answer = read_message(&mut stream, "catalogue", MAX_CATALOGUE_BYTES).await?;
    Ok(CatalogueResponse::decode(answer)?)
}

/// Asks for a manifest of so many bytes at most over a fresh stream. Its bytes are as
/// announced in number and not checked otherwise.
pub(super) async fn manifest<S>(
    mut stream: S,
    id: &ManifestId,
    limit: u32,
) -> Result<Bytes, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write_message(&mut stream, &ManifestRequest(*id).encode()).await?;
    stream.close().await?;
    let answer = read_message(
        &mut stream,
        "manifest response",
        MAX_MANIFEST_RESPONSE_BYTES,
    )
    .await?;
    match ManifestResponse::decode(&answer)? {
        ManifestResponse::Refused(refusal) => Err(ExchangeError::Refused(refusal)),
        ManifestResponse::Size(size) if size > limit => {
            Err(too_long("manifest", size as usize, limit))
        }
        ManifestResponse::Size(size) => Ok(read_exactly(&mut stream, size as usize).await?),
    }
}

/// Writes a message and its length.
pub(super) async fn write_message<S>(stream: &mut S, message: &[u8]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    // One write: the multiplexer makes a frame of each.
    let mut framed = Vec::with_capacity(4 + message.len());
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    stream.flush().await
}

/// Reads a message of at most `limit` bytes; a longer one is refused before any
/// of it is read.
pub(super) async fn read_message<S>(
    stream: &mut S,
    what: &'static str,
    limit: u32,
) -> Result<Bytes, ExchangeError>
where
    S: AsyncRead + Unpin,
{
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len);
    if len > limit {
        return Err(too_long(what, len as usize, limit));
    }
    Ok(read_exactly(stream, len as usize).await?)
}

fn too_long(what: &'static str, found: usize, limit: u32) -> ExchangeError {
    ExchangeError::Wire(WireError::TooLong {
        what,
        found,
        limit: limit as usize,
    })
}

async fn read_exactly<S>(stream: &mut S, len: usize) -> io::Result<Bytes>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = Vec::with_capacity(len.min(FIRST_RESERVE_BYTES));
    stream.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("it ended after {} of {len} bytes", bytes.len()),
        ));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;
    use crate::snapshot::MAX_MANIFEST_BYTES;

    #[tokio::test]
    async fn a_message_may_have_its_limit_and_not_one_byte_more() {
        let mut wire = Vec::new();
        write_message(&mut Cursor::new(&mut wire), &[7; 100])
            .await
            .unwrap();
        let read = read_message(&mut Cursor::new(&wire), "test", 100).await;
        assert_eq!(read.unwrap().len(), 100);
        let read = read_message(&mut Cursor::new(&wire), "test", 99).await;
        assert!(matches!(
            read,
            Err(ExchangeError::Wire(WireError::TooLong { .. }))
        ));
    }

    #[tokio::test]
    async fn an_announced_length_reserves_no_memory_before_its_bytes_come() {
        let promised = MAX_MANIFEST_BYTES as usize;
        let mut stream = Cursor::new(vec![0; 10]);
        let error = read_exactly(&mut stream, promised).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
