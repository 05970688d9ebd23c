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
use crate::node::progress::Reporter;
use crate::node::services::Services;
use crate::snapshot::{ChunkId, ManifestId};

/// How often the DHT is asked for more providers while the download runs.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);
/// How often connected peers are looked through.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(1);
/// While the download has nobody to ask, the network's own pauses before it
/// dials lost peers again are cut short so often.
const HURRY_EVERY: Duration = Duration::from_secs(4);
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
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// This peer takes no part any more: it may be tried again later.
    Left(PeerId),
    /// Nobody in the download has these chunks.
    Lacking(Vec<ChunkId>),
    /// Nobody in the download has anything of the rest.
    Deserted,
    /// A piece came again.
    Relieved,
}

/// The download's end of the orders. None is ever lost: a peer whose leaving the
/// recruiter missed would count as working for ever.
pub(super) struct Orders(mpsc::UnboundedSender<Order>);

impl Orders {
    /// Both ends. What waits is bounded by what the recruiter did before: there is
    /// one leaving for each recruit that it sent, and of the rest at most one
    /// each second.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Gives an order; without a recruiter there is nobody to obey.
    pub(super) fn give(&self, order: Order) {
        let _ = self.0.send(order);
    }
}

/// Finds peers for one download.
pub(super) struct Recruiter {
    services: Arc<Services>,
    manifest: ManifestId,
    reporter: Reporter,
    roster: Roster,
    recruits: mpsc::Sender<Recruit>,
    opening: JoinSet<(PeerId, Option<Client>)>,
    look_ups: JoinSet<()>,
    /// Since when the download has nobody to ask, and when the network was last
    /// told to hurry.
    hurried: Option<Instant>,
}

impl Recruiter {
    /// `first` are said to have the snapshot.
    pub(super) fn new(
        services: Arc<Services>,
        manifest: ManifestId,
        first: Vec<PeerId>,
        recruits: mpsc::Sender<Recruit>,
        reporter: Reporter,
    ) -> Self {
        Self {
            services,
            manifest,
            reporter,
            roster: Roster::new(first),
            recruits,
            opening: JoinSet::new(),
            look_ups: JoinSet::new(),
            hurried: None,
        }
    }

    /// Runs until the download drops its end of `orders`.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (found_sender, mut found) = mpsc::channel(64);
        let mut look_up = tokio::time::interval(LOOK_UP_EVERY);
        let mut look_around = tokio::time::interval(LOOK_AROUND_EVERY);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(order) => self.obey(order, &found_sender).await,
                },
                _ = look_up.tick() => self.look_up(Key::Manifest(self.manifest), &found_sender),
                Some(peer) = found.recv() => self.roster.add(peer),
                Some(_) = self.look_ups.join_next(), if !self.look_ups.is_empty() => {}
                Some(opened) = self.opening.join_next(), if !self.opening.is_empty() => {
                    let Ok((peer, client)) = opened else { continue };
                    let Some(client) = client else {
                        self.roster.failed(peer, Instant::now());
                        continue;
                    };
                    self.roster.opened(&peer);
                    if self.recruits.send(Recruit { peer, client }).await.is_err() {
                        return;
                    }
                }
                _ = look_around.tick() => self.hurry().await,
            }
            self.open_some();
        }
    }

    async fn obey(&mut self, order: Order, found: &mpsc::Sender<PeerId>) {
        match order {
            Order::Left(peer) => self.roster.left(peer, Instant::now()),
            Order::Lacking(chunks) => {
                for chunk in chunks {
                    self.look_up(Key::Chunk(chunk), found);
                }
            }
            Order::Deserted => {
                self.roster.set_hasty(true);
                let referee = &self.services.referee;
                let known = self.roster.hopeful(|peer| referee.is_banned(peer));
                self.reporter.note(deserted(known));
                self.hurried = Some(Instant::now());
                self.tell_to_hurry().await;
            }
            Order::Relieved => {
                self.roster.set_hasty(false);
                self.hurried = None;
            }
        }
    }

    async fn hurry(&mut self) {
        if self.hurried.is_some_and(|at| at.elapsed() >= HURRY_EVERY) {
            self.hurried = Some(Instant::now());
            self.tell_to_hurry().await;
        }
    }

    async fn tell_to_hurry(&self) {
        if let Err(error) = self.services.net.redial_now().await {
            tracing::debug!(%error, "lost peers are not dialled at once");
        }
    }

    fn look_up(&mut self, key: Key, found: &mpsc::Sender<PeerId>) {
        let (net, found) = (self.services.net.clone(), found.clone());
        self.look_ups.spawn(find(net, key, found));
    }

    fn open_some(&mut self) {
        let services = &self.services;
        let own = services.net.peer_id();
        let connected = services.net.connected().iter().map(|p| p.peer).collect();
        self.roster.set_connected(connected);
        let is_out = |peer: &PeerId| *peer == own || services.referee.is_banned(peer);
        for peer in self.roster.next(is_out, Instant::now()) {
            let net = services.net.clone();
            self.opening.spawn(async move {
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
}

/// What the person is told when a download has nobody to ask.
fn deserted(known: usize) -> String {
    let whom = match known {
        0 => "looking for others".to_owned(),
        1 => "trying 1 known peer again".to_owned(),
        known => format!("trying {known} known peers again"),
    };
    format!("no connected peer has the rest; {whom}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_is_lost_while_the_recruiter_is_busy() {
        let (orders, mut received) = Orders::new();
        let peers: Vec<PeerId> = (0..500).map(|_| PeerId::random()).collect();
        for peer in &peers {
            orders.give(Order::Left(*peer));
        }
        for peer in peers {
            assert_eq!(received.try_recv(), Ok(Order::Left(peer)));
        }
    }

    #[test]
    fn a_deserted_download_says_how_many_peers_are_tried() {
        assert_eq!(
            deserted(1),
            "no connected peer has the rest; trying 1 known peer again"
        );
        assert!(deserted(3).ends_with("trying 3 known peers again"));
        assert!(!deserted(0).contains('0'));
    }
}
