//! The key of a home, by which its node is known.

use std::path::Path;

use super::command::Failure;
use super::failure::blocking;
use super::services::PEERS_FILE;
use crate::net::{Identity, IdentityError};
use crate::snapshot::EndorserKey;

/// File of the node's libp2p key in the home.
const IDENTITY_FILE: &str = "identity.key";

/// The key of a home that has one and lets it be read.
pub(super) fn known_key(home: &Path) -> Option<EndorserKey> {
    let identity = Identity::load(&home.join(IDENTITY_FILE)).ok()?;
    Some(EndorserKey(identity.public_key()))
}

/// The node's libp2p identity; a home without one gets one.
pub(super) async fn of_home(home: &Path) -> Result<Identity, Failure> {
    let home = home.to_owned();
    blocking(move || load(&home)).await
}

/// The same, where blocking is allowed.
pub(super) fn load(home: &Path) -> Result<Identity, Failure> {
    tell_of_lost_key(home);
    Ok(Identity::load_or_create(&home.join(IDENTITY_FILE))?)
}

/// A home that knows peers had a key. With a new one it has another name: who
/// knows this node by its old one does not find it any more.
fn tell_of_lost_key(home: &Path) {
    let key = home.join(IDENTITY_FILE);
    if !key.exists() && home.join(PEERS_FILE).exists() {
        tracing::warn!(
            file = %key.display(),
            "The key of this node is missing. With a new one its peer id changes, and addresses \
             of it that others hold are of no use any more. Put the old file back if there is a \
             copy"
        );
    }
}

/// The peer id of a home that is only looked at: nothing where there is no key
/// yet and none can be made, where it is somebody else's, or where it cannot be used.
pub(super) fn peer_id_of(home: &Path) -> Result<Option<String>, Failure> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    tell_of_lost_key(home);
    match Identity::load_or_create(&home.join(IDENTITY_FILE)) {
        Ok(identity) => Ok(Some(identity.peer_id().to_string())),
        Err(IdentityError::File { source, .. })
            if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) =>
        {
            Ok(None)
        }
        Err(error @ (IdentityError::Permissions { .. } | IdentityError::Damaged { .. })) => {
            tracing::warn!("{}", Failure::from(error).message);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
