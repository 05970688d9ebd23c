//! Frames of ABCI: a length as a varint, and so many bytes of protobuf.

use std::io::{self, Read};

/// The longest message: CometBFT's own limit of an ABCI message.
const MAX_FRAME_BYTES: u64 = 100 << 20;
/// Bytes of a length: one more than the limit above needs.
const MAX_LENGTH_BYTES: usize = 5;

/// The body of the next frame; nothing at the end of the stream.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = 0_u64;
    for at in 0.. {
        if at == MAX_LENGTH_BYTES {
            return Err(invalid("a frame begins with no length"));
        }
        let mut byte = [0];
        match from.read_exact(&mut byte) {
            Ok(()) => {}
            Err(error) if at == 0 && error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        len |= u64::from(byte[0] & 0x7f) << (7 * at);
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    if len > MAX_FRAME_BYTES {
        return Err(invalid("a frame is too long"));
    }
    // It grows with what comes, not with what a length claims.
    let mut body = Vec::new();
    from.take(len).read_to_end(&mut body)?;
    match body.len() as u64 == len {
        true => Ok(Some(body)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
