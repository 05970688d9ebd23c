//! The peers that a person named for one fetch.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinSet;

use crate::net::{Net, NetError};
use crate::node::command::{Failure, FailureCode};
use crate::node::services::{Services, peer_of};

/// A named peer is dialled again after this, and after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Named peers; dropping them ends the attempts to reach them.
pub(super) struct Named {
    /// Their ids, where the addresses have them, and those of the configured
    /// ones.
    pub(super) peers: BTreeSet<PeerId>,
    _dialling: JoinSet<()>,
}

/// Begins to dial each until it is reached once.
pub(super) fn dial_named(services: &Services, addresses: &[String]) -> Result<Named, Failure> {
    let configured = services.config.network.bootstrap.iter();
    let mut peers: BTreeSet<PeerId> = configured.filter_map(peer_of).collect();
    let mut dialling = JoinSet::new();
    for text in addresses {
        let address: Multiaddr = text.parse().map_err(|error| {
            Failure::new(
                FailureCode::Usage,
                format!("'{text}' is no address of a peer: {error}"),
            )
            .hint("an address looks like /ip4/203.0.113.7/tcp/26670/p2p/12D3KooW…")
        })?;
        peers.extend(peer_of(&address));
        dialling.spawn(dial_until_reached(services.net.clone(), address));
    }
    Ok(Named {
        peers,
        _dialling: dialling,
    })
}

/// A provider that is started after the one who waits for it is found within
/// seconds.
async fn dial_until_reached(net: Net, address: Multiaddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match net.dial(address.clone()).await {
            Ok(_) | Err(NetError::Stopped) => return,
            Err(error) if pause == FIRST_PAUSE => {
                tracing::warn!(%error, "a named peer is not reached; trying again");
            }
            Err(error) => tracing::debug!(%error, "a named peer is not reached"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
