//! From a TCP connection to a node that proved who it is.
//!
//! Encryption and authentication are `tendermint-p2p`'s. Its
//! `SecretConnection` copies a decrypted frame into the caller's buffer and
//! **panics when the frame is longer than that buffer**. After the handshake
//! that cannot happen: everything is read through a buffer as large as the
//! largest frame. *Within* the handshake the crate itself reads with a buffer of
//! 103 bytes, so that a remote which sends a frame of another length than its
//! `AuthSigMessage` has makes it panic; a remote needs no key for that. So the
//! handshake runs inside `catch_unwind` and such a panic becomes an ordinary
//! [`PeerError::Handshake`] of this one connection: nothing outlives it that
//! could be left half done. (The panic's own line still reaches stderr through
//! the panic hook.)

use std::{
    io::{self, BufReader, Read, Write},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tendermint_p2p::secret_connection::{
    DATA_MAX_SIZE, PublicKey, Receiver, SecretConnection, Sender, Version,
};

use super::packet::{ReadError, read_delimited};
use super::socket::Wire;
use super::{Identity, NodeId, NodeInfo, PeerError, node_info::MAX_NODE_INFO_BYTES};

/// The block protocol of CometBFT 0.34 to 1.x. What lies in a header is of no
/// concern here, but another number means another generation of the protocol.
const BLOCK_PROTOCOL: u64 = 11;

/// Who is expected at the other end.
pub(super) struct Expected<'a> {
    /// `HOST:PORT`, for messages.
    pub(super) place: &'a str,
    pub(super) id: NodeId,
    pub(super) chain_id: Option<&'a str>,
}

/// A connection whose other end is proven.
pub(super) struct Secured {
    pub(super) sender: Sender<Wire>,
    /// The buffer is as large as a frame: see the page's head.
    pub(super) receiver: BufReader<Receiver<Wire>>,
    pub(super) socket: TcpStream,
    pub(super) info: NodeInfo,
    /// Our own id.
    pub(super) own: NodeId,
}

/// Makes the connection a secured one: encryption, the node's proof of its id,
/// the exchange of node infos. Takes a few seconds at most.
pub(super) fn secure(
    socket: TcpStream,
    identity: &Identity,
    expected: &Expected<'_>,
) -> Result<Secured, PeerError> {
    let place = expected.place;
    let failed = |problem: String| PeerError::Handshake {
        place: place.to_owned(),
        problem,
    };
    let broken = |error: io::Error| failed(explain(&error));
    let listen = socket.local_addr().map_err(broken)?;
    let wire = Wire::new(socket).map_err(broken)?;
    let established = wire.established().map_err(broken)?;

    let secret = encrypt(wire, identity).map_err(failed)?;
    let PublicKey::Ed25519(key) = secret.remote_pubkey();
    let found = NodeId::of(&key);
    if found != expected.id {
        return Err(PeerError::WrongNode {
            place: place.to_owned(),
            expected: expected.id,
            found,
        });
    }

    let (mut sender, receiver) = secret.split().map_err(|error| failed(first_line(&error)))?;
    let mut receiver = BufReader::with_capacity(DATA_MAX_SIZE, receiver);
    let info = read_node_info(&mut receiver, place)?;
    if info.id != found {
        return Err(PeerError::Incompatible {
            place: place.to_owned(),
            problem: format!("it says that it is {}, and proves to be {found}", info.id),
        });
    }
    check_fit(&info, expected)?;
    sender
        .write_all(&info.answer(identity, listen))
        .and_then(|()| sender.flush())
        .map_err(broken)?;
    let socket = established.mark().map_err(broken)?;
    Ok(Secured {
        sender,
        receiver,
        socket,
        info,
        own: identity.id(),
    })
}

/// The crate's handshake, with its panic contained (see the page's head).
fn encrypt(wire: Wire, identity: &Identity) -> Result<SecretConnection<Wire>, String> {
    let key = identity.key().clone();
    // The closure owns all that it touches, and what it owned is gone after a
    // panic: there is no broken state to observe.
    match catch_unwind(AssertUnwindSafe(move || {
        SecretConnection::new(wire, key, Version::V0_34)
    })) {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => Err(first_line(&error)),
        Err(_) => Err("it sent a frame of a wrong length instead of its signature".to_owned()),
    }
}

fn read_node_info(from: &mut BufReader<impl Read>, place: &str) -> Result<NodeInfo, PeerError> {
    let mut block = Vec::new();
    match read_delimited(from, &mut block, "node info", MAX_NODE_INFO_BYTES) {
        Ok(()) => NodeInfo::decode(&block),
        Err(ReadError::Protocol(problem)) => Err(problem),
        Err(ReadError::Io(error)) => {
            return Err(PeerError::Handshake {
                place: place.to_owned(),
                problem: explain(&error),
            });
        }
    }
    .map_err(|problem| PeerError::Protocol {
        place: place.to_owned(),
        problem,
    })
}

fn check_fit(info: &NodeInfo, expected: &Expected<'_>) -> Result<(), PeerError> {
    let place = || expected.place.to_owned();
    if let Some(chain_id) = expected.chain_id
        && chain_id != info.chain_id
    {
        return Err(PeerError::WrongChain {
            place: place(),
            expected: chain_id.to_owned(),
            found: info.chain_id.clone(),
        });
    }
    let (_, block, _) = info.protocol;
    if block != BLOCK_PROTOCOL {
        return Err(PeerError::Incompatible {
            place: place(),
            problem: format!("its block protocol is {block}, not {BLOCK_PROTOCOL}"),
        });
    }
    if !info.has_state_sync() {
        return Err(PeerError::Incompatible {
            place: place(),
            problem: "it has no state sync (channels 0x60 and 0x61)".to_owned(),
        });
    }
    Ok(())
}

/// An error of the connection in words. The texts of `tendermint-p2p` carry a
/// backtrace after their first line.
pub(super) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => "the other side closed it".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => first_line(error),
    }
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
