//! Remembered peers on disk.
//!
//! A JSON file for people to read and delete. It is written beside itself and
//! renamed. What cannot be read is no reason not to start: entries that make no
//! sense are left out, a file that makes none is replaced at the next save.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use super::book::MAX_PEER_ADDRESSES;
use super::scope::Scope;
use super::view::RememberedPeer;

/// Peers written; a few hundred bytes each.
pub(super) const MAX_REMEMBERED_PEERS: usize = 256;
/// A file that is longer was not written by this program.
const MAX_FILE_BYTES: u64 = 1 << 20;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct PeerFile {
    version: u32,
    peers: Vec<PeerLine>,
}

#[derive(Serialize, Deserialize)]
struct PeerLine {
    peer_id: String,
    addresses: Vec<String>,
    last_seen_unix_s: u64,
}

/// Reads the remembered peers.
pub(super) fn load(path: &Path) -> Vec<RememberedPeer> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "Remembered peers cannot be read; going on without them");
            return Vec::new();
        }
    };
    match serde_json::from_slice::<PeerFile>(&bytes) {
        Ok(file) if file.version == VERSION => {
            let lines = file.peers.iter().take(MAX_REMEMBERED_PEERS);
            lines.filter_map(read_line).collect()
        }
        Ok(file) => {
            tracing::warn!(path = %path.display(), version = file.version, "Remembered peers are of another version; going on without them");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "The file of remembered peers is damaged; going on without them");
            Vec::new()
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(bytes)
}

fn read_line(line: &PeerLine) -> Option<RememberedPeer> {
    let peer: PeerId = line.peer_id.parse().ok()?;
    let addresses: Vec<Multiaddr> = line
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|address| Scope::of(address).is_some())
        .take(MAX_PEER_ADDRESSES)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    Some(RememberedPeer {
        peer,
        addresses,
        last_seen_unix_s: line.last_seen_unix_s,
    })
}

/// Writes the remembered peers.
pub(super) fn save(path: &Path, peers: &[RememberedPeer]) -> io::Result<()> {
    let file = PeerFile {
        version: VERSION,
        peers: peers
            .iter()
            .take(MAX_REMEMBERED_PEERS)
            .map(|peer| PeerLine {
                peer_id: peer.peer.to_string(),
                addresses: peer.addresses.iter().map(Multiaddr::to_string).collect(),
                last_seen_unix_s: peer.last_seen_unix_s,
            })
            .collect(),
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // One process has a home, so a name of its own is enough, and what a crash
    // leaves is written over.
    let fresh = path.with_extension("new");
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    let mut out = File::create(&fresh)?;
    out.write_all(&bytes)?;
    out.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(n: u64) -> RememberedPeer {
        RememberedPeer {
            peer: PeerId::random(),
            addresses: vec!["/ip4/203.0.113.1/tcp/4001".parse().unwrap()],
            last_seen_unix_s: n,
        }
    }

    #[test]
    fn peers_come_back_as_they_were_and_no_temporary_file_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("peers.json");
        assert!(load(&path).is_empty());
        let peers: Vec<RememberedPeer> = (0..10).map(remembered).collect();
        save(&path, &peers).unwrap();
        save(&path, &peers).unwrap();
        assert_eq!(load(&path), peers);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_hostile_or_oversized_file_is_tolerated() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("peers.json");
        let deep = "[".repeat(100_000);
        let long = vec![b' '; MAX_FILE_BYTES as usize + 1];
        for bytes in [
            &b""[..],
            b"\xff\xfe\x00",
            b"{\"version\":1,\"peers\":7}",
            b"{\"version\":99,\"peers\":[]}",
            deep.as_bytes(),
            &long,
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(load(&path).is_empty());
        }
        save(&path, &[remembered(1)]).unwrap();
        assert_eq!(load(&path).len(), 1);
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out_and_the_others_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("peers.json");
        let good = remembered(5);
        let id = good.peer;
        let text = format!(
            r#"{{"version":1,"peers":[
                {{"peer_id":"nonsense","addresses":["/ip4/203.0.113.1/tcp/1"],"last_seen_unix_s":1}},
                {{"peer_id":"{id}","addresses":["rubbish","/ip4/0.0.0.0/tcp/1","/ip4/203.0.113.1/tcp/4001"],"last_seen_unix_s":5}},
                {{"peer_id":"{id}","addresses":[],"last_seen_unix_s":1}}]}}"#
        );
        fs::write(&path, text).unwrap();
        assert_eq!(load(&path), [good]);
    }

    #[test]
    fn not_more_peers_are_written_or_read_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("peers.json");
        let count = MAX_REMEMBERED_PEERS as u64 + 1;
        let peers: Vec<RememberedPeer> = (0..count).map(remembered).collect();
        save(&path, &peers).unwrap();
        assert_eq!(load(&path).len(), MAX_REMEMBERED_PEERS);
    }
}
