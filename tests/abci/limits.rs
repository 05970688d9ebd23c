//! What hangs, floods, dies or comes in pieces.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use snapswarm::abci::{Address, Times};
use tendermint_proto::v0_37;
use tendermint_proto::v0_38::abci::{
    Request, RequestFlush, RequestInfo, RequestInitChain, RequestQuery, Response, ResponseCheckTx,
    ResponseFlush, ResponseQuery, request, response,
};

use crate::app::{FakeApp, frame, obliging};
use crate::between::*;
use crate::node::Node;

const ANY_PORT: &str = "tcp://127.0.0.1:0";

fn query(path: &str) -> request::Value {
    request::Value::Query(RequestQuery {
        path: path.to_owned(),
        ..Default::default()
    })
}

#[test]
fn a_shelf_that_hangs_costs_a_bounded_number_of_threads_and_no_connection() {
    let app = FakeApp::start(obliging(20, APP_HASH));
    let Address::Tcp(address) = &app.address else {
        panic!("not TCP");
    };
    // A name is looked up for each connection, on whatever thread is free.
    let port = address.rsplit_once(':').unwrap().1;
    let by_name = Address::Tcp(format!("localhost:{port}"));
    let times = Times {
        serve: Duration::from_millis(20),
        decide: Duration::from_millis(20),
        ..short()
    };
    let between = Between::patient(&by_name, ANY_PORT, Shelf::new(), times);
    let mut consensus = between.node();
    consensus.call(request::Value::Info(RequestInfo::default()));
    between.shelf.be(Mood::Hangs);
    let mut node = between.node();
    for _ in 0..700 {
        node.send(load(0));
        node.send(query("/sync_status"));
    }
    node.flush();
    for _ in 0..700 {
        assert_eq!(loaded(node.answer().unwrap()), "");
        match node.answer().unwrap() {
            response::Value::Query(answer) => assert_eq!(answer.value, "{}"),
            other => panic!("{other:?}"),
        }
    }
    let asked = between.shelf.asked.load(Ordering::SeqCst);
    assert!(asked <= 8, "{asked} threads hang");
    assert!(between.learnt.standing().served.refused > 1000);
    // Offers have their own, and a new connection needs none.
    assert_eq!(offered(&between.node().call(offer())), 3);
    let start = Instant::now();
    for height in 21..30 {
        between.node().call(block(height, "hash"));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(between.shelf.asked.load(Ordering::SeqCst), asked + 1);
}

#[test]
fn however_many_chunks_are_asked_for_on_a_connection_they_are_read_one_at_a_time_in_order() {
    let app = FakeApp::start(obliging(20, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    for number in 0..64 {
        node.send(load(number % 3));
    }
    node.send(check_tx("last"));
    node.flush();
    for number in 0..64 {
        let expected = ["one", "two", "three"][number % 3];
        assert_eq!(loaded(node.answer().unwrap()), expected);
    }
    assert!(matches!(node.answer(), Some(response::Value::CheckTx(_))));
    assert_eq!(between.shelf.most_reading.load(Ordering::SeqCst), 1);
}

fn framed(value: request::Value) -> Vec<u8> {
    let value = Some(value);
    Request { value }.encode_length_delimited_to_vec()
}

fn answered(value: response::Value) -> Vec<u8> {
    let value = Some(value);
    Response { value }.encode_length_delimited_to_vec()
}

#[test]
fn a_flush_is_obeyed_although_a_part_of_the_next_frame_came_with_it() {
    let app = FakeApp::start(obliging(0, b""));
    let between = Between::start(&app.address);
    let long = "x".repeat(100_000);
    for next in [check_tx("next"), check_tx(&long), load(0), query("/store")] {
        let mut node = between.node();
        let (start, next) = (
            [
                framed(check_tx("first")),
                framed(request::Value::Flush(RequestFlush {})),
            ]
            .concat(),
            framed(next),
        );
        let cut = next.len() / 2;
        node.send_bytes(&[&start, &next[..cut]].concat());
        assert!(matches!(node.answer(), Some(response::Value::CheckTx(_))));
        assert!(matches!(node.answer(), Some(response::Value::Flush(_))));
        node.send_bytes(&next[cut..]);
        node.flush();
        assert!(node.answer().is_some());
    }
}

#[test]
fn answers_are_passed_on_although_a_part_of_the_next_one_came_with_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = Between::start(&Address::Tcp(listener.local_addr().unwrap().to_string()));
    let mut node = between.node();
    node.send(check_tx("first"));
    node.flush();
    node.send(query("/store"));
    node.flush();
    let (mut app, _) = listener.accept().unwrap();
    for _ in 0..4 {
        frame(&mut app).unwrap();
    }
    let query = answered(response::Value::Query(ResponseQuery {
        value: vec![7; 100_000].into(),
        ..Default::default()
    }));
    let flush = answered(response::Value::Flush(ResponseFlush {}));
    let check = answered(response::Value::CheckTx(ResponseCheckTx::default()));
    app.write_all(&[&check[..], &flush, &query[..4096]].concat())
        .unwrap();
    assert!(matches!(node.answer(), Some(response::Value::CheckTx(_))));
    assert!(matches!(node.answer(), Some(response::Value::Flush(_))));
    app.write_all(&[&query[4096..], &flush].concat()).unwrap();
    assert!(matches!(node.answer(), Some(response::Value::Query(_))));
    assert!(matches!(node.answer(), Some(response::Value::Flush(_))));
}

#[test]
fn what_cometbft_asked_before_it_died_does_not_reach_an_application_that_comes_later() {
    // A port on which nobody listens yet.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let between = Between::start(&Address::Tcp(port.to_string()));
    for _ in 0..100 {
        let mut node = between.node();
        node.send(request::Value::Info(RequestInfo::default()));
        node.flush();
    }
    let mut living = between.node();
    living.send(check_tx("living"));
    living.flush();
    let listener = TcpListener::bind(port).unwrap();
    let app = FakeApp::serve(listener, false, obliging(0, b""));
    assert!(matches!(living.answer(), Some(response::Value::CheckTx(_))));
    assert_eq!(app.calls().len(), 1, "of the living one");
}

#[test]
fn a_flood_in_both_directions_at_once_passes() {
    let app = FakeApp::serve(
        TcpListener::bind("127.0.0.1:0").unwrap(),
        true,
        obliging(0, b""),
    );
    let between = Between::start(&app.address);
    let Address::Tcp(address) = &between.address else {
        panic!("not TCP");
    };
    const COUNT: usize = 10_000;
    let stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let tx = framed(check_tx(&"x".repeat(4096)));
        for _ in 0..COUNT {
            writer.write_all(&tx).unwrap();
        }
    });
    // Meanwhile the buffers fill, both ways; how much they hold is the system's affair.
    std::thread::sleep(Duration::from_millis(500));
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    let mut reader = std::io::BufReader::new(stream);
    for _ in 0..COUNT {
        assert!(frame(&mut reader).unwrap().len() > 4096);
    }
    writing.join().unwrap();
}

#[test]
fn another_chain_begins_with_nothing_known_and_one_that_was_not_said_is_not_served() {
    let app = FakeApp::start(obliging(20, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    let begin = |id: &str| {
        request::Value::InitChain(RequestInitChain {
            chain_id: id.to_owned(),
            ..Default::default()
        })
    };
    node.call(begin("first"));
    node.call(block(50, "hash"));
    assert_eq!(listed(&mut node), [10]);
    node.call(begin("second"));
    let chain = between.learnt.chain();
    assert_eq!((chain.id.as_deref(), chain.tip), (Some("second"), 0));
    assert_eq!(listed(&mut node), [0; 0]);

    let said = Between::saying(&app.address, "said");
    let mut node = said.node();
    node.call(begin("another"));
    node.call(block(50, "hash"));
    let chain = said.learnt.chain();
    assert_eq!(chain.contradicted_by.as_deref(), Some("another"));
    assert_eq!(listed(&mut node), [0; 0]);
    assert_eq!(loaded(node.call(load(0))), "");
    node.call(begin("said"));
    node.call(block(50, "hash"));
    assert_eq!(listed(&mut node), [10]);
    assert_eq!(loaded(node.call(load(0))), "one");
}

#[test]
fn blocks_are_learnt_from_the_calls_of_0_37_as_well() {
    use v0_37::abci::{
        RequestBeginBlock, RequestCommit, RequestEndBlock, ResponseBeginBlock, ResponseCommit,
        ResponseEndBlock, request::Value as Ask, response::Value as Answer,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = Between::start(&Address::Tcp(listener.local_addr().unwrap().to_string()));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut height = 0;
        while let Some(body) = frame(&mut stream) {
            let answer = match v0_37::abci::Request::decode(&*body).unwrap().value.unwrap() {
                Ask::BeginBlock(_) => Answer::BeginBlock(ResponseBeginBlock::default()),
                Ask::EndBlock(end) => {
                    height = end.height;
                    Answer::EndBlock(ResponseEndBlock::default())
                }
                Ask::Commit(_) => Answer::Commit(ResponseCommit {
                    data: format!("hash {height}").into(),
                    retain_height: 0,
                }),
                other => panic!("{other:?}"),
            };
            let value = Some(answer);
            let bytes = v0_37::abci::Response { value }.encode_length_delimited_to_vec();
            stream.write_all(&bytes).unwrap();
        }
    });
    let Address::Tcp(address) = &between.address else {
        panic!("not TCP");
    };
    let mut stream = TcpStream::connect(address).unwrap();
    let mut commits = between.learnt.commits();
    for height in 7..9 {
        for ask in [
            Ask::BeginBlock(RequestBeginBlock::default()),
            Ask::EndBlock(RequestEndBlock { height }),
            Ask::Commit(RequestCommit {}),
        ] {
            let value = Some(ask);
            let bytes = v0_37::abci::Request { value }.encode_length_delimited_to_vec();
            stream.write_all(&bytes).unwrap();
            frame(&mut stream).unwrap();
        }
    }
    assert_eq!(between.learnt.chain().tip, 8);
    assert_eq!(between.learnt.app_hash(7), Some("hash 7".into()));
    assert_eq!(between.learnt.app_hash(8), None);
    assert_eq!(*commits.borrow_and_update(), 8);
}

#[test]
fn an_end_of_cometbft_in_the_middle_of_a_frame_reaches_the_application() {
    let app = FakeApp::start(obliging(0, b""));
    let between = Between::start(&app.address);
    let mut node: Node = between.node();
    node.call(check_tx("whole"));
    node.send_bytes(&framed(check_tx("cut"))[..4]);
    drop(node);
    eventually("the application sees the end", || app.ended() == 1);
    let Address::Tcp(address) = &between.address else {
        panic!("not TCP");
    };
    // Both ends are gone when the adapter stops.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&framed(check_tx("x"))).unwrap();
    drop(between);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}
