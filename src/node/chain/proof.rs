//! What the chain has after a height, proven by its validators' signatures.

use std::time::SystemTime;

use super::{Chain, ENOUGH};
use crate::comet::light::{self, LightError, Problem, Proven, Trusted, Unable};
use crate::comet::rpc::{Header, HeaderAfter, Rpc};
use crate::node::command::{Failure, FailureCode};

/// What the chain has after a height.
#[derive(Clone, Debug)]
pub(in crate::node) struct State {
    /// The application hash, and the application's version.
    pub(in crate::node) after: HeaderAfter,
    /// Why it is believed.
    pub(in crate::node) basis: Basis,
}

/// Why a state is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::node) enum Basis {
    /// The chain's validators signed it.
    Signatures {
        /// The trusted block that leads to them.
        from: u64,
    },
    /// The endpoints agree in it, and the signatures cannot be verified here.
    Agreement {
        /// The reason, for a person.
        why: String,
    },
}

/// What was tried for a proof.
enum Tried {
    Proven(Proven),
    /// It is not to be had here.
    Unable(Unable),
}

impl Chain {
    /// What the chain has after a height. A header that does not verify, and an endpoint
    /// that tells another one than the validators signed, is a verification failure that
    /// names it.
    pub(in crate::node) async fn state_after(&self, height: u64) -> Result<State, Failure> {
        let next = height.saturating_add(1);
        let told = self
            .told(next, |header| !header.app_hash.is_empty())
            .await?;
        let trusted = self.trusted_at(height).await?;
        match self.try_to_prove(&told, &trusted, height).await {
            Ok(Tried::Proven(proven)) => {
                let other = told.iter().find(|(_, header)| !fits(header, &proven));
                match other {
                    Some((rpc, header)) => Err(contradicts(rpc, next, header, &proven)),
                    None => Ok(State {
                        after: proven.after().clone(),
                        basis: Basis::Signatures {
                            from: trusted.height,
                        },
                    }),
                }
            }
            Ok(Tried::Unable(unable)) => {
                let app_hash =
                    self.agreed(next, &told, "application", |header| &header.app_hash)?;
                let app_hash = app_hash.clone();
                let app_version = agreed_version(next, &told)?;
                Ok(State {
                    after: HeaderAfter {
                        app_hash,
                        app_version,
                    },
                    basis: Basis::Agreement {
                        why: unable.to_string(),
                    },
                })
            }
            Err(failure) if failure.code == FailureCode::Verification => Err(failure),
            Err(failure) => {
                // That they contradict each other is worse than any trouble.
                self.agreed(next, &told, "application", |header| &header.app_hash)?;
                Err(failure)
            }
        }
    }

    /// Asks one endpoint after the other for the proof.
    async fn try_to_prove(
        &self,
        told: &[(&Rpc, Header)],
        trusted: &Trusted,
        height: u64,
    ) -> Result<Tried, Failure> {
        let by_hand = self.by_hand.is_some();
        let mut trouble = None;
        let mut unable = None;
        for (rpc, _) in told {
            let now = SystemTime::now();
            match light::prove(rpc, &self.rules, trusted, height, now).await {
                Ok(proven) => return Ok(Tried::Proven(proven)),
                Err(error) if error.is_retryable() => trouble = Some(of_light(error, by_hand)),
                Err(error) => match may_do_without(&error, told.len()) {
                    Some(reason) => unable = Some(reason),
                    None => return Err(of_light(error, by_hand)),
                },
            }
        }
        match (unable, trouble) {
            (Some(unable), _) => Ok(Tried::Unable(unable)),
            (None, Some(trouble)) => Err(trouble),
            (None, None) => Err(self.silent()),
        }
    }
}

/// Why a proof may be done without. That the keys are of another kind must be more than
/// the word of one endpoint: it would be an easy way around the proof.
fn may_do_without(error: &LightError, witnesses: usize) -> Option<Unable> {
    let LightError::Problem { problem, .. } = error else {
        return None;
    };
    match problem {
        Problem::Unable(Unable::Keys {
            is_certain: false, ..
        }) if witnesses < ENOUGH => None,
        Problem::Unable(unable) => Some(unable.clone()),
        _ => None,
    }
}

/// The application's version in which the endpoints agree.
fn agreed_version(height: u64, told: &[(&Rpc, Header)]) -> Result<u64, Failure> {
    let first = told.first().map_or(0, |(_, header)| header.app_version);
    let other = told.iter().find(|(_, header)| header.app_version != first);
    let Some((rpc, other)) = other else {
        return Ok(first);
    };
    Err(Failure::new(
        FailureCode::Verification,
        format!(
            "the RPC endpoints disagree about block {height}: one has the application version \
             {first}, {} has {}",
            rpc.url(),
            other.app_version
        ),
    )
    .about_chain()
    .hint("one of them is wrong, or follows a fork: find out which, and leave it out"))
}

fn fits(told: &Header, proven: &Proven) -> bool {
    let after = proven.after();
    told.app_hash == after.app_hash
        && told.app_version == after.app_version
        && (told.block_hash.is_empty() || told.block_hash == proven.block_hash())
}

fn contradicts(rpc: &Rpc, height: u64, told: &Header, proven: &Proven) -> Failure {
    let url = rpc.url();
    let after = proven.after();
    let what = if told.app_hash != after.app_hash {
        let [told, signed] = [&told.app_hash, &after.app_hash].map(hex::encode_upper);
        format!("has the application hash {told}, and the chain's validators signed {signed}")
    } else if told.app_version != after.app_version {
        let (told, signed) = (told.app_version, after.app_version);
        format!("has the application version {told}, and the chain's validators signed {signed}")
    } else {
        let [told, signed] = [&told.block_hash, proven.block_hash()].map(hex::encode_upper);
        format!("has {told}, and the chain's validators signed {signed}")
    };
    Failure::new(
        FailureCode::Verification,
        format!("the RPC endpoints disagree about block {height}: {url} {what}"),
    )
    .about_chain()
    .hint(leave_out(&url))
}

fn leave_out(url: &str) -> String {
    format!("leave {url} out of --chain-rpc: it is wrong, or follows a fork")
}

/// What became of a proof from a block that the person gave, or else from one in which
/// the endpoints agree.
fn of_light(error: LightError, by_hand: bool) -> Failure {
    const NEARER: &str =
        "trust a block nearer to the snapshot with --trust-height and --trust-hash";
    let message = error.to_string();
    let (url, problem) = match error {
        LightError::Rpc(error) => return error.into(),
        LightError::Late { .. } => {
            return Failure::new(FailureCode::Failed, message)
                .hint(format!("name an endpoint that answers faster, or {NEARER}"));
        }
        LightError::Problem { url, problem } => (url, problem),
    };
    // That the snapshot's own block is too old tells nothing of the chain.
    if matches!(problem, Problem::Expired { .. }) && !by_hand {
        return Failure::new(FailureCode::NotFound, message).hint(
            "take a younger snapshot; where the chain stood still for long, set a longer \
             trust_period under [statesync] in the node's config.toml",
        );
    }
    let told = Failure::new(FailureCode::Verification, message).about_chain();
    match problem {
        Problem::OtherBlock { .. } => told.hint(format!(
            "check --trust-height and --trust-hash where you gave them; else {}",
            leave_out(&url)
        )),
        Problem::Header { .. } => told.hint(leave_out(&url)),
        Problem::Future { .. } => told.hint(format!(
            "set this machine's clock (`timedatectl set-ntp true`); if it is right, {}",
            leave_out(&url)
        )),
        Problem::Expired { .. } => told.hint(
            "trust a younger block with --trust-height and --trust-hash; where the chain stood \
             still for long, set a longer trust_period under [statesync] in the node's \
             config.toml",
        ),
        Problem::TooMany { .. } | Problem::Above { .. } => told.hint(NEARER),
        Problem::Unable(_) => {
            told.hint("name a second endpoint, of somebody else, with --chain-rpc URL,URL")
        }
    }
}
