//! What can go wrong between peers, in sentences for people.

use std::io;

use libp2p::{Multiaddr, PeerId};

use super::identity::IdentityError;
use crate::wire::{Refusal, WireError};

/// Errors of the network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A text that is no address of the kind that is needed here.
    #[error("'{text}' cannot be used as an address: {problem}")]
    BadAddress {
        /// What was given.
        text: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A setting that makes no sense.
    #[error("the setting '{setting}' {problem}")]
    BadSetting {
        /// Its name.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Another program listens there.
    #[error(
        "{address} is taken by another program (perhaps another snapswarm daemon); stop it, or \
         choose another port with --listen (port 0 takes a free one)"
    )]
    PortTaken {
        /// The address asked for.
        address: Multiaddr,
    },
    /// This machine has no such address.
    #[error(
        "{address} is not an address of this machine; listen on one that it has, or on \
         /ip4/0.0.0.0 for all of them"
    )]
    AddressNotHere {
        /// The address asked for.
        address: Multiaddr,
    },
    /// The port is reserved for the administrator.
    #[error("no permission to listen on {address}; choose a port above 1023")]
    PortForbidden {
        /// The address asked for.
        address: Multiaddr,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: Multiaddr,
        /// Why.
        source: io::Error,
    },
    /// The encrypted transport cannot be set up.
    #[error("cannot set up the transport: {0}")]
    Transport(String),
    /// No connection to a peer.
    #[error("cannot reach peer {peer}: {problem}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// Why.
        problem: String,
    },
    /// No connection to an address.
    #[error("cannot reach {address}: {problem}")]
    DialFailed {
        /// The address.
        address: Multiaddr,
        /// Why.
        problem: String,
    },
    /// The peer is banned here.
    #[error("peer {peer} is banned for now")]
    Banned {
        /// The peer.
        peer: PeerId,
    },
    /// The peer does not speak this protocol.
    #[error("peer {peer} does not speak {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// Protocol name.
        protocol: &'static str,
    },
    /// The connection broke in the middle of an exchange.
    #[error("the exchange with peer {peer} broke off: {source}")]
    Stream {
        /// The peer.
        peer: PeerId,
        /// Why.
        source: io::Error,
    },
    /// The peer did not answer in time.
    #[error("peer {peer} did not finish its {what} in time")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// Of what.
        what: &'static str,
    },
    /// The peer broke the protocol.
    #[error("peer {peer} broke the protocol: {source}")]
    Protocol {
        /// The peer.
        peer: PeerId,
        /// How.
        source: WireError,
    },
    /// The peer gave a refusal.
    #[error("peer {peer} does not give it: {}", refusal_text(*.refusal))]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
    /// A bounded queue of this node is full.
    #[error("too many {what} at once; try again later")]
    Busy {
        /// What there is too much of.
        what: &'static str,
    },
    /// The network was shut down.
    #[error("the network of this node is stopped")]
    Stopped,
}

fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Gone => "it is not there (any more)",
        Refusal::Busy => "it is busy",
        Refusal::OverLimit => "a limit of the protocol is passed",
        Refusal::NotAllowed => "it does not serve us",
    }
}

impl NetError {
    /// Whether the node cannot go on without a change by a person.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Identity(_)
            | Self::BadAddress { .. }
            | Self::BadSetting { .. }
            | Self::PortTaken { .. }
            | Self::AddressNotHere { .. }
            | Self::PortForbidden { .. }
            | Self::Listen { .. }
            | Self::Transport(_)
            | Self::Stopped => true,
            Self::Unreachable { .. }
            | Self::DialFailed { .. }
            | Self::Banned { .. }
            | Self::Unsupported { .. }
            | Self::Stream { .. }
            | Self::Timeout { .. }
            | Self::Protocol { .. }
            | Self::Refused { .. }
            | Self::Busy { .. } => false,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::DialFailed { .. }
            | Self::Stream { .. }
            | Self::Timeout { .. }
            | Self::Busy { .. } => true,
            Self::Refused { refusal, .. } => matches!(refusal, Refusal::Busy),
            Self::Identity(_)
            | Self::BadAddress { .. }
            | Self::BadSetting { .. }
            | Self::PortTaken { .. }
            | Self::AddressNotHere { .. }
            | Self::PortForbidden { .. }
            | Self::Listen { .. }
            | Self::Transport(_)
            | Self::Banned { .. }
            | Self::Unsupported { .. }
            | Self::Protocol { .. }
            | Self::Stopped => false,
        }
    }

    /// The peer that broke the rules, if one did. A peer that is slow, gone or
    /// refuses broke none.
    pub fn blame(&self) -> Option<PeerId> {
        match self {
            Self::Protocol { peer, .. } => Some(*peer),
            Self::Identity(_)
            | Self::BadAddress { .. }
            | Self::BadSetting { .. }
            | Self::PortTaken { .. }
            | Self::AddressNotHere { .. }
            | Self::PortForbidden { .. }
            | Self::Listen { .. }
            | Self::Transport(_)
            | Self::Unreachable { .. }
            | Self::DialFailed { .. }
            | Self::Banned { .. }
            | Self::Unsupported { .. }
            | Self::Stream { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Stopped => None,
        }
    }
}
