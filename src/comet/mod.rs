//! CometBFT seen from outside.
//!
//! Two doors to a running node, and nothing of it is changed for either:
//!
//! * [`rpc`]: what the chain says about itself (application hashes, heights,
//!   whether a restore succeeded), asked over the node's RPC. Whoever runs the
//!   program named its URL; where that is not enough, [`light`] has what it says of a
//!   block proven by the signatures of the chain's validators.
//! * [`peer`]: CometBFT's peer protocol, with nothing but state sync in it. A
//!   [`peer::Harvester`] takes snapshots from a running node as any peer would;
//!   [`peer::feed`] gives one snapshot to a joining node. Whatever comes over
//!   this door is hostile until checked, and it tells neither the application
//!   hash of a snapshot nor whether a restore succeeded.
//!
//! Beside them stand the node's home with its settings ([`node_home`],
//! [`settings`]), its process ([`process`]), what its log says ([`sign`]) and the numbers
//! that it goes by ([`rules`]).
//!
//! The room knows nothing of the swarm or the disk: it gives and takes
//! [`Offer`](crate::snapshot::Offer)s and chunk bytes.

mod half_made;
pub mod light;
pub mod node_home;
pub mod peer;
pub mod process;
pub mod rpc;
pub mod rules;
pub mod settings;
pub mod sign;
