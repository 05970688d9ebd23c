//! The snapshot that is judged by, and what CometBFT takes of it.

use crate::node::doctor::facts::{Facts, Snapshot};
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding};
use crate::node::progress::chunks;
use crate::snapshot::{MAX_CHUNK_BYTES, MAX_CHUNKS};

const SNAPSHOT: Check = Check {
    subject: "snapshot",
    why: "disk, trust height and versions are judged by it",
};
const CHUNK_SIZE: Check = Check {
    subject: "chunk size",
    why: "CometBFT drops the connection at a chunk message above 16,000,000 bytes",
};
const CHUNK_TIME: Check = Check {
    subject: "chunk size",
    why: "CometBFT asks again for a chunk that takes longer than 10 s, so its bytes come twice",
};
const CHUNK_COUNT: Check = Check {
    subject: "chunk count",
    why: "CometBFT turns away a peer that offers a snapshot of more chunks than its limit",
};

/// What CometBFT takes over one connection with its default settings.
pub(super) const DEFAULT_RATE: u64 = 5_120_000;
/// Chunks that CometBFT asks for at once.
const FETCHERS: u64 = 4;
/// After which it asks again.
const CHUNK_TIMEOUT_S: u64 = 10;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(snapshot) = &facts.snapshot else {
        return vec![missing(facts)];
    };
    let told = format!(
        "{} of {}, height {}, {} in {}",
        snapshot.manifest,
        snapshot.chain_id,
        snapshot.height,
        figures::bytes(snapshot.bytes),
        chunks(snapshot.chunks)
    );
    let first = match snapshot.missing_bytes {
        0 => SNAPSHOT.good(told),
        missing => SNAPSHOT.hint(
            format!("{told}; {} are still to come", figures::bytes(missing)),
            format!("snapswarm fetch {}", snapshot.manifest),
        ),
    };
    let mut found = vec![first, size(facts, snapshot)];
    found.push(count(facts, snapshot));
    found
}

fn missing(facts: &Facts) -> Finding {
    match &facts.wanted {
        Some(cid) => SNAPSHOT.hint(
            format!("{cid} is not in this home: what depends on it was not looked at"),
            format!("snapswarm fetch {cid}"),
        ),
        None => SNAPSHOT.hint(
            "no complete one of this chain is in the home: what depends on it was not looked at",
            "`snapswarm fetch --chain-id ID` brings one; `snapswarm doctor --cid CID` judges by \
             another of this home",
        ),
    }
}

fn size(facts: &Facts, snapshot: &Snapshot) -> Finding {
    let largest = u64::from(snapshot.largest_chunk_bytes);
    let told = format!("the largest chunk has {largest} bytes");
    if snapshot.largest_chunk_bytes > MAX_CHUNK_BYTES {
        return CHUNK_SIZE.problem(
            format!("{told}, and the limit is {MAX_CHUNK_BYTES}"),
            "have the application make its snapshots with chunks of 10 MB",
        );
    }
    let under_way = largest.saturating_mul(FETCHERS);
    match super::p2p::rate(facts, "recv_rate") {
        Some(rate) if under_way > rate.saturating_mul(CHUNK_TIMEOUT_S) => CHUNK_TIME.hint(
            format!(
                "{told}: at recv_rate = {rate} the {FETCHERS} that are asked for at once take \
                     longer than {CHUNK_TIMEOUT_S} s"
            ),
            super::p2p::raise(facts, "recv_rate"),
        ),
        _ => CHUNK_SIZE.good(format!("{told}, below the limit of {MAX_CHUNK_BYTES}")),
    }
}

fn count(facts: &Facts, snapshot: &Snapshot) -> Finding {
    let told = chunks(snapshot.chunks);
    let own = super::state_sync::settings(facts)
        .and_then(|settings| settings.number("statesync", "max_snapshot_chunks"))
        .and_then(|limit| u32::try_from(limit).ok());
    let limit = own.unwrap_or(MAX_CHUNKS);
    if snapshot.chunks <= limit {
        return CHUNK_COUNT.good(format!("{told}, below the limit of {limit}"));
    }
    CHUNK_COUNT.problem(
        format!("{told}, and the limit is {limit}"),
        match limit < MAX_CHUNKS {
            true => super::p2p::write(
                facts,
                "statesync",
                &format!("max_snapshot_chunks = {MAX_CHUNKS}"),
            ),
            false => "have the application make its snapshots with larger chunks".to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{facts, facts_with, told};
    use super::*;

    #[test]
    fn without_a_snapshot_it_says_what_was_not_looked_at() {
        let mut facts = facts();
        facts.snapshot = None;
        assert!(told(&judge(&facts), "snapshot").is_hint("--chain-id"));
        facts.wanted = Some("bafy".to_owned());
        assert!(told(&judge(&facts), "snapshot").is_hint("snapswarm fetch bafy"));
    }

    #[test]
    fn a_snapshot_that_is_here_in_part_is_a_hint() {
        let mut facts = facts();
        facts.snapshot.as_mut().unwrap().missing_bytes = 1;
        assert!(told(&judge(&facts), "snapshot").is_hint("snapswarm fetch cid"));
    }

    #[test]
    fn chunks_are_judged_by_cometbfts_limit_and_by_its_timer() {
        let judged = |largest, rate: &str| {
            let rate = format!("recv_rate = {rate}");
            let mut facts = facts_with(&[("recv_rate = 512000000", &rate)]);
            facts.snapshot.as_mut().unwrap().largest_chunk_bytes = largest;
            judge(&facts)
        };
        assert!(told(&judged(15_999_936, "512000000"), "chunk size").is_good());
        assert!(told(&judged(15_999_937, "512000000"), "chunk size").is_problem("10 MB"));
        // 4 of 12.8 MB take 10 s at 5.12 MB/s.
        assert!(told(&judged(12_800_000, "5120000"), "chunk size").is_good());
        assert!(told(&judged(12_800_001, "5120000"), "chunk size").is_hint("recv_rate"));
    }

    #[test]
    fn more_chunks_than_the_limit_are_a_problem() {
        let judged = |chunks, own: &str| {
            let with = format!("[statesync]\n{own}");
            let mut facts = facts_with(&[("[statesync]\n", &with)]);
            facts.snapshot.as_mut().unwrap().chunks = chunks;
            judge(&facts)
        };
        assert!(told(&judged(100_000, ""), "chunk count").is_good());
        assert!(told(&judged(100_001, ""), "chunk count").is_problem("application"));
        let low = "max_snapshot_chunks = 10\n";
        assert!(told(&judged(11, low), "chunk count").is_problem("max_snapshot_chunks = 100000"));
    }
}
