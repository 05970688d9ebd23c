//! The RPC client against made-up answers: what real nodes say in situations
//! that are hard to bring about, and what other things behind a URL may say.

use std::sync::{Arc, Mutex};

use axum::{Router, extract::State, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use snapswarm::comet::peer::Identity;
use snapswarm::comet::rpc::{MAX_ANSWER_BYTES, Restored, Rpc, RpcError};

type AnswerTo = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// Answers each method with a JSON-RPC body, and keeps the questions.
struct Script {
    answer: Box<AnswerTo>,
    asked: Mutex<Vec<Value>>,
}

async fn answer(State(script): State<Arc<Script>>, body: String) -> impl IntoResponse {
    let question: Value = serde_json::from_str(&body).unwrap();
    let method = question["method"].as_str().unwrap();
    let text = (script.answer)(method, &question["params"]).to_string();
    script.asked.lock().unwrap().push(question);
    text
}

async fn serve(router: Router) -> Rpc {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Rpc::new(&addr.to_string()).unwrap()
}

async fn scripted(
    answer_to: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
) -> (Rpc, Arc<Script>) {
    let script = Arc::new(Script {
        answer: Box::new(answer_to),
        asked: Mutex::default(),
    });
    let router = Router::new().route("/", post(answer).with_state(script.clone()));
    (serve(router).await, script)
}

fn result(result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "result": result })
}

fn status(height: u64, earliest: u64) -> Value {
    result(json!({
        "node_info": {
            "id": "0123456789ABCDEF0123456789ABCDEF01234567",
            "network": "chain-1", "version": "0.38.25", "moniker": "node",
        },
        "sync_info": {
            "latest_block_height": height.to_string(),
            "earliest_block_height": earliest.to_string(),
            "catching_up": false,
        },
        // A key type that no Rust type knows.
        "validator_info": { "pub_key": { "type": "cometbft/PubKeyBls12_381", "value": "AA==" } },
    }))
}

fn no_block() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1,
        "error": { "code": -32603, "message": "Internal error", "data": "height is not there" },
    })
}

#[tokio::test]
async fn the_application_hash_comes_from_the_next_header() {
    let (rpc, script) = scripted(|_, _| {
        result(json!({ "signed_header": { "header": { "height": "8", "app_hash": "ABCD" } } }))
    })
    .await;
    assert_eq!(&rpc.app_hash_after(7).await.unwrap()[..], [0xab, 0xcd]);
    assert_eq!(script.asked.lock().unwrap()[0]["params"]["height"], "8");
    // The node answers with another header than was asked for.
    assert!(matches!(
        rpc.app_hash_after(6).await,
        Err(RpcError::Answer { .. })
    ));
}

#[tokio::test]
async fn a_height_without_a_block_is_too_new_or_pruned() {
    let (rpc, _) = scripted(|method, _| match method {
        "status" => status(100, 50),
        _ => no_block(),
    })
    .await;
    assert!(matches!(
        rpc.app_hash_after(100).await,
        Err(RpcError::TooNew {
            needed: 101,
            tip: 100,
            ..
        })
    ));
    assert!(matches!(
        rpc.app_hash_after(48).await,
        Err(RpcError::Pruned {
            needed: 49,
            earliest: 50,
            ..
        })
    ));
    let odd = rpc.app_hash_after(60).await.unwrap_err();
    assert!(odd.to_string().contains("height is not there"), "{odd}");
    for impossible in [0, u64::MAX, i64::MAX as u64] {
        assert!(rpc.app_hash_after(impossible).await.is_err());
    }
}

#[tokio::test]
async fn a_restore_is_seen_in_the_application_before_there_is_a_block() {
    let restored = |app: Value, height| async move {
        let (rpc, _) = scripted(move |method, _| match method {
            "status" => status(height, 0),
            "abci_info" => result(json!({ "response": app })),
            other => panic!("asked for {other}"),
        })
        .await;
        rpc.restored(30, &[0xab, 0xcd]).await.unwrap()
    };
    let app = json!({ "last_block_height": "30", "last_block_app_hash": "q80=" });
    assert_eq!(restored(app, 0).await, Restored::State);
    let other = json!({ "last_block_height": "30", "last_block_app_hash": "q84=" });
    assert_eq!(restored(other, 0).await, Restored::NotYet);
    // Zero fields are left out.
    assert_eq!(
        restored(json!({ "version": "1" }), 0).await,
        Restored::NotYet
    );
    let later = json!({ "last_block_height": "33", "last_block_app_hash": null });
    assert_eq!(
        restored(later, 33).await,
        Restored::Following {
            height: 33,
            catching_up: false
        }
    );
}

#[tokio::test]
async fn peers_are_dialled_by_the_unsafe_route_or_the_setting_is_named() {
    let peer = format!("{}@127.0.0.1:26656", Identity::from_seed([1; 32]).id());
    let peers = [peer.parse().unwrap()];
    let (rpc, script) = scripted(|_, _| result(json!({ "log": "Dialing peers" }))).await;
    rpc.dial_peers(&peers).await.unwrap();
    let asked = script.asked.lock().unwrap()[0].clone();
    assert_eq!(asked["method"], "dial_peers");
    assert_eq!(
        asked["params"],
        json!({ "peers": [peer], "persistent": true })
    );

    let (rpc, _) = scripted(|_, _| {
        json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32601, "message": "Method not found" } })
    })
    .await;
    let error = rpc.dial_peers(&peers).await.unwrap_err();
    assert!(matches!(error, RpcError::Unsafe { .. }));
    assert!(error.to_string().contains("unsafe = true"), "{error}");
}

#[tokio::test]
async fn what_is_no_comet_rpc_is_an_error_that_names_the_url() {
    let page = Router::new().fallback(|| async { "<html>It works!</html>" });
    let rpc = serve(page).await;
    let error = rpc.status().await.unwrap_err();
    assert!(matches!(error, RpcError::Answer { .. }), "{error}");
    assert!(error.to_string().contains(&rpc.url()), "{error}");

    let busy = Router::new().fallback(|| async { (axum::http::StatusCode::TOO_MANY_REQUESTS, "") });
    let error = serve(busy).await.status().await.unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");

    let endless = Router::new().fallback(|| async { vec![b' '; MAX_ANSWER_BYTES + 1] });
    let error = serve(endless).await.status().await.unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");

    let (lying, _) = scripted(|_, _| {
        json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": 1, "message": "\u{1b}[2J".repeat(1000) } })
    })
    .await;
    let error = lying.status().await.unwrap_err().to_string();
    assert!(error.len() < 500 && !error.contains('\u{1b}'), "{error}");
}

#[tokio::test]
async fn a_url_is_taken_as_people_write_it_and_never_shows_its_keys() {
    for url in ["127.0.0.1:1", "tcp://127.0.0.1:1", "http://127.0.0.1:1/"] {
        assert_eq!(Rpc::new(url).unwrap().url(), "http://127.0.0.1:1");
    }
    for url in ["", "ftp://h:1", "http://", "unix:///x.sock"] {
        assert!(matches!(Rpc::new(url), Err(RpcError::Url { .. })), "{url}");
    }
    let rpc = Rpc::new("http://user:secret@127.0.0.1:1/secret?key=secret").unwrap();
    let error = rpc.status().await.unwrap_err();
    assert!(error.is_retryable());
    let debug = format!("{error} {error:?} {rpc:?}");
    assert!(
        debug.contains("127.0.0.1:1") && !debug.contains("secret"),
        "{debug}"
    );
}
