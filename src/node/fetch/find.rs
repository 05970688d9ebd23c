//! From what a person asked for to a manifest that was checked, and to the
//! peers that are said to have it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{MAX_MANIFESTS_AT_ONCE, ask_manifest, is_begun, reach};
use super::authority::{Authority, Silence};
use super::ballot::Ballot;
use super::candidates::{Candidate, Known, Wanted};
use super::chase::{Chase, Found, Next, Outcome, Turn, Verdict};
use super::ended::Missed;
use super::listen::Listener;
use super::named::Named;
use super::seek::{Asked, Seeker};
use crate::comet::rpc::HeaderAfter;
use crate::net::Key;
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;
use crate::node::services::Services;
use crate::node::space::room_in;
use crate::snapshot::{Endorsements, MAX_MANIFEST_BYTES, Manifest, ManifestId};
use crate::sync::Offence;

/// After the first claim, others get so long to be heard.
const SETTLE: Duration = Duration::from_millis(1500);
/// While nothing can be tried, the claims and the chain are looked at again
/// after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(1500);
/// Holders asked for a manifest in one attempt. The next attempt asks the next
/// ones, so that many who do not answer cost one candidate's time only.
const MAX_HOLDERS_ASKED: usize = 4;

/// A search under way.
pub(super) struct Search<'a> {
    pub(super) services: &'a Services,
    pub(super) reporter: &'a Reporter,
    pub(super) authority: Option<&'a Authority>,
    /// No snapshot of a chain below this height.
    pub(super) not_below: Option<u64>,
    /// Of a chain, only records of a state.
    pub(super) state_only: bool,
    /// Folders that have to have room for the snapshot, too.
    pub(super) room_for: &'a [PathBuf],
    /// Peers that the user named.
    pub(super) named: &'a Named,
    pub(super) deadline: Instant,
    /// Peers of other networks that were turned away before it began.
    pub(super) foreigners_before: u64,
}

/// What one peer gave, and its place among the manifests received at once.
type Given = (PeerId, Option<(Arc<Manifest>, OwnedSemaphorePermit)>);

impl Search<'_> {
    /// The snapshot of a name.
    pub(super) async fn by_id(&self, id: ManifestId) -> Result<Found, Failure> {
        if let Some(manifest) = self.services.store.manifest(&id) {
            return self.proven(manifest, Vec::new()).await;
        }
        self.reporter.phase(format!("looking for {id}"));
        let mut asked = Asked::default();
        let mut seeker = Seeker::new(self.services.net.clone(), Key::Manifest(id));
        let places = Arc::new(Semaphore::new(MAX_MANIFESTS_AT_ONCE));
        let mut asking: JoinSet<Given> = JoinSet::new();
        loop {
            let is_out = |peer: &PeerId| self.services.referee.is_banned(peer);
            for (peer, before) in asked.next(seeker.sources(), is_out, Instant::now()) {
                let (net, referee) = (self.services.net.clone(), self.services.referee.clone());
                let (places, wanted) = (places.clone(), (id, MAX_MANIFEST_BYTES));
                asking.spawn(async move {
                    if !reach(&net, peer).await {
                        return (peer, None);
                    }
                    let Ok(place) = places.acquire_owned().await else {
                        return (peer, None);
                    };
                    let manifest = ask_manifest(net, referee, peer, wanted, before).await;
                    (peer, manifest.map(|manifest| (manifest, place)))
                });
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.deadline) => return Err(self.nobody(&id.to_string())),
                Some(Ok((peer, given))) = asking.join_next() => {
                    asked.done(&peer);
                    if let Some((manifest, _place)) = given {
                        asking.abort_all();
                        return self.proven(manifest, vec![peer]).await;
                    }
                }
                () = seeker.more() => {}
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
        let mut chase = self.chase(chain_id, height, refused);
        let mut seeker = Seeker::new(self.services.net.clone(), Key::Chain(chain_id.to_owned()));
        let mut listener = Listener::new(self.services, chain_id);
        let mut ballot = Ballot::new(self.services);
        // An RPC of another chain is told at once.
        let mut step = Some(self.learn_tip(chain_id).boxed());
        let mut settled: Option<Instant> = None;
        let mut choosing = false;
        loop {
            listener.ask(seeker.sources());
            tokio::select! {
                () = tokio::time::sleep_until(self.deadline) => {
                    return Err(self.ended(chain_id, height, chase));
                }
                answer = listener.next() => if let Some((peer, mut answer)) = answer {
                    if let Err(error) = ballot.take(&mut answer.entries) {
                        tracing::warn!(%peer, %error, "a peer told a forged endorsement");
                        self.services.referee.ban(peer, Offence::WrongBytes);
                        continue;
                    }
                    seeker.add(answer.peers);
                    if listener.keep(peer, answer.entries, |entry| chase.fit(entry)) {
                        let all = listener.heard_all(&self.named.peers);
                        let at = Instant::now() + if all { Duration::ZERO } else { SETTLE };
                        settled = Some(settled.map_or(at, |before| before.min(at)));
                    }
                },
                () = seeker.more() => {}
                () = super::until(settled), if step.is_none() => {
                    (settled, choosing) = (None, true);
                    step = Some(self.learn_tip(chain_id).boxed());
                }
                outcome = ended(&mut step) => {
                    step = None;
                    let now = Instant::now();
                    let choosing = std::mem::take(&mut choosing);
                    match chase.apply(outcome?, now) {
                        Next::Found(found) => return Ok(heard_of(found, &ballot)),
                        Next::Choose if choosing => {
                            let known = Known {
                                begun: &|id| is_begun(self.services, id),
                                believed: &|subject| ballot.is_believed(subject),
                            };
                            let claims = listener.claims(&self.named.peers);
                            let turn = chase.choose(&claims, listener.left_out(), &known, now);
                            step = turn.map(|turn| self.try_candidate(chain_id, turn).boxed());
                            settled = Some(now + LOOK_AGAIN);
                        }
                        Next::Choose => {}
                        Next::LookAgain if choosing => settled = Some(now + LOOK_AGAIN),
                        Next::LookAgain => {}
                        Next::LookNow => settled = Some(now),
                    }
                }
            }
        }
    }

    fn chase(&self, chain_id: &str, height: Option<u64>, refused: &BTreeSet<ManifestId>) -> Chase {
        let config = &self.services.config;
        let home = self.services.store.home().to_owned();
        let elsewhere = match self.room_for.is_empty() {
            true => None,
            false => room_in(self.room_for.iter().chain([&home])),
        };
        let room = self.services.store.room();
        let wanted = Wanted {
            chain_id: chain_id.to_owned(),
            height,
            not_below: self.not_below,
            max_bytes: Some(config.store.max_download_bytes.0),
            tip: None,
            room: elsewhere.map_or(room, |elsewhere| room.min(elsewhere)),
            state_only: self.state_only,
            quorum: self.services.trust.quorum(),
        };
        let is_elsewhere = |id: &ManifestId| {
            let manifest = self.services.store.manifest(id);
            manifest.is_some_and(|manifest| manifest.chain_id() != chain_id)
        };
        let pinned = self.services.trust.pinned().iter();
        let pinned = pinned.filter(|id| !is_elsewhere(id)).copied().collect();
        Chase::new(wanted, pinned, refused.clone(), self.reporter.clone())
    }

    /// The chain's newest height; whoever tells it must be of this chain.
    async fn learn_tip(&self, chain_id: &str) -> Result<Outcome, Failure> {
        let Some(authority) = self.authority else {
            return Ok(Outcome::Tip(None));
        };
        match authority.tip(chain_id).await {
            Ok(tip) => Ok(Outcome::Tip(Some(tip))),
            Err(Silence::ForNow(failure)) => Ok(Outcome::NoTip(failure)),
            Err(silence) => Err(silence.into_failure()),
        }
    }

    async fn try_candidate(&self, chain_id: &str, turn: Turn) -> Result<Outcome, Failure> {
        let subject = turn.candidate.subject.clone();
        let state = match (turn.state, self.authority) {
            (None, Some(authority)) => match authority.state_after(subject.height).await {
                Ok(state) => Some(state),
                Err(Silence::ForNow(failure) | Silence::Here(failure)) => {
                    let verdict = Verdict::NotNow(failure.message);
                    return Ok(Outcome::Tried {
                        subject,
                        state: None,
                        verdict,
                    });
                }
                Err(Silence::ForGood(failure)) => return Err(failure),
            },
            (known, _) => known,
        };
        let verdict = match &state {
            Some(state) if subject.app_hash.is_empty() => Verdict::False(format!(
                "{} names no application hash, and the chain has {} at height {}",
                subject.manifest,
                hex::encode_upper(&state.app_hash),
                subject.height
            )),
            Some(state) if state.app_hash != subject.app_hash => Verdict::False(format!(
                "{} claims another application hash at height {} than the chain has",
                subject.manifest, subject.height
            )),
            proof => {
                let proof = proof.clone();
                self.get_manifest(chain_id, turn.candidate, turn.before, proof)
                    .await
            }
        };
        Ok(Outcome::Tried {
            subject,
            state,
            verdict,
        })
    }

    /// Asks some of a candidate's holders for its manifest and compares it with
    /// what they claim.
    async fn get_manifest(
        &self,
        chain_id: &str,
        candidate: Candidate,
        before: u32,
        proof: Option<HeaderAfter>,
    ) -> Verdict {
        let Candidate { subject, peers, .. } = candidate;
        let id = subject.manifest;
        let (net, referee) = (&self.services.net, &self.services.referee);
        let mut manifest = self.services.store.manifest(&id);
        let mut holders = self.in_turn(&peers, before).into_iter();
        let mut asking = JoinSet::new();
        let wanted = (id, MAX_MANIFEST_BYTES);
        while manifest.is_none() {
            while asking.len() < MAX_MANIFESTS_AT_ONCE
                && let Some(peer) = holders.next()
            {
                asking.spawn(ask_manifest(
                    net.clone(),
                    referee.clone(),
                    peer,
                    wanted,
                    before,
                ));
            }
            let Some(given) = asking.join_next().await else {
                return Verdict::NotNow(format!("no holder gave the manifest {id}"));
            };
            manifest = given.unwrap_or_default();
        }
        let base = manifest.as_ref().and_then(|manifest| manifest.base());
        if base.is_some() {
            return Verdict::False(format!(
                "{id} is a delta: who has what it builds on fetches it by its name"
            ));
        }
        match manifest {
            Some(manifest) if manifest.chain_id() == chain_id && subject.agrees(&manifest) => {
                Verdict::Found(Found {
                    endorsements: Endorsements::none(id),
                    manifest,
                    proof,
                    peers: peers.into_iter().collect(),
                })
            }
            _ => Verdict::False(format!(
                "{id} is not what a catalogue says: another chain, height, application hash, \
                 format or size"
            )),
        }
    }

    /// The holders to ask in an attempt: connected ones first, and others each
    /// time.
    fn in_turn(&self, peers: &BTreeSet<PeerId>, before: u32) -> Vec<PeerId> {
        let connected = self.services.net.connected();
        let is_connected = |peer: &PeerId| connected.iter().any(|info| info.peer == *peer);
        let mut holders: Vec<PeerId> = peers.iter().copied().collect();
        holders.retain(|peer| !self.services.referee.is_banned(peer));
        holders.sort_by_key(|peer| !is_connected(peer));
        if !holders.is_empty() {
            let shift = (before as usize).saturating_mul(MAX_HOLDERS_ASKED);
            let len = holders.len();
            holders.rotate_left(shift % len);
        }
        holders.truncate(MAX_HOLDERS_ASKED);
        holders
    }

    /// The manifest with the chain's confirmation, where somebody is there who can tell
    /// it. A contradiction is an error; who does not answer is asked until the deadline.
    async fn proven(&self, manifest: Arc<Manifest>, peers: Vec<PeerId>) -> Result<Found, Failure> {
        let mut proof = None;
        while let Some(authority) = self.authority {
            let asked = authority.prove(&manifest);
            let Ok(asked) = tokio::time::timeout_at(self.deadline, asked).await else {
                return Err(silent(authority));
            };
            match asked {
                Ok(answer) => {
                    proof = answer;
                    break;
                }
                Err(Silence::ForNow(failure)) if Instant::now() + LOOK_AGAIN < self.deadline => {
                    let error = &failure.message;
                    tracing::warn!(error, "the chain does not confirm the manifest yet");
                    self.reporter
                        .phase(format!("waiting for the chain's RPC: {error}"));
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(silence) => return Err(silence.into_failure()),
            }
        }
        Ok(Found {
            endorsements: Endorsements::none(manifest.id()),
            manifest,
            proof,
            peers,
        })
    }

    /// Why the search for a chain's snapshot ended with nothing.
    fn ended(&self, chain_id: &str, height: Option<u64>, chase: Chase) -> Failure {
        let (had_offers, knows_tip) = (chase.had_offers(), chase.knows_tip());
        let (lacks_endorsers, lacks_pinned) = (chase.lacks_endorsers(), chase.lacks_pinned());
        let reasons = chase.reasons();
        if let Some(trouble) = chase.into_trouble() {
            return trouble;
        }
        if let Some(authority) = self.authority
            && !knows_tip
        {
            return silent(authority);
        }
        let at = height.map_or_else(String::new, |height| format!(" at height {height}"));
        if lacks_endorsers {
            return super::ended::unendorsed(&format!("{chain_id}{at}"), &reasons);
        }
        if lacks_pinned {
            return super::ended::not_pinned(&format!("{chain_id}{at}"), &reasons);
        }
        if !had_offers && reasons.is_empty() {
            return self.nobody(&format!("a snapshot of {chain_id}{at}"));
        }
        super::ended::left_out(&format!("{chain_id}{at}"), &reasons, &self.named.troubles())
    }

    fn nobody(&self, what: &str) -> Failure {
        let connected = self.services.net.connected().len();
        let banned = self.services.referee.in_force(|_| true);
        let foreigners = self.services.net.stats().foreign_network_peers;
        let network = &self.services.config.network.name;
        let missed = Missed {
            connected,
            unreached: &self.named.troubles(),
            own_network: (foreigners > self.foreigners_before).then_some(network),
        };
        super::ended::nobody(what, &missed, &banned)
    }
}

/// What was found, with who speaks for it.
fn heard_of(found: Found, ballot: &Ballot) -> Found {
    let manifest = &found.manifest;
    Found {
        endorsements: ballot.of(manifest.id(), manifest.height()),
        ..found
    }
}

/// Nothing was said of the chain for as long as the person waits.
fn silent(authority: &Authority) -> Failure {
    Failure::new(
        FailureCode::Failed,
        format!("{} did not answer in time", authority.name()),
    )
    .hint("wait longer with --timeout, or name another node with --node-rpc")
}

/// What the step under way brings, where there is one.
async fn ended<T>(step: &mut Option<BoxFuture<'_, T>>) -> T {
    match step {
        Some(step) => step.await,
        None => std::future::pending().await,
    }
}
