//! The thread that knows what this node offers: it scans, hashes, watches, and says what to publish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::hash::{Progress, Task, Unhashed, hash_all};
use super::index::{Change, Index, IndexError, Indexed};
use super::list::Share;
use super::scan::{IGNORE_FILE, Stat, published_path, scan};
use super::source::{Place, Sources};
use super::watch::{Dirty, Watch};
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NetworkId};
use crate::base::names::ValidPath;
use crate::base::tree::Manifest;
use crate::catalog::entry::Entry;
use crate::vault::sealer::Sealer;

/// A batch of hashing ends after this many bytes or files: what is done is published and saved.
const BATCH_BYTES: u64 = 1 << 30;
const BATCH_FILES: usize = 5000;
/// More changed paths than this, and the share is scanned whole.
const MAX_TARGETS: usize = 64;
/// A share that can't be watched, or is not there, is looked at this often.
const RESCAN_UNWATCHED: Duration = Duration::from_secs(30);
/// And one that is watched, for what the kernel does not tell (changes on a network file system).
const RESCAN_WATCHED: Duration = Duration::from_secs(30 * 60);
/// A file modified this shortly before it was hashed may change once more without a change of its times.
const RACY: Duration = Duration::from_millis(100);

/// What a share is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareState {
    /// Looking for files.
    Scanning,
    /// Hashing what is new.
    Hashing,
    /// Everything is published, and changes will be.
    Watching,
    /// Everything is published; changes are looked for now and then only, for this reason.
    Polling(String),
    /// Nothing of it is offered, for this reason.
    Failed(String),
}

/// One share, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// The share.
    pub share: Share,
    /// What it is doing.
    pub state: ShareState,
    /// Files that are published.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of what has to be hashed now: bytes that are done, and bytes in all.
    pub hashed: (u64, u64),
    /// Files and folders that can't be offered (unreadable, or a path that is too long).
    pub skipped: u64,
}

/// What the sharer needs.
pub struct Config {
    /// The index's file.
    pub index: PathBuf,
    /// For the index.
    pub sealer: Arc<Sealer>,
    /// Threads for hashing.
    pub threads: usize,
    /// Folders that are never shared.
    pub never: Vec<PathBuf>,
    /// See there.
    pub looked: Looked,
}

/// Hears, once, of each network of the first shares that all its shares have been looked at, and published.
pub type Looked = Box<dyn Fn(NetworkId) + Send>;

/// Hears what a network's catalog should now be: sorted by path, none twice.
pub type Publish = Box<dyn Fn(NetworkId, Vec<Entry>) + Send>;

#[derive(Default)]
struct Inbox {
    added: Vec<Share>,
    removed: Vec<u32>,
    dirty: Dirty,
    stop: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    progress: Progress,
    status: Mutex<BTreeMap<u32, ShareStatus>>,
    /// Bytes that had been hashed when the current batch of a share began, and that share.
    hashing: Mutex<Option<(u32, u64)>>,
}

/// See the module.
pub struct Sharer {
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sharer {
    /// Starts with `shares`. What the index knows of them is offered at once, and looked at again after that.
    pub fn start(config: Config, shares: Vec<Share>, publish: Publish) -> Result<Self, IndexError> {
        let index = Arc::new(Index::open(&config.index, Arc::clone(&config.sealer))?);
        // Seen in the status at once, as in `add`.
        let status = shares.iter().map(|share| (share.id, new_status(share))).collect();
        let offers_nothing = shares.is_empty();
        let inbox = Inbox { added: shares, ..Inbox::default() };
        let shared = Arc::new(Shared {
            inbox: Mutex::new(inbox),
            changed: Condvar::new(),
            progress: Progress::default(),
            status: Mutex::new(status),
            hashing: Mutex::default(),
        });
        let stale = {
            let shared = Arc::clone(&shared);
            // It may have been changed in a way that the kernel did not tell.
            Box::new(move |place: &Place| shared.touch(vec![place.dir.join(as_path(&place.path))]))
        };
        let sources = Arc::new(Sources::new(Arc::clone(&index), stale));
        // Its catalog is known to others from before, and what the index knows is taken in by the thread.
        sources.set_begun(offers_nothing);
        let known = index.all()?;
        let work = Work {
            shared: Arc::clone(&shared),
            sources: Arc::clone(&sources),
            index,
            config,
            publish,
            shares: BTreeMap::new(),
            remembered: HashMap::new(),
            watch: None,
        };
        let thread = std::thread::Builder::new().name("fg-share".into()).spawn(move || work.run(known))?;
        Ok(Self { shared, sources, thread: Mutex::new(Some(thread)) })
    }

    /// What can be served.
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// Begins to offer a share.
    pub fn add(&self, share: Share) {
        // Seen in the status at once, so that whoever asks next does not miss it.
        self.shared.status.lock().insert(share.id, new_status(&share));
        self.shared.inbox.lock().added.push(share);
        self.shared.changed.notify_all();
    }

    /// Withdraws a share.
    pub fn remove(&self, id: u32) {
        self.shared.inbox.lock().removed.push(id);
        self.shared.changed.notify_all();
    }

    /// All shares.
    pub fn status(&self) -> Vec<ShareStatus> {
        let hashing = *self.shared.hashing.lock();
        let hashed = self.shared.progress.bytes.load(Ordering::Relaxed);
        let mut all: Vec<ShareStatus> = self.shared.status.lock().values().cloned().collect();
        if let Some((id, before)) = hashing
            && let Some(status) = all.iter_mut().find(|status| status.share.id == id)
        {
            status.hashed.0 = (status.hashed.0 + hashed.saturating_sub(before)).min(status.hashed.1);
        }
        all
    }

    /// Ends the thread, also in the middle of hashing. Blocks until it has ended.
    pub fn stop(&self) {
        self.shared.inbox.lock().stop = true;
        self.shared.progress.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A thread that panicked has stopped too.
            let _ = thread.join();
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn as_path(path: &ValidPath) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn new_status(share: &Share) -> ShareStatus {
    let state = ShareState::Scanning;
    ShareStatus { share: share.clone(), state, files: 0, bytes: 0, hashed: (0, 0), skipped: 0 }
}

impl Shared {
    fn touch(&self, paths: Vec<PathBuf>) {
        let mut inbox = self.inbox.lock();
        for path in paths {
            inbox.dirty.touch(path, Instant::now());
        }
        drop(inbox);
        self.changed.notify_all();
    }

    fn set(&self, id: u32, change: impl FnOnce(&mut ShareStatus)) {
        if let Some(status) = self.status.lock().get_mut(&id) {
            change(status);
        }
    }
}

#[derive(Clone)]
struct Known {
    stat: Stat,
    content: ContentId,
    racy: bool,
}

struct Offered {
    share: Share,
    dir: Arc<PathBuf>,
    files: BTreeMap<ValidPath, Known>,
    watched: Result<(), String>,
    /// Device and inode of the folder that is watched: another one may take its place.
    folder: Option<(u64, u64)>,
    /// It could not be read when it was last looked at: nothing of it is offered.
    failed: bool,
    next_scan: Instant,
}

enum Next {
    Add(Share),
    Remove(u32),
    Rescan(Vec<u32>),
    Look(BTreeSet<PathBuf>),
    Stop,
}

struct Work {
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    index: Arc<Index>,
    config: Config,
    publish: Publish,
    shares: BTreeMap<u32, Offered>,
    /// What the index knows of shares that are not offered yet.
    remembered: HashMap<u32, Vec<Indexed>>,
    watch: Option<Watch>,
}

impl Work {
    fn run(mut self, known: Vec<Indexed>) {
        for indexed in known {
            self.remembered.entry(indexed.share).or_default().push(indexed);
        }
        let shared = Arc::clone(&self.shared);
        let note = move |paths: Option<Vec<PathBuf>>| match paths {
            Some(paths) => shared.touch(paths),
            None => {
                shared.inbox.lock().dirty.overflow();
                shared.changed.notify_all();
            }
        };
        match Watch::new(note) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => tracing::warn!(%error, "shares can't be watched: they are scanned now and then"),
        }
        // All that is remembered is offered before the first scan, which may take long.
        let first: Vec<Share> = std::mem::take(&mut self.shared.inbox.lock().added);
        let begun: Vec<(u32, NetworkId)> = first.iter().map(|share| (share.id, share.network)).collect();
        first.into_iter().for_each(|share| self.begin(share));
        self.sources.set_begun(true);
        let networks: BTreeSet<NetworkId> = begun.iter().map(|(_, network)| *network).collect();
        // Once, with all its shares: one after the other would withdraw those that are not begun yet.
        networks.into_iter().for_each(|network| self.publish(network));
        self.sweep();
        for (at, (id, network)) in begun.iter().enumerate() {
            self.look(*id, None);
            if begun[at + 1..].iter().all(|(_, other)| other != network) {
                (self.config.looked)(*network);
            }
        }
        loop {
            match self.next() {
                Next::Stop => return,
                Next::Add(share) => {
                    let (id, network) = (share.id, share.network);
                    self.begin(share);
                    self.publish(network);
                    self.look(id, None);
                }
                Next::Remove(id) => self.end(id),
                Next::Rescan(ids) => ids.into_iter().for_each(|id| self.look(id, None)),
                Next::Look(paths) => self.look_at(&paths),
            }
        }
    }

    /// Waits for something to do.
    fn next(&self) -> Next {
        let mut inbox = self.shared.inbox.lock();
        loop {
            let now = Instant::now();
            if inbox.stop {
                return Next::Stop;
            }
            if !inbox.added.is_empty() {
                return Next::Add(inbox.added.remove(0));
            }
            if let Some(id) = inbox.removed.pop() {
                return Next::Remove(id);
            }
            if inbox.dirty.take_overflow() {
                return Next::Rescan(self.shares.keys().copied().collect());
            }
            let settled = inbox.dirty.take_settled(now);
            if !settled.is_empty() {
                return Next::Look(settled);
            }
            let due: Vec<u32> =
                self.shares.iter().filter(|(_, offered)| offered.next_scan <= now).map(|(id, _)| *id).collect();
            if !due.is_empty() {
                return Next::Rescan(due);
            }
            let scans = self.shares.values().map(|offered| offered.next_scan);
            match inbox.dirty.next().into_iter().chain(scans).min() {
                Some(until) => {
                    self.shared.changed.wait_until(&mut inbox, until);
                }
                None => self.shared.changed.wait(&mut inbox),
            }
        }
    }

    /// Takes a share in, with what is remembered of it; publishes nothing yet.
    fn begin(&mut self, share: Share) {
        self.shared.status.lock().insert(share.id, new_status(&share));
        let dir = Arc::new(share.dir.clone());
        let mut files = BTreeMap::new();
        for indexed in self.remembered.remove(&share.id).unwrap_or_default() {
            let known = Known { stat: indexed.stat, content: indexed.content, racy: indexed.racy };
            self.offer(&share, &dir, &indexed.path, known.content);
            files.insert(indexed.path, known);
        }
        let id = share.id;
        let watched = Err("it is not watched yet".into());
        let next_scan = Instant::now() + RESCAN_WATCHED;
        self.shares.insert(id, Offered { share, dir, files, watched, folder: None, failed: false, next_scan });
        self.watch(id);
        if let Some(Offered { watched: Err(error), .. }) = self.shares.get(&id) {
            tracing::warn!(share = id, %error, "a share can't be watched: it is scanned now and then");
        }
    }

    /// Sees to it that the folder that is there now is watched. Before it is scanned, so that nothing falls between.
    fn watch(&mut self, id: u32) {
        let Some(offered) = self.shares.get_mut(&id) else { return };
        let folder = std::fs::metadata(&offered.share.dir).ok().map(|meta| (meta.dev(), meta.ino()));
        if offered.watched.is_ok() && !offered.failed && offered.folder == folder {
            return;
        }
        offered.folder = folder;
        offered.watched = match &mut self.watch {
            Some(watch) => {
                watch.remove(&offered.share.dir);
                watch.add(&offered.share.dir)
            }
            None => Err("the kernel's watches are not available".into()),
        };
    }

    fn end(&mut self, id: u32) {
        self.shared.status.lock().remove(&id);
        let Some(offered) = self.shares.remove(&id) else { return };
        if let Some(watch) = &mut self.watch {
            watch.remove(&offered.share.dir);
        }
        let changes: Vec<Change> = offered.files.keys().map(|path| Change::Remove(id, path.clone())).collect();
        for (path, known) in &offered.files {
            self.sources.remove(known.content, id, path);
        }
        self.save(&changes);
        self.publish(offered.share.network);
        self.sweep();
    }

    fn offer(&self, share: &Share, dir: &Arc<PathBuf>, path: &ValidPath, content: ContentId) {
        let place = Place { share: share.id, network: share.network, dir: Arc::clone(dir), path: path.clone() };
        self.sources.add(content, place);
    }

    fn save(&self, changes: &[Change]) {
        if !changes.is_empty()
            && let Err(error) = self.index.change(changes)
        {
            tracing::error!(%error, "the index can't be written: after a restart, files are hashed again");
        }
    }

    fn sweep(&self) {
        let in_use = self.shares.values().flat_map(|offered| offered.files.values().map(|known| known.content));
        if let Err(error) = self.index.sweep(in_use) {
            tracing::warn!(%error, "cleaning the index failed");
        }
    }

    /// Looks at paths that changed, share by share.
    fn look_at(&mut self, paths: &BTreeSet<PathBuf>) {
        let ids: Vec<u32> = self.shares.keys().copied().collect();
        for id in ids {
            let Some(offered) = self.shares.get(&id) else { continue };
            let below: Vec<PathBuf> = paths
                .iter()
                .filter_map(|path| path.strip_prefix(&offered.share.dir).ok().map(Path::to_path_buf))
                .collect();
            if below.is_empty() {
                continue;
            }
            let whole = below.len() > MAX_TARGETS
                || below
                    .iter()
                    .any(|path| path.as_os_str().is_empty() || path.file_name() == Some(IGNORE_FILE.as_ref()));
            self.look(id, if whole { None } else { Some(&below) });
        }
    }

    /// Looks at a share, or at parts of it; hashes what is new and publishes what changed.
    fn look(&mut self, id: u32, only: Option<&[PathBuf]>) {
        // What is back must be looked at whole: any of it may have changed meanwhile.
        let only = only.filter(|_| self.shares.get(&id).is_some_and(|offered| !offered.failed));
        if only.is_none() {
            self.watch(id);
        }
        let Some(offered) = self.shares.get_mut(&id) else { return };
        if only.is_none() {
            let every = if offered.watched.is_ok() { RESCAN_WATCHED } else { RESCAN_UNWATCHED };
            offered.next_scan = Instant::now() + every;
            self.shared.set(id, |status| status.state = ShareState::Scanning);
        }
        let share = offered.share.clone();
        let found = match scan(&share, only, &self.config.never) {
            Ok(found) => found,
            Err(error) => return self.fail(id, &error.to_string()),
        };
        let back = std::mem::take(&mut offered.failed);
        if back {
            tracing::info!(share = id, "a share can be read again");
        }
        let in_scope =
            |path: &ValidPath| only.is_none_or(|only| only.iter().any(|target| as_path(path).starts_with(target)));
        let mut changes = Vec::new();
        let gone: Vec<ValidPath> =
            offered.files.keys().filter(|path| in_scope(path) && !found.files.contains_key(path)).cloned().collect();
        for path in gone {
            if let Some(known) = offered.files.remove(&path) {
                self.sources.remove(known.content, id, &path);
                changes.push(Change::Remove(id, path));
            }
        }
        let mut tasks = Vec::new();
        for (path, stat) in found.files {
            match offered.files.get(&path) {
                Some(known) if known.stat == stat && !known.racy => {
                    // It may have been set aside while it was changing.
                    let (content, dir) = (known.content, Arc::clone(&offered.dir));
                    let place = Place { share: id, network: share.network, dir, path };
                    self.sources.add(content, place);
                }
                _ => tasks.push(Task { dir: share.dir.clone(), path, stat }),
            }
        }
        let removed = !changes.is_empty();
        self.save(&changes);
        if removed || back {
            self.publish(share.network);
        }
        if only.is_none() {
            self.shared.set(id, |status| status.skipped = found.skipped);
        }
        self.hash(id, &tasks);
        if let Some(offered) = self.shares.get(&id) {
            let state = match &offered.watched {
                Ok(()) => ShareState::Watching,
                Err(reason) => ShareState::Polling(reason.clone()),
            };
            self.shared.set(id, |status| (status.state, status.hashed) = (state, (0, 0)));
        }
    }

    fn hash(&mut self, id: u32, tasks: &[Task]) {
        let total = tasks.iter().fold(0u64, |sum, task| sum.saturating_add(task.stat.size));
        if !tasks.is_empty() {
            self.shared.set(id, |status| (status.state, status.hashed) = (ShareState::Hashing, (0, total)));
        }
        let mut rest = tasks;
        while !rest.is_empty() {
            let mut bytes = 0;
            let mut len = 0;
            while len < rest.len() && len < BATCH_FILES && (len == 0 || bytes + rest[len].stat.size <= BATCH_BYTES) {
                bytes += rest[len].stat.size;
                len += 1;
            }
            let (batch, after) = rest.split_at(len);
            rest = after;
            let before = self.shared.progress.bytes.load(Ordering::Relaxed);
            *self.shared.hashing.lock() = Some((id, before));
            let results = Mutex::new(Vec::with_capacity(len));
            let began = Timestamp::now();
            hash_all(batch, self.config.threads, &self.shared.progress, &|at, result| {
                results.lock().push((at, result))
            });
            *self.shared.hashing.lock() = None;
            self.shared.set(id, |status| status.hashed.0 += bytes);
            self.take_in(id, batch, results.into_inner(), began);
            if self.shared.progress.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn take_in(
        &mut self,
        id: u32,
        batch: &[Task],
        results: Vec<(usize, Result<Manifest, Unhashed>)>,
        began: Timestamp,
    ) {
        let Some(offered) = self.shares.get_mut(&id) else { return };
        let (share, dir) = (offered.share.clone(), Arc::clone(&offered.dir));
        let (mut changes, mut fresh, mut stale) = (Vec::new(), Vec::new(), Vec::new());
        for (at, result) in results {
            let Task { path, stat, .. } = &batch[at];
            if result == Err(Unhashed::Stopped) {
                continue;
            }
            let old = offered.files.remove(path);
            if old.is_some() && result.is_err() {
                changes.push(Change::Remove(id, path.clone()));
            }
            let new = result.as_ref().ok().map(Manifest::content);
            if let Some(old) = old.filter(|old| Some(old.content) != new) {
                stale.push((old.content, path));
            }
            match result {
                Ok(manifest) => {
                    let content = manifest.content();
                    let racy = std::time::SystemTime::from(stat.ctime) + RACY >= began.into();
                    offered.files.insert(path.clone(), Known { stat: *stat, content, racy });
                    let place = Place { share: id, network: share.network, dir: Arc::clone(&dir), path: path.clone() };
                    fresh.push((content, place));
                    let indexed = Indexed { share: id, path: path.clone(), stat: *stat, content, racy };
                    changes.push(Change::Put(indexed, manifest));
                }
                Err(Unhashed::Changed) => self.shared.touch(vec![share.dir.join(as_path(path))]),
                Err(Unhashed::Unreadable) => self.shared.set(id, |status| status.skipped += 1),
                Err(Unhashed::Stopped) => {}
            }
        }
        // In this order: who asks meanwhile finds what has not changed where it was, and of what is new the manifest too.
        self.save(&changes);
        fresh.into_iter().for_each(|(content, place)| self.sources.add(content, place));
        stale.into_iter().for_each(|(content, path)| self.sources.remove(content, id, path));
        self.publish(share.network);
    }

    /// A share that is not there offers nothing; what is known of it is kept for when it comes back.
    fn fail(&mut self, id: u32, reason: &str) {
        let Some(offered) = self.shares.get_mut(&id) else { return };
        if !std::mem::replace(&mut offered.failed, true) {
            tracing::warn!(share = id, reason, "a share can't be read");
        }
        for (path, known) in &offered.files {
            self.sources.remove(known.content, id, path);
        }
        offered.next_scan = Instant::now() + RESCAN_UNWATCHED;
        let network = offered.share.network;
        self.shared.set(id, |status| status.state = ShareState::Failed(reason.to_owned()));
        self.publish(network);
    }

    fn publish(&self, network: NetworkId) {
        let mut entries: BTreeMap<ValidPath, Entry> = BTreeMap::new();
        for offered in self.shares.values().filter(|offered| offered.share.network == network) {
            let (mut files, mut bytes) = (0, 0u64);
            for (path, known) in offered.files.iter().filter(|_| !offered.failed) {
                (files, bytes) = (files + 1, bytes.saturating_add(known.stat.size));
                let Some(path) = published_path(&offered.share, path) else { continue };
                let entry = Entry {
                    path: path.clone(),
                    content: known.content,
                    mtime: known.stat.mtime,
                    executable: known.stat.executable,
                };
                // Two shares may put something at the same path: the older share's stays.
                entries.entry(path).or_insert(entry);
            }
            self.shared.set(offered.share.id, |status| (status.files, status.bytes) = (files, bytes));
        }
        (self.publish)(network, entries.into_values().collect());
    }
}

#[cfg(test)]
#[path = "sharer_tests.rs"]
mod tests;
