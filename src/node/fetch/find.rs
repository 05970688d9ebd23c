//! From what a person asked for to a manifest that was checked, and to the
//! peers that are said to have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use libp2p::PeerId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::candidates::{Candidate, Claim, Wanted, rank};
use crate::comet::rpc::{Rpc, RpcError};
use crate::net::{Key, Net};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;
use crate::node::services::Services;
use crate::snapshot::{Manifest, ManifestId};
use crate::sync::Offence;

/// After the first claim, others get so long to be heard.
const SETTLE: Duration = Duration::from_millis(1500);
/// Between two rounds of asking.
const ROUND: Duration = Duration::from_millis(500);
/// The DHT is asked again after so long.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
/// Peers asked at once.
const MAX_ASKED_AT_ONCE: usize = 16;
/// Peers asked in one search: bounds what a flood of records can cost.
const MAX_ASKED: usize = 512;

/// A manifest to fetch.
pub(super) struct Found {
    pub(super) manifest: Arc<Manifest>,
    /// Whether the chain's RPC confirmed its application hash.
    pub(super) proven: bool,
    /// Who is said to have it.
    pub(super) peers: Vec<PeerId>,
}

/// A search under way.
pub(super) struct Search<'a> {
    pub(super) services: &'a Services,
    pub(super) reporter: &'a Reporter,
    pub(super) rpc: Option<&'a Rpc>,
    /// Peers that the user named.
    pub(super) named: &'a BTreeSet<PeerId>,
    pub(super) deadline: Instant,
}

impl Search<'_> {
    /// The snapshot of a name.
    pub(super) async fn by_id(&self, id: ManifestId) -> Result<Found, Failure> {
        if let Some(manifest) = self.services.store.manifest(&id) {
            let proven = self.prove(&manifest).await?;
            return Ok(Found {
                manifest,
                proven,
                peers: Vec::new(),
            });
        }
        self.reporter.phase(format!("looking for {id}"));
        let mut asked: BTreeSet<PeerId> = BTreeSet::new();
        let mut seeker = Seeker::new(self.services.net.clone(), Key::Manifest(id));
        let mut asking: JoinSet<(PeerId, Option<Arc<Manifest>>)> = JoinSet::new();
        loop {
            for peer in seeker.peers() {
                if asked.len() < MAX_ASKED
                    && asking.len() < MAX_ASKED_AT_ONCE
                    && !self.services.referee.is_banned(&peer)
                    && asked.insert(peer)
                {
                    let (net, referee) = (self.services.net.clone(), self.services.referee.clone());
                    asking
                        .spawn(async move { (peer, ask_manifest(&net, &referee, peer, id).await) });
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.deadline) => return Err(self.nobody(&id.to_string())),
                Some(answer) = asking.join_next(), if !asking.is_empty() => {
                    if let Ok((peer, Some(manifest))) = answer {
                        let proven = self.prove(&manifest).await?;
                        return Ok(Found { manifest, proven, peers: vec![peer] });
                    }
                }
                () = seeker.more() => {
                    // Who had nothing may have it by now.
                    if seeker.round_over() {
                        asked.clear();
                    }
                }
            }
        }
    }

    /// The best snapshot of a chain, as the peers and the RPC have it.
    pub(super) async fn by_chain(
        &self,
        chain_id: &str,
        height: Option<u64>,
        refused: &BTreeSet<ManifestId>,
    ) -> Result<Found, Failure> {
        self.reporter
            .phase(format!("looking for snapshots of {chain_id}"));
        let tip = self.tip(chain_id).await?;
        let wanted = Wanted {
            chain_id: chain_id.to_owned(),
            height,
            max_bytes: Some(self.services.config.store.max_download_bytes.0),
            tip,
        };
        let mut told = BTreeSet::new();
        let mut tried = refused.clone();
        let mut hashes: BTreeMap<u64, Option<Bytes>> = BTreeMap::new();
        let mut seeker = Seeker::new(self.services.net.clone(), Key::Chain(chain_id.to_owned()));
        let mut listener = Listener::new(self.services, chain_id);
        let mut settled: Option<Instant> = None;
        loop {
            listener.ask(seeker.peers());
            tokio::select! {
                () = tokio::time::sleep_until(self.deadline) => {
                    return Err(self.nobody(&format!("a snapshot of {chain_id}")));
                }
                heard = listener.heard() => if heard {
                    let settle = if listener.heard_all(self.named) { Duration::ZERO } else { SETTLE };
                    let at = Instant::now() + settle;
                    settled = Some(settled.map_or(at, |before| before.min(at)));
                },
                () = seeker.more() => listener.forget_if(seeker.round_over()),
                () = until(settled) => {
                    settled = None;
                    let claims = listener.claims(self.named);
                    let ranked = rank(&claims, &wanted);
                    for reason in ranked.left_out {
                        if told.insert(reason.clone()) {
                            tracing::warn!(reason, "a snapshot is left out");
                            self.reporter.note(format!("left out: {reason}"));
                        }
                    }
                    for candidate in ranked.candidates {
                        if !self.allowed(&candidate.manifest) || !tried.insert(candidate.manifest) {
                            continue;
                        }
                        if let Some(found) = self.try_candidate(&wanted, &candidate, &mut hashes).await? {
                            return Ok(found);
                        }
                    }
                }
            }
        }
    }

    /// Pinned manifests in the settings exclude all others.
    fn allowed(&self, id: &ManifestId) -> bool {
        let pinned = &self.services.config.trust.pinned_manifests;
        pinned.is_empty() || pinned.contains(&id.to_string())
    }

    async fn try_candidate(
        &self,
        wanted: &Wanted,
        candidate: &Candidate,
        hashes: &mut BTreeMap<u64, Option<Bytes>>,
    ) -> Result<Option<Found>, Failure> {
        let proven = match self.rpc {
            None => false,
            Some(rpc) => match self.chain_hash(rpc, candidate.height, hashes).await? {
                Some(hash) if hash == candidate.app_hash => true,
                _ => {
                    self.left_out(&format!(
                        "{} claims another application hash at height {} than the chain has",
                        candidate.manifest, candidate.height
                    ));
                    return Ok(None);
                }
            },
        };
        for peer in &candidate.peers {
            if self.services.referee.is_banned(peer) {
                continue;
            }
            let services = self.services;
            let id = candidate.manifest;
            let manifest = match services.store.manifest(&id) {
                Some(manifest) => Some(manifest),
                None => ask_manifest(&services.net, &services.referee, *peer, id).await,
            };
            let Some(manifest) = manifest else { continue };
            if manifest.chain_id() != wanted.chain_id
                || manifest.height() != candidate.height
                || manifest.app_hash().cloned().unwrap_or_default() != candidate.app_hash
            {
                self.left_out(&format!(
                    "{id} is not what the catalogue of its holders says"
                ));
                return Ok(None);
            }
            return Ok(Some(Found {
                manifest,
                proven,
                peers: candidate.peers.iter().copied().collect(),
            }));
        }
        self.left_out(&format!("nobody gave the manifest {}", candidate.manifest));
        Ok(None)
    }

    fn left_out(&self, reason: &str) {
        tracing::warn!(reason, "a snapshot is left out");
        self.reporter.note(format!("left out: {reason}"));
    }

    /// The chain's newest height; the RPC must be of this chain.
    async fn tip(&self, chain_id: &str) -> Result<Option<u64>, Failure> {
        let Some(rpc) = self.rpc else { return Ok(None) };
        let status = rpc.status().await?;
        if status.chain_id != chain_id {
            return Err(wrong_chain(rpc, &status.chain_id, chain_id));
        }
        Ok(Some(status.height))
    }

    async fn chain_hash(
        &self,
        rpc: &Rpc,
        height: u64,
        hashes: &mut BTreeMap<u64, Option<Bytes>>,
    ) -> Result<Option<Bytes>, Failure> {
        if let Some(hash) = hashes.get(&height) {
            return Ok(hash.clone());
        }
        let hash = match rpc.app_hash_after(height).await {
            Ok(hash) => Some(hash),
            Err(error @ (RpcError::TooNew { .. } | RpcError::Pruned { .. })) => {
                self.left_out(&error.to_string());
                None
            }
            Err(error) => return Err(error.into()),
        };
        hashes.insert(height, hash.clone());
        Ok(hash)
    }

    /// Whether the chain's RPC, where there is one, confirms the manifest. A
    /// contradiction is an error.
    async fn prove(&self, manifest: &Manifest) -> Result<bool, Failure> {
        let Some(rpc) = self.rpc else {
            return Ok(false);
        };
        super::prove(rpc, manifest).await
    }

    fn nobody(&self, what: &str) -> Failure {
        let peers = self.services.net.connected().len();
        let hint = if peers == 0 {
            "no peer is connected: give one with --bootstrap MULTIADDR (a provider prints its own \
             when it starts), or wait longer with --timeout"
        } else {
            "the connected peers do not have it: name a provider with --bootstrap, or wait longer \
             with --timeout"
        };
        Failure::new(
            FailureCode::NotFound,
            format!("{what} was not found ({peers} peers connected)"),
        )
        .hint(hint)
    }
}

/// A person gave an RPC of another chain.
pub(in crate::node) fn wrong_chain(rpc: &Rpc, found: &str, wanted: &str) -> Failure {
    Failure::new(
        FailureCode::Usage,
        format!("the RPC {} is of chain {found}, not {wanted}", rpc.url()),
    )
    .hint("give an RPC of the right chain, or the chain id that it serves")
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Asks one peer for a manifest and checks it.
async fn ask_manifest(
    net: &Net,
    referee: &crate::node::referee::Referee,
    peer: PeerId,
    id: ManifestId,
) -> Option<Arc<Manifest>> {
    let bytes = match net.manifest(peer, &id).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::debug!(%peer, %id, %error, "no manifest");
            if error.blame().is_some() {
                referee.ban(peer, Offence::Protocol);
            }
            return None;
        }
    };
    match Manifest::decode_as(&id, bytes) {
        Ok(manifest) => Some(Arc::new(manifest)),
        Err(error) => {
            tracing::warn!(%peer, %id, %error, "a peer gave a false manifest");
            referee.ban(peer, Offence::WrongBytes);
            None
        }
    }
}

/// Peers that may know: those connected, and what the DHT finds.
struct Seeker {
    net: Net,
    key: Key,
    found: BTreeSet<PeerId>,
    look_up: Option<futures::stream::BoxStream<'static, PeerId>>,
    looked_at: Option<Instant>,
    rounds: u32,
}

impl Seeker {
    fn new(net: Net, key: Key) -> Self {
        Self {
            net,
            key,
            found: BTreeSet::new(),
            look_up: None,
            looked_at: None,
            rounds: 0,
        }
    }

    fn peers(&self) -> BTreeSet<PeerId> {
        let mut peers = self.found.clone();
        peers.extend(self.net.connected().into_iter().map(|peer| peer.peer));
        peers.remove(&self.net.peer_id());
        peers
    }

    /// Every so many rounds whoever was asked may be asked again.
    fn round_over(&self) -> bool {
        self.rounds.is_multiple_of(10)
    }

    /// Ends when there may be more peers than before.
    async fn more(&mut self) {
        let due = self
            .looked_at
            .is_none_or(|at| at.elapsed() >= LOOK_UP_EVERY);
        if self.look_up.is_none() && due {
            self.looked_at = Some(Instant::now());
            if let Ok(providers) = self.net.find(self.key.clone()).await {
                self.look_up = Some(providers.boxed());
            }
        }
        let next = async {
            match &mut self.look_up {
                Some(look_up) => look_up.next().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(ROUND, next).await {
            Ok(Some(peer)) => {
                if self.found.len() < MAX_ASKED {
                    self.found.insert(peer);
                }
            }
            Ok(None) => self.look_up = None,
            Err(_) => self.rounds += 1,
        }
    }
}

/// Asks peers for their catalogues and keeps the claims.
struct Listener<'a> {
    services: &'a Services,
    chain_id: String,
    asked: BTreeSet<PeerId>,
    asking: JoinSet<(PeerId, Option<Vec<crate::wire::CatalogueEntry>>)>,
    heard: BTreeMap<PeerId, Vec<crate::wire::CatalogueEntry>>,
}

impl<'a> Listener<'a> {
    fn new(services: &'a Services, chain_id: &str) -> Self {
        Self {
            services,
            chain_id: chain_id.to_owned(),
            asked: BTreeSet::new(),
            asking: JoinSet::new(),
            heard: BTreeMap::new(),
        }
    }

    fn ask(&mut self, peers: BTreeSet<PeerId>) {
        for peer in peers {
            if self.asking.len() >= MAX_ASKED_AT_ONCE || self.asked.len() >= MAX_ASKED {
                return;
            }
            if self.services.referee.is_banned(&peer) || !self.asked.insert(peer) {
                continue;
            }
            let (net, referee) = (self.services.net.clone(), self.services.referee.clone());
            let chain_id = self.chain_id.clone();
            self.asking.spawn(async move {
                match net.catalogue(peer, Some(&chain_id)).await {
                    Ok(answer) => (peer, Some(answer.entries)),
                    Err(error) => {
                        tracing::debug!(%peer, %error, "no catalogue");
                        if error.blame().is_some() {
                            referee.ban(peer, Offence::Protocol);
                        }
                        (peer, None)
                    }
                }
            });
        }
    }

    /// Ends when a peer answered; true when it has something of the chain.
    async fn heard(&mut self) -> bool {
        let answer = match self.asking.join_next().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        };
        let Ok((peer, Some(entries))) = answer else {
            return false;
        };
        let any = !entries.is_empty();
        self.heard.insert(peer, entries);
        any
    }

    /// Whether every peer that the user named, and everyone else who was asked,
    /// has answered.
    fn heard_all(&self, named: &BTreeSet<PeerId>) -> bool {
        !named.is_empty()
            && self.asking.is_empty()
            && named.iter().all(|peer| self.heard.contains_key(peer))
    }

    fn forget_if(&mut self, round_over: bool) {
        if round_over {
            self.asked.clear();
        }
    }

    fn claims(&self, named: &BTreeSet<PeerId>) -> Vec<Claim> {
        let claim = |peer: &PeerId, entry: &crate::wire::CatalogueEntry| Claim {
            peer: *peer,
            named: named.contains(peer),
            entry: entry.clone(),
        };
        self.heard
            .iter()
            .flat_map(|(peer, entries)| entries.iter().map(move |entry| claim(peer, entry)))
            .collect()
    }
}
