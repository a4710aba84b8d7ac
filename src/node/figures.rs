//! A daemon's figures for Prometheus, made of the report that `flashget status` shows.

use crate::base::metrics::{Exposition, Kind};
use crate::control::report::{NetworkReport, StatusReport};

/// All figures. Names of networks are the only ones in them.
pub(super) fn exposition(status: &StatusReport) -> String {
    let mut figures = Exposition::default();
    figures.many(Kind::Gauge, "flashget_info", "The version that runs.", "version", [(status.version.clone(), 1)]);
    figures.one(Kind::Gauge, "flashget_uptime_seconds", "Time since the start.", status.uptime_secs);
    let mut each = |name: &str, help: &str, value: &dyn Fn(&NetworkReport) -> Option<f64>| {
        let values = status.networks.iter().filter_map(|network| Some((network.name.clone(), value(network)?)));
        figures.many(Kind::Gauge, name, help, "network", values.collect::<Vec<_>>());
    };
    each("flashget_peers", "Peers that are live.", &|network| Some(network.peers as f64));
    each("flashget_sessions", "Peers with which there is a session.", &|network| Some(network.connected as f64));
    each("flashget_gossip_members", "Members that gossip knows to be alive.", &|network| {
        network.gossip.map(|members| members as f64)
    });
    each("flashget_catalogs", "Catalogs that are known.", &|network| Some(network.nodes as f64));
    each("flashget_own_catalog_epoch", "Epoch of this node's catalog.", &|network| {
        network.own_version.map(|(epoch, _)| epoch as f64)
    });
    each("flashget_own_catalog_version", "Version of this node's catalog within its epoch.", &|network| {
        network.own_version.map(|(_, version)| version as f64)
    });
    let seconds = |millis: Option<u64>| Some(millis? as f64 / 1000.0);
    each("flashget_catalog_lag_seconds", "How long the last change of a catalog took to get here.", &|network| {
        seconds(network.lag.last_ms)
    });
    each("flashget_catalog_lag_median_seconds", "The same of half of the last 256 changes was less.", &|network| {
        seconds(network.lag.median_ms)
    });
    each("flashget_files", "Files in the view.", &|network| Some(network.files as f64));
    each("flashget_bytes", "Bytes of the files in the view.", &|network| Some(network.bytes as f64));
    let found = status.networks.iter().flat_map(|network| {
        let of = |(how, count): (&String, &usize)| ([network.name.clone(), how.clone()], *count);
        network.found.iter().map(of).collect::<Vec<_>>()
    });
    let help = "Live peers by how they were found; one may be in several.";
    figures.table(Kind::Gauge, "flashget_peers_found", help, ["network", "by"], found);
    let trackers = status.networks.iter().flat_map(|network| {
        let of = |tracker: &crate::members::membership::TrackerState| {
            ([network.name.clone(), tracker.address.clone()], u8::from(tracker.reachable))
        };
        network.trackers.iter().map(of).collect::<Vec<_>>()
    });
    let help = "1 if the tracker answered the last ping.";
    figures.table(Kind::Gauge, "flashget_tracker_reachable", help, ["network", "tracker"], trackers);
    let cache = &status.cache;
    for (kind, name, help, value) in [
        (Kind::Gauge, "disk_bytes", "Bytes that the cache takes on disk.", cache.disk_bytes),
        (Kind::Gauge, "disk_limit_bytes", "Bytes that it may take.", cache.disk_limit),
        (Kind::Counter, "loads_total", "Chunks that were read from it.", cache.loads),
        (Kind::Counter, "writes_total", "Chunks that were written to it.", cache.writes),
        (Kind::Counter, "damaged_total", "Records that did not open.", cache.damaged),
        (Kind::Counter, "evicted_total", "Chunks that were evicted.", cache.evicted),
    ] {
        figures.one(kind, &format!("flashget_cache_{name}"), help, value);
    }
    figures.text()
}
