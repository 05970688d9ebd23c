//! Sets of endorsements as they lie on a disk.

use snapswarm::snapshot::{
    EndorsementKind, EndorserKey, UntrustedEndorsement, UntrustedEndorsements,
};

use crate::harness::Target;
use crate::input;

pub fn endorsement(seed: u8, kind: EndorsementKind) -> UntrustedEndorsement {
    UntrustedEndorsement {
        key: EndorserKey([seed; 32]),
        kind,
        signature: [seed.wrapping_mul(7); 64],
    }
}

#[test]
fn sets_of_endorsements() {
    let set = |count: u8| {
        let kind = |seed: u8| match seed % 2 {
            0 => EndorsementKind::Computed,
            _ => EndorsementKind::Vouched,
        };
        let told = (0..count).map(|seed| endorsement(seed, kind(seed)));
        UntrustedEndorsements(told.collect()).encode()
    };
    Target {
        samples: vec![set(0), set(1), set(2), set(7), set(32)],
        structured: input::protobuf,
        decode: |bytes| UntrustedEndorsements::decode(bytes.clone()),
        encode: UntrustedEndorsements::encode,
        canonical: true,
        most: UntrustedEndorsements::MAX_BYTES,
        fixed: 4 << 10,
        // The message, what is made of it, and the same once more to compare.
        per_byte: 8,
    }
    .run();
}
