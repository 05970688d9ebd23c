//! What a home holds and what its daemon does, for people and for metrics.

use super::command::{Failure, LimitsNow, NetworkStatus, Status, UploadStatus};
use super::identity::peer_id_of;
use super::services::{Services, read};
use super::shelf;
use crate::store::Store;
use crate::telemetry::metrics::{
    HarvestSample, NetworkSample, Sample, StoreSample, TransferSample, XianSample,
};

/// Of a running daemon.
pub(super) fn of_daemon(services: &Services) -> Status {
    let pieces = services.net.upload_stats();
    Status {
        running: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: services.net.peer_id().to_string(),
        listen: services.addresses(),
        peers: services.net.connected().len() as u32,
        disk_bytes: services.store.disk_bytes(),
        quota_bytes: services.config.store.disk_quota.map(|quota| quota.0),
        snapshots: shelf::summaries(&services.store),
        downloads: services.downloads(),
        upload: UploadStatus {
            bytes: pieces.sent_bytes,
            active: pieces.active as u32,
            limits: services.limits(),
        },
        harvest: services.harvest(),
        join: services.join(),
        sdk_snapshots: services.sdk_snapshots(),
        xian: services.xian(),
        network: Some(network(services)),
    }
}

/// Of a home whose daemon does not run. Blocking.
pub(super) fn of_home(store: &Store, quota_bytes: Option<u64>) -> Result<Status, Failure> {
    Ok(Status {
        running: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: peer_id_of(store.home())?.unwrap_or_default(),
        listen: Vec::new(),
        peers: 0,
        disk_bytes: store.disk_bytes(),
        quota_bytes,
        snapshots: shelf::summaries(store),
        downloads: Vec::new(),
        upload: UploadStatus {
            bytes: 0,
            active: 0,
            limits: LimitsNow {
                upload_bytes_per_s: 0,
                upload_slots: 0,
            },
        },
        harvest: None,
        join: None,
        sdk_snapshots: None,
        xian: None,
        network: None,
    })
}

fn network(services: &Services) -> NetworkStatus {
    let (stats, reach) = (services.net.stats(), services.net.reachability());
    let told =
        |addresses: &[libp2p::Multiaddr]| addresses.iter().map(ToString::to_string).collect();
    NetworkStatus {
        dht_server: stats.dht_server,
        dht_peers: stats.routed_peers as u64,
        external_confirmed: told(&reach.confirmed),
        external_observed: told(&reach.observed),
        external_configured: reach.configured,
        inbound_from_outside: reach.inbound_from_outside,
    }
}

/// The numbers behind `/metrics`. Blocking.
pub(super) fn sample(services: &Services) -> Sample {
    let net = services.net.stats();
    let pieces = services.net.upload_stats();
    let counters = &services.counters;
    let downloads = services.downloads();
    let shelf = services.store.list();
    let complete = shelf.iter().filter(|stored| stored.complete).count() as u64;
    Sample {
        start_time_s: 0,
        network: NetworkSample {
            peers: net.peers as u64,
            dht_peers: net.routed_peers as u64,
            dht_own_records: net.own_records as u64,
            dht_foreign_records: net.foreign_records as u64,
            bans: net.banned_peers as u64,
            bans_total: services.referee.total(),
        },
        transfer: TransferSample {
            downloads: downloads.len() as u64,
            download_peers: downloads.iter().map(|d| u64::from(d.peers)).sum(),
            downloaded_bytes: read(&counters.downloaded_bytes),
            wasted_bytes: read(&counters.wasted_bytes),
            fetches_done: read(&counters.fetches_done),
            fetches_failed: read(&counters.fetches_failed),
            uploads: pieces.active as u64,
            uploaded_bytes: pieces.sent_bytes,
            refused_requests: pieces.refused,
            upload_limit_bytes_per_s: services.limits().upload_bytes_per_s,
            feeds_done: read(&counters.feeds_done),
        },
        store: StoreSample {
            snapshots: complete,
            partial_snapshots: shelf.len() as u64 - complete,
            pinned_snapshots: shelf.iter().filter(|stored| stored.pinned).count() as u64,
            disk_bytes: services.store.disk_bytes(),
            quota_bytes: services.config.store.disk_quota.map(|quota| quota.0),
            free_bytes: services.store.free_bytes(),
            faults: read(&counters.storage_faults),
        },
        harvest: harvest_sample(services),
        xian: services.xian().map(|xian| XianSample {
            newest_height: xian.newest_height.unwrap_or(0),
            last_hold_s: xian.last_hold_ms.map(|held_ms| held_ms / 1000.0),
            snapshots: read(&services.counters.states_made),
            skipped: xian.skipped,
            failed: xian.failed,
        }),
    }
}

fn harvest_sample(services: &Services) -> Option<HarvestSample> {
    let (node, folder) = (services.harvest(), services.sdk_snapshots());
    let newest_of_node = node.as_ref().and_then(|node| node.newest_height);
    let newest_of_folder = folder.as_ref().and_then(|folder| folder.newest_height);
    (node.is_some() || folder.is_some()).then(|| HarvestSample {
        connected: node.map(|node| node.connected),
        folder_well: folder.map(|folder| folder.last_error.is_none()),
        newest_height: newest_of_node.max(newest_of_folder).unwrap_or(0),
        snapshots: read(&services.counters.harvests_done),
        errors: read(&services.counters.harvests_failed),
    })
}
