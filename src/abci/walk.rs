//! Reading one field of a protobuf message while its bytes go by.
//!
//! A block's frame has many megabytes, and its height stands behind the
//! transactions: the walker steps from field to field and keeps nothing but the
//! one that it looks for. Bytes that are no protobuf end its search, never the
//! frame's way.

use bytes::Bytes;

/// A field's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Number(u64),
    Bytes(Bytes),
}

/// Application hashes and chain ids are far shorter; what is longer is none.
const MAX_KEPT_BYTES: u64 = 256;

/// Walks over the body of a frame: a message with one field, the call, in which
/// the wanted one is looked for.
#[derive(Debug)]
pub(super) struct Walker {
    wanted: u64,
    state: State,
    /// The varint that is being read.
    number: u64,
    shift: u32,
    found: Option<Value>,
}

#[derive(PartialEq, Eq, Debug)]
enum State {
    /// The key of the call, then its length.
    Call,
    CallLength,
    Key,
    /// A varint; to be kept or not.
    Number(bool),
    Length(bool),
    Skip(u64),
    Keep(u64, Vec<u8>),
    /// Not protobuf as it is known: nothing more is looked for.
    Lost,
}

impl Walker {
    /// Looks for this field number of the call.
    pub(super) fn new(wanted: u64) -> Self {
        Self {
            wanted,
            state: State::Call,
            number: 0,
            shift: 0,
            found: None,
        }
    }

    /// The value that was found last, as protobuf has it.
    pub(super) fn found(self) -> Option<Value> {
        self.found
    }

    /// Takes in the next bytes.
    pub(super) fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return,
                State::Skip(left) => {
                    let step = (*left).min(bytes.len() as u64);
                    *left -= step;
                    bytes = &bytes[step as usize..];
                    if *left == 0 {
                        self.state = State::Key;
                    }
                }
                State::Keep(left, kept) => {
                    let step = (*left).min(bytes.len() as u64);
                    *left -= step;
                    let (more, rest) = bytes.split_at(step as usize);
                    kept.extend_from_slice(more);
                    bytes = rest;
                    if *left == 0 {
                        self.found = Some(Value::Bytes(std::mem::take(kept).into()));
                        self.state = State::Key;
                    }
                }
                _ => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    self.varint(byte);
                }
            }
        }
    }

    fn varint(&mut self, byte: u8) {
        if self.shift >= 64 {
            self.state = State::Lost;
            return;
        }
        self.number |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if byte & 0x80 == 0 {
            let number = std::mem::take(&mut self.number);
            self.shift = 0;
            self.state = self.after(number);
        }
    }

    /// What follows a varint.
    fn after(&mut self, number: u64) -> State {
        match self.state {
            State::Call if number & 7 == 2 => State::CallLength,
            State::CallLength => State::Key,
            State::Key => {
                let is_wanted = number >> 3 == self.wanted;
                match number & 7 {
                    0 => State::Number(is_wanted),
                    1 => State::Skip(8),
                    2 => State::Length(is_wanted),
                    5 => State::Skip(4),
                    _ => State::Lost,
                }
            }
            State::Number(keep) => {
                if keep {
                    self.found = Some(Value::Number(number));
                }
                State::Key
            }
            State::Length(keep) if keep && number <= MAX_KEPT_BYTES => match number {
                0 => State::Key,
                _ => State::Keep(number, Vec::new()),
            },
            State::Length(_) if number == 0 => State::Key,
            State::Length(_) => State::Skip(number),
            _ => State::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use rand::{Rng, RngExt, SeedableRng};
    use tendermint_proto::v0_38::abci::{
        Request, RequestFinalizeBlock, RequestInitChain, Response, ResponseFinalizeBlock, request,
        response,
    };

    use super::*;

    fn found(bytes: &[u8], wanted: u64, step: usize) -> Option<Value> {
        let mut walker = Walker::new(wanted);
        for part in bytes.chunks(step) {
            walker.walk(part);
        }
        walker.found()
    }

    #[test]
    fn a_height_is_found_behind_ten_thousand_transactions_however_the_bytes_are_cut() {
        let block = RequestFinalizeBlock {
            txs: (0..10_000)
                .map(|n: u32| vec![7; n as usize % 300].into())
                .collect(),
            hash: vec![1; 32].into(),
            height: 1 << 40,
            proposer_address: vec![2; 20].into(),
            ..Default::default()
        };
        let value = Some(request::Value::FinalizeBlock(block));
        let bytes = Request { value }.encode_to_vec();
        for step in [1, 7, 4096, usize::MAX] {
            assert_eq!(found(&bytes, 5, step), Some(Value::Number(1 << 40)));
            assert_eq!(
                found(&bytes, 4, step),
                Some(Value::Bytes(vec![1; 32].into()))
            );
            assert_eq!(found(&bytes, 99, step), None);
        }
    }

    #[test]
    fn chain_id_and_application_hash_are_found() {
        let value = Some(request::Value::InitChain(RequestInitChain {
            chain_id: "chain".to_owned(),
            initial_height: 7,
            ..Default::default()
        }));
        let bytes = Request { value }.encode_to_vec();
        assert_eq!(found(&bytes, 2, 1), Some(Value::Bytes("chain".into())));
        let value = Some(response::Value::FinalizeBlock(ResponseFinalizeBlock {
            app_hash: vec![9; 32].into(),
            ..Default::default()
        }));
        let bytes = Response { value }.encode_to_vec();
        assert_eq!(found(&bytes, 5, 3), Some(Value::Bytes(vec![9; 32].into())));
    }

    #[test]
    fn any_bytes_are_walked_over_without_harm() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100_000 {
            let mut bytes = vec![0; rng.random_range(0..64)];
            rng.fill_bytes(&mut bytes);
            let step = rng.random_range(1..9);
            found(&bytes, 5, step);
        }
        // A length beyond all bytes is waited for, and nothing is kept for it.
        let mut walker = Walker::new(5);
        walker.walk(&[
            0xa2, 1, 0xff, 0xff, 0x7f, 0x2a, 0xff, 0xff, 0xff, 0xff, 0x7f,
        ]);
        walker.walk(&[0; 1000]);
        assert_eq!(walker.found(), None);
    }
}
