//! Where trust begins: a block in which the endpoints agree, or that the person gave.

use bytes::Bytes;
use futures::future::join_all;

use super::{Chain, alone};
use crate::comet::light::Trusted;
use crate::comet::rpc::{Header, Rpc};
use crate::node::command::{Failure, FailureCode};
use crate::snapshot::Digest;

/// Where trust begins when CometBFT's peers choose the snapshot, at a chain whose pace is
/// not known: not above any that they may have, or the light client walks backwards.
const TRUST_BELOW_TIP: u64 = 2000;

/// What CometBFT's light client can begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::node) struct Trust {
    /// A height.
    pub(in crate::node) height: u64,
    /// The hash of its block, hex.
    pub(in crate::node) hash: String,
    /// RPC servers, at least one.
    pub(in crate::node) servers: Vec<String>,
}

impl Chain {
    /// What a light client can begin with to verify a snapshot of this height.
    pub(in crate::node) async fn trust_for(&self, height: u64) -> Result<Trust, Failure> {
        let trusted = self.trusted_at(height).await?;
        self.trust(trusted).await
    }

    /// For snapshots whose height is not known yet.
    pub(in crate::node) async fn trust_below_tip(&self) -> Result<Trust, Failure> {
        if let Some(trusted) = self.by_hand {
            return self.trust(trusted).await;
        }
        let extent = self.extent().await.ok_or_else(|| self.silent())?;
        let height = extent
            .tip
            .saturating_sub(self.young_blocks(extent.tip).await);
        self.trust_for(height.max(extent.shared).max(1)).await
    }

    /// How many blocks below the tip are surely young enough to be trusted: those of
    /// half the trust period, by the pace of the last ones.
    async fn young_blocks(&self, tip: u64) -> u64 {
        let since = tip.saturating_sub(TRUST_BELOW_TIP).max(1);
        let Ok(rpc) = self.any().await else {
            return TRUST_BELOW_TIP;
        };
        let [old, new] = [rpc.header(since).await, rpc.header(tip).await];
        let times = (
            old.ok().and_then(|old| old.time),
            new.ok().and_then(|new| new.time),
        );
        let (Some(old), Some(new)) = times else {
            return TRUST_BELOW_TIP;
        };
        let seconds = new.duration_since(old).unwrap_or_default().as_secs();
        let half = (self.rules.trust_period / 2).as_secs();
        let blocks = half.saturating_mul(tip.saturating_sub(since));
        blocks
            .checked_div(seconds)
            .unwrap_or(TRUST_BELOW_TIP)
            .max(1)
    }

    async fn trust(&self, trusted: Trusted) -> Result<Trust, Failure> {
        Ok(Trust {
            height: trusted.height,
            hash: hex::encode_upper(trusted.hash.as_bytes()),
            servers: self.servers().await?,
        })
    }

    /// The block from which a snapshot of this height is verified: the person's, or its
    /// own block, as the endpoints agree in it.
    pub(super) async fn trusted_at(&self, height: u64) -> Result<Trusted, Failure> {
        if let Some(trusted) = self.by_hand {
            if trusted.height > height {
                let above = trusted.height;
                return Err(Failure::new(
                    FailureCode::Usage,
                    format!("--trust-height {above} is above the snapshot's height {height}"),
                )
                .hint("trust a block at or below the snapshot"));
            }
            return Ok(trusted);
        }
        let told = self
            .told(height, |header| !header.block_hash.is_empty())
            .await?;
        let hash = self.agreed(height, &told, "block", |header| &header.block_hash)?;
        let hash = Digest::from_slice(hash).ok_or_else(|| {
            Failure::new(
                FailureCode::Failed,
                format!(
                    "{} tells a hash of block {height} that is none",
                    told[0].0.url()
                ),
            )
        })?;
        Ok(Trusted { height, hash })
    }

    /// The application hash in a block, by every endpoint that has it; nothing when
    /// none has. One is enough here: the node has verified the block already, and the
    /// question is whether it is the chain's.
    pub(in crate::node) async fn told_app_hash(
        &self,
        height: u64,
    ) -> Option<Result<String, Failure>> {
        let asked = join_all(self.rpcs.iter().map(async |rpc| rpc.header(height).await)).await;
        let told = asked.into_iter().filter_map(Result::ok);
        let mut hashes = told.map(|header| hex::encode_upper(&header.app_hash));
        let first = hashes.next()?;
        match hashes.find(|other| *other != first) {
            None => Some(Ok(first)),
            Some(other) => Some(Err(Failure::new(
                FailureCode::Verification,
                format!("the RPC endpoints disagree about block {height}: {first}, {other}"),
            )
            .hint(
                "one of them is wrong, or follows a fork: find out which, and leave it out",
            ))),
        }
    }

    /// The lowest snapshot that the person's own trust reaches.
    pub(in crate::node) fn trusted_from(&self) -> u64 {
        self.by_hand.map_or(0, |trusted| trusted.height)
    }

    async fn servers(&self) -> Result<Vec<String>, Failure> {
        let asked = self.statuses().await;
        let answering = asked.into_iter().filter(|(_, status)| status.is_ok());
        let servers: Vec<String> = answering.map(|(rpc, _)| rpc.full_url()).collect();
        match servers.is_empty() {
            true => Err(self.silent()),
            false => Ok(servers),
        }
    }

    /// The headers of a block by all endpoints that have it, at least one; only those
    /// that tell what is wanted.
    pub(super) async fn told(
        &self,
        height: u64,
        wanted: fn(&Header) -> bool,
    ) -> Result<Vec<(&Rpc, Header)>, Failure> {
        let ask = self.rpcs.iter();
        let asked = join_all(ask.map(async |rpc| (rpc, rpc.header(height).await))).await;
        let mut told = Vec::new();
        let mut trouble = None;
        for (rpc, header) in asked {
            match header {
                Ok(header) if wanted(&header) => told.push((rpc, header)),
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        match &told[..] {
            [] => Err(trouble.map_or_else(|| self.silent(), Failure::from)),
            [(first, _)] if self.by_hand.is_none() => {
                Err(alone(first, &format!("tells block {height}"), trouble))
            }
            _ => Ok(told),
        }
    }

    /// What all of these headers of a block say.
    pub(super) fn agreed<'a>(
        &self,
        height: u64,
        told: &'a [(&Rpc, Header)],
        what: &str,
        pick: fn(&Header) -> &Bytes,
    ) -> Result<&'a Bytes, Failure> {
        let (first_rpc, first) = told.first().ok_or_else(|| self.silent())?;
        let first_hash = pick(first);
        let Some((rpc, other)) = told.iter().find(|(_, header)| pick(header) != first_hash) else {
            return Ok(first_hash);
        };
        let (first_url, url) = (first_rpc.url(), rpc.url());
        let [first, other] = [first, other].map(|header| hex::encode_upper(pick(header)));
        Err(Failure::new(
            FailureCode::Verification,
            format!(
                "the RPC endpoints disagree about block {height}: {first_url} has the {what} hash \
                 {first}, {url} has {other}"
            ),
        )
        .about_chain()
        .hint(
            "one of them is wrong, or follows a fork: find out which, and leave it out; or give a \
             block that you trust with --trust-height and --trust-hash",
        ))
    }
}

/// The block that the person gave.
pub(super) fn by_hand_of(height: u64, hash: &str) -> Result<Trusted, Failure> {
    let bytes = hex::decode(hash).unwrap_or_default();
    let hash = Digest::from_slice(&bytes).ok_or_else(|| {
        Failure::new(
            FailureCode::Usage,
            format!("--trust-hash {hash} is not the hash of a block, which has 64 hex digits"),
        )
        .hint("`curl 'RPC/commit?height=H'` tells it, as block_id.hash")
    })?;
    Ok(Trusted { height, hash })
}
