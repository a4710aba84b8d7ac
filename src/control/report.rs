//! What a daemon answers. Every type is JSON for programs; the command line turns it into tables for people.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::text::PathText;
use super::tracking::TrackerReport;
use crate::base::clock::Timestamp;
use crate::base::ids::{NodeId, Root};
use crate::cache::CacheStats;
use crate::catalog::tree::FileState;
use crate::members::lag::LagReport;
use crate::members::membership::TrackerState;
use crate::swarm::quarantine::QuarantineReport;
use crate::swarm::report::TransferReport;

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Done; there is nothing to tell.
    Done,
    /// To `status`.
    Status(Box<StatusReport>),
    /// A network's invite: one line, secret.
    Invite(String),
    /// The network that was made or joined.
    Network(NetworkReport),
    /// All networks.
    Networks(Vec<NetworkReport>),
    /// The share that was added.
    Share(ShareReport),
    /// All shares.
    Shares(Vec<ShareReport>),
    /// The mount that was made.
    Mount(MountReport),
    /// Entries of a folder, in the order of their names.
    Entries(Vec<EntryReport>),
    /// One entry.
    Entry(Box<EntryReport>),
    /// Sessions.
    Peers(Vec<PeerReport>),
    /// Transfers, the newest first.
    Transfers(Vec<NamedTransfer>),
    /// What was fetched to this machine.
    Got(GotReport),
    /// The limits in force.
    Limits(LimitsReport),
    /// What is in the sealed cache, what was used longest ago first.
    Cached(Vec<CachedReport>),
    /// What was pinned, unpinned or evicted.
    Kept(KeptReport),
    /// What a check of the cache found.
    Checked(CheckedReport),
    /// To `tracker`.
    Tracker(Box<TrackerReport>),
}

/// One content in the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedReport {
    /// Where it is in the view; missing if nobody shares it any more.
    pub path: Option<PathText>,
    /// In which network.
    pub network: Option<String>,
    /// Its identity.
    pub root: Root,
    /// Its size in bytes.
    pub size: u64,
    /// How much of it is there.
    pub cached_percent: u8,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// When it was last read or written.
    pub used: Timestamp,
    /// It is never evicted.
    pub pinned: bool,
}

/// What was done to the cache.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct KeptReport {
    /// Files concerned.
    pub files: u64,
    /// Bytes on disk that were freed, or that the files have.
    pub bytes: u64,
}

/// What a check of the cache found, or has found so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CheckedReport {
    /// Records that opened.
    pub records: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Records that did not; they are fetched again when they are needed.
    pub damaged: u64,
    /// Bytes on disk in all.
    pub disk_bytes: u64,
}

/// What is told while a request is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A share is being scanned and hashed.
    Share(ShareReport),
    /// Files are being fetched.
    Get(GetProgress),
    /// The cache is being checked.
    Check(CheckedReport),
}

/// How far `get` is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetProgress {
    /// The file that is being fetched.
    pub path: PathText,
    /// Files in all.
    pub files: u64,
    /// Files that are whole.
    pub files_done: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are written, or were there before.
    pub bytes_done: u64,
    /// Each peer's part in the current file.
    pub sources: Vec<SourceProgress>,
}

/// One peer's part in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceProgress {
    /// How it calls itself; escape before printing.
    pub name: String,
    /// Bytes that it brought.
    pub bytes: u64,
    /// Bytes per second.
    pub rate: u64,
    /// Chunks that it is to bring.
    pub section: u64,
}

/// What `get` did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GotReport {
    /// Files that are there now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them: bytes that had been there before.
    pub had_bytes: u64,
    /// How long it took.
    pub millis: u64,
}

/// Limits; what is missing has none.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LimitsReport {
    /// Bytes per second to all peers together.
    pub upload: Option<u64>,
    /// Bytes per second from all peers together.
    pub download: Option<u64>,
    /// Chunks that are served at once.
    pub upload_slots: Option<usize>,
}

/// `flashget status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// The daemon's version.
    pub version: String,
    /// This node.
    pub node: NodeId,
    /// How it calls itself.
    pub name: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_secs: u64,
    /// Where it accepts sessions, `ADDR:PORT`.
    pub listen: String,
    /// It ends by itself when it has neither mount nor share.
    pub ends_when_idle: bool,
    /// Contents can't be read until `unlock`.
    #[serde(default)]
    pub locked: bool,
    /// What mount options can only say when they start the daemon.
    #[serde(default)]
    pub settings: DaemonSettings,
    /// Its networks.
    pub networks: Vec<NetworkReport>,
    /// What it offers.
    pub shares: Vec<ShareReport>,
    /// Its mounts.
    pub mounts: Vec<MountReport>,
    /// The sealed cache.
    pub cache: CacheStats,
}

/// What a daemon runs with, as far as mount options name it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DaemonSettings {
    /// Bytes that the sealed cache may take on disk.
    pub cache_size: u64,
    /// What unlocked the vault, if it was a key file.
    pub keyfile: Option<PathText>,
    /// How long entries stay after their last source went, in milliseconds.
    pub linger_ms: u64,
    /// Peers that are tried even when no tracker names them.
    pub peers: Vec<SocketAddr>,
    /// Trackers that are asked, of whatever network.
    pub trackers: Vec<String>,
}

/// One network of this home.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkReport {
    /// What it is called here.
    pub name: String,
    /// Its id, which says nothing of its key.
    pub id: String,
    /// False where this home only has a tracker's key.
    pub member: bool,
    /// `HOST:PORT` of its trackers, and how they are where a daemon runs.
    pub trackers: Vec<TrackerState>,
    /// Peers that are live, as far as this node can tell.
    pub peers: usize,
    /// Those of them with which there is a session.
    pub connected: usize,
    /// How the live ones were found: by `tracker`, `gossip`, `lan`, `settings`, `memory` or `peer`; one peer may be in
    /// several.
    pub found: BTreeMap<String, usize>,
    /// Members that gossip knows to be alive; nothing where this node does not gossip, or not yet.
    pub gossip: Option<usize>,
    /// By how many seconds a member's clock is ahead of this node's (behind it, if negative), where that is too far for gossip.
    #[serde(default)]
    pub clock_apart: Option<i64>,
    /// How long changes of catalogs took to get here.
    pub lag: LagReport,
    /// Nodes whose catalogs are known, this one included.
    pub nodes: usize,
    /// Where all these catalogs stand, summed up: two nodes that tell the same know the same.
    pub catalog_sum: String,
    /// Epoch and version of this node's own catalog, if it has published anything.
    pub own_version: Option<(u64, u64)>,
    /// Files in the view.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One share.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShareReport {
    /// The folder.
    pub dir: PathText,
    /// Where in the view; its root if missing.
    pub at: Option<PathText>,
    /// To whom.
    pub network: String,
    /// Hidden files too.
    pub hidden: bool,
    /// `scanning`, `hashing`, `watching`, `polling`, `failed`, or `stopped` where no daemon runs.
    pub state: String,
    /// Why it polls or failed.
    pub reason: Option<String>,
    /// Files that are published.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of what has to be hashed now: bytes done.
    pub hashed: u64,
    /// And bytes in all.
    pub to_hash: u64,
    /// Files and folders that can't be offered.
    pub skipped: u64,
}

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountReport {
    /// Where.
    pub dir: PathText,
    /// Which network.
    pub network: String,
    /// The kernel's read-ahead in KiB, if known.
    pub read_ahead_kb: Option<u32>,
    /// Peers that were connected when this was told.
    pub peers: usize,
    /// Files in the view.
    pub files: u64,
    /// What a person should know: a tracker that does not answer, say.
    pub notes: Vec<String>,
}

/// A file or folder of the view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryReport {
    /// Its path in the view; the root's is empty.
    pub path: PathText,
    /// `file` or `folder`.
    pub kind: EntryKind,
    /// Bytes; of a folder, of everything below it.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Of a file: it may be executed.
    pub executable: bool,
    /// Of a file: its BLAKE3, what `b3sum` prints.
    pub root: Option<Root>,
    /// Of a file: nodes that share it now (how many, never who).
    pub sources: usize,
    /// Of a file: why it is shown.
    pub state: Option<FileState>,
    /// Of a file: parts per hundred that are in the sealed cache.
    pub cached_percent: u8,
    /// Of a folder: files below it.
    pub files: u64,
}

/// A file or a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// One session with a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Who.
    pub node: NodeId,
    /// How it calls itself, or did the last time; nothing if that was never heard, or it has no name.
    pub name: Option<String>,
    /// In which network.
    pub network: String,
    /// There is a session with it; if not, it is live all the same, and gets one when it is needed.
    pub connected: bool,
    /// How it was found: `tracker`, `gossip`, `lan`, `settings`, `memory`, `peer`.
    pub found: Vec<String>,
    /// Where the session goes to or comes from, `ADDR:PORT`; without one, where it would go.
    pub address: String,
    /// True if this node opened it.
    pub outgoing: bool,
    /// Bytes received in this session, encrypted.
    pub received: u64,
    /// Bytes sent in this session, encrypted.
    pub sent: u64,
    /// Round trip in microseconds; 0 if not measured yet.
    pub rtt_micros: u64,
    /// Files that it shares.
    pub files: usize,
    /// Its part of this node's upload while all who ask now go on asking, in thousandths; 0 if it asks for nothing.
    pub upload_share: u16,
    /// What it sent that an honest peer never sends, and what follows.
    pub offences: Option<QuarantineReport>,
}

/// A transfer, with the name of its file in the view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamedTransfer {
    /// In which network.
    pub network: String,
    /// A path of the file in the view, if it still has one.
    pub path: Option<PathText>,
    /// The file's BLAKE3.
    pub root: Root,
    /// Its bytes.
    pub size: u64,
    /// The transfer.
    #[serde(flatten)]
    pub transfer: TransferReport,
}
