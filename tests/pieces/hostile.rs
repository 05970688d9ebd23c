//! Clients that mean harm, against the server.

use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::net::pieces::{Fault, PeerFault, STALL_TIMEOUT, Server, UploadLimits};
use snapswarm::snapshot::hash::sha256;
use snapswarm::snapshot::{ChunkId, ManifestId};
use snapswarm::wire::{Answer, Ask, Holding, RequestId};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::shelf::Shelf;
use crate::wires::{Scripted, soon};

struct House {
    shelf: Arc<Shelf>,
    server: Server,
    faults: mpsc::Receiver<PeerFault>,
}

fn house() -> House {
    let shelf = Shelf::of_pieces(3);
    let (server, faults) = Server::start(Arc::clone(&shelf) as _, UploadLimits::default(), 1);
    House {
        shelf,
        server,
        faults,
    }
}

impl House {
    /// Another peer is served as if nothing had happened.
    async fn is_alive(&self) {
        let (mut peer, _) = Scripted::asking(&self.server);
        let (chunk, piece, _) = self.shelf.request(0);
        let id = RequestId(1);
        peer.ask(Ask::Request { id, chunk, piece }).await;
        let Some(Answer::Started { size, .. }) = peer.plain_answer().await else {
            panic!("the server does not serve any more");
        };
        let mut bytes = Vec::new();
        peer.rest_of_piece(size, &mut bytes).await;
        assert!(bytes == self.shelf.bytes(0));
    }

    /// What the server says of a peer that sends these frames.
    async fn fault_of(&mut self, frames: &[u8]) -> Fault {
        let (mut peer, who) = Scripted::asking(&self.server);
        peer.write(frames).await;
        while peer.frame().await.is_some() {}
        let found = soon("a fault", self.faults.recv()).await.unwrap();
        assert_eq!(found.peer, who);
        found.fault
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_cut_off_and_named() {
    let mut house = house();
    let (chunk, piece, _) = house.shelf.request(0);
    let id = RequestId(1);
    let request = Ask::Request { id, chunk, piece }.to_frame();
    assert_eq!(
        house.fault_of(&[&request[..], &request].concat()).await,
        Fault::RepeatedRequest(id)
    );
    let data = [1, 0, 0, 0, 3, 1, 2, 3];
    assert_eq!(house.fault_of(&data).await, Fault::DataWithoutStart(3));
    let acknowledge = Ask::Ack { bytes: 1 << 40 }.to_frame();
    assert!(matches!(
        house.fault_of(&acknowledge).await,
        Fault::Acknowledged { .. }
    ));
    let manifest = house.shelf.manifest.id();
    let open = Ask::Open(manifest).to_frame();
    let pieces = vec![3];
    let have = Ask::Have { manifest, pieces }.to_frame();
    assert!(matches!(
        house.fault_of(&[&open[..], &have].concat()).await,
        Fault::Holdings { .. }
    ));
    for bits in [vec![0xff], vec![1, 1]] {
        let holding = Holding::Pieces(bits.into());
        let holdings = Ask::Holdings { manifest, holding }.to_frame();
        assert!(matches!(
            house.fault_of(&[&open[..], &holdings].concat()).await,
            Fault::Holdings { .. }
        ));
    }
    for frames in [
        &[9, 0, 0, 0, 1][..],
        &[0, 0, 4, 0, 1],
        &[0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 2, 255, 255],
    ] {
        assert!(matches!(house.fault_of(frames).await, Fault::Wire(_)));
    }
    house.is_alive().await;
}

#[tokio::test]
async fn ten_thousand_streams_of_noise_end_and_harm_nobody() {
    let house = house();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (chunk, piece, _) = house.shelf.request(1);
    let id = RequestId(1);
    let manifest = house.shelf.manifest.id();
    let seeds = [
        Ask::Request { id, chunk, piece }.to_frame(),
        Ask::Open(manifest).to_frame(),
        Ask::Cancel(id).to_frame(),
        Ask::Have {
            manifest,
            pieces: vec![1, 2],
        }
        .to_frame(),
        Ask::Ack { bytes: 5 }.to_frame(),
        Ask::Probe {
            id,
            chunks: vec![chunk; 3],
        }
        .to_frame(),
    ];
    for _ in 0..10_000 {
        let (mut peer, _) = Scripted::asking(&house.server);
        let mut noise = Vec::new();
        for _ in 0..rng.random_range(1..6) {
            noise.extend_from_slice(&seeds[rng.random_range(0..seeds.len())]);
        }
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..noise.len());
            noise[at] = rng.random();
        }
        // Either it is cut off or it ends by itself.
        let _ = peer.pipe.write_all(&noise).await;
        let _ = peer.pipe.shutdown().await;
        if rng.random_bool(0.01) {
            while peer.frame().await.is_some() {}
        }
    }
    house.is_alive().await;
}

#[tokio::test]
async fn a_flood_whose_answers_nobody_reads_stops_at_its_sender() {
    let house = house();
    let chunks = vec![ChunkId(sha256(b"x")); 1024];
    let id = RequestId(1);
    let floods = [
        Ask::Probe { id, chunks }.to_frame(),
        Ask::Open(house.shelf.manifest.id()).to_frame(),
        Ask::Open(ManifestId(sha256(b"x"))).to_frame(),
        Ask::Cancel(id).to_frame(),
        Ask::Ack { bytes: 0 }.to_frame(),
    ];
    for frame in floods {
        let (mut peer, _) = Scripted::asking(&house.server);
        let flood = async {
            // A hundred times what may be taken at once.
            for _ in 0..400_000 {
                peer.pipe.write_all(&frame).await.unwrap();
            }
        };
        assert!(timeout(Duration::from_millis(500), flood).await.is_err());
        house.is_alive().await;
    }
}

#[tokio::test]
async fn asking_and_taking_back_without_end_harms_nobody() {
    let house = house();
    let (mut peer, _) = Scripted::asking(&house.server);
    let (chunk, piece, _) = house.shelf.request(0);
    let churn = async {
        for n in 0.. {
            let id = RequestId(n);
            let ask = Ask::Request { id, chunk, piece }.to_frame();
            let cancel = Ask::Cancel(id).to_frame();
            let both = [&ask[..], &cancel].concat();
            peer.pipe.write_all(&both).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_secs(2), churn).await.is_err());
    house.is_alive().await;
    assert!(house.server.stats().queued <= 64);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_what_it_asked_for_loses_its_stream() {
    let house = house();
    let (mut silent, _) = Scripted::asking(&house.server);
    let (chunk, piece, _) = house.shelf.request(0);
    let id = RequestId(1);
    silent.ask(Ask::Request { id, chunk, piece }).await;
    // One reads and does not acknowledge, the other does not even read.
    let (mut lazy, _) = Scripted::asking(&house.server);
    lazy.ask(Ask::Request { id, chunk, piece }).await;
    let reads = async { while lazy.frame().await.is_some() {} };
    timeout(STALL_TIMEOUT * 2, reads)
        .await
        .expect("cut off after a while");
    timeout(STALL_TIMEOUT * 2, async {
        while !house.server.stats().peers.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("both streams have ended");
    house.is_alive().await;
}
