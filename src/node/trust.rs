//! Whom this node believes where the chain proves nothing: the one place where that
//! is asked.
//!
//! An application hash that does not commit to the state says nothing about it. What
//! such a snapshot holds is believed for one of three reasons ([`Basis`]): its CID is
//! pinned in the settings; enough of the endorsers that the settings list *computed*
//! it, each on a node of its own; or the person named it by its CID. Who *vouches*
//! for a snapshot is shown to people and counts for nothing here.
//!
//! Laws:
//!
//! * An endorsement is kept, counted or passed on only when its key is listed, or is
//!   the key of this node; keys are looked at before signatures.
//! * This node says that it computed what was taken from its own chain node, by its
//!   harvest or of a copy of the storage, and nothing else.

mod gather;
mod own;

use std::collections::BTreeSet;

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};

pub(super) use gather::{ask_around, gather};
pub(super) use own::{endorse_own, say_computed, vouch};

use super::command::{Basis, EndorsementDetail, Failure, FailureCode};
use crate::config::TrustConfig;
use crate::snapshot::{
    Endorsement, EndorsementError, EndorsementKind, Endorsements, EndorserKey, MAX_ENDORSEMENTS,
    Manifest, ManifestId, SnapshotName, UntrustedEndorsement,
};
use crate::store::{Store, StoreError};

/// Whom to believe.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    pinned: BTreeSet<ManifestId>,
    endorsers: BTreeSet<EndorserKey>,
    /// How many of them must have computed a snapshot.
    threshold: usize,
    /// The key of this node, where it is known.
    own: Option<EndorserKey>,
}

/// Whether a snapshot may be restored whose state no application hash proves, and
/// why. `named` says that the person named it by its CID.
pub(super) fn believe(
    config: &TrustConfig,
    store: &Store,
    manifest: &Manifest,
    named: bool,
) -> Result<Basis, Failure> {
    let endorsements = store.endorsements(&manifest.id());
    Trust::of(config).believe(&manifest.id(), &endorsements, named)
}

/// Whether there is anybody to be believed, before anything is downloaded.
pub(super) fn somebody_is_believed(config: &TrustConfig, named: bool) -> Result<(), Failure> {
    let trust = Trust::of(config);
    if named || !trust.pinned.is_empty() || trust.quorum().is_some() {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Policy,
        "the application hash of a Xian chain does not commit to the state, and nobody is named \
         whom to believe",
    )
    .hint(
        "list operators whom you trust as endorsers below [trust] in config.toml; or ask one for \
         the CID of a snapshot (`list` shows it on their node) and give --cid CID, or \
         add it to pinned_manifests there",
    ))
}

impl Trust {
    /// As the settings say.
    pub(super) fn of(config: &TrustConfig) -> Self {
        // The settings were checked when they were read.
        let pinned = config.pinned_manifests.iter();
        let endorsers = config.endorser_keys().into_iter();
        Self {
            pinned: pinned.filter_map(|id| id.parse().ok()).collect(),
            endorsers: endorsers.map(EndorserKey).collect(),
            threshold: config.threshold() as usize,
            own: None,
        }
    }

    /// The same on a node with this key.
    #[must_use]
    pub(super) fn with_own(self, key: EndorserKey) -> Self {
        Self {
            own: Some(key),
            ..self
        }
    }

    /// How many endorsers must have computed a snapshot, and of how many; nothing
    /// where the settings list none.
    pub(super) fn quorum(&self) -> Option<(usize, usize)> {
        let listed = self.endorsers.len();
        (listed > 0).then_some((self.threshold, listed))
    }

    /// Manifests that the settings name.
    pub(super) fn pinned(&self) -> &BTreeSet<ManifestId> {
        &self.pinned
    }

    /// Whether endorsements of this key are passed on.
    pub(super) fn passes_on(&self, key: &EndorserKey) -> bool {
        self.endorsers.contains(key) || self.own.as_ref() == Some(key)
    }

    /// Why a snapshot is believed that nobody named; nothing where it is not.
    pub(super) fn basis(&self, id: &ManifestId, endorsements: &Endorsements) -> Option<Basis> {
        if self.pinned.contains(id) {
            return Some(Basis::Pinned);
        }
        let (needed, listed) = self.quorum()?;
        let computed = self.computed(endorsements);
        (computed.len() >= needed).then_some(Basis::Endorsed {
            endorsers: computed,
            needed,
            listed,
        })
    }

    fn believe(
        &self,
        id: &ManifestId,
        endorsements: &Endorsements,
        named: bool,
    ) -> Result<Basis, Failure> {
        match self.basis(id, endorsements) {
            Some(basis) => Ok(basis),
            None if named => Ok(Basis::Named),
            None => Err(self.not_believed(id, endorsements)),
        }
    }

    /// The listed endorsers who computed the snapshot, as peer ids.
    fn computed(&self, endorsements: &Endorsements) -> Vec<String> {
        let computed = endorsements
            .iter()
            .filter(|one| one.kind() == EndorsementKind::Computed)
            .map(Endorsement::key);
        let listed = computed.filter(|key| self.endorsers.contains(key));
        listed.map(|key| peer_id_of(&key)).collect()
    }

    fn not_believed(&self, id: &ManifestId, endorsements: &Endorsements) -> Failure {
        let why = match self.quorum() {
            None => "config.toml neither pins it nor lists endorsers".to_owned(),
            Some((needed, listed)) => {
                let computed = self.computed(endorsements);
                let who = match computed.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", computed.join(", ")),
                };
                format!(
                    "{} of the {listed} endorsers in config.toml computed it{who}, and {needed} \
                     are needed",
                    computed.len()
                )
            }
        };
        Failure::new(
            FailureCode::Policy,
            format!("no application hash proves the state of {id}, and {why}"),
        )
        .hint(format!(
            "if you know from elsewhere that it is right, name it yourself by its CID, or write \
             pinned_manifests = [\"{id}\"] below [trust] in config.toml; or list there the peer \
             ids of operators whom you trust as endorsers, and fetch it again once enough of them \
             have computed it (`snapswarm show CID` tells who has)"
        ))
    }

    /// Takes in what somebody told of a snapshot: those of listed keys, checked;
    /// the first that is forged is an error, and the ones before it are kept.
    pub(super) fn admit(
        &self,
        about: &SnapshotName,
        told: &[UntrustedEndorsement],
        set: &mut Endorsements,
    ) -> Result<(), EndorsementError> {
        for one in told {
            let is_news = set.of(&one.key).is_none_or(|known| one.kind > known.kind());
            if is_news && self.endorsers.contains(&one.key) {
                let checked = one.check(about)?;
                self.insert(set, checked);
            }
        }
        Ok(())
    }

    /// Keeps endorsements of a snapshot that is here.
    pub(super) fn keep(&self, store: &Store, heard: &Endorsements) -> Result<bool, StoreError> {
        store.endorse(&heard.manifest(), |set| {
            for one in heard.iter() {
                self.insert(set, *one);
            }
        })
    }

    /// Adds an endorsement whose key is listed, or this node's. Where there is no
    /// place, those give way whose keys are listed no more.
    fn insert(&self, set: &mut Endorsements, one: Endorsement) {
        if set.len() >= MAX_ENDORSEMENTS && set.of(&one.key()).is_none() {
            set.retain(|key| self.passes_on(key));
        }
        set.insert(one);
    }

    /// All who speak for a snapshot, for people.
    pub(super) fn details(&self, endorsements: &Endorsements) -> Vec<EndorsementDetail> {
        let detail = |one: &Endorsement| EndorsementDetail {
            endorser: peer_id_of(&one.key()),
            kind: one.kind().as_str().to_owned(),
            listed: self.endorsers.contains(&one.key()),
            own: self.own == Some(one.key()),
        };
        endorsements.iter().map(detail).collect()
    }
}

/// The peer id of an endorser; the key itself where it is none.
pub(super) fn peer_id_of(key: &EndorserKey) -> String {
    match ed25519::PublicKey::try_from_bytes(&key.0) {
        Ok(public) => PeerId::from(PublicKey::from(public)).to_string(),
        Err(_) => key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Identity;
    use crate::snapshot::hash::sha256;

    fn about() -> SnapshotName<'static> {
        SnapshotName {
            chain_id: "chain-1",
            height: 7,
            manifest: ManifestId(sha256(b"manifest")),
        }
    }

    fn told(who: &Identity, kind: EndorsementKind) -> UntrustedEndorsement {
        UntrustedEndorsement {
            key: EndorserKey(who.public_key()),
            kind,
            signature: who.sign(&about().bytes_to_sign(kind)),
        }
    }

    fn trust(endorsers: &[&Identity], threshold: u32) -> Trust {
        Trust::of(&TrustConfig {
            endorsers: endorsers
                .iter()
                .map(|who| who.peer_id().to_string())
                .collect(),
            threshold: Some(threshold),
            ..TrustConfig::default()
        })
    }

    fn admitted(trust: &Trust, told: &[UntrustedEndorsement]) -> Endorsements {
        let mut set = Endorsements::none(about().manifest);
        trust.admit(&about(), told, &mut set).unwrap();
        set
    }

    fn is_believed(trust: &Trust, set: &Endorsements) -> bool {
        trust.believe(&about().manifest, set, false).is_ok()
    }

    #[test]
    fn so_many_listed_endorsers_as_are_needed_make_a_snapshot_believed_and_one_less_does_not() {
        let [one, two, three] = [(); 3].map(|()| Identity::generate());
        let computed = EndorsementKind::Computed;
        let both = [told(&one, computed), told(&two, computed)];
        let policy = trust(&[&one, &two, &three], 2);
        let set = admitted(&policy, &both);
        let basis = policy.believe(&about().manifest, &set, false).unwrap();
        let Basis::Endorsed {
            endorsers,
            needed: 2,
            listed: 3,
        } = &basis
        else {
            panic!("{basis:?}");
        };
        let mut expected = [&one, &two].map(|who| who.peer_id().to_string());
        let mut found = endorsers.clone();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        assert!(basis.to_string().contains(&expected[0]), "{basis}");

        let set = admitted(&policy, &both[..1]);
        let failure = policy.believe(&about().manifest, &set, false).unwrap_err();
        assert_eq!(failure.code, FailureCode::Policy);
        assert!(failure.message.contains("1 of the 3"), "{failure:?}");
        assert!(failure.message.contains(&one.peer_id().to_string()));
        assert!(failure.hint.unwrap().contains("pinned_manifests"));
    }

    #[test]
    fn strangers_and_those_who_only_vouch_count_for_nothing() {
        let [one, two, stranger] = [(); 3].map(|()| Identity::generate());
        let (computed, vouched) = (EndorsementKind::Computed, EndorsementKind::Vouched);
        let policy = trust(&[&one, &two], 1);
        let set = admitted(&policy, &[told(&stranger, computed)]);
        assert!(set.is_empty());
        let set = admitted(&policy, &[told(&one, vouched), told(&two, vouched)]);
        assert_eq!(set.len(), 2);
        assert!(!is_believed(&policy, &set));
        let set = admitted(&policy, &[told(&one, vouched), told(&one, computed)]);
        assert!(is_believed(&policy, &set));
        // What was kept under another list counts no more.
        assert!(!is_believed(&trust(&[&two], 1), &set));
    }

    #[test]
    fn of_strangers_no_signature_is_looked_at_and_a_forged_one_of_the_list_is_an_error() {
        let [listed, stranger] = [(); 2].map(|()| Identity::generate());
        let policy = trust(&[&listed], 1);
        let forged = |who: &Identity| UntrustedEndorsement {
            signature: [7; 64],
            ..told(who, EndorsementKind::Computed)
        };
        assert!(admitted(&policy, &[forged(&stranger)]).is_empty());
        let mut set = Endorsements::none(about().manifest);
        policy
            .admit(&about(), &[forged(&listed)], &mut set)
            .unwrap_err();
        assert!(set.is_empty());
    }

    #[test]
    fn what_is_pinned_or_named_needs_nobody() {
        let listed = Identity::generate();
        let none = Endorsements::none(about().manifest);
        let id = about().manifest;
        let policy = trust(&[&listed], 1);
        assert_eq!(policy.believe(&id, &none, true).unwrap(), Basis::Named);
        let without = Trust::of(&TrustConfig::default());
        assert_eq!(without.believe(&id, &none, true).unwrap(), Basis::Named);
        let failure = without.believe(&id, &none, false).unwrap_err();
        assert!(failure.message.contains("nor lists endorsers"));
        let pinning = Trust::of(&TrustConfig {
            pinned_manifests: vec![id.to_string()],
            ..TrustConfig::default()
        });
        for named in [true, false] {
            assert_eq!(pinning.believe(&id, &none, named).unwrap(), Basis::Pinned);
        }
    }

    #[test]
    fn in_a_full_set_those_who_are_listed_no_more_give_way() {
        let own = Identity::generate();
        let former: Vec<Identity> = (0..MAX_ENDORSEMENTS - 1)
            .map(|_| Identity::generate())
            .collect();
        let vouched = EndorsementKind::Vouched;
        let before = trust(&former.iter().collect::<Vec<_>>(), 1);
        let all: Vec<_> = former.iter().map(|who| told(who, vouched)).collect();
        let mut set = admitted(&before, &all);
        set.insert(told(&own, vouched).check(&about()).unwrap());
        assert_eq!(set.len(), MAX_ENDORSEMENTS);
        let listed = Identity::generate();
        let now = trust(&[&listed], 1).with_own(EndorserKey(own.public_key()));
        now.admit(&about(), &[told(&listed, vouched)], &mut set)
            .unwrap();
        let keys: BTreeSet<EndorserKey> = set.iter().map(Endorsement::key).collect();
        let expected = [&own, &listed].map(|who| EndorserKey(who.public_key()));
        assert_eq!(keys, BTreeSet::from(expected));
    }

    #[test]
    fn nothing_is_begun_where_nobody_could_be_believed() {
        let mut config = TrustConfig::default();
        let refused = somebody_is_believed(&config, false).unwrap_err();
        assert_eq!(refused.code, FailureCode::Policy);
        assert!(somebody_is_believed(&config, true).is_ok());
        config.pinned_manifests = vec![about().manifest.to_string()];
        assert!(somebody_is_believed(&config, false).is_ok());
        let endorser = Identity::generate();
        config = TrustConfig {
            endorsers: vec![endorser.peer_id().to_string()],
            threshold: Some(1),
            ..TrustConfig::default()
        };
        assert!(somebody_is_believed(&config, false).is_ok());
    }
}
