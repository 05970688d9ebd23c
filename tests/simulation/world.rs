//! The world: nodes, links and virtual time.
//!
//! A node's uplink and downlink carry one frame after the other; a link delays
//! what it carries, and a lost message comes a retransmission later, with all
//! that follows it. Control messages take no room on the uplink (they stand
//! between data frames). Everything random comes from the plan's seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{Bitmap, Manifest, PieceIndex};
use snapswarm::sync::{ConnKey, PeerKey, UploadLimits, Uploads};

use super::joiner::Joiner;
use super::link::{Answer, Ask, Link};
use super::manifest::manifest;
use super::plan::{Holds, NodePlan, Plan, Role};

/// A lost message is sent again after this time, and a round trip.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// The whole books are compared every so many steps where not after each.
const COMPARE_EVERY: u64 = 1000;

pub type NodeId = usize;

#[derive(Clone, Debug)]
pub enum Event {
    Connect(NodeId, NodeId),
    /// The end that is still there notices.
    Closed(NodeId, NodeId, u32),
    ToServer(NodeId, NodeId, u32, Ask),
    /// At the asker's downlink.
    Arrive(NodeId, NodeId, u32, Answer),
    Deliver(NodeId, NodeId, u32, Answer),
    /// A frame left the server's uplink.
    Written(NodeId, NodeId, u32, Answer),
    Trickle(NodeId, NodeId, u32),
    Verify(NodeId, u32, PeerKey, PieceIndex, bool),
    Check(NodeId, u32, u32),
    FetchTimer(NodeId),
    UploadTimer(NodeId),
    Leave(NodeId, bool),
    Return(NodeId),
}

pub struct Node {
    pub plan: NodePlan,
    pub online: bool,
    /// What it says it has.
    pub claims: Bitmap,
    /// What it has.
    pub servable: Bitmap,
    pub uploads: Uploads,
    pub upload_timer: u64,
    pub requests_seen: u32,
    pub pieces_started: u32,
    pub uplink_busy: bool,
    pub last_fed: NodeId,
    down_free: u64,
    pub sent_bytes: u64,
    /// How often each piece was started.
    pub started: BTreeMap<u32, u32>,
    pub joiner: Option<Joiner>,
}

pub struct World {
    pub plan: Plan,
    pub manifest: Arc<Manifest>,
    pub nodes: Vec<Node>,
    pub links: BTreeMap<(NodeId, NodeId), Link>,
    pub rng: ChaCha8Rng,
    origin: Instant,
    pub now: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub steps: u64,
    /// A digest of all that happened.
    pub trace: u64,
    pub verbose: bool,
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let manifest = manifest(&plan.chunk_sizes);
        let origin = Instant::now();
        let mut world = Self {
            nodes: Vec::new(),
            links: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed),
            origin,
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            steps: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            verbose: std::env::var_os("SNAPSWARM_SEED").is_some(),
            manifest,
            plan,
        };
        for id in 0..world.plan.nodes.len() {
            world.add_node(id);
        }
        world.connect_all();
        world
    }

    fn add_node(&mut self, id: NodeId) {
        let plan = self.plan.nodes[id].clone();
        let len = self.manifest.piece_count();
        let mut servable = Bitmap::new(len);
        for piece in 0..len {
            let has = match plan.holds {
                Holds::Nothing => false,
                Holds::Everything => true,
                Holds::Share(of, which) => piece % of == which,
            };
            if has {
                servable.insert(piece);
            }
        }
        let claims = match plan.role {
            Role::Boaster => Bitmap::full(len),
            _ => servable.clone(),
        };
        for away in plan.away.clone() {
            self.schedule_at(secs(away.from), Event::Leave(id, away.silent));
            self.schedule_at(secs(away.to), Event::Return(id));
        }
        let start = self.instant();
        let joiner = plan
            .joins
            .then(|| Joiner::new(id, &self.manifest, servable.clone(), &self.plan, start));
        self.nodes.push(Node {
            online: true,
            claims,
            servable,
            uploads: Uploads::new(UploadLimits::default(), self.plan.seed, start),
            upload_timer: u64::MAX,
            requests_seen: 0,
            pieces_started: 0,
            uplink_busy: false,
            last_fed: 0,
            down_free: 0,
            sent_bytes: 0,
            started: BTreeMap::new(),
            joiner,
            plan,
        });
    }

    fn connect_all(&mut self) {
        for asker in 0..self.nodes.len() {
            for server in 0..self.nodes.len() {
                if asker == server || !self.nodes[asker].plan.joins {
                    continue;
                }
                let (a, b) = (&self.nodes[asker].plan, &self.nodes[server].plan);
                let link = Link::new(a.latency + b.latency, a.loss.max(b.loss), b.up);
                self.links.insert((asker, server), link);
                let after = Duration::from_millis(self.rng.random_range(0..50));
                self.schedule(after, Event::Connect(asker, server));
            }
        }
    }

    /// Runs until every joiner is done. Panics where a law is broken.
    pub fn run(&mut self) {
        while !self
            .nodes
            .iter()
            .all(|node| node.joiner.as_ref().is_none_or(Joiner::is_done))
        {
            let Some(Reverse(next)) = self.events.pop() else {
                panic!("nothing is under way and not everybody is done");
            };
            self.now = next.at;
            self.steps += 1;
            assert!(
                Duration::from_nanos(self.now) <= self.plan.deadline,
                "not done after {:?}: {:?}",
                self.plan.deadline,
                self.progress()
            );
            self.note(&next.event);
            self.step(next.event);
            if self.plan.every_step || self.steps.is_multiple_of(COMPARE_EVERY) {
                self.compare();
            }
        }
        self.compare();
    }

    fn progress(&self) -> Vec<String> {
        let joiners = self.nodes.iter().filter_map(|node| node.joiner.as_ref());
        joiners
            .map(|j| format!("{:?}", j.fetch.stats(self.instant())))
            .collect()
    }

    fn compare(&self) {
        for node in &self.nodes {
            if let Some(joiner) = &node.joiner {
                joiner.compare(&self.manifest);
            }
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Connect(asker, server) => self.connect(asker, server),
            Event::Closed(asker, server, epoch) => {
                if self.is_current(asker, server, epoch) {
                    self.close(asker, server);
                    self.redial(asker, server, 3.0);
                }
            }
            Event::ToServer(asker, server, epoch, ask) => {
                if self.is_live(asker, server, epoch) {
                    self.serve(asker, server, ask);
                }
            }
            Event::Arrive(asker, server, epoch, answer) => {
                let bytes = match answer {
                    Answer::Data { bytes, .. } => bytes,
                    _ => 64,
                };
                let node = &mut self.nodes[asker];
                let takes = secs(f64::from(bytes) / node.plan.down);
                node.down_free = node.down_free.max(self.now) + takes;
                let at = node.down_free;
                self.schedule_at(at, Event::Deliver(asker, server, epoch, answer));
            }
            Event::Deliver(asker, server, epoch, answer) => {
                if self.is_live(asker, server, epoch) {
                    self.deliver(asker, server, answer);
                }
            }
            Event::Written(asker, server, epoch, frame) => {
                self.written(asker, server, epoch, frame);
            }
            Event::Trickle(asker, server, epoch) => self.trickle(asker, server, epoch),
            Event::Verify(node, run, peer, piece, right) => {
                self.verify(node, run, peer, piece, right);
            }
            Event::Check(node, run, chunk) => self.check(node, run, chunk),
            Event::FetchTimer(node) => self.fetch_timer(node),
            Event::UploadTimer(node) => {
                self.nodes[node].upload_timer = u64::MAX;
                self.drain_uploads(node);
            }
            Event::Leave(node, silent) => self.leave(node, silent),
            Event::Return(node) => self.come_back(node),
        }
    }

    fn connect(&mut self, asker: NodeId, server: NodeId) {
        let link = &self.links[&(asker, server)];
        let (open, rtt) = (link.open, link.latency * 2);
        if open {
            return;
        }
        let Some(joiner) = &self.nodes[asker].joiner else {
            return;
        };
        let there = self.nodes[asker].online && self.nodes[server].online;
        if !there || joiner.book.banned.contains(&PeerKey(server as u64)) {
            return self.redial(asker, server, 3.0);
        }
        let now = self.instant();
        self.links
            .get_mut(&(asker, server))
            .expect("looked up")
            .reset(true);
        let manifest = self.manifest.clone();
        let uploads = &mut self.nodes[server].uploads;
        uploads.handle_joined(ConnKey(asker as u64), rtt);
        uploads.handle_opened(ConnKey(asker as u64), &manifest);
        self.peer_joined(asker, server, rtt, now);
        let holdings = Ask::Holdings(self.nodes[asker].servable.clone());
        self.ask(asker, server, holdings);
        self.greet(asker, server);
    }

    /// One end is gone.
    pub fn close(&mut self, asker: NodeId, server: NodeId) {
        let now = self.instant();
        let link = self.links.get_mut(&(asker, server)).expect("a link");
        link.reset(false);
        self.nodes[server]
            .uploads
            .handle_left(ConnKey(asker as u64), now);
        self.peer_left(asker, server, now);
        self.drain_uploads(server);
        self.drain_fetch(asker);
    }

    pub fn redial(&mut self, asker: NodeId, server: NodeId, secs: f64) {
        let after = Duration::from_secs_f64(self.rng.random_range(0.3..1.0) * secs);
        self.schedule(after, Event::Connect(asker, server));
    }

    fn leave(&mut self, node: NodeId, silent: bool) {
        let now = self.instant();
        self.nodes[node].online = false;
        if let Some(joiner) = &mut self.nodes[node].joiner {
            joiner.stop();
        }
        self.nodes[node].uploads = Uploads::new(UploadLimits::default(), self.plan.seed, now);
        let touched: Vec<_> = self.links.keys().copied().collect();
        for (asker, server) in touched {
            let link = self.links.get_mut(&(asker, server)).expect("listed");
            if !link.open || (asker != node && server != node) {
                continue;
            }
            if silent {
                link.dead = true;
                let epoch = link.epoch;
                let after = Duration::from_secs_f64(self.rng.random_range(1.0..15.0));
                self.schedule(after, Event::Closed(asker, server, epoch));
            } else {
                self.close(asker, server);
                self.redial(asker, server, 3.0);
            }
        }
    }

    fn come_back(&mut self, node: NodeId) {
        let now = self.instant();
        self.nodes[node].online = true;
        let (manifest, plan) = (self.manifest.clone(), self.plan.clone());
        if let Some(joiner) = &mut self.nodes[node].joiner {
            let servable = joiner.resume(node, &manifest, &plan, now);
            self.nodes[node].claims = servable.clone();
            self.nodes[node].servable = servable;
            let others: Vec<_> = self
                .links
                .keys()
                .copied()
                .filter(|(a, _)| *a == node)
                .collect();
            for (asker, server) in others {
                // What it had open when it went is nobody's any more.
                if self.links[&(asker, server)].open {
                    self.close(asker, server);
                }
                self.redial(asker, server, 1.0);
            }
            self.drain_fetch(node);
        }
    }

    /// Sends to the server.
    pub fn ask(&mut self, asker: NodeId, server: NodeId, ask: Ask) {
        if let Some((at, epoch)) = self.travel(asker, server, 0) {
            self.schedule_at(at, Event::ToServer(asker, server, epoch, ask));
        }
    }

    /// Sends to the asker.
    pub fn answer(&mut self, asker: NodeId, server: NodeId, answer: Answer) {
        if let Some((at, epoch)) = self.travel(asker, server, 1) {
            self.schedule_at(at, Event::Arrive(asker, server, epoch, answer));
        }
    }

    fn travel(&mut self, asker: NodeId, server: NodeId, direction: usize) -> Option<(u64, u32)> {
        let link = self.links.get_mut(&(asker, server))?;
        if !link.open || link.dead {
            return None;
        }
        let mut takes = link.latency;
        if link.loss > 0.0 && self.rng.random_bool(link.loss) {
            takes += RETRANSMIT + 2 * link.latency;
        }
        let at = (self.now + takes.as_nanos() as u64).max(link.arrival[direction]);
        link.arrival[direction] = at;
        Some((at, link.epoch))
    }

    pub fn is_current(&self, asker: NodeId, server: NodeId, epoch: u32) -> bool {
        let link = &self.links[&(asker, server)];
        link.open && link.epoch == epoch
    }

    pub fn is_live(&self, asker: NodeId, server: NodeId, epoch: u32) -> bool {
        self.is_current(asker, server, epoch) && !self.links[&(asker, server)].dead
    }

    pub fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now)
    }

    pub fn since_origin(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }

    pub fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after.as_nanos() as u64, event);
    }

    pub fn schedule_at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled {
            at: at.max(self.now),
            number: self.scheduled,
            event,
        }));
    }

    /// Adds to the trace.
    pub fn note(&mut self, what: &impl std::fmt::Debug) {
        let text = format!("{} {what:?}", self.now);
        if self.verbose {
            println!("{text}");
        }
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub fn secs(secs: f64) -> u64 {
    (secs * 1e9) as u64
}
