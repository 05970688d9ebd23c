//! How far a chain is, when several endpoints tell of it and some stand still. Pure.

use super::ENOUGH;
use crate::comet::rpc::NodeStatus;

/// An endpoint that has so many blocks less than others stands still: those that follow
/// the chain differ by a few.
const MAX_LAG: u64 = 200;

/// How far the chain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::node) struct Extent {
    /// The newest block that two endpoints have, or the only one that answers.
    pub(in crate::node) tip: u64,
    /// The newest block of all.
    pub(in crate::node) highest: u64,
    /// The oldest block that one still has.
    pub(in crate::node) oldest: u64,
    /// The oldest block that as many have as have to agree about it.
    pub(super) shared: u64,
}

impl Extent {
    /// By what these endpoints say; nothing when there is none.
    pub(super) fn of(told: &[NodeStatus]) -> Option<Self> {
        let mut newest: Vec<u64> = told.iter().map(|status| status.height).collect();
        newest.sort_unstable_by_key(|height| std::cmp::Reverse(*height));
        let mut oldest: Vec<u64> = told.iter().map(|status| status.earliest_height).collect();
        oldest.sort_unstable();
        let enough = |of: &[u64]| of.get(ENOUGH - 1).or(of.last()).copied();
        Some(Self {
            // One alone could tell of blocks that nobody else has.
            tip: enough(&newest)?,
            highest: *newest.first()?,
            oldest: *oldest.first()?,
            shared: enough(&oldest)?,
        })
    }
}

/// Endpoints of which nobody can say who is wrong: one has far more blocks than all
/// others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Apart {
    pub(super) highest: u64,
    pub(super) next: u64,
}

/// Which of these heights are those of endpoints that stand still. Where `trusts`, a
/// block is trusted that proves all others, and the highest needs no witness.
pub(super) fn behind(heights: &[u64], trusts: bool) -> Result<Vec<bool>, Apart> {
    let mut newest = heights.to_vec();
    newest.sort_unstable_by_key(|height| std::cmp::Reverse(*height));
    let lags = |height: u64, tip: u64| height.saturating_add(MAX_LAG) < tip;
    let tip = match (newest.first(), newest.get(ENOUGH - 1)) {
        (Some(highest), Some(next)) if !trusts => {
            if lags(*next, *highest) {
                let (highest, next) = (*highest, *next);
                return Err(Apart { highest, next });
            }
            *next
        }
        (highest, _) => highest.copied().unwrap_or_default(),
    };
    Ok(heights.iter().map(|height| lags(*height, tip)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(earliest: u64, height: u64) -> NodeStatus {
        NodeStatus {
            chain_id: "chain".to_owned(),
            node_id: "00".to_owned(),
            moniker: String::new(),
            version: "0.38.25".to_owned(),
            height,
            earliest_height: earliest,
            catching_up: false,
            tip_time: None,
            p2p: None,
        }
    }

    #[test]
    fn what_one_endpoint_alone_has_is_told_apart_from_what_two_have() {
        let told = [at(900, 1000), at(1, 990), at(500, u64::MAX)];
        let extent = Extent {
            tip: 1000,
            highest: u64::MAX,
            oldest: 1,
            shared: 500,
        };
        assert_eq!(Extent::of(&told), Some(extent));
        let alone = Extent::of(&told[..1]).unwrap();
        assert_eq!((alone.tip, alone.shared), (1000, 900));
        assert_eq!(Extent::of(&[]), None);
    }

    #[test]
    fn an_endpoint_that_stands_still_is_left_out_where_others_agree() {
        let behind = |heights: &[u64]| behind(heights, false).unwrap();
        assert_eq!(behind(&[1000, 1000 - MAX_LAG]), [false, false]);
        assert_eq!(behind(&[10, 1000, 999]), [true, false, false]);
        assert_eq!(behind(&[7]), [false]);
        assert_eq!(behind(&[]), [false; 0]);
    }

    #[test]
    fn of_two_that_are_far_apart_none_is_believed_unless_a_block_is_trusted() {
        let apart = Apart {
            highest: 1000,
            next: 10,
        };
        assert_eq!(behind(&[10, 1000], false), Err(apart));
        assert_eq!(behind(&[10, 10, 1000], false), Err(apart));
        assert_eq!(behind(&[10, 1000], true), Ok(vec![true, false]));
    }
}
