//! What the adapter costs: the same calls to the same application, with it between
//! and without.
//!
//! `cargo bench --bench abci [-- ROUNDS]`
//!
//! The application answers at once, as CometBFT's Go server does: at Flush. *CheckTx*
//! is one transaction of 250 bytes and a Flush, ten thousand times a round; *block* is
//! one FinalizeBlock of 10,000 transactions of 250 bytes, answered with 10,000
//! results. Rounds of both ways take turns. Compare inside one run.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use tendermint_proto::v0_38::abci::{
    ExecTxResult, Request, RequestCheckTx, RequestFinalizeBlock, RequestFlush, Response,
    ResponseCheckTx, ResponseFinalizeBlock, ResponseFlush, request, response,
};

const CALLS: usize = 10_000;
const BLOCKS: usize = 10;
const TXS: usize = 10_000;
const TX_BYTES: usize = 250;

fn main() -> Result<()> {
    let rounds = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(5);
    let app = application()?;
    let home = tempfile::tempdir()?;
    let adapter = Adapter::start(home.path(), &app)?;
    let mut direct = Figures::default();
    let mut between = Figures::default();
    for _ in 0..rounds {
        direct.measure(&app)?;
        between.measure(&adapter.address)?;
    }
    println!("{rounds} rounds            without     with    added");
    row("CheckTx p50", &mut direct.calls, &mut between.calls, 50);
    row("CheckTx p99", &mut direct.calls, &mut between.calls, 99);
    row("block   p50", &mut direct.blocks, &mut between.blocks, 50);
    row("block   p99", &mut direct.blocks, &mut between.blocks, 99);
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
}

impl Figures {
    fn measure(&mut self, address: &str) -> Result<()> {
        let mut node = TcpStream::connect(address)?;
        node.set_nodelay(true)?;
        let mut answers = BufReader::new(node.try_clone()?);
        let tx: Bytes = vec![7; TX_BYTES].into();
        let check = frames(request::Value::CheckTx(RequestCheckTx {
            tx: tx.clone(),
            r#type: 0,
        }));
        let block = frames(request::Value::FinalizeBlock(RequestFinalizeBlock {
            txs: vec![tx; TXS],
            height: 7,
            ..Default::default()
        }));
        for (call, times, count) in [
            (&check, &mut self.calls, CALLS),
            (&block, &mut self.blocks, BLOCKS),
        ] {
            for _ in 0..count {
                let start = Instant::now();
                node.write_all(call)?;
                frame(&mut answers).context("an answer")?;
                frame(&mut answers).context("an answer to Flush")?;
                times.push(start.elapsed());
            }
        }
        Ok(())
    }
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

fn frame(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut len = 0_usize;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte).ok()?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).ok()?;
    Some(body)
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
        let body = frame(&mut calls)?;
        match body.first()? >> 3 {
            1 => waiting.extend_from_slice(checked),
            2 => {
                waiting.extend_from_slice(flushed);
                stream.write_all(&waiting).ok()?;
                waiting.clear();
            }
            8 => waiting.extend_from_slice(checked),
            _ => waiting.extend_from_slice(executed),
        }
    }
}

/// A running adapter, killed when dropped.
struct Adapter {
    child: Child,
    address: String,
}

impl Adapter {
    fn start(home: &std::path::Path, app: &str) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snapswarm"))
            .arg("--home")
            .arg(home)
            .args(["--json", "adapter", "--app", app, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().context("piped")?);
        std::io::BufRead::read_line(&mut stdout, &mut line)?;
        let started: serde_json::Value = serde_json::from_str(&line)?;
        let listen = started["listen"].as_str().context("an address")?;
        let address = listen.trim_start_matches("tcp://").to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
