//! What a simulated world consists of, and worlds at random.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::PIECE_BYTES;
use snapswarm::sync::{FetchLimits, HaveWhen};
use snapswarm::wire::Refusal;

/// Everything about one world but the order of events.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub chunk_sizes: Vec<u32>,
    pub nodes: Vec<NodePlan>,
    pub limits: FetchLimits,
    /// Bytes that move at once.
    pub frame: u32,
    /// One of the chunks is not what the manifest says; its pieces are what
    /// [`Role::Forger`]s send.
    pub false_chunk: Option<u32>,
    /// By then every joiner must be done.
    pub deadline: Duration,
    /// Compare everything after every step, not only now and then.
    pub every_step: bool,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Bytes per second.
    pub up: f64,
    pub down: f64,
    /// To the middle of the network.
    pub latency: Duration,
    /// Chance of a message to be lost and sent again.
    pub loss: f64,
    pub role: Role,
    /// Pieces at the start.
    pub holds: Holds,
    pub joins: bool,
    /// Not there in these spans, in seconds. A silent one is noticed late.
    pub away: Vec<Away>,
    /// Offers chunks by digest, without announcing the manifest.
    pub unannounced: bool,
    /// Leaves when done.
    pub leaves: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Away {
    pub from: f64,
    pub to: f64,
    pub silent: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Holds {
    Nothing,
    Everything,
    /// Pieces whose number modulo the first is the second.
    Share(u32, u32),
}

/// How a node serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Honest,
    /// Wrong bytes with this chance.
    Liar(f64),
    /// Too few bytes.
    Short,
    /// The bytes of another chunk.
    Mixer,
    /// Bytes that fit the manifest where it is false.
    Forger,
    /// Answers nothing after so many requests.
    Mute(u32),
    /// Stops in the middle of a piece after so many whole ones.
    Freezer(u32),
    /// Loses requests with this chance, serves the others.
    Forgetful(f64),
    /// A few bytes per second.
    Trickler,
    /// Refuses with this chance.
    Refuser(Refusal, f64),
    /// Says it has everything, has the share that it holds.
    Boaster,
    /// Names pieces that do not exist.
    Rude,
}

impl NodePlan {
    pub fn seeder(up: f64) -> Self {
        Self {
            up,
            down: 125e6,
            latency: Duration::from_micros(500),
            loss: 0.0,
            role: Role::Honest,
            holds: Holds::Everything,
            joins: false,
            away: Vec::new(),
            unannounced: false,
            leaves: false,
        }
    }

    pub fn joiner(up: f64, down: f64) -> Self {
        Self {
            down,
            holds: Holds::Nothing,
            joins: true,
            ..Self::seeder(up)
        }
    }

    pub fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    pub fn latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }
}

impl Plan {
    /// Equal chunks, sound network.
    pub fn new(seed: u64, chunks: u32, chunk_size: u32, nodes: Vec<NodePlan>) -> Self {
        Self {
            seed,
            chunk_sizes: vec![chunk_size; chunks as usize],
            nodes,
            limits: FetchLimits::default(),
            frame: 64 << 10,
            false_chunk: None,
            deadline: Duration::from_secs(3600),
            every_step: true,
        }
    }

    pub fn have_when(mut self, when: HaveWhen) -> Self {
        self.limits.have_when = when;
        self
    }

    /// Nobody lies, goes away or loses messages.
    pub fn is_calm(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.role == Role::Honest && node.away.is_empty() && node.loss == 0.0 && !node.leaves
        })
    }

    pub fn total_bytes(&self) -> f64 {
        self.chunk_sizes.iter().map(|size| f64::from(*size)).sum()
    }

    /// A small world at random: one to four joiners, an honest holder for each
    /// piece, and whatever else may happen.
    pub fn random(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let chunks = rng.random_range(2..16);
        let chunk_sizes = (0..chunks)
            .map(|_| rng.random_range(1..4 * PIECE_BYTES))
            .collect();
        let joiners = if rng.random_bool(0.6) {
            1
        } else {
            rng.random_range(2..=4)
        };
        let mut nodes: Vec<NodePlan> = (0..joiners).map(|_| random_node(&mut rng)).collect();
        for node in &mut nodes {
            node.joins = true;
            node.holds = Holds::Nothing;
            node.away.truncate(1);
            node.leaves = rng.random_bool(0.2);
        }
        let honest = rng.random_range(1..=3u32);
        let shared = rng.random_bool(0.3);
        for at in 0..honest {
            let mut node = random_node(&mut rng);
            node.holds = match (shared, at) {
                (true, _) => Holds::Share(honest, at),
                (false, 0) => Holds::Everything,
                (false, _) => Holds::Share(rng.random_range(1..5), 0),
            };
            // A share seldom has a whole chunk: only whole ones are offered.
            node.unannounced = !shared && rng.random_bool(0.1);
            nodes.push(node);
        }
        for _ in 0..rng.random_range(0..6) {
            let mut node = random_node(&mut rng);
            node.role = random_role(&mut rng);
            node.unannounced = rng.random_bool(0.1);
            node.holds = match node.role {
                Role::Boaster => Holds::Share(rng.random_range(2..6), 0),
                _ if rng.random_bool(0.3) => Holds::Share(rng.random_range(2..4), 0),
                _ => Holds::Everything,
            };
            nodes.push(node);
        }
        let mut plan = Self {
            seed,
            chunk_sizes,
            nodes,
            limits: FetchLimits {
                buffered_pieces: rng.random_range(2..20),
                have_when: if rng.random_bool(0.5) {
                    HaveWhen::ChunkChecked
                } else {
                    HaveWhen::PieceVerified
                },
                peers: if rng.random_bool(0.1) { 3 } else { 64 },
                ..FetchLimits::default()
            },
            frame: 128 << 10,
            false_chunk: None,
            deadline: Duration::ZERO,
            every_step: true,
        };
        plan.deadline = plan.generous_deadline();
        plan
    }

    /// What the slowest honest holder needs to send everything to everybody
    /// four times over, the times away, and the longest pauses a few times.
    fn generous_deadline(&self) -> Duration {
        let honest = || self.nodes.iter().filter(|n| n.role == Role::Honest);
        let joiners = self.nodes.iter().filter(|n| n.joins).count() as f64;
        let slowest = honest().map(|n| n.up).fold(f64::MAX, f64::min);
        let down = self.nodes.iter().map(|n| n.down).fold(f64::MAX, f64::min);
        let away = self.nodes.iter().flat_map(|n| &n.away);
        let back = away.map(|away| away.to).fold(0.0, f64::max);
        let move_all = self.total_bytes() * (joiners / slowest + 1.0 / down);
        // Where places are scarce, honest holders wait for one.
        let places = if self.limits.peers < 10 { 3600.0 } else { 0.0 };
        Duration::from_secs_f64(180.0 + back + 4.0 * move_all + places)
    }
}

fn random_node(rng: &mut ChaCha8Rng) -> NodePlan {
    let mut log_uniform = |from: f64, to: f64| {
        let exponent: f64 = rng.random_range(from.ln()..to.ln());
        exponent.exp()
    };
    let up = log_uniform(100e3, 60e6);
    let down = log_uniform(1e6, 120e6);
    let latency = Duration::from_secs_f64(log_uniform(0.0002, 0.075));
    let mut away = Vec::new();
    if rng.random_bool(0.3) {
        let mut at = 0.0;
        for _ in 0..rng.random_range(1..4) {
            let from = at + rng.random_range(0.0..10.0);
            at = from + rng.random_range(0.5..20.0);
            away.push(Away {
                from,
                to: at,
                silent: rng.random_bool(0.5),
            });
        }
    }
    NodePlan {
        up,
        down,
        latency,
        loss: if rng.random_bool(0.5) {
            0.0
        } else {
            rng.random_range(0.0..0.03)
        },
        role: Role::Honest,
        holds: Holds::Everything,
        joins: false,
        away,
        unannounced: false,
        leaves: false,
    }
}

fn random_role(rng: &mut ChaCha8Rng) -> Role {
    let refusals = [
        Refusal::Gone,
        Refusal::Busy,
        Refusal::OverLimit,
        Refusal::NotAllowed,
    ];
    match rng.random_range(0..12) {
        0 => Role::Liar(1.0),
        1 => Role::Liar(rng.random_range(0.05..1.0)),
        2 => Role::Short,
        3 => Role::Mixer,
        4 => Role::Mute(rng.random_range(0..6)),
        5 => Role::Freezer(rng.random_range(0..4)),
        6 => Role::Trickler,
        7 => Role::Refuser(refusals[rng.random_range(0..4)], 1.0),
        8 => Role::Refuser(refusals[rng.random_range(0..4)], rng.random_range(0.1..0.9)),
        9 => Role::Boaster,
        10 => Role::Forgetful(rng.random_range(0.1..0.9)),
        _ => Role::Rude,
    }
}
