//! The way to a state with the fewest bytes: where an earlier one is here, and peers
//! have deltas that lead on from it, those are fetched, and the snapshot that was asked
//! for is made here.
//!
//! It has to come out under its own name, so nobody who made a delta has to be believed.
//! Where the records are not what the deltas say, another way is looked for without these
//! deltas, a few times; where one does not come, or no way is left, the snapshot itself is
//! fetched.
//!
//! The deltas are steps to the store ([`Origin::Step`]): those that a killed run left are
//! known by that to the next one, which goes on from them, and removes them in its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::chase::Found;
use super::offers::offers;
use super::shares::{Received, Spent, add_up, by_share};
use super::single::{
    Gathered, Wanted, discard, gather, keep_endorsements, mark_proven, short_of_room,
};
use crate::node::command::{Failure, FailureCode, Fetched};
use crate::node::content::Content;
use crate::node::delta;
use crate::node::failure::blocking;
use crate::node::progress::{Reporter, byte_progress};
use crate::node::services::Services;
use crate::snapshot::{ChunkId, Endorsements, Manifest, ManifestId};
use crate::state::{AtHand, StateDigest, StateNotes, plan};
use crate::store::{Origin, Store, Stored};

/// How long deltas are looked for at all: longer than some silent peers take.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Ways that are gone, while each leads astray.
const MAX_WAYS: usize = 3;

/// What is here and what is offered of a chain's states.
struct Ways {
    goal: StateDigest,
    states: Vec<(ManifestId, StateDigest)>,
    /// With the snapshot itself.
    offers: Vec<Arc<Manifest>>,
}

/// Deltas on top of a state that is here.
struct Shortcut {
    start: ManifestId,
    steps: Vec<Arc<Manifest>>,
}

/// Makes the snapshot that was found of what is here and of deltas, where that takes
/// fewer bytes. Nothing where it does not, or did not work; what came from whom until then
/// is in `spent`.
pub(super) async fn take(
    services: &Arc<Services>,
    found: &Found,
    wanted: &Wanted<'_>,
    spent: &mut Spent,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Option<Fetched>, Failure> {
    // Who needs room that is not there is told so by the way that always works.
    let is_short = short_of_room(services, &found.manifest, wanted.room_for).is_some();
    if found.manifest.state().is_none() || wanted.part.is_some() || is_short {
        return Ok(None);
    }
    let looked = async {
        let turn = services.shortcut.lock().await;
        let ways = tokio::time::timeout(FIND_TIMEOUT, find(services, found)).await;
        (turn, ways.ok().flatten())
    };
    let (_turn, ways) = tokio::select! {
        looked = looked => looked,
        () = cancel.cancelled() => return Err(Failure::interrupted("the same command starts again")),
    };
    let mut received = Received::new();
    let way = Way {
        services,
        found,
        wanted,
        reporter,
        cancel,
    };
    let is_made = match ways {
        // What an interrupted one leaves is there for the next.
        Some(ways) => way.try_all(&ways, &mut received, spent).await?,
        None => false,
    };
    clear_steps(services, &found.manifest).await;
    if !is_made {
        return Ok(None);
    }
    let manifest = &found.manifest;
    mark_proven(services, manifest.id(), found.proof.as_ref()).await?;
    keep_endorsements(services, found.endorsements.clone()).await?;
    services.shelf_changed().await;
    let received_bytes: u64 = received.values().sum();
    let bytes = manifest.unique_bytes();
    Ok(Some(Fetched {
        manifest: manifest.id().to_string(),
        height: manifest.height(),
        bytes,
        received_bytes,
        resumed_bytes: bytes.saturating_sub(received_bytes),
        wasted_bytes: received_bytes.saturating_sub(bytes),
        seconds: 0.0,
        proven: false,
        app_hash_confirmed: found.proof.is_some(),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        peers: by_share(&received),
        state: manifest.state().is_some(),
        was_here: false,
        only: Vec::new(),
        basis: None,
        base: None,
    }))
}

/// Who goes a way, and what for.
struct Way<'a> {
    services: &'a Arc<Services>,
    found: &'a Found,
    wanted: &'a Wanted<'a>,
    reporter: &'a Reporter,
    cancel: &'a CancellationToken,
}

/// Where a way led.
enum Went {
    /// The snapshot is here.
    Made,
    /// To its state. Its chunks are made in another way, so that no delta helps.
    Otherwise,
    /// Elsewhere: one of the deltas is not what it says.
    Astray(String),
}

impl Way<'_> {
    /// Goes one way after the other, while each leads astray. What came on those and on one
    /// that was given up is in `spent`. Fails only where it is interrupted.
    async fn try_all(
        &self,
        ways: &Ways,
        received: &mut Received,
        spent: &mut Spent,
    ) -> Result<bool, Failure> {
        let mut false_steps = BTreeSet::new();
        for _ in 0..MAX_WAYS {
            let Some(shortcut) = ways.best(&self.services.store, &false_steps) else {
                break;
            };
            let went = self.go(&shortcut, received, spent).await;
            if !matches!(went, Ok(Went::Made)) {
                spent.add(std::mem::take(received));
            }
            let why = match went {
                Ok(Went::Made) => return Ok(true),
                Ok(Went::Astray(why)) if !shortcut.steps.is_empty() => {
                    let note = format!("one of the deltas is not what it says: {why}");
                    self.reporter.note(note);
                    false_steps.extend(shortcut.steps.iter().map(|step| step.id()));
                    clear_steps(self.services, &self.found.manifest).await;
                    continue;
                }
                Ok(Went::Astray(why)) => why,
                Ok(Went::Otherwise) => "it was made in another way".to_owned(),
                Err(failure) if failure.code == FailureCode::Interrupted => return Err(failure),
                Err(failure) => failure.message,
            };
            self.reporter.note(format!(
                "fetching the snapshot itself, not by deltas: {why}"
            ));
            break;
        }
        Ok(false)
    }

    /// Fetches the deltas and makes the snapshot.
    async fn go(
        &self,
        shortcut: &Shortcut,
        received: &mut Received,
        spent: &mut Spent,
    ) -> Result<Went, Failure> {
        let (services, found) = (self.services, self.found);
        let steps: Vec<ManifestId> = shortcut.steps.iter().map(|step| step.id()).collect();
        self.reporter.note(format!(
            "making it of {}, which is here, and of {}",
            shortcut.start,
            match steps.len() {
                0 => "nothing else".to_owned(),
                1 => "a delta".to_owned(),
                count => format!("{count} deltas"),
            }
        ));
        // Its files are open from here on, whatever is removed.
        let (store, start) = (services.store.clone(), shortcut.start);
        let mut content = blocking(move || Content::open(&store, &start.to_string())).await?;
        let _hold = services.store.hold(&steps);
        for step in &shortcut.steps {
            let step = Found {
                endorsements: Endorsements::none(step.id()),
                manifest: step.clone(),
                proof: None,
                peers: found.peers.clone(),
            };
            let whole = Wanted {
                part: None,
                patience: self.wanted.patience,
                first_patience: self.wanted.first_patience,
                room_for: &[],
                is_step: true,
            };
            let gathered = gather(services, step, &whole, spent, self.reporter, self.cancel);
            match gathered.await? {
                Gathered::Complete(fetched) => {
                    let peers = fetched.peers.into_iter();
                    add_up(received, peers.map(|peer| (peer.peer_id, peer.bytes)));
                }
                Gathered::FalseManifest => {
                    let why = "its pieces do not make its chunks";
                    return Ok(Went::Astray(why.to_owned()));
                }
                Gathered::Given(failure) => return Err(failure),
            }
        }
        let (store, goal) = (services.store.clone(), found.manifest.clone());
        let (reporter, cancel) = (self.reporter.clone(), self.cancel.clone());
        let made = blocking(move || {
            for step in &steps {
                content.put_on(&store, step)?;
            }
            delta::make_full(&store, &content, &goal, &reporter, &cancel)
        });
        match made.await {
            Ok(true) => Ok(Went::Made),
            Ok(false) => Ok(Went::Otherwise),
            Err(failure) if failure.code == FailureCode::Verification => {
                self.check_undamaged(shortcut.start).await?;
                Ok(Went::Astray(failure.message))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Fails where the disk damaged what is here, which is moved aside then: no delta is to
    /// blame.
    async fn check_undamaged(&self, start: ManifestId) -> Result<(), Failure> {
        self.reporter.phase(format!("reading {start} back"));
        let store = self.services.store.clone();
        let mut progress = byte_progress(self.reporter, self.cancel);
        let verified = blocking(move || Ok(store.verify(&start, &mut progress)?)).await;
        if verified.is_err() {
            self.services.shelf_changed().await;
        }
        verified.map(drop)
    }
}

/// Removes what is a step to this snapshot; what cannot go now is found by the next fetch.
async fn clear_steps(services: &Arc<Services>, manifest: &Arc<Manifest>) {
    if let Err(failure) = remove_steps(services, manifest).await {
        tracing::warn!(%failure, "a delta on the way to a snapshot is still here");
    }
}

/// Removes the steps on the ways to snapshots of a chain, whatever run they are of. Who
/// wants one keeps it by its name.
async fn remove_steps(services: &Services, goal: &Manifest) -> Result<(), Failure> {
    let is_left = |stored: &Stored| {
        let manifest = &stored.manifest;
        let is_other = manifest.id() != goal.id() && manifest.chain_id() == goal.chain_id();
        stored.origin == Origin::Step && !stored.pinned && is_other
    };
    let mut left = services.store.list();
    left.retain(is_left);
    for step in &left {
        discard(services, step.manifest.id()).await?;
    }
    if !left.is_empty() {
        services.shelf_changed().await;
    }
    Ok(())
}

/// What there is to go by; nothing where the snapshot is here, or no state of its chain.
async fn find(services: &Arc<Services>, found: &Found) -> Option<Ways> {
    let goal = StateNotes::of(&found.manifest).ok()?.state;
    let stored = services.store.get(&found.manifest.id());
    if found.manifest.base().is_some() || stored.is_some_and(|stored| stored.complete) {
        return None;
    }
    let (store, chain_id) = (services.store.clone(), found.manifest.chain_id().to_owned());
    let states = blocking(move || Ok(states_at_hand(&store, &chain_id)))
        .await
        .ok()?;
    if states.is_empty() {
        return None;
    }
    let known = states.iter().map(|(id, _)| *id).collect();
    let mut offers = offers(services, found, &known).await;
    offers.push(found.manifest.clone());
    Some(Ways {
        goal,
        states,
        offers,
    })
}

impl Ways {
    /// The deltas that take fewer bytes than the snapshot itself, without the false ones.
    fn best(&self, store: &Store, false_steps: &BTreeSet<ManifestId>) -> Option<Shortcut> {
        let offers = self.offers.iter().map(|manifest| &**manifest);
        let offers = offers.filter(|manifest| !false_steps.contains(&manifest.id()));
        let has_chunk = |id: &ChunkId| store.find_chunk(id).is_some();
        let at_hand = AtHand {
            states: &self.states,
            has_chunk: &has_chunk,
        };
        let way = plan(&self.goal, &at_hand, &offers.collect::<Vec<_>>())?;
        let step = |id: &ManifestId| self.offers.iter().find(|offer| offer.id() == *id).cloned();
        Some(Shortcut {
            // Without one, the way is the snapshot itself.
            start: way.start?,
            steps: way.steps.iter().map(step).collect::<Option<_>>()?,
        })
    }
}

/// The states of the chain that are here whole.
fn states_at_hand(store: &Store, chain_id: &str) -> Vec<(ManifestId, StateDigest)> {
    let here = store.list().into_iter();
    let here = here.filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id);
    let state = |id: ManifestId| {
        let content = Content::open(store, &id.to_string()).ok()?;
        Some((id, content.notes().state))
    };
    here.filter_map(|stored| state(stored.manifest.id()))
        .collect()
}
