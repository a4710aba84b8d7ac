//! Part files: what `get` writes beside a target, until it is whole and gets its name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use tokio::sync::Semaphore;

use super::Node;
use super::errors::code_of;
use crate::base::chunks::{CHUNK, GROUP_CHUNKS, chunk_len, chunk_start, group_count, group_of};
use crate::base::escape::path_for_terminal;
use crate::base::ids::ContentId;
use crate::base::ranges::Ranges;
use crate::base::tree::VerifiedChunk;
use crate::catalog::tree::FileFacts;
use crate::control::{ControlError, ErrorCode};

/// Chunks of one file that are being written at once.
const WRITES: usize = 8;
/// Added to the name of what is not whole yet, before the first digits of its root.
const PART: &str = ".flashget-part-";

impl Node {
    /// Opens what there is of `target`, and says which chunks of it are right. `None`: it is there, whole.
    pub(super) fn open_part(
        &self,
        target: &Path,
        content: ContentId,
    ) -> Result<Option<(PathBuf, File, Ranges)>, ControlError> {
        let wrong = |error: io::Error| write_error(target, &error);
        // Never through a link, and never in the place of a device or a FIFO.
        if let Ok(there) = std::fs::symlink_metadata(target) {
            if !there.is_file() && !there.is_dir() {
                let what = format!("{} is there, and not a regular file", path_for_terminal(target));
                return Err(ControlError::new(ErrorCode::Conflict, what));
            }
            if there.is_dir() {
                let what = format!("{} is a folder", path_for_terminal(target));
                return Err(ControlError::new(ErrorCode::Conflict, what));
            }
            if there.len() == content.size && is_whole(target, content) {
                return Ok(None);
            }
        }
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    ControlError::new(ErrorCode::Conflict, format!("{} is not a folder", path_for_terminal(folder)))
                }
                _ => wrong(error),
            })?;
        }
        let part = part_of(target, content);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&part);
        let file = file.map_err(wrong)?;
        if !is_own(&file.metadata().map_err(wrong)?) {
            let what = format!("{} is in the way: it is not a file that get began", path_for_terminal(&part));
            return Err(ControlError::new(ErrorCode::Conflict, what));
        }
        // Two runs that write one file would undo each other's work.
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let what = format!("{} is being fetched already", path_for_terminal(target));
            ControlError::new(ErrorCode::Conflict, what)
        })?;
        let had = self.verified_chunks(&file, content);
        file.set_len(content.size).map_err(wrong)?;
        Ok(Some((part, file, had)))
    }

    /// The chunks of `file` that are what they should be. Only what the cache knows the proof of can be told.
    fn verified_chunks(&self, file: &File, content: ContentId) -> Ranges {
        let mut right = Ranges::new();
        let mut at = 0;
        let mut buffer = vec![0; CHUNK as usize];
        // ENXIO: no data from here on.
        while let Ok(from) = rustix::fs::seek(file, SeekFrom::Data(at)) {
            let Ok(to) = rustix::fs::seek(file, SeekFrom::Hole(from)) else { break };
            for index in from / CHUNK..to.min(content.size).div_ceil(CHUNK) {
                let len = chunk_len(content.size, index);
                if file.read_exact_at(&mut buffer[..len], chunk_start(index)).is_ok()
                    && self.is_chunk(content, index, &buffer[..len])
                {
                    right.insert_one(index);
                }
            }
            at = to;
        }
        right
    }

    fn is_chunk(&self, content: ContentId, index: u64, bytes: &[u8]) -> bool {
        let group = group_of(index);
        debug_assert!(group < group_count(content.size) && index / GROUP_CHUNKS == group);
        let proof = self.cache.load_proof(content, group..group + 1);
        let expected = proof.and_then(|proof| proof.chunk(index));
        expected.is_some_and(|expected| crate::base::tree::chunk_hash(content.size, index, bytes) == expected)
    }
}

/// True for a regular file that only this user can have made and that nobody else sees under another name.
fn is_own(meta: &std::fs::Metadata) -> bool {
    meta.is_file() && meta.nlink() == 1 && meta.uid() == rustix::process::geteuid().as_raw()
}

/// Writes chunks to a part file, several at once, off tokio's workers.
pub(super) struct Writer {
    file: Arc<File>,
    target: PathBuf,
    /// Bytes that are written, of this file and others.
    done: Arc<AtomicU64>,
    permits: Arc<Semaphore>,
    /// The first write that failed.
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Writer {
    /// Writes to `file`, which will be `target`, and counts in `done`.
    pub fn new(file: File, target: &Path, done: &Arc<AtomicU64>) -> Self {
        Self {
            file: Arc::new(file),
            target: target.into(),
            done: Arc::clone(done),
            permits: Arc::new(Semaphore::new(WRITES)),
            failed: Arc::default(),
        }
    }

    fn check(&self) -> Result<(), ControlError> {
        self.failed.lock().take().map_or(Ok(()), |error| Err(write_error(&self.target, &error)))
    }

    /// Writes `chunk` soon. Waits while too many are being written, and tells what went wrong with an earlier one.
    pub async fn write(&self, chunk: VerifiedChunk) -> Result<(), ControlError> {
        // The semaphore is never closed: acquiring it can't fail.
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(ControlError::failed)?;
        self.check()?;
        let (file, done, failed) = (Arc::clone(&self.file), Arc::clone(&self.done), Arc::clone(&self.failed));
        tokio::task::spawn_blocking(move || {
            match file.write_all_at(chunk.bytes(), chunk_start(chunk.index())) {
                Ok(()) => drop(done.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed)),
                Err(error) => drop(failed.lock().get_or_insert(error)),
            }
            drop((file, permit));
        });
        Ok(())
    }

    /// All is written.
    pub async fn finish(self) -> Result<Arc<File>, ControlError> {
        let all = self.permits.acquire_many(WRITES as u32).await;
        all.map(drop).map_err(ControlError::failed)?;
        self.check()?;
        Ok(self.file)
    }
}

fn write_error(target: &Path, error: &io::Error) -> ControlError {
    let what = format!("can't write {}: {error}", path_for_terminal(target));
    ControlError::new(code_of(error), what)
}

/// `.NAME.flashget-part-0123456789ab`; a name that is too long is cut, and ends with digits of its hash.
pub(super) fn part_of(target: &Path, content: ContentId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let tag = content.root.short(12);
    let room = crate::base::limits::MAX_NAME - 1 - PART.len() - tag.len();
    let mut part = b".".to_vec();
    if name.len() <= room {
        part.extend_from_slice(name);
    } else {
        // Others may begin as it does.
        let whole = &blake3::hash(name).to_hex()[..12];
        part.extend_from_slice(&name[..room - whole.len()]);
        part.extend_from_slice(whole.as_bytes());
    }
    part.extend_from_slice(PART.as_bytes());
    part.extend_from_slice(tag.as_bytes());
    target.with_file_name(std::ffi::OsString::from_vec(part))
}

fn is_whole(target: &Path, content: ContentId) -> bool {
    let mut hasher = blake3::Hasher::new();
    File::open(target).is_ok_and(|file| hasher.update_reader(file).is_ok())
        && *hasher.finalize().as_bytes() == content.root.0
}

/// The bits that this process takes from the mode of every file that it makes. umask(2) can tell them only by setting
/// others, for all threads.
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    octal.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
}

/// Gives a part file that is whole its times, its mode and its name.
pub(super) fn put_in_place(
    file: &File,
    part: &Path,
    target: &Path,
    view_file: &FileFacts,
    umask: u32,
) -> Result<(), ControlError> {
    let wrong = |error: io::Error| write_error(target, &error);
    let mtime: std::time::SystemTime = view_file.mtime.into();
    file.set_modified(mtime).map_err(wrong)?;
    let mode = if view_file.executable { 0o777 } else { 0o666 };
    file.set_permissions(std::fs::Permissions::from_mode(mode & !umask)).map_err(wrong)?;
    // Under its own name a file is whole, also after a power cut. Small ones are not worth a wait each.
    if view_file.content.size > CHUNK {
        file.sync_all().map_err(wrong)?;
    }
    // Whoever put another file there, by that name a peer's file may have come, must not have it passed off as this one.
    let (written, there) = (file.metadata().map_err(wrong)?, std::fs::symlink_metadata(part).map_err(wrong)?);
    if (written.dev(), written.ino()) != (there.dev(), there.ino()) {
        let what = format!("{} was replaced while it was being written", path_for_terminal(part));
        return Err(ControlError::new(ErrorCode::Conflict, what));
    }
    std::fs::rename(part, target).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::ids::Root;

    #[test]
    fn what_is_fetched_has_no_more_permissions_than_the_umask_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let (part, target) = (dir.path().join("part"), dir.path().join("target"));
        let content = ContentId { root: Root([1; 32]), size: 1 };
        for (executable, umask, mode) in [
            (false, 0o022, 0o644),
            (true, 0o022, 0o755),
            (false, 0o077, 0o600),
            (true, 0o077, 0o700),
            (true, 0o002, 0o775),
        ] {
            let mtime = Timestamp { secs: 1_000_000, nanos: 0 };
            let file = FileFacts { content, mtime, executable };
            std::fs::write(&part, "x").unwrap();
            let open = File::options().write(true).open(&part).unwrap();
            put_in_place(&open, &part, &target, &file, umask).unwrap();
            let meta = std::fs::metadata(&target).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode);
            assert_eq!(meta.modified().unwrap(), mtime.into());
        }
    }

    #[test]
    fn the_umask_is_what_new_files_lack() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new");
        OpenOptions::new().write(true).create_new(true).mode(0o666).open(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o666 & !umask());
    }
}
