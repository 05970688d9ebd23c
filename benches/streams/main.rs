//! One seeder, one joiner, two processes, loopback: the piece protocol and the
//! whole program beside a raw libp2p stream, in turns.
//!
//! ```text
//! cargo bench --bench streams            # 1 GiB, three rounds
//! cargo bench --bench streams -- 256 5   # 256 MiB, five rounds
//! cargo bench --bench streams -- sources 600 3
//! ```
//!
//! `prepare FOLDER MEBIBYTES`, `serve KIND FOLDER` and `fetch KIND FOLDER ADDRESS
//! PEER` are the roles, for a profiler.
//!
//! * *raw*: one libp2p stream over TCP, TLS and yamux; one side writes, the other
//!   reads and throws away.
//! * *raw-own-layers*: the same over [`Buffered`] sockets and [`Tls`], as the
//!   product has them.
//! * *pieces*: [`Server`] over a file in the page cache; [`Client`] with a full
//!   window; every piece is verified in batches on the blocking pool and written
//!   over a file that is in the page cache as well: what fresh pages cost differs
//!   between virtual machines more than what is measured here.
//!
//! * *snapswarm*: `snapswarm start` and `snapswarm fetch` into a new home, from the
//!   search to the sealed archive; *snapswarm-first* is the provider's first download
//!   since its start, at which it hashes again what it reads.
//!
//! *sources* is `snapswarm fetch` from four `snapswarm start` at once, each limited
//! to 12 MB/s by its own setting, beside the 48 MB/s that they may send together.
//!
//! All files lie in `/dev/shm` where there is one: no disk is measured.
//!
//! Absolute figures drift by a third between runs: compare inside one run.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, tcp, tls, yamux};
use snapswarm::net::Library;
use snapswarm::net::pieces::{Budget, Client, PieceEvent, Server, UploadLimits};
use snapswarm::net::socket::Buffered;
use snapswarm::net::streams;
use snapswarm::net::tls::Tls;
use snapswarm::snapshot::{
    Bitmap, ChunkId, Manifest, ManifestBuilder, ManifestId, PIECE_BYTES, ReceivedPiece,
    SnapshotFields, hash,
};
use snapswarm::wire::{CatalogueEntry, Holding, PIECES_PROTOCOL};

mod product;

const MIB: u64 = 1 << 20;
/// The whole program.
const PRODUCT: &str = "snapswarm";
/// The same, of a snapshot that the provider has not served before.
const PRODUCT_FIRST: &str = "snapswarm-first";
const CHUNK_BYTES: usize = 10 << 20;
const WINDOW: usize = 16;
const RAW: StreamProtocol = StreamProtocol::new("/raw/1");

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["serve", kind, folder] => run(serve(kind, Path::new(folder))),
        ["fetch", kind, folder, address, peer] => {
            let (address, peer) = (address.parse()?, peer.parse()?);
            run(fetch(kind, Path::new(folder), address, peer))
        }
        ["prepare", folder, mebibytes] => prepare(Path::new(folder), mebibytes.parse()?),
        ["sources", mebibytes, rounds] => {
            let (mebibytes, rounds) = (mebibytes.parse()?, rounds.parse()?);
            in_memory(|folder| compare_sources(folder, mebibytes, rounds))
        }
        [] => in_memory(|folder| compare(folder, 1024, 3)),
        [mebibytes, rounds] => {
            let (mebibytes, rounds) = (mebibytes.parse()?, rounds.parse()?);
            in_memory(|folder| compare(folder, mebibytes, rounds))
        }
        _ => bail!("usage: streams [[sources] MEBIBYTES ROUNDS]"),
    }
}

fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(work)
}

// ---- the comparison ----

#[derive(Clone, Copy, Debug)]
struct Measured {
    mib_per_second: f64,
    joiner_cpu_per_gib: f64,
    seeder_cpu_per_gib: f64,
}

/// Runs `work` in a folder that is no disk, and removes it.
fn in_memory(work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = parent.join(format!("snapswarm-streams-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = work(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn compare_sources(folder: &Path, mebibytes: u64, rounds: usize) -> Result<()> {
    prepare(folder, mebibytes)?;
    for _ in 0..rounds {
        println!("{}", product::measure_sources(folder)?);
    }
    Ok(())
}

fn compare(folder: &Path, mebibytes: u64, rounds: usize) -> Result<()> {
    prepare(folder, mebibytes)?;
    let kinds = ["raw", "raw-own-layers", "pieces", PRODUCT_FIRST, PRODUCT];
    let mut measured = kinds.map(|_| Vec::new());
    for _ in 0..rounds {
        let [raw, own_layers, pieces, first, later] = &mut measured;
        for (kind, measured) in kinds.iter().zip([raw, own_layers, pieces]) {
            measured.push(measure(kind, folder, mebibytes)?);
        }
        let [one, two] = product::measure(folder, mebibytes)?;
        first.push(one);
        later.push(two);
    }
    let medians = measured.map(|measured| median(&measured));
    println!("{mebibytes} MiB, {rounds} rounds, medians");
    println!("{:<16} MiB/s   of raw   CPU s/GiB: joiner  seeder", "");
    for (kind, found) in kinds.iter().zip(&medians) {
        println!(
            "{kind:<16} {:>5.0} {:>8.2} {:>19.2} {:>7.2}",
            found.mib_per_second,
            found.mib_per_second / medians[0].mib_per_second,
            found.joiner_cpu_per_gib,
            found.seeder_cpu_per_gib
        );
    }
    Ok(())
}

fn median(all: &[Measured]) -> Measured {
    let middle = |field: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = all.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Measured {
        mib_per_second: middle(|m| m.mib_per_second),
        joiner_cpu_per_gib: middle(|m| m.joiner_cpu_per_gib),
        seeder_cpu_per_gib: middle(|m| m.seeder_cpu_per_gib),
    }
}

fn prepare(folder: &Path, mebibytes: u64) -> Result<()> {
    let mut file = File::create(folder.join("data"))?;
    let mut copy = File::create(folder.join("copy"))?;
    std::fs::create_dir_all(folder.join(product::CHUNKS))?;
    let mut number = 0;
    let mut builder = ManifestBuilder::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = mebibytes * MIB;
    while left > 0 {
        let len = left.min(CHUNK_BYTES as u64) as usize;
        let mut chunk = vec![0u8; len];
        for word in chunk.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        builder.push(&chunk)?;
        file.write_all(&chunk)?;
        std::fs::write(
            folder.join(product::CHUNKS).join(number.to_string()),
            &chunk,
        )?;
        number += 1;
        chunk.fill(0);
        copy.write_all(&chunk)?;
        left -= len as u64;
    }
    let manifest = builder.finish(SnapshotFields {
        chain_id: "bench-1".to_owned(),
        height: 1,
        app_hash: None,
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    })?;
    std::fs::write(folder.join("manifest"), manifest.encoded())?;
    Ok(())
}

fn measure(kind: &str, folder: &Path, mebibytes: u64) -> Result<Measured> {
    let mut seeder = Role::start(&["serve", kind, &folder.to_string_lossy()])?;
    let at = seeder.line()?;
    let (address, peer) = at.split_once(' ').context("address and peer")?;
    let mut joiner = Role::start(&["fetch", kind, &folder.to_string_lossy(), address, peer])?;
    let took = joiner.line()?;
    joiner.child.wait()?;
    let seeder_cpu: f64 = seeder.line()?.parse()?;
    seeder.child.wait()?;
    let (seconds, joiner_cpu) = took.split_once(' ').context("seconds and CPU")?;
    let (seconds, joiner_cpu): (f64, f64) = (seconds.parse()?, joiner_cpu.parse()?);
    let gib = mebibytes as f64 / 1024.0;
    Ok(Measured {
        mib_per_second: mebibytes as f64 / seconds,
        joiner_cpu_per_gib: joiner_cpu / gib,
        seeder_cpu_per_gib: seeder_cpu / gib,
    })
}

/// This program in one of its roles, killed when dropped.
struct Role {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Role {
    fn start(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Self { child, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("the other process ended without an answer");
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds of this process so far, in user and kernel.
fn cpu_seconds() -> Result<f64> {
    cpu_of("self", 11)
}

/// CPU seconds in `/proc/PROCESS/stat`: two fields from `first` on, user and
/// kernel (11: of the process, 13: of its children that ended).
fn cpu_of(process: &str, first: usize) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks = fields[first].parse::<f64>()? + fields[first + 1].parse::<f64>()?;
    Ok(ticks / 100.0)
}

// ---- both roles ----

/// A swarm as libp2p builds it, or with the layers of the product.
fn swarm(kind: &str) -> Result<Swarm<streams::Behaviour>> {
    let key = libp2p::identity::Keypair::generate_ed25519();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let transport = if kind == "raw" {
        tcp.upgrade(Version::V1Lazy)
            .authenticate(tls::Config::new(&key)?)
            .multiplex(yamux::Config::default())
            .boxed()
    } else {
        tcp.map(|socket, _| Buffered::new(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(Tls::new(&key)?)
            .multiplex(yamux::Config::default())
            .boxed()
    };
    let config =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let peer = key.public().to_peer_id();
    let behaviour = streams::Behaviour::new();
    Ok(Swarm::new(transport, behaviour, peer, config))
}

async fn listen(mut swarm: Swarm<streams::Behaviour>) -> Result<(Multiaddr, PeerId)> {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let peer = *swarm.local_peer_id();
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    Ok((address, peer))
}

/// Says where it is, serves one peer until it leaves, and says what it cost.
async fn serve(kind: &str, folder: &Path) -> Result<()> {
    let swarm = swarm(kind)?;
    let control = swarm.behaviour().new_control();
    let protocol = match kind {
        "pieces" => StreamProtocol::new(PIECES_PROTOCOL),
        _ => RAW,
    };
    let mut incoming = control.accept(protocol);
    let shelf = Shelf::open(folder)?;
    let bytes = shelf.manifest.total_bytes();
    let (address, peer) = listen(swarm).await?;
    println!("{address} {peer}");
    let (client, mut stream) = incoming.next().await.context("a stream")?;
    let before = cpu_seconds()?;
    if kind != "pieces" {
        let piece = vec![7u8; MIB as usize];
        for _ in 0..bytes / MIB {
            stream.write_all(&piece).await?;
        }
        stream.close().await?;
        // Until the other side has read everything.
        let _ = stream.read(&mut [0]).await;
    } else {
        let (server, _faults) = Server::start(Arc::new(shelf), UploadLimits::default(), 1);
        server.serve(client, stream);
        while server.stats().peers.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while !server.stats().peers.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    println!("{}", cpu_seconds()? - before);
    Ok(())
}

/// Fetches everything, and says how long it took and what it cost.
async fn fetch(kind: &str, folder: &Path, address: Multiaddr, peer: PeerId) -> Result<()> {
    let manifest = Arc::new(read_manifest(folder)?);
    let mut swarm = swarm(kind)?;
    let control = swarm.behaviour().new_control();
    swarm.dial(address)?;
    loop {
        if let SwarmEvent::ConnectionEstablished { .. } = swarm.select_next_some().await {
            break;
        }
    }
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    if kind != "pieces" {
        let mut stream = control.open_stream(peer, RAW).await?;
        let (start, before) = (Instant::now(), cpu_seconds()?);
        let mut buffer = vec![0u8; MIB as usize];
        let mut received = 0;
        while received < manifest.total_bytes() {
            match stream.read(&mut buffer).await? {
                0 => bail!("the stream ended early"),
                count => received += count as u64,
            }
        }
        println!(
            "{} {}",
            start.elapsed().as_secs_f64(),
            cpu_seconds()? - before
        );
    } else {
        let target = OpenOptions::new().write(true).open(folder.join("copy"))?;
        let client = Client::open(&control, peer, &Budget::default()).await?;
        let (start, before) = (Instant::now(), cpu_seconds()?);
        gather(client, &manifest, Arc::new(target)).await?;
        println!(
            "{} {}",
            start.elapsed().as_secs_f64(),
            cpu_seconds()? - before
        );
    }
    Ok(())
}

/// Asks for every piece, with a full window; verifies and writes in batches,
/// one batch at a time, as many as are there.
async fn gather(client: Client, manifest: &Arc<Manifest>, target: Arc<File>) -> Result<()> {
    let (asker, mut events) = client.split();
    asker.open(manifest.id())?;
    let mut wanted = manifest.piece_indexes();
    let mut asked = std::collections::BTreeMap::new();
    let mut waiting: Vec<ReceivedPiece> = Vec::new();
    let mut work: Option<tokio::task::JoinHandle<Result<u32>>> = None;
    let mut written = 0;
    while written < manifest.piece_count() {
        while asked.len() < WINDOW
            && let Some(index) = wanted.next()
        {
            let piece = manifest.piece(index);
            let chunk = manifest.unique_chunk(piece.chunk);
            let id = asker.request(chunk.id, piece.index_in_chunk, piece.len)?;
            asked.insert(id, index);
        }
        if work.is_none() && !waiting.is_empty() {
            let batch = std::mem::take(&mut waiting);
            let (manifest, target) = (Arc::clone(manifest), Arc::clone(&target));
            work = Some(tokio::task::spawn_blocking(move || {
                write(&manifest, &target, batch)
            }));
        }
        tokio::select! {
            done = async { work.as_mut().expect("checked").await }, if work.is_some() => {
                work = None;
                written += done??;
            }
            event = events.recv() => match event.context("events")? {
                PieceEvent::Received { id, bytes } => {
                    let index = asked.remove(&id).context("asked")?;
                    waiting.push(ReceivedPiece { index, bytes });
                }
                PieceEvent::Refused { refusal, .. } => bail!("refused: {refusal:?}"),
                PieceEvent::Closed(closed) => bail!("closed: {closed}"),
                _ => {}
            }
        }
    }
    Ok(())
}

fn write(manifest: &Manifest, target: &File, batch: Vec<ReceivedPiece>) -> Result<u32> {
    let mut count = 0;
    for verified in hash::verify(manifest, batch) {
        let verified = verified?;
        let piece = manifest.piece(verified.index());
        let offset = u64::from(piece.chunk.get()) * CHUNK_BYTES as u64 + u64::from(piece.offset);
        target.write_all_at(verified.bytes(), offset)?;
        count += 1;
    }
    Ok(count)
}

fn read_manifest(folder: &Path) -> Result<Manifest> {
    let bytes = std::fs::read(folder.join("manifest"))?;
    Ok(Manifest::decode(bytes.into())?)
}

/// A complete snapshot in a file.
struct Shelf {
    data: File,
    manifest: Manifest,
    chunks: std::collections::BTreeMap<ChunkId, (u64, u32)>,
}

impl Shelf {
    fn open(folder: &Path) -> Result<Self> {
        let manifest = read_manifest(folder)?;
        let chunks = manifest
            .unique_indexes()
            .map(|index| {
                let chunk = manifest.unique_chunk(index);
                let offset = u64::from(index.get()) * CHUNK_BYTES as u64;
                (chunk.id, (offset, chunk.size))
            })
            .collect();
        Ok(Self {
            data: File::open(folder.join("data"))?,
            manifest,
            chunks,
        })
    }
}

impl Library for Shelf {
    fn catalogue(&self, _: Option<&str>) -> Vec<CatalogueEntry> {
        Vec::new()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        (*id == self.manifest.id()).then(|| self.manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        let pieces = self.manifest.piece_count();
        (*id == self.manifest.id()).then_some((Holding::Complete, pieces))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        Bitmap::full(chunks.len() as u32)
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.chunks.get(chunk).map(|(_, size)| *size)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        let Some((offset, size)) = self.chunks.get(chunk) else {
            return Ok(None);
        };
        let from = piece * PIECE_BYTES;
        let mut bytes = vec![0; (size - from).min(PIECE_BYTES) as usize];
        self.data
            .read_exact_at(&mut bytes, offset + u64::from(from))?;
        Ok(Some(bytes.into()))
    }

    fn in_use(&self, _: &ManifestId, _: &PeerId) {}
}
