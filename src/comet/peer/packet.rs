//! MConnection packets: what lies between the encrypted connection and the
//! messages of state sync.
//!
//! A packet is a length (protobuf varint) and a protobuf `Packet`: ping, pong,
//! or a part of a message of one channel. Parts of one channel come in order;
//! the last one is marked.

use std::io::{self, BufRead};

use bytes::{Buf, Bytes, buf::Chain};
use prost::Message as _;
use tendermint_proto::v0_38::p2p::{self as proto, packet::Sum};

use super::ProtocolError;

/// Channel of snapshot offers.
pub const SNAPSHOT_CHANNEL: u8 = 0x60;
/// Channel of chunks.
pub const CHUNK_CHANNEL: u8 = 0x61;

/// Bytes of a message in one packet that we send: CometBFT's default for
/// `max_packet_msg_payload_size`, above which a node drops the sender.
const PART_BYTES: usize = 1024;
/// The largest packet taken. Nodes send 1,024 bytes of payload unless their
/// operator raised the setting above; the limit leaves room for that. Held once
/// for each connection.
pub const MAX_PACKET_BYTES: usize = 64 << 10;

/// One of the two channels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Channel {
    /// Offers and requests for them.
    Snapshots,
    /// Chunks and requests for them.
    Chunks,
}

impl Channel {
    /// Its number in the protocol.
    pub fn number(self) -> u8 {
        match self {
            Self::Snapshots => SNAPSHOT_CHANNEL,
            Self::Chunks => CHUNK_CHANNEL,
        }
    }
}

/// A decoded packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// Asks for a sign of life.
    Ping,
    /// The sign.
    Pong,
    /// A part of a message.
    Part {
        /// On which channel.
        channel: Channel,
        /// Whether it is the last of its message.
        last: bool,
        /// Its bytes.
        data: Vec<u8>,
    },
}

impl Packet {
    /// Decodes a packet without its length. Allocates at most what it is given,
    /// which is at most [`MAX_PACKET_BYTES`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        if bytes.len() > MAX_PACKET_BYTES {
            return Err(too_long());
        }
        let packet = proto::Packet::decode(bytes).map_err(|error| ProtocolError::Syntax {
            what: "packet",
            problem: error.to_string(),
        })?;
        match packet.sum {
            Some(Sum::PacketPing(_)) => Ok(Self::Ping),
            Some(Sum::PacketPong(_)) => Ok(Self::Pong),
            Some(Sum::PacketMsg(part)) => {
                let channel = match u8::try_from(part.channel_id) {
                    Ok(SNAPSHOT_CHANNEL) => Channel::Snapshots,
                    Ok(CHUNK_CHANNEL) => Channel::Chunks,
                    _ => return Err(ProtocolError::Channel(part.channel_id)),
                };
                Ok(Self::Part {
                    channel,
                    last: part.eof,
                    data: part.data,
                })
            }
            None => Err(ProtocolError::Syntax {
                what: "packet",
                problem: "of no known kind".to_owned(),
            }),
        }
    }
}

fn too_long() -> ProtocolError {
    ProtocolError::TooLong {
        what: "packet",
        limit: MAX_PACKET_BYTES,
    }
}

/// Why no length-prefixed block could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Reads a varint length and as many bytes into `block`; the length is checked
/// against `limit` before anything is allocated.
pub(super) fn read_delimited(
    from: &mut impl BufRead,
    block: &mut Vec<u8>,
    what: &'static str,
    limit: usize,
) -> Result<(), ReadError> {
    let mut len = 0usize;
    let mut shift = 0;
    loop {
        let mut byte = 0u8;
        from.read_exact(std::slice::from_mut(&mut byte))?;
        len |= usize::from(byte & 0x7f) << shift;
        if len > limit {
            return Err(ProtocolError::TooLong { what, limit }.into());
        }
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 21 {
            return Err(ProtocolError::TooLong { what, limit }.into());
        }
    }
    block.resize(len, 0);
    from.read_exact(block)?;
    Ok(())
}

/// How long messages that come in may be, for each channel. A side that only
/// serves expects nothing but short requests.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// On the snapshot channel, bytes.
    pub snapshots: usize,
    /// On the chunk channel, bytes.
    pub chunks: usize,
}

/// Puts parts together. Holds at most the limits' bytes, and only bytes that
/// came.
#[derive(Debug)]
pub struct Assembler {
    limits: MessageLimits,
    snapshots: Vec<u8>,
    chunks: Vec<u8>,
}

impl Assembler {
    /// Without a part so far.
    pub fn new(limits: MessageLimits) -> Self {
        Self {
            limits,
            snapshots: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Takes the next part of a channel; gives the message when it was the last.
    pub fn push(
        &mut self,
        channel: Channel,
        last: bool,
        data: &[u8],
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        let (what, limit, message) = match channel {
            Channel::Snapshots => (
                "message of the snapshot channel",
                self.limits.snapshots,
                &mut self.snapshots,
            ),
            Channel::Chunks => (
                "message of the chunk channel",
                self.limits.chunks,
                &mut self.chunks,
            ),
        };
        if message.len() + data.len() > limit {
            return Err(ProtocolError::TooLong { what, limit });
        }
        message.extend_from_slice(data);
        Ok(last.then(|| std::mem::take(message)))
    }
}

/// A message on its way out: `head` and `body` are one message, kept apart so
/// that the bytes of a chunk are not copied.
#[derive(Debug)]
pub(super) struct Outgoing {
    channel: Channel,
    rest: Chain<Bytes, Bytes>,
    /// What [`super::connection::Inbox::sent`] is told when all of it is sent.
    pub(super) receipt: Option<Receipt>,
}

/// Which chunk a message carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) index: u32,
    pub(super) bytes: u64,
}

impl Outgoing {
    pub(super) fn new(channel: Channel, message: impl Into<Bytes>) -> Self {
        Self {
            channel,
            rest: message.into().chain(Bytes::new()),
            receipt: None,
        }
    }

    pub(super) fn chunk(head: Bytes, body: Bytes, receipt: Receipt) -> Self {
        Self {
            channel: Channel::Chunks,
            rest: head.chain(body),
            receipt: Some(receipt),
        }
    }

    /// Appends the next packet to `to`; true when it was the last one.
    pub(super) fn write_packet(&mut self, to: &mut Vec<u8>) -> bool {
        let mut data = vec![0; self.rest.remaining().min(PART_BYTES)];
        self.rest.copy_to_slice(&mut data);
        let last = !self.rest.has_remaining();
        write(
            to,
            Sum::PacketMsg(proto::PacketMsg {
                channel_id: i32::from(self.channel.number()),
                eof: last,
                data,
            }),
        );
        last
    }
}

/// Appends a pong.
pub(super) fn write_pong(to: &mut Vec<u8>) {
    write(to, Sum::PacketPong(proto::PacketPong {}));
}

fn write(to: &mut Vec<u8>, sum: Sum) {
    proto::Packet { sum: Some(sum) }
        .encode_length_delimited(to)
        .expect("a Vec takes any length");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits = MessageLimits {
        snapshots: 3000,
        chunks: 5000,
    };

    fn packets(mut bytes: &[u8]) -> Vec<Packet> {
        let mut block = Vec::new();
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            read_delimited(&mut bytes, &mut block, "packet", MAX_PACKET_BYTES).unwrap();
            assert!(block.len() <= PART_BYTES + 12);
            packets.push(Packet::decode(&block).unwrap());
        }
        packets
    }

    #[test]
    fn messages_of_two_channels_interleave_and_come_out_whole() {
        let long: Vec<u8> = (0..4500u32).map(|n| n as u8).collect();
        let mut chunk = Outgoing::chunk(
            Bytes::copy_from_slice(&long[..10]),
            Bytes::copy_from_slice(&long[10..]),
            Receipt { index: 0, bytes: 0 },
        );
        let mut offer = Outgoing::new(Channel::Snapshots, long[..1024].to_vec());
        let mut wire = Vec::new();
        assert!(!chunk.write_packet(&mut wire));
        assert!(offer.write_packet(&mut wire), "1,024 bytes are one packet");
        write_pong(&mut wire);
        while !chunk.write_packet(&mut wire) {}

        let mut assembler = Assembler::new(LIMITS);
        let mut messages = Vec::new();
        let mut pongs = 0;
        for packet in packets(&wire) {
            match packet {
                Packet::Part {
                    channel,
                    last,
                    data,
                } => messages.extend(
                    assembler
                        .push(channel, last, &data)
                        .unwrap()
                        .map(|message| (channel, message)),
                ),
                Packet::Pong => pongs += 1,
                Packet::Ping => panic!("nobody sent a ping"),
            }
        }
        assert_eq!(pongs, 1);
        assert_eq!(
            messages,
            [
                (Channel::Snapshots, long[..1024].to_vec()),
                (Channel::Chunks, long)
            ]
        );
    }

    #[test]
    fn a_message_may_be_as_long_as_its_limit_and_no_longer() {
        let mut assembler = Assembler::new(LIMITS);
        let mut push = |len: usize, last| assembler.push(Channel::Chunks, last, &vec![0; len]);
        assert_eq!(push(4000, false), Ok(None));
        assert_eq!(push(1000, true).unwrap().unwrap().len(), 5000);
        assert_eq!(push(4000, false), Ok(None));
        assert!(matches!(
            push(1001, true),
            Err(ProtocolError::TooLong { limit: 5000, .. })
        ));
        assert!(
            assembler
                .push(Channel::Snapshots, true, &[0; 3001])
                .is_err()
        );
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_are_waited_for() {
        let mut block = Vec::new();
        for announced in [
            &[0x81, 0x80, 0x04][..],                     // 65,537
            &[0x80, 0x80, 0x80, 0x80],                   // zero, in too many bytes
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // enormous
        ] {
            let mut from = announced;
            assert!(matches!(
                read_delimited(&mut from, &mut block, "packet", MAX_PACKET_BYTES),
                Err(ReadError::Protocol(ProtocolError::TooLong { .. }))
            ));
            assert_eq!(block.capacity(), 0);
        }
        let mut short = &[5u8, 1, 2][..];
        assert!(matches!(
            read_delimited(&mut short, &mut block, "packet", MAX_PACKET_BYTES),
            Err(ReadError::Io(_))
        ));
    }

    #[test]
    fn a_packet_of_a_foreign_channel_is_refused() {
        for channel_id in [0x20, 0x5f, 0x62, -1, 0x160] {
            let packet = proto::Packet {
                sum: Some(Sum::PacketMsg(proto::PacketMsg {
                    channel_id,
                    eof: true,
                    data: vec![],
                })),
            };
            assert_eq!(
                Packet::decode(&packet.encode_to_vec()),
                Err(ProtocolError::Channel(channel_id))
            );
        }
        assert!(Packet::decode(&[]).is_err());
        assert!(Packet::decode(&vec![0; MAX_PACKET_BYTES + 1]).is_err());
    }
}
