//! A copy that the adapter made of its node's storage becomes a snapshot, away from
//! consensus: in the daemon.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::publish::{Making, Published, publish};
use crate::node::command::{CopyCommand, Failure, FailureCode, StatePublished};
use crate::node::delta;
use crate::node::failure::blocking;
use crate::node::progress::Reporter;
use crate::node::services::{Services, count};
use crate::node::trust;
use crate::snapshot::Manifest;
use crate::store::{Origin, Store};
use crate::xian::LatestBlock;

/// Carries out what the adapter asks for. One snapshot is made at a time; it counts as
/// harvested, and older ones of its chain leave the shelf by the same rule.
pub(in crate::node) async fn publish_copy(
    services: &Arc<Services>,
    command: CopyCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<StatePublished, Failure> {
    let usage = |problem: String| Failure::new(FailureCode::Usage, problem);
    crate::snapshot::check_chain_id(&command.chain_id)
        .map_err(|problem| usage(format!("the chain id {problem}")))?;
    let app_hash = hex::decode(&command.app_hash)
        .map_err(|error| usage(format!("the application hash: {error}")))?;
    let began = Instant::now();
    let _turn = services.intake.lock().await;
    let (height, copy) = (command.height, command.copy.display().to_string());
    services.set_making(Some(height));
    let (own, to_tell, token) = (services.clone(), reporter.clone(), cancel.clone());
    let made = blocking(move || {
        let Services {
            store,
            identity,
            trust,
            ..
        } = &*own;
        let made = make(store, &command, app_hash.into(), &to_tell, &token)?;
        trust::say_computed(store, identity, trust, &made.manifest);
        Ok(made)
    });
    let made = made.await;
    services.set_making(None);
    let made = made.map_err(|mut failure| {
        if failure.message.contains(&copy) {
            failure.message +=
                " (this is the copy of the node's storage: look at the same file there)";
        }
        failure
    });
    let published = made.inspect_err(|failure| {
        tracing::warn!(height, error = %failure, "no snapshot was made of the node's state");
    })?;
    count(&services.counters.states_made);
    services.shelf_changed().await;
    let manifest = &published.manifest;
    let told = StatePublished {
        published: manifest.id().to_string(),
        height,
        records: published.records,
        chunks: manifest.chunk_count(),
        bytes: manifest.total_bytes(),
        seconds: began.elapsed().as_secs_f64(),
    };
    if services.config.xian.deltas {
        derive(services, published.manifest, reporter, cancel).await;
    }
    Ok(told)
}

/// Makes the delta to it. Who cannot make one has the snapshot all the same.
async fn derive(
    services: &Arc<Services>,
    to: Arc<Manifest>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) {
    let (own, reporter, cancel) = (services.clone(), reporter.clone(), cancel.clone());
    let height = to.height();
    let derived = blocking(move || delta::derive(&own.store, &to, &reporter, &cancel));
    match derived.await {
        Ok(true) => services.shelf_changed().await,
        Ok(false) => {}
        Err(failure) => {
            tracing::warn!(height, error = %failure, "no delta was made to the snapshot");
        }
    }
}

fn make(
    store: &Store,
    command: &CopyCommand,
    app_hash: Bytes,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Published, Failure> {
    let making = Making {
        storage: &command.copy,
        state_patches: command.state_patches.as_deref(),
        chain_id: command.chain_id.clone(),
        origin: Origin::Harvested,
        proven: true,
    };
    let asked_for = LatestBlock {
        height: command.height,
        app_hash,
    };
    let expected = |found: &LatestBlock| {
        if *found == asked_for {
            return Ok(());
        }
        let copy = command.copy.display();
        Err(Failure::new(
            FailureCode::Verification,
            format!(
                "the copy {copy} is of height {}, application hash {}: not of {}, {}",
                found.height,
                hex::encode_upper(&found.app_hash),
                asked_for.height,
                hex::encode_upper(&asked_for.app_hash),
            ),
        ))
    };
    publish(store, &making, expected, reporter, cancel)
}
