//! Looking at things: the view, peers, transfers, the node itself.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::Node;
use super::errors::wrong;
use super::mounts::resolved;
use super::networks::Joined;
use crate::base::chunks::chunk_count;
use crate::base::clock::Timestamp;
use crate::base::ids::ContentId;
use crate::base::names::ValidPath;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewKind, ViewTree};
use crate::control::report::{
    DaemonSettings, EntryKind, EntryReport, LimitsReport, NamedTransfer, PeerReport, StatusReport,
};
use crate::control::request::MountRequest;
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode, Opened};
use crate::net::link::PeerAddr;
use crate::reader::contents::Contents;
use crate::swarm::uploads::admission::UploadLimits;

impl Node {
    pub(super) fn status(&self) -> StatusReport {
        StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.identity.node,
            name: self.identity.name.clone(),
            pid: std::process::id(),
            uptime_secs: self.began.elapsed().as_secs(),
            listen: self.listen.to_string(),
            ends_when_idle: self.ends_when_idle,
            locked: self.cache.is_locked(),
            settings: self.daemon_settings(),
            networks: self.network_list(),
            shares: self.share_list(),
            mounts: self.mounts.lock().iter().map(|mounted| self.mount_report(mounted)).collect(),
            cache: self.cache.stats(),
        }
    }

    fn daemon_settings(&self) -> DaemonSettings {
        let trackers: BTreeSet<String> = {
            let vault = self.vault.lock();
            let of_invites = vault.networks().iter().flat_map(|network| network.trackers());
            of_invites.chain(&self.trackers).cloned().collect()
        };
        DaemonSettings {
            cache_size: self.cache.stats().disk_limit,
            keyfile: self.keyfile.as_deref().map(PathText::from),
            linger_ms: self.settings.mount.linger.0.as_millis() as u64,
            peers: self.settings.node.peers.clone(),
            trackers: trackers.into_iter().collect(),
        }
    }

    /// Which network and which path of its view `path` means: one of the view, or an absolute one below a mount.
    pub(super) fn locate(
        &self,
        path: Option<&PathText>,
        network: Option<&str>,
    ) -> Result<(Arc<Joined>, Option<ValidPath>), ControlError> {
        let Some(path) = path else { return Ok((self.network(network)?, None)) };
        if network.is_none() && path.0.starts_with(b"/") {
            let absolute = path.to_path();
            let below = |absolute: &Path| {
                self.mounts.lock().iter().find_map(|mounted| {
                    let rest = absolute.strip_prefix(&mounted.mount.config().point).ok()?;
                    Some((Arc::clone(&mounted.joined), PathText::from(rest)))
                })
            };
            if let Some((joined, rest)) = below(&absolute).or_else(|| below(&resolved(&absolute))) {
                return Ok((joined, ValidPath::from_user(&rest.0).map_err(wrong)?));
            }
        }
        Ok((self.network(network)?, ValidPath::from_user(&path.0).map_err(wrong)?))
    }

    pub(super) fn find(
        &self,
        path: Option<&PathText>,
        network: Option<&str>,
    ) -> Result<(Arc<ViewTree>, TreeIndex), ControlError> {
        let (joined, valid) = self.locate(path, network)?;
        let view = joined.view();
        let nothing = || {
            let shown = path.map(PathText::shown).unwrap_or_default();
            let name = joined.membership.name();
            ControlError::new(ErrorCode::NotFound, format!("there is no '{shown}' in network '{name}' right now"))
        };
        let index = view.find(valid.as_ref()).ok_or_else(nothing)?;
        Ok((view, index))
    }

    pub(super) fn list(
        &self,
        path: Option<&PathText>,
        network: Option<&str>,
        recursive: bool,
    ) -> Result<Vec<EntryReport>, ControlError> {
        let (view, index) = self.find(path, network)?;
        if !view.is_folder(index) {
            return Ok(vec![self.entry(&view, index)]);
        }
        if recursive {
            return Ok(view.files(index).map(|(index, _)| self.entry(&view, index)).collect());
        }
        Ok(view.children(index).iter().map(|&child| self.entry(&view, child)).collect())
    }

    pub(super) fn stat(&self, path: &PathText, network: Option<&str>) -> Result<EntryReport, ControlError> {
        let (view, index) = self.find(Some(path), network)?;
        Ok(self.entry(&view, index))
    }

    pub(super) fn cached_percent(&self, content: ContentId) -> u8 {
        percent(content, self.cache.held(content).len())
    }

    fn entry(&self, view: &ViewTree, index: TreeIndex) -> EntryReport {
        let path = view.path(index).map(|path| PathText::from(path.as_bytes())).unwrap_or_default();
        match view.kind(index) {
            ViewKind::File(file) => {
                let facts = file.facts();
                EntryReport {
                    path,
                    kind: EntryKind::File,
                    size: facts.content.size,
                    mtime: facts.mtime,
                    executable: facts.executable,
                    root: Some(facts.content.root),
                    sources: file.sources().count(),
                    state: Some(file.state()),
                    cached_percent: self.cached_percent(facts.content),
                    files: 0,
                }
            }
            ViewKind::Folder(_) => {
                let (mut files, mut size, mut mtime) = (0, 0u64, Timestamp::default());
                for (_, file) in view.files(index) {
                    let facts = file.facts();
                    (files, size, mtime) = (files + 1, size.saturating_add(facts.content.size), mtime.max(facts.mtime));
                }
                EntryReport {
                    path,
                    kind: EntryKind::Folder,
                    size,
                    mtime,
                    executable: false,
                    root: None,
                    sources: 0,
                    state: None,
                    cached_percent: 0,
                    files,
                }
            }
        }
    }

    pub(super) fn peers(&self) -> Vec<PeerReport> {
        let mut peers = Vec::new();
        let shares: HashMap<_, _> =
            self.service.uploads().map(|uploads| uploads.shares()).unwrap_or_default().into_iter().collect();
        for joined in self.networks.all() {
            let offences: HashMap<_, _> =
                joined.swarm.quarantine().into_iter().map(|record| (record.node, record)).collect();
            let catalogs: HashMap<_, _> = joined.membership.catalogs().into_iter().collect();
            for link in joined.membership.links() {
                let stats = link.stats();
                let PeerAddr::Tcp(address) = link.remote();
                let (found, _) = joined.membership.acquaintance(&link.node());
                peers.push(PeerReport {
                    node: link.node(),
                    name: Some(link.name().to_owned()).filter(|name| !name.is_empty()),
                    network: joined.membership.name().to_owned(),
                    connected: true,
                    found: found.into_iter().map(str::to_owned).collect(),
                    address: address.to_string(),
                    outgoing: link.we_called(),
                    received: stats.received,
                    sent: stats.sent,
                    rtt_micros: stats.rtt_micros,
                    files: catalogs.get(&link.node()).copied().unwrap_or(0),
                    upload_share: shares.get(&link.node()).map_or(0, |share| (share * 1000.0).round() as u16),
                    offences: offences.get(&link.node()).cloned(),
                });
            }
            for node in joined.membership.live_without_session() {
                let (found, address) = joined.membership.acquaintance(&node);
                peers.push(PeerReport {
                    node,
                    // It says so in a session alone.
                    name: joined.membership.name_of(&node),
                    network: joined.membership.name().to_owned(),
                    connected: false,
                    found: found.into_iter().map(str::to_owned).collect(),
                    address: address.map(|address| address.to_string()).unwrap_or_default(),
                    outgoing: false,
                    received: 0,
                    sent: 0,
                    rtt_micros: 0,
                    files: catalogs.get(&node).copied().unwrap_or(0),
                    upload_share: 0,
                    offences: offences.get(&node).cloned(),
                });
            }
        }
        peers
    }

    pub(super) fn transfers(&self) -> Vec<NamedTransfer> {
        let mut transfers = Vec::new();
        for joined in self.networks.all() {
            let reports = joined.swarm.reports();
            let view = joined.view();
            let places = first_places(&view, reports.iter().map(|report| report.content));
            transfers.extend(reports.into_iter().map(|transfer| {
                let index = places.get(&transfer.content).copied();
                NamedTransfer {
                    network: joined.membership.name().to_owned(),
                    path: index.and_then(|index| view.path(index)).map(|path| path.as_bytes().into()),
                    root: transfer.content.root,
                    size: transfer.content.size,
                    transfer,
                }
            }));
        }
        transfers
    }

    /// Opens a file of the view, to be read in order.
    pub(super) fn open(&self, path: &PathText, network: Option<&str>) -> Result<Opened, ControlError> {
        let (joined, _) = self.locate(Some(path), network)?;
        let (view, index) = self.find(Some(path), network)?;
        let Some(file) = view.file(index) else {
            return Err(ControlError::invalid(format!("'{}' is a folder", path.shown())));
        };
        let content = file.content();
        Ok((content.size, self.reader(&joined, &MountRequest::default()).open(content)))
    }

    /// Changes the limits that are given (0: none), and tells those in force.
    pub(super) fn limits(
        &self,
        upload: Option<u64>,
        download: Option<u64>,
        upload_slots: Option<usize>,
    ) -> LimitsReport {
        if let Some(rate) = download {
            self.service.download.set((rate > 0).then_some(rate));
        }
        let mut limits = UploadLimits::default();
        if let Some(uploads) = self.service.uploads() {
            limits = uploads.limits();
            limits.rate = upload.map_or(limits.rate, |rate| (rate > 0).then_some(rate));
            limits.slots = upload_slots.map_or(limits.slots, |slots| (slots > 0).then_some(slots));
            uploads.limit(limits);
        }
        LimitsReport { upload: limits.rate, download: self.service.download.rate(), upload_slots: limits.slots }
    }
}

/// How much of a content so many chunks are.
pub(super) fn percent(content: ContentId, chunks: u64) -> u8 {
    match chunk_count(content.size) {
        0 => 100,
        all => (chunks.saturating_mul(100) / all).min(100) as u8,
    }
}

/// Where in a view each of `contents` is first; nothing of those that are not in it.
pub(super) fn first_places(
    view: &ViewTree,
    contents: impl Iterator<Item = ContentId>,
) -> HashMap<ContentId, TreeIndex> {
    let mut places: HashMap<ContentId, Option<TreeIndex>> = contents.map(|content| (content, None)).collect();
    if !places.is_empty() {
        for (index, file) in view.files(TREE_ROOT) {
            if let Some(place) = places.get_mut(&file.content()) {
                place.get_or_insert(index);
            }
        }
    }
    places.into_iter().filter_map(|(content, index)| Some((content, index?))).collect()
}
