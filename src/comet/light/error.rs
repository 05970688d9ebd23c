//! Why a block is not proven.

use tendermint_light_client_verifier::errors::VerificationErrorDetail as Detail;

use crate::comet::rpc::RpcError;

/// Why nothing is proven.
#[derive(Debug, thiserror::Error)]
pub enum LightError {
    /// A question has no answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// It took too long.
    #[error("{url} did not bring the blocks within {seconds} seconds that prove one")]
    Late {
        /// The RPC.
        url: String,
        /// The patience.
        seconds: u64,
    },
    /// What it brought proves nothing.
    #[error("{url}: {problem}")]
    Problem {
        /// The RPC.
        url: String,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with the blocks of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// The trusted block is another one there.
    #[error("its block {height} is {found}, and {trusted} is trusted")]
    OtherBlock {
        /// The trusted height.
        height: u64,
        /// Its block, hex.
        found: String,
        /// The trusted one, hex.
        trusted: String,
    },
    /// A header is not what the validators signed.
    #[error("the header of its block {height} does not verify: {reason}")]
    Header {
        /// Which.
        height: u64,
        /// Why.
        reason: String,
    },
    /// A header is of a time to come.
    #[error(
        "the header of its block {height} does not verify: it is of {time}, which is in the \
         future of this machine's clock"
    )]
    Future {
        /// Which.
        height: u64,
        /// When.
        time: String,
    },
    /// The trusted block is too old to vouch for others.
    #[error(
        "the trusted block {height} is of {time}, and is trusted for {} hours only",
        trust_period_s / 3600
    )]
    Expired {
        /// Which.
        height: u64,
        /// When.
        time: String,
        /// The trust period, seconds.
        trust_period_s: u64,
    },
    /// The trusted block is not below the one to prove.
    #[error("the trusted block {height} is not below block {target}, which is to be proven")]
    Above {
        /// The trusted height.
        height: u64,
        /// The height to prove.
        target: u64,
    },
    /// Too many steps.
    #[error(
        "from the trusted block {from} to block {to} the validators changed too often to be \
         followed"
    )]
    TooMany {
        /// The trusted height.
        from: u64,
        /// The height to prove.
        to: u64,
    },
    /// The signatures are of a kind that is not verified here.
    #[error("{0}")]
    Unable(Unable),
}

/// What cannot be verified here, whether it is right or not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unable {
    /// Validators sign with other keys than ed25519.
    #[error("validators sign with keys of the kind {kind}, which cannot be verified here")]
    Keys {
        /// The kind, as CometBFT names it.
        kind: String,
        /// Whether the trusted block itself names these validators, so that it is more
        /// than the endpoint's word.
        is_certain: bool,
    },
    /// The chain's id has characters that the checks do not know.
    #[error("headers of a chain with this id cannot be verified here")]
    ChainId,
}

impl LightError {
    /// Whether another try, or another endpoint, may do better: nothing was found to be
    /// false.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rpc(_) | Self::Late { .. } => true,
            Self::Problem { problem, .. } => match problem {
                Problem::OtherBlock { .. }
                | Problem::Header { .. }
                | Problem::Future { .. }
                | Problem::Expired { .. }
                | Problem::Above { .. }
                | Problem::TooMany { .. }
                | Problem::Unable(_) => false,
            },
        }
    }
}

/// A header names others than the one before it announced.
pub(super) const OTHER_NEXT_VALIDATORS: &str =
    "its validators are not those that the block before names";
/// An answer has others than headers name.
pub(super) const OTHER_VALIDATORS: &str =
    "the validators that are told for it are not those that headers name";

/// Why a header does not verify, in words.
pub(super) fn reason(detail: &Detail) -> String {
    match detail {
        Detail::InvalidCommitValue(e) => format!(
            "the signatures are for block {}, and it is block {}",
            e.commit_hash, e.header_hash
        ),
        Detail::InvalidNextValidatorSet(_) => OTHER_NEXT_VALIDATORS.to_owned(),
        Detail::InvalidValidatorSet(_) => OTHER_VALIDATORS.to_owned(),
        Detail::InsufficientSignersOverlap(e) => format!(
            "validators with a power of {} of {} signed it, and more than two thirds are needed",
            e.tally.tallied, e.tally.total
        ),
        Detail::NotEnoughTrust(e) => format!(
            "of the trusted validators a power of {} of {} signed it, and more than a third is \
             needed",
            e.tally.tallied, e.tally.total
        ),
        Detail::InvalidSignature(e) => {
            format!(
                "the signature of validator {} is false",
                e.validator.address
            )
        }
        Detail::MissingSignature(_) | Detail::NoSignatureForCommit(_) => {
            "signatures are missing".to_owned()
        }
        Detail::DuplicateValidator(e) => format!("validator {} signed it twice", e.address),
        Detail::FaultySigner(e) => format!("{} signed it, who is no validator", e.signer),
        Detail::MismatchPreCommitLength(e) => format!(
            "it has {} signatures, and there are {} validators",
            e.pre_commit_length, e.validator_length
        ),
        Detail::ChainIdMismatch(e) => format!("it is of the chain {}", e.got),
        Detail::NonMonotonicBftTime(e) => format!(
            "it is of {}, and the trusted block before it of {}",
            e.header_bft_time, e.trusted_header_bft_time
        ),
        Detail::NonIncreasingHeight(e) => format!("it is of height {}", e.got),
        Detail::HeaderFromTheFuture(e) => format!("it is of {}", e.header_time),
        Detail::NotWithinTrustPeriod(e) => format!("trust in it ended at {}", e.expires_at),
        Detail::Tendermint(e) => e.to_string(),
    }
}
