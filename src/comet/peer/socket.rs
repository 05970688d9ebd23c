//! The TCP side of a connection to a node.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};
use tendermint_std_ext::TryClone;

use super::{NodeAddress, NodeId, PeerError};

/// Connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole handshake. CometBFT itself gives up after 3 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A living node sends a ping each 60 s and waits 45 s for the pong: who is
/// silent for longer is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(105);
/// Encrypted bytes gathered before a system call, each way.
const BUFFER_BYTES: usize = 64 << 10;
/// What the kernel may hold of ours. A pong waits behind it: at the lowest rate
/// that nodes in use read with (500 kB/s), a second.
const SEND_BUFFER_BYTES: usize = 512 << 10;

/// A socket under the encrypted connection: gathers what is written and sends
/// it before it reads, because the handshake of `tendermint-p2p` makes a write
/// of each frame and never flushes. Until [`Wire::established`] all of it must
/// happen before one deadline, however little comes each time.
pub(super) struct Wire {
    socket: BufReader<TcpStream>,
    outgoing: Vec<u8>,
    handshake: Arc<HandshakePhase>,
}

struct HandshakePhase {
    end: Instant,
    over: AtomicBool,
}

/// Ends the handshake phase of a [`Wire`] and of its clones.
pub(super) struct Established(Arc<HandshakePhase>, TcpStream);

impl Wire {
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        Ok(Self::over(
            socket,
            Arc::new(HandshakePhase {
                end: Instant::now() + HANDSHAKE_TIMEOUT,
                over: AtomicBool::new(false),
            }),
        ))
    }

    fn over(socket: TcpStream, handshake: Arc<HandshakePhase>) -> Self {
        Self {
            socket: BufReader::with_capacity(BUFFER_BYTES, socket),
            outgoing: Vec::with_capacity(BUFFER_BYTES),
            handshake,
        }
    }

    pub(super) fn established(&self) -> io::Result<Established> {
        let socket = self.socket.get_ref().try_clone()?;
        Ok(Established(self.handshake.clone(), socket))
    }

    /// Before each system call of the handshake: what is left of its time.
    fn limit_time(&self) -> io::Result<()> {
        if self.handshake.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let left = self.handshake.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        limit_each_call(self.socket.get_ref(), left)
    }
}

fn limit_each_call(socket: &TcpStream, time: Duration) -> io::Result<()> {
    socket.set_read_timeout(Some(time))?;
    socket.set_write_timeout(Some(time))
}

impl Established {
    pub(super) fn mark(self) -> io::Result<TcpStream> {
        self.0.over.store(true, Ordering::Relaxed);
        limit_each_call(&self.1, SILENCE)?;
        Ok(self.1)
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.outgoing.is_empty() {
            self.flush()?;
        }
        if self.socket.buffer().is_empty() {
            self.limit_time()?;
        }
        let ready = self.socket.fill_buf()?;
        let len = ready.len().min(to.len());
        to[..len].copy_from_slice(&ready[..len]);
        self.socket.consume(len);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        if self.outgoing.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.limit_time()?;
        self.socket.get_ref().write_all(&self.outgoing)?;
        self.outgoing.clear();
        Ok(())
    }
}

/// The half that a clone becomes shares nothing but the socket: what was read
/// ahead stays with the first one, which becomes the reading half.
impl TryClone for Wire {
    type Error = io::Error;

    fn try_clone(&self) -> io::Result<Self> {
        let socket = self.socket.get_ref().try_clone()?;
        Ok(Self::over(socket, self.handshake.clone()))
    }
}

/// Ends both directions; a thread that waits for the socket wakes up.
pub(super) fn shut(socket: &TcpStream) {
    // It fails only when the connection is gone already.
    let _ = socket.shutdown(Shutdown::Both);
}

/// Connects to the node, from a loopback address of our own if it is on
/// loopback.
pub(super) fn dial(node: &NodeAddress, own: NodeId) -> Result<TcpStream, PeerError> {
    let failed = |source| PeerError::Connect {
        place: place(node),
        source,
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in node.resolve().map_err(failed)? {
        match connect(addr, own) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// `HOST:PORT` of a node, for people.
pub(super) fn place(node: &NodeAddress) -> String {
    let whole = node.to_string();
    match whole.split_once('@') {
        Some((_, place)) => place.to_owned(),
        None => whole,
    }
}

fn connect(addr: SocketAddr, own: NodeId) -> io::Result<TcpStream> {
    if let IpAddr::V4(ip) = addr.ip()
        && ip.is_loopback()
        && let Ok(socket) = connect_from(own_loopback(own), addr)
    {
        return Ok(socket);
    }
    TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)
}

/// With `allow_duplicate_ip = false`, its default, a node drops a second peer
/// on one IP address without a word: a loopback address of our own, by our id,
/// keeps us apart from the others on this machine. Only Linux has all of
/// 127.0.0.0/8; elsewhere binding fails and the usual address serves.
fn own_loopback(own: NodeId) -> SocketAddr {
    let id = own.as_bytes();
    let ip = Ipv4Addr::new(127, 128 | id[0], id[1], 1 + id[2] % 254);
    SocketAddr::new(ip.into(), 0)
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), CONNECT_TIMEOUT)?;
    Ok(socket.into())
}
