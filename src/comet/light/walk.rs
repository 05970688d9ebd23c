//! The way from a trusted block to the one to prove. No IO: it says what to ask, is
//! given the answers, and ends with what is proven.
//!
//! At any time there is a `base`, the newest block that is verified, the `target`, and
//! sometimes one in the middle between them that has to be verified first. Whenever the
//! base moves up, the target is tried again.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tendermint::block::Header;
use tendermint::block::signed_header::SignedHeader;
use tendermint::validator::Set;
use tendermint::{Hash, Time, chain};
use tendermint_light_client_verifier::errors::VerificationErrorDetail as Detail;
use tendermint_light_client_verifier::options::Options;
use tendermint_light_client_verifier::types::{
    TrustThreshold, TrustedBlockState, UntrustedBlockState,
};
use tendermint_light_client_verifier::{ProdVerifier, Verdict, Verifier};
use time::OffsetDateTime;

use super::error::{OTHER_NEXT_VALIDATORS, OTHER_VALIDATORS, Problem, Unable, reason};
use super::keys::{self, Told};
use super::{Proven, Rules, Trusted};
use crate::comet::rpc::{HeaderAfter, Validator};
use crate::comet::rules::MAX_CLOCK_DRIFT;

/// Headers that one proof asks for. Within a trust period of a week a chain makes about
/// 2^20 blocks, so that each jump is found in twenty headers, and a dozen jumps over
/// changed validators are possible. Three are kept at a time, of a few MB at most each.
pub const MAX_HEADERS: u32 = 256;

/// What to ask an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// The signed header of this height.
    Header(u64),
    /// The validators of this height.
    Validators(u64),
}

/// What comes next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    Ask(Ask),
    Proven(Proven),
}

/// A way under way.
pub(super) struct Walk {
    chain_id: chain::Id,
    options: Options,
    now: Time,
    trusted: Trusted,
    target: u64,
    /// The newest verified header.
    base: Option<Header>,
    /// The block that is tried now: the target, or one in the middle.
    tried: u64,
    target_header: Option<SignedHeader>,
    middle_header: Option<SignedHeader>,
    /// Validators by the hash with which a header names them.
    sets: BTreeMap<Hash, Set>,
    /// Of which height validators were asked for, and by which hash they are named.
    asked: Option<(u64, Hash)>,
    headers_left: u32,
}

impl Walk {
    pub(super) fn new(
        rules: &Rules,
        trusted: &Trusted,
        target: u64,
        now: SystemTime,
    ) -> Result<Self, Problem> {
        if trusted.height >= target {
            return Err(Problem::Above {
                height: trusted.height,
                target,
            });
        }
        let chain_id = chain::Id::try_from(rules.chain_id.clone());
        let now = Time::try_from(OffsetDateTime::from(now));
        Ok(Self {
            chain_id: chain_id.map_err(|_| Problem::Unable(Unable::ChainId))?,
            options: Options {
                trust_threshold: TrustThreshold::ONE_THIRD,
                trusting_period: rules.trust_period,
                clock_drift: MAX_CLOCK_DRIFT,
            },
            // A clock beyond the year 9999 is as good as one that stands still.
            now: now.unwrap_or(Time::unix_epoch()),
            trusted: *trusted,
            target,
            base: None,
            tried: target,
            target_header: None,
            middle_header: None,
            sets: BTreeMap::new(),
            asked: None,
            headers_left: MAX_HEADERS,
        })
    }

    /// Takes the header that was asked for.
    pub(super) fn header(&mut self, signed: SignedHeader) {
        match signed.header.height.value() == self.target {
            true => self.target_header = Some(signed),
            false => self.middle_header = Some(signed),
        }
    }

    /// Takes the validators that were asked for.
    pub(super) fn validators(&mut self, told: Vec<Validator>) -> Result<(), Problem> {
        let Some((height, wanted)) = self.asked.take() else {
            return Ok(());
        };
        match keys::read(&told) {
            Ok(Told::Verifiable(set)) if set.hash() == wanted => {
                self.sets.insert(wanted, set);
                Ok(())
            }
            Ok(Told::Foreign { kind, hash }) => {
                let named = self.base.as_ref().map(|base| base.next_validators_hash);
                Err(Problem::Unable(Unable::Keys {
                    kind,
                    is_certain: hash.is_some() && hash == named,
                }))
            }
            Ok(Told::Verifiable(_)) => Err(refused(height, OTHER_VALIDATORS)),
            Err(reason) => Err(refused(height, format!("its validators have {reason}"))),
        }
    }

    /// Verifies what can be verified, and says what comes next.
    pub(super) fn step(&mut self) -> Result<Step, Problem> {
        loop {
            let Some(base) = self.base.clone() else {
                let Some(first) = self.middle_header.take() else {
                    return self.ask_header(self.trusted.height);
                };
                self.base = Some(self.begin(first.header)?);
                continue;
            };
            let Some(signed) = self.tried_header() else {
                return self.ask_header(self.tried);
            };
            let (own, next) = (signed.header.validators_hash, base.next_validators_hash);
            self.forget_sets(&[own, next]);
            let next_to_base = base.height.value().saturating_add(1);
            if self.tried == next_to_base && own != next {
                return Err(refused(self.tried, OTHER_NEXT_VALIDATORS));
            }
            // Those whom the trusted block names come first: they show whether the
            // chain's keys are of a kind that is verified here.
            if self.tried > next_to_base && !self.sets.contains_key(&next) {
                return Ok(self.ask_validators(next_to_base, next));
            }
            let (Some(signed), Some(set)) = (self.tried_header(), self.sets.get(&own)) else {
                return Ok(self.ask_validators(self.tried, own));
            };
            // Of the very next block the verifier compares the hashes alone.
            let next_set = self.sets.get(&next).unwrap_or(set);
            match self.verify(&base, signed, set, next_set) {
                Verdict::Success if self.tried == self.target => {
                    return proven(&signed.header).map(Step::Proven);
                }
                Verdict::Success => {
                    self.base = self.middle_header.take().map(|signed| signed.header);
                    self.tried = self.target;
                }
                Verdict::NotEnoughTrust(_) if self.tried > next_to_base => {
                    self.middle_header = None;
                    self.tried = middle(base.height.value(), self.tried);
                }
                Verdict::NotEnoughTrust(tally) => {
                    let (tallied, total) = (tally.tallied, tally.total);
                    let reason = format!("a power of {tallied} of {total} signed it");
                    return Err(refused(self.tried, reason));
                }
                Verdict::Invalid(detail) => return Err(self.refusal(&base, &detail)),
            }
        }
    }

    fn tried_header(&self) -> Option<&SignedHeader> {
        match self.tried == self.target {
            true => self.target_header.as_ref(),
            false => self.middle_header.as_ref(),
        }
    }

    /// The trusted block's header, if it is that.
    fn begin(&self, header: Header) -> Result<Header, Problem> {
        let (height, found) = (self.trusted.height, header.hash());
        if header.chain_id != self.chain_id {
            return Err(refused(
                height,
                format!("it is of the chain {}", header.chain_id),
            ));
        }
        match found.as_bytes() == self.trusted.hash.as_bytes() {
            true => Ok(header),
            false => Err(Problem::OtherBlock {
                height,
                found: found.to_string(),
                trusted: hex::encode_upper(self.trusted.hash.as_bytes()),
            }),
        }
    }

    fn verify(&self, base: &Header, signed: &SignedHeader, own: &Set, next: &Set) -> Verdict {
        let untrusted = UntrustedBlockState {
            signed_header: signed,
            validators: own,
            next_validators: None,
        };
        let trusted = TrustedBlockState {
            chain_id: &base.chain_id,
            header_time: base.time,
            height: base.height,
            next_validators: next,
            next_validators_hash: base.next_validators_hash,
        };
        ProdVerifier::default().verify_update_header(untrusted, trusted, &self.options, self.now)
    }

    fn refusal(&self, base: &Header, detail: &Detail) -> Problem {
        match detail {
            Detail::HeaderFromTheFuture(e) => Problem::Future {
                height: self.tried,
                time: e.header_time.to_rfc3339(),
            },
            Detail::NotWithinTrustPeriod(_) => Problem::Expired {
                height: base.height.value(),
                time: base.time.to_rfc3339(),
                trust_period_s: self.options.trusting_period.as_secs(),
            },
            detail => refused(self.tried, reason(detail)),
        }
    }

    fn ask_header(&mut self, height: u64) -> Result<Step, Problem> {
        self.headers_left = self.headers_left.checked_sub(1).ok_or(Problem::TooMany {
            from: self.trusted.height,
            to: self.target,
        })?;
        Ok(Step::Ask(Ask::Header(height)))
    }

    fn ask_validators(&mut self, height: u64, hash: Hash) -> Step {
        self.asked = Some((height, hash));
        Step::Ask(Ask::Validators(height))
    }

    /// Keeps those that are needed now, and the target's.
    fn forget_sets(&mut self, needed: &[Hash]) {
        let target = self.target_header.as_ref();
        let target = target.map(|signed| signed.header.validators_hash);
        self.sets
            .retain(|hash, _| needed.contains(hash) || target.as_ref() == Some(hash));
    }
}

fn proven(header: &Header) -> Result<Proven, Problem> {
    let app_hash = header.app_hash.as_bytes();
    if app_hash.is_empty() {
        let height = header.height.value();
        return Err(refused(height, "it carries no application hash"));
    }
    Ok(Proven {
        after: HeaderAfter {
            app_hash: app_hash.to_vec().into(),
            app_version: header.version.app,
        },
        block_hash: header.hash().into(),
    })
}

fn refused(height: u64, reason: impl Into<String>) -> Problem {
    Problem::Header {
        height,
        reason: reason.into(),
    }
}

/// Between two blocks that are not neighbours.
fn middle(below: u64, above: u64) -> u64 {
    below + (above - below) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Digest;

    fn walk(trusted: u64, target: u64, chain_id: &str) -> Result<Walk, Problem> {
        let rules = Rules {
            chain_id: chain_id.to_owned(),
            trust_period: Duration::from_secs(1),
        };
        let trusted = Trusted {
            height: trusted,
            hash: Digest([1; 32]),
        };
        Walk::new(&rules, &trusted, target, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn headers_are_not_asked_for_without_end() {
        let mut walk = walk(3, u64::MAX, "a").unwrap();
        for _ in 0..MAX_HEADERS {
            assert_eq!(walk.step(), Ok(Step::Ask(Ask::Header(3))));
        }
        let end = Problem::TooMany {
            from: 3,
            to: u64::MAX,
        };
        assert_eq!(walk.step(), Err(end));
    }

    #[test]
    fn trust_leads_upwards_only_and_in_chains_whose_id_is_known() {
        assert!(walk(3, 4, "a").is_ok());
        for target in [3, 2] {
            let above = Problem::Above { height: 3, target };
            assert_eq!(walk(3, target, "a").err(), Some(above));
        }
        let unable = Problem::Unable(Unable::ChainId);
        assert_eq!(walk(3, 4, "a chain").err(), Some(unable));
    }

    #[test]
    fn the_middle_is_never_an_end() {
        for above in 3..20 {
            assert!((2..above).contains(&middle(1, above)), "{above}");
        }
        assert_eq!(middle(u64::MAX - 2, u64::MAX), u64::MAX - 1);
    }
}
