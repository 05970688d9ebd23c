//! The task that owns the order of uploads: select, then apply.
//!
//! [`Uploads`] decides; this shell only translates. It never waits for a stream:
//! what it tells one is put down at its link.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::link::{Link, Work};
use super::server::House;
use crate::snapshot::{ChunkId, Manifest, ManifestId};
use crate::sync::{self, ConnKey, PeerHolding, RequestKey, UploadAction, UploadLimits, Uploads};
use crate::wire::{self, Refusal, RequestId};

/// The order refuses at the numbers that the protocol promises.
const _: () = assert!(
    sync::MAX_OPEN_REQUESTS == wire::MAX_OPEN_REQUESTS
        && sync::MAX_OPEN_SNAPSHOTS == wire::MAX_OPEN_SNAPSHOTS
);

/// Messages that wait for the task; who has more to say waits for a place.
pub(super) const ORDER_QUEUE: usize = 256;

/// How often the library is told which snapshots are being downloaded from us;
/// it wants to hear it once a minute.
const IN_USE_INTERVAL: Duration = Duration::from_secs(30);

/// A peer that has asked for nothing for so long does not download any more.
const IN_USE_MEMORY: Duration = Duration::from_secs(60);

/// Assumed until the first piece has measured it: a path within a continent.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(50);

/// What happened on a stream.
pub(super) enum Message {
    Joined(Arc<Link>),
    Left(ConnKey),
    Opened {
        conn: ConnKey,
        manifest: Arc<Manifest>,
    },
    Holds {
        conn: ConnKey,
        manifest: ManifestId,
        holding: PeerHolding,
    },
    Has {
        conn: ConnKey,
        manifest: ManifestId,
        pieces: Vec<u32>,
    },
    Requested {
        conn: ConnKey,
        id: RequestId,
        chunk: ChunkId,
        piece: u32,
    },
    Cancelled {
        conn: ConnKey,
        id: RequestId,
    },
    /// So many bytes of the piece under way were written.
    Progress {
        conn: ConnKey,
        bytes: u32,
    },
    /// The piece is written, or so nearly that the next may be chosen.
    Ended {
        conn: ConnKey,
        id: RequestId,
    },
    /// The piece could not be read; its request was refused.
    Failed {
        conn: ConnKey,
        id: RequestId,
    },
    /// No more bytes may be written to this stream now.
    Blocked(ConnKey),
    Unblocked(ConnKey),
    Limits(UploadLimits),
}

pub(super) struct Ordering {
    uploads: Uploads,
    links: BTreeMap<ConnKey, Arc<Link>>,
    house: Arc<House>,
}

impl Ordering {
    pub(super) fn new(house: Arc<House>, limits: UploadLimits, seed: u64) -> Self {
        Self {
            uploads: Uploads::new(limits, seed, std::time::Instant::now()),
            links: BTreeMap::new(),
            house,
        }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let stop = self.house.stop.clone();
        let mut in_use = interval_at(Instant::now() + IN_USE_INTERVAL, IN_USE_INTERVAL);
        in_use.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let timeout = self.uploads.poll_timeout();
            let timeout = async {
                match timeout {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(message) = messages.recv() => self.apply(message),
                () = timeout => {}
                _ = in_use.tick() => self.renew_leases(),
                () = stop.cancelled() => return,
            }
            while let Ok(message) = messages.try_recv() {
                self.apply(message);
            }
            self.act();
        }
    }

    fn apply(&mut self, message: Message) {
        let now = Instant::now().into_std();
        let uploads = &mut self.uploads;
        match message {
            Message::Joined(link) => {
                uploads.handle_joined(link.conn, FIRST_ROUND_TRIP);
                self.links.insert(link.conn, link);
            }
            Message::Left(conn) => {
                self.links.remove(&conn);
                uploads.handle_left(conn, now);
            }
            Message::Opened { conn, manifest } => uploads.handle_opened(conn, &manifest),
            Message::Holds {
                conn,
                manifest,
                holding,
            } => {
                // The reader has checked the numbers against the manifest.
                let _ = uploads.handle_holding(conn, &manifest, holding);
            }
            Message::Has {
                conn,
                manifest,
                pieces,
            } => {
                let _ = uploads.handle_have(conn, &manifest, &pieces);
            }
            Message::Requested {
                conn,
                id,
                chunk,
                piece,
            } => {
                if let Err(refusal) = uploads.handle_request(conn, RequestKey(id.0), chunk, piece)
                    && let Some(link) = self.links.get(&conn)
                {
                    self.house.refuse(link, id, on_the_wire(refusal));
                }
            }
            Message::Cancelled { conn, id } => uploads.handle_cancel(conn, RequestKey(id.0), now),
            Message::Progress { conn, bytes } => {
                uploads.handle_progress(conn, bytes, now);
                let link = self.links.get(&conn);
                if let Some(measured) = link.and_then(|link| link.credit(|c| c.round_trip())) {
                    uploads.handle_rtt(conn, measured);
                }
            }
            Message::Ended { conn, id } => uploads.handle_finished(conn, RequestKey(id.0), now),
            Message::Failed { conn, id } => uploads.handle_failed(conn, RequestKey(id.0), now),
            Message::Blocked(conn) => uploads.handle_blocked(conn),
            Message::Unblocked(conn) => uploads.handle_unblocked(conn),
            Message::Limits(limits) => uploads.set_limits(limits),
        }
    }

    fn act(&mut self) {
        let now = Instant::now().into_std();
        while let Some(action) = self.uploads.poll(now) {
            match action {
                UploadAction::Start {
                    conn,
                    request,
                    chunk,
                    piece,
                } => {
                    if let Some(link) = self.links.get(&conn) {
                        link.start(Work {
                            id: RequestId(request.0),
                            chunk,
                            piece,
                        });
                    }
                }
                UploadAction::Abort { conn, request } => {
                    if let Some(link) = self.links.get(&conn) {
                        link.take_back(RequestId(request.0));
                    }
                }
            }
        }
    }

    /// Tells the library which snapshots are being downloaded from us.
    fn renew_leases(&self) {
        let active = self
            .links
            .values()
            .filter(|link| link.asked_at().elapsed() < IN_USE_MEMORY || link.open_requests() > 0)
            .flat_map(|link| {
                let peer = link.peer;
                let snapshots = link.snapshots();
                snapshots.into_iter().map(move |snapshot| (snapshot, peer))
            })
            .collect::<Vec<_>>();
        if active.is_empty() {
            return;
        }
        let library = Arc::clone(&self.house.library);
        tokio::task::spawn_blocking(move || {
            for (snapshot, peer) in active {
                library.in_use(&snapshot, &peer);
            }
        });
    }
}

/// The protocol's code for a refusal.
fn on_the_wire(refusal: sync::Refusal) -> Refusal {
    match refusal {
        sync::Refusal::Gone => Refusal::Gone,
        sync::Refusal::Busy => Refusal::Busy,
        sync::Refusal::OverLimit => Refusal::OverLimit,
        sync::Refusal::NotAllowed => Refusal::NotAllowed,
    }
}
