//! A restore that goes round in circles: an application that answers RETRY without end
//! is handed the same bytes again at once, and nobody but CometBFT's log tells of it.
//! Pure.

use crate::comet::sign::Sign;
use crate::node::command::{Failure, FailureCode};

/// Chunks handed to the application beyond twice the snapshot's own before that counts
/// as going round in circles.
const SPARE_APPLIES: u32 = 1000;
/// Offers of snapshots to the application, likewise.
const MAX_OFFERS: u32 = 20;

/// What was heard of one restore.
#[derive(Debug, Default)]
pub(super) struct Circles {
    chunks: u32,
    applied: u32,
    offered: u32,
}

impl Circles {
    /// Why the restore cannot come to an end, when that is clear.
    pub(super) fn see(&mut self, sign: &Sign) -> Option<Failure> {
        match sign {
            Sign::Applied { of } => {
                self.chunks = self.chunks.max(*of);
                self.applied = self.applied.saturating_add(1);
            }
            Sign::Offered => self.offered = self.offered.saturating_add(1),
            Sign::Failed(_) | Sign::Rejected(_) | Sign::Restored => {}
        }
        let most = self.chunks.saturating_mul(2).saturating_add(SPARE_APPLIES);
        (self.applied > most || self.offered > MAX_OFFERS).then(|| {
            Failure::new(
                FailureCode::Failed,
                format!(
                    "the application goes round in circles: it was offered snapshots {} times and \
                     handed {} chunks of {}",
                    self.offered, self.applied, self.chunks
                ),
            )
            .hint("it answers RETRY again and again: its own log may say why")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_twice_is_no_circle_and_the_same_ones_without_end_are() {
        for chunks in [1, 7, 100_000] {
            let mut circles = Circles::default();
            let applied = Sign::Applied { of: chunks };
            assert!((0..2 * chunks).all(|_| circles.see(&applied).is_none()));
            assert!((0..=SPARE_APPLIES).any(|_| circles.see(&applied).is_some()));
        }
    }

    #[test]
    fn offers_without_end_are_a_circle() {
        let mut circles = Circles::default();
        assert!((0..MAX_OFFERS).all(|_| circles.see(&Sign::Offered).is_none()));
        assert!(circles.see(&Sign::Offered).is_some());
    }
}
