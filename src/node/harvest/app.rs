//! Taking snapshots from the application itself, as the adapter asks for it: over
//! the application's own ABCI socket, on a connection of the daemon's.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::choice::Key;
use super::intake::{AppHashes, Order};
use super::on_cancel;
use crate::abci::{Address, AppSource};
use crate::comet::peer::Stop;
use crate::node::command::{AppOffer, Failure, FailureCode, HarvestCommand, Harvested};
use crate::node::services::Services;
use crate::snapshot::Offer;

/// Takes what is new of an application's snapshots.
pub(in crate::node) async fn take_from_app(
    services: &Arc<Services>,
    command: &HarvestCommand,
    cancel: &CancellationToken,
) -> Result<Harvested, Failure> {
    crate::snapshot::check_chain_id(&command.chain_id)
        .map_err(|problem| Failure::new(FailureCode::Usage, format!("the chain id {problem}")))?;
    let source = AppSource::new(command.app.parse::<Address>()?);
    let offers = command.offers.iter().map(offer).collect::<Result<_, _>>()?;
    let told = command.offers.iter().filter_map(|offer| {
        let app_hash = hex::decode(offer.app_hash.as_ref()?).ok()?;
        Some((offer.height, Bytes::from(app_hash)))
    });
    let hashes = AppHashes::Told(told.collect::<BTreeMap<_, _>>());
    let stop = Stop::new();
    let stopped = stop.clone();
    let _guard = on_cancel(cancel, move || stopped.stop());
    let order = Order {
        chain_id: command.chain_id.clone(),
        offers,
        stop: stop.clone(),
    };
    let mut intake = services.intake.lock().await;
    let (_, round) = intake.take_new(services, source, order, &hashes).await?;
    drop(intake);
    if stop.is_stopped() {
        // A round that was cut short says nothing of what it did not come to.
        return Err(Failure::interrupted(
            "what was not taken is taken when the daemon runs again",
        ));
    }
    let name = |key: &Key| (key.height, key.format, hex::encode(&key.hash));
    Ok(Harvested {
        taken: round.taken.iter().map(ToString::to_string).collect(),
        settled: round.settled.iter().map(name).collect(),
        waiting: round.waiting,
        trouble: round.trouble,
    })
}

fn offer(told: &AppOffer) -> Result<Offer, Failure> {
    let bytes = |what: &str, text: &str| {
        let decoded = hex::decode(text).map(Bytes::from);
        decoded.map_err(|error| Failure::new(FailureCode::Usage, format!("{what}: {error}")))
    };
    Ok(Offer {
        height: told.height,
        format: told.format,
        chunks: told.chunks,
        hash: bytes("hash", &told.hash)?,
        metadata: bytes("metadata", &told.metadata)?,
    })
}
