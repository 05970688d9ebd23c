//! Connections between nodes, and what travels on them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use snapswarm::snapshot::{Bitmap, PieceIndex};
use snapswarm::wire::Refusal;

/// What the asking side says. Request ids are the link's own.
#[derive(Clone, Debug)]
pub enum Ask {
    Holdings(Bitmap),
    Have(Vec<u32>),
    Request(u32, PieceIndex),
    Cancel(u32),
    Ack(u32),
}

/// What the serving side says.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Announces the manifest.
    Holdings(Bitmap),
    /// Has these chunks under another manifest.
    Chunks(Vec<u32>),
    Have(Vec<u32>),
    Started(u32),
    Data {
        id: u32,
        bytes: u32,
        last: bool,
        truth: Truth,
    },
    Refused(u32, Refusal),
    Aborted(u32),
}

/// What the bytes of a piece are worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    Right,
    Wrong,
    Short,
}

/// A piece under way.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    pub id: u32,
    pub left: u32,
    /// Nothing more is sent when so many bytes are left.
    pub stop_at: u32,
    pub trickle: bool,
    pub truth: Truth,
}

/// The stream on which `asker` asks `server`.
pub struct Link {
    /// Counts connections: what is on its way belongs to one.
    pub epoch: u32,
    pub open: bool,
    /// One end is gone and the other does not know.
    pub dead: bool,
    pub latency: Duration,
    pub loss: f64,
    /// Nothing overtakes: the last arrival in each direction.
    pub arrival: [u64; 2],
    /// Serving side: open requests.
    pub ids: BTreeMap<u32, PieceIndex>,
    pub sending: Option<Sending>,
    pub unacknowledged: u64,
    pub credit: u64,
    /// Asking side: open requests, the piece being read (it holds a place in
    /// the budget), and what waits for a place.
    pub asked: BTreeMap<u32, PieceIndex>,
    pub reading: Option<u32>,
    pub held: VecDeque<Answer>,
}

impl Link {
    pub fn new(latency: Duration, loss: f64, up: f64) -> Self {
        let flying = up * 2.0 * latency.as_secs_f64();
        Self {
            epoch: 0,
            open: false,
            dead: false,
            latency,
            loss,
            arrival: [0; 2],
            ids: BTreeMap::new(),
            sending: None,
            unacknowledged: 0,
            credit: snapswarm::wire::BASE_CREDIT_BYTES + flying as u64,
            asked: BTreeMap::new(),
            reading: None,
            held: VecDeque::new(),
        }
    }

    /// A new connection, or none.
    pub fn reset(&mut self, open: bool) {
        let fresh = Self {
            epoch: self.epoch + 1,
            open,
            arrival: self.arrival,
            credit: self.credit,
            ..Self::new(self.latency, self.loss, 0.0)
        };
        *self = fresh;
    }

    /// Whether the next frame of the piece under way may be written.
    pub fn may_write(&self) -> bool {
        self.open
            && !self.dead
            && self.unacknowledged < self.credit
            && self
                .sending
                .is_some_and(|sending| !sending.trickle && sending.left > sending.stop_at)
    }
}
