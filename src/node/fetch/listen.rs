//! What peers say they have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::PeerId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::candidates::{Claim, Fit, LeftOutCounts};
use super::seek::{Asked, Source};
use crate::net::CatalogueAnswer;
use crate::node::services::Services;
use crate::sync::Offence;
use crate::wire::CatalogueEntry;

/// Claims kept of one peer, the newest: with 512 peers at most 4096, about 1 MB.
/// A provider keeps a handful of snapshots of a chain.
const MAX_CLAIMS_PER_PEER: usize = 8;
/// One question, dialling included: a peer that is slower holds a place that
/// others could use.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks peers for their catalogues and keeps the claims.
pub(super) struct Listener<'a> {
    services: &'a Services,
    chain_id: String,
    asked: Asked,
    asking: JoinSet<(PeerId, Option<CatalogueAnswer>)>,
    /// Of those who are asked now, who was connected.
    near: BTreeSet<PeerId>,
    /// What each peer said last.
    heard: BTreeMap<PeerId, Heard>,
}

/// What is kept of one answer.
#[derive(Default)]
struct Heard {
    fit: Vec<CatalogueEntry>,
    left_out: LeftOutCounts,
}

impl<'a> Listener<'a> {
    pub(super) fn new(services: &'a Services, chain_id: &str) -> Self {
        Self {
            services,
            chain_id: chain_id.to_owned(),
            asked: Asked::default(),
            asking: JoinSet::new(),
            near: BTreeSet::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Asks those whose turn it is.
    pub(super) fn ask(&mut self, sources: Vec<Source>) {
        let referee = &self.services.referee;
        let is_out = |peer: &PeerId| referee.is_banned(peer);
        let connected: BTreeSet<PeerId> = sources
            .iter()
            .filter(|source| source.connected)
            .map(|source| source.peer)
            .collect();
        for (peer, _) in self.asked.next(sources, is_out, Instant::now()) {
            if connected.contains(&peer) {
                self.near.insert(peer);
            }
            let (net, referee) = (self.services.net.clone(), referee.clone());
            let chain_id = self.chain_id.clone();
            self.asking.spawn(async move {
                let answer = net.catalogue(peer, Some(&chain_id));
                match tokio::time::timeout(ASK_TIMEOUT, answer).await {
                    Ok(Ok(answer)) => (peer, Some(answer)),
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "no catalogue");
                        if error.blame().is_some() {
                            referee.ban(peer, Offence::Protocol);
                        }
                        (peer, None)
                    }
                    Err(_) => (peer, None),
                }
            });
        }
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Option<(PeerId, CatalogueAnswer)> {
        let Some(ended) = self.asking.join_next().await else {
            return std::future::pending().await;
        };
        let (peer, answer) = ended.ok()?;
        self.asked.done(&peer);
        self.near.remove(&peer);
        Some((peer, answer?))
    }

    /// Keeps what fits of an answer, in place of the peer's last one; tells
    /// whether there is anything of the chain in it.
    pub(super) fn keep(
        &mut self,
        peer: PeerId,
        entries: Vec<CatalogueEntry>,
        fit: impl Fn(&CatalogueEntry) -> Fit,
    ) -> bool {
        let any = !entries.is_empty();
        self.heard.insert(peer, Heard::of(entries, fit));
        any
    }

    /// Whether every peer that the user named has told of the chain, and everyone
    /// else who was asked and is connected has answered. A named peer that has
    /// nothing is a meeting point: whom it knows is yet to be heard. Who has to be
    /// dialled first is not waited for: many whom the DHT names are gone.
    pub(super) fn heard_all(&self, named: &BTreeSet<PeerId>) -> bool {
        !named.is_empty() && self.near.is_empty() && named.iter().all(|peer| self.has_told(peer))
    }

    fn has_told(&self, peer: &PeerId) -> bool {
        let heard = self.heard.get(peer);
        heard.is_some_and(|heard| !heard.fit.is_empty() || !heard.left_out.is_empty())
    }

    /// All claims that fit. Who was banned since is not heard any more.
    pub(super) fn claims(&self, named: &BTreeSet<PeerId>) -> Vec<Claim> {
        let claim = |peer: &PeerId, entry: &CatalogueEntry| Claim {
            peer: *peer,
            named: named.contains(peer),
            entry: entry.clone(),
        };
        self.heard
            .iter()
            .filter(|(peer, _)| !self.services.referee.is_banned(peer))
            .flat_map(|(peer, heard)| heard.fit.iter().map(move |entry| claim(peer, entry)))
            .collect()
    }

    /// How many claims were not kept and why.
    pub(super) fn left_out(&self) -> LeftOutCounts {
        let mut sum = LeftOutCounts::new();
        for (reason, count) in self.heard.values().flat_map(|heard| &heard.left_out) {
            *sum.entry(*reason).or_default() += count;
        }
        sum
    }
}

impl Heard {
    fn of(entries: Vec<CatalogueEntry>, fit: impl Fn(&CatalogueEntry) -> Fit) -> Self {
        let mut heard = Self::default();
        for entry in entries {
            match fit(&entry) {
                Fit::Yes => heard.fit.push(entry),
                Fit::No => {}
                Fit::LeftOut(reason) => *heard.left_out.entry(reason).or_default() += 1,
            }
        }
        heard
            .fit
            .sort_by_key(|entry| std::cmp::Reverse(entry.height));
        heard.fit.truncate(MAX_CLAIMS_PER_PEER);
        heard.fit.shrink_to_fit();
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::LeftOut;
    use super::*;
    use crate::snapshot::{ManifestId, hash::sha256};

    #[test]
    fn of_many_claims_the_newest_that_fit_are_kept_and_the_others_counted() {
        let entry = |height: u64| CatalogueEntry {
            chain_id: "chain".to_owned(),
            height,
            format: 1,
            app_hash: bytes::Bytes::new(),
            manifest: ManifestId(sha256(&height.to_be_bytes())),
            manifest_bytes: 100,
            total_bytes: 1000,
            chunks: 1,
            complete: true,
            delta: false,
            endorsements: Vec::new(),
        };
        let heard = Heard::of((1..=100).map(entry).collect(), |entry| match entry.height {
            91.. => Fit::LeftOut(LeftOut::AboveTip),
            90 => Fit::No,
            _ => Fit::Yes,
        });
        let heights: Vec<u64> = heard.fit.iter().map(|entry| entry.height).collect();
        assert_eq!(heights, [89, 88, 87, 86, 85, 84, 83, 82]);
        assert_eq!(
            heard.left_out,
            LeftOutCounts::from([(LeftOut::AboveTip, 10)])
        );
    }
}
