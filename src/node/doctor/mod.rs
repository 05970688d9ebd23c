//! `doctor`: looks at what a join, a feed or a provider depends on, and tells what
//! stands in the way.
//!
//! ```text
//! gather (home, daemon, node's folder, RPCs) ─▶ Facts ─▶ judge ─▶ findings
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `facts` | what was seen, as plain data |
//! | `gather` | seeing it: the home, the node's folder, the disks |
//! | `questions` | the part of it that comes over RPC |
//! | `judge` | from facts to findings. Pure |
//! | `finding` | what is told |
//! | `figures` | sizes, times, Go's durations. Pure |
//!
//! Laws:
//!
//! * It only looks: no file is made or changed, no lock is taken, nothing is asked of
//!   a node that changes it.
//! * What does not answer is a finding, never a failure; each question is bounded in
//!   time.
//! * What was not looked at is told, with the argument that would let it.

mod facts;
mod figures;
mod finding;
mod gather;
mod judge;
mod questions;

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

pub use self::finding::{Diagnosis, Finding, Level};

use super::command::Progress;
use super::progress::Reporter;

/// What `doctor` was told.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// Home of the node that is to join, or from which snapshots are taken.
    pub node_home: Option<PathBuf>,
    /// RPC of that node.
    pub node_rpc: Option<String>,
    /// RPC endpoints of other nodes of the chain.
    pub chain_rpc: Vec<String>,
    /// The snapshot to judge by.
    pub manifest: Option<String>,
}

/// Looks at everything that the options let it see.
pub async fn examine(
    home: &Path,
    options: &DoctorOptions,
    progress: mpsc::Sender<Progress>,
) -> Diagnosis {
    Reporter::new(progress).phase("looking at the home, the node and the chain");
    let facts = gather::gather(home, options).await;
    Diagnosis::of(judge::judge(&facts))
}
