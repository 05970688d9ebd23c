//! CometBFT's peer protocol, reduced to state sync.
//!
//! ```text
//! Harvester, feed        what is asked and answered
//! message                SnapshotsRequest, SnapshotsResponse, ChunkRequest, ChunkResponse
//! packet                 parts of messages, ping and pong
//! handshake              encryption, proof of identity, node infos
//! socket                 TCP, time limits
//! ```
//!
//! There are one or two nodes, so a connection is two blocking threads; the
//! calling thread does the rest. Ours is a peer with the two channels of state
//! sync and nothing else.
//!
//! Laws:
//!
//! * The node proves its id, or nothing is said to it.
//! * Whatever a node sends is checked against a limit before it takes memory,
//!   and against what was asked for before it is kept. A broken rule ends the
//!   connection with a [`PeerError`] that names it; nothing here panics on
//!   bytes of a peer (one panic of a library is caught in the handshake, which
//!   says why).
//! * Pongs and short messages overtake chunks.
//! * A lost connection is made again, after a pause that grows.
//!
//! Where the numbers come from: CometBFT's sources (`p2p`, `statesync`), and
//! runs against real nodes of 0.38.

mod address;
mod backoff;
mod connection;
mod error;
mod feed;
mod handshake;
mod harvest;
mod identity;
mod mailbox;
mod message;
mod node_info;
mod packet;
mod socket;
mod stop;

pub use address::{AddressError, NodeAddress, NodeId};
pub use error::{PeerError, ProtocolError};
pub use feed::{ChunkSource, FedStats, FeedEvent, FeedSettings, feed};
pub use harvest::{HarvestSettings, Harvester};
pub use identity::{Identity, IdentityError};
pub use message::{ChunkKey, MAX_CHUNK_MESSAGE_BYTES, MAX_SNAPSHOT_MESSAGE_BYTES, Message};
pub use node_info::{MAX_NODE_INFO_BYTES, NodeInfo};
pub use packet::{
    Assembler, CHUNK_CHANNEL, Channel, MAX_PACKET_BYTES, MessageLimits, Packet, SNAPSHOT_CHANNEL,
};
pub use stop::Stop;
