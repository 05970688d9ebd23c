//! What is known about each snapshot beside its bytes: `catalogue.json`.
//!
//! ```json
//! {"version": 1,
//!  "snapshots": {"bafkrei…": {"pinned": false, "proven": true, "app_version": 3,
//!                             "origin": "fetched", "added_unix_s": 1750000000,
//!                             "sequence": 7}}}
//! ```
//!
//! A download that is to bring some scopes only has their names in `"only"`.
//!
//! The whole file is replaced at each change, before the snapshot's own file
//! appears under its name, so no file is without its line. A line without a file
//! stays for the day when the file comes back; of unpinned ones the latest.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::snapshot::ManifestId;

use super::{Origin, StoreError};

const VERSION: u32 = 1;

/// The largest file that is read: room for 100,000 snapshots.
const MAX_BYTES: u64 = 32 << 20;

/// What is known about one snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marks {
    pub(super) pinned: bool,
    pub(super) proven: bool,
    /// The application's version in the header that proved it, where that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) app_version: Option<u64>,
    pub(super) origin: Origin,
    /// For people; the clock may jump.
    pub(super) added_unix_s: u64,
    /// The order of arrival, which no clock can disturb.
    pub(super) sequence: u64,
    /// Of a download that is to bring no more: the scopes that were asked for. Of no
    /// meaning once all is here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) only: Vec<String>,
}

/// The highest place in the order of arrival that a file may name; no home gets
/// there by itself.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

/// All marks, by name.
pub(super) type Catalogue = BTreeMap<ManifestId, Marks>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    snapshots: BTreeMap<String, Marks>,
}

/// The bytes of the file.
pub(super) fn encode(catalogue: &Catalogue) -> Vec<u8> {
    let file = File {
        version: VERSION,
        snapshots: catalogue
            .iter()
            .map(|(id, marks)| (id.to_string(), marks.clone()))
            .collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&file).expect("plain data becomes JSON");
    bytes.push(b'\n');
    bytes
}

/// Reads the file's bytes; the error says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Catalogue, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "version {} is unknown here; version {VERSION} is known",
            file.version
        ));
    }
    // Later arrivals count on from the highest.
    if file
        .snapshots
        .values()
        .any(|marks| marks.sequence > MAX_SEQUENCE)
    {
        return Err(format!("a sequence is above {MAX_SEQUENCE}"));
    }
    file.snapshots
        .into_iter()
        .map(|(id, marks)| Ok((id.parse().map_err(|error| format!("{error}"))?, marks)))
        .collect()
}

/// Reads the file at `path`; nothing when there is none.
pub(super) fn load(path: &Path) -> Result<Option<Catalogue>, StoreError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::io("read", path)(source)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(StoreError::damaged(
            path,
            format!("it has more than {MAX_BYTES} bytes"),
        ));
    }
    decode(&bytes)
        .map(Some)
        .map_err(|problem| StoreError::damaged(path, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash;

    #[test]
    fn marks_survive_the_file_and_other_files_are_refused() {
        let marks = Marks {
            pinned: true,
            proven: true,
            app_version: Some(7),
            origin: Origin::Harvested,
            added_unix_s: 1_750_000_000,
            sequence: 3,
            only: vec!["contract_state/x".to_owned()],
        };
        let id = ManifestId(hash::sha256(b"manifest"));
        let catalogue = Catalogue::from([(id, marks.clone())]);
        let bytes = encode(&catalogue);
        assert_eq!(decode(&bytes), Ok(catalogue));

        let text = String::from_utf8(bytes).unwrap();
        // A line from before versions were kept.
        let before = text.replace("\"app_version\": 7,", "");
        let marks = Marks {
            app_version: None,
            ..marks
        };
        let unknown = Catalogue::from([(id, marks)]);
        assert_eq!(decode(before.as_bytes()), Ok(unknown.clone()));
        assert!(
            !String::from_utf8(encode(&unknown))
                .unwrap()
                .contains("app_version")
        );

        decode(text.replace("\"version\": 1", "\"version\": 2").as_bytes()).unwrap_err();
        decode(text.replace("pinned", "pimmed").as_bytes()).unwrap_err();
        let last = format!("\"sequence\": {}", u64::MAX);
        decode(text.replace("\"sequence\": 3", &last).as_bytes()).unwrap_err();
        decode(text.replace("bafkrei", "bafkreo").as_bytes()).unwrap_err();
        decode(&text.as_bytes()[..text.len() - 3]).unwrap_err();
        decode(b"").unwrap_err();
    }
}
