//! Whatever bytes a CometBFT peer sends: an error or a value within limits,
//! never a panic, and no memory beyond what was sent and allowed.
//!
//! Each decoder sees 100,000 generated inputs: pure noise, real messages with
//! damage, and lengths that lie. The seed is fixed, so a failure comes again.
//! Whole peers that misbehave are in `comet_peer.rs`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use prost::Message as _;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::comet::peer::{
    Assembler, Channel, MAX_CHUNK_MESSAGE_BYTES, MAX_NODE_INFO_BYTES, MAX_PACKET_BYTES,
    MAX_SNAPSHOT_MESSAGE_BYTES, Message, MessageLimits, NodeInfo, Packet,
};
use snapswarm::snapshot::{MAX_CHUNKS, MAX_HEIGHT};
use tendermint_proto::v0_38::{p2p, statesync};

const INPUTS: usize = 100_000;
const SEED: u64 = 0x636f_6d65_7462_6674;

/// Counts what a thread has allocated and not freed, and the most it had.
struct Counting;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: hands everything to the system allocator; the counters are const
// initialised and need no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| {
            let (now, most) = held.get();
            let now = now.wrapping_add(layout.size());
            // Below zero (freed what another thread had made) is not a peak.
            let most = if now > usize::MAX / 2 {
                most
            } else {
                most.max(now)
            };
            held.set((now, most));
        });
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.with(|held| {
            let (now, most) = held.get();
            held.set((now.wrapping_sub(layout.size()), most));
        });
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once beyond what was held before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let value = work();
    let (_, most) = HELD.get();
    (value, most.wrapping_sub(before))
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(SEED)
}

fn noise(rng: &mut ChaCha8Rng, limit: usize) -> Vec<u8> {
    let len = rng.random_range(0..=limit);
    (0..len).map(|_| rng.random()).collect()
}

/// Damages real bytes: flips, cuts, insertions, lengths that lie, doublings.
fn damage(rng: &mut ChaCha8Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.random_range(0..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            // A varint of nearly 2^32 or 2^64: the length of what follows.
            4 => {
                let huge = if rng.random() {
                    &[0xff, 0xff, 0xff, 0xff, 0x0f][..]
                } else {
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]
                };
                bytes.splice(at..=at, huge.iter().copied());
            }
            _ => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
        }
    }
    bytes
}

/// Runs a decoder over noise and damaged messages; gives the number accepted.
/// Memory: the message's own bytes and errors' texts, never a lying length.
fn storm<T>(
    what: &str,
    mut real: impl FnMut(&mut ChaCha8Rng) -> Vec<u8>,
    mut decode: impl FnMut(&[u8]) -> Option<T>,
    mut check: impl FnMut(T),
) {
    let mut rng = rng();
    let mut accepted = 0;
    for number in 0..INPUTS {
        let input = if number % 4 == 0 {
            noise(&mut rng, 200)
        } else {
            let message = real(&mut rng);
            damage(&mut rng, message)
        };
        let (value, peak) = peak(|| decode(&input));
        assert!(
            peak <= 4 * input.len() + 4096,
            "{what} {number}: {peak} bytes held for an input of {}",
            input.len()
        );
        if let Some(value) = value {
            accepted += 1;
            check(value);
        }
    }
    assert!(
        (INPUTS / 20..INPUTS).contains(&accepted),
        "{what}: {accepted} of {INPUTS} accepted: the storm is too wild or too tame"
    );
}

fn real_node_info(rng: &mut ChaCha8Rng) -> Vec<u8> {
    p2p::DefaultNodeInfo {
        protocol_version: Some(p2p::ProtocolVersion {
            p2p: 8,
            block: 11,
            app: rng.random(),
        }),
        default_node_id: hex::encode(rng.random::<[u8; 20]>()),
        listen_addr: "tcp://0.0.0.0:26656".to_owned(),
        network: "chain-1".to_owned(),
        version: "0.38.25".to_owned(),
        channels: vec![0x40, 0x20, 0x21, 0x22, 0x23, 0x30, 0x38, 0x60, 0x61, 0],
        moniker: "node".to_owned(),
        other: Some(p2p::DefaultNodeInfoOther {
            tx_index: "on".to_owned(),
            rpc_address: "tcp://127.0.0.1:26657".to_owned(),
        }),
    }
    .encode_to_vec()
}

#[test]
fn node_infos_of_any_bytes_are_refused_or_printable() {
    storm(
        "node info",
        real_node_info,
        |bytes| NodeInfo::decode(bytes).ok(),
        |info| {
            assert!(!info.chain_id.is_empty() && info.chain_id.len() <= 50);
            for text in [&info.chain_id, &info.version] {
                assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            }
            assert!(info.channels.len() <= 16);
        },
    );
    assert!(NodeInfo::decode(&vec![0x22; MAX_NODE_INFO_BYTES + 1]).is_err());
}

fn real_packet(rng: &mut ChaCha8Rng) -> Vec<u8> {
    use p2p::packet::Sum;
    let sum = match rng.random_range(0..8) {
        0 => Sum::PacketPing(p2p::PacketPing {}),
        1 => Sum::PacketPong(p2p::PacketPong {}),
        _ => Sum::PacketMsg(p2p::PacketMsg {
            channel_id: 0x60 + i32::from(rng.random::<bool>()),
            eof: rng.random(),
            data: noise(rng, 300),
        }),
    };
    p2p::Packet { sum: Some(sum) }.encode_to_vec()
}

#[test]
fn packets_of_any_bytes_are_refused_or_of_our_channels() {
    storm(
        "packet",
        real_packet,
        |bytes| Packet::decode(bytes).ok(),
        |packet| {
            if let Packet::Part { data, .. } = packet {
                assert!(data.len() <= MAX_PACKET_BYTES);
            }
        },
    );
}

#[test]
fn parts_in_any_order_never_hold_more_than_the_limits() {
    const LIMITS: MessageLimits = MessageLimits {
        snapshots: 2_000,
        chunks: 5_000,
    };
    let mut rng = rng();
    let mut assembler = Assembler::new(LIMITS);
    let mut refused = 0;
    for _ in 0..INPUTS {
        let (channel, limit) = if rng.random() {
            (Channel::Snapshots, LIMITS.snapshots)
        } else {
            (Channel::Chunks, LIMITS.chunks)
        };
        let part = noise(&mut rng, 600);
        match assembler.push(channel, rng.random_range(0..8) == 0, &part) {
            Ok(Some(message)) => assert!(message.len() <= limit),
            Ok(None) => {}
            Err(_) => {
                refused += 1;
                assembler = Assembler::new(LIMITS);
            }
        }
    }
    assert!(refused > 1000);
}

fn real_message(rng: &mut ChaCha8Rng) -> Vec<u8> {
    use statesync::message::Sum;
    let odd = |rng: &mut ChaCha8Rng| match rng.random_range(0..6) {
        0 => 0,
        1 => u64::MAX,
        _ => rng.random_range(1..1_000_000),
    };
    let sum = match rng.random_range(0..4) {
        0 => Sum::SnapshotsRequest(statesync::SnapshotsRequest {}),
        1 => Sum::SnapshotsResponse(statesync::SnapshotsResponse {
            height: odd(rng),
            format: odd(rng) as u32,
            chunks: (odd(rng) / 5) as u32,
            hash: noise(rng, 64),
            metadata: noise(rng, 200),
        }),
        2 => Sum::ChunkRequest(statesync::ChunkRequest {
            height: odd(rng),
            format: odd(rng) as u32,
            index: odd(rng) as u32,
        }),
        _ => Sum::ChunkResponse(statesync::ChunkResponse {
            height: odd(rng),
            format: odd(rng) as u32,
            index: odd(rng) as u32,
            chunk: noise(rng, 300),
            missing: rng.random_range(0..4) == 0,
        }),
    };
    statesync::Message { sum: Some(sum) }.encode_to_vec()
}

#[test]
fn state_sync_messages_of_any_bytes_are_refused_or_within_the_format() {
    for (channel, limit) in [
        (Channel::Snapshots, MAX_SNAPSHOT_MESSAGE_BYTES),
        (Channel::Chunks, MAX_CHUNK_MESSAGE_BYTES),
    ] {
        storm(
            "message",
            real_message,
            |bytes| Message::decode(channel, bytes).ok(),
            |message| match message {
                Message::Snapshot(offer) => {
                    assert!((1..=MAX_HEIGHT).contains(&offer.height));
                    assert!((1..=MAX_CHUNKS).contains(&offer.chunks));
                    assert!(!offer.hash.is_empty());
                }
                Message::Chunk(_, bytes) => {
                    assert_ne!(bytes, Some(Bytes::new()), "an empty chunk is a missing one");
                }
                Message::SnapshotsRequest | Message::ChunkRequest(_) => {}
            },
        );
        let (refused, peak) = peak(|| Message::decode(channel, &vec![0x22; limit + 1]));
        assert!(refused.is_err());
        assert!(peak < limit + 4096, "nothing beside the input: {peak}");
    }
}
