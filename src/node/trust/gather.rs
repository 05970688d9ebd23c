//! Hearing who speaks for what is here.
//!
//! Peers tell it in their catalogues. Who lists endorsers asks each peer when it
//! appears, and some of the connected ones from time to time: endorsements come after
//! their snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use rand::seq::SliceRandom;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::net::NetEvent;
use crate::node::failure::blocking;
use crate::node::services::Services;
use crate::snapshot::{EndorsementError, SnapshotName};
use crate::sync::Offence;
use crate::wire::CatalogueEntry;

/// Connected peers are asked so often. A snapshot is made every hour or so, and each
/// of its makers is heard soon after.
const ROUND: Duration = Duration::from_secs(20);
/// Peers asked in one round: with answers of the usual size, a few kilobytes each,
/// nothing that a link would feel.
const MAX_ASKED: usize = 16;
/// Peers asked at once.
const MAX_ASKED_AT_ONCE: usize = 4;
/// Chains about which a peer is asked; a home has one or a few.
const MAX_CHAINS: usize = 8;
/// One question. Who is slower is asked another time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until the end; not where no endorsers are listed.
pub(in crate::node) async fn gather(services: Arc<Services>, cancel: CancellationToken) {
    if services.trust.quorum().is_none() {
        return;
    }
    let mut events = services.net.events();
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let peers = tokio::select! {
            () = cancel.cancelled() => return,
            _ = rounds.tick() => some_connected(&services),
            event = events.recv() => match event {
                Ok(NetEvent::Identified { peer }) => vec![peer],
                Ok(_) | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = ask_some(&services, peers) => {}
        }
    }
}

fn some_connected(services: &Services) -> Vec<PeerId> {
    let connected = services.net.connected();
    let mut peers: Vec<PeerId> = connected.iter().map(|info| info.peer).collect();
    peers.shuffle(&mut rand::rng());
    peers
}

/// Asks these peers and then others, once and not for long: for a person who fetched
/// a snapshot by its name and wants to know who speaks for it.
pub(in crate::node) async fn ask_around(services: &Arc<Services>, mut peers: Vec<PeerId>) {
    for peer in some_connected(services) {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    if tokio::time::timeout(PATIENCE, ask_some(services, peers))
        .await
        .is_err()
    {
        tracing::debug!("not every peer told in time who speaks for what is here");
    }
}

/// Asks these peers, the first of them, who speaks for what is here.
async fn ask_some(services: &Arc<Services>, mut peers: Vec<PeerId>) {
    peers.truncate(MAX_ASKED);
    let asked = peers.into_iter().map(|peer| ask(services, peer));
    futures::stream::iter(asked)
        .buffer_unordered(MAX_ASKED_AT_ONCE)
        .collect::<()>()
        .await;
}

async fn ask(services: &Arc<Services>, peer: PeerId) {
    if services.referee.is_banned(&peer) {
        return;
    }
    let chains: BTreeSet<String> = {
        let stored = services.store.list().into_iter();
        let chains = stored.map(|stored| stored.manifest.chain_id().to_owned());
        chains.take(MAX_CHAINS).collect()
    };
    for chain in chains {
        let answer = services.net.catalogue(peer, Some(&chain));
        let entries = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer.entries,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "no catalogue");
                if error.blame().is_some() {
                    services.referee.ban(peer, Offence::Protocol);
                }
                return;
            }
            Err(_) => return,
        };
        let own = Arc::clone(services);
        let learned = blocking(move || {
            learn(&own, peer, &entries);
            Ok(())
        })
        .await;
        if let Err(failure) = learned {
            tracing::error!(%failure, "endorsements were not taken in");
        }
    }
}

/// Takes in what a peer told of snapshots that are here. Blocking.
fn learn(services: &Services, peer: PeerId, entries: &[CatalogueEntry]) {
    for entry in entries
        .iter()
        .filter(|entry| !entry.endorsements.is_empty())
    {
        let Some(manifest) = services.store.manifest(&entry.manifest) else {
            continue;
        };
        let about = SnapshotName::from(&*manifest);
        let mut forged: Option<EndorsementError> = None;
        let kept = services.store.endorse(&about.manifest, |set| {
            let admitted = services.trust.admit(&about, &entry.endorsements, set);
            forged = admitted.err();
        });
        if let Some(error) = forged {
            // Who passes endorsements on has checked them.
            tracing::warn!(%peer, %error, "a peer told a forged endorsement");
            services.referee.ban(peer, Offence::WrongBytes);
            return;
        }
        if let Err(error) = kept {
            tracing::warn!(manifest = %about.manifest, %error, "endorsements were not kept");
        }
    }
}
