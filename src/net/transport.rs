//! The transports: TCP with TLS 1.3 and yamux, QUIC, host names, memory.

use std::time::Duration;

use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, MemoryTransport, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, dns, quic, tcp, yamux};

use super::error::NetError;
use super::settings::NetSettings;
use super::socket::Buffered;
use super::tls::Tls;

/// From the first packet to an authenticated, multiplexed connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection at a time, both directions. Kademlia alone may use
/// 32 each way; one more than the limit ends the connection. A stream's receive
/// window begins at 256 KiB and grows only with what is read from it (to twice
/// bandwidth × delay), so a peer whose streams nobody reads can make this node
/// hold at most 128 × 256 KiB = 32 MiB, and the limit on the memory of the
/// process keeps others out long before many do.
const MAX_STREAMS: usize = 128;
/// Bytes on the way on one QUIC stream: 1 Gbit/s at 64 ms. Piece streams
/// acknowledge by themselves and stay far below on shorter paths.
const QUIC_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes on the way on one QUIC connection: one piece stream and the short ones.
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 10 << 20;

type Muxed = Boxed<(PeerId, StreamMuxerBox)>;

/// Everything that addresses can name, as one transport.
pub(super) fn build(key: &Keypair, settings: &NetSettings) -> Result<Muxed, NetError> {
    let setup = |error: &dyn std::fmt::Display| NetError::Transport(error.to_string());
    let tls = Tls::new(key).map_err(|error| setup(&error))?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(MAX_STREAMS);

    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(|socket, _| Buffered::new(socket));
    let tcp: Muxed = match &settings.pre_shared_key {
        Some(shared) => {
            let pnet = PnetConfig::new(PreSharedKey::new(shared.0));
            tcp.and_then(move |socket, _| pnet.handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(tls.clone())
                .multiplex(yamux.clone())
                .timeout(HANDSHAKE_TIMEOUT)
                .boxed()
        }
        None => tcp
            .upgrade(Version::V1Lazy)
            .authenticate(tls.clone())
            .multiplex(yamux.clone())
            .timeout(HANDSHAKE_TIMEOUT)
            .boxed(),
    };
    // QUIC has no place for a pre-shared key: it would let strangers in.
    let internet: Muxed = if settings.pre_shared_key.is_some() {
        tcp
    } else {
        let mut config = quic::Config::new(key);
        config.handshake_timeout = HANDSHAKE_TIMEOUT;
        config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
        config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
        config.max_concurrent_stream_limit = MAX_STREAMS as u32;
        let quic = quic::tokio::Transport::new(config);
        OrTransport::new(tcp, quic)
            .map(|either, _| match either {
                futures::future::Either::Left(output) => output,
                futures::future::Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            })
            .boxed()
    };
    let named = with_names(internet);
    if !settings.memory_transport {
        return Ok(named);
    }
    let memory = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(tls)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .boxed();
    Ok(OrTransport::new(memory, named)
        .map(|either, _| either.into_inner())
        .boxed())
}

/// Adds host names. A machine without a usable resolver setting can still use IP
/// addresses.
fn with_names(inner: Muxed) -> Muxed {
    // A failure would swallow what it is given, so it is asked with nothing first.
    let probe = dns::tokio::Transport::<()>::system(()).map(drop);
    match probe {
        Ok(()) => match dns::tokio::Transport::system(inner) {
            Ok(named) => named.boxed(),
            Err(_) => unreachable!("the same setting was read a moment ago"),
        },
        Err(error) => {
            tracing::warn!(%error, "The system's resolver cannot be used: host names in addresses will not work");
            inner
        }
    }
}
