//! Folders as nodes leave them: growing, cut off, strange.

mod taking;

use std::fs;
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::files::CHUNK_BYTES;
use super::source::{LONG_QUIET, QUIET};
use super::{SdkError, SnapshotFolder, View};
use crate::snapshot::hash::sha256;
use crate::snapshot::{Offer, Source, SourceError};

/// What the SDK's own message is, for a decoder that is not ours.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(bytes = "vec", repeated, tag = "1")]
    chunk_hashes: Vec<Vec<u8>>,
}

/// A zlib stream of about so many bytes.
fn stream(bytes: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut content);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&content).unwrap();
    encoder.finish().unwrap()
}

/// A folder of snapshots, and the time there.
struct Node {
    root: tempfile::TempDir,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            now: Instant::now(),
        }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("snapshots")
    }

    fn place(&self, height: u64, format: u32) -> PathBuf {
        let place = self.dir().join(height.to_string()).join(format.to_string());
        fs::create_dir_all(&place).unwrap();
        place
    }

    fn write(&self, height: u64, chunks: &[&[u8]]) -> PathBuf {
        let place = self.place(height, 3);
        for (index, chunk) in chunks.iter().enumerate() {
            fs::write(place.join(index.to_string()), chunk).unwrap();
        }
        place
    }

    /// A finished snapshot of one chunk.
    fn finished(&self, height: u64) -> PathBuf {
        self.write(height, &[&stream(1000, height)])
    }

    fn folder(&self, newest: usize) -> SnapshotFolder {
        let mut folder = SnapshotFolder::new(&self.dir(), newest, || false);
        folder.see(view(1..=1000));
        folder
    }

    fn after(&mut self, time: Duration) -> Instant {
        self.now += time;
        self.now
    }
}

fn view(heights: RangeInclusive<u64>) -> View {
    View {
        heights,
        here: Vec::new(),
    }
}

fn heights(offers: &[Offer]) -> Vec<u64> {
    offers.iter().map(|offer| offer.height).collect()
}

/// Looks, waits until quiet files may be read, and looks until nothing is read any
/// more.
fn settled(node: &mut Node, folder: &mut SnapshotFolder) -> Vec<Offer> {
    let mut offers = folder.look(node.now).unwrap();
    node.after(LONG_QUIET);
    loop {
        let more = folder.look(node.now).unwrap();
        if more.len() == offers.len() {
            return more;
        }
        offers = more;
    }
}

fn all(folder: &mut SnapshotFolder, offer: &Offer) -> Result<Vec<Bytes>, SourceError> {
    let mut reading = folder.open(offer)?;
    std::iter::from_fn(|| reading.next_chunk().transpose()).collect()
}

#[test]
fn a_finished_snapshot_is_offered_as_the_node_itself_would() {
    let mut node = Node::new();
    let whole = stream(CHUNK_BYTES as usize + 5000, 1);
    let chunks: Vec<&[u8]> = whole.chunks(CHUNK_BYTES as usize).collect();
    node.write(70, &chunks);
    let mut folder = node.folder(2);
    let offers = settled(&mut node, &mut folder);
    let [offer] = &offers[..] else {
        panic!("{offers:?}")
    };
    assert_eq!((offer.height, offer.format, offer.chunks), (70, 3, 2));
    assert_eq!(&offer.hash[..], sha256(&whole).as_bytes());
    let expected = Metadata {
        chunk_hashes: chunks
            .iter()
            .map(|chunk| sha256(chunk).as_bytes().to_vec())
            .collect(),
    };
    assert_eq!(&offer.metadata[..], expected.encode_to_vec());
    assert_eq!(all(&mut folder, offer).unwrap(), chunks);
    assert_eq!(folder.waiting(), None);
}

#[test]
fn a_snapshot_that_grows_is_waited_for() {
    let mut node = Node::new();
    let whole = stream(CHUNK_BYTES as usize + 5000, 1);
    let (first, second) = whole.split_at(CHUNK_BYTES as usize);
    let mut folder = node.folder(2);
    node.write(70, &[&first[..100]]);
    assert_eq!(folder.look(node.now).unwrap(), []);
    // Each change begins the waiting anew, and full files wait for longer.
    node.after(QUIET / 2);
    node.write(70, &[first]);
    assert_eq!(folder.look(node.now).unwrap(), []);
    node.after(LONG_QUIET / 2);
    assert_eq!(folder.look(node.now).unwrap(), []);
    assert!(folder.waiting().unwrap().contains("may still change"));
    let place = node.write(70, &[first, &second[..10]]);
    assert_eq!(folder.look(node.now).unwrap(), []);
    // The node was killed here: the stream has no end.
    node.after(QUIET);
    assert_eq!(folder.look(node.now).unwrap(), []);
    assert_eq!(folder.look(node.now).unwrap(), []);
    assert!(folder.waiting().unwrap().contains("no end"));
    // It runs again, and makes the same snapshot anew.
    fs::write(place.join("1"), second).unwrap();
    assert_eq!(folder.look(node.now).unwrap(), []);
    let shortly_before = node.after(QUIET - Duration::from_millis(1));
    assert_eq!(folder.look(shortly_before).unwrap(), []);
    let then = node.after(Duration::from_millis(1));
    assert_eq!(heights(&folder.look(then).unwrap()), [70]);
}

#[test]
fn files_that_are_no_finished_snapshot_are_left_out_with_the_reason() {
    let (small, full) = (stream(1000, 1), vec![7; CHUNK_BYTES as usize]);
    let (begin, end) = small.split_at(500);
    let trailing = [&small[..], b"x"].concat();
    let over = vec![7; CHUNK_BYTES as usize + 1];
    for (chunks, expected) in [
        (&[][..], "no chunk"),
        (&[&b""[..]][..], "last chunk has 0 bytes"),
        (&[&full, b""], "last chunk has 0 bytes"),
        (&[&over], "last chunk has 10000001 bytes"),
        (&[begin, end], "chunk 0 has 500 bytes"),
        (&[&over, end], "chunk 0 has 10000001 bytes"),
        (&[begin], "no end"),
        (&[&small[..small.len() - 1]], "no end"),
        (&[&trailing], "bytes follow the end"),
        (&[b"no stream"], "damaged"),
    ] {
        let mut node = Node::new();
        node.write(5, chunks);
        let mut folder = node.folder(2);
        assert_eq!(settled(&mut node, &mut folder), [], "{expected}");
        let told = folder.waiting().unwrap();
        assert!(told.starts_with("height 5, format 3: "), "{told}");
        assert!(told.contains(expected), "{told}, not {expected}");
    }
}

/// Does something to a snapshot, or to a file of it.
type Spoil = fn(&Path);

#[test]
fn a_chunk_that_is_missing_or_is_no_file_is_seen() {
    let cases: [(Spoil, &str); 4] = [
        (
            |place| fs::rename(place.join("0"), place.join("1")).unwrap(),
            "chunk 0 is missing",
        ),
        (
            |place| {
                fs::copy(place.join("0"), place.join("2"))
                    .map(drop)
                    .unwrap()
            },
            "chunk 0 has",
        ),
        (
            |place| {
                fs::rename(place.join("0"), place.join("elsewhere")).unwrap();
                symlink("elsewhere", place.join("0")).unwrap();
            },
            "chunk 0 is no regular file",
        ),
        (
            |place| {
                fs::remove_file(place.join("0")).unwrap();
                fs::create_dir(place.join("0")).unwrap();
            },
            "chunk 0 is no regular file",
        ),
    ];
    for (spoil, expected) in cases {
        let mut node = Node::new();
        spoil(&node.finished(5));
        let mut folder = node.folder(2);
        assert_eq!(settled(&mut node, &mut folder), [], "{expected}");
        let told = folder.waiting().unwrap();
        assert!(told.contains(expected), "{told}, not {expected}");
    }
}

#[test]
fn what_no_node_writes_has_no_meaning() {
    let mut node = Node::new();
    let place = node.finished(40);
    let dir = node.dir();
    for name in [
        "metadata.db",
        "040",
        "+40",
        "-1",
        "0",
        "1e3",
        " 40",
        "99999999999999999999",
    ] {
        fs::create_dir_all(dir.join(name).join("3")).unwrap();
        fs::write(dir.join(name).join("3/0"), stream(10, 1)).unwrap();
    }
    let too_high = (i64::MAX as u64 + 1).to_string();
    fs::create_dir_all(dir.join(too_high).join("3")).unwrap();
    fs::write(dir.join("50"), "a file").unwrap();
    // Links lead anywhere.
    symlink(dir.join("40"), dir.join("60")).unwrap();
    fs::create_dir(dir.join("61")).unwrap();
    symlink(&place, dir.join("61/3")).unwrap();
    for name in [&b"\xff\xfe"[..], b"00", b"1.tmp", b"\x1b[2J"] {
        fs::write(place.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut folder = node.folder(9);
    assert_eq!(heights(&settled(&mut node, &mut folder)), [40]);
    assert_eq!(folder.waiting(), None);
}

#[test]
fn the_folder_itself_may_be_a_link() {
    let mut node = Node::new();
    node.finished(40);
    let link = node.root.path().join("link");
    symlink(node.dir(), &link).unwrap();
    let mut folder = SnapshotFolder::new(&link, 2, || false);
    folder.see(view(1..=1000));
    let offers = settled(&mut node, &mut folder);
    assert_eq!(heights(&offers), [40]);
    assert_eq!(all(&mut folder, &offers[0]).unwrap().len(), 1);
}

#[test]
fn formats_whose_end_is_not_known_are_left_out() {
    let mut node = Node::new();
    for format in [0, 1, 3, 4] {
        let place = node.place(40, format);
        fs::write(place.join("0"), stream(10, u64::from(format))).unwrap();
    }
    let mut folder = node.folder(9);
    let offers = settled(&mut node, &mut folder);
    let formats: Vec<u32> = offers.iter().map(|offer| offer.format).collect();
    assert_eq!(formats, [3, 1]);
    assert!(folder.waiting().unwrap().contains("format 4"));
}

#[test]
fn a_height_waits_for_the_chain_and_leaves_with_its_block() {
    let mut node = Node::new();
    for height in [10, 20, 30] {
        node.finished(height);
    }
    let mut folder = node.folder(9);
    folder.see(view(11..=29));
    assert_eq!(heights(&settled(&mut node, &mut folder)), [20]);
    assert!(folder.waiting().unwrap().contains("two blocks"));
    folder.see(view(11..=30));
    assert_eq!(heights(&settled(&mut node, &mut folder)), [30, 20]);
    folder.see(view(RangeInclusive::new(1, 0)));
    assert_eq!(settled(&mut node, &mut folder), []);
}

#[test]
fn the_newest_are_looked_at_and_the_oldest_of_them_is_read_first() {
    let mut node = Node::new();
    for height in [10, 20, 30, 40] {
        node.finished(height);
    }
    let mut folder = node.folder(3);
    let mut read = Vec::new();
    for _round in 0..5 {
        read.push(heights(&folder.look(node.now).unwrap()));
        node.after(QUIET);
    }
    let all = vec![40, 30, 20];
    assert_eq!(
        read,
        [vec![], vec![20], vec![30, 20], all.clone(), all.clone()]
    );
    // What is no snapshot takes no place of one.
    fs::write(node.place(50, 3).join("0"), "unfinished").unwrap();
    for _round in 0..5 {
        folder.look(node.now).unwrap();
        node.after(QUIET);
    }
    assert_eq!(heights(&folder.look(node.now).unwrap()), all);
    assert!(folder.waiting().unwrap().starts_with("height 50"));
}

#[test]
fn a_folder_that_cannot_be_read_is_an_error_and_one_without_snapshots_is_none() {
    let mut node = Node::new();
    let mut folder = node.folder(2);
    let error = folder.look(node.now).unwrap_err();
    assert!(matches!(error, SdkError::Folder { .. }));
    assert!(error.to_string().contains("snapshots"), "{error}");
    fs::create_dir(node.dir()).unwrap();
    assert_eq!(settled(&mut node, &mut folder), []);
}
