//! Whether the file systems that `get` writes to have room for what is missing: better to hear so at once than after an hour.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::blocking;
use super::parts::part_of;
use crate::base::escape::path_for_terminal;
use crate::base::ids::ContentId;
use crate::control::{ControlError, ErrorCode};
use crate::settings::units::show_size;

/// A file system that does not say by then how full it is is written to all the same: if it is full, writing says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// What `st_blocks` counts, whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// What is to be written to one file system.
struct Load {
    /// A folder on it.
    folder: PathBuf,
    /// Bytes that are missing there.
    missing: u64,
}

/// Refuses what has no room, each target with its content. What else is written meanwhile nobody can know: this finds what can't
/// come to a good end as things are, and promises nothing.
pub(super) async fn refuse_too_large(wanted: Vec<(PathBuf, ContentId)>) -> Result<(), ControlError> {
    let checked = tokio::time::timeout(PATIENCE, blocking(move || check(&wanted))).await;
    checked.unwrap_or(Ok(()))
}

fn check(wanted: &[(PathBuf, ContentId)]) -> Result<(), ControlError> {
    let mut loads: BTreeMap<u64, Load> = BTreeMap::new();
    let mut folders: HashMap<&Path, Option<u64>> = HashMap::new();
    for (target, content) in wanted {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let device = *folders.entry(folder).or_insert_with(|| {
            let (at, device) = existing(folder)?;
            loads.entry(device).or_insert_with(|| Load { folder: at.into(), missing: 0 });
            Some(device)
        });
        if let Some(load) = device.and_then(|device| loads.get_mut(&device)) {
            load.missing = load.missing.saturating_add(missing(target, *content));
        }
    }
    for load in loads.values() {
        // What can't be asked is not refused.
        let Ok(space) = rustix::fs::statvfs(&load.folder) else { continue };
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if load.missing > free {
            let (folder, missing, free) = (path_for_terminal(&load.folder), show_size(load.missing), show_size(free));
            let what = format!("no room: {missing} are missing, and the file system of {folder} has {free} free");
            return Err(ControlError::new(ErrorCode::Failed, what));
        }
    }
    Ok(())
}

/// The folder, or the one above it that is there; and its device.
fn existing(folder: &Path) -> Option<(&Path, u64)> {
    let up = folder.ancestors().map(|up| if up.as_os_str().is_empty() { Path::new(".") } else { up });
    up.filter_map(|up| Some((up, std::fs::metadata(up).ok()?.dev()))).next()
}

/// Bytes that are still to be written for one file. What an earlier run left counts as it is; whether it is right shows later.
fn missing(target: &Path, content: ContentId) -> u64 {
    let there = |path: &Path| std::fs::symlink_metadata(path).ok().filter(|there| there.is_file());
    if there(target).is_some_and(|there| there.len() == content.size) {
        return 0;
    }
    let part = there(&part_of(target, content)).map_or(0, |part| part.blocks().saturating_mul(BLOCK));
    content.size.saturating_sub(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;

    #[test]
    fn what_has_no_room_is_refused_at_once_and_what_is_there_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let content = |size| ContentId { root: Root([1; 32]), size };
        let target = dir.path().join("not/there/yet");
        let check = |size| check(&[(target.clone(), content(size))]);
        check(4096).unwrap();
        let error = check(1 << 60).unwrap_err();
        assert!(error.message.starts_with("no room") && error.code == ErrorCode::Failed, "{error}");
        assert!(!target.parent().unwrap().exists());
        // Several that fit one by one do not fit together.
        let space = rustix::fs::statvfs(dir.path()).unwrap();
        let most = space.f_bavail * space.f_frsize / 8 * 5;
        super::check(&[(dir.path().join("a"), content(most))]).unwrap();
        let both = [(dir.path().join("a"), content(most)), (dir.path().join("b/b"), content(most))];
        assert!(super::check(&both).is_err());
        // One of them is there.
        std::fs::File::create(dir.path().join("a")).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(missing(&dir.path().join("a"), content(1 << 30)), 0);
        // A hole is not there; what was written is.
        let part = part_of(&target, content(1 << 20));
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::File::create(&part).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(missing(&target, content(1 << 20)), 1 << 20);
        std::fs::write(&part, vec![1; 1 << 20]).unwrap();
        std::fs::File::open(&part).unwrap().sync_all().unwrap();
        assert_eq!(missing(&target, content(1 << 20)), 0);
    }
}
