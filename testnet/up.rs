//! `testnet up`: a network that runs on in the background, for people.

use crate::application::quoted;
use crate::kept::{Folder, Kept};
use crate::network::{self, Network};
use crate::phases::Started;
use crate::run::Run;
use crate::swarm::{JoinOrder, trust_in};
use crate::tools::Tools;

/// What is to be started.
#[derive(clap::Args)]
pub struct Arguments {
    /// A network of testnet/networks (its name), or a network's file.
    network: String,
    #[command(flatten)]
    programs: crate::Programs,
    #[command(flatten)]
    place: crate::Place,
}

/// Starts it; when this ends it has a snapshot at every provider.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = network::file(&arguments.network);
    let network = Network::read(&file)?;
    let [tools] = arguments.programs.find()?.try_into().map_err(|_| {
        anyhow::anyhow!("--tools: a network that is kept runs with one version, name one folder")
    })?;
    tools.check(network.app)?;
    let folder = arguments.place.folder()?;
    folder.begin(&file)?;
    let mut processes = folder.processes()?;
    let result = tokio::select! {
        result = start(&network, &tools, &folder, &mut processes) => result,
        name = crate::told_to_stop() => Err(anyhow::anyhow!("stopped by {name}")),
    };
    match result {
        Ok(()) => {
            processes.let_go();
            Ok(())
        }
        Err(error) => {
            drop(processes);
            eprintln!(
                "Data and logs: {} (`testnet down` removes them)",
                folder.path().display()
            );
            Err(error)
        }
    }
}

async fn start(
    network: &Network,
    tools: &Tools,
    folder: &Folder,
    processes: &mut crate::processes::Processes,
) -> anyhow::Result<()> {
    let mut run = Run::new(network, tools, folder.path(), processes);
    let started = run.start_network().await?;
    let providers: Vec<String> = started
        .providers
        .iter()
        .map(|p| p.multiaddr.clone())
        .collect();
    let by_hand = by_hand(&mut run, &started, &providers).await?;
    let snapshot = format!(
        "{} (height {})",
        started.snapshot.manifest, started.snapshot.height
    );
    let kept = Kept {
        tools: tools.clone(),
        block: started.block,
        validators: started.validators,
        providers,
    };
    folder.save(&kept)?;
    let shown = folder.path().display().to_string();
    let program = std::env::current_exe()?.display().to_string();
    let verb = |verb| format!("{} {verb} --folder {}", quoted(&program), quoted(&shown));
    println!("\nThe network is up; data and logs: {shown}");
    println!("\nRPC of its validators:");
    for validator in &kept.validators {
        println!("  {}", validator.rpc.url());
    }
    println!("\nProviders, in the swarm {}:", network.name);
    for provider in &kept.providers {
        println!("  {provider}");
    }
    println!("\nTheir newest snapshot:\n  {snapshot}");
    println!("\nOne more node, until Ctrl-C:\n  {}", verb("join"));
    println!("\nThe same by hand, with homes that are ready:\n  {by_hand}");
    println!("\nThe end of it:\n  {}", verb("down"));
    Ok(())
}

/// A command line that adds a node, whose homes it prepares.
async fn by_hand(
    run: &mut Run<'_>,
    started: &Started,
    providers: &[String],
) -> anyhow::Result<String> {
    let trust = trust_in(run.network.app, providers);
    let home = run.make_home("joiner", &trust).await?;
    let node = &started.joiner;
    node.start_adapter(run.network, &home, run.tools, run.processes)
        .await?;
    let order = JoinOrder {
        app: run.network.app,
        manifest: None,
        swarm_only: false,
        node,
        bootstrap: &providers[..1],
        validators: &started.validators,
    };
    let mut words = vec![
        run.tools.snapswarm.display().to_string(),
        "--home".to_owned(),
        home.folder().display().to_string(),
    ];
    words.extend(order.arguments(run.tools)?);
    Ok(words
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" "))
}
