//! The serving side of a node: honest by the order of `Uploads`, or not.

use std::time::Duration;

use rand::RngExt;
use snapswarm::snapshot::{Bitmap, PieceIndex};
use snapswarm::sync::{ConnKey, PeerHolding, UploadAction};
use snapswarm::wire::{Refusal, RequestId};

use super::link::{Answer, Ask, Sending, Truth};
use super::plan::Role;
use super::world::{Event, NodeId, World, secs};

/// What a trickler sends at once, and how often.
const TRICKLE_BYTES: u32 = 500;
const TRICKLE_EVERY: Duration = Duration::from_secs(1);

impl World {
    /// The first words on a new link.
    pub fn greet(&mut self, asker: NodeId, server: NodeId) {
        let node = &self.nodes[server];
        let claims = node.claims.clone();
        if node.plan.unannounced {
            let whole = |chunk: &u32| {
                let index = self.manifest.unique_index(*chunk).expect("in range");
                let mut pieces = self.manifest.pieces_of(index);
                pieces.all(|piece| claims.contains(piece.get()))
            };
            let chunks = (0..self.manifest.unique_count()).filter(whole).collect();
            return self.answer(asker, server, Answer::Chunks(chunks));
        }
        let rude = node.plan.role == Role::Rude;
        if rude && self.rng.random_bool(0.5) {
            let wrong = Bitmap::new(self.manifest.piece_count() + 1);
            return self.answer(asker, server, Answer::Holdings(wrong));
        }
        self.answer(asker, server, Answer::Holdings(claims));
        if rude {
            let beyond = vec![0, self.manifest.piece_count()];
            self.answer(asker, server, Answer::Have(beyond));
        }
    }

    /// A word of the asker came.
    pub fn serve(&mut self, asker: NodeId, server: NodeId, ask: Ask) {
        let conn = ConnKey(asker as u64);
        let manifest = self.manifest.id();
        let now = self.instant();
        let uploads = &mut self.nodes[server].uploads;
        match ask {
            Ask::Holdings(bitmap) => {
                let holding = PeerHolding::Pieces(bitmap);
                assert!(uploads.handle_holding(conn, &manifest, holding));
            }
            Ask::Have(pieces) => assert!(uploads.handle_have(conn, &manifest, &pieces)),
            Ask::Request(id, piece) => self.request(asker, server, id, piece),
            Ask::Cancel(id) => {
                uploads.handle_cancel(conn, RequestId(id), now);
                self.links
                    .get_mut(&(asker, server))
                    .expect("a link")
                    .ids
                    .remove(&id);
            }
            Ask::Ack(bytes) => {
                let link = self.links.get_mut(&(asker, server)).expect("a link");
                link.unacknowledged -= u64::from(bytes);
                if link.unacknowledged < link.credit {
                    uploads.handle_unblocked(conn);
                }
            }
        }
        self.drain_uploads(server);
    }

    fn request(&mut self, asker: NodeId, server: NodeId, id: u32, piece: PieceIndex) {
        let node = &mut self.nodes[server];
        node.requests_seen += 1;
        let refusal = match node.plan.role {
            Role::Mute(after) if node.requests_seen > after => return,
            Role::Forgetful(chance) if self.rng.random_bool(chance) => return,
            Role::Refuser(refusal, chance) if self.rng.random_bool(chance) => Some(refusal),
            _ if !node.servable.contains(piece.get()) => Some(Refusal::Gone),
            _ => None,
        };
        let info = self.manifest.piece(piece);
        let chunk = self.manifest.unique_chunk(info.chunk).id;
        let accepted = match refusal {
            Some(refusal) => Err(refusal),
            None => node.uploads.handle_request(
                ConnKey(asker as u64),
                RequestId(id),
                chunk,
                info.index_in_chunk,
            ),
        };
        match accepted {
            Ok(()) => {
                let link = self.links.get_mut(&(asker, server)).expect("a link");
                link.ids.insert(id, piece);
            }
            Err(refusal) => self.answer(asker, server, Answer::Refused(id, refusal)),
        }
    }

    /// Carries out what the order of uploads says.
    pub fn drain_uploads(&mut self, server: NodeId) {
        let now = self.instant();
        while let Some(action) = self.nodes[server].uploads.poll(now) {
            self.note(&(server, action));
            match action {
                UploadAction::Start { conn, request, .. } => {
                    self.start(conn.0 as usize, server, request.0);
                }
                UploadAction::Abort { conn, request } => {
                    let asker = conn.0 as usize;
                    let link = self.links.get_mut(&(asker, server)).expect("a link");
                    link.sending.take_if(|sending| sending.id == request.0);
                    self.answer(asker, server, Answer::Aborted(request.0));
                }
            }
        }
        self.feed(server);
        if let Some(at) = self.nodes[server].uploads.poll_timeout() {
            let at = self.since_origin(at).max(self.now + 1);
            if at < self.nodes[server].upload_timer {
                self.nodes[server].upload_timer = at;
                self.schedule_at(at, Event::UploadTimer(server));
            }
        }
    }

    fn start(&mut self, asker: NodeId, server: NodeId, id: u32) {
        let link = self.links.get_mut(&(asker, server)).expect("a link");
        let piece = link.ids.remove(&id).expect("starts what was asked");
        assert!(link.sending.is_none(), "one piece at a time");
        let epoch = link.epoch;
        let info = self.manifest.piece(piece);
        let len = info.len;
        let truth = self.truth(server, info.chunk.get());
        let node = &mut self.nodes[server];
        *node.started.entry(piece.get()).or_default() += 1;
        node.pieces_started += 1;
        let freezes = matches!(node.plan.role, Role::Freezer(after) if node.pieces_started > after);
        let trickle = node.plan.role == Role::Trickler;
        let link = self.links.get_mut(&(asker, server)).expect("a link");
        link.sending = Some(Sending {
            id,
            left: if truth == Truth::Short {
                len.div_ceil(2)
            } else {
                len
            },
            stop_at: if freezes { len / 2 } else { 0 },
            trickle,
            truth,
        });
        self.answer(asker, server, Answer::Started(id));
        if trickle {
            self.schedule(TRICKLE_EVERY, Event::Trickle(asker, server, epoch));
        }
    }

    fn truth(&mut self, server: NodeId, chunk: u32) -> Truth {
        let in_false_chunk = self.plan.false_chunk == Some(chunk);
        match self.nodes[server].plan.role {
            Role::Liar(chance) if self.rng.random_bool(chance) => Truth::Wrong,
            Role::Mixer => Truth::Wrong,
            Role::Short => Truth::Short,
            Role::Forger => Truth::Right,
            _ if in_false_chunk => Truth::Wrong,
            _ => Truth::Right,
        }
    }

    /// Puts the next frame on the uplink: the links take turns.
    fn feed(&mut self, server: NodeId) {
        let node = &self.nodes[server];
        if node.uplink_busy || !node.online {
            return;
        }
        let last = node.last_fed;
        let links = self
            .links
            .iter()
            .filter(|((_, s), link)| *s == server && link.may_write());
        let next = links
            .map(|((asker, _), _)| *asker)
            .min_by_key(|asker| (*asker <= last, *asker));
        let Some(asker) = next else {
            return;
        };
        let frame_bytes = self.plan.frame;
        let link = self.links.get_mut(&(asker, server)).expect("listed");
        let epoch = link.epoch;
        let sending = link.sending.as_mut().expect("it may write");
        let bytes = sending.left.min(frame_bytes);
        sending.left -= bytes;
        let frame = Answer::Data {
            id: sending.id,
            bytes,
            last: sending.left == 0,
            truth: sending.truth,
        };
        link.unacknowledged += u64::from(bytes);
        let full = link.unacknowledged >= link.credit;
        let node = &mut self.nodes[server];
        if full {
            node.uploads.handle_blocked(ConnKey(asker as u64));
        }
        node.uplink_busy = true;
        node.last_fed = asker;
        let takes = secs(f64::from(bytes) / node.plan.up);
        let at = self.now + takes;
        self.schedule_at(at, Event::Written(asker, server, epoch, frame));
    }

    /// A frame left the uplink.
    pub fn written(&mut self, asker: NodeId, server: NodeId, epoch: u32, frame: Answer) {
        self.nodes[server].uplink_busy = false;
        if self.is_live(asker, server, epoch) {
            self.sent(asker, server, &frame);
            self.answer(asker, server, frame);
        }
        self.drain_uploads(server);
    }

    fn sent(&mut self, asker: NodeId, server: NodeId, frame: &Answer) {
        let now = self.instant();
        let conn = ConnKey(asker as u64);
        let Answer::Data {
            id, bytes, last, ..
        } = *frame
        else {
            return;
        };
        let node = &mut self.nodes[server];
        node.sent_bytes += u64::from(bytes);
        node.uploads.handle_progress(conn, bytes, now);
        if last {
            let link = self.links.get_mut(&(asker, server)).expect("a link");
            link.sending.take_if(|sending| sending.id == id);
            node.uploads.handle_finished(conn, RequestId(id), now);
        }
    }

    /// A trickler's next few bytes.
    pub fn trickle(&mut self, asker: NodeId, server: NodeId, epoch: u32) {
        if !self.is_live(asker, server, epoch) {
            return;
        }
        let link = self.links.get_mut(&(asker, server)).expect("a link");
        let Some(sending) = &mut link.sending else {
            return;
        };
        let bytes = sending.left.min(TRICKLE_BYTES);
        sending.left -= bytes;
        let last = sending.left == 0;
        let frame = Answer::Data {
            id: sending.id,
            bytes,
            last,
            truth: sending.truth,
        };
        link.unacknowledged += u64::from(bytes);
        if !last {
            self.schedule(TRICKLE_EVERY, Event::Trickle(asker, server, epoch));
        }
        self.sent(asker, server, &frame);
        self.answer(asker, server, frame);
        self.drain_uploads(server);
    }
}
