//! Who is believed about a state that no application hash proves, and who says so.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a state is believed that no application hash proves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Basis {
    /// Its CID stands in the settings.
    Pinned,
    /// The person named it by its CID.
    Named,
    /// Enough of the listed endorsers computed it.
    Endorsed {
        /// Peer ids of those who did.
        endorsers: Vec<String>,
        /// How many are needed.
        needed: usize,
        /// How many are listed.
        listed: usize,
    },
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("its CID is pinned in config.toml"),
            Self::Named => f.write_str("it was named by its CID"),
            Self::Endorsed {
                endorsers,
                needed,
                listed,
            } => write!(
                f,
                "{} of the {listed} endorsers in config.toml computed it ({needed} needed): {}",
                endorsers.len(),
                endorsers.join(", ")
            ),
        }
    }
}

/// An endorsement of `show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndorsementDetail {
    /// Peer id of the endorser.
    pub endorser: String,
    /// What it says: computed, vouched.
    pub kind: String,
    /// Whether the settings list it, so that its word counts.
    pub listed: bool,
    /// Whether it is this node.
    pub own: bool,
}

/// Of `endorse`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endorsed {
    /// CID.
    pub manifest: String,
    /// Peer id of this node, whose key signed.
    pub endorser: String,
    /// What others are told: vouched, or computed where this node computed it.
    pub kind: String,
    /// Whether all of it is here.
    pub complete: bool,
    /// Of a delta, CID of what it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}
