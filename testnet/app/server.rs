//! The socket: one thread for each connection, frames in, answers out in order.
//!
//! A frame is a length as a varint and so many bytes of protobuf. An answer is
//! written as soon as there is one. Bytes that are no request are answered with an
//! Exception; a length that cannot be is the end of the connection, since nobody
//! knows where the next frame begins.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use prost::Message as _;
use tendermint_proto::v0_38::abci::{Request, Response, request, response};

use super::Options;
use super::calls::{App, exception};
use super::frame::read_frame;
use super::script::Before;

/// How often a call that hangs looks whether it still has to.
const HANG_CHECK: Duration = Duration::from_millis(100);

/// A server with its port open and its state read.
pub struct Server {
    listener: TcpListener,
    address: String,
    app: Arc<Mutex<App>>,
    stop: Arc<Stop>,
}

impl Server {
    /// Opens the port.
    pub fn bind(options: &Options) -> anyhow::Result<Self> {
        let app = App::open(options)?;
        let listen = &options.listen;
        let place = match listen.split_once("://") {
            Some(("tcp", place)) => place,
            None => listen,
            Some(_) => bail!("{listen} is no address: it is tcp://HOST:PORT"),
        };
        let listener =
            TcpListener::bind(place).with_context(|| format!("{listen} cannot be listened on"))?;
        let address = format!("tcp://{}", listener.local_addr()?);
        Ok(Self {
            listener,
            address,
            app: Arc::new(Mutex::new(app)),
            stop: Arc::default(),
        })
    }

    /// Where it listens: `tcp://IP:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What ends it from another thread.
    #[allow(dead_code)] // the program runs until it is killed
    pub fn stop(&self) -> Arc<Stop> {
        self.stop.clone()
    }

    /// Serves until it is stopped, or until the application ends: an error. No
    /// connection is open afterwards.
    pub fn run(self) -> anyhow::Result<()> {
        let local = self.listener.local_addr()?;
        let (listener, app, stop) = (self.listener, self.app, self.stop.clone());
        let accepting = std::thread::spawn(move || accept(&listener, &app, &stop));
        let reason = self.stop.ended();
        // The accepting thread waits for a connection.
        drop(TcpStream::connect(local));
        let _ = accepting.join();
        reason.map_or(Ok(()), Err)
    }
}

/// The end of a server, told to all of its threads.
#[derive(Default)]
pub struct Stop {
    state: Mutex<Ending>,
    changed: Condvar,
}

#[derive(Default)]
struct Ending {
    is_over: bool,
    reason: Option<anyhow::Error>,
    open: BTreeMap<u64, TcpStream>,
    next: u64,
}

impl Stop {
    /// Ends the server.
    #[allow(dead_code)] // the program runs until it is killed
    pub fn now(&self) {
        self.end(None);
    }

    fn end(&self, reason: Option<anyhow::Error>) {
        let mut state = lock(&self.state);
        if !state.is_over {
            state.is_over = true;
            state.reason = reason;
        }
        for stream in state.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    /// Waits for the end, and takes its reason.
    fn ended(&self) -> Option<anyhow::Error> {
        let mut state = lock(&self.state);
        while !state.is_over {
            state = (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        state.reason.take()
    }

    /// Lets time pass; less when the end comes.
    fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut state = lock(&self.state);
        while !state.is_over {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes a connection, which the end closes; nothing when that has come.
    fn open(&self, stream: &TcpStream) -> io::Result<Option<u64>> {
        let mut state = lock(&self.state);
        if state.is_over {
            return Ok(None);
        }
        let id = state.next;
        state.next += 1;
        state.open.insert(id, stream.try_clone()?);
        Ok(Some(id))
    }

    fn closed(&self, id: u64) {
        lock(&self.state).open.remove(&id);
    }
}

/// A thread that panicked leaves nothing half done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, app: &Arc<Mutex<App>>, stop: &Arc<Stop>) {
    for stream in listener.incoming() {
        if stop.is_over() {
            return;
        }
        let Ok(stream) = stream else {
            // Too many files, for one: the next attempt may do.
            stop.wait(HANG_CHECK);
            continue;
        };
        let (app, stop) = (app.clone(), stop.clone());
        std::thread::spawn(move || {
            let Ok(Some(id)) = stop.open(&stream) else {
                return;
            };
            let end = Connection::new(stream, &app, &stop).and_then(Connection::serve);
            stop.closed(id);
            if let Err(Ended::App(reason)) = end {
                stop.end(Some(reason));
            }
        });
    }
}

/// Why a connection ends before its other side closes it.
enum Ended {
    Connection,
    App(anyhow::Error),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Connection
    }
}

struct Connection<'a> {
    reader: BufReader<TcpStream>,
    app: &'a Mutex<App>,
    stop: &'a Stop,
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, app: &'a Mutex<App>, stop: &'a Stop) -> Result<Self, Ended> {
        stream.set_nodelay(true)?;
        let reader = BufReader::new(stream);
        Ok(Self { reader, app, stop })
    }

    fn serve(mut self) -> Result<(), Ended> {
        loop {
            let body = match read_frame(&mut self.reader) {
                Ok(Some(body)) => body,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let _ = self.write(exception(error.to_string()));
                    return Err(error.into());
                }
            };
            let answer = match Request::decode(bytes::Bytes::from(body)) {
                Ok(Request { value: Some(asked) }) => self.answer(asked)?,
                Ok(Request { value: None }) => exception("a call that nobody knows".to_owned()),
                Err(error) => exception(format!("no request: {error}")),
            };
            self.write(answer)?;
        }
    }

    fn answer(&mut self, asked: request::Value) -> Result<response::Value, Ended> {
        // The other connections are answered meanwhile.
        let before = lock(self.app).before(&asked).map_err(Ended::App)?;
        for one in before {
            match one {
                Before::Wait(time) => self.stop.wait(time),
                Before::Hang => return Err(self.hang()),
                Before::Die => {
                    let reason = anyhow::anyhow!("it dies at a chunk, as its script says");
                    return Err(Ended::App(reason));
                }
            }
        }
        if self.stop.is_over() {
            return Err(Ended::Connection);
        }
        lock(self.app).answer(asked).map_err(Ended::App)
    }

    /// Answers nothing any more, until the other side or the server ends.
    fn hang(&mut self) -> Ended {
        let stream = self.reader.get_mut();
        let mut unread = [0; 4096];
        if stream.set_read_timeout(Some(HANG_CHECK)).is_ok() {
            while !self.stop.is_over() {
                match stream.read(&mut unread) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted => {}
                        _ => break,
                    },
                }
            }
        }
        Ended::Connection
    }

    fn write(&mut self, value: response::Value) -> io::Result<()> {
        let value = Some(value);
        let bytes = Response { value }.encode_length_delimited_to_vec();
        self.reader.get_mut().write_all(&bytes)
    }
}
