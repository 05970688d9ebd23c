//! Whether an adapter of ours stands before the application of the node that is fed.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::comet::rpc::Rpc;
use crate::node::command::{Failure, FailureCode};
use crate::snapshot::Manifest;

/// What an adapter answers to for itself, and no application of CometBFT does.
const ADAPTER_SNAPSHOTS: &str = "/snapshots";
/// An adapter looks at its home every few seconds: a snapshot that is new there is seen by
/// then.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An adapter's answer, as far as it is read.
#[derive(Deserialize)]
struct OwnSnapshots {
    snapshots: Vec<OwnSnapshot>,
}

#[derive(Deserialize)]
struct OwnSnapshot {
    manifest: String,
}

/// Whether an adapter that holds this snapshot answers through the node's RPC.
pub(super) async fn adapter_holds(rpc: &Rpc, manifest: &str) -> bool {
    let told = rpc.query(ADAPTER_SNAPSHOTS).await.ok().flatten();
    let told = told.and_then(|json| serde_json::from_slice::<OwnSnapshots>(&json).ok());
    let own = told.map_or_else(Vec::new, |told| told.snapshots);
    own.iter().any(|one| one.manifest == manifest)
}

/// State content is of no use to an application: some refuse a format that they do not
/// know, and others take any and fall over it. It goes to adapters only.
pub(super) async fn adapter_must_hold(rpc: &Rpc, manifest: &Manifest) -> Result<(), Failure> {
    if manifest.state().is_none() {
        return Ok(());
    }
    let (id, started) = (manifest.id().to_string(), Instant::now());
    while !adapter_holds(rpc, &id).await {
        if started.elapsed() > SEEN_WITHIN {
            return Err(Failure::new(
                FailureCode::Usage,
                format!(
                    "{id} holds the records of a state, and the node at {} is not behind an \
                     adapter that has it and could restore them",
                    rpc.url()
                ),
            )
            .hint(
                "start `snapswarm adapter --xian STORAGE --app-cmd COMMAND` with this home \
                 before the node, or use `snapswarm join --xian STORAGE`",
            ));
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
    Ok(())
}
