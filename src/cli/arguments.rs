//! Arguments that several verbs have, and how wrong ones are told.

use std::path::PathBuf;

use clap::Args;
use libp2p::Multiaddr;

use super::failure;
use crate::{
    config,
    node::command::{self, Failure, FailureCode, MAX_HEIGHT},
};

/// A snapshot's name.
#[derive(Debug, Args)]
pub(super) struct Cid {
    /// The snapshot, as `list` shows it
    #[arg(value_name = "CID", value_parser = cid)]
    pub(super) cid: String,
}

/// What clap found, without its colours and its usage lines.
pub(super) fn usage(error: &clap::Error) -> Failure {
    let rendered = error.render().to_string();
    let told = rendered
        .split("\n\nUsage:")
        .next()
        .and_then(|text| text.split("\n\nFor more information").next())
        .unwrap_or_default();
    let message = told
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    failure(
        FailureCode::Usage,
        message,
        Some("`snapswarm --help` and `snapswarm VERB --help` show the use with examples"),
    )
}

pub(super) fn cid(text: &str) -> Result<String, String> {
    config::check_cid(text)?;
    Ok(text.to_owned())
}

/// Where an application listens, or CometBFT finds it.
pub(super) fn app_address(text: &str) -> Result<String, String> {
    command::check_app_address(text)?;
    Ok(text.to_owned())
}

/// A file that is there.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_file() {
        true => Ok(path),
        false if path.exists() => Err("is no file".to_owned()),
        false => Err("there is no such file".to_owned()),
    }
}

pub(super) fn chain_id(text: &str) -> Result<String, String> {
    command::check_chain_id(text)?;
    Ok(text.to_owned())
}

pub(super) fn height() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=MAX_HEIGHT)
}

pub(super) fn rpc_url(text: &str) -> Result<String, String> {
    config::check_rpc_url(text)?;
    Ok(text.to_owned())
}

pub(super) fn node_address(text: &str) -> Result<String, String> {
    config::check_node_address(text)?;
    Ok(text.to_owned())
}

pub(super) fn bootstrap(text: &str) -> Result<Multiaddr, String> {
    let address = multiaddr(text)?;
    config::check_bootstrap(&address)?;
    Ok(address)
}

pub(super) fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse()
        .map_err(|error| format!("is no multiaddress such as /ip4/192.0.2.7/tcp/26670 ({error})"))
}

pub(super) fn hex_bytes(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(error) => Err(format!("is no hex: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, Parser};

    use super::super::{Cli, Verb};
    use crate::node::command::{Command, FetchTarget};

    const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    const NODE: &str = "0123456789abcdef0123456789abcdef01234567@127.0.0.1:26656";
    const PEER: &str =
        "/ip4/192.0.2.7/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    fn verb(arguments: &[&str]) -> Verb {
        let arguments = [&["snapswarm"], arguments].concat();
        Cli::try_parse_from(arguments).unwrap().verb
    }

    #[test]
    fn fetch_takes_a_name_or_a_chain_with_everything_else_beside_it() {
        let rest = [
            "--bootstrap",
            PEER,
            "--bootstrap",
            PEER,
            "--node-rpc",
            "http://h:1",
            "--out",
            "/o",
            "--timeout",
            "5",
        ];
        let Verb::Fetch(named) = verb(&[&["fetch", CID][..], &rest].concat()) else {
            panic!("another verb");
        };
        let Ok(Command::Fetch(fetch)) = named.command() else {
            panic!("another command");
        };
        assert!(matches!(fetch.target, FetchTarget::Manifest(cid) if cid == CID));
        assert_eq!((fetch.bootstrap.len(), fetch.timeout_s), (2, 5));
        assert_eq!(fetch.out.as_deref(), Some(Path::new("/o")));
        let chain = ["fetch", "--chain-id", "c", "--height", "7"];
        let Verb::Fetch(newest) = verb(&[&chain[..], &rest].concat()) else {
            panic!("another verb");
        };
        let Ok(Command::Fetch(fetch)) = newest.command() else {
            panic!("another command");
        };
        assert!(matches!(
            fetch.target,
            FetchTarget::Chain { chain_id, height: Some(7) } if chain_id == "c"
        ));
    }

    #[test]
    fn the_full_form_of_every_other_verb_is_understood() {
        for arguments in [
            &["init", "--network", "net-1"][..],
            &[
                "load",
                "d",
                "--kind",
                "files",
                "--chain-id",
                "c",
                "--height",
                "1",
                "--app-hash",
                "AB",
                "--format",
                "2",
                "--hash",
                "cd",
                "--metadata",
                "",
            ],
            &["load", "f.car", "--kind", "car"],
            &[
                "start",
                "--listen",
                "/ip4/0.0.0.0/tcp/0",
                "--listen",
                "/ip6/::/udp/0/quic-v1",
                "--bootstrap",
                PEER,
                "--external-address",
                "/dns4/h/tcp/1",
                "--harvest",
                NODE,
                "--node-rpc",
                "https://h",
            ],
            &[
                "start",
                "--sdk-snapshots",
                "data/snapshots",
                "--node-rpc",
                "https://h",
            ],
            &[
                "start",
                "--sdk-snapshots",
                "/d",
                "--harvest",
                NODE,
                "--node-rpc",
                "https://h",
            ],
            &[
                "feed",
                CID,
                "--node-p2p",
                NODE,
                "--node-rpc",
                "http://h",
                "--timeout",
                "9",
            ],
            &["list"],
            &["show", CID],
            &["verify", CID],
            &["verify", "x.car"],
            &["dump", CID, "x.car"],
            &["dump", CID, "x", "--format", "sqlite"],
            &["diff", CID, CID],
            &["delta", CID, CID],
            &["genesis", "--from", CID, "--format", "xian", "--out", "g"],
            &["delete", CID],
            &["pin", CID],
            &["unpin", CID],
            &["endorse", CID],
            &["status", "--home", "/h", "--json", "--log-json"],
            &["doctor"],
            &[
                "doctor",
                "--node-home",
                "/n",
                "--node-rpc",
                "http://h:1",
                "--chain-rpc",
                "https://a,https://b",
                "--cid",
                CID,
            ],
            &["limits"],
            &[
                "limits",
                "--upload-bytes-per-s",
                "0",
                "--upload-slots",
                "64",
            ],
        ] {
            verb(arguments);
        }
    }

    #[test]
    fn the_tree_of_verbs_is_sound() {
        Cli::command().debug_assert();
    }
}
