//! The third path: a complete, proven snapshot is offered to a joining CometBFT
//! node by a peer of its own, until the node has restored it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode, Fed, FeedCommand};
use super::failure::blocking;
use super::progress::{Meter, Reporter};
use super::shelf;
use crate::comet::peer::{ChunkSource, FeedEvent, FeedSettings, Identity, NodeAddress, Stop, feed};
use crate::comet::rpc::{Restored, Rpc};
use crate::snapshot::{Manifest, Offer};
use crate::store::{Archive, Store};

/// File of the key with which the home meets CometBFT nodes.
const NODE_KEY_FILE: &str = "comet.key";
/// How often the node is asked whether it has restored the snapshot.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    let status = rpc.status().await?;
    if status.height > 0 {
        return Err(Failure::new(
            FailureCode::Failed,
            format!(
                "the node at {} is at height {} already: a node restores a snapshot only while \
                 it is empty",
                rpc.url(),
                status.height
            ),
        )
        .hint("it follows the chain without us; to restore it all the same, empty it first"));
    }
    let (archive, app_hash) = proven_archive(store, command, reporter).await?;
    let manifest = archive.manifest().clone();
    let identity = comet_identity(store.home()).await?;
    reporter.phase(format!(
        "offering height {} to {node} as peer {}",
        manifest.height(),
        identity.id()
    ));

    let stop = Stop::new();
    let (events, mut heard) = mpsc::channel(EVENT_QUEUE);
    let settings = FeedSettings {
        node,
        listen: None,
        chain_id: Some(manifest.chain_id().to_owned()),
    };
    let offer = offer(&manifest);
    let feeding_stop = stop.clone();
    let chunks = ArchiveChunks(archive);
    let mut feeding = tokio::task::spawn_blocking(move || {
        feed(
            &settings,
            &identity,
            &offer,
            &chunks,
            &mut |event| {
                let _ = events.try_send(event);
            },
            &feeding_stop,
        )
    });
    let mut watch = Watch {
        rpc: &rpc,
        manifest: &manifest,
        app_hash: &app_hash,
        reporter,
        meter: Meter::new(reporter.clone(), manifest.total_bytes()),
        sent: vec![false; manifest.chunk_count() as usize],
        sent_bytes: 0,
        moved_at: Instant::now(),
        patience: Duration::from_secs(command.timeout_s.max(1)),
        last_trouble: None,
    };
    let end = tokio::select! {
        end = watch.until_restored(&mut heard, cancel) => end,
        ended = &mut feeding => Err(match ended {
            Ok(Ok(_)) => Failure::new(FailureCode::Failed, "feeding ended before the restore"),
            Ok(Err(error)) => error.into(),
            Err(error) => Failure::defect(&error),
        }),
    };
    stop.stop();
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
    if !stored.proven {
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
        if !super::fetch::prove(&Rpc::new(url)?, &manifest).await? {
            return Err(Failure::new(
                FailureCode::Policy,
                format!(
                    "{} carries no application hash, so nothing can confirm it",
                    manifest.id()
                ),
            )
            .hint("load it again with --app-hash, or take a snapshot that has one"));
        }
        let (store, id) = (store.clone(), manifest.id());
        blocking(move || Ok(store.set_proven(&id)?)).await?;
    }
    let (store, id) = (store.clone(), manifest.id());
    let archive = blocking(move || Ok(store.archive(&id)?)).await?;
    let app_hash = manifest.app_hash().cloned().unwrap_or_default();
    Ok((archive, app_hash))
}

fn offer(manifest: &Manifest) -> Offer {
    Offer {
        height: manifest.height(),
        format: manifest.format(),
        chunks: manifest.chunk_count(),
        hash: manifest.hash().clone(),
        metadata: manifest.metadata().clone(),
    }
}

/// Chunks of a sealed archive, as the peer protocol takes them.
struct ArchiveChunks(Archive);

impl ChunkSource for ArchiveChunks {
    fn chunk(&self, index: u32) -> io::Result<Bytes> {
        let manifest = self.0.manifest();
        let index = manifest
            .chunk_index(index)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such chunk"))?;
        self.0.read_chunk(index).map_err(io::Error::other)
    }
}

/// Follows a restore from both sides: what the node asks of the local peer, and
/// what its RPC says.
struct Watch<'a> {
    rpc: &'a Rpc,
    manifest: &'a Manifest,
    app_hash: &'a Bytes,
    reporter: &'a Reporter,
    meter: Meter,
    sent: Vec<bool>,
    sent_bytes: u64,
    moved_at: Instant,
    patience: Duration,
    last_trouble: Option<String>,
}

impl Watch<'_> {
    async fn until_restored(
        &mut self,
        heard: &mut mpsc::Receiver<FeedEvent>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(Failure::interrupted(
                        "the node keeps nothing of a half restore; the same command offers the \
                         snapshot again",
                    ));
                }
                Some(event) = heard.recv() => self.heard(event),
                _ = look.tick() => {
                    if self.is_restored().await {
                        return Ok(());
                    }
                    if self.moved_at.elapsed() >= self.patience {
                        return Err(self.stuck());
                    }
                }
            }
        }
    }

    async fn is_restored(&mut self) -> bool {
        match self
            .rpc
            .restored(self.manifest.height(), self.app_hash)
            .await
        {
            Ok(Restored::State | Restored::Following { .. }) => true,
            Ok(Restored::NotYet) => false,
            Err(error) => {
                self.trouble(error.to_string());
                false
            }
        }
    }

    fn heard(&mut self, event: FeedEvent) {
        self.moved_at = Instant::now();
        match event {
            FeedEvent::Listening { addr } => {
                self.reporter
                    .note(format!("waiting for the node on {addr}"));
            }
            FeedEvent::Connected { version, .. } => {
                self.reporter
                    .note(format!("connected; the node runs CometBFT {version}"));
            }
            FeedEvent::Offered => self.reporter.note("snapshot offered"),
            FeedEvent::ChunkSent { index, bytes } => {
                let first = !std::mem::replace(&mut self.sent[index as usize], true);
                if first {
                    self.sent_bytes += bytes;
                }
                self.meter.tell(self.sent_bytes, 1);
            }
            FeedEvent::Disconnected { why } => self.trouble(why),
        }
    }

    /// A trouble is told once, until another one comes.
    fn trouble(&mut self, why: String) {
        if self.last_trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "feeding does not go on");
            self.reporter.note(why.clone());
            self.last_trouble = Some(why);
        }
    }

    fn stuck(&self) -> Failure {
        let all = self.sent.len();
        let sent = self.sent.iter().filter(|sent| **sent).count();
        let why = self
            .last_trouble
            .as_ref()
            .map_or_else(String::new, |why| format!("; last trouble: {why}"));
        let hint = if sent == 0 {
            "the node asked for no chunk: is [statesync] enabled in its config.toml, is it at \
             height 0, do its rpc_servers answer, and does it let this peer in (see its log for \
             'statesync')?"
        } else {
            "look for 'statesync' in the node's log: it says why the snapshot was not taken"
        };
        Failure::new(
            FailureCode::Failed,
            format!(
                "the node has not restored height {} ({sent} of {all} chunks sent), and for {} \
                 seconds nothing moved{why}",
                self.manifest.height(),
                self.patience.as_secs()
            ),
        )
        .hint(hint)
    }
}
