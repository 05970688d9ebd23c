//! The behaviours of the swarm, composed.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::allow_block_list::{self, AllowedPeers, BlockedPeers};
use libp2p::identity::Keypair;
use libp2p::kad::{self, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, connection_limits, identify, memory_connection_limits, ping};

use super::dht;
use super::door::Door;
use super::error::NetError;
use super::records::{RecordLimits, Records};
use super::settings::{NetLimits, NetSettings};
use super::streams;

/// Pause between two pings of a connection: a round trip that is at most so old.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A peer that answers no ping for so long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A look-up in the DHT that takes longer gives what it has.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// The DHT looks for its own neighbourhood so often; also what keeps a small
/// network connected (see `NetLimits::idle_timeout`).
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(120);
/// Peers asked at the same time in a look-up, on as many disjoint paths.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// A DHT message: 40 peers with 8 addresses of 64 bytes each have 22 KiB.
const MAX_DHT_MESSAGE_BYTES: usize = 32 << 10;

/// All of them. The order matters where one refuses: the cheap ones first.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    pub door: Door,
    pub limits: connection_limits::Behaviour,
    pub memory: memory_connection_limits::Behaviour,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub dht: dht::Behaviour,
    pub streams: streams::Behaviour,
}

impl Behaviour {
    pub fn new(key: &Keypair, settings: &NetSettings, door: Door) -> Result<Self, NetError> {
        let own_id = key.public().to_peer_id();
        let identify = identify::Config::new(settings.network.identify_protocol(), key.public())
            .with_agent_version(format!("snapswarm/{}", env!("CARGO_PKG_VERSION")))
            .with_push_listen_addr_updates(true)
            // Its cache would hand out addresses without asking who told them.
            .with_cache_size(0);
        let ping = ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIMEOUT);
        let allowed = settings.allow.as_ref().map(|peers| {
            let mut list = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in peers.iter().collect::<HashSet<_>>() {
                list.allow_peer(*peer);
            }
            list
        });
        Ok(Self {
            blocked: allow_block_list::Behaviour::default(),
            allowed: allowed.into(),
            door,
            limits: connection_limits::Behaviour::new(connection_limits(&settings.limits)),
            memory: memory_connection_limits::Behaviour::with_max_bytes(
                settings.limits.max_memory_bytes,
            ),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            dht: dht::Behaviour::new(kademlia(own_id, settings)?),
            streams: streams::Behaviour::new(),
        })
    }
}

fn connection_limits(limits: &NetLimits) -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.max_pending_incoming))
        .with_max_pending_outgoing(Some(limits.max_pending_outgoing))
        .with_max_established_per_peer(Some(limits.max_connections_per_peer))
        .with_max_established(Some(limits.max_connections))
}

fn kademlia(
    own_id: libp2p::PeerId,
    settings: &NetSettings,
) -> Result<kad::Behaviour<Records>, NetError> {
    let protocol = StreamProtocol::try_from_owned(settings.network.dht_protocol())
        .map_err(|error| NetError::Transport(error.to_string()))?;
    let mut config = kad::Config::new(protocol);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_parallelism(PARALLELISM)
        .disjoint_query_paths(true)
        // Every record passes the actor, which knows who tells it from where.
        .set_record_filtering(StoreInserts::FilterBoth)
        // No value records: nothing to replicate.
        .set_replication_interval(None)
        .set_publication_interval(None)
        // The announcer renews at its own pace.
        .set_provider_publication_interval(None)
        .set_provider_record_ttl(Some(super::announce::RECORD_TTL))
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL))
        .set_max_packet_size(MAX_DHT_MESSAGE_BYTES);
    let records = Records::new(own_id, RecordLimits::with_own(settings.pacing.max_keys()));
    Ok(kad::Behaviour::with_config(own_id, records, config))
}
