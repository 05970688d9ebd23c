//! Memory of the two sides of a large transfer, as the kernel counts it.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::{Home, most_resident};

const CHUNKS: u64 = 103;
const CHUNK_BYTES: u64 = 10 << 20;
const PIECE_BYTES: u64 = 1 << 20;

/// The bar, for a snapshot of any size.
const MAX_RESIDENT_BYTES: u64 = 128 << 20;

/// Chunks of which no two pieces are alike. Each is a hole but for a number in
/// every piece, so that they cost neither disk nor time.
fn sparse_chunks(folder: &Path) {
    for chunk in 0..CHUNKS {
        let file = File::create(folder.join(chunk.to_string())).unwrap();
        file.set_len(CHUNK_BYTES).unwrap();
        for at in (0..CHUNK_BYTES).step_by(PIECE_BYTES as usize) {
            let number = (chunk * CHUNK_BYTES + at) | 1;
            file.write_all_at(&number.to_le_bytes(), at).unwrap();
        }
    }
}

/// Two archives of the snapshot lie in the temporary folder: 2 GiB and a little.
#[test]
fn a_gibibyte_passes_through_seeder_and_joiner_within_128_mib_of_memory_each() {
    let chunks = tempfile::tempdir().unwrap();
    sparse_chunks(chunks.path());
    let provider = Home::new();
    let cid = provider.load(chunks.path(), "memory-chain", 3);
    let seeder = provider.start::<_, &str>([]);

    // Through a daemon, which still tells its peak when the download is done.
    let home = Home::new();
    let joiner = home.start(["--bootstrap", &seeder.address()]);
    let fetched = home.run(["fetch", &cid]).ok();
    assert_eq!(fetched["received_bytes"], CHUNKS * CHUNK_BYTES);

    let [seeder, joiner] = [&seeder, &joiner].map(|daemon| most_resident(daemon.pid()));
    println!("most resident bytes: seeder {seeder}, joiner {joiner}");
    assert!(seeder <= MAX_RESIDENT_BYTES, "seeder: {seeder} bytes");
    assert!(joiner <= MAX_RESIDENT_BYTES, "joiner: {joiner} bytes");
}
