//! A light client: what a chain's validators signed, and nobody's word for it.
//!
//! An endpoint tells what it likes. A header proves itself: it names the validators of
//! its block and of the next, it has their signatures under it, and its hash names it.
//! So one block that is believed beforehand (a [`Trusted`] height and hash) leads to
//! every later one:
//!
//! ```text
//! trusted block ─▶ next block                  its validators are those that the trusted
//!       │                                      header names for it; > 2/3 of them signed
//!       └────────▶ any later block             > 1/3 of the trusted validators signed it,
//!             │                                and > 2/3 of its own
//!             └──▶ the block in the middle     where too few did: that one first, and on
//!                                              from there
//! ```
//!
//! What is verified is the header of block H+1, because that one carries the application
//! hash and the application's version after H. Only a header that verified becomes a
//! [`Proven`].
//!
//! | file | what it is for |
//! |---|---|
//! | `walk` | the way from the trusted block, without any IO: what to ask, what is proven |
//! | `keys` | validators as they were told, and as they can be checked |
//! | `error` | why a block is not proven |
//!
//! Laws:
//!
//! * The rules are those of CometBFT's own light client, with its defaults: a third of
//!   the trusted power, a clock that is at most ten seconds slow, trust that ends with
//!   the trust period. The checks themselves are those of `tendermint-light-client-verifier`.
//! * Addresses of validators are made from their keys, never taken from an answer: a
//!   vote is counted by its address.
//! * Only the kind of keys that nearly all chains have is verified (ed25519). Others are
//!   an error of their own, which says whether the trusted block vouches for it.
//! * Everything is bounded: [`MAX_HEADERS`] headers, validators as many as CometBFT
//!   allows, [`PATIENCE`] for all of it.

mod error;
mod keys;
mod walk;

use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub use self::error::{LightError, Problem, Unable};
pub use self::walk::MAX_HEADERS;

use self::walk::{Ask, Step, Walk};
use super::rpc::{HeaderAfter, Rpc};
use crate::snapshot::Digest;

/// For all questions of one proof: a few hundred small answers from the other side of
/// the world.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a light client goes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The chain.
    pub chain_id: String,
    /// How old a block may be to be trusted: shorter than the time in which validators
    /// get their stake back.
    pub trust_period: Duration,
}

/// A block that is believed beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trusted {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Digest,
}

/// What the chain's validators signed of the state after a height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proven {
    after: HeaderAfter,
    block_hash: Bytes,
}

impl Proven {
    /// The application hash, and the application's version.
    pub fn after(&self) -> &HeaderAfter {
        &self.after
    }

    /// The hash of the block that carries them.
    pub fn block_hash(&self) -> &Bytes {
        &self.block_hash
    }
}

/// Proves what block `height` + 1 says of the state after `height`, with blocks that
/// this endpoint brings. `trusted` must not be above `height`.
pub async fn prove(
    rpc: &Rpc,
    rules: &Rules,
    trusted: &Trusted,
    height: u64,
    now: SystemTime,
) -> Result<Proven, LightError> {
    let target = height.saturating_add(1);
    let of = |problem| LightError::Problem {
        url: rpc.url(),
        problem,
    };
    let mut walk = Walk::new(rules, trusted, target, now).map_err(of)?;
    let walked = async {
        loop {
            let (kept, step) = checked(walk).await;
            walk = kept;
            match step.map_err(of)? {
                Step::Proven(proven) => return Ok(proven),
                Step::Ask(Ask::Header(height)) => {
                    walk.header(rpc.signed_header(height).await?);
                }
                Step::Ask(Ask::Validators(height)) => {
                    walk.validators(rpc.validators(height).await?).map_err(of)?;
                }
            }
        }
    };
    let late = || LightError::Late {
        url: rpc.url(),
        seconds: PATIENCE.as_secs(),
    };
    let proved = tokio::time::timeout(PATIENCE, walked).await;
    proved.unwrap_or_else(|_| Err(late()))
}

/// The next step. Ten thousand signatures take a second of a core: none that carries
/// connections.
async fn checked(mut walk: Walk) -> (Walk, Result<Step, Problem>) {
    let checking = tokio::task::spawn_blocking(move || {
        let step = walk.step();
        (walk, step)
    });
    match checking.await {
        Ok(checked) => checked,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
