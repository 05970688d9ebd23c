use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};
use tendermint_proto::v0_38::abci::{
    Request, Response, ResponseFlush, ResponseListSnapshots, Snapshot, request, response,
};

use super::*;

/// A home with a daemon that answers as a test says, and an application with
/// snapshots.
struct House {
    folder: tempfile::TempDir,
    app: Address,
    connections: Arc<Mutex<usize>>,
    asked: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<Vec<Value>>>,
}

impl House {
    fn new(heights: &'static [u64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let house = Self {
            app: Address::Tcp(listener.local_addr().unwrap().to_string()),
            connections: Arc::default(),
            asked: Arc::default(),
            answers: Arc::default(),
            folder,
        };
        let connections = house.connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                *connections.lock().unwrap() += 1;
                std::thread::spawn(move || serve(stream.unwrap(), heights));
            }
        });
        let socket = house.folder.path().join(crate::api::control::SOCKET_NAME);
        let listener = UnixListener::bind(socket).unwrap();
        let (asked, answers) = (house.asked.clone(), house.answers.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                asked
                    .lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
                let answer = answers.lock().unwrap().remove(0);
                let _ = writeln!(&stream, "{answer}");
            }
        });
        house
    }

    fn run(&self, learnt: Learnt) -> Run {
        let app = self.app.clone();
        Run::new(Harvest::new(self.folder.path(), app, learnt, None))
    }

    /// What the daemon says next.
    fn answer(&self, answer: Value) {
        self.answers.lock().unwrap().push(answer);
    }

    /// Heights of the offers in the last command.
    fn asked(&self) -> Option<Vec<u64>> {
        let command = self.asked.lock().unwrap().pop()?;
        let offers = command["offers"].as_array().unwrap().iter();
        Some(
            offers
                .map(|offer| offer["height"].as_u64().unwrap())
                .collect(),
        )
    }
}

fn serve(mut stream: TcpStream, heights: &[u64]) -> Option<()> {
    loop {
        let mut length = [0];
        stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; usize::from(length[0])];
        stream.read_exact(&mut body).ok()?;
        let answer = match Request::decode(&*body).unwrap().value.unwrap() {
            request::Value::Flush(_) => response::Value::Flush(ResponseFlush {}),
            request::Value::ListSnapshots(_) => {
                let snapshot = |height: &u64| Snapshot {
                    height: *height,
                    format: 1,
                    chunks: 1,
                    hash: Bytes::from_static(&[0xab]),
                    metadata: Bytes::new(),
                };
                let snapshots = heights.iter().map(snapshot).collect();
                response::Value::ListSnapshots(ResponseListSnapshots { snapshots })
            }
            other => panic!("{other:?}"),
        };
        let value = Some(answer);
        let bytes = Response { value }.encode_length_delimited_to_vec();
        stream.write_all(&bytes).ok()?;
    }
}

fn said(settled: &[u64], trouble: Option<&str>) -> Value {
    let name = |height: &u64| json!([height, 1, "ab"]);
    let settled: Vec<Value> = settled.iter().map(name).collect();
    json!({ "ok": { "taken": [], "settled": settled, "waiting": [], "trouble": trouble, "x": 1 } })
}

/// A chain of which heights from 5 on went by, and 100 is decided.
fn chain() -> Learnt {
    let learnt = Learnt::of_test("a");
    for height in 5..100 {
        learnt.execute(height, "hash");
    }
    learnt.execute(100, "hash");
    learnt
}

#[tokio::test]
async fn only_what_the_daemon_says_is_settled_is_not_asked_for_again() {
    let house = House::new(&[10, 20]);
    let mut run = house.run(chain());
    // Nothing is said of 20: it may be in its back-off.
    house.answer(said(&[10], None));
    run.look().await.unwrap();
    assert_eq!(house.asked(), Some(vec![20, 10]));
    // Where there is trouble, nothing is settled.
    house.answer(said(&[20], Some("the disk is full")));
    let trouble = run.look().await.unwrap_err();
    assert_eq!(trouble.message, "the disk is full");
    assert_eq!(house.asked(), Some(vec![20]));
    // A daemon that is stopped has an error, and one that is gone none.
    let error = json!({"error": {"code": "interrupted", "message": "interrupted", "hint": null}});
    house.answer(error);
    run.look().await.unwrap_err();
    assert_eq!(house.asked(), Some(vec![20]));
    house.answer(said(&[20], None));
    run.look().await.unwrap();
    assert_eq!(house.asked(), Some(vec![20]));
    run.look().await.unwrap();
    assert_eq!(house.asked(), None, "all is settled");
    assert_eq!(*house.connections.lock().unwrap(), 1, "one for all looks");
}

#[tokio::test]
async fn a_daemon_of_another_version_is_told_and_asked_again() {
    let house = House::new(&[10]);
    let mut run = house.run(chain());
    house.answer(json!({ "ok": { "carried": [] } }));
    let trouble = run.look().await.unwrap_err();
    assert!(trouble.message.contains("another version"), "{trouble:?}");
    house.answer(said(&[10], None));
    run.look().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_whose_application_hash_went_by_unseen_is_told_unless_it_is_settled() {
    let house = House::new(&[3]);
    let mut run = house.run(chain());
    house.answer(said(&[], None));
    let trouble = run.look().await.unwrap_err();
    assert!(trouble.message.contains("--chain-rpc"), "{trouble:?}");
    house.answer(said(&[3], None));
    run.look().await.unwrap();
}

#[tokio::test]
async fn under_a_wrong_chain_id_nothing_is_taken() {
    let house = House::new(&[10]);
    let learnt = chain();
    learnt.begin("b");
    let trouble = house.run(learnt).look().await.unwrap_err();
    assert!(trouble.message.contains("the chain is b"), "{trouble:?}");
    let unknown = house.run(Learnt::of_test(None)).look().await.unwrap_err();
    assert!(unknown.message.contains("--chain-id"), "{unknown:?}");
    assert_eq!(house.asked(), None);
}

#[tokio::test]
async fn an_application_that_is_not_there_is_trouble_and_the_next_look_connects_anew() {
    let house = House::new(&[10]);
    let mut run = house.run(chain());
    let app = std::mem::replace(&mut run.with.app, "127.0.0.1:1".parse().unwrap());
    run.look().await.unwrap_err();
    assert!(run.app.is_none());
    run.with.app = app;
    house.answer(said(&[10], None));
    run.look().await.unwrap();
}

#[test]
fn a_command_has_the_newest_offers_that_fit_and_one_at_least() {
    let offer = |metadata: usize| Offer {
        height: 1,
        format: 1,
        chunks: 1,
        hash: Bytes::new(),
        metadata: vec![0; metadata].into(),
    };
    let largest = crate::snapshot::MAX_METADATA_BYTES;
    let many = vec![offer(51_200); 64];
    assert_eq!(first_of(&many).len(), 64);
    assert_eq!(first_of(&[offer(largest), offer(largest)]).len(), 1);
    assert_eq!(first_of(&[offer(2 * largest)]).len(), 1);
    let sent = 2 * largest + 1024;
    assert!(
        sent < MAX_COMMAND_BYTES,
        "the largest that CometBFT knows fits"
    );
}
