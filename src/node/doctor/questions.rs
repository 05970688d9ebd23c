//! What is asked over RPC: first each node's status, then what it says of the blocks
//! that matter. A node that did not answer the first question is not asked again;
//! each question ends by [`Rpc`]'s own limits.

use std::time::SystemTime;

use futures::future::join_all;

use super::facts::{After, Answer, Endpoint, Trusted};
use crate::comet::rpc::{NodeStatus, Rpc, RpcError};
use crate::node::command::Failure;

/// Which blocks matter.
pub(super) struct Wanted {
    /// One that all should have.
    pub(super) recent: Option<u64>,
    /// The snapshot's height.
    pub(super) snapshot: Option<u64>,
    /// The height that the node's settings trust.
    pub(super) trusted: Option<u64>,
}

/// A node that was asked for its status.
pub(super) struct Met {
    url: String,
    found: Result<(Rpc, NodeStatus, SystemTime), String>,
}

impl Met {
    /// Its status, where it answered.
    pub(super) fn status(&self) -> Option<&NodeStatus> {
        let (_, status, _) = self.found.as_ref().ok()?;
        Some(status)
    }
}

/// Asks a node for its status, where there is one.
pub(super) async fn meet(url: Option<String>) -> Option<Met> {
    let url = url?;
    let rpc = match Rpc::new(&url) {
        Ok(rpc) => rpc,
        Err(error) => {
            let found = Err(told(error));
            return Some(Met { url, found });
        }
    };
    let found = match rpc.status().await {
        Ok(status) => Ok((rpc.clone(), status, SystemTime::now())),
        Err(error) => Err(told(error)),
    };
    let url = rpc.url();
    Some(Met { url, found })
}

/// The same for several, each once.
pub(super) async fn meet_all(urls: &[String]) -> Vec<Met> {
    let place = |url: &String| Rpc::new(url).map_or_else(|_| url.clone(), |rpc| rpc.url());
    let mut places: Vec<String> = Vec::new();
    let mut once: Vec<&String> = Vec::new();
    for url in urls {
        let place = place(url);
        if !places.contains(&place) {
            places.push(place);
            once.push(url);
        }
    }
    let met = join_all(once.into_iter().map(|url| meet(Some(url.clone())))).await;
    met.into_iter().flatten().collect()
}

/// Asks for the blocks that matter; of the node that is `own` for more.
pub(super) async fn look_closer(met: Met, wanted: &Wanted, own: bool) -> Endpoint {
    let (rpc, status, seen) = match met.found {
        Ok(found) => found,
        Err(why) => {
            return Endpoint {
                url: met.url,
                answer: Err(why),
            };
        }
    };
    let has = |height: &u64| (status.earliest_height..=status.height).contains(height);
    let (recent, after, trusted, app, connections) = futures::join!(
        async {
            let height = wanted.recent.filter(has)?;
            let header = rpc.header(height).await.ok()?;
            Some(hex::encode_upper(&header.block_hash))
        },
        async {
            // An empty node has no headers, and that is no fault of it.
            let height = wanted.snapshot.filter(|_| !own || status.height > 0)?;
            let header = rpc.header_after(height).await.map_err(told);
            Some(header.map(|header| After {
                app_hash: hex::encode_upper(&header.app_hash),
                app_version: header.app_version,
            }))
        },
        async {
            let height = wanted.trusted.filter(|_| !own)?;
            let header = rpc.header(height).await.map_err(told);
            Some(header.map(|header| Trusted {
                hash: hex::encode_upper(&header.block_hash),
                time: header.time,
            }))
        },
        async {
            match own {
                true => Some(rpc.app_state().await.map_err(told)),
                false => None,
            }
        },
        async {
            match own {
                true => Some(rpc.connections().await.map_err(told)),
                false => None,
            }
        }
    );
    Endpoint {
        url: met.url,
        answer: Ok(Answer {
            status,
            seen,
            recent,
            after,
            trusted,
            app,
            connections,
        }),
    }
}

fn told(error: RpcError) -> String {
    Failure::from(error).message
}
