//! `/metrics`: a [`Sample`] of plain numbers as OpenMetrics text.
//!
//! A sample is taken when somebody asks, so that the numbers of one answer
//! belong together. Counters count since the daemon started and never fall;
//! gauges tell what is now. Units are base units and end the name.

use prometheus_client::{
    encoding::text,
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// Before every name.
const PREFIX: &str = "snapswarm";

/// Everything that is measured. What a daemon does not do stays zero.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sample {
    /// Unix time at which the daemon started.
    pub start_time_s: u64,
    /// The swarm.
    pub network: NetworkSample,
    /// Downloads and uploads.
    pub transfer: TransferSample,
    /// The disk.
    pub store: StoreSample,
    /// The harvest, where one is configured.
    pub harvest: Option<HarvestSample>,
    /// The snapshots of a Xian node, where its adapter tells of them.
    pub xian: Option<XianSample>,
}

/// The swarm.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NetworkSample {
    /// Connected peers.
    pub peers: u64,
    /// Peers in the DHT's routing table.
    pub dht_peers: u64,
    /// Provider records that we announce.
    pub dht_own_records: u64,
    /// Provider records that we keep for others.
    pub dht_foreign_records: u64,
    /// Bans in force.
    pub bans: u64,
    /// Bans pronounced since start.
    pub bans_total: u64,
}

/// Downloads and uploads.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TransferSample {
    /// Downloads under way.
    pub downloads: u64,
    /// Peers that deliver to them.
    pub download_peers: u64,
    /// Piece payload received, duplicates and bad included.
    pub downloaded_bytes: u64,
    /// Of it, what was not needed or not right.
    pub wasted_bytes: u64,
    /// Downloads that were sealed.
    pub fetches_done: u64,
    /// Downloads that ended otherwise.
    pub fetches_failed: u64,
    /// Peers being served.
    pub uploads: u64,
    /// Piece payload sent.
    pub uploaded_bytes: u64,
    /// Requests of peers that were refused.
    pub refused_requests: u64,
    /// The upload limit, bytes a second; 0 is none.
    pub upload_limit_bytes_per_s: u64,
    /// Snapshots that a joining node restored from us.
    pub feeds_done: u64,
}

/// The disk.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StoreSample {
    /// Complete snapshots.
    pub snapshots: u64,
    /// Snapshots that are not complete.
    pub partial_snapshots: u64,
    /// Pinned snapshots.
    pub pinned_snapshots: u64,
    /// Bytes that snapshots take on disk.
    pub disk_bytes: u64,
    /// The quota; absent when there is none.
    pub quota_bytes: Option<u64>,
    /// What the file system has left.
    pub free_bytes: Option<u64>,
    /// Storage faults since start.
    pub faults: u64,
}

/// The harvest.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HarvestSample {
    /// Whether the node's p2p connection stands, where it is asked over that.
    pub connected: Option<bool>,
    /// Whether the node's snapshot folder is read without trouble, where it is read.
    pub folder_well: Option<bool>,
    /// Newest height taken.
    pub newest_height: u64,
    /// Snapshots taken since start.
    pub snapshots: u64,
    /// Attempts that failed since start.
    pub errors: u64,
}

/// The snapshots of a Xian node behind an adapter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct XianSample {
    /// Newest height of which there is one.
    pub newest_height: u64,
    /// How long the answer to Commit was held last.
    pub last_hold_s: Option<f64>,
    /// Snapshots made since this daemon was started.
    pub snapshots: u64,
    /// Snapshots left out since the adapter was started.
    pub skipped: u64,
    /// Snapshots that failed since then.
    pub failed: u64,
}

impl Sample {
    /// The body of `/metrics`.
    pub fn render(&self) -> String {
        let mut table = Table(Registry::with_prefix(PREFIX));
        table.0.register(
            "build",
            "The program that answers",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let start = "Unix time at which the daemon started";
        table.gauge_in("start_time", start, Unit::Seconds, self.start_time_s);
        self.network.register(&mut table);
        self.transfer.register(&mut table);
        self.store.register(&mut table);
        if let Some(harvest) = &self.harvest {
            harvest.register(&mut table);
        }
        if let Some(xian) = &self.xian {
            xian.register(&mut table);
        }
        let mut body = String::new();
        // Writing into a String does not fail, and our metrics have no labels
        // that could.
        if let Err(error) = text::encode(&mut body, &table.0) {
            tracing::error!(%error, "metrics cannot be written");
        }
        body
    }
}

/// The registry under construction: one line for each metric.
struct Table(Registry);

impl Table {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstGauge::new(value));
    }

    fn gauge_in(&mut self, name: &str, help: &str, unit: Unit, value: u64) {
        self.0
            .register_with_unit(name, help, unit, ConstGauge::new(value));
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) {
        self.0
            .register_with_unit(name, help, Unit::Seconds, ConstGauge::new(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    fn byte_counter(&mut self, name: &str, help: &str, value: u64) {
        self.0
            .register_with_unit(name, help, Unit::Bytes, ConstCounter::new(value));
    }
}

impl NetworkSample {
    fn register(&self, table: &mut Table) {
        table.gauge("peers", "Connected peers", self.peers);
        table.gauge(
            "dht_peers",
            "Peers in the DHT's routing table",
            self.dht_peers,
        );
        table.gauge(
            "dht_own_records",
            "Provider records that this node announces",
            self.dht_own_records,
        );
        table.gauge(
            "dht_foreign_records",
            "Provider records that this node keeps for others",
            self.dht_foreign_records,
        );
        table.gauge("banned_peers", "Bans in force", self.bans);
        table.counter("bans", "Bans pronounced", self.bans_total);
    }
}

impl TransferSample {
    fn register(&self, table: &mut Table) {
        table.gauge("downloads", "Downloads under way", self.downloads);
        table.gauge(
            "download_peers",
            "Peers that deliver to downloads",
            self.download_peers,
        );
        table.byte_counter(
            "downloaded",
            "Piece payload received, duplicates and bad pieces included",
            self.downloaded_bytes,
        );
        table.byte_counter(
            "wasted",
            "Piece payload received that was not needed or not right",
            self.wasted_bytes,
        );
        table.counter(
            "fetches_done",
            "Snapshots downloaded completely",
            self.fetches_done,
        );
        table.counter(
            "fetches_failed",
            "Downloads that ended before they were complete",
            self.fetches_failed,
        );
        table.gauge("uploads", "Peers being served", self.uploads);
        table.byte_counter("uploaded", "Piece payload sent", self.uploaded_bytes);
        table.counter(
            "refused_requests",
            "Requests of peers that were refused",
            self.refused_requests,
        );
        table.gauge_in(
            "upload_limit",
            "Upload limit over all peers, 0 is none",
            Unit::Other("bytes_per_second".to_owned()),
            self.upload_limit_bytes_per_s,
        );
        table.counter(
            "feeds_done",
            "Snapshots that a joining node restored from this one",
            self.feeds_done,
        );
    }
}

impl StoreSample {
    fn register(&self, table: &mut Table) {
        table.gauge("snapshots", "Complete snapshots", self.snapshots);
        table.gauge(
            "partial_snapshots",
            "Snapshots that are not complete",
            self.partial_snapshots,
        );
        table.gauge(
            "pinned_snapshots",
            "Pinned snapshots",
            self.pinned_snapshots,
        );
        table.gauge_in(
            "disk_used",
            "Bytes that snapshots take on disk",
            Unit::Bytes,
            self.disk_bytes,
        );
        if let Some(quota) = self.quota_bytes {
            table.gauge_in(
                "disk_quota",
                "Bytes that snapshots may take",
                Unit::Bytes,
                quota,
            );
        }
        if let Some(free) = self.free_bytes {
            let help = "Bytes that the file system has left";
            table.gauge_in("disk_free", help, Unit::Bytes, free);
        }
        table.counter("storage_faults", "Storage faults", self.faults);
    }
}

impl HarvestSample {
    fn register(&self, table: &mut Table) {
        if let Some(connected) = self.connected {
            let help = "Whether the node's p2p connection stands";
            table.gauge("harvest_connected", help, u64::from(connected));
        }
        if let Some(well) = self.folder_well {
            let help = "Whether the node's snapshot folder is read without trouble";
            table.gauge("harvest_folder_well", help, u64::from(well));
        }
        table.gauge(
            "harvest_newest_height",
            "Newest height taken from the node",
            self.newest_height,
        );
        table.counter(
            "harvest_snapshots",
            "Snapshots taken from the node",
            self.snapshots,
        );
        table.counter(
            "harvest_errors",
            "Attempts to take a snapshot from the node that failed",
            self.errors,
        );
    }
}

impl XianSample {
    fn register(&self, table: &mut Table) {
        table.gauge(
            "state_newest_height",
            "Newest height whose state became a snapshot",
            self.newest_height,
        );
        if let Some(held_s) = self.last_hold_s {
            let help = "How long the answer to Commit was held last";
            table.seconds("commit_hold", help, held_s);
        }
        table.counter(
            "state_snapshots",
            "Snapshots made of the node's state",
            self.snapshots,
        );
        table.counter(
            "state_snapshots_skipped",
            "Snapshots left out, because consensus would have waited too long",
            self.skipped,
        );
        table.counter(
            "state_snapshots_failed",
            "Snapshots of the node's state that failed",
            self.failed,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn full() -> Sample {
        Sample {
            start_time_s: 1_700_000_000,
            network: NetworkSample {
                peers: 3,
                bans_total: 77,
                ..NetworkSample::default()
            },
            store: StoreSample {
                quota_bytes: Some(9),
                free_bytes: Some(8),
                ..StoreSample::default()
            },
            harvest: Some(HarvestSample {
                connected: Some(true),
                folder_well: Some(false),
                newest_height: 42,
                ..HarvestSample::default()
            }),
            xian: Some(XianSample {
                newest_height: 1000,
                last_hold_s: Some(0.012),
                skipped: 2,
                ..XianSample::default()
            }),
            ..Sample::default()
        }
    }

    #[test]
    fn every_metric_is_named_once_with_a_help_text_and_its_unit_last() {
        let body = full().render();
        let mut names = BTreeSet::new();
        for line in body.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(names.insert(name.to_owned()), "{name} stands there twice");
            assert!(name.starts_with("snapswarm_"), "{name}");
            assert!(
                body.contains(&format!("# HELP {name} ")),
                "{name} has no help"
            );
        }
        for line in body.lines().filter(|line| line.starts_with("# UNIT ")) {
            let mut words = line.split(' ').skip(2);
            let (name, unit) = (words.next().unwrap(), words.next().unwrap());
            assert!(name.ends_with(unit), "{name} does not end with {unit}");
        }
        assert!(names.len() > 25, "{names:?}");
        assert!(body.ends_with("# EOF\n"));
    }

    #[test]
    fn values_stand_where_a_scraper_looks_for_them() {
        let body = full().render();
        for line in [
            "snapswarm_peers 3",
            "snapswarm_bans_total 77",
            "snapswarm_harvest_connected 1",
            "snapswarm_harvest_folder_well 0",
            "snapswarm_harvest_newest_height 42",
            "snapswarm_state_newest_height 1000",
            "snapswarm_commit_hold_seconds 0.012",
            "snapswarm_state_snapshots_skipped_total 2",
            "snapswarm_disk_quota_bytes 9",
            "snapswarm_start_time_seconds 1700000000",
        ] {
            assert!(body.lines().any(|found| found == line), "{line}\n{body}");
        }
    }

    #[test]
    fn what_a_daemon_does_not_do_has_no_metric() {
        let body = Sample::default().render();
        assert!(!body.contains("harvest") && !body.contains("disk_quota"));
        assert!(!body.contains("state") && !body.contains("commit_hold"));
    }
}
