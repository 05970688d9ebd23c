//! The peers that a person named for one fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinSet;

use crate::net::{Net, NetError};
use crate::node::command::{Failure, FailureCode};
use crate::node::services::{Services, lock, peer_of};

/// A named peer is dialled again after this, and after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Named peers; dropping them ends the attempts to reach them.
pub(super) struct Named {
    /// Their ids, where the addresses have them, and those of the configured
    /// ones.
    pub(super) peers: BTreeSet<PeerId>,
    troubles: Troubles,
    _dialling: JoinSet<()>,
}

/// Why addresses are not reached, the last reason of each.
type Troubles = Arc<Mutex<BTreeMap<Multiaddr, String>>>;

impl Named {
    /// Why those that were not reached were not, in sentences.
    pub(super) fn troubles(&self) -> Vec<String> {
        lock(&self.troubles).values().cloned().collect()
    }
}

/// Begins to dial each until it is reached once.
pub(super) fn dial_named(services: &Services, addresses: &[String]) -> Result<Named, Failure> {
    let configured = services.config.network.bootstrap.iter();
    let mut peers: BTreeSet<PeerId> = configured.filter_map(peer_of).collect();
    let mut dialling = JoinSet::new();
    let troubles = Troubles::default();
    for text in addresses {
        let address: Multiaddr = text.parse().map_err(|error| {
            Failure::new(
                FailureCode::Usage,
                format!("'{text}' is no address of a peer: {error}"),
            )
            .hint("an address looks like /ip4/203.0.113.7/tcp/26670/p2p/12D3KooW…")
        })?;
        peers.extend(peer_of(&address));
        dialling.spawn(dial_until_reached(
            services.net.clone(),
            address,
            troubles.clone(),
        ));
    }
    Ok(Named {
        peers,
        troubles,
        _dialling: dialling,
    })
}

/// A provider that is started after the one who waits for it is found within
/// seconds.
async fn dial_until_reached(net: Net, address: Multiaddr, troubles: Troubles) {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match net.dial(address.clone()).await {
            Ok(_) | Err(NetError::Stopped) => {
                lock(&troubles).remove(&address);
                return;
            }
            Err(error) => error,
        };
        if pause == FIRST_PAUSE {
            tracing::warn!(%error, "a named peer is not reached; trying again");
        }
        lock(&troubles).insert(address.clone(), error.to_string());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
