//! What endorsers sign, and how their endorsements are written.

use bytes::Bytes;
use ed25519_consensus::SigningKey;
use snapswarm::snapshot::{
    Digest, EndorsementKind, Endorsements, EndorserKey, ManifestId, SnapshotName,
    UntrustedEndorsement, UntrustedEndorsements,
};

use super::{golden, listing, read_listing};

pub fn about() -> SnapshotName<'static> {
    SnapshotName {
        chain_id: "golden-1",
        height: 1_234_567,
        manifest: ManifestId(Digest([0xab; 32])),
    }
}

/// By a key that is made of its seed; ed25519 signs the same bytes the same way.
pub fn signed(seed: u8, kind: EndorsementKind) -> UntrustedEndorsement {
    let key = SigningKey::from([seed; 32]);
    UntrustedEndorsement {
        key: EndorserKey(key.verification_key().to_bytes()),
        kind,
        signature: key.sign(&about().bytes_to_sign(kind)).to_bytes(),
    }
}

#[test]
fn endorsements_have_the_same_bytes_on_every_machine() {
    let (computed, vouched) = (EndorsementKind::Computed, EndorsementKind::Vouched);
    let mut set = Endorsements::none(about().manifest);
    for one in [signed(1, computed), signed(2, vouched)] {
        set.insert(one.check(&about()).unwrap());
    }
    let found = [
        ("statement, computed", about().bytes_to_sign(computed)),
        ("statement, vouched", about().bytes_to_sign(vouched)),
        ("set", set.encode()),
    ];
    let found = found.map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)));
    let text = golden("endorsements.txt", &listing(&found));

    let (_, bytes) = read_listing(&text).pop().unwrap();
    let read = UntrustedEndorsements::decode(bytes).unwrap();
    assert_eq!(read.check(&about()), Ok(set));
}
