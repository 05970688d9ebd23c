//! A CometBFT node that does only what a test tells it.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use ed25519_consensus::SigningKey;
use prost::Message as _;
use snapswarm::comet::peer::{CHUNK_CHANNEL, NodeId, SNAPSHOT_CHANNEL};
use tendermint_p2p::secret_connection::{DATA_MAX_SIZE, SecretConnection, Version};
use tendermint_proto::v0_38::p2p;
use tendermint_proto::v0_38::statesync::{self, message::Sum};

/// A node that does only what it is told.
pub struct FakeNode {
    secret: SecretConnection<TcpStream>,
    received: Vec<u8>,
    partial: Vec<u8>,
}

pub fn key() -> SigningKey {
    SigningKey::from([42; 32])
}

pub fn id() -> NodeId {
    NodeId::of(&key().verification_key())
}

impl FakeNode {
    /// The encrypted connection alone.
    pub fn encrypted(socket: TcpStream) -> Self {
        Self {
            secret: SecretConnection::new(socket, key(), Version::V0_34).unwrap(),
            received: Vec::new(),
            partial: Vec::new(),
        }
    }

    /// With a node info written, changed by `change`.
    pub fn accept_with(socket: TcpStream, change: impl FnOnce(&mut p2p::DefaultNodeInfo)) -> Self {
        socket.set_nodelay(true).unwrap();
        let mut node = Self::encrypted(socket);
        let mut info = p2p::DefaultNodeInfo {
            protocol_version: Some(p2p::ProtocolVersion {
                p2p: 8,
                block: 11,
                app: 0,
            }),
            default_node_id: id().to_string(),
            listen_addr: "tcp://127.0.0.1:1".to_owned(),
            network: "fake-1".to_owned(),
            version: "0.38.25".to_owned(),
            channels: vec![0x20, SNAPSHOT_CHANNEL, CHUNK_CHANNEL],
            moniker: "fake".to_owned(),
            other: None,
        };
        change(&mut info);
        node.write(&info.encode_length_delimited_to_vec());
        node
    }

    /// The node's side of a handshake that goes well.
    pub fn establish(socket: TcpStream) -> Self {
        let mut node = Self::accept_with(socket, |_| {});
        let info = node.read_delimited().unwrap();
        let info = p2p::DefaultNodeInfo::decode(&info[..]).unwrap();
        assert_eq!(info.network, "fake-1", "mirrored");
        assert_eq!(info.channels, [SNAPSHOT_CHANNEL, CHUNK_CHANNEL]);
        node
    }

    /// False when the other side is gone.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.secret.write_all(bytes).is_ok()
    }

    pub fn read_delimited(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut rest = &self.received[..];
            if let Ok(len) = prost::decode_length_delimiter(&mut rest)
                && rest.len() >= len
            {
                let block = rest[..len].to_vec();
                let used = self.received.len() - rest.len() + len;
                self.received.drain(..used);
                return Ok(block);
            }
            let mut frame = [0; DATA_MAX_SIZE];
            let len = self.secret.read(&mut frame)?;
            self.received.extend_from_slice(&frame[..len]);
        }
    }

    pub fn packet(&mut self, sum: p2p::packet::Sum) -> bool {
        let packet = p2p::Packet { sum: Some(sum) };
        self.write(&packet.encode_length_delimited_to_vec())
    }

    pub fn send(&mut self, sum: Sum) -> bool {
        let channel = match sum {
            Sum::SnapshotsRequest(_) | Sum::SnapshotsResponse(_) => SNAPSHOT_CHANNEL,
            Sum::ChunkRequest(_) | Sum::ChunkResponse(_) => CHUNK_CHANNEL,
        };
        let message = statesync::Message { sum: Some(sum) }.encode_to_vec();
        let parts: Vec<_> = message.chunks(1024).collect();
        for (number, part) in parts.iter().enumerate() {
            let sent = self.packet(p2p::packet::Sum::PacketMsg(p2p::PacketMsg {
                channel_id: channel.into(),
                eof: number + 1 == parts.len(),
                data: part.to_vec(),
            }));
            if !sent {
                return false;
            }
        }
        true
    }

    pub fn send_offer(&mut self, height: u64, chunks: u32) {
        self.send(Sum::SnapshotsResponse(statesync::SnapshotsResponse {
            height,
            format: 1,
            chunks,
            hash: b"hash".to_vec(),
            metadata: vec![],
        }));
    }

    pub fn send_chunk(&mut self, height: u64, index: u32, chunk: Vec<u8>) {
        self.send(Sum::ChunkResponse(statesync::ChunkResponse {
            height,
            format: 1,
            index,
            missing: chunk.is_empty(),
            chunk,
        }));
    }

    pub fn ask_for_chunk(&mut self, height: u64, index: u32) -> bool {
        self.send(Sum::ChunkRequest(statesync::ChunkRequest {
            height,
            format: 1,
            index,
        }))
    }

    pub fn next_packet(&mut self) -> io::Result<p2p::packet::Sum> {
        let block = self.read_delimited()?;
        Ok(p2p::Packet::decode(&block[..]).unwrap().sum.unwrap())
    }

    /// The next message; packets that are none are passed over.
    pub fn next(&mut self) -> io::Result<Sum> {
        loop {
            if let p2p::packet::Sum::PacketMsg(part) = self.next_packet()? {
                self.partial.extend_from_slice(&part.data);
                if part.eof {
                    let message = std::mem::take(&mut self.partial);
                    return Ok(statesync::Message::decode(&message[..])
                        .unwrap()
                        .sum
                        .unwrap());
                }
            }
        }
    }

    pub fn expect_chunk_request(&mut self) -> u32 {
        match self.next().unwrap() {
            Sum::ChunkRequest(ask) => ask.index,
            other => panic!("{other:?} instead of a request for a chunk"),
        }
    }

    pub fn expect_list_request(&mut self) {
        assert!(matches!(self.next().unwrap(), Sum::SnapshotsRequest(_)));
    }
}
