//! `snapswarm doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::sync::mpsc;

use super::{Door, PROGRESS_QUEUE, answer, home, interrupt, text};
use crate::node::command::Failure;
use crate::node::doctor::{self, Diagnosis, DoctorOptions, Finding, Level};

/// There is at least one problem.
const PROBLEMS: u8 = 1;

/// Look for what stands in the way of a join, a feed or a harvest
///
/// Looks at the home and its daemon, the node's settings, disks and application, and
/// the chain's endpoints, and says of each finding what it is, why it matters and what
/// to type. It changes nothing and works beside everything else. All arguments may be
/// left out: it looks at what it can and names what it could not see. The exit code is
/// 1 where there is a problem, and 0 where there are hints at most.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm doctor --node-home ~/.cometbft --chain-rpc https://a.example,https://b.example\n  \
    snapswarm doctor --json | jq '.findings[] | select(.level == \"problem\")'")]
pub(super) struct Arguments {
    /// Home of the node that is to be restored, or harvested
    #[arg(long, value_name = "DIR")]
    node_home: Option<PathBuf>,
    /// RPC of that node [default: where its own settings have it]
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url)]
    node_rpc: Option<String>,
    /// RPC endpoints of other nodes of the chain [default: rpc_servers of a node that
    /// state-syncs]
    #[arg(long, value_name = "URL[,URL...]", value_delimiter = ',', value_parser = super::arguments::rpc_url)]
    chain_rpc: Vec<String>,
    /// Judge by this snapshot of the home [default: the newest complete one of the chain]
    #[arg(long, value_name = "CID", value_parser = super::arguments::cid)]
    cid: Option<String>,
}

impl Arguments {
    pub(super) async fn run(&self, door: &Door<'_>) -> Result<ExitCode, Failure> {
        let cancel = interrupt::listen(door)?;
        let (progress, mut news) = mpsc::channel(PROGRESS_QUEUE);
        let options = DoctorOptions {
            node_home: self.node_home.as_deref().map(home::absolute).transpose()?,
            node_rpc: self.node_rpc.clone(),
            chain_rpc: self.chain_rpc.clone(),
            manifest: self.cid.clone(),
        };
        let looking = cancel.run_until_cancelled(doctor::examine(door.home, &options, progress));
        let looked = door.shown(looking, &mut news).await;
        let mut found = looked.ok_or_else(|| {
            Failure::interrupted("give the same command again: nothing was changed")
        })?;
        for finding in &mut found.findings {
            finding.remedy = home::with_home(&finding.remedy, door.named_home);
        }
        answer::outcome(door.json, &found, &told(&found))?;
        Ok(match found.problems {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(PROBLEMS),
        })
    }
}

/// Problems and hints with all that is known of them, the rest as one line each.
fn told(found: &Diagnosis) -> String {
    let mut out = String::new();
    for finding in &found.findings {
        out += &lines(finding);
    }
    let hints = found.findings.iter().filter(|one| one.level == Level::Hint);
    out += &format!(
        "{}, {}\n",
        text::count(found.problems as u64, "problem", "problems"),
        text::count(hints.count() as u64, "hint", "hints")
    );
    out
}

fn lines(finding: &Finding) -> String {
    let sign = match finding.level {
        Level::Problem => "PROBLEM",
        Level::Hint => "hint",
        Level::Good => "good",
    };
    let mut lines = format!(
        "{sign:<8} {}: {}\n",
        finding.subject,
        text::safe(&finding.what)
    );
    if finding.level != Level::Good {
        for (name, value) in [("why", &finding.why), ("do", &finding.remedy)] {
            lines += &format!("{:9}{name:<4} {}\n", "", text::safe(value));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_well_and_cannot_steer_the_terminal() {
        let finding = |level, what: &str| Finding {
            subject: "clock",
            level,
            what: what.to_owned(),
            why: "because".to_owned(),
            remedy: "timedatectl".to_owned(),
        };
        let found = Diagnosis {
            findings: vec![
                finding(Level::Problem, "\u{1b}[2Jbehind"),
                finding(Level::Good, "fits"),
            ],
            problems: 1,
        };
        assert_eq!(
            told(&found),
            "PROBLEM  clock: \\u{1b}[2Jbehind\n         why  because\n         do   timedatectl\n\
             good     clock: fits\n1 problem, 0 hints\n"
        );
    }
}
