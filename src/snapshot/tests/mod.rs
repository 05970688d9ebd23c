//! The rules of this room, each a step below its limit and a step above.

mod content;
mod endorsements;
mod making;
mod rules;

use super::{Manifest, ManifestError};

/// A message written field by field, so that it can break every rule.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub Vec<u8>);

impl Raw {
    pub(crate) fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub(crate) fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    pub(crate) fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let mut this = self
            .varint(field << 3 | 2)
            .varint(bytes.as_ref().len() as u64);
        this.0.extend_from_slice(bytes.as_ref());
        this
    }

    fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

#[track_caller]
fn refused_field(result: Result<Manifest, ManifestError>, name: &str) {
    match result {
        Err(ManifestError::Field { field, .. }) if field == name => {}
        other => panic!("expected an error in {name}, found {other:?}"),
    }
}
