//! Taking snapshots from a running node.

use bytes::Bytes;

use super::{Identity, NodeAddress, Stop};
use crate::snapshot::{Offer, OpenSnapshot, Source, SourceError};

/// Which node to take snapshots from.
#[derive(Clone, Debug)]
pub struct HarvestSettings {
    /// The node.
    pub node: NodeAddress,
    /// Refuse a node of another chain.
    pub chain_id: Option<String>,
}

/// A [`Source`] that asks a CometBFT node for its snapshots, as any peer would.
/// Blocking; connects when first used and again, with growing pauses, whenever
/// the connection is lost.
pub struct Harvester {
    settings: HarvestSettings,
    identity: Identity,
    stop: Stop,
}

impl Harvester {
    /// Connects to nothing yet.
    pub fn new(settings: HarvestSettings, identity: Identity, stop: Stop) -> Self {
        Self {
            settings,
            identity,
            stop,
        }
    }

    /// Whether a connection stands now.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// The chain that the node named when it was last connected.
    pub fn chain_id(&self) -> Option<&str> {
        todo!()
    }
}

impl Source for Harvester {
    fn list(&mut self) -> Result<Vec<Offer>, SourceError> {
        todo!()
    }

    fn open(&mut self, _offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError> {
        todo!()
    }
}
