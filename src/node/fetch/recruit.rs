//! Finding peers for a download and opening piece streams on them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::roster::Roster;
use crate::net::pieces::Client;
use crate::net::{Key, Net};
use crate::node::services::Services;
use crate::snapshot::{ChunkId, ManifestId};

/// How often the DHT is asked for more providers while the download runs.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);
/// How often connected peers are looked through.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(1);
/// One look-up in the DHT.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(20);
/// Opening a stream on a peer, dialling included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// A peer that is ready to be asked.
pub(super) struct Recruit {
    pub(super) peer: PeerId,
    pub(super) client: Client,
}

/// What the download tells its recruiter.
pub(super) enum Order {
    /// This peer takes no part any more: it may be tried again later.
    Left(PeerId),
    /// Nobody in the download has these chunks.
    Lacking(Vec<ChunkId>),
}

/// Runs until the download drops its end of `orders`.
pub(super) async fn recruit(
    services: Arc<Services>,
    manifest: ManifestId,
    first: Vec<PeerId>,
    recruits: mpsc::Sender<Recruit>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut roster = Roster::new(first);
    let (found_sender, mut found) = mpsc::channel(64);
    let mut opening: JoinSet<(PeerId, Option<Client>)> = JoinSet::new();
    let mut look_ups = JoinSet::new();
    let mut look_up = tokio::time::interval(LOOK_UP_EVERY);
    let mut look_around = tokio::time::interval(LOOK_AROUND_EVERY);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Left(peer)) => roster.left(peer, Instant::now()),
                Some(Order::Lacking(chunks)) => {
                    for chunk in chunks {
                        look_ups.spawn(find(services.net.clone(), Key::Chunk(chunk), found_sender.clone()));
                    }
                }
            },
            _ = look_up.tick() => {
                look_ups.spawn(find(services.net.clone(), Key::Manifest(manifest), found_sender.clone()));
            }
            Some(peer) = found.recv() => roster.add(peer),
            Some(_) = look_ups.join_next(), if !look_ups.is_empty() => {}
            Some(opened) = opening.join_next(), if !opening.is_empty() => {
                let Ok((peer, client)) = opened else { continue };
                let Some(client) = client else {
                    roster.failed(peer, Instant::now());
                    continue;
                };
                roster.opened(&peer);
                if recruits.send(Recruit { peer, client }).await.is_err() {
                    return;
                }
            }
            _ = look_around.tick() => {}
        }
        open_some(&services, &mut roster, &mut opening);
    }
}

fn open_some(
    services: &Arc<Services>,
    roster: &mut Roster,
    opening: &mut JoinSet<(PeerId, Option<Client>)>,
) {
    let own = services.net.peer_id();
    let connected = services.net.connected().iter().map(|p| p.peer).collect();
    roster.set_connected(connected);
    let is_out = |peer: &PeerId| *peer == own || services.referee.is_banned(peer);
    for peer in roster.next(is_out, Instant::now()) {
        let net = services.net.clone();
        opening.spawn(async move {
            let opened = tokio::time::timeout(OPEN_TIMEOUT, net.pieces(peer)).await;
            let client = match opened {
                Ok(Ok(client)) => Some(client),
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no piece stream");
                    None
                }
                Err(_) => None,
            };
            (peer, client)
        });
    }
}

async fn find(net: Net, key: Key, found: mpsc::Sender<PeerId>) {
    let look = async {
        let Ok(mut providers) = net.find(key).await else {
            return;
        };
        while let Some(peer) = providers.next().await {
            if found.send(peer).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LOOK_UP_TIMEOUT, look).await;
}
