//! Who tells a search what the chain has.

use crate::comet::rpc::{HeaderAfter, Rpc, RpcError};
use crate::node::chain::Chain;
use crate::node::command::{Failure, FailureCode, FetchCommand};
use crate::snapshot::Manifest;

/// Who tells.
pub(super) enum Authority {
    /// One node, on whose word the person relies.
    Node(Rpc),
    /// Endpoints that have to prove it.
    Chain(Chain),
}

/// Why something is not told.
pub(super) enum Silence {
    /// This may pass.
    ForNow(Failure),
    /// Not of this height.
    Here(Failure),
    /// Nothing helps.
    ForGood(Failure),
}

impl Silence {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::ForNow(failure) | Self::Here(failure) | Self::ForGood(failure) => failure,
        }
    }
}

impl From<RpcError> for Silence {
    fn from(error: RpcError) -> Self {
        match error {
            error @ RpcError::Pruned { .. } => Self::Here(error.into()),
            error if error.is_retryable() => Self::ForNow(error.into()),
            error => Self::ForGood(error.into()),
        }
    }
}

impl Authority {
    /// The one that was named, if any was.
    pub(super) fn of(command: &FetchCommand) -> Result<Option<Self>, Failure> {
        Ok(match (&command.chain, &command.node_rpc) {
            (Some(chain), _) => Some(Self::Chain(Chain::new(chain)?)),
            (None, Some(url)) => Some(Self::Node(Rpc::new(url)?)),
            (None, None) => None,
        })
    }

    /// For a person.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Node(rpc) => format!("the RPC {}", rpc.url()),
            Self::Chain(chain) => format!("the RPC endpoints of {}", chain.id()),
        }
    }

    /// The chain's newest height; it must be this chain.
    pub(super) async fn tip(&self, chain_id: &str) -> Result<u64, Silence> {
        match self {
            Self::Node(rpc) => {
                let status = rpc.status().await?;
                match status.chain_id == chain_id {
                    true => Ok(status.height),
                    false => Err(Silence::ForGood(wrong_chain(
                        rpc,
                        &status.chain_id,
                        chain_id,
                    ))),
                }
            }
            Self::Chain(chain) if chain.id() != chain_id => Err(Silence::ForGood(Failure::new(
                FailureCode::Usage,
                format!(
                    "the snapshot is of {chain_id}, and the endpoints of {}",
                    chain.id()
                ),
            ))),
            Self::Chain(chain) => chain.tip().await.map_err(Silence::ForNow),
        }
    }

    /// What the chain has after a height.
    pub(super) async fn state_after(&self, height: u64) -> Result<HeaderAfter, Silence> {
        match self {
            Self::Node(rpc) => Ok(rpc.header_after(height).await?),
            Self::Chain(chain) => match chain.state_after(height).await {
                Ok(state) => Ok(state.after),
                Err(failure) if failure.code == FailureCode::Failed => {
                    Err(Silence::ForNow(failure))
                }
                // The block is too old to be trusted.
                Err(failure) if failure.code == FailureCode::NotFound => {
                    Err(Silence::Here(failure))
                }
                Err(failure) => Err(Silence::ForGood(failure)),
            },
        }
    }

    /// What the chain has at a manifest's height, where it carries that application
    /// hash; nothing for one that carries none. A contradiction is a failure.
    pub(super) async fn prove(&self, manifest: &Manifest) -> Result<Option<HeaderAfter>, Silence> {
        self.tip(manifest.chain_id()).await?;
        let Some(claimed) = manifest.app_hash() else {
            return Ok(None);
        };
        let state = self.state_after(manifest.height()).await?;
        if state.app_hash == *claimed {
            return Ok(Some(state));
        }
        Err(Silence::ForGood(
            Failure::new(
                FailureCode::Verification,
                format!(
                    "{} claims application hash {} at height {}, but the chain has {}",
                    manifest.id(),
                    hex::encode_upper(claimed),
                    manifest.height(),
                    hex::encode_upper(&state.app_hash)
                ),
            )
            .hint("the snapshot is not of this chain's state: take another one"),
        ))
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
