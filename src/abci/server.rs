//! The adapter's door: takes CometBFT's connections and opens those to the
//! application.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::address::{self, Listener, ReadSide, WriteSide};
use super::commit::{CommitHold, LastHold};
use super::frame::{FrameReader, FrameWriter};
use super::relay::{End, relay};
use super::session::Session;
use super::stand_in::{StandIn, stand};
use super::{AbciError, Address, Chain, Restoring, Snapshots, Standing, Times};

/// CometBFT has four connections; a second process of it that is started by
/// mistake, and people who look, have a few more.
const MAX_CONNECTIONS: usize = 64;
/// While the application is not there, it is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// After a failed accept (no file descriptors left), the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Between whom the adapter stands.
#[derive(Clone, Debug)]
pub struct AdapterSettings {
    /// Where the application listens.
    pub app: Address,
    /// Where CometBFT finds its application (`proxy_app`).
    pub listen: Address,
    /// The chain, where it is known; else it is learnt from InitChain.
    pub chain_id: Option<String>,
    /// How long things may take.
    pub times: Times,
}

/// An adapter with its port open.
pub struct Adapter {
    session: Arc<Session>,
    stand_in: Option<Arc<dyn StandIn>>,
    listener: Listener,
    address: Address,
}

/// What the adapter has learnt, for whoever works beside it.
#[derive(Clone)]
pub struct Learnt(pub(super) Arc<Session>);

impl Learnt {
    /// What is known of the chain.
    pub fn chain(&self) -> Chain {
        self.0.chain()
    }

    /// The application hash after a height, where the chain has confirmed it since
    /// this adapter runs.
    pub fn app_hash(&self, height: u64) -> Option<Bytes> {
        self.0.app_hash(height)
    }

    /// Whether the application hash after a height is never told here, because the
    /// block went by before this adapter ran, or too long ago.
    pub fn is_past(&self, height: u64) -> bool {
        self.0.is_past(height)
    }

    /// Changes with each commit.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.commits()
    }

    /// How the answer to Commit was held last, where it is held.
    pub fn last_hold(&self) -> Option<LastHold> {
        self.0.holding.last()
    }

    /// The restore under way.
    pub fn restoring(&self) -> Option<Restoring> {
        self.0.restoring()
    }

    /// What is going on.
    pub fn standing(&self) -> Standing {
        self.0.standing()
    }
}

impl Adapter {
    /// Opens the port. The application need not be there yet.
    pub async fn bind(
        settings: AdapterSettings,
        snapshots: Arc<dyn Snapshots>,
    ) -> Result<Self, AbciError> {
        let failed = |source| AbciError::Listen {
            address: settings.listen.clone(),
            source,
        };
        let listener = Listener::bind(&settings.listen).await.map_err(failed)?;
        let address = listener.address().map_err(failed)?;
        Ok(Self {
            session: Arc::new(Session::new(settings, snapshots)),
            stand_in: None,
            listener,
            address,
        })
    }

    /// Until the application is needed, this stands in for it.
    pub fn with_stand_in(mut self, stand_in: Arc<dyn StandIn>) -> Self {
        self.stand_in = Some(stand_in);
        self
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Holds answers to Commit from now on.
    pub fn hold_commits(&self, hold: CommitHold) {
        self.session.holding.begin(hold);
    }

    /// What it learns.
    pub fn learnt(&self) -> Learnt {
        Learnt(self.session.clone())
    }

    /// Serves until it is told to stop, which ends all connections, and CometBFT
    /// with them.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let numbers = AtomicU32::new(0);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            };
            match accepted {
                Ok(node) => {
                    let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
                    let (session, stand_in) = (self.session.clone(), self.stand_in.clone());
                    connections.spawn(connection(session, stand_in, number, node));
                }
                Err(error) => {
                    tracing::error!(%error, "a connection of CometBFT cannot be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.shutdown().await;
    }
}

async fn connection(
    session: Arc<Session>,
    stand_in: Option<Arc<dyn StandIn>>,
    number: u32,
    node: (ReadSide, WriteSide),
) {
    let (mut from, mut to) = (FrameReader::new(node.0), FrameWriter::new(node.1));
    if let Some(stand_in) = stand_in
        && let Err(end) = stand(session.clone(), stand_in, number, &mut from, &mut to).await
    {
        return tell(number, &end);
    }
    // What CometBFT asks before it is gone does not reach an application that comes
    // after.
    let app = tokio::select! {
        biased;
        () = from.closed() => {
            tracing::info!(number, "CometBFT left before the application was there");
            return;
        }
        app = app_side(&session.app, number) => app,
    };
    tracing::debug!(number, "connected");
    tell(number, &relay(session, number, (from, to), app).await);
}

fn tell(number: u32, end: &End) {
    match end {
        End::Node => tracing::info!(number, "CometBFT closed its connection; its end follows"),
        End::App => tracing::warn!(
            number,
            "the application closed its connection; that to CometBFT follows, and CometBFT ends"
        ),
        End::Broken(error) => tracing::warn!(number, %error, "a connection broke, and is closed"),
    }
}

/// Waits for the application as CometBFT would.
async fn app_side(app: &Address, number: u32) -> (ReadSide, WriteSide) {
    let mut is_told = false;
    loop {
        match address::connect(app).await {
            Ok(sides) => {
                if is_told {
                    tracing::info!(number, %app, "the application is there");
                }
                return sides;
            }
            Err(error) if !is_told => {
                tracing::warn!(number, %app, %error, "the application is not there yet; waiting for it");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
