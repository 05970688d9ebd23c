//! The socket's file: made with mode 0600 before anybody can see it, put in the
//! place of a dead daemon's by one rename, taken away on a clean stop.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::ControlError;

/// What `sun_path` of a socket address holds, less its final zero (`unix(7)`).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A bound control socket. Its file goes away when this is dropped, unless
/// somebody put another in its place.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Nothing is lost when this fails: the next daemon replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the control socket at `path`. The socket of a dead daemon is replaced.
/// The caller holds the home's lock: two calls for one path at the same time
/// are not told apart.
pub async fn bind(path: &Path) -> Result<ControlSocket, ControlError> {
    let failed = |source| ControlError::Open {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::Occupied {
                path: path.to_owned(),
            });
        }
        Ok(_) => {
            if connect(path).await.is_ok() {
                return Err(ControlError::InUse {
                    path: path.to_owned(),
                });
            }
        }
    }
    // The new socket gets its mode under another name, so that nobody can open
    // it before; the rename makes it visible and replaces what was there.
    let fresh = path.with_extension("sock.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = {
        let short = ShortPath::of(&fresh).map_err(failed)?;
        UnixListener::bind(&short.path).map_err(failed)?
    };
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let inode = fs::symlink_metadata(&fresh).map_err(failed)?.ino();
    fs::rename(&fresh, path).map_err(failed)?;
    Ok(ControlSocket {
        listener,
        path: path.to_owned(),
        inode,
    })
}

/// Connects to the socket at `path`, however long the path is.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(path)?;
    UnixStream::connect(&short.path).await
}

/// A name of a file that fits into a socket address: its own, or one through
/// its folder's descriptor, which is held open as long as this lives.
struct ShortPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= MAX_SOCKET_PATH_BYTES {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = File::open(folder)?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name),
            _folder: Some(folder),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let socket = bind(&path).await.unwrap();
        let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        // A listener that is closed leaves its file, like a daemon that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let living = bind(&path).await.unwrap();
        assert!(connect(&path).await.is_ok());
        assert!(matches!(bind(&path).await, Err(ControlError::InUse { .. })));
        drop(living);
        assert!(!path.exists(), "a clean stop takes the file away");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(
            bind(&path).await,
            Err(ControlError::Occupied { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_socket_in_a_very_deep_home_works() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a".repeat(100)).join("b".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("api.sock");
        let _socket = bind(&path).await.unwrap();
        connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_took_the_place_is_not_taken_away() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let first = bind(&path).await.unwrap();
        fs::rename(&path, home.path().join("aside")).unwrap();
        let _second = bind(&path).await.unwrap();
        drop(first);
        assert!(path.exists());
    }
}
