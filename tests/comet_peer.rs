//! The peer protocol against a made-up node that misbehaves, or that does what
//! real nodes do only under load.

#[path = "support/fake_node.rs"]
mod fake_node;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chacha20poly1305::aead::{AeadInPlace, KeyInit, generic_array::GenericArray};
use curve25519_dalek_ng::constants::X25519_BASEPOINT;
use curve25519_dalek_ng::montgomery::MontgomeryPoint;
use curve25519_dalek_ng::scalar::Scalar;
use ed25519_consensus::SigningKey;
use fake_node::{FakeNode, id};
use snapswarm::comet::peer::{
    CHUNK_CHANNEL, ChunkSource, FeedEvent, FeedSettings, HarvestSettings, Harvester, Identity,
    NodeAddress, SNAPSHOT_CHANNEL, Stop, feed,
};
use snapswarm::snapshot::{Offer, Source, SourceError};
use tendermint_p2p::secret_connection::{DATA_MAX_SIZE, Kdf, SecretConnection, TAG_SIZE, Version};
use tendermint_proto::v0_38::p2p;
use tendermint_proto::v0_38::statesync::{self, message::Sum};

fn address(listener: &TcpListener) -> NodeAddress {
    let addr = listener.local_addr().unwrap();
    NodeAddress {
        id: id(),
        host: addr.ip().to_string(),
        port: addr.port(),
    }
}

fn harvester(node: NodeAddress) -> Harvester {
    let settings = HarvestSettings {
        node,
        chain_id: None,
    };
    Harvester::new(settings, Identity::generate(), Stop::new())
}

/// A harvester and the node that it meets.
fn harvester_of<T: Send + 'static>(
    behave: impl FnOnce(TcpListener) -> T + Send + 'static,
) -> (Harvester, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let harvester = harvester(address(&listener));
    (harvester, std::thread::spawn(move || behave(listener)))
}

/// What a harvester says when its first connection is treated so.
fn says(behave: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let (mut harvester, peer) = harvester_of(move |listener| behave(listener.accept().unwrap().0));
    let error = harvester.list().unwrap_err().to_string();
    drop(harvester);
    peer.join().unwrap();
    error
}

#[test]
fn a_peer_that_hangs_up_or_talks_nonsense_in_the_handshake_is_an_error() {
    let closes = says(drop);
    assert!(closes.contains("handshake"), "{closes}");
    let http = says(|mut socket| {
        socket
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = socket.read(&mut [0; 64]);
    });
    assert!(http.contains("handshake"), "{http}");
    let low_order_key = says(|mut socket| {
        let mut hello = vec![0x22, 0x0a, 0x20];
        hello.extend([0; 32]);
        socket.write_all(&hello).unwrap();
        let _ = socket.read(&mut [0; 64]);
    });
    assert!(low_order_key.contains("handshake"), "{low_order_key}");
}

#[test]
fn a_peer_that_trickles_is_dropped_when_the_time_of_the_handshake_is_over() {
    let start = Instant::now();
    let error = says(move |mut socket| {
        // A key of 35 bytes, one at a time: each wait of its own is short.
        while socket.write_all(&[0x22]).is_ok() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(error.contains("handshake"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
}

/// The key exchange as `tendermint-p2p` does it, and then, where the signature
/// should come in a frame of 103 bytes, a frame of `len`.
fn send_frame_instead_of_signature(mut socket: TcpStream, len: usize) {
    let secret = Scalar::from_bytes_mod_order([7; 32]);
    let ours = X25519_BASEPOINT * secret;
    socket.write_all(&[0x22, 0x0a, 0x20]).unwrap();
    socket.write_all(ours.as_bytes()).unwrap();
    let mut hello = [0; 35];
    socket.read_exact(&mut hello).unwrap();
    let theirs = MontgomeryPoint(hello[3..].try_into().unwrap());
    let shared = secret * theirs;
    let low = ours.as_bytes() < theirs.as_bytes();
    let kdf = Kdf::derive_secrets_and_challenge(shared.as_bytes(), low);
    let cipher = chacha20poly1305::ChaCha20Poly1305::new(&kdf.send_secret.into());
    let mut frame = vec![0; 4 + DATA_MAX_SIZE];
    frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
    let tag = cipher
        .encrypt_in_place_detached(GenericArray::from_slice(&[0; 12]), b"", &mut frame)
        .unwrap();
    frame.extend_from_slice(&tag);
    assert_eq!(frame.len(), 4 + DATA_MAX_SIZE + TAG_SIZE);
    let _ = socket.write_all(&frame);
    let _ = socket.read(&mut [0; 2048]);
}

#[test]
fn a_frame_that_makes_the_library_of_the_handshake_panic_is_an_error_of_this_peer() {
    for len in [103, 104, DATA_MAX_SIZE] {
        let error = says(move |socket| send_frame_instead_of_signature(socket, len));
        assert!(error.contains("handshake"), "{error}");
        let panicked = error.contains("wrong length");
        assert_eq!(panicked, len > 103, "{error}");
    }
}

#[test]
fn a_node_info_that_does_not_fit_is_an_error_that_says_what() {
    let with = |change: fn(&mut p2p::DefaultNodeInfo)| {
        says(move |socket| {
            let mut node = FakeNode::accept_with(socket, change);
            let _ = node.read_delimited();
        })
    };
    let no_state_sync = with(|info| info.channels = vec![0x20, 0x60]);
    assert!(no_state_sync.contains("no state sync"), "{no_state_sync}");
    let old = with(|info| info.protocol_version.as_mut().unwrap().block = 10);
    assert!(old.contains("block protocol is 10"), "{old}");
    let pretender = with(|info| info.default_node_id = "00".repeat(20));
    assert!(pretender.contains("proves to be"), "{pretender}");
    let escape = with(|info| info.network = "\u{1b}[2J".to_owned());
    assert!(escape.contains("chain id"), "{escape}");
    let endless = says(|socket| {
        let mut node = FakeNode::encrypted(socket);
        node.write(&[0xff, 0xff, 0x7f]);
        let _ = node.read_delimited();
    });
    assert!(endless.contains("more than 10240"), "{endless}");
}

#[test]
fn what_breaks_the_packet_rules_ends_the_connection_by_name() {
    fn after_handshake(act: impl FnOnce(&mut FakeNode) + Send + 'static) -> String {
        says(move |socket| {
            let mut node = FakeNode::establish(socket);
            act(&mut node);
            while node.next_packet().is_ok() {}
        })
    }
    let long = after_handshake(|node| {
        node.write(&[0xff, 0xff, 0x7f]);
    });
    assert!(long.contains("a packet of more than"), "{long}");
    let foreign = after_handshake(|node| {
        node.packet(p2p::packet::Sum::PacketMsg(p2p::PacketMsg {
            channel_id: 0x30,
            eof: true,
            data: vec![1],
        }));
    });
    assert!(foreign.contains("channel 0x30"), "{foreign}");
    let endless = after_handshake(|node| {
        // An offer that never ends.
        while node.packet(p2p::packet::Sum::PacketMsg(p2p::PacketMsg {
            channel_id: SNAPSHOT_CHANNEL.into(),
            eof: false,
            data: vec![0; 1024],
        })) {}
    });
    assert!(endless.contains("more than 4000000 bytes"), "{endless}");
}

#[test]
fn only_what_was_asked_for_is_taken_and_a_silent_node_is_asked_again() {
    let (mut source, node) = harvester_of(|listener| {
        let mut node = FakeNode::establish(listener.accept().unwrap().0);
        node.expect_list_request();
        for height in 1..=5 {
            node.send_chunk(height, 0, vec![9; 50_000]);
        }
        node.send_offer(7, 3);
        node.send_offer(9, 1);
        let first = node.expect_chunk_request();
        assert_eq!(first, 0);
        node.packet(p2p::packet::Sum::PacketPing(p2p::PacketPing {}));
        assert!(matches!(
            node.next_packet().unwrap(),
            p2p::packet::Sum::PacketPong(_)
        ));
        // Never asked for: another snapshot, another chunk.
        node.send_chunk(9, 0, vec![9; 10]);
        node.send_chunk(7, 2, vec![9; 10]);
        node.send_chunk(7, 0, vec![0; 3000]);
        // The next two are under way, and the node forgets both.
        assert_eq!(
            [node.expect_chunk_request(), node.expect_chunk_request()],
            [1, 2]
        );
        let silent = Instant::now();
        assert_eq!(
            [node.expect_chunk_request(), node.expect_chunk_request()],
            [1, 2]
        );
        let silent = silent.elapsed();
        node.send_chunk(7, 2, vec![2; 1]);
        node.send_chunk(7, 1, vec![1; 2000]);
        node.send_chunk(7, 1, vec![8; 2000]);
        // A node that hangs up with unread requests takes its last chunks back.
        while node.next_packet().is_ok() {}
        silent
    });
    let offers = source.list().unwrap();
    let heights: Vec<_> = offers.iter().map(|offer| offer.height).collect();
    assert_eq!(heights, [9, 7], "newest first");
    assert!(source.is_connected());
    assert_eq!(source.chain_id(), Some("fake-1"));
    let mut reading = source.open(&offers[1]).unwrap();
    let mut next = || reading.next_chunk().unwrap();
    assert_eq!(next().unwrap(), vec![0; 3000]);
    assert_eq!(next().unwrap(), vec![1; 2000]);
    assert_eq!(next().unwrap(), vec![2; 1]);
    assert_eq!(next(), None);
    drop(reading);
    drop(source);
    let silent = node.join().unwrap();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&silent),
        "{silent:?}"
    );
}

#[test]
fn a_snapshot_that_is_gone_after_a_reconnect_is_gone() {
    let (mut source, node) = harvester_of(|listener| {
        let mut node = FakeNode::establish(listener.accept().unwrap().0);
        node.expect_list_request();
        node.send_offer(7, 3);
        assert_eq!(node.expect_chunk_request(), 0);
        node.send_chunk(7, 0, vec![1]);
        node.expect_chunk_request();
        drop(node);
        let mut node = FakeNode::establish(listener.accept().unwrap().0);
        node.expect_list_request();
        // The same height and format, and yet another snapshot.
        node.send_offer(7, 4);
        while node.next().is_ok() {}
    });
    let offer = source.list().unwrap().remove(0);
    let mut reading = source.open(&offer).unwrap();
    assert!(reading.next_chunk().unwrap().is_some());
    assert!(matches!(
        reading.next_chunk(),
        Err(SourceError::Gone {
            height: 7,
            format: 1
        })
    ));
    drop(reading);
    drop(source);
    node.join().unwrap();
}

/// Chunks of 200 kB, and how often one was read.
struct Counted(AtomicU32);

impl ChunkSource for Counted {
    fn chunk(&self, index: u32) -> io::Result<Bytes> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(vec![index as u8; 200_000].into())
    }
}

fn offer() -> Offer {
    Offer {
        height: 7,
        format: 1,
        chunks: 3,
        hash: Bytes::from_static(b"hash"),
        metadata: Bytes::from_static(b"metadata"),
    }
}

/// Feeds a made-up node that dials us; gives what the node saw.
fn fed<T: Send>(
    chunks: &dyn ChunkSource,
    behave: impl FnOnce(std::net::SocketAddr) -> T + Send,
) -> (T, Vec<FeedEvent>) {
    let stop = Stop::new();
    let settings = FeedSettings {
        node: NodeAddress {
            id: id(),
            host: "127.0.0.1".to_owned(),
            port: 1,
        },
        listen: Some("127.0.0.1:0".parse().unwrap()),
        chain_id: Some("fake-1".to_owned()),
    };
    let (bound, wait_for_bound) = mpsc::channel();
    let mut events = Vec::new();
    let seen = std::thread::scope(|scope| {
        let node = scope.spawn({
            let stop = stop.clone();
            move || {
                let seen = behave(wait_for_bound.recv().unwrap());
                stop.stop();
                seen
            }
        });
        let mut note = |event: FeedEvent| {
            if let FeedEvent::Listening { addr } = &event {
                bound.send(*addr).unwrap();
            }
            events.push(event);
        };
        feed(
            &settings,
            &Identity::generate(),
            &offer(),
            chunks,
            &mut note,
            &stop,
        )
        .unwrap();
        node.join().unwrap()
    });
    (seen, events)
}

fn expect_offer(node: &mut FakeNode) {
    match node.next().unwrap() {
        Sum::SnapshotsResponse(found) => {
            assert_eq!((found.height, found.format, found.chunks), (7, 1, 3));
            assert_eq!(
                (&found.hash[..], &found.metadata[..]),
                (&b"hash"[..], &b"metadata"[..])
            );
        }
        other => panic!("{other:?} instead of an offer"),
    }
}

#[test]
fn a_node_that_asks_too_much_gets_each_chunk_once_and_nothing_else() {
    let chunks = Counted(AtomicU32::new(0));
    let (received, events) = fed(&chunks, |addr| {
        let mut node = FakeNode::establish(TcpStream::connect(addr).unwrap());
        expect_offer(&mut node);
        for _ in 0..20 {
            for index in [2, 1, 0] {
                node.ask_for_chunk(7, index);
            }
            node.ask_for_chunk(7, 3);
            node.ask_for_chunk(7, u32::MAX);
            node.ask_for_chunk(8, 0);
            node.send_offer(99, 1);
            node.send_chunk(7, 0, vec![9; 500]);
        }
        let mut received = Vec::new();
        while received.len() < 3 {
            if let Sum::ChunkResponse(chunk) = node.next().unwrap() {
                assert_eq!(chunk.chunk, vec![chunk.index as u8; 200_000]);
                received.push(chunk.index);
            }
        }
        // The answer to this comes after all answers to the above.
        node.send(Sum::SnapshotsRequest(statesync::SnapshotsRequest {}));
        expect_offer(&mut node);
        received
    });
    assert_eq!(
        {
            let mut sorted = received.clone();
            sorted.sort_unstable();
            sorted
        },
        [0, 1, 2],
        "{received:?}"
    );
    assert_eq!(chunks.0.load(Ordering::SeqCst), 3, "{events:?}");
}

#[test]
fn a_flood_of_requests_is_answered_in_bounds_while_pongs_overtake_chunks() {
    let chunks = Counted(AtomicU32::new(0));
    let ((), _) = fed(&chunks, |addr| {
        let mut node = FakeNode::establish(TcpStream::connect(addr).unwrap());
        for _ in 0..5_000 {
            node.send(Sum::SnapshotsRequest(statesync::SnapshotsRequest {}));
        }
        for index in [0, 1, 2] {
            node.ask_for_chunk(7, index);
        }
        node.packet(p2p::packet::Sum::PacketPing(p2p::PacketPing {}));
        let (mut pong_after, mut parts) = (None, 0);
        while parts < 3 * 196 {
            match node.next_packet().unwrap() {
                p2p::packet::Sum::PacketPong(_) => pong_after = Some(parts),
                p2p::packet::Sum::PacketMsg(part) => {
                    parts += usize::from(part.channel_id == i32::from(CHUNK_CHANNEL));
                }
                p2p::packet::Sum::PacketPing(_) => {}
            }
        }
        assert!(
            pong_after.is_some_and(|after| after < 3 * 196 - 60),
            "{pong_after:?}"
        );
    });
}

#[test]
fn strangers_at_the_listener_do_not_end_the_feeding() {
    let chunks = Counted(AtomicU32::new(0));
    let ((), events) = fed(&chunks, |addr| {
        drop(TcpStream::connect(addr).unwrap());
        let stranger = TcpStream::connect(addr).unwrap();
        let other = SigningKey::from([1; 32]);
        let _ = SecretConnection::new(stranger, other, Version::V0_34)
            .map(|mut secret| secret.read(&mut [0; DATA_MAX_SIZE]));
        let mut node = FakeNode::establish(TcpStream::connect(addr).unwrap());
        expect_offer(&mut node);
    });
    let connected = events
        .iter()
        .filter(|event| matches!(event, FeedEvent::Connected { .. }));
    assert_eq!(connected.count(), 1, "{events:?}");
}
