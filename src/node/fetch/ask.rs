//! Asking peers for manifests, within bounds of memory and time.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;

use crate::net::Net;
use crate::node::referee::Referee;
use crate::node::services::Services;
use crate::snapshot::{Manifest, ManifestId};
use crate::store::Stored;
use crate::sync::Offence;

/// Manifests received at once. One has up to 32 MiB and takes about as much
/// again while it is checked: together at most 128 MiB.
pub(super) const MAX_MANIFESTS_AT_ONCE: usize = 2;
/// A peer's first attempt to give a manifest, dialling included. The largest
/// comes in it at 27 Mbit/s.
const FIRST_ATTEMPT: Duration = Duration::from_secs(10);
/// An attempt after others that failed: slow peers are given more time, up to
/// what the network itself allows for a manifest.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

/// Asks one peer for a manifest of so many bytes at most and checks it; `before` is how
/// often it failed already.
pub(super) async fn ask_manifest(
    net: Net,
    referee: Arc<Referee>,
    peer: PeerId,
    (id, most_bytes): (ManifestId, u32),
    before: u32,
) -> Option<Arc<Manifest>> {
    let asked = net.manifest(peer, &id, most_bytes);
    let answer = tokio::time::timeout(attempt_limit(before), asked);
    let bytes = match answer.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %id, %error, "no manifest");
            if error.blame().is_some() {
                referee.ban(peer, Offence::Protocol);
            }
            return None;
        }
        Err(_) => {
            tracing::debug!(%peer, %id, "no manifest in time");
            return None;
        }
    };
    match Manifest::decode_as(&id, bytes) {
        Ok(manifest) => Some(Arc::new(manifest)),
        Err(error) => {
            tracing::warn!(%peer, %id, %error, "a peer gave a false manifest");
            referee.ban(peer, Offence::WrongBytes);
            None
        }
    }
}

/// Connects to a peer as long as a first attempt takes: reaching a peer takes
/// no memory, so it is not counted among the manifests received at once.
pub(super) async fn reach(net: &Net, peer: PeerId) -> bool {
    let connected = tokio::time::timeout(FIRST_ATTEMPT, net.connect(peer));
    matches!(connected.await, Ok(Ok(())))
}

fn attempt_limit(before: u32) -> Duration {
    let longer = 2u32.saturating_pow(before);
    FIRST_ATTEMPT.saturating_mul(longer).min(LONGEST_ATTEMPT)
}

/// Whether part of a snapshot is here already.
pub(super) fn is_begun(services: &Services, id: &ManifestId) -> bool {
    let stored = services.store.get(id);
    let is_begun = |stored: &Stored| !stored.complete && stored.have_bytes > 0;
    // Of a part nobody waits for the rest.
    stored.is_some_and(|stored| is_begun(&stored) && stored.only.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_longer_up_to_a_limit() {
        let limits = [0, 1, 2, 3, u32::MAX].map(|before| attempt_limit(before).as_secs());
        assert_eq!(limits, [10, 20, 40, 60, 60]);
    }
}
