//! The key with which we meet CometBFT nodes.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ed25519_consensus::SigningKey;

use super::NodeId;

/// An ed25519 node key of our own. CometBFT operators name its id in
/// `persistent_peers` or `unconditional_peer_ids`, so it is kept in a file.
///
/// The file: 64 hex digits (the seed of the key) and a newline, mode 0600.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    id: NodeId,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file cannot be read.
    #[error("cannot read the node key {}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file cannot be made.
    #[error("cannot write a new node key to {}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the key file.
    #[error(
        "the node key {} can be read by others (mode {mode:o}): run `chmod 600` on it, \
         or remove it to get a new identity",
        path.display()
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error(
        "{} holds no node key (64 hex digits): restore it, or remove it to get a new identity",
        path.display()
    )]
    Content {
        /// The key file.
        path: PathBuf,
    },
}

impl Identity {
    /// A new identity that is in no file.
    pub fn generate() -> Self {
        Self::from_seed(rand::random())
    }

    /// The identity of this seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let key = SigningKey::from(seed);
        let id = NodeId::of(&key.verification_key());
        Self { key, id }
    }

    /// The identity in the file at `path`; a new one is made and written there
    /// when the file is missing. Blocking.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            loaded => loaded,
        }
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let read = |source| IdentityError::Read {
            path: path.to_owned(),
            source,
        };
        let mode = fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let text = fs::read(path).map_err(read)?;
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim_ascii(), &mut seed).map_err(|_| IdentityError::Content {
            path: path.to_owned(),
        })?;
        Ok(Self::from_seed(seed))
    }

    /// Writes beside the final name and links it into place, so that a crash
    /// leaves no half key and two processes end with the same one.
    fn create(path: &Path) -> Result<Self, IdentityError> {
        let write = |source| IdentityError::Write {
            path: path.to_owned(),
            source,
        };
        let made = Self::generate();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
        writeln!(file, "{}", hex::encode(made.key.as_bytes())).map_err(write)?;
        file.as_file().sync_all().map_err(write)?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(made),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(write(error.error)),
        }
    }

    /// The node id that others know us by.
    pub fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("comet_key");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap().id(), made.id());
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(IdentityError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("comet_key");
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(IdentityError::Content { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
