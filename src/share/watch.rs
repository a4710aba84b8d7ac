//! What the kernel tells of changes in the shares, gathered until they have settled. Pure, but for the watcher itself.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};

/// A path that has rested for this long is looked at: a file that is being written is hashed once, not over and over,
/// and a change is published well within 2 s.
pub const SETTLE: Duration = Duration::from_millis(500);
/// More changed paths than this at once, and the whole share is looked at instead.
const MAX_DIRTY: usize = 4096;

/// Paths that changed, and when they last did.
#[derive(Debug, Default)]
pub struct Dirty {
    paths: HashMap<PathBuf, Instant>,
    overflow: bool,
}

impl Dirty {
    /// A path changed.
    pub fn touch(&mut self, path: PathBuf, now: Instant) {
        if self.overflow {
            return;
        }
        self.paths.insert(path, now);
        if self.paths.len() > MAX_DIRTY {
            self.overflow();
        }
    }

    /// Changes were missed: everything may have changed.
    pub fn overflow(&mut self) {
        self.paths.clear();
        self.overflow = true;
    }

    /// True once after an overflow.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }

    /// Takes the paths that have settled.
    pub fn take_settled(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        let settled = |at: &Instant| now.saturating_duration_since(*at) >= SETTLE;
        self.paths.extract_if(|_, at| settled(at)).map(|(path, _)| path).collect()
    }

    /// When the next path will have settled.
    pub fn next(&self) -> Option<Instant> {
        self.paths.values().min().map(|at| *at + SETTLE)
    }
}

/// What an event says.
enum Said {
    Paths(Vec<PathBuf>),
    Missed,
    Nothing,
}

fn said(event: notify::Result<Event>) -> Said {
    match event {
        Ok(event) if event.need_rescan() => Said::Missed,
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Said::Paths(event.paths),
            // Our own hashing opens and reads.
            EventKind::Access(_) => Said::Nothing,
            _ => Said::Paths(event.paths),
        },
        Err(_) => Said::Missed,
    }
}

/// Watches folders, and all below them. Its callbacks only take notes.
pub struct Watch {
    watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// `note` is called, on the watcher's own thread, with paths that changed, or with `None` if changes were missed.
    pub fn new(note: impl Fn(Option<Vec<PathBuf>>) + Send + 'static) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event| match said(event) {
            Said::Paths(paths) => note(Some(paths)),
            Said::Missed => note(None),
            Said::Nothing => {}
        })?;
        Ok(Self { watcher })
    }

    /// Begins to watch a share. What went wrong is said without naming a folder: it goes to the log.
    pub fn add(&mut self, dir: &Path) -> Result<(), String> {
        self.watcher.watch(dir, RecursiveMode::Recursive).map_err(|error| nameless(&error.kind))
    }

    /// Stops watching it.
    pub fn remove(&mut self, dir: &Path) {
        // A folder that is gone is not watched any more.
        let _ = self.watcher.unwatch(dir);
    }
}

/// What notify's own text says, but for the paths that it adds.
fn nameless(kind: &notify::ErrorKind) -> String {
    match kind {
        notify::ErrorKind::Io(error) => error.to_string(),
        notify::ErrorKind::PathNotFound => "the folder is not there".into(),
        notify::ErrorKind::MaxFilesWatch => {
            "the kernel's watches are used up: raise fs.inotify.max_user_watches".into()
        }
        notify::ErrorKind::Generic(_) | notify::ErrorKind::WatchNotFound | notify::ErrorKind::InvalidConfig(_) => {
            "the watcher failed".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_folder_is_not_watched_is_said_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(|_| {}).unwrap();
        let said = watch.add(&dir.path().join("secret")).unwrap_err();
        assert!(!said.is_empty() && !said.contains("secret") && !said.contains('/'), "{said}");
        assert!(!nameless(&notify::ErrorKind::Generic("/secret".into())).contains("secret"));
    }

    #[test]
    fn what_is_still_being_written_waits_and_the_rest_does_not() {
        let start = Instant::now();
        let mut dirty = Dirty::default();
        dirty.touch("a".into(), start);
        for i in 0..10 {
            dirty.touch("b".into(), start + SETTLE * i / 5);
        }
        let settled = dirty.take_settled(start + SETTLE);
        assert_eq!(settled.into_iter().collect::<Vec<_>>(), [PathBuf::from("a")]);
        assert_eq!(dirty.next(), Some(start + SETTLE * 9 / 5 + SETTLE));
        (0..=MAX_DIRTY).for_each(|i| dirty.touch(i.to_string().into(), start));
        assert!(dirty.take_overflow() && !dirty.take_overflow() && dirty.next().is_none());
    }
}
