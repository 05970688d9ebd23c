//! What the adapter knows of the chain from the calls that went by.
//!
//! The application hash after block H is what FinalizeBlock(H) gave (Commit, before
//! 0.38); that the chain has it in header H+1 is certain when block H+1 is given to
//! the application, because consensus has decided it by then.

use std::collections::VecDeque;

use bytes::Bytes;

/// Application hashes that are remembered: a snapshot may take hours to be made,
/// and 20,000 blocks are more than five hours at a block each second. About 2 MB.
const MAX_BLOCKS: usize = 20_000;

/// What is known of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Its id, where it is known.
    pub id: Option<String>,
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
    blocks: VecDeque<Block>,
    /// The block that the application is executing.
    executing: Option<u64>,
}

impl Memory {
    /// Knows a chain's id before anything went by.
    pub(super) fn of(chain_id: Option<String>) -> Self {
        let mut memory = Self::default();
        memory.chain.id = chain_id;
        memory
    }

    /// The chain begins.
    pub(super) fn genesis(&mut self, chain_id: String) {
        self.chain.id.get_or_insert(chain_id);
    }

    /// The application says how far it is.
    pub(super) fn informed(&mut self, height: u64) {
        self.chain.tip = self.chain.tip.max(height);
    }

    /// Consensus decided a block, and the application executes it.
    pub(super) fn decided(&mut self, height: u64) {
        // A replay begins below the tip, and an application that was wiped at 0.
        let replayed = self.blocks.partition_point(|block| block.height < height);
        self.blocks.truncate(replayed);
        self.chain.tip = self.chain.tip.max(height);
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

    /// The application hash after a height, where the next header has it.
    pub(super) fn app_hash(&self, height: u64) -> Option<Bytes> {
        if height >= self.chain.tip {
            return None;
        }
        let at = self.blocks.partition_point(|block| block.height < height);
        let block = self.blocks.get(at).filter(|block| block.height == height)?;
        Some(block.app_hash.clone())
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
        block(&mut memory, 5, "five");
        assert_eq!(memory.app_hash(5), None);
        memory.decided(6);
        assert_eq!(memory.app_hash(5), Some("five".into()));
        assert_eq!(memory.app_hash(4), None);
        let (id, tip) = (Some("chain".to_owned()), 6);
        assert_eq!(memory.chain, Chain { id, tip });
    }

    #[test]
    fn a_replay_replaces_what_it_executes_again() {
        let mut memory = Memory::of(Some("chain".to_owned()));
        for height in 5..9 {
            block(&mut memory, height, "old");
        }
        block(&mut memory, 7, "new");
        assert_eq!(memory.app_hash(6), Some("old".into()));
        assert_eq!(memory.app_hash(7), Some("new".into()));
        assert_eq!(memory.chain.tip, 8, "what was decided stays decided");
        // Executed without being decided: an answer to nothing that went by.
        memory.executed("x".into());
        assert_eq!(memory.app_hash(8), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut memory = Memory::default();
        for height in 1..=MAX_BLOCKS as u64 + 2 {
            block(&mut memory, height, "x");
        }
        assert_eq!(memory.blocks.len(), MAX_BLOCKS);
        assert_eq!(memory.app_hash(2), None);
        assert_eq!(memory.app_hash(3), Some("x".into()));
    }
}
