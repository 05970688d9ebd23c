//! Where an application listens, as CometBFT writes it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::AbciError;

/// An application on the same machine or beside it answers at once; an address from
/// which nothing comes back takes the system two minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `tcp://HOST:PORT`, `unix://PATH`, or `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A TCP address; the host may be a name.
    Tcp(String),
    /// A Unix socket; its path is absolute, because others are told of it that have
    /// another working folder.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AbciError;

    fn from_str(text: &str) -> Result<Self, AbciError> {
        let wrong = || AbciError::Address(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" => {
                let path = std::path::absolute(rest).map_err(|_| wrong())?;
                Ok(Self::Unix(path))
            }
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
                let is_port = port.parse::<u16>().is_ok();
                if host.is_empty() || host.contains('/') || !is_port {
                    return Err(wrong());
                }
                Ok(Self::Tcp(rest.to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// One side of a connection under the adapter.
pub(super) type ReadSide = Box<dyn AsyncRead + Send + Unpin>;
/// The other one.
pub(super) type WriteSide = Box<dyn AsyncWrite + Send + Unpin>;

/// An open port.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// The file goes before the listener closes: while it is there somebody answers,
    /// so nobody takes it for abandoned and puts another in its place.
    Unix(UnlinkOnDrop, UnixListener),
}

/// A Unix socket's file goes with its listener, unless another lies there by now.
pub(super) struct UnlinkOnDrop {
    path: PathBuf,
    inode: Option<u64>,
}

impl UnlinkOnDrop {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            inode: inode(path),
        }
    }
}

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::symlink_metadata(path).ok()?.ino())
}

impl Listener {
    /// Opens it. A Unix socket that a dead process left behind is taken over.
    pub(super) async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Address::Unix(path) => {
                let bound = match UnixListener::bind(path) {
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path).await =>
                    {
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    bound => bound?,
                };
                Ok(Self::Unix(UnlinkOnDrop::new(path), bound))
            }
        }
    }

    /// Where it is bound: a port 0 has become a real one.
    pub(super) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?.to_string()),
            Self::Unix(file, _) => Address::Unix(file.path.clone()),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<(ReadSide, WriteSide)> {
        match self {
            Self::Tcp(listener) => tcp(listener.accept().await?.0),
            Self::Unix(_, listener) => Ok(unix(listener.accept().await?.0)),
        }
    }
}

async fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).await.is_err_and(refused)
}

/// Connects to an address, or gives up after [`CONNECT_TIMEOUT`].
pub(super) async fn connect(address: &Address) -> io::Result<(ReadSide, WriteSide)> {
    let connecting = async {
        match address {
            Address::Tcp(address) => {
                tcp(TcpStream::connect(resolve(address).await?.as_slice()).await?)
            }
            Address::Unix(path) => Ok(unix(UnixStream::connect(path).await?)),
        }
    };
    let given_up = |_| Err(io::ErrorKind::TimedOut.into());
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    connected.unwrap_or_else(given_up)
}

/// Finds the addresses of a `HOST:PORT`, a name on a thread of its own: on the
/// runtime's blocking threads it would wait behind a disk that hangs. A connection
/// has two such threads at most: a name server that is silent is given up by the
/// system within about as long as a connection here.
async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (found, finding) = oneshot::channel();
    let name = address.to_owned();
    std::thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || found.send(name.to_socket_addrs().map(Iterator::collect)))?;
    finding.await.map_err(io::Error::other)?
}

fn tcp(stream: TcpStream) -> io::Result<(ReadSide, WriteSide)> {
    // Small frames wait for each other otherwise.
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((Box::new(read), Box::new(write)))
}

fn unix(stream: UnixStream) -> (ReadSide, WriteSide) {
    let (read, write) = stream.into_split();
    (Box::new(read), Box::new(write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_cometbft_writes_them() {
        for (text, full) in [
            ("tcp://127.0.0.1:26658", "tcp://127.0.0.1:26658"),
            ("localhost:1", "tcp://localhost:1"),
            ("[::1]:26658", "tcp://[::1]:26658"),
            ("unix:///run/app.sock", "unix:///run/app.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), full);
        }
        let relative = "unix://app.sock".parse::<Address>().unwrap().to_string();
        let here = std::env::current_dir().unwrap();
        assert_eq!(relative, format!("unix://{}/app.sock", here.display()));
        for text in [
            "",
            "127.0.0.1",
            ":1",
            "tcp://h:70000",
            "unix://",
            "http://h:1",
            "a/b:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_process_left_is_taken_over_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let listener = Listener::bind(&address).await.unwrap();
        assert_eq!(listener.address().unwrap(), address);
        assert!(Listener::bind(&address).await.is_err());
        drop(listener);
        assert!(!path.exists());
        // One whose place another took leaves that alone.
        let first = Listener::bind(&address).await.unwrap();
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        let second = Listener::bind(&address).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        std::fs::write(&path, "a file of somebody").unwrap();
        assert!(Listener::bind(&address).await.is_err());
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_name_is_found_and_one_that_is_none_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = resolve(&format!("localhost:{port}")).await.unwrap();
        assert!(found.iter().all(|address| address.port() == port));
        let address = Address::Tcp(format!("localhost:{port}"));
        connect(&address).await.map(drop).unwrap();
        assert!(resolve("no name:1").await.is_err());
    }
}
