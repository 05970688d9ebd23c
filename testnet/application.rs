//! How a node's application runs: in CometBFT's process, as its own, or as its own
//! behind an adapter. It is CometBFT's e2e application but on a chain of the SDK.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::comet::{Node, make_folder, write};
use crate::network::{App, Network};
use crate::processes::Processes;
use crate::swarm::Home;
use crate::tools::Tools;

/// CometBFT tries a socket that is not there again only after three seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl Node {
    /// Where its application keeps its state.
    pub fn app_data(&self, app: App) -> std::path::PathBuf {
        self.home.join(match app {
            // Beside CometBFT's stores.
            App::Sdk => "data",
            App::InProcess | App::Socket | App::Adapter => "data/app",
            App::Xian => "xian",
        })
    }

    /// Where CometBFT finds the application.
    pub(super) fn proxy_app(&self, app: App) -> String {
        match app {
            App::Adapter | App::Xian => tcp(self.adapter),
            App::InProcess | App::Socket | App::Sdk => tcp(self.app),
        }
    }

    /// Where its application listens.
    pub fn app_address(&self) -> String {
        tcp(self.app)
    }

    /// Writes the application's settings.
    pub(super) fn configure_app(&self, network: &Network) -> anyhow::Result<()> {
        let protocol = match network.app {
            App::Sdk => return self.configure_sdk_app(network),
            // They all stand in its command line.
            App::Xian => return Ok(()),
            App::InProcess => "builtin",
            App::Socket | App::Adapter => "socket",
        };
        let folder = self.app_data(network.app);
        make_folder(&folder)?;
        let mut app = toml::toml! {
            mode = "full"
            key_type = "ed25519"
            // The application would write its whole state after each block; a node
            // that is started again replays blocks into it.
            persist_interval = 0
        };
        app.insert("protocol".into(), protocol.into());
        app.insert("listen".into(), tcp(self.app).into());
        app.insert("chain_id".into(), network.chain_id.clone().into());
        app.insert("dir".into(), folder.display().to_string().into());
        let mut set = |key: &str, blocks: u32| app.insert(key.into(), i64::from(blocks).into());
        set("snapshot_interval", network.validators.snapshot_interval);
        set("retain_blocks", network.validators.retain_blocks);
        write(&self.home.join("config/app.toml"), &toml::to_string(&app)?)
    }

    /// A command line that starts the node, and one for its application where that is
    /// started with it.
    pub fn command_lines(&self, app: App, tools: &Tools) -> anyhow::Result<CommandLines> {
        let temporary = self.home.join("tmp");
        make_folder(&temporary)?;
        let home = self.home.display().to_string();
        let home = quoted(&home);
        let temporary = format!("TMPDIR={}", quoted(&temporary.display().to_string()));
        let [cometbft, e2e, wasmd] = [&tools.cometbft, &tools.e2e_node, &tools.wasmd]
            .map(|path| quoted(&path.display().to_string()));
        let settings = self.home.join("config/app.toml").display().to_string();
        // A state sync keeps its chunks in the temporary folder.
        let comet = format!("{temporary} exec {cometbft} start --home {home}");
        let e2e = format!("exec {e2e} {}", quoted(&settings));
        Ok(match app {
            App::InProcess => CommandLines {
                node: format!("CMTHOME={home} {temporary} {e2e}"),
                app: None,
            },
            App::Socket => CommandLines {
                node: comet,
                app: Some(e2e),
            },
            App::Adapter => CommandLines {
                node: comet,
                app: None,
            },
            App::Xian => CommandLines {
                node: comet,
                app: Some(self.xian_command_line(tools)),
            },
            App::Sdk => CommandLines {
                // It makes settings in the home of whoever starts it.
                node: format!("HOME={home} {temporary} exec {wasmd} start --home {home}"),
                app: None,
            },
        })
    }

    fn xian_command_line(&self, tools: &Tools) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/xian_app.py");
        let storage = self.app_data(App::Xian);
        let [source, python, script, storage] =
            [&tools.xian_source, &tools.python, &script, &storage]
                .map(|path| quoted(&path.display().to_string()));
        let listen = self.app_address();
        format!(
            "exec env PYTHONPATH={source} {python} {script} --listen {listen} --storage {storage}"
        )
    }

    /// Starts the node, and before it what stands beside it; `home` is what an adapter
    /// works with.
    pub async fn start(
        &self,
        network: &Network,
        home: &Home,
        tools: &Tools,
        processes: &mut Processes,
    ) -> anyhow::Result<()> {
        let lines = self.command_lines(network.app, tools)?;
        match &lines.app {
            Some(app) if network.app == App::Xian => {
                self.start_xian_adapter(app, network, home, processes)
                    .await?;
            }
            Some(app) => self.start_app(app, network, processes).await?,
            None => {}
        }
        self.start_adapter(network, home, tools, processes).await?;
        processes.start(&self.name, shell(&lines.node))
    }

    /// Starts the application and the adapter before it, where the network has one.
    pub async fn start_adapter(
        &self,
        network: &Network,
        home: &Home,
        tools: &Tools,
        processes: &mut Processes,
    ) -> anyhow::Result<()> {
        if network.app != App::Adapter {
            return Ok(());
        }
        let app = self.command_lines(App::Socket, tools)?.app;
        let app = app.context("an application on a socket has a command line")?;
        self.start_app(&app, network, processes).await?;
        let command = home.command(&[
            "adapter",
            "--app",
            &tcp(self.app),
            "--listen",
            &tcp(self.adapter),
            "--chain-id",
            &network.chain_id,
        ]);
        let patience = Duration::from_secs(network.patience_s.start);
        let name = format!("{}-adapter", self.name);
        processes
            .start_with_first_line(&name, command, patience)
            .await?;
        Ok(())
    }

    /// Starts the adapter that starts the application.
    async fn start_xian_adapter(
        &self,
        app: &str,
        network: &Network,
        home: &Home,
        processes: &mut Processes,
    ) -> anyhow::Result<()> {
        let storage = self.app_data(App::Xian).display().to_string();
        let command = home.command(&[
            "adapter",
            "--app",
            &self.app_address(),
            "--listen",
            &tcp(self.adapter),
            "--chain-id",
            &network.chain_id,
            "--xian",
            &storage,
            "--app-cmd",
            app,
        ]);
        let patience = Duration::from_secs(network.patience_s.start);
        let name = format!("{}-adapter", self.name);
        processes
            .start_with_first_line(&name, command, patience)
            .await?;
        Ok(())
    }

    async fn start_app(
        &self,
        line: &str,
        network: &Network,
        processes: &mut Processes,
    ) -> anyhow::Result<()> {
        processes.start(&format!("{}-app", self.name), shell(line))?;
        let listens = async {
            while TcpStream::connect(self.app).await.is_err() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let patience = Duration::from_secs(network.patience_s.start);
        tokio::time::timeout(patience, listens)
            .await
            .with_context(|| format!("the application of {} does not listen", self.name))
    }
}

/// What starts a node.
pub struct CommandLines {
    /// CometBFT.
    pub node: String,
    /// Its application, where it is a process of its own that belongs to the node.
    pub app: Option<String>,
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    command
}

fn tcp(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@".contains(c);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_is_quoted() {
        for word in ["plain/path-1", "two words", "it's", "", "$HOME `x` \"y\""] {
            let line = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &line])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
