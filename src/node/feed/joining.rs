//! Whether the node behind an RPC is the one to feed, and can be fed.

use std::time::{Duration, Instant};

use crate::comet::peer::NodeAddress;
use crate::comet::rpc::{NodeStatus, Rpc, RpcError};
use crate::node::command::{Failure, FailureCode};
use crate::node::fetch::wrong_chain;
use crate::node::progress::Reporter;
use crate::snapshot::Manifest;

/// A node that is being started opens its RPC within seconds.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Waits until the RPC answers, and sees that it speaks for `node`, on the
/// snapshot's chain, without any block. Otherwise what it says later would be
/// taken for a restore.
pub(super) async fn empty_node(
    rpc: &Rpc,
    node: &NodeAddress,
    manifest: &Manifest,
    patience: Duration,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let status = first_status(rpc, patience, reporter).await?;
    judge(&status, rpc, node, manifest)
}

/// The first answer. The node may be on its way up.
async fn first_status(
    rpc: &Rpc,
    patience: Duration,
    reporter: &Reporter,
) -> Result<NodeStatus, RpcError> {
    let started = Instant::now();
    let mut told = false;
    loop {
        match rpc.status().await {
            Err(error) if error.is_retryable() && started.elapsed() < patience => {
                if !told {
                    reporter.note(format!("waiting for the node's RPC: {error}"));
                    told = true;
                }
            }
            answer => return answer,
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

fn judge(
    status: &NodeStatus,
    rpc: &Rpc,
    node: &NodeAddress,
    manifest: &Manifest,
) -> Result<(), Failure> {
    if status.node_id != node.id.to_string() {
        return Err(Failure::new(
            FailureCode::Usage,
            format!(
                "the RPC {} is of node {}, not of {node}",
                rpc.url(),
                status.node_id
            ),
        )
        .hint("--node-p2p and --node-rpc must be of the same node"));
    }
    if status.chain_id != manifest.chain_id() {
        return Err(wrong_chain(rpc, &status.chain_id, manifest.chain_id()));
    }
    if status.height > 0 {
        return Err(Failure::new(
            FailureCode::Failed,
            format!(
                "the node at {} is at height {} already: a node restores a snapshot only while \
                 it is empty",
                rpc.url(),
                status.height
            ),
        )
        .hint("it follows the chain without us; to restore it all the same, empty it first"));
    }
    Ok(())
}
