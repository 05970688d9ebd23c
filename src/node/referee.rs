//! Who is kept out, and for how long: the ban terms of the scheduler, carried
//! out by the network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use libp2p::PeerId;

use crate::net::Net;
use crate::sync::{Bans, Offence};

/// Bans of this process; terms grow with each offence.
pub(super) struct Referee {
    net: Net,
    bans: Mutex<Bans<PeerId>>,
    total: AtomicU64,
}

impl Referee {
    pub(super) fn new(net: Net) -> Self {
        Self {
            net,
            bans: Mutex::new(Bans::new()),
            total: AtomicU64::new(0),
        }
    }

    /// Keeps a peer out for a term.
    pub(super) fn ban(&self, peer: PeerId, offence: Offence) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let term = self.lock().ban(peer, offence, Instant::now()).term;
        let reason = match offence {
            Offence::WrongBytes => "sent other bytes than the manifest it announced says",
            Offence::Protocol => "broke the protocol",
        };
        tracing::warn!(%peer, seconds = term.as_secs(), reason, "peer banned");
        let net = self.net.clone();
        tokio::spawn(async move {
            let _ = net.ban(peer, term, reason).await;
        });
    }

    /// What the peer was banned for was not its fault.
    pub(super) fn lift(&self, peer: PeerId) {
        self.lock().lift(&peer);
        tracing::info!(%peer, "ban lifted: the manifest was false, not the peer");
        let net = self.net.clone();
        tokio::spawn(async move {
            let _ = net.lift(peer).await;
        });
    }

    /// Bans pronounced since the start.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.lock().is_banned(peer, Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bans<PeerId>> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
