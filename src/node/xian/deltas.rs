//! The deltas between the snapshots that the daemon makes of its node's state, one after
//! the other and in the background: the adapter does not wait for them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::node::content::Content;
use crate::node::delta;
use crate::node::failure::blocking;
use crate::node::progress::Reporter;
use crate::node::services::Services;
use crate::snapshot::Manifest;

/// A delta that is to be made.
pub(in crate::node) struct DeltaOrder {
    /// Its files are open: it may be removed meanwhile.
    pub(super) base: Content,
    pub(super) to: Arc<Manifest>,
}

/// Makes what is ordered, until `cancel`. Who cannot make one has the snapshot all the
/// same.
pub(in crate::node) async fn make_deltas(services: Arc<Services>, cancel: CancellationToken) {
    while let Some(order) = cancel.run_until_cancelled(services.next_delta()).await {
        let _turn = services.intake.lock().await;
        let height = order.to.height();
        let (own, token) = (services.clone(), cancel.clone());
        let derived = blocking(move || {
            // Nobody watches it.
            let reporter = Reporter::new(mpsc::channel(1).0);
            delta::derive(&own.store, &order.base, &order.to, &reporter, &token)
        });
        match derived.await {
            Ok(Some(_)) => services.shelf_changed().await,
            Ok(None) => {}
            Err(_) if cancel.is_cancelled() => {}
            Err(failure) => {
                tracing::warn!(height, error = %failure, "no delta was made to the snapshot");
            }
        }
    }
}
