//! The third path: a complete, proven snapshot is offered to a joining CometBFT
//! node by a peer of its own, until the node has restored it.

mod behind;
mod joining;
mod watch;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use self::behind::adapter_must_hold;
use self::joining::empty_node;
use self::watch::Watch;
use super::command::{Failure, FailureCode, Fed, FeedCommand, ProvenState};
use super::failure::blocking;
use super::progress::Reporter;
use super::shelf;
use crate::abci::stub;
use crate::comet::peer::{
    ChunkSource, FedStats, FeedEvent, FeedSettings, Identity, NodeAddress, PeerError, Stop, feed,
};
use crate::comet::rpc::Rpc;
use crate::snapshot::{Manifest, Offer};
use crate::store::{Archive, Store};

/// File of the key with which the home meets CometBFT nodes.
pub(super) const NODE_KEY_FILE: &str = "comet.key";
/// Feed events that wait to be told.
const EVENT_QUEUE: usize = 256;

/// The key with which this home meets CometBFT nodes.
pub(super) async fn comet_identity(home: &Path) -> Result<Identity, Failure> {
    let path = home.join(NODE_KEY_FILE);
    blocking(move || {
        Identity::load_or_create(&path)
            .map_err(|error| Failure::new(FailureCode::Storage, error.to_string()))
    })
    .await
}

/// Carries out `feed`.
pub(super) async fn feed_node(
    store: &Store,
    command: &FeedCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Fed, Failure> {
    let started = Instant::now();
    let node: NodeAddress = command
        .node_p2p
        .parse()
        .map_err(|error| Failure::new(FailureCode::Usage, format!("--node-p2p: {error}")))?;
    let rpc = Rpc::new(&command.node_rpc)?;
    let patience = Duration::from_secs(command.timeout_s.max(1));
    // Questions to an RPC may take long; a person who stops it does not wait.
    let ready = cancel.run_until_cancelled(async {
        let (archive, app_hash) = proven_archive(store, command, reporter).await?;
        empty_node(&rpc, &node, archive.manifest(), patience, reporter).await?;
        adapter_must_hold(&rpc, archive.manifest()).await?;
        Ok::<_, Failure>((archive, app_hash))
    });
    let (archive, app_hash) = ready.await.ok_or_else(interrupted)??;
    let manifest = archive.manifest().clone();
    let identity = comet_identity(store.home()).await?;
    reporter.note(format!("meeting the node {node} as peer {}", identity.id()));
    reporter.phase(format!(
        "feeding the node with height {}",
        manifest.height()
    ));

    let stop = Stop::new();
    let (events, mut heard) = mpsc::channel(EVENT_QUEUE);
    let settings = FeedSettings {
        node,
        listen: None,
        chain_id: Some(manifest.chain_id().to_owned()),
    };
    let offer = Offer::of(&manifest);
    let feeding_stop = stop.clone();
    let stubs = Stubs::default();
    let chunks = ArchiveChunks {
        archive,
        stubs: stubs.clone(),
    };
    let connection = stubs.clone();
    let mut feeding = tokio::task::spawn_blocking(move || {
        feed(
            &settings,
            &identity,
            &offer,
            &chunks,
            &mut |event| {
                if matches!(event, FeedEvent::Disconnected { .. }) {
                    connection.connection_ended();
                }
                // When nobody follows any more, the feeding is stopped, too.
                let _ = events.blocking_send(event);
            },
            &feeding_stop,
        )
    });
    let mut watch = Watch::new(&rpc, &manifest, &app_hash, reporter, patience, stubs);
    let end = tokio::select! {
        end = watch.until_restored(&mut heard, cancel) => end,
        ended = &mut feeding => Err(too_early(ended)),
    };
    stop.stop();
    drop(heard);
    if !feeding.is_finished() {
        let _ = feeding.await;
    }
    end.map(|()| Fed {
        manifest: manifest.id().to_string(),
        height: manifest.height(),
        app_hash: hex::encode_upper(&app_hash),
        restored: true,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Feeding goes on until it is stopped, so its own end is a failure.
fn too_early(ended: Result<Result<FedStats, PeerError>, JoinError>) -> Failure {
    match ended {
        Ok(Ok(_)) => Failure::new(FailureCode::Failed, "feeding ended before the restore"),
        Ok(Err(error)) => error.into(),
        Err(error) => Failure::defect(&error),
    }
}

fn interrupted() -> Failure {
    Failure::interrupted(
        "the node keeps nothing of a half restore; the same command offers the snapshot again",
    )
}

/// A node's state cannot begin with a delta.
pub(super) fn must_be_full(manifest: &Manifest) -> Result<(), Failure> {
    match shelf::base_of(manifest) {
        None => Ok(()),
        Some(base) => Err(is_delta(&manifest.id().to_string(), &base)),
    }
}

/// Why a delta is not taken.
pub(super) fn is_delta(id: &str, base: &str) -> Failure {
    let message = format!("{id} is a delta from {base}: no node restores it");
    Failure::new(FailureCode::Usage, message).hint("take the full snapshot of its height")
}

/// The archive, if it may be fed: complete, and its application hash confirmed
/// by the chain.
async fn proven_archive(
    store: &Store,
    command: &FeedCommand,
    reporter: &Reporter,
) -> Result<(Archive, Bytes), Failure> {
    let (shelf_store, id) = (store.clone(), command.manifest.clone());
    let stored = blocking(move || shelf::find(&shelf_store, &id)).await?;
    let manifest = stored.manifest.clone();
    must_be_full(&manifest)?;
    if let Some(proof) = &command.proof {
        must_fit(&manifest, proof)?;
        set_proven(store, &manifest, proof.app_version).await?;
    } else if !stored.proven {
        let Some(url) = &command.chain_rpc else {
            return Err(Failure::new(
                FailureCode::Policy,
                format!(
                    "the state of {} is not proven: its bytes were checked, its application hash \
                     was not",
                    manifest.id()
                ),
            )
            .hint("give --chain-rpc URL of a node of the chain that you trust"));
        };
        reporter.phase("asking the chain for the application hash");
        let Some(state) = super::fetch::prove(Rpc::new(url)?, &manifest).await? else {
            return Err(Failure::new(
                FailureCode::Policy,
                format!(
                    "{} carries no application hash, so nothing can confirm it",
                    manifest.id()
                ),
            )
            .hint("load it again with --app-hash, or take a snapshot that has one"));
        };
        set_proven(store, &manifest, state.app_version).await?;
    }
    let (store, id) = (store.clone(), manifest.id());
    let archive = blocking(move || Ok(store.archive(&id)?)).await?;
    let app_hash = manifest.app_hash().cloned().unwrap_or_default();
    Ok((archive, app_hash))
}

async fn set_proven(store: &Store, manifest: &Manifest, app_version: u64) -> Result<(), Failure> {
    let (store, id) = (store.clone(), manifest.id());
    blocking(move || Ok(store.set_proven(&id, app_version)?)).await
}

/// Whoever proved it knows of which state the snapshot must be.
fn must_fit(manifest: &Manifest, proof: &ProvenState) -> Result<(), Failure> {
    let claimed = manifest.app_hash().map(hex::encode).unwrap_or_default();
    match claimed.eq_ignore_ascii_case(&proof.app_hash) {
        true => Ok(()),
        false => Err(Failure::new(
            FailureCode::Verification,
            format!(
                "{} is not of the state that the chain has at height {}",
                manifest.id(),
                manifest.height()
            ),
        )),
    }
}

/// Whether stubs may stand for chunks: while the connection stands on which the node's
/// application was found behind an adapter that holds the snapshot. The adapter puts the
/// bytes in, so that they need not pass the peer protocol.
#[derive(Clone, Default)]
struct Stubs(Arc<StubsState>);

#[derive(Default)]
struct StubsState {
    /// Connections that have ended.
    ended: AtomicU64,
    /// How many had ended, plus one, when an adapter was asked and was there.
    allowed: AtomicU64,
}

/// A connection, from its beginning to its end.
#[derive(Clone, Copy)]
struct Connection(u64);

impl Stubs {
    fn connection(&self) -> Connection {
        Connection(self.0.ended.load(Ordering::SeqCst))
    }

    /// For this connection, should it stand still.
    fn allow(&self, connection: Connection) {
        let number = connection.0.saturating_add(1);
        self.0.allowed.store(number, Ordering::SeqCst);
    }

    /// The next connection may lead to a node without an adapter.
    fn connection_ended(&self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn are_allowed(&self) -> bool {
        let now = self.connection().0.saturating_add(1);
        self.0.allowed.load(Ordering::SeqCst) == now
    }
}

/// Chunks of a sealed archive, as the peer protocol takes them.
struct ArchiveChunks {
    archive: Archive,
    stubs: Stubs,
}

impl ChunkSource for ArchiveChunks {
    fn chunk(&self, index: u32) -> io::Result<Bytes> {
        let manifest = self.archive.manifest();
        let index = manifest
            .chunk_index(index)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such chunk"))?;
        if self.stubs.are_allowed() {
            let chunk = manifest.unique_chunk(manifest.unique_at(index));
            return Ok(stub(&chunk.id));
        }
        self.archive.read_chunk(index).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fed_is_of_the_state_that_was_proven() {
        let mut builder = crate::snapshot::ManifestBuilder::new();
        builder.push(b"chunk").unwrap();
        let fields = crate::snapshot::SnapshotFields {
            chain_id: "a".to_owned(),
            height: 1,
            app_hash: Some("hash".into()),
            format: 1,
            hash: None,
            metadata: Bytes::new(),
        };
        let manifest = builder.finish(fields).unwrap();
        let fits = |hash: &str| {
            let proof = ProvenState {
                app_hash: hex::encode_upper(hash),
                app_version: 1,
            };
            must_fit(&manifest, &proof).map_err(|failure| failure.code)
        };
        assert_eq!(fits("hash"), Ok(()));
        for other in ["", "another"] {
            assert_eq!(fits(other), Err(FailureCode::Verification));
        }
    }

    #[test]
    fn a_late_answer_about_an_adapter_says_nothing_of_the_next_connection() {
        let stubs = Stubs::default();
        assert!(!stubs.are_allowed());
        let first = stubs.connection();
        stubs.allow(first);
        assert!(stubs.are_allowed());
        stubs.connection_ended();
        assert!(!stubs.are_allowed());
        stubs.allow(first);
        assert!(!stubs.are_allowed());
        stubs.allow(stubs.connection());
        assert!(stubs.are_allowed());
    }
}
