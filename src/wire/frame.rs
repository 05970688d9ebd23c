//! Frames of the piece protocol.

use super::{MAX_CONTROL_BYTES, MAX_DATA_BYTES, WireError, limit_len};

/// Bytes ahead of each payload.
pub const FRAME_HEADER_BYTES: usize = 5;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// An encoded message.
    Control,
    /// Bytes of the piece under way.
    Data,
}

/// A checked frame header: `len` is within the limit of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Bytes of payload.
    pub len: u32,
}

impl FrameHeader {
    /// Reads a header; a length beyond the limit of its kind is an error.
    pub fn decode(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<Self, WireError> {
        let [kind, len @ ..] = bytes;
        let len = u32::from_be_bytes(len);
        let (kind, what, limit) = match kind {
            0 => (FrameKind::Control, "control frame", MAX_CONTROL_BYTES),
            1 => (FrameKind::Data, "data frame", MAX_DATA_BYTES),
            other => return Err(WireError::FrameKind(other)),
        };
        limit_len(what, len as usize, limit as usize)?;
        if len == 0 {
            return Err(WireError::Field {
                field: "frame length",
                problem: "is zero".to_owned(),
            });
        }
        Ok(Self { kind, len })
    }

    /// The bytes of this header.
    pub fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        let kind = match self.kind {
            FrameKind::Control => 0,
            FrameKind::Data => 1,
        };
        let [a, b, c, d] = self.len.to_be_bytes();
        [kind, a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_may_have_its_limit_and_not_one_byte_more() {
        for (kind, limit) in [
            (FrameKind::Control, MAX_CONTROL_BYTES),
            (FrameKind::Data, MAX_DATA_BYTES),
        ] {
            let header = FrameHeader { kind, len: limit };
            assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
            let over = FrameHeader {
                kind,
                len: limit + 1,
            };
            assert!(matches!(
                FrameHeader::decode(over.encode()),
                Err(WireError::TooLong { .. })
            ));
        }
        assert_eq!(
            FrameHeader::decode([2, 0, 0, 0, 1]),
            Err(WireError::FrameKind(2))
        );
        assert!(FrameHeader::decode([0; 5]).is_err());
    }
}
