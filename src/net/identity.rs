//! Who this node is: a key file.
//!
//! The file holds an ed25519 key in libp2p's protobuf encoding (the form that
//! other libp2p programs use as well), readable by its owner only. It is written
//! to a temporary file that is then linked into place, so a key file is either
//! whole or absent, and two starts at once agree on one key.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{KeyType, Keypair};

use crate::snapshot::SIGNATURE_BYTES;

/// Others may not read the key.
const KEY_FILE_MODE: u32 = 0o600;
/// An encoded ed25519 key has 68 bytes.
const MAX_KEY_FILE_BYTES: u64 = 1024;

/// A node's key.
#[derive(Clone)]
pub struct Identity(Keypair);

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("cannot {action} the key file {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others can read the key.
    #[error(
        "the key file {path} can be read by others (mode {mode:o}): make it private with \
         'chmod 600 {path}', or delete it if the key may be known to someone else"
    )]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The bytes are no key.
    #[error(
        "the key file {path} is damaged ({problem}): put back a copy of it, or delete it to let \
         this node begin under a new peer id"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Identity {
    /// A new key that is kept nowhere.
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The key in `path`; a new one is made there when there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            result => result,
        }
    }

    /// The key in `path`.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let file_error = |source| IdentityError::File {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let damaged = |problem: String| IdentityError::Damaged {
            path: path.to_owned(),
            problem,
        };
        let file = File::open(path).map_err(file_error)?;
        let metadata = file.metadata().map_err(file_error)?;
        if !metadata.is_file() {
            return Err(damaged("it is no file".to_owned()));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions {
                path: path.to_owned(),
                mode,
            });
        }
        let mut bytes = Vec::new();
        file.take(MAX_KEY_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(file_error)?;
        if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
            return Err(damaged("it is too long for a key".to_owned()));
        }
        let key = Keypair::from_protobuf_encoding(&bytes)
            .map_err(|_| damaged("its bytes are no key".to_owned()))?;
        if key.key_type() != KeyType::Ed25519 {
            return Err(damaged("it holds a key of another kind".to_owned()));
        }
        Ok(Self(key))
    }

    fn create(path: &Path) -> Result<Self, IdentityError> {
        let file_error = |source| IdentityError::File {
            action: "create",
            path: path.to_owned(),
            source,
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(file_error)?;
        let identity = Self::generate();
        let bytes = identity
            .0
            .to_protobuf_encoding()
            .expect("an ed25519 key has an encoding");
        // Not `tempfile::NamedTempFile`: the mode must be right from the first
        // moment and whatever the umask is.
        let temporary = tempfile::Builder::new()
            .prefix(".identity-")
            .make_in(folder, |path| {
                File::options()
                    .write(true)
                    .create_new(true)
                    .mode(KEY_FILE_MODE)
                    .open(path)
            })
            .map_err(file_error)?;
        let mut file = temporary.as_file();
        file.write_all(&bytes).map_err(file_error)?;
        file.sync_all().map_err(file_error)?;
        match temporary.persist_noclobber(path) {
            Ok(_) => {
                File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .map_err(file_error)?;
                Ok(identity)
            }
            // Another start was faster: its key counts.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(file_error(error.error)),
        }
    }

    /// The name by which others know this node.
    pub fn peer_id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// Its public key: ed25519, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        let public = self.0.public().try_into_ed25519();
        public.expect("an ed25519 key").to_bytes()
    }

    /// This node's signature of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.0.sign(bytes).expect("ed25519 signs everything");
        let signature = signature.try_into();
        signature.expect("an ed25519 signature has 64 bytes")
    }

    /// The key itself.
    pub fn keypair(&self) -> &Keypair {
        &self.0
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep").join("identity.key");
        let first = Identity::load_or_create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), again.peer_id());
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file stays");
    }

    #[test]
    fn two_starts_at_once_agree_on_one_key() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("identity.key");
        let ids: Vec<PeerId> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(&path).unwrap().peer_id()))
                .collect();
            starts.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("identity.key");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(
            error,
            IdentityError::Permissions { mode: 0o640, .. }
        ));
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn garbage_is_refused_and_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("identity.key");
        for bytes in [&b""[..], b"garbage", &[0; 2000]] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
