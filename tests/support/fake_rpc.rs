//! A CometBFT RPC that says what a test wants.

#![allow(dead_code)] // each test file uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};

/// Answers each question, by its method, with what `result` makes of it. Gives
/// the URL; it answers until the test's process ends.
pub fn answering(result: impl Fn(&str) -> Value + Send + Sync + 'static) -> String {
    answering_to(move |method, _| result(method))
}

/// The same with the question's parameters.
pub fn answering_to(result: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let result = Arc::new(result);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(socket) = socket else { return };
            // A connection that asks nothing holds nobody up.
            let result = Arc::clone(&result);
            std::thread::spawn(move || answer(socket, &*result));
        }
    });
    url
}

fn answer(mut socket: TcpStream, result: &impl Fn(&str, &Value) -> Value) {
    let Some((method, params)) = asked(&socket) else {
        return;
    };
    let result = result(&method, &params);
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
    let _ = write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    );
}

/// A `/status` of a node of this chain at this height.
pub fn status(chain_id: &str, height: u64) -> Value {
    json!({
        "node_info": { "id": "00", "network": chain_id, "version": "0.38.25", "moniker": "m" },
        "sync_info": {
            "latest_block_height": height.to_string(),
            "earliest_block_height": "1",
            "catching_up": false,
        },
    })
}

/// Method and parameters of one request, header and body.
fn asked(socket: &TcpStream) -> Option<(String, Value)> {
    let mut request = BufReader::new(socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    request.read_exact(&mut body).ok()?;
    let question: Value = serde_json::from_slice(&body).ok()?;
    let method = question["method"].as_str()?.to_owned();
    Some((method, question["params"].clone()))
}
