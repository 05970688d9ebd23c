//! `snapswarm join`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use libp2p::Multiaddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Door, PROGRESS_QUEUE, first_line, home, interrupt, text};
use crate::node::command::{Failure, Joined, Seeding};
use crate::node::join::{Join, JoinOptions, Rung, XianApp};

/// Synced, but not from the swarm.
const LOWER_RUNG: u8 = 8;

/// Bring an empty node to the tip of its chain
///
/// Finds the newest snapshot of the node's chain in the swarm, downloads it from many
/// peers, starts the node and feeds it, follows it to the tip, puts its own settings
/// back, and stays with it as its supervisor, sharing what it has. With
/// --exit-when-synced it leaves, and a daemon in the background goes on sharing. The
/// node's home is what `cometbft init` makes, with the chain's genesis.json. An
/// interrupted join goes on with the same command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm join --chain-rpc https://a.example,https://b.example --node-home ~/.cometbft \\\n    \
      --app-cmd 'my-app --listen tcp://127.0.0.1:26658' --app-data ~/.my-app/data\n  \
    snapswarm join --chain-rpc https://a.example,https://b.example --node-home ~/.wasmd \\\n    \
      --node-cmd 'wasmd start'\n  \
    snapswarm join --chain-rpc https://a.example,https://b.example --node-home ~/.cometbft \\\n    \
      --xian ~/.cometbft/xian --app tcp://127.0.0.1:26659 --app-cmd 'my-xian-app' --cid bafkrei...")]
pub(super) struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Take this snapshot and no other
    #[arg(long, value_name = "CID", value_parser = super::arguments::cid)]
    cid: Option<String>,
    /// What may be tried when the swarm does not bring the node to the tip: the state
    /// sync of CometBFT's own peers, block sync from the first block, none of both
    #[arg(long, value_name = "WAY[,WAY]", value_delimiter = ',', default_value = "peers,blocks", value_parser = PossibleValuesParser::new(["peers", "blocks", "none"]))]
    fallback: Vec<String>,
    /// Peer to begin with, beside the configured ones; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = super::arguments::bootstrap)]
    bootstrap: Vec<Multiaddr>,
    /// How long to look for somebody who has a snapshot
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
    /// With --exit-when-synced: leave no daemon behind that shares the snapshot
    #[arg(long, requires = "exit_when_synced")]
    no_seed: bool,
}

/// The node that gets a state, and its chain.
#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    /// RPC endpoints of the chain: two or more, which must agree, or one with --trust-height
    #[arg(long, value_name = "URL[,URL...]", required = true, value_delimiter = ',', value_parser = super::arguments::rpc_url)]
    chain_rpc: Vec<String>,
    /// The new node's home, with config/ and data/
    #[arg(long, value_name = "DIR")]
    node_home: PathBuf,
    /// Starts the application, where it is a process of its own
    #[arg(long, value_name = "COMMAND")]
    app_cmd: Option<String>,
    /// Starts the node [default: cometbft --home DIR start]
    #[arg(long, value_name = "COMMAND")]
    node_cmd: Option<String>,
    /// The application's data: what is in this folder may be removed when the
    /// application has to begin anew
    #[arg(long, value_name = "DIR")]
    app_data: Option<PathBuf>,
    /// The storage of a Xian application, as ~/.cometbft/xian: an adapter listens at the
    /// node's proxy_app, restores the state into it and starts the application
    #[arg(long, value_name = "STORAGE", requires_all = ["app", "app_cmd"], conflicts_with = "app_data")]
    xian: Option<PathBuf>,
    /// Where the Xian application listens, behind the adapter
    #[arg(long, value_name = "ADDR", requires = "xian", value_parser = super::arguments::app_address)]
    app: Option<String>,
    /// The Xian chain's state_patches.json: a snapshot that was made with other patches is
    /// not restored
    #[arg(long, value_name = "FILE", requires = "xian", value_parser = super::arguments::file)]
    state_patches: Option<PathBuf>,
    /// Stop the node once it is synced, and leave it to you
    #[arg(long)]
    exit_when_synced: bool,
    /// A block that you trust, instead of what the endpoints agree in
    #[arg(long, value_name = "H", requires = "trust_hash", value_parser = super::arguments::height())]
    trust_height: Option<u64>,
    /// Its hash
    #[arg(long, value_name = "HEX", requires = "trust_height", value_parser = super::arguments::hex_bytes)]
    trust_hash: Option<String>,
    /// How long nothing may move, in any phase, before the next way is tried
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    patience: u64,
}

impl Arguments {
    pub(super) async fn run(&self, door: &Door<'_>) -> Result<ExitCode, Failure> {
        let rung = |word: &String| match word.as_str() {
            "peers" => Some(Rung::Peers),
            "blocks" => Some(Rung::Blocks),
            _ => None,
        };
        let cancel = listen(door)?;
        let options = JoinOptions {
            bootstrap: self.bootstrap.clone(),
            manifest: self.cid.clone(),
            from_file: false,
            fallback: self.fallback.iter().filter_map(rung).collect(),
            timeout_s: self.timeout,
            only_here: false,
            seeds_on: !self.no_seed,
            ..self.node.options()?
        };
        bring(door, options, cancel).await
    }
}

impl NodeArguments {
    /// With what the home has, and nothing else.
    pub(super) fn options(&self) -> Result<JoinOptions, Failure> {
        Ok(JoinOptions {
            chain_rpc: self.chain_rpc.clone(),
            node_home: home::absolute(&self.node_home)?,
            app_cmd: self.app_cmd.clone(),
            node_cmd: self.node_cmd.clone(),
            app_data: self.app_data.as_deref().map(home::absolute).transpose()?,
            xian: self.xian()?,
            bootstrap: Vec::new(),
            manifest: None,
            from_file: false,
            only_here: true,
            trust: self.trust_height.zip(self.trust_hash.clone()),
            fallback: Vec::new(),
            timeout_s: 0,
            patience: Duration::from_secs(self.patience),
            exit_when_synced: self.exit_when_synced,
            seeds_on: false,
        })
    }
}

/// Listens for Ctrl-C while a node's settings may be changed.
pub(super) fn listen(door: &Door<'_>) -> Result<CancellationToken, Failure> {
    interrupt::listen_and_tell(
        door,
        "Stopping cleanly; then the node's own settings come back. Another Ctrl-C leaves at once: \
         config.toml stays changed until the next join.",
        "the node's config.toml may be changed still: the same command puts it back, and goes on",
    )
}

impl NodeArguments {
    fn xian(&self) -> Result<Option<XianApp>, Failure> {
        let (Some(storage), Some(app)) = (&self.xian, &self.app) else {
            return Ok(None);
        };
        let patches = self.state_patches.as_deref();
        Ok(Some(XianApp {
            storage: home::absolute(storage)?,
            app: app.clone(),
            state_patches: patches.map(home::absolute).transpose()?,
        }))
    }
}

/// Brings a node to the tip, tells how, and stays with it or leaves.
pub(super) async fn bring(
    door: &Door<'_>,
    options: JoinOptions,
    cancel: CancellationToken,
) -> Result<ExitCode, Failure> {
    let config = home::open(door.home, false, door.screen)?;
    let (progress, mut news) = mpsc::channel(PROGRESS_QUEUE);
    let leaves = options.exit_when_synced;
    let joining = async {
        let mut join = Join::begin(door.home, config, options, progress, cancel).await?;
        let joined = join.until_synced().await?;
        Ok::<_, Failure>((join, joined))
    };
    let joined = door.shown(joining, &mut news).await;
    let (mut join, joined) = joined.map_err(super::how_to_go_on)?;
    let code = match joined.rung.as_str() {
        "peers" | "blocks" => ExitCode::from(LOWER_RUNG),
        _ => ExitCode::SUCCESS,
    };
    let told = match door.json {
        true => text::safe_json(&serde_json::json!(joined).to_string()),
        false => told(&joined, leaves),
    };
    if let Err(error) = first_line(told.trim_end()) {
        tracing::warn!(%error, "the outcome cannot be written to stdout");
    }
    if leaves {
        join.close().await;
    } else {
        door.shown(join.supervise(), &mut news).await?;
    }
    Ok(code)
}

/// The outcome for a person.
fn told(joined: &Joined, left: bool) -> String {
    let from = match (joined.rung.as_str(), joined.snapshot_height) {
        ("swarm", Some(height)) => format!("from the snapshot of height {height}"),
        ("peers", _) => "by the state sync of CometBFT's own peers".to_owned(),
        ("blocks", _) => "by block sync from the first block".to_owned(),
        _ => "with the blocks that it had".to_owned(),
    };
    let mut told = format!(
        "The node is at the tip, {from}: block {} after {}\n",
        joined.height,
        text::seconds(joined.seconds)
    );
    if let Some(basis) = &joined.believed {
        told += &format!("Its state is believed because {basis}\n");
    }
    for step in &joined.steps {
        told += &format!("Before that, {}: {}\n", step.rung, text::safe(&step.why));
    }
    told += match left {
        true => "It is stopped now, with its own settings: start it as usual.",
        false => {
            "It runs with its own settings now, and this process stays with it. Ctrl-C stops both."
        }
    };
    if let Some(Seeding { process, log }) = &joined.seeding {
        told += &format!(
            "\nA daemon in the background shares the snapshot with others: process {process}, which \
             `kill {process}` stops; it logs to {}",
            text::safe(&log.display().to_string())
        );
    }
    told
}
