//! Where the node and its application listen, or shall.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::node::{LOOK_AGAIN, Node, STOP_PATIENCE};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;

/// Who listens takes a connection within this.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// An application that somebody else starts listens within this.
const OTHERS_PATIENCE: Duration = Duration::from_secs(10);
/// Applications that are in CometBFT's own process.
const WITHIN: [&str; 4] = ["", "noop", "kvstore", "persistent_kvstore"];

/// Whether all is free that the node and what is started with it will listen at, and
/// whether an application is there that nobody here starts. Said before anything is
/// downloaded.
pub(super) async fn look(node: &Node, reporter: &Reporter) -> Result<(), Failure> {
    let doors = node.doors();
    must_be_free("[rpc] laddr", &doors.rpc.to_string(), reporter).await?;
    must_be_free("[p2p] laddr", &doors.p2p.to_string(), reporter).await?;
    let proxy = node.own().text("", "proxy_app");
    if WITHIN.contains(&proxy) {
        return Ok(());
    }
    match (&node.plan().app_cmd, node.plan().is_plain) {
        (Some(_), _) => must_be_free("proxy_app", proxy, reporter).await,
        (None, true) => must_be_there(proxy, reporter).await,
        (None, false) => Ok(()),
    }
}

/// A node that runs already, or whatever else is where it shall listen, would be taken
/// for it. One that was told to stop a moment ago may still be there.
async fn must_be_free(key: &str, place: &str, reporter: &Reporter) -> Result<(), Failure> {
    if is_taken(place).await {
        let seconds = STOP_PATIENCE.as_secs();
        reporter.phase(format!(
            "{place} is in use; waiting up to {seconds} seconds for it"
        ));
    }
    let free = async {
        while is_taken(place).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, free).await.is_ok() {
        return Ok(());
    }
    let hint = match key {
        "proxy_app" => "stop it: --app-cmd starts the application; or leave --app-cmd out",
        _ => {
            "stop the node: `join` starts it by itself; for another node on this machine set other \
             ports in its config.toml"
        }
    };
    Err(Failure::new(
        FailureCode::Usage,
        format!("something listens at {place} already ({key} of the node's config.toml)"),
    )
    .hint(hint))
}

async fn must_be_there(proxy: &str, reporter: &Reporter) -> Result<(), Failure> {
    if listens(proxy).await {
        return Ok(());
    }
    let seconds = OTHERS_PATIENCE.as_secs();
    reporter.phase(format!(
        "waiting up to {seconds} seconds for the application at {proxy}"
    ));
    let there = async {
        while !listens(proxy).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let waited = tokio::time::timeout(OTHERS_PATIENCE, there).await;
    waited.map_err(|_| {
        Failure::new(
            FailureCode::Usage,
            format!("no application listens at {proxy} (proxy_app of the node's config.toml)"),
        )
        .hint(
            "start it first, or have --app-cmd start it; where it is in the node's own process, \
             --node-cmd says how that is started",
        )
    })
}

/// Whether nobody else can listen at a place.
async fn is_taken(place: &str) -> bool {
    let plain = place.strip_prefix("tcp://").unwrap_or(place);
    let taken = || match TcpListener::bind(plain) {
        Err(error) => error.kind() == io::ErrorKind::AddrInUse,
        Ok(_) => false,
    };
    listens(place).await || (!place.starts_with("unix://") && taken())
}

/// Whether somebody listens at an address of `proxy_app`.
pub(super) async fn listens(proxy: &str) -> bool {
    let connects = async {
        match proxy.split_once("://") {
            Some(("unix", path)) => UnixStream::connect(path).await.is_ok(),
            Some((_, place)) => TcpStream::connect(place).await.is_ok(),
            None => TcpStream::connect(proxy).await.is_ok(),
        }
    };
    let connected = tokio::time::timeout(CONNECT_PATIENCE, connects).await;
    connected.unwrap_or(false)
}

/// A port of loopback that nobody has now.
pub(super) fn free_port() -> u16 {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map_or(0, |address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_taken_also_where_nobody_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        assert!(is_taken(&place).await && is_taken(&format!("tcp://{place}")).await);
        drop(listener);
        assert!(!is_taken(&place).await);
        assert!(!is_taken("unix:///nowhere/app.sock").await);
    }
}
