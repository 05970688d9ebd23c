//! What the adapter knows of the chain from the calls that went by.
//!
//! The application hash after block H is what FinalizeBlock(H) gave (Commit, before
//! 0.38); that the chain has it in header H+1 is certain when block H+1 is given to
//! the application, because consensus has decided it by then.
//!
//! A chain begins with InitChain: what was known before is of another one, and is
//! forgotten.

use std::collections::VecDeque;

use bytes::Bytes;

/// Application hashes that are remembered: a snapshot may take hours to be made,
/// and 20,000 blocks are more than five hours at a block each second. About 2 MB.
const MAX_BLOCKS: usize = 20_000;

/// CometBFT's heights are signed; an application that tells a negative one has none.
const MAX_HEIGHT: u64 = i64::MAX as u64;

/// What is known of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Its id, where it is known.
    pub id: Option<String>,
    /// The id that InitChain named, where another was said at the start. Then nothing
    /// is listed and nothing taken: it would be under a wrong name.
    pub contradicted_by: Option<String>,
    /// The newest block that consensus has decided; 0 while none is known.
    pub tip: u64,
}

/// A block that was executed.
#[derive(Debug)]
struct Block {
    height: u64,
    /// The application hash after it.
    app_hash: Bytes,
}

/// Chain and blocks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) chain: Chain,
    /// The id that was said at the start.
    said: Option<String>,
    blocks: VecDeque<Block>,
    /// The newest block given to the application: header `confirmed` is decided, and
    /// with it the application hash after `confirmed - 1`. Unlike the tip it goes back
    /// with a replay, because what comes after is executed anew.
    confirmed: u64,
    /// The block that the application is executing.
    executing: Option<u64>,
}

impl Memory {
    /// Knows a chain's id before anything went by.
    pub(super) fn of(said: Option<String>) -> Self {
        let mut memory = Self::default();
        memory.chain.id.clone_from(&said);
        memory.said = said;
        memory
    }

    /// A chain begins.
    pub(super) fn genesis(&mut self, chain_id: String) {
        *self = Self::of(self.said.take());
        match &self.said {
            None => self.chain.id = Some(chain_id),
            Some(said) if *said != chain_id => self.chain.contradicted_by = Some(chain_id),
            Some(_) => {}
        }
    }

    /// The application says how far it is.
    pub(super) fn informed(&mut self, height: u64) {
        if height <= MAX_HEIGHT {
            self.chain.tip = self.chain.tip.max(height);
        }
    }

    /// Consensus decided a block, and the application executes it.
    pub(super) fn decided(&mut self, height: u64) {
        if height > MAX_HEIGHT {
            return;
        }
        // A replay begins below the tip, and an application that was wiped at 0.
        let replayed = self.blocks.partition_point(|block| block.height < height);
        self.blocks.truncate(replayed);
        self.chain.tip = self.chain.tip.max(height);
        self.confirmed = height;
        self.executing = Some(height);
    }

    /// The application executed the block.
    pub(super) fn executed(&mut self, app_hash: Bytes) {
        let Some(height) = self.executing.take() else {
            return;
        };
        if self.blocks.len() >= MAX_BLOCKS {
            self.blocks.pop_front();
        }
        self.blocks.push_back(Block { height, app_hash });
    }

    /// The newest block given to the application.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The application hash after a height, where the next header has it.
    pub(super) fn app_hash(&self, height: u64) -> Option<Bytes> {
        if height >= self.confirmed {
            return None;
        }
        let at = self.blocks.partition_point(|block| block.height < height);
        let block = self.blocks.get(at).filter(|block| block.height == height)?;
        Some(block.app_hash.clone())
    }

    /// Whether the application hash after a height went by before anybody looked, or
    /// too long ago: it is never told here.
    pub(super) fn is_past(&self, height: u64) -> bool {
        match self.blocks.front() {
            Some(oldest) => height < oldest.height,
            None => height <= self.chain.tip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(memory: &mut Memory, height: u64, hash: &'static str) {
        memory.decided(height);
        memory.executed(hash.into());
    }

    #[test]
    fn an_application_hash_is_told_when_the_next_block_is_decided() {
        let mut memory = Memory::of(None);
        memory.genesis("chain".to_owned());
        memory.informed(4);
        assert!(memory.is_past(4) && !memory.is_past(5));
        block(&mut memory, 5, "five");
        assert_eq!(memory.app_hash(5), None);
        memory.decided(6);
        assert_eq!(memory.app_hash(5), Some("five".into()));
        assert_eq!(memory.app_hash(4), None);
        assert!(memory.is_past(4) && !memory.is_past(5));
        assert_eq!(memory.chain.id.as_deref(), Some("chain"));
        assert_eq!(memory.chain.tip, 6);
    }

    #[test]
    fn a_replay_replaces_what_it_executes_again_and_confirms_anew() {
        let mut memory = Memory::of(Some("chain".to_owned()));
        for height in 5..9 {
            block(&mut memory, height, "old");
        }
        block(&mut memory, 7, "new");
        assert_eq!(memory.app_hash(6), Some("old".into()));
        assert_eq!(memory.app_hash(7), None, "block 8 is not decided again");
        assert_eq!(memory.chain.tip, 8, "what was decided stays decided");
        // Executed without being decided: an answer to nothing that went by.
        memory.executed("x".into());
        assert_eq!(memory.app_hash(8), None);
        memory.decided(8);
        assert_eq!(memory.app_hash(7), Some("new".into()));
    }

    #[test]
    fn another_chain_begins_with_nothing_of_the_one_before() {
        let mut memory = Memory::of(None);
        memory.genesis("first".to_owned());
        for height in 1..9 {
            block(&mut memory, height, "first");
        }
        memory.genesis("second".to_owned());
        assert_eq!(
            (memory.chain.id.as_deref(), memory.chain.tip),
            (Some("second"), 0)
        );
        assert_eq!(memory.app_hash(1), None);
        block(&mut memory, 1, "second");
        assert_eq!(memory.app_hash(1), None);
        memory.decided(2);
        assert_eq!(memory.app_hash(1), Some("second".into()));
    }

    #[test]
    fn a_chain_that_is_not_the_one_that_was_said_is_a_contradiction_until_the_right_one_begins() {
        let mut memory = Memory::of(Some("said".to_owned()));
        memory.genesis("other".to_owned());
        assert_eq!(memory.chain.contradicted_by.as_deref(), Some("other"));
        memory.genesis("said".to_owned());
        assert_eq!(memory.chain.contradicted_by, None);
        assert_eq!(memory.chain.id.as_deref(), Some("said"));
    }

    #[test]
    fn a_height_that_cannot_be_is_not_believed() {
        let mut memory = Memory::default();
        memory.informed(3);
        memory.informed(u64::MAX);
        memory.decided(MAX_HEIGHT + 1);
        assert_eq!(memory.chain.tip, 3);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = Memory::default();
        for height in 1..=MAX_BLOCKS as u64 + 2 {
            block(&mut memory, height, "x");
        }
        assert_eq!(memory.blocks.len(), MAX_BLOCKS);
        assert_eq!(memory.app_hash(2), None);
        assert!(memory.is_past(2));
        assert_eq!(memory.app_hash(3), Some("x".into()));
    }
}
