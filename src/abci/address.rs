//! Where an application listens, as CometBFT writes it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::AbciError;

/// `tcp://HOST:PORT`, `unix://PATH`, or `HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A TCP address; the host may be a name.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AbciError;

    fn from_str(text: &str) -> Result<Self, AbciError> {
        let wrong = || AbciError::Address(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if !rest.is_empty() => Ok(Self::Unix(rest.into())),
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
    Unix(UnixListener, UnlinkOnDrop),
}

/// A Unix socket's file goes with its listener.
pub(super) struct UnlinkOnDrop(PathBuf);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
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
                Ok(Self::Unix(bound, UnlinkOnDrop(path.clone())))
            }
        }
    }

    /// Where it is bound: a port 0 has become a real one.
    pub(super) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?.to_string()),
            Self::Unix(_, path) => Address::Unix(path.0.clone()),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<(ReadSide, WriteSide)> {
        match self {
            Self::Tcp(listener) => tcp(listener.accept().await?.0),
            Self::Unix(listener, _) => Ok(unix(listener.accept().await?.0)),
        }
    }
}

async fn is_abandoned(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).await.is_err_and(refused)
}

/// Connects to an address.
pub(super) async fn connect(address: &Address) -> io::Result<(ReadSide, WriteSide)> {
    match address {
        Address::Tcp(address) => tcp(TcpStream::connect(address).await?),
        Address::Unix(path) => Ok(unix(UnixStream::connect(path).await?)),
    }
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
            ("unix://app.sock", "unix://app.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), full);
        }
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
        std::fs::write(&path, "a file of somebody").unwrap();
        assert!(Listener::bind(&address).await.is_err());
        assert!(path.exists());
    }
}
