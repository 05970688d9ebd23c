//! A restore under way: what the application was asked to take, what of it arrived,
//! and whether the end is what was trusted.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::ResponseApplySnapshotChunk;

use super::client::AppInfo;
use super::message::{apply_result, stub};
use super::{Restoring, Verified};
use crate::snapshot::Offer;
use crate::snapshot::hash::sha256;

/// What the application is asked to restore.
pub(super) struct Proposal {
    pub(super) offer: Offer,
    pub(super) app_hash: Bytes,
    pub(super) verified: Option<Arc<dyn Verified>>,
}

/// What is wrong with the state that an application has after a restore.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Problem {
    /// It is that of another height.
    #[error("it says that it is at height {0}")]
    Height(u64),
    /// It has another application hash, hex.
    #[error("its application hash is {own}, and the chain has {expected}")]
    Hash {
        /// The application's.
        own: String,
        /// The chain's.
        expected: String,
    },
    /// It is right, and the application is another release.
    #[error(
        "its application version is {own}, and the chain has {expected}: run the application of \
         that height"
    )]
    Version {
        /// The application's.
        own: u64,
        /// The chain's.
        expected: u64,
    },
}

/// A restore under way.
pub(super) struct Restore {
    /// The connection on which CometBFT leads it: it ends with that.
    pub(super) connection: u32,
    proposal: Proposal,
    /// Chunks that were applied, from the first on.
    applied: u32,
    /// Of those, the ones that the application wants once more.
    again: BTreeSet<u32>,
    /// Chunks whose bytes were wrong or stubs.
    pub(super) replaced: u32,
    /// Failed readings in a row.
    pub(super) unreadable: usize,
}

/// What an answer about a chunk means for the restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// More is to come.
    More,
    /// That was the last chunk.
    Complete,
    /// The application gives up, or begins anew with another offer.
    Over,
}

impl Restore {
    pub(super) fn new(connection: u32, proposal: Proposal) -> Self {
        Self {
            connection,
            proposal,
            applied: 0,
            again: BTreeSet::new(),
            replaced: 0,
            unreadable: 0,
        }
    }

    pub(super) fn height(&self) -> u64 {
        self.proposal.offer.height
    }

    /// Against what the chunks are checked.
    pub(super) fn verified(&self) -> Option<Arc<dyn Verified>> {
        self.proposal.verified.clone()
    }

    /// For those who look.
    pub(super) fn view(&self) -> Restoring {
        Restoring {
            offer: self.proposal.offer.clone(),
            checked: self.proposal.verified.is_some(),
            applied: self.applied,
            replaced: self.replaced,
        }
    }

    /// The application answered about a chunk.
    pub(super) fn answered(&mut self, index: u32, answer: &ResponseApplySnapshotChunk) -> Step {
        match answer.result {
            apply_result::ACCEPT => {
                self.again.remove(&index);
                self.applied = self.applied.max(index.saturating_add(1));
            }
            apply_result::RETRY => {}
            apply_result::ABORT | apply_result::RETRY_SNAPSHOT | apply_result::REJECT_SNAPSHOT => {
                return Step::Over;
            }
            // CometBFT ends the state sync over any other.
            _ => return Step::Over,
        }
        let wanted = answer.refetch_chunks.iter().copied();
        self.again
            .extend(wanted.filter(|chunk| *chunk < self.applied));
        match self.applied >= self.proposal.offer.chunks && self.again.is_empty() {
            true => Step::Complete,
            false => Step::More,
        }
    }

    /// What is wrong with the state that the application has now; nothing when it is
    /// the trusted one. `version` is the application's version that the chain has at
    /// this height, where it is known.
    pub(super) fn problem(&self, info: &AppInfo, version: Option<u64>) -> Option<Problem> {
        let app_hash = &self.proposal.app_hash;
        if info.height != self.height() {
            Some(Problem::Height(info.height))
        } else if info.app_hash != *app_hash {
            Some(Problem::Hash {
                own: hex::encode_upper(&info.app_hash),
                expected: hex::encode_upper(app_hash),
            })
        } else {
            let expected = version.filter(|version| *version != info.app_version)?;
            Some(Problem::Version {
                own: info.app_version,
                expected,
            })
        }
    }
}

/// What a chunk's bytes are.
pub(super) enum Checked {
    Right,
    /// The bytes for which the stub stands.
    Stub(Bytes),
    /// The right bytes.
    Wrong(Bytes),
    /// Ours cannot be read.
    WrongAndUnreadable(std::io::Error),
}

/// Checks a chunk's bytes, and brings the right ones for others. Blocking.
pub(super) fn check(verified: &dyn Verified, index: u32, chunk: &Bytes) -> Checked {
    let Some(id) = verified.id(index) else {
        let error = std::io::Error::other("the snapshot has no such chunk");
        return Checked::WrongAndUnreadable(error);
    };
    if sha256(chunk) == id.0 {
        return Checked::Right;
    }
    match verified.chunk(index) {
        Ok(bytes) if *chunk == stub(&id) => Checked::Stub(bytes),
        Ok(bytes) => Checked::Wrong(bytes),
        Err(error) => Checked::WrongAndUnreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restore() -> Restore {
        let offer = Offer {
            height: 10,
            format: 1,
            chunks: 3,
            hash: Bytes::new(),
            metadata: Bytes::new(),
        };
        let proposal = Proposal {
            offer,
            app_hash: "hash".into(),
            verified: None,
        };
        Restore::new(1, proposal)
    }

    fn answer(result: i32, refetch: &[u32]) -> ResponseApplySnapshotChunk {
        ResponseApplySnapshotChunk {
            result,
            refetch_chunks: refetch.to_vec(),
            reject_senders: Vec::new(),
        }
    }

    #[test]
    fn a_restore_is_complete_when_every_chunk_is_applied_and_none_is_wanted_again() {
        let mut restore = restore();
        let accept = apply_result::ACCEPT;
        let mut step = |index, result, refetch| restore.answered(index, &answer(result, refetch));
        assert_eq!(step(0, accept, &[]), Step::More);
        assert_eq!(step(1, apply_result::RETRY, &[1]), Step::More);
        assert_eq!(step(1, accept, &[]), Step::More);
        assert_eq!(step(2, accept, &[1, 7]), Step::More, "one is wanted again");
        assert_eq!(step(1, apply_result::RETRY, &[]), Step::More);
        assert_eq!(step(1, accept, &[]), Step::Complete);
    }

    #[test]
    fn an_application_that_gives_up_or_begins_anew_ends_the_restore() {
        for result in [2, 4, 5, 0, 99] {
            assert_eq!(restore().answered(0, &answer(result, &[])), Step::Over);
        }
    }

    #[test]
    fn the_end_must_have_height_hash_and_version() {
        let restore = restore();
        let info = |height, app_hash: &'static str| AppInfo {
            app_version: 1,
            height,
            app_hash: app_hash.into(),
        };
        assert_eq!(restore.problem(&info(10, "hash"), None), None);
        assert_eq!(restore.problem(&info(10, "hash"), Some(1)), None);
        let problem = |info, version| restore.problem(&info, version).unwrap();
        assert_eq!(problem(info(9, "hash"), None), Problem::Height(9));
        assert!(matches!(
            problem(info(10, "other"), None),
            Problem::Hash { .. }
        ));
        assert!(matches!(
            problem(info(10, "hash"), Some(2)),
            Problem::Version {
                own: 1,
                expected: 2
            }
        ));
    }
}
