//! Where each piece stands, and who has it.

use std::collections::BTreeMap;

use rand::Rng;

use super::super::PeerKey;
use super::super::bits::Bits;
use super::MAX_COPIES;
use crate::snapshot::Bitmap;

/// Pieces with so many partial holders or more count as equally common. Bounds
/// the search for the rarest to as many passes, and their sets to 2 MiB for a
/// million pieces.
const COMMON_LEVEL: usize = 16;

/// The state of every piece. A piece is in exactly one of: a level (missing),
/// `active` (asked or being verified), `have`.
pub(super) struct Board {
    have: Bits,
    /// Missing pieces by the number of partial holders, the last for that many
    /// or more.
    levels: Vec<Bits>,
    /// Partial holders of each piece.
    holders: Vec<u8>,
    /// Peers that have everything.
    complete: u32,
    active: BTreeMap<u32, Active>,
}

/// A piece that somebody was asked for, or whose bytes are being verified.
#[derive(Clone, Debug, Default)]
pub(super) struct Active {
    /// Of whom it is asked.
    pub(super) asked: Vec<PeerKey>,
    /// Copies of its bytes being verified.
    pub(super) verifying: u32,
}

/// What a peer has.
#[derive(Clone, Debug)]
pub(super) enum Holds {
    Nothing,
    Complete,
    Some(Box<Bits>),
}

impl Holds {
    pub(super) fn contains(&self, piece: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Complete => true,
            Self::Some(bits) => bits.contains(piece),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }
}

impl Board {
    pub(super) fn new(have: &Bitmap) -> Self {
        let len = have.len();
        let have = Bits::from_bitmap(have);
        let mut levels = vec![Bits::new(len); COMMON_LEVEL + 1];
        levels[0] = Bits::full(len);
        for piece in have.iter() {
            levels[0].remove(piece);
        }
        Self {
            have,
            levels,
            holders: vec![0; len as usize],
            complete: 0,
            active: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.have.len()
    }

    pub(super) fn have_count(&self) -> u32 {
        self.have.count()
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.have.contains(piece)
    }

    pub(super) fn active(&self) -> &BTreeMap<u32, Active> {
        &self.active
    }

    pub(super) fn is_missing(&self, piece: u32) -> bool {
        self.levels[self.level(piece)].contains(piece)
    }

    /// Missing pieces that a connected peer claims to have.
    pub(super) fn obtainable(&self) -> u32 {
        let from = usize::from(self.complete == 0);
        self.levels[from..].iter().map(Bits::count).sum()
    }

    /// Missing pieces that no connected peer claims to have.
    pub(super) fn nowhere(&self) -> u32 {
        if self.complete == 0 {
            self.levels[0].count()
        } else {
            0
        }
    }

    /// Whether the piece is missing and no connected peer claims to have it.
    pub(super) fn is_nowhere(&self, piece: u32) -> bool {
        self.complete == 0 && self.levels[0].contains(piece)
    }

    /// The rarest missing pieces that a holder of `holds` could give: `tries`
    /// random ones of the rarest level that has any.
    pub(super) fn rarest<'a, R: Rng>(
        &'a self,
        holds: &'a Holds,
        rng: &'a mut R,
    ) -> Option<(usize, impl FnMut() -> Option<u32> + use<'a, R>)> {
        let mask = match holds {
            Holds::Nothing => return None,
            Holds::Complete => None,
            Holds::Some(bits) => Some(&**bits),
        };
        // A piece that a partial peer has is at least at level 1.
        let from = usize::from(mask.is_some());
        let level = (from..self.levels.len())
            .find(|level| self.levels[*level].random_common(mask, rng).is_some())?;
        let bits = &self.levels[level];
        Some((level, move || bits.random_common(mask, rng)))
    }

    /// Asks `peer` for a piece that is missing or asked of others.
    pub(super) fn ask(&mut self, piece: u32, peer: PeerKey) {
        let level = self.level(piece);
        let was_missing = self.levels[level].remove(piece);
        let active = self.active.entry(piece).or_default();
        assert!(
            was_missing == active.asked.is_empty() && active.verifying == 0,
            "piece {piece} is asked for in another state"
        );
        assert!(active.asked.len() < MAX_COPIES && !active.asked.contains(&peer));
        active.asked.push(peer);
    }

    /// `peer` is not asked for the piece any more. True when it is missing again.
    pub(super) fn unask(&mut self, piece: u32, peer: PeerKey) -> bool {
        let Some(active) = self.active.get_mut(&piece) else {
            return false;
        };
        active.asked.retain(|asked| *asked != peer);
        self.settle(piece)
    }

    /// The bytes that `peer` was asked for came; they are being verified.
    pub(super) fn receive(&mut self, piece: u32, peer: PeerKey) {
        let active = self.active.entry(piece).or_default();
        active.asked.retain(|asked| *asked != peer);
        active.verifying += 1;
    }

    /// A copy turned out wrong. True when the piece is missing again.
    pub(super) fn reject(&mut self, piece: u32) -> bool {
        let Some(active) = self.active.get_mut(&piece) else {
            return false;
        };
        active.verifying = active.verifying.saturating_sub(1);
        self.settle(piece)
    }

    /// The piece is here. Gives whom it is still asked of.
    pub(super) fn keep(&mut self, piece: u32) -> Vec<PeerKey> {
        self.have.insert(piece);
        self.active
            .remove(&piece)
            .map(|active| active.asked)
            .unwrap_or_default()
    }

    /// The piece is not here after all.
    pub(super) fn lose(&mut self, piece: u32) -> bool {
        let was = self.have.remove(piece);
        if was {
            let level = self.level(piece);
            self.levels[level].insert(piece);
        }
        was
    }

    /// A partial holder more.
    pub(super) fn claim(&mut self, piece: u32) {
        self.set_holders(piece, self.holders[piece as usize].saturating_add(1));
    }

    /// A partial holder less.
    pub(super) fn unclaim(&mut self, piece: u32) {
        self.set_holders(piece, self.holders[piece as usize].saturating_sub(1));
    }

    /// Counts all that a peer has.
    pub(super) fn claim_all(&mut self, holds: &Holds) {
        match holds {
            Holds::Nothing => {}
            Holds::Complete => self.complete += 1,
            Holds::Some(bits) => bits.iter().for_each(|piece| self.claim(piece)),
        }
    }

    /// Takes back what [`Board::claim_all`] counted.
    pub(super) fn unclaim_all(&mut self, holds: &Holds) {
        match holds {
            Holds::Nothing => {}
            Holds::Complete => self.complete -= 1,
            Holds::Some(bits) => bits.iter().for_each(|piece| self.unclaim(piece)),
        }
    }

    fn set_holders(&mut self, piece: u32, holders: u8) {
        let before = self.level(piece);
        self.holders[piece as usize] = holders;
        let after = self.level(piece);
        if before != after && self.levels[before].remove(piece) {
            self.levels[after].insert(piece);
        }
    }

    fn level(&self, piece: u32) -> usize {
        usize::from(self.holders[piece as usize]).min(COMMON_LEVEL)
    }

    fn settle(&mut self, piece: u32) -> bool {
        let idle = self
            .active
            .get(&piece)
            .is_some_and(|active| active.asked.is_empty() && active.verifying == 0);
        if idle {
            self.active.remove(&piece);
            let level = self.level(piece);
            self.levels[level].insert(piece);
        }
        idle
    }

    /// Recounts everything; the sentence says what does not fit.
    pub(super) fn audit(&self) -> Result<(), String> {
        for piece in 0..self.len() {
            let levels = self.levels.iter().filter(|bits| bits.contains(piece));
            let states = levels.count()
                + usize::from(self.active.contains_key(&piece))
                + usize::from(self.have.contains(piece));
            if states != 1 {
                return Err(format!("piece {piece} is in {states} states"));
            }
        }
        for (piece, active) in &self.active {
            if active.asked.is_empty() && active.verifying == 0 {
                return Err(format!("piece {piece} is active and nobody has it"));
            }
            if active.asked.len() > MAX_COPIES {
                return Err(format!("piece {piece} is asked of {:?}", active.asked));
            }
        }
        Ok(())
    }
}
