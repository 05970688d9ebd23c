//! The answering side of the two short protocols.
//!
//! One task takes the streams that peers open and gives each a task of its own,
//! within a limit for each peer and one for all; a stream beyond them is dropped,
//! and the peer sees its request fail. The library is asked on the blocking pool.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use super::commands::Command;
use super::exchange::{ExchangeError, read_message, write_message};
use super::library::Library;
use super::settings::NetLimits;
use super::streams::Incoming;
use crate::wire::{
    CatalogueRequest, CatalogueResponse, MAX_CATALOGUE_BYTES, MAX_CATALOGUE_ENTRIES,
    MAX_SHORT_REQUEST_BYTES, ManifestRequest, ManifestResponse, Refusal,
};

/// Bytes of a manifest written at a time: a peer that reads nothing for the
/// answer's timeout is dropped.
const WRITE_BYTES: usize = 64 << 10;

/// What was served.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub catalogues: AtomicU64,
    pub manifests: AtomicU64,
    pub dropped: AtomicU64,
}

/// What the tasks share.
#[derive(Clone)]
pub(super) struct Host {
    pub library: Arc<dyn Library>,
    pub commands: mpsc::Sender<Command>,
    pub served: Arc<Served>,
    pub limits: NetLimits,
}

#[derive(Clone, Copy)]
enum Kind {
    Catalogue,
    Manifest,
}

/// Answers until `stop`.
pub(super) async fn run(
    host: Host,
    mut catalogues: Incoming,
    mut manifests: Incoming,
    stop: CancellationToken,
) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut peers: HashMap<task::Id, PeerId> = HashMap::new();
    loop {
        let (kind, peer, stream) = tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = tasks.join_next_with_id() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                peers.remove(&id);
                continue;
            }
            Some((peer, stream)) = catalogues.next() => (Kind::Catalogue, peer, stream),
            Some((peer, stream)) = manifests.next() => (Kind::Manifest, peer, stream),
            else => return,
        };
        let of_peer = peers.values().filter(|other| **other == peer).count();
        if of_peer >= host.limits.max_exchanges_per_peer || tasks.len() >= host.limits.max_exchanges
        {
            tracing::debug!(%peer, "Too many requests at once, dropped one");
            host.served.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let host = host.clone();
        let handle = tasks.spawn(async move { host.answer(kind, peer, stream).await });
        peers.insert(handle.id(), peer);
    }
}

impl Host {
    async fn answer<S>(&self, kind: Kind, peer: PeerId, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (counter, result) = match kind {
            Kind::Catalogue => {
                let answer = self.catalogue(peer, stream);
                let result = within(self.limits.answer_timeout, answer).await;
                (&self.served.catalogues, result)
            }
            Kind::Manifest => {
                let answer = self.manifest(stream);
                let result = within(self.limits.manifest_timeout, answer).await;
                (&self.served.manifests, result)
            }
        };
        match result {
            Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%peer, ?error, "A request could not be answered");
                self.served.dropped.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    async fn catalogue<S>(&self, peer: PeerId, mut stream: S) -> Result<(), ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let request =
            read_message(&mut stream, "catalogue request", MAX_SHORT_REQUEST_BYTES).await?;
        let CatalogueRequest { chain_id } = CatalogueRequest::decode(&request)?;
        let (library, chain) = (Arc::clone(&self.library), chain_id.clone());
        let mut entries = blocking(move || library.catalogue(chain.as_deref())).await?;
        entries.truncate(MAX_CATALOGUE_ENTRIES);
        let (reply, hints) = oneshot::channel();
        let command = Command::Hints {
            asker: peer,
            chain_id,
            reply,
        };
        self.commands.send(command).await.map_err(|_| stopped())?;
        let peers = hints.await.map_err(|_| stopped())?;
        let mut answer = CatalogueResponse { entries, peers };
        let mut bytes = answer.encode();
        if bytes.len() > MAX_CATALOGUE_BYTES as usize {
            // The limits of the parts fit into that of the whole; only chain ids
            // or hashes that no checked manifest has would pass it.
            answer.peers.clear();
            answer.entries.truncate(MAX_CATALOGUE_ENTRIES / 2);
            bytes = answer.encode();
        }
        write_message(&mut stream, &bytes).await?;
        Ok(stream.close().await?)
    }

    async fn manifest<S>(&self, mut stream: S) -> Result<(), ExchangeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let request = read_message(&mut stream, "manifest request", MAX_SHORT_REQUEST_BYTES);
        let request = within(self.limits.answer_timeout, request).await?;
        let ManifestRequest(id) = ManifestRequest::decode(&request)?;
        let library = Arc::clone(&self.library);
        let Some(bytes) = blocking(move || library.manifest(&id)).await? else {
            let refusal = ManifestResponse::Refused(Refusal::Gone);
            write_message(&mut stream, &refusal.encode()).await?;
            return Ok(stream.close().await?);
        };
        let size = ManifestResponse::Size(bytes.len() as u32);
        write_message(&mut stream, &size.encode()).await?;
        self.write_all(&mut stream, &bytes).await?;
        Ok(stream.close().await?)
    }

    async fn write_all<S>(&self, stream: &mut S, bytes: &Bytes) -> Result<(), ExchangeError>
    where
        S: AsyncWrite + Unpin,
    {
        for part in bytes.chunks(WRITE_BYTES) {
            let write = async { Ok(stream.write_all(part).await?) };
            within(self.limits.answer_timeout, write).await?;
        }
        Ok(())
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ExchangeError> {
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| ExchangeError::Io(io::Error::other(error)))
}

fn stopped() -> ExchangeError {
    io::Error::from(io::ErrorKind::NotConnected).into()
}
