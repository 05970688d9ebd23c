//! The limits of the messages, each a step below and a step above, and what the
//! decoder of protobuf would let pass.

mod pieces;
mod short;

use super::WireError;
use crate::snapshot::{Digest, ManifestId};

const MANIFEST: ManifestId = ManifestId(Digest([1; 32]));

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, WireError>, about: &str) {
    let error = result.expect_err(about).to_string();
    assert!(error.contains(about), "'{error}' does not say {about}");
}
