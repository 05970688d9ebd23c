//! An application that does what a test says, served as CometBFT's Go server does
//! it: answers leave at Flush only; or as others do it, each at once.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use prost::Message;
use snapswarm::abci::Address;
use tendermint_proto::v0_38::abci::{
    Request, Response, ResponseFlush, ResponseInfo, request, response,
};

/// What the application answers; nothing: it hangs up.
pub type Script = dyn Fn(&request::Value) -> Option<response::Value> + Send + Sync;

/// A running application.
pub struct FakeApp {
    pub address: Address,
    calls: Arc<Mutex<Vec<request::Value>>>,
    ended: Arc<Mutex<usize>>,
}

impl FakeApp {
    pub fn start(
        script: impl Fn(&request::Value) -> Option<response::Value> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").unwrap(), false, script)
    }

    /// Serves on a port that is open already; `at_once`: each answer leaves at once.
    pub fn serve(
        listener: TcpListener,
        at_once: bool,
        script: impl Fn(&request::Value) -> Option<response::Value> + Send + Sync + 'static,
    ) -> Self {
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let app = Self {
            address,
            calls: Arc::default(),
            ended: Arc::default(),
        };
        let (calls, ended) = (app.calls.clone(), app.ended.clone());
        let script: Arc<Script> = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (calls, script, ended) = (calls.clone(), script.clone(), ended.clone());
                std::thread::spawn(move || {
                    serve(stream.unwrap(), at_once, &calls, &*script);
                    *ended.lock().unwrap() += 1;
                });
            }
        });
        app
    }

    /// What it was asked, Flush left out.
    pub fn calls(&self) -> Vec<request::Value> {
        self.calls.lock().unwrap().clone()
    }

    /// How many connections to it have ended.
    pub fn ended(&self) -> usize {
        *self.ended.lock().unwrap()
    }
}

fn serve(stream: TcpStream, at_once: bool, calls: &Mutex<Vec<request::Value>>, script: &Script) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let mut waiting = Vec::new();
    while let Some(body) = frame(&mut reader) {
        let Some(value) = Request::decode(&*body).unwrap().value else {
            continue;
        };
        let answer = if matches!(value, request::Value::Flush(_)) {
            response::Value::Flush(ResponseFlush {})
        } else {
            calls.lock().unwrap().push(value.clone());
            match script(&value) {
                Some(answer) => answer,
                None => return,
            }
        };
        let is_flush = matches!(answer, response::Value::Flush(_));
        let value = Some(answer);
        waiting.extend(Response { value }.encode_length_delimited_to_vec());
        if (is_flush || at_once) && writer.write_all(&std::mem::take(&mut waiting)).is_err() {
            return;
        }
    }
}

/// The body of the next frame; nothing at the end.
pub fn frame(from: &mut impl Read) -> Option<Vec<u8>> {
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

/// An application that takes everything, at a height with an application hash.
pub fn obliging(
    height: i64,
    app_hash: &'static [u8],
) -> impl Fn(&request::Value) -> Option<response::Value> {
    use response::Value;
    move |asked| {
        Some(match asked {
            request::Value::Echo(echo) => {
                Value::Echo(tendermint_proto::v0_38::abci::ResponseEcho {
                    message: echo.message.clone(),
                })
            }
            request::Value::Info(_) => Value::Info(ResponseInfo {
                last_block_height: height,
                last_block_app_hash: app_hash.into(),
                app_version: 1,
                ..Default::default()
            }),
            request::Value::CheckTx(tx) => {
                Value::CheckTx(tendermint_proto::v0_38::abci::ResponseCheckTx {
                    data: tx.tx.clone(),
                    ..Default::default()
                })
            }
            request::Value::OfferSnapshot(_) => {
                Value::OfferSnapshot(tendermint_proto::v0_38::abci::ResponseOfferSnapshot {
                    result: 1,
                })
            }
            request::Value::ApplySnapshotChunk(_) => Value::ApplySnapshotChunk(
                tendermint_proto::v0_38::abci::ResponseApplySnapshotChunk {
                    result: 1,
                    ..Default::default()
                },
            ),
            request::Value::FinalizeBlock(block) => {
                Value::FinalizeBlock(tendermint_proto::v0_38::abci::ResponseFinalizeBlock {
                    app_hash: block.hash.clone(),
                    ..Default::default()
                })
            }
            request::Value::Query(query) => {
                Value::Query(tendermint_proto::v0_38::abci::ResponseQuery {
                    log: query.path.clone(),
                    ..Default::default()
                })
            }
            request::Value::Commit(_) => Value::Commit(Default::default()),
            request::Value::InitChain(_) => Value::InitChain(Default::default()),
            other => panic!("the application is asked {other:?}"),
        })
    }
}
