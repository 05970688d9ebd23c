//! CometBFT's peer protocol, reduced to state sync.

mod address;
mod error;
mod feed;
mod harvest;
mod identity;
mod stop;

pub use address::{AddressError, NodeAddress, NodeId};
pub use error::{PeerError, ProtocolError};
pub use feed::{ChunkSource, FedStats, FeedEvent, FeedSettings, feed};
pub use harvest::{HarvestSettings, Harvester};
pub use identity::{Identity, IdentityError};
pub use stop::Stop;
