//! What a type cannot say about settings and arguments.

use std::path::Path;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::{ByteSize, Config, ConfigError, UploadConfig};

/// Names go into protocol names and DHT keys.
const MAX_NETWORK_NAME_BYTES: usize = 32;

/// Lists in the file; far more than anybody writes by hand.
const MAX_LIST_ENTRIES: usize = 256;

/// A lease keeps disk space in use; a day is longer than any download.
const MAX_LEASE_MINUTES: u32 = 24 * 60;

/// A node whose offer waits does nothing else; blocks that it needs after are gone in
/// an hour on chains that prune.
const MAX_HOLD_MINUTES: u32 = 60;

/// Each snapshot reads all of the state: one for each block is never done with that.
const MIN_SNAPSHOT_INTERVAL: u64 = 10;

/// What is copied in less is nothing.
const MIN_COMMIT_HOLD_MS: u32 = 10;

/// A validator that is a second late misses its turn.
const MAX_COMMIT_HOLD_MS: u32 = 1000;

impl Config {
    /// Everything that a type cannot say; the first problem, with its key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let network = &self.network;
        check_network_name(&network.name).map_err(|problem| key("network.name", problem))?;
        check_len("network.listen", network.listen.len())?;
        check_len(
            "network.external_addresses",
            network.external_addresses.len(),
        )?;
        check_len("network.bootstrap", network.bootstrap.len())?;
        for (index, address) in network.bootstrap.iter().enumerate() {
            check_bootstrap(address)
                .map_err(|problem| key(&format!("network.bootstrap[{index}]"), problem))?;
        }
        check_len("network.allow_peers", network.allow_peers.len())?;
        for (index, peer) in network.allow_peers.iter().enumerate() {
            peer.parse::<PeerId>().map_err(|error| {
                let problem = format!("'{peer}' is no peer id: {error}");
                key(&format!("network.allow_peers[{index}]"), problem)
            })?;
        }
        if self.store.max_snapshots == 0 {
            return Err(key("store.max_snapshots", "must be at least 1"));
        }
        if self.store.disk_quota == Some(ByteSize(0)) {
            return Err(key(
                "store.disk_quota",
                "must be more than 0; leave the key out for no quota",
            ));
        }
        if self.store.lease_minutes > MAX_LEASE_MINUTES {
            return Err(key(
                "store.lease_minutes",
                format!("must be at most {MAX_LEASE_MINUTES} (a day)"),
            ));
        }
        if self.upload.slots() > UploadConfig::MAX_SLOTS {
            return Err(key(
                "upload.slots",
                format!("must be at most {}", UploadConfig::MAX_SLOTS),
            ));
        }
        if self.adapter.hold_minutes > MAX_HOLD_MINUTES {
            return Err(key(
                "adapter.hold_minutes",
                format!("must be at most {MAX_HOLD_MINUTES} (an hour)"),
            ));
        }
        self.check_harvest()?;
        self.check_xian()?;
        if !self.api.http.ip().is_loopback() {
            return Err(key(
                "api.http",
                "must be a loopback address such as 127.0.0.1:9464; put a proxy in front to show it to others",
            ));
        }
        self.trust.check()
    }

    fn check_xian(&self) -> Result<(), ConfigError> {
        let xian = &self.xian;
        for (name, path) in [
            ("xian.storage", &xian.storage),
            ("xian.state_patches", &xian.state_patches),
            ("xian.copy_in", &xian.copy_in),
        ] {
            if path.as_deref() == Some(Path::new("")) {
                return Err(key(name, "must not be empty; leave the key out"));
            }
        }
        if xian.snapshot_interval < MIN_SNAPSHOT_INTERVAL {
            return Err(key(
                "xian.snapshot_interval",
                format!("must be at least {MIN_SNAPSHOT_INTERVAL} blocks"),
            ));
        }
        if !(MIN_COMMIT_HOLD_MS..=MAX_COMMIT_HOLD_MS).contains(&xian.commit_hold_ms) {
            return Err(key(
                "xian.commit_hold_ms",
                format!("must be {MIN_COMMIT_HOLD_MS} to {MAX_COMMIT_HOLD_MS} (a second)"),
            ));
        }
        Ok(())
    }

    fn check_harvest(&self) -> Result<(), ConfigError> {
        let harvest = &self.harvest;
        if let Some(node) = &harvest.node {
            check_node_address(node).map_err(|problem| key("harvest.node", problem))?;
        }
        if harvest.sdk_snapshots.as_deref() == Some(Path::new("")) {
            return Err(key("harvest.sdk_snapshots", "must name a folder"));
        }
        let has_source = harvest.node.is_some() || harvest.sdk_snapshots.is_some();
        match &harvest.rpc {
            Some(rpc) if has_source => {
                check_rpc_url(rpc).map_err(|problem| key("harvest.rpc", problem))
            }
            Some(_) => Err(key(
                "harvest.node",
                "must be set when harvest.rpc is, or harvest.sdk_snapshots",
            )),
            None if has_source => Err(key(
                "harvest.rpc",
                "must be set when harvest.node or harvest.sdk_snapshots is",
            )),
            None => Ok(()),
        }
    }
}

pub(super) fn key(path: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: path.to_owned(),
        problem: problem.into(),
    }
}

pub(super) fn check_len(path: &str, found: usize) -> Result<(), ConfigError> {
    if found > MAX_LIST_ENTRIES {
        return Err(key(
            path,
            format!("has more than {MAX_LIST_ENTRIES} entries"),
        ));
    }
    Ok(())
}

/// Whether this can name a network.
pub fn check_network_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= MAX_NETWORK_NAME_BYTES
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte)
        });
    if fits {
        return Ok(());
    }
    Err(format!(
        "must have 1 to {MAX_NETWORK_NAME_BYTES} characters out of a-z, 0-9, '-', '_' and '.'"
    ))
}

/// Whether this address names a peer that can be dialled.
pub fn check_bootstrap(address: &Multiaddr) -> Result<(), String> {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => Ok(()),
        _ => Err(format!("{address} must end with /p2p/PEER_ID")),
    }
}

/// Whether this is `ID@HOST:PORT` of a CometBFT node.
pub fn check_node_address(text: &str) -> Result<(), String> {
    let problem = || "must be ID@HOST:PORT, with the 40 hex digits of `cometbft show-node-id`";
    let (id, address) = text.split_once('@').ok_or_else(problem)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(problem)?;
    let id_fits = id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !id_fits || host.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0).eq(&false) {
        return Err(problem().to_owned());
    }
    Ok(())
}

/// Whether this is a URL that a CometBFT RPC can have.
pub fn check_rpc_url(text: &str) -> Result<(), String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err("must be an http:// or https:// URL such as http://127.0.0.1:26657".to_owned()),
    }
}

/// Whether this can name a snapshot: a CIDv1 of raw bytes under SHA-256.
pub fn check_cid(text: &str) -> Result<(), String> {
    const RAW: u64 = 0x55;
    const SHA2_256: u64 = 0x12;
    let problem = "is not a snapshot's CID: one looks like bafkrei… with 59 characters, look for a slip of the pen";
    let cid = cid::Cid::try_from(text).map_err(|_| problem.to_owned())?;
    if cid.codec() != RAW || cid.hash().code() != SHA2_256 || cid.hash().size() != 32 {
        return Err(problem.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_empty_file_is_a_configuration_that_passes_its_check() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn sizes_are_integers_or_text() {
        let config = Config::parse(
            "[store]\ndisk_quota = \"10 GiB\"\nmax_download_bytes = 5\n[upload]\nbytes_per_s = \"12 MB/s\"",
        )
        .unwrap();
        assert_eq!(config.store.disk_quota, Some(ByteSize(10 << 30)));
        assert_eq!(config.store.max_download_bytes, ByteSize(5));
        assert_eq!(config.upload.bytes_per_s(), 12_000_000);
    }

    #[test]
    fn a_problem_names_its_key() {
        for (text, expected) in [
            ("[network]\nname = \"UPPER\"", "network.name"),
            ("[network]\nname = \"\"", "network.name"),
            ("[network]\nlisten = [\"nowhere\"]", "network.listen[0]"),
            (
                "[network]\nbootstrap = [\"/ip4/1.2.3.4/tcp/1\"]",
                "network.bootstrap[0]",
            ),
            ("[network]\nmode = \"sometimes\"", "network.mode"),
            ("[store]\nmax_snapshots = 0", "store.max_snapshots"),
            ("[store]\nmax_snapshots = -1", "store.max_snapshots"),
            ("[store]\ndisk_quota = 0", "store.disk_quota"),
            ("[store]\ndisk_quota = \"much\"", "store.disk_quota"),
            ("[store]\nlease_minutes = 1441", "store.lease_minutes"),
            ("[adapter]\nhold_minutes = 61", "adapter.hold_minutes"),
            ("[upload]\nslots = 65", "upload.slots"),
            ("[upload]\nbytes_per_s = true", "upload.bytes_per_s"),
            ("[announce]\nwhat = \"all\"", "announce.what"),
            ("[harvest]\nrpc = \"http://127.0.0.1:1\"", "harvest.node"),
            (
                "[harvest]\nnode = \"x@127.0.0.1:1\"\nrpc = \"http://127.0.0.1:1\"",
                "harvest.node",
            ),
            ("[harvest]\nsdk_snapshots = \"data\"", "harvest.rpc"),
            (
                "[harvest]\nsdk_snapshots = \"\"\nrpc = \"http://127.0.0.1:1\"",
                "harvest.sdk_snapshots",
            ),
            (
                "[harvest]\nsdk_snapshots = \"data\"\nrpc = \"127.0.0.1:1\"",
                "harvest.rpc",
            ),
            ("[xian]\nstorage = \"\"", "xian.storage"),
            ("[xian]\nsnapshot_interval = 9", "xian.snapshot_interval"),
            ("[xian]\ncommit_hold_ms = 9", "xian.commit_hold_ms"),
            ("[xian]\ncommit_hold_ms = 1001", "xian.commit_hold_ms"),
            ("[api]\nhttp = \"0.0.0.0:80\"", "api.http"),
            ("[api]\nhttp = \"localhost\"", "api.http"),
            (
                "[trust]\npinned_manifests = [\"Qm\"]",
                "trust.pinned_manifests[0]",
            ),
        ] {
            let problem = problem_of(text);
            assert!(problem.starts_with(&format!("{expected}: ")), "{problem}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_with_its_path() {
        let problem = problem_of("[upload]\nbytes_per_sec = 1");
        assert!(problem.contains("upload.bytes_per_sec"), "{problem}");
        assert!(
            problem.contains("bytes_per_s"),
            "names what there is: {problem}"
        );
        let problem = problem_of("[uploads]\nslots = 1");
        assert!(problem.contains("uploads"), "{problem}");
        let problem = problem_of("port = 1");
        assert!(problem.contains("port"), "{problem}");
    }

    #[test]
    fn the_largest_values_that_are_allowed_pass() {
        Config::parse(
            "[store]\nlease_minutes = 1440\n[upload]\nslots = 64\n[adapter]\nhold_minutes = 60",
        )
        .unwrap();
        for hold_ms in [10, 1000] {
            let xian = format!("[xian]\nsnapshot_interval = 10\ncommit_hold_ms = {hold_ms}");
            Config::parse(&xian).unwrap();
        }
        assert!(check_network_name(&"n".repeat(32)).is_ok());
        assert!(check_network_name(&"n".repeat(33)).is_err());
    }

    #[test]
    fn a_validator_uploads_less_unless_told_otherwise() {
        let quiet = Config::parse("[upload]\nprofile = \"validator\"")
            .unwrap()
            .upload;
        assert_eq!((quiet.bytes_per_s(), quiet.slots()), (12_000_000, 4));
        let told = Config::parse("[upload]\nprofile = \"validator\"\nbytes_per_s = 0").unwrap();
        assert_eq!(told.upload.bytes_per_s(), 0);
    }

    #[test]
    fn a_node_address_is_an_id_and_a_place() {
        let id = "0123456789abcdef0123456789ABCDEF01234567";
        assert!(check_node_address(&format!("{id}@node.example:26656")).is_ok());
        assert!(check_node_address(&format!("{id}@[::1]:26656")).is_ok());
        for place in ["", "@h:1", "h:1"] {
            assert!(check_node_address(place).is_err());
        }
        for place in ["host", ":1", "h:0", "h:65536", "h:x"] {
            assert!(
                check_node_address(&format!("{id}@{place}")).is_err(),
                "{place}"
            );
        }
    }
}
