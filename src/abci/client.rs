//! Asking the application ourselves, on a connection of our own: as a source of
//! snapshots, and for its Info after a restore. Blocking, with a limit on each
//! answer's time.
//!
//! One call at a time, each with a Flush: an application that CometBFT's own Go
//! server serves does nothing else meanwhile, so the next chunk is asked for when
//! the last one was taken.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tendermint_proto::v0_38::abci::{
    RequestFlush, RequestListSnapshots, RequestLoadSnapshotChunk, request, response,
};

use super::message;
use super::{AbciError, Address};
use crate::snapshot::{MAX_CHUNK_BYTES, Offer, OpenSnapshot, Source, SourceError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An application may be busy with a block.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest answer: a chunk with its message. A list of snapshots is shorter.
const MAX_ANSWER_BYTES: usize = MAX_CHUNK_BYTES as usize + 1024;

/// What the application says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppInfo {
    /// Its protocol version.
    pub app_version: u64,
    /// Its newest block.
    pub height: u64,
    /// Its state's hash.
    pub app_hash: Bytes,
}

/// Asks the application at an address for its Info, and waits so long for it.
pub fn app_info(app: &Address, timeout: Duration) -> Result<AppInfo, AbciError> {
    let mut client = Client::connect(app, timeout)?;
    match client.call("Info", &message::ask_info())? {
        response::Value::Info(info) => Ok(AppInfo {
            app_version: info.app_version,
            height: u64::try_from(info.last_block_height).unwrap_or(0),
            app_hash: info.last_block_app_hash,
        }),
        other => Err(client.not_asked_for("Info", &other)),
    }
}

trait Stream: Read + Write + Send + Sync {}
impl<T: Read + Write + Send + Sync> Stream for T {}

struct Client {
    address: Address,
    stream: io::BufReader<Box<dyn Stream>>,
}

impl Client {
    fn connect(address: &Address, timeout: Duration) -> Result<Self, AbciError> {
        let failed = |source| AbciError::App {
            address: address.clone(),
            what: "connecting",
            source,
        };
        Ok(Self {
            address: address.clone(),
            stream: io::BufReader::new(connect(address, timeout).map_err(failed)?),
        })
    }

    fn call(&mut self, what: &'static str, request: &[u8]) -> Result<response::Value, AbciError> {
        self.exchange(request).map_err(|source| AbciError::App {
            address: self.address.clone(),
            what,
            source,
        })
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<response::Value> {
        let mut bytes = request.to_vec();
        bytes.extend(message::ask(request::Value::Flush(RequestFlush {})));
        self.stream.get_mut().write_all(&bytes)?;
        let answer = self.answer()?;
        if matches!(answer, response::Value::Exception(_)) {
            return Ok(answer);
        }
        match self.answer()? {
            flush if message::is_flush(&flush) => Ok(answer),
            other => Err(io::Error::other(format!(
                "{} instead of Flush",
                name(&other)
            ))),
        }
    }

    fn answer(&mut self) -> io::Result<response::Value> {
        let mut len = 0_u64;
        for shift in (0..).step_by(7) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            if shift >= 35 {
                return Err(io::Error::other("no length before an answer"));
            }
            len |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        if len > MAX_ANSWER_BYTES as u64 {
            return Err(io::Error::other(format!("an answer of {len} bytes")));
        }
        let mut body = vec![0; len as usize];
        self.stream.read_exact(&mut body)?;
        tendermint_proto::v0_38::abci::Response::decode(Bytes::from(body))
            .map_err(io::Error::other)?
            .value
            .ok_or_else(|| io::Error::other("an empty answer"))
    }

    fn not_asked_for(&self, what: &'static str, found: &response::Value) -> AbciError {
        AbciError::Answer {
            address: self.address.clone(),
            what,
            problem: name(found),
        }
    }
}

/// A word for an answer.
fn name(value: &response::Value) -> String {
    match value {
        response::Value::Exception(exception) => format!("the exception '{}'", exception.error),
        other => {
            let text = format!("{other:?}");
            text.split('(').next().unwrap_or_default().to_owned()
        }
    }
}

fn connect(address: &Address, timeout: Duration) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Tcp(address) => {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        stream.set_read_timeout(Some(timeout))?;
                        stream.set_write_timeout(Some(timeout))?;
                        return Ok(Box::new(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            Ok(Box::new(stream))
        }
    }
}

/// A [`Source`] that asks the application itself for its snapshots.
pub struct AppSource {
    address: Address,
    client: Option<Client>,
}

impl AppSource {
    /// Connects to nothing yet.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            client: None,
        }
    }

    fn call(&mut self, what: &'static str, request: &[u8]) -> Result<response::Value, AbciError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.address, ANSWER_TIMEOUT)?,
        };
        let answer = client.call(what, request)?;
        // A connection that failed is not used again.
        self.client = Some(client);
        Ok(answer)
    }

    fn other(&self, what: &'static str, found: &response::Value) -> SourceError {
        failed(AbciError::Answer {
            address: self.address.clone(),
            what,
            problem: name(found),
        })
    }
}

fn failed(error: AbciError) -> SourceError {
    SourceError::Failed(Box::new(error))
}

impl Source for AppSource {
    fn list(&mut self) -> Result<Vec<Offer>, SourceError> {
        const WHAT: &str = "ListSnapshots";
        let request = message::ask(request::Value::ListSnapshots(RequestListSnapshots {}));
        match self.call(WHAT, &request).map_err(failed)? {
            response::Value::ListSnapshots(list) => {
                let mut offers: Vec<Offer> =
                    list.snapshots.into_iter().map(message::offer).collect();
                offers.sort_by(|one, other| {
                    (other.height, other.format).cmp(&(one.height, one.format))
                });
                Ok(offers)
            }
            other => Err(self.other(WHAT, &other)),
        }
    }

    fn open(&mut self, offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError> {
        Ok(Box::new(AppSnapshot {
            offer: offer.clone(),
            next: 0,
            source: self,
        }))
    }
}

struct AppSnapshot<'a> {
    source: &'a mut AppSource,
    offer: Offer,
    next: u32,
}

impl OpenSnapshot for AppSnapshot<'_> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        const WHAT: &str = "LoadSnapshotChunk";
        if self.next >= self.offer.chunks {
            return Ok(None);
        }
        let (height, format) = (self.offer.height, self.offer.format);
        let asked = RequestLoadSnapshotChunk {
            height,
            format,
            chunk: self.next,
        };
        let request = message::ask(request::Value::LoadSnapshotChunk(asked));
        match self.source.call(WHAT, &request).map_err(failed)? {
            response::Value::LoadSnapshotChunk(answer) if answer.chunk.is_empty() => {
                Err(SourceError::Gone { height, format })
            }
            response::Value::LoadSnapshotChunk(answer) => {
                self.next += 1;
                Ok(Some(answer.chunk))
            }
            other => Err(self.source.other(WHAT, &other)),
        }
    }
}
