//! A copy that the adapter made of its node's storage becomes a snapshot, away from
//! consensus: in the daemon.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::deltas::DeltaOrder;
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
    let height = command.height;
    // The name of a file in it begins so.
    let copy = format!("{}/", command.copy.display());
    services.set_making(Some(height));
    let (own, reporter, cancel) = (services.clone(), reporter.clone(), cancel.clone());
    let made = blocking(move || {
        let Services {
            store,
            identity,
            trust,
            ..
        } = &*own;
        let made = make(store, &command, app_hash.into(), &reporter, &cancel)?;
        trust::say_computed(store, identity, trust, &made.manifest);
        let order = order(&own, &made.manifest);
        Ok((made, order))
    });
    let made = made.await;
    services.set_making(None);
    let made = made.map_err(|failure| match failure.message.contains(&copy) {
        true => failure.hint(format!(
            "{copy} is the copy of the node's storage: look at the same file there"
        )),
        false => failure,
    });
    let (published, order) = made.inspect_err(|failure| {
        tracing::warn!(
            height, error = %failure, hint = failure.hint,
            "no snapshot was made of the node's state"
        );
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
    if let Some(order) = order {
        services.order_delta(order);
    }
    Ok(told)
}

/// What the delta to a snapshot is made of, where there is such. To be asked for before
/// anything is removed for the snapshot.
fn order(services: &Services, to: &Arc<Manifest>) -> Option<DeltaOrder> {
    if !services.config.xian.deltas {
        return None;
    }
    let base = delta::newest_before(&services.store, to).unwrap_or_else(|failure| {
        let height = to.height();
        tracing::warn!(height, error = %failure, "no delta will be made to the snapshot");
        None
    });
    let to = to.clone();
    base.map(|base| DeltaOrder { base, to })
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
