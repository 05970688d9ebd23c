//! Streams of our own protocols, opened and taken by tasks outside the swarm.
//!
//! Each connection has a handler with a queue of streams that tasks ask for;
//! several are negotiated at once. Streams that peers open wait in one queue for
//! each protocol, so that those that come in the same moment are all taken. A
//! handler enters itself when it is made, before anyone hears of its connection,
//! and its end takes it out again: what is known here is bounded by the
//! connections that stand.
//!
//! `libp2p-stream` 0.5 does the same job, but keeps an entry for every connection
//! that ever was, drops the second of two streams that come at once, and may never
//! answer for a stream that is asked for while its connection comes up. What moves
//! bytes, the stream itself, is the same.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

/// Streams of one protocol that wait to be taken; one more is dropped. Each is
/// open at the peer's side already and may hold what the peer sends ahead: 256 KiB
/// at most.
pub const MAX_INCOMING: usize = 64;
/// Streams that wait to be opened on one connection.
const MAX_WANTED: usize = 32;
/// Streams being negotiated on one connection.
const MAX_NEGOTIATING: usize = 8;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenStreamError {
    /// No connection to the peer stands.
    #[error("there is no connection to {0}")]
    NotConnected(PeerId),
    /// Too many streams are asked for at once.
    #[error("{MAX_WANTED} streams to {0} are waiting to be opened")]
    Busy(PeerId),
    /// The peer does not speak the protocol.
    #[error("the peer does not speak {0}")]
    Unsupported(StreamProtocol),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a task asks a handler for.
#[derive(Debug)]
pub struct Wanted {
    protocol: StreamProtocol,
    reply: oneshot::Sender<Result<Stream, OpenStreamError>>,
}

/// Streams that peers open.
pub struct Incoming(mpsc::Receiver<(PeerId, Stream)>);

impl futures::Stream for Incoming {
    type Item = (PeerId, Stream);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[derive(Default)]
struct Shared {
    accepted: HashMap<StreamProtocol, mpsc::Sender<(PeerId, Stream)>>,
    connections: BTreeMap<PeerId, Vec<(ConnectionId, mpsc::Sender<Wanted>)>>,
}

/// The behaviour.
#[derive(Default)]
pub struct Behaviour(Control);

/// Opens streams, and takes those of others.
#[derive(Clone, Default)]
pub struct Control(Arc<Mutex<Shared>>);

impl Behaviour {
    /// Without any stream yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for tasks.
    pub fn new_control(&self) -> Control {
        self.0.clone()
    }
}

impl Control {
    /// Takes streams of a protocol from now on, in place of who took them before.
    pub fn accept(&self, protocol: StreamProtocol) -> Incoming {
        let (sender, incoming) = mpsc::channel(MAX_INCOMING);
        self.lock().accepted.insert(protocol, sender);
        Incoming(incoming)
    }

    /// Opens a stream on a connected peer.
    pub async fn open_stream(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        let (reply, opened) = oneshot::channel();
        self.ask(peer, Wanted { protocol, reply })?;
        // A handler that ends answers nobody.
        opened
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::ConnectionReset).into()))
    }

    /// Asks the newest connection that stands: of two to one peer, the older one
    /// may be dead and not know it yet.
    fn ask(&self, peer: PeerId, mut wanted: Wanted) -> Result<(), OpenStreamError> {
        let shared = self.lock();
        for (_, sender) in shared.connections.get(&peer).into_iter().flatten().rev() {
            match sender.try_send(wanted) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(OpenStreamError::Busy(peer)),
                Err(mpsc::error::TrySendError::Closed(back)) => wanted = back,
            }
        }
        Err(OpenStreamError::NotConnected(peer))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of one connection.
pub struct Handler {
    control: Control,
    peer: PeerId,
    id: ConnectionId,
    wanted: mpsc::Receiver<Wanted>,
    negotiating: usize,
}

impl Handler {
    fn enter(control: &Control, peer: PeerId, id: ConnectionId) -> Self {
        let (sender, wanted) = mpsc::channel(MAX_WANTED);
        let mut shared = control.lock();
        shared
            .connections
            .entry(peer)
            .or_default()
            .push((id, sender));
        Self {
            control: control.clone(),
            peer,
            id,
            wanted,
            negotiating: 0,
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let mut shared = self.control.lock();
        if let Some(of_peer) = shared.connections.get_mut(&self.peer) {
            of_peer.retain(|(id, _)| *id != self.id);
            if of_peer.is_empty() {
                shared.connections.remove(&self.peer);
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Speaks;
    type OutboundProtocol = Speaks;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Wanted;

    fn listen_protocol(&self) -> SubstreamProtocol<Speaks, ()> {
        let accepted = self.control.lock().accepted.keys().cloned().collect();
        SubstreamProtocol::new(Speaks(accepted), ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Speaks, Wanted, Infallible>> {
        // An event that ends a negotiation is followed by another poll.
        if self.negotiating >= MAX_NEGOTIATING {
            return Poll::Pending;
        }
        let Poll::Ready(Some(wanted)) = self.wanted.poll_recv(cx) else {
            return Poll::Pending;
        };
        self.negotiating += 1;
        let speaks = Speaks(vec![wanted.protocol.clone()]);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: SubstreamProtocol::new(speaks, wanted),
        })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Speaks, Speaks, (), Wanted>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => {
                let taken = self.control.lock().accepted.get(&protocol).cloned();
                let sent = taken.is_some_and(|sender| sender.try_send((self.peer, stream)).is_ok());
                if !sent {
                    tracing::debug!(peer = %self.peer, %protocol, "No room for a stream, dropped it");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
            }) => {
                self.negotiating -= 1;
                // Nobody waits for it any more: it closes.
                let _ = info.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                self.negotiating -= 1;
                let error = match error {
                    StreamUpgradeError::Timeout => io::Error::from(io::ErrorKind::TimedOut).into(),
                    StreamUpgradeError::Apply(never) => match never {},
                    StreamUpgradeError::NegotiationFailed => {
                        OpenStreamError::Unsupported(info.protocol)
                    }
                    StreamUpgradeError::Io(error) => error.into(),
                };
                let _ = info.reply.send(Err(error));
            }
            _ => {}
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::enter(&self.0, peer, id))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::enter(&self.0, peer, id))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The names of protocols; the stream itself is what comes of them.
pub struct Speaks(Vec<StreamProtocol>);

impl UpgradeInfo for Speaks {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Speaks {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Speaks {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
