//! `start`: a node that seeds all it has, harvests where it is told to, and
//! answers the control socket and the status page.
//!
//! Order of starting: home (its lock), network (listeners bound), status page,
//! control socket; only then the first line is printed. Order of stopping: the
//! doors close, work in progress is cancelled and awaited, the network says
//! goodbye, the home is unlocked. A failure of one part never ends another: a
//! harvest that cannot reach its node leaves a daemon that seeds.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Hall;
use super::command::{
    Command, Failure, FailureCode, Outcome, Progress, StartOptions, Started, Status,
};
use super::failure::blocking;
use super::harvest::{FolderHarvest, Harvest};
use super::remote::{Carrier, Door};
use super::services::{Presence, Services, any_listen};
use super::status;
use super::trust;
use super::xian::make_deltas;
use crate::api::control::{self, SOCKET_NAME};
use crate::api::http::{self, HttpServer, StatusPage};
use crate::config::{Config, DEFAULT_LISTEN};
use crate::net::NetError;
use crate::telemetry::metrics::Sample;

/// How often limits on the shelf are enforced when nothing changes: leases end
/// by time alone.
const ENFORCE_EVERY: Duration = Duration::from_secs(60);
/// Work in progress gets so long to end after a stop was asked for.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A running daemon.
pub struct Daemon {
    services: Arc<Services>,
    started: Started,
    page: HttpServer,
    socket: control::ControlSocket,
    harvest: Option<Harvest>,
    folder: Option<FolderHarvest>,
}

impl Daemon {
    /// Opens the home, binds everything, joins the swarm.
    pub async fn start(
        home: &Path,
        config: Config,
        options: StartOptions,
    ) -> Result<Self, Failure> {
        let harvest = options
            .harvest
            .clone()
            .zip(options.node_rpc.clone())
            .or_else(|| config.harvest.node.clone().zip(config.harvest.rpc.clone()));
        let folder = options
            .sdk_snapshots
            .clone()
            .zip(options.node_rpc.clone())
            .or_else(|| config.sdk_snapshots(home).zip(config.harvest.rpc.clone()));
        let http = config.api.http;
        let services = join_swarm(home, config, options).await?;
        let page = http::bind(http).await?;
        let harvest = match harvest {
            Some((node, rpc)) => Some(Harvest::new(services.clone(), &node, &rpc)?),
            None => None,
        };
        let folder = match folder {
            Some((dir, rpc)) => Some(FolderHarvest::new(services.clone(), dir, &rpc)?),
            None => None,
        };
        let socket = control::bind(&home.join(SOCKET_NAME)).await?;
        let started = Started {
            peer_id: services.net.peer_id().to_string(),
            listen: services.addresses(),
            api: format!("http://{}", page.address()),
        };
        Ok(Self {
            services,
            started,
            page,
            socket,
            harvest,
            folder,
        })
    }

    /// What is bound: the first line of `start`.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Serves until `cancel`.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Failure> {
        let desk = Arc::new(Desk {
            services: self.services.clone(),
            started_unix_s: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(http::serve(self.page, desk.clone(), cancel.clone()));
        tasks.spawn(control::serve(
            self.socket,
            Arc::new(Door(desk)),
            cancel.clone(),
        ));
        tasks.spawn(keep_house(self.services.clone(), cancel.clone()));
        tasks.spawn(trust::gather(self.services.clone(), cancel.clone()));
        tasks.spawn(make_deltas(self.services.clone(), cancel.clone()));
        if let Some(harvest) = self.harvest {
            tasks.spawn(harvest.run(cancel.clone()));
        }
        if let Some(folder) = self.folder {
            tasks.spawn(folder.run(cancel.clone()));
        }
        cancel.cancelled().await;
        let ended = tokio::time::timeout(STOP_TIMEOUT, async {
            while let Some(joined) = tasks.join_next().await {
                if let Err(error) = joined {
                    tracing::error!(%error, "a task failed");
                }
            }
        });
        if ended.await.is_err() {
            tracing::warn!(
                seconds = STOP_TIMEOUT.as_secs(),
                "work in progress did not end in time and is left"
            );
            tasks.shutdown().await;
        }
        self.services.net.shutdown().await;
        Ok(())
    }
}

/// Joins the swarm where the options and the settings say. With neither, the
/// default port is taken, or any when it is in use.
async fn join_swarm(
    home: &Path,
    config: Config,
    options: StartOptions,
) -> Result<Arc<Services>, Failure> {
    let chosen = if options.listen.is_empty() {
        config.network.listen.clone()
    } else {
        options.listen
    };
    let presence = |listen| Presence {
        listen,
        external: options.external_addresses.clone(),
        bootstrap: options.bootstrap.clone(),
    };
    if !chosen.is_empty() {
        return Services::start(home, config, presence(chosen)).await;
    }
    let usual = DEFAULT_LISTEN
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect();
    match Services::try_start(home, config.clone(), presence(usual)).await? {
        Err(NetError::PortTaken { .. }) => {
            tracing::warn!("port 26670 is in use; another one is taken");
            Services::start(home, config, presence(any_listen())).await
        }
        started => Ok(started?),
    }
}

/// Keeps the shelf within its limits.
async fn keep_house(services: Arc<Services>, cancel: CancellationToken) {
    loop {
        let store = services.store.clone();
        let removed = blocking(move || Ok(store.enforce(Instant::now()))).await;
        match removed {
            Ok(removed) if removed.is_empty() => {}
            // The store has logged what and why.
            Ok(_) => {
                services.announce().await;
            }
            Err(failure) => tracing::error!(%failure, "the shelf could not be looked over"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = services.next_shelf_change() => {}
            () = tokio::time::sleep(ENFORCE_EVERY) => {}
        }
    }
}

/// Where requests come in.
struct Desk {
    services: Arc<Services>,
    started_unix_s: u64,
}

#[async_trait]
impl Carrier for Desk {
    async fn carry_out(
        &self,
        command: Command,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        let hall = Hall::Joined(self.services.clone());
        let result = hall.carry_out(command, progress, cancel).await;
        if let Err(failure) = &result
            && failure.code == FailureCode::Storage
        {
            tracing::error!(%failure, "storage fault");
            super::services::count(&self.services.counters.storage_faults);
        }
        result
    }
}

#[async_trait]
impl StatusPage for Desk {
    async fn status(&self) -> serde_json::Value {
        let status: Status = status::of_daemon(&self.services);
        serde_json::json!(status)
    }

    async fn metrics(&self) -> String {
        let services = self.services.clone();
        match blocking(move || Ok(status::sample(&services))).await {
            Ok(sample) => {
                let start_time_s = self.started_unix_s;
                Sample {
                    start_time_s,
                    ..sample
                }
                .render()
            }
            Err(failure) => {
                tracing::error!(%failure, "the metrics cannot be told");
                String::new()
            }
        }
    }
}
