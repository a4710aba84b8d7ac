//! What may be asked of a daemon.

use serde::{Deserialize, Serialize};

use super::secret::UnlockBy;
use super::text::PathText;

/// One question. In JSON: `{"op": "status"}`, `{"op": "share_add", "dir": "/srv/iso"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the daemon is.
    Status,
    /// How the tracker is: asked on a tracker's socket, which knows nothing else.
    Tracker,
    /// End the daemon: unmount everything and say goodbye.
    Stop,
    /// Make a network.
    NetworkCreate {
        /// What to call it.
        name: String,
        /// `HOST:PORT` of its trackers.
        #[serde(default)]
        trackers: Vec<String>,
    },
    /// Join a network.
    NetworkJoin {
        /// The invite.
        invite: String,
    },
    /// The networks of this home.
    NetworkList,
    /// The invite of a network.
    NetworkInvite {
        /// Which.
        name: String,
        /// For somebody who only runs a tracker.
        #[serde(default)]
        for_tracker: bool,
    },
    /// Leave a network.
    NetworkLeave {
        /// Which.
        name: String,
    },
    /// Offer a folder.
    ShareAdd {
        /// The folder, absolute.
        dir: PathText,
        /// Where in the view; at its root if missing.
        #[serde(default)]
        at: Option<PathText>,
        /// To whom; needed only where the home has several networks.
        #[serde(default)]
        network: Option<String>,
        /// Hidden files too.
        #[serde(default)]
        hidden: bool,
        /// Answer only once everything in it has been hashed and published; progress comes as events.
        #[serde(default)]
        wait: bool,
    },
    /// What is offered.
    ShareList,
    /// Offer a folder no more.
    ShareRemove {
        /// The folder, absolute.
        dir: PathText,
    },
    /// Mount a network's view.
    Mount {
        /// Which; needed only where the home has several.
        #[serde(default)]
        network: Option<String>,
        /// Where, absolute.
        dir: PathText,
        /// The mount's options.
        #[serde(default)]
        options: MountRequest,
    },
    /// Take a mount away.
    Umount {
        /// Where, absolute.
        dir: PathText,
        /// Detach it even if it is in use; reads that wait end with an error.
        #[serde(default)]
        force: bool,
    },
    /// The entries of a folder of the view.
    List {
        /// Which folder: a path in the view, or an absolute path below a mount. The root if missing.
        #[serde(default)]
        path: Option<PathText>,
        /// Which network; needed only where the home has several and the path is not below a mount.
        #[serde(default)]
        network: Option<String>,
        /// Everything below it as well.
        #[serde(default)]
        recursive: bool,
    },
    /// One entry of the view.
    Stat {
        /// As in [`Request::List`].
        path: PathText,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// Sessions with other nodes.
    Peers,
    /// What is being fetched, and by whom.
    Transfers,
    /// Fetch whole files and folders to this machine. Progress comes as events.
    Get {
        /// Which; as in [`Request::List`].
        paths: Vec<PathText>,
        /// To where: an absolute path of a folder that exists, or of the file to make.
        dest: PathText,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// A file's bytes, in order, over this connection: lines `{"data": N}`, each followed by N bytes, before the answer.
    Read {
        /// As in [`Request::List`].
        path: PathText,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// Wipe the keys of contents from memory: names stay listed, reads are refused.
    Lock,
    /// Bring them back.
    Unlock {
        /// How.
        by: UnlockBy,
    },
    /// Change how the vault is unlocked.
    Rekey {
        /// How it is unlocked now.
        old: UnlockBy,
        /// How it shall be.
        new: UnlockBy,
    },
    /// What is in the sealed cache.
    CacheList,
    /// Fetch files into the cache and never evict them. Progress comes as events.
    CachePin {
        /// Files and folders, as in [`Request::List`], or roots of what is cached.
        paths: Vec<PathText>,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// Let them be evicted again.
    CacheUnpin {
        /// As in [`Request::CachePin`].
        paths: Vec<PathText>,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// Let go of files now.
    CacheEvict {
        /// As in [`Request::CachePin`].
        paths: Vec<PathText>,
        /// As in [`Request::List`].
        #[serde(default)]
        network: Option<String>,
    },
    /// Let go of everything that is not pinned.
    CacheClear {
        /// Pinned files too; they are no longer pinned then.
        #[serde(default)]
        pinned: bool,
    },
    /// Read and open every sealed record. Progress comes as events.
    CacheVerify,
    /// Change how much the cache may take on disk, until the daemon ends.
    CacheResize {
        /// Bytes.
        bytes: u64,
    },
    /// How much of the links is used; what is given is changed, until the daemon ends.
    Limits {
        /// Bytes per second to all peers together; 0: no limit.
        #[serde(default)]
        upload: Option<u64>,
        /// Bytes per second from all peers together; 0: no limit.
        #[serde(default)]
        download: Option<u64>,
        /// Chunks that are served at once; 0: as the rate asks for.
        #[serde(default)]
        upload_slots: Option<usize>,
    },
}

/// Options of one mount; what is missing comes from the settings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountRequest {
    /// Other users may enter.
    pub allow_other: bool,
    /// Nothing in it may be executed.
    pub noexec: bool,
    /// Owner that files seem to have.
    pub uid: Option<u32>,
    /// Group that files seem to have.
    pub gid: Option<u32>,
    /// Permission bits that files and folders don't have.
    pub umask: Option<u16>,
    /// Reads wait for ever rather than fail.
    pub hard: bool,
    /// A soft read fails after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// How far to read ahead, in bytes.
    pub window: Option<u64>,
    /// The kernel's own read-ahead, in KiB.
    pub read_ahead_kb: Option<u32>,
    /// Extended attributes tell what is known of each file.
    pub xattr: bool,
}
