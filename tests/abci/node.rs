//! CometBFT's side of a connection, by hand.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use prost::Message;
use snapswarm::abci::Address;
use tendermint_proto::v0_38::abci::{Request, RequestFlush, Response, request, response};

use crate::app::frame;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One connection.
pub struct Node(BufReader<Box<dyn Stream>>);

impl Node {
    pub fn connect(address: &Address) -> Self {
        let patience = Some(Duration::from_secs(60));
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(patience).unwrap();
                Box::new(stream)
            }
        };
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, value: request::Value) {
        let value = Some(value);
        self.send_bytes(&Request { value }.encode_length_delimited_to_vec());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn flush(&mut self) {
        self.send(request::Value::Flush(RequestFlush {}));
    }

    /// The next answer; nothing when the connection has ended.
    pub fn answer(&mut self) -> Option<response::Value> {
        let body = frame(&mut self.0)?;
        Response::decode(&*body).unwrap().value
    }

    /// One call, as CometBFT makes it: with a Flush, and both answers.
    pub fn call(&mut self, value: request::Value) -> response::Value {
        self.send(value);
        self.flush();
        let answer = self.answer().expect("an answer");
        let flush = self.answer().expect("an answer to Flush");
        assert!(matches!(flush, response::Value::Flush(_)), "{flush:?}");
        answer
    }
}
