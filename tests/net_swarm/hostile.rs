//! Peers that break the rules: a bare libp2p swarm that says what it likes.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{Stream, StreamProtocol, Swarm, Transport, tls, yamux};
use snapswarm::net::streams;
use snapswarm::net::{Multiaddr, Net, NetError, NetLimits, NetSettings, PeerId};
use snapswarm::snapshot::{MAX_MANIFEST_BYTES, ManifestId};
use snapswarm::wire::{
    CATALOGUE_PROTOCOL, MANIFEST_PROTOCOL, MAX_CATALOGUE_BYTES, ManifestResponse,
};

use crate::bench::*;

/// A peer of which only the streams are ours.
struct Bare {
    peer: PeerId,
    control: streams::Control,
}

impl Bare {
    /// Connects to `net`.
    async fn beside(net: &Net) -> Self {
        let key = Keypair::generate_ed25519();
        let peer = key.public().to_peer_id();
        let transport = MemoryTransport::default()
            .upgrade(Version::V1Lazy)
            .authenticate(tls::Config::new(&key).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(DEADLINE);
        let behaviour = streams::Behaviour::new();
        let mut swarm = Swarm::new(transport, behaviour, peer, config);
        let control = swarm.behaviour().new_control();
        swarm.dial(address(net)).unwrap();
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        connected(net, peer).await;
        Self { peer, control }
    }

    /// Answers each request of a protocol with these bytes; then closes, or stays
    /// silent.
    fn answers(&mut self, protocol: &'static str, bytes: Vec<u8>, close: bool) {
        let mut streams = self.control.accept(StreamProtocol::new(protocol));
        tokio::spawn(async move {
            let mut kept: Vec<Stream> = Vec::new();
            while let Some((_, mut stream)) = streams.next().await {
                let mut request = Vec::new();
                let _ = stream.read_to_end(&mut request).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                if close {
                    let _ = stream.close().await;
                }
                kept.push(stream);
            }
        });
    }

    async fn open(&mut self, net: &Net, protocol: &'static str) -> Stream {
        let opening = self
            .control
            .open_stream(net.peer_id(), StreamProtocol::new(protocol));
        soon("a stream", opening).await.unwrap()
    }
}

fn impatient() -> NetSettings {
    NetSettings {
        limits: NetLimits {
            answer_timeout: Duration::from_secs(1),
            manifest_timeout: Duration::from_secs(2),
            ..NetLimits::default()
        },
        ..over(Over::Memory)
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

#[tokio::test]
async fn catalogue_answers_that_break_the_rules_blame_the_peer() {
    let too_long = (MAX_CATALOGUE_BYTES + 1).to_be_bytes().to_vec();
    let longest = u32::MAX.to_be_bytes().to_vec();
    let garbage = framed(&[0xff; 1000]);
    for bytes in [too_long, longest, garbage] {
        let net = start(impatient()).await;
        let mut liar = Bare::beside(&net).await;
        liar.answers(CATALOGUE_PROTOCOL, bytes, false);
        let error = net.catalogue(liar.peer, None).await.unwrap_err();
        assert!(matches!(error, NetError::Protocol { .. }), "{error}");
        assert_eq!(error.blame(), Some(liar.peer));
    }
}

#[tokio::test]
async fn a_peer_that_answers_nothing_or_half_costs_time_and_is_not_blamed() {
    let net = start(impatient()).await;
    let mut silent = Bare::beside(&net).await;
    silent.answers(CATALOGUE_PROTOCOL, Vec::new(), false);
    silent.answers(MANIFEST_PROTOCOL, framed(&[]), false);
    let error = net.catalogue(silent.peer, None).await.unwrap_err();
    assert!(matches!(error, NetError::Timeout { .. }), "{error}");
    assert_eq!(error.blame(), None);

    let mut leaving = Bare::beside(&net).await;
    leaving.answers(CATALOGUE_PROTOCOL, framed(&[0; 9])[..8].to_vec(), true);
    let error = net.catalogue(leaving.peer, None).await.unwrap_err();
    assert!(matches!(error, NetError::Stream { .. }), "{error}");
    assert_eq!(error.blame(), None);
}

#[tokio::test]
async fn manifest_answers_are_checked_before_their_bytes() {
    let id = ManifestId(digest(b"whatever"));
    // Field 1, the size, with one byte too many.
    let mut too_large = vec![0x08];
    too_large.extend(varint(u64::from(MAX_MANIFEST_BYTES) + 1));
    let nothing_said = framed(&[]);
    let header_too_long = 65u32.to_be_bytes().to_vec();
    for bytes in [framed(&too_large), nothing_said, header_too_long] {
        let net = start(impatient()).await;
        let mut liar = Bare::beside(&net).await;
        liar.answers(MANIFEST_PROTOCOL, bytes, false);
        let error = net
            .manifest(liar.peer, &id, MAX_MANIFEST_BYTES)
            .await
            .unwrap_err();
        assert!(matches!(error, NetError::Protocol { .. }), "{error}");
        assert_eq!(error.blame(), Some(liar.peer));
    }

    // More than whoever asks wants.
    let net = start(impatient()).await;
    let mut large = Bare::beside(&net).await;
    let bytes = framed(&ManifestResponse::Size(101).encode());
    large.answers(MANIFEST_PROTOCOL, bytes, false);
    let error = net.manifest(large.peer, &id, 100).await.unwrap_err();
    assert_eq!(error.blame(), Some(large.peer), "{error}");

    let net = start(impatient()).await;
    let mut short = Bare::beside(&net).await;
    let mut bytes = framed(&ManifestResponse::Size(MAX_MANIFEST_BYTES).encode());
    bytes.extend([1; 100]);
    short.answers(MANIFEST_PROTOCOL, bytes.clone(), true);
    let error = net
        .manifest(short.peer, &id, MAX_MANIFEST_BYTES)
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::Stream { .. }), "{error}");

    let mut trickling = Bare::beside(&net).await;
    trickling.answers(MANIFEST_PROTOCOL, bytes, false);
    let error = net
        .manifest(trickling.peer, &id, MAX_MANIFEST_BYTES)
        .await
        .unwrap_err();
    assert!(matches!(error, NetError::Timeout { .. }), "{error}");
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[tokio::test]
async fn a_peer_without_our_protocols_is_named_as_such() {
    let net = start(impatient()).await;
    let bare = Bare::beside(&net).await;
    let error = net.catalogue(bare.peer, None).await.unwrap_err();
    assert!(matches!(error, NetError::Unsupported { .. }), "{error}");
    assert_eq!(error.blame(), None);
}

#[tokio::test]
async fn requests_that_break_the_rules_or_never_come_are_dropped_and_the_node_serves_on() {
    let net = start(impatient()).await;
    let mut rude = Bare::beside(&net).await;
    let mut open = Vec::new();
    for (protocol, bytes) in [
        (CATALOGUE_PROTOCOL, 257u32.to_be_bytes().to_vec()),
        (CATALOGUE_PROTOCOL, framed(&[0xff; 20])),
        (MANIFEST_PROTOCOL, framed(&[0xff; 20])),
        (MANIFEST_PROTOCOL, Vec::new()),
    ] {
        let mut stream = rude.open(&net, protocol).await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        open.push(stream);
    }
    eventually("four drops", &net, || net.stats().requests_dropped == 4).await;
    let honest = start(NetSettings {
        bootstrap: net.listeners(),
        ..impatient()
    })
    .await;
    connected(&honest, net.peer_id()).await;
    assert!(honest.catalogue(net.peer_id(), None).await.is_ok());
}

#[tokio::test]
async fn hints_from_a_peer_are_believed_only_as_far_as_it_can_know() {
    use snapswarm::wire::{CatalogueResponse, PeerHint};

    let net = start(impatient()).await;
    let (private, public) = (PeerId::random(), PeerId::random());
    let hint = |peer: PeerId, text: &str| PeerHint {
        peer_id: peer.to_bytes().into(),
        addresses: vec![text.parse::<Multiaddr>().unwrap().to_vec().into()],
    };
    let answer = CatalogueResponse {
        entries: Vec::new(),
        peers: vec![
            hint(private, "/ip4/192.168.7.7/tcp/1"),
            hint(public, "/ip4/203.0.113.7/tcp/1"),
            hint(net.peer_id(), "/ip4/203.0.113.8/tcp/1"),
            PeerHint {
                peer_id: vec![1, 2, 3].into(),
                addresses: vec![vec![0xff; 9].into()],
            },
        ],
    };
    let mut teller = Bare::beside(&net).await;
    teller.answers(CATALOGUE_PROTOCOL, framed(&answer.encode()), true);
    let answer = net.catalogue(teller.peer, None).await.unwrap();
    assert_eq!(answer.peers, [public]);
    assert_eq!(net.stats().ignored_addresses, 1);
}
