//! Who is kept out, and for how long: the ban terms of the scheduler, carried
//! out by the network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::mpsc;

use crate::net::Net;
use crate::sync::{Bans, Offence};

/// Bans of this process; terms grow with each offence.
pub(super) struct Referee {
    bans: Mutex<Bans<PeerId>>,
    /// In the order in which they were pronounced: a lift never overtakes its
    /// ban. As many wait as peers misbehave at once, which connections bound.
    verdicts: mpsc::UnboundedSender<Verdict>,
    total: AtomicU64,
}

/// A ban in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Banned {
    pub(super) peer: PeerId,
    /// What it did, to be said after its name.
    pub(super) reason: &'static str,
    /// How long it stays out.
    pub(super) left: Duration,
}

enum Verdict {
    Ban(PeerId, Duration, &'static str),
    Lift(PeerId),
}

impl Referee {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(net: Net) -> Self {
        let (verdicts, mut pronounced) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(verdict) = pronounced.recv().await {
                let done = match verdict {
                    Verdict::Ban(peer, term, reason) => net.ban(peer, term, reason).await,
                    Verdict::Lift(peer) => net.lift(peer).await,
                };
                if done.is_err() {
                    return;
                }
            }
        });
        Self {
            bans: Mutex::new(Bans::new()),
            verdicts,
            total: AtomicU64::new(0),
        }
    }

    /// Keeps a peer out for a term.
    pub(super) fn ban(&self, peer: PeerId, offence: Offence) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let term = self.lock().ban(peer, offence, Instant::now()).term;
        let reason = reason(offence);
        tracing::warn!(%peer, seconds = term.as_secs(), reason, "peer banned");
        let _ = self.verdicts.send(Verdict::Ban(peer, term, reason));
    }

    /// What the peer was banned for was not its fault.
    pub(super) fn lift(&self, peer: PeerId) {
        self.lock().lift(&peer);
        tracing::info!(%peer, "ban lifted: the manifest was false, not the peer");
        let _ = self.verdicts.send(Verdict::Lift(peer));
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        self.lock().is_banned(peer, Instant::now())
    }

    /// The bans in force of those that are `wanted`.
    pub(super) fn in_force(&self, wanted: impl Fn(&PeerId) -> bool) -> Vec<Banned> {
        let now = Instant::now();
        self.lock()
            .iter(now)
            .filter(|(peer, ..)| wanted(peer))
            .map(|(peer, offence, until)| Banned {
                peer: *peer,
                reason: reason(offence),
                left: until - now,
            })
            .collect()
    }

    /// Bans pronounced since the start.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bans<PeerId>> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(offence: Offence) -> &'static str {
    match offence {
        Offence::WrongBytes => "sent other bytes than the manifest it announced says",
        Offence::Protocol => "broke the protocol",
    }
}
