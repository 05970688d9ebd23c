//! `snapswarm fetch`

use std::path::PathBuf;

use clap::Args;
use libp2p::Multiaddr;

use super::{home, text};
use crate::node::command::{Command, Failure, FetchCommand, FetchTarget, Fetched, Outcome};

/// Download a snapshot from many peers at once
///
/// Every byte is verified. An interrupted download goes on where it stopped
/// when the same command is given again; `list` shows what is here of it, and
/// `delete` gives it up. A snapshot that was fetched stays until it is deleted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm fetch --chain-id my-chain --node-rpc http://127.0.0.1:26657\n  \
    snapswarm fetch bafkrei... --out chunks/\n  \
    snapswarm fetch bafkrei... --only currency,con_x")]
pub(super) struct Arguments {
    /// The snapshot with this name
    #[arg(
        value_name = "CID",
        value_parser = super::arguments::cid,
        required_unless_present = "chain_id",
        conflicts_with = "chain_id"
    )]
    cid: Option<String>,
    /// The newest complete snapshot of this chain
    #[arg(long, value_name = "ID", value_parser = super::arguments::chain_id)]
    chain_id: Option<String>,
    /// Of the chain, the snapshot at this height
    #[arg(
        long,
        value_name = "H",
        requires = "chain_id",
        conflicts_with = "cid",
        value_parser = super::arguments::height()
    )]
    height: Option<u64>,
    /// Peer to begin with, beside the configured ones; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = super::arguments::bootstrap)]
    bootstrap: Vec<Multiaddr>,
    /// A CometBFT RPC of the chain: confirms the application hash, which makes
    /// the snapshot a proven one
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url)]
    node_rpc: Option<String>,
    /// Write the chunks as files 0000, 0001, … into this new or empty folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the chunks that hold these contracts: for `dump`, not for a node
    #[arg(
        long,
        value_name = "CONTRACT",
        value_delimiter = ',',
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        conflicts_with = "out"
    )]
    only: Vec<String>,
    /// How long to look for somebody who has it
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        let target = match (&self.cid, &self.chain_id) {
            (Some(cid), _) => FetchTarget::Manifest(cid.clone()),
            (None, chain_id) => FetchTarget::Chain {
                chain_id: chain_id.clone().unwrap_or_default(),
                height: self.height,
            },
        };
        Ok(Command::Fetch(FetchCommand {
            target,
            bootstrap: self.bootstrap.iter().map(Multiaddr::to_string).collect(),
            node_rpc: self.node_rpc.clone(),
            chain: None,
            out: self.out.as_deref().map(home::absolute).transpose()?,
            timeout_s: self.timeout,
            not_below: None,
            except: Vec::new(),
            state_only: false,
            room_for: Vec::new(),
            only: self.only.clone(),
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Fetched(fetched) = outcome else {
        return None;
    };
    let (cid, height) = (text::safe(&fetched.manifest), fetched.height);
    let mut out = if fetched.received_bytes == 0 && fetched.resumed_bytes > 0 {
        format!(
            "All {} of height {height} are here already: {cid}\n",
            text::bytes(fetched.bytes)
        )
    } else {
        format!(
            "Fetched {} of height {height} in {}{}: {cid}\n",
            text::bytes(fetched.bytes.saturating_sub(fetched.resumed_bytes)),
            text::seconds(fetched.seconds),
            text::mean_rate(fetched.received_bytes, fetched.seconds)
                .map_or_else(String::new, |rate| format!(" ({rate})")),
        )
    };
    if fetched.received_bytes > 0 && fetched.resumed_bytes > 0 {
        out += &format!(
            "{} were here already and were not fetched again.\n",
            text::bytes(fetched.resumed_bytes)
        );
    }
    if fetched.wasted_bytes > 0 {
        out += &format!(
            "{} came twice or were wrong.\n",
            text::bytes(fetched.wasted_bytes)
        );
    }
    out += &peers(fetched);
    let checked = match fetched.was_here {
        true => format!("Its bytes were not read now (snapswarm verify {cid} checks them)"),
        false => "Bytes checked".to_owned(),
    };
    if !fetched.only.is_empty() {
        out += &format!(
            "{checked}. Only this is here: {}.\nIt is a part of a state, and nothing that a \
             validating node can start from.\nNext: snapswarm dump {cid} FILE --format \
             jsonl|sqlite|xian; snapswarm fetch {cid} brings the rest\n",
            text::safe(&fetched.only.join(", ")),
        );
        return Some(out);
    }
    if let Some(basis) = &fetched.basis {
        let why = basis.to_string();
        out += &format!(
            "No application hash proves this state. It is believed: {}.\n",
            text::safe(&why)
        );
    }
    if fetched.state {
        out += &next_of_state(fetched, &checked);
        return Some(out);
    }
    if fetched.app_hash.is_none() {
        out += &format!(
            "{checked}. The snapshot names no application hash: nothing can prove its state, and \
             `feed` does not take it.\n"
        );
        return Some(out);
    }
    out += &checked;
    out += if fetched.proven {
        ", application hash confirmed by the chain's RPC.\n"
    } else {
        ", state not proven: no RPC of the chain confirmed the application hash (--node-rpc).\n"
    };
    let proof = if fetched.proven {
        ""
    } else {
        " --chain-rpc URL"
    };
    out += &format!(
        "Next: snapswarm feed {} --node-p2p ID@HOST:PORT --node-rpc URL{proof}\n",
        text::safe(&fetched.manifest)
    );
    Some(out)
}

/// What may follow of the records of a state. Nobody is led to name what he does not
/// believe.
fn next_of_state(fetched: &Fetched, checked: &str) -> String {
    let cid = text::safe(&fetched.manifest);
    match (&fetched.base, &fetched.basis) {
        (Some(base), _) => format!(
            "It is a delta from {}, and no node restores it: fetch the full snapshot of its \
             height.\n",
            text::safe(base)
        ),
        (None, Some(_)) => {
            format!("{checked}.\nNext: snapswarm join --xian STORAGE --cid {cid} …\n")
        }
        (None, None) => format!(
            "{checked}. No application hash proves this state, and nobody whom config.toml \
             names below [trust] has vouched for it: before a node is joined with it (snapswarm \
             join --xian STORAGE --cid {cid} …), ask somebody whom you trust whether this is the \
             CID of height {}.\n",
            fetched.height
        ),
    }
}

fn peers(fetched: &Fetched) -> String {
    if fetched.peers.is_empty() {
        return String::new();
    }
    let all: u64 = fetched.peers.iter().map(|peer| peer.bytes).sum();
    let mut table = text::Table::new(&["PEER", ">BYTES", ">SHARE"]);
    for peer in &fetched.peers {
        let all = u128::from(all.max(1));
        let share = (u128::from(peer.bytes) * 100 + all / 2) / all;
        table.row([
            peer.peer_id.clone(),
            text::bytes(peer.bytes),
            format!("{share} %"),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::{Basis, PeerBytes};

    fn fetched(proven: bool) -> Outcome {
        Outcome::Fetched(Fetched {
            height: 7,
            manifest: "bafk".to_owned(),
            bytes: 16 << 20,
            received_bytes: 12 << 20,
            resumed_bytes: 5 << 20,
            wasted_bytes: 1 << 20,
            seconds: 2.0,
            proven,
            app_hash_confirmed: proven,
            app_hash: Some("AB".to_owned()),
            state: false,
            was_here: false,
            only: Vec::new(),
            peers: vec![
                PeerBytes {
                    peer_id: "evil\u{1b}[2J".to_owned(),
                    bytes: 9 << 20,
                },
                PeerBytes {
                    peer_id: "good".to_owned(),
                    bytes: 3 << 20,
                },
            ],
            basis: None,
            base: None,
        })
    }

    #[test]
    fn what_can_never_be_proven_is_said_and_not_recommended_to_feed() {
        let Outcome::Fetched(mut without) = fetched(false) else {
            panic!("fetched");
        };
        without.app_hash = None;
        let said = text(&Outcome::Fetched(without)).unwrap();
        assert!(said.contains("names no application hash") && !said.contains("Next:"));
    }

    #[test]
    fn what_was_here_before_is_not_said_to_be_checked_now() {
        let Outcome::Fetched(mut here) = fetched(true) else {
            panic!("fetched");
        };
        here.was_here = true;
        let said = text(&Outcome::Fetched(here.clone())).unwrap();
        assert!(said.contains("not read now") && said.contains("verify bafk"));
        assert!(!said.contains("Bytes checked"), "{said}");
        here.state = true;
        let said = text(&Outcome::Fetched(here)).unwrap();
        assert!(said.contains("not read now"), "{said}");
    }

    #[test]
    fn a_part_of_a_state_is_said_to_be_none_for_a_node() {
        let Outcome::Fetched(mut part) = fetched(true) else {
            panic!("fetched");
        };
        part.only = vec!["con_a".to_owned(), "evil\u{1b}[2J".to_owned()];
        let said = text(&Outcome::Fetched(part)).unwrap();
        assert!(
            said.contains("con_a") && said.contains("validating node"),
            "{said}"
        );
        assert!(
            said.contains("dump bafk") && !said.contains("feed"),
            "{said}"
        );
        assert!(!said.contains('\u{1b}'));
    }

    #[test]
    fn nobody_is_led_to_name_a_state_that_nobody_vouched_for() {
        let Outcome::Fetched(mut state) = fetched(true) else {
            panic!("fetched");
        };
        state.state = true;
        let said = |state: &Fetched| text(&Outcome::Fetched(state.clone())).unwrap();
        let unknown = said(&state);
        assert!(unknown.contains("ask somebody") && !unknown.contains("Next:"));
        state.basis = Some(Basis::Pinned);
        let pinned = said(&state);
        assert!(pinned.contains("pinned") && pinned.contains("Next: snapswarm join --xian"));
        state.base = Some("bafkbase".to_owned());
        let delta = said(&state);
        assert!(delta.contains("a delta from bafkbase") && !delta.contains("join"));
    }

    #[test]
    fn what_is_proven_and_what_is_only_checked_is_said() {
        assert!(
            text(&fetched(false))
                .unwrap()
                .contains("Bytes checked, state not proven")
        );
        let proven = text(&fetched(true)).unwrap();
        assert!(proven.contains("confirmed") && !proven.contains("not proven"));
    }

    #[test]
    fn the_outcome_tells_rate_resume_waste_and_shares_and_is_safe_on_a_terminal() {
        let text = text(&fetched(true)).unwrap();
        for part in [
            "11.0 MiB of height 7 in 2.0 s (6.0 MiB/s)",
            "5.0 MiB were here",
            "1.0 MiB came twice",
            "75 %",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
