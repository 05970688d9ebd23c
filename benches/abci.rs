//! What the adapter costs: the same calls to the same application, with it between
//! and without.
//!
//! `cargo bench --bench abci [-- ROUNDS]`
//!
//! The application answers at Flush, as CometBFT's Go server does. *CheckTx* is one
//! transaction of 250 bytes and a Flush, ten thousand times a round; *block* is one
//! FinalizeBlock of 10,000 transactions of 250 bytes, answered with 10,000 results by
//! an application that does nothing else; *signed block* is the same with one that
//! verifies an ed25519 signature in each transaction, the least that an application
//! with accounts does. Rounds of both ways take turns. Compare inside one run.

#[path = "../tests/support/adapter.rs"]
mod adapter;
#[path = "../testnet/app/frame.rs"]
mod frame;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use adapter::Adapter;
use anyhow::{Context, Result};
use bytes::Bytes;
use ed25519_consensus::{SigningKey, VerificationKey};
use prost::Message;
use tendermint_proto::v0_38::abci::{
    ExecTxResult, Request, RequestCheckTx, RequestFinalizeBlock, RequestFlush, Response,
    ResponseCheckTx, ResponseFinalizeBlock, ResponseFlush, request, response,
};

use frame::read_frame;
use support::Home;

const CALLS: usize = 10_000;
const BLOCKS: usize = 10;
const SIGNED_BLOCKS: usize = 2;
const TXS: usize = 10_000;
const TX_BYTES: usize = 250;

fn main() -> Result<()> {
    let rounds = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(5);
    let app = application()?;
    let home = Home::new();
    let adapter = Adapter::start(&home, &app, &[]);
    let listen = adapter.listen.trim_start_matches("tcp://");
    let mut direct = Figures::default();
    let mut between = Figures::default();
    for _ in 0..rounds {
        direct.measure(&app)?;
        between.measure(listen)?;
    }
    println!("{rounds} rounds            without     with    added");
    row("CheckTx p50", &mut direct.calls, &mut between.calls, 50);
    row("CheckTx p99", &mut direct.calls, &mut between.calls, 99);
    row("block   p50", &mut direct.blocks, &mut between.blocks, 50);
    row("block   p99", &mut direct.blocks, &mut between.blocks, 99);
    let (direct, between) = (&mut direct.signed_blocks, &mut between.signed_blocks);
    row("signed block p50", direct, between, 50);
    Ok(())
}

fn row(name: &str, direct: &mut [Duration], between: &mut [Duration], percent: usize) {
    let [without, with] = [direct, between].map(|times| {
        times.sort_unstable();
        times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6
    });
    let added = with - without;
    println!(
        "{name:<16} {without:>9.0} µs {with:>7.0} µs {added:>+7.0} µs ({:+.1} %)",
        100.0 * added / without
    );
}

#[derive(Default)]
struct Figures {
    calls: Vec<Duration>,
    blocks: Vec<Duration>,
    signed_blocks: Vec<Duration>,
}

impl Figures {
    fn measure(&mut self, address: &str) -> Result<()> {
        let mut node = TcpStream::connect(address)?;
        node.set_nodelay(true)?;
        let mut answers = BufReader::new(node.try_clone()?);
        let tx: Bytes = vec![7; TX_BYTES].into();
        let block = |tx: Bytes, height| {
            frames(request::Value::FinalizeBlock(RequestFinalizeBlock {
                txs: vec![tx; TXS],
                height,
                ..Default::default()
            }))
        };
        let signed_block = block(signed_tx(), SIGNED);
        let block = block(tx.clone(), 7);
        let check = frames(request::Value::CheckTx(RequestCheckTx { tx, r#type: 0 }));
        for (call, times, count) in [
            (&check, &mut self.calls, CALLS),
            (&block, &mut self.blocks, BLOCKS),
            (&signed_block, &mut self.signed_blocks, SIGNED_BLOCKS),
        ] {
            for _ in 0..count {
                let start = Instant::now();
                node.write_all(call)?;
                read_frame(&mut answers)?.context("an answer")?;
                read_frame(&mut answers)?.context("an answer to Flush")?;
                times.push(start.elapsed());
            }
        }
        Ok(())
    }
}

/// The height of blocks whose transactions are verified.
const SIGNED: i64 = 8;

/// Public key, signature and what is signed.
fn signed_tx() -> Bytes {
    let key = SigningKey::from([7; 32]);
    let message = [7; TX_BYTES - 96];
    let signature = key.sign(&message);
    [
        &key.verification_key().to_bytes()[..],
        &signature.to_bytes(),
        &message,
    ]
    .concat()
    .into()
}

/// Nothing when a signature of a signed block is wrong.
fn verify(request: &[u8]) -> Option<()> {
    let Some(request::Value::FinalizeBlock(block)) = Request::decode(request).ok()?.value else {
        return None;
    };
    if block.height != SIGNED {
        return Some(());
    }
    block.txs.iter().try_for_each(|tx| {
        let (key, rest) = tx.split_first_chunk::<32>()?;
        let (signature, message) = rest.split_first_chunk::<64>()?;
        let key = VerificationKey::try_from(*key).ok()?;
        key.verify(&(*signature).into(), message).ok()
    })
}

/// A call and a Flush.
fn frames(value: request::Value) -> Vec<u8> {
    let flush = request::Value::Flush(RequestFlush {});
    let frame = |value| {
        let value = Some(value);
        Request { value }.encode_length_delimited_to_vec()
    };
    [frame(value), frame(flush)].concat()
}

/// An application that answers at Flush; gives its address.
fn application() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let answer = |value| {
        let value = Some(value);
        Response { value }.encode_length_delimited_to_vec()
    };
    let checked = answer(response::Value::CheckTx(ResponseCheckTx::default()));
    let executed = answer(response::Value::FinalizeBlock(ResponseFinalizeBlock {
        tx_results: vec![
            ExecTxResult {
                data: vec![1; 32].into(),
                gas_used: 70_000,
                ..Default::default()
            };
            TXS
        ],
        app_hash: vec![2; 32].into(),
        ..Default::default()
    }));
    let flushed = answer(response::Value::Flush(ResponseFlush {}));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = [checked.clone(), executed.clone(), flushed.clone()];
            std::thread::spawn(move || serve(stream, &answers));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, [checked, executed, flushed]: &[Vec<u8>; 3]) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut calls = BufReader::with_capacity(64 << 10, stream.try_clone().ok()?);
    let mut waiting = Vec::new();
    loop {
        let body = read_frame(&mut calls).ok()??;
        match body.first()? >> 3 {
            1 => waiting.extend_from_slice(checked),
            2 => {
                waiting.extend_from_slice(flushed);
                stream.write_all(&waiting).ok()?;
                waiting.clear();
            }
            8 => waiting.extend_from_slice(checked),
            _ => {
                verify(&body)?;
                waiting.extend_from_slice(executed);
            }
        }
    }
}
