//! `get`: whole files to a folder of this machine, by sections, from whatever of this node's shares, its cache and its
//! peers has them. Written beside the target under another name, taken up again after an interruption, and renamed when
//! whole.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rustix::fs::SeekFrom;
use tokio::sync::Semaphore;

use super::errors::code_of;
use super::networks::Joined;
use super::{Node, blocking};
use crate::base::chunks::{CHUNK, GROUP_CHUNKS, chunk_count, chunk_len, chunk_start, group_count, group_of};
use crate::base::escape::for_terminal;
use crate::base::ids::ContentId;
use crate::base::ranges::Ranges;
use crate::base::tree::VerifiedChunk;
use crate::catalog::tree::{TreeIndex, ViewFile, ViewKind, ViewTree};
use crate::control::report::{Event, GetProgress, GotReport, SourceProgress};
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode, OnEvent};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);
/// Small files that are fetched at once: their cost is the round trip.
const SMALL_AT_ONCE: usize = 32;
/// Chunks of one file that are being written at once.
const WRITES: usize = 8;
/// Added to the name of what is not whole yet, before the first digits of its root.
const PART: &str = ".flashget-part-";

/// What to get, as it was asked for.
pub(super) struct Wanted {
    pub paths: Vec<PathText>,
    pub dest: PathBuf,
    pub network: Option<String>,
}

/// One file to get.
struct Job {
    joined: Arc<Joined>,
    path: PathText,
    file: ViewFile,
    target: PathBuf,
}

/// What is shown of a run.
#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
    /// Of what is done: bytes that were there before.
    had: AtomicU64,
}

impl Node {
    pub(super) async fn get(
        self: &Arc<Self>,
        wanted: Wanted,
        on_event: OnEvent<'_>,
    ) -> Result<GotReport, ControlError> {
        let began = Instant::now();
        let jobs = self.plan_get(wanted).await?;
        let tally = Arc::new(Tally {
            files: jobs.len() as u64,
            bytes: jobs.iter().fold(0, |sum: u64, job| sum.saturating_add(job.file.content.size)),
            ..Tally::default()
        });
        let (small, large): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.file.content.size <= CHUNK);
        let failures = Failures::default();
        for job in &large {
            failures.note(self.get_one(job, &tally, on_event).await)?;
        }
        let run = |job: Job| {
            let (tally, failures) = (&tally, &failures);
            async move { failures.note(self.get_one(&job, tally, on_event).await) }
        };
        stream::iter(small).map(Ok).try_for_each_concurrent(SMALL_AT_ONCE, run).await?;
        failures.into_result(tally.files)?;
        Ok(GotReport {
            files: tally.files,
            bytes: tally.bytes,
            had_bytes: tally.had.load(Ordering::Relaxed),
            millis: began.elapsed().as_millis() as u64,
        })
    }

    /// Which files go where.
    async fn plan_get(self: &Arc<Self>, wanted: Wanted) -> Result<Vec<Job>, ControlError> {
        let Wanted { paths, dest, network } = wanted;
        let several = paths.len() > 1;
        let mut found = Vec::new();
        for path in paths {
            let (joined, _) = self.locate(Some(&path), network.as_deref())?;
            let (view, index) = self.find(Some(&path), network.as_deref())?;
            found.push((joined, view, index));
        }
        blocking(move || {
            let into = dest.is_dir();
            if several && !into {
                let what = format!("{} is not a folder: several files need one", dest.display());
                return Err(ControlError::new(ErrorCode::NotFound, what));
            }
            let mut jobs = Vec::new();
            for (joined, view, index) in found {
                let name = view.entry(index).name.as_ref().map(|name| name.as_bytes().to_vec());
                let target = match name {
                    Some(name) if into => dest.join(std::ffi::OsString::from_vec(name)),
                    _ => dest.clone(),
                };
                add_jobs(&joined, &view, index, &target, &mut jobs);
            }
            without_doubles(jobs)
        })
        .await
    }

    async fn get_one(
        self: &Arc<Self>,
        job: &Job,
        tally: &Arc<Tally>,
        on_event: OnEvent<'_>,
    ) -> Result<(), ControlError> {
        let content = job.file.content;
        self.refuse_locked()?;
        let (node, target, root) = (Arc::clone(self), job.target.clone(), content);
        let opened = blocking(move || node.open_part(&target, root)).await?;
        let Some((part, file, had)) = opened else {
            tally.had.fetch_add(content.size, Ordering::Relaxed);
            tally.bytes_done.fetch_add(content.size, Ordering::Relaxed);
            tally.files_done.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let had_bytes: u64 = had.iter().map(|index| chunk_len(content.size, index) as u64).sum();
        tally.had.fetch_add(had_bytes, Ordering::Relaxed);
        tally.bytes_done.fetch_add(had_bytes, Ordering::Relaxed);
        let mut wanted = Ranges::of(0..chunk_count(content.size));
        wanted.subtract(&had);
        let own = self.sharer.sources().offers(job.joined.membership.id(), content);
        let local = if own { wanted.clone() } else { wanted.intersection(&self.cache.held(content)) };
        wanted.subtract(&local);
        let writer = Writer::new(file, &job.target, tally);
        let missed = self.take_local(job, &local, &writer).await?;
        wanted.union_with(&missed);
        if !wanted.is_empty() {
            self.take_from_peers(job, &wanted, &writer, tally, on_event).await?;
        }
        let file = writer.finish().await?;
        let (target, view_file) = (job.target.clone(), job.file.clone());
        blocking(move || put_in_place(&file, &part, &target, &view_file, umask())).await?;
        tally.files_done.fetch_add(1, Ordering::Relaxed);
        on_event(Event::Get(progress(job, tally, None)));
        Ok(())
    }

    /// What is here already: returns the chunks that turned out not to be.
    async fn take_local(self: &Arc<Self>, job: &Job, local: &Ranges, writer: &Writer) -> Result<Ranges, ControlError> {
        let (content, network) = (job.file.content, job.joined.membership.id());
        let mut missed = Ranges::new();
        let chunks: Vec<u64> = local.iter().collect();
        let load = |index: u64| {
            let node = Arc::clone(self);
            let load = move || {
                let own = node.sharer.sources().chunk(network, content, index).ok();
                own.or_else(|| node.cache.load(content, index))
            };
            async move { (index, tokio::task::spawn_blocking(load).await.ok().flatten()) }
        };
        let mut loads = stream::iter(chunks).map(load).buffer_unordered(WRITES);
        while let Some((index, chunk)) = loads.next().await {
            match chunk {
                Some(chunk) => writer.write(chunk).await?,
                None => missed.insert(index..index + 1),
            }
        }
        Ok(missed)
    }

    async fn take_from_peers(
        self: &Arc<Self>,
        job: &Job,
        wanted: &Ranges,
        writer: &Writer,
        tally: &Tally,
        on_event: OnEvent<'_>,
    ) -> Result<(), ControlError> {
        let transfer = job.joined.swarm.join(job.file.content);
        let mut download = transfer.download(wanted);
        let mut ticks = tokio::time::interval(PROGRESS);
        let patience = self.settings.mount.timeout.0;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                chunk = download.next() => match chunk {
                    None => return Ok(()),
                    Some(Ok(chunk)) => {
                        self.refuse_locked()?;
                        last = Instant::now();
                        writer.write(chunk).await?;
                    }
                    Some(Err(error)) if last.elapsed() >= patience => {
                        let name = job.path.shown();
                        let what = format!("{name}: {error}; run it again later, and it goes on from there");
                        return Err(ControlError::new(ErrorCode::Unreachable, what));
                    }
                    // A source may come back.
                    Some(Err(_)) => tokio::time::sleep(PROGRESS).await,
                },
                _ = ticks.tick() => {
                    if last.elapsed() >= patience {
                        let what = format!("{}: no peer delivered for {} s; run it again later, and it goes on from there",
                            job.path.shown(), patience.as_secs());
                        return Err(ControlError::new(ErrorCode::Unreachable, what));
                    }
                    on_event(Event::Get(progress(job, tally, Some(&transfer.report()))));
                }
            }
        }
    }

    /// Opens what there is of `target`, and says which chunks of it are right. `None`: it is there, whole.
    fn open_part(&self, target: &Path, content: ContentId) -> Result<Option<(PathBuf, File, Ranges)>, ControlError> {
        let wrong = |error: io::Error| write_error(target, &error);
        // Never through a link, and never in the place of a device or a FIFO.
        if let Ok(there) = std::fs::symlink_metadata(target) {
            if !there.is_file() && !there.is_dir() {
                let what = format!("{} is there, and not a regular file", target.display());
                return Err(ControlError::new(ErrorCode::Conflict, what));
            }
            if there.is_dir() {
                let what = format!("{} is a folder", target.display());
                return Err(ControlError::new(ErrorCode::Conflict, what));
            }
            if there.len() == content.size && is_whole(target, content) {
                return Ok(None);
            }
        }
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(wrong)?;
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
            let what = format!("{} is in the way: it is not a file that get began", part.display());
            return Err(ControlError::new(ErrorCode::Conflict, what));
        }
        // Two runs that write one file would undo each other's work.
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let what = format!("{} is being fetched already", target.display());
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

fn add_jobs(joined: &Arc<Joined>, view: &ViewTree, index: TreeIndex, target: &Path, jobs: &mut Vec<Job>) {
    match &view.entry(index).kind {
        ViewKind::File(file) => {
            let path = view.path(index).map(|path| PathText::from(path.as_bytes())).unwrap_or_default();
            jobs.push(Job { joined: Arc::clone(joined), path, file: file.clone(), target: target.into() });
        }
        ViewKind::Folder(children) => {
            for &child in children {
                if let Some(name) = &view.entry(child).name {
                    let name = std::ffi::OsStr::from_bytes(name.as_bytes());
                    add_jobs(joined, view, child, &target.join(name), jobs);
                }
            }
        }
    }
}

/// Refuses files that would overwrite each other; what is asked for twice comes once.
fn without_doubles(mut jobs: Vec<Job>) -> Result<Vec<Job>, ControlError> {
    let mut targets: HashMap<PathBuf, (ContentId, PathText)> = HashMap::new();
    let mut clash = None;
    jobs.retain(|job| match targets.entry(job.target.clone()) {
        Entry::Vacant(place) => {
            place.insert((job.file.content, job.path.clone()));
            true
        }
        Entry::Occupied(place) => {
            let (content, path) = place.get();
            if *content != job.file.content {
                let (target, path, other) = (job.target.display().to_string(), path.shown(), job.path.shown());
                clash
                    .get_or_insert(format!("{path} and {other} would both become {target}: get them into two folders"));
            }
            false
        }
    });
    clash.map_or(Ok(jobs), |what| Err(ControlError::new(ErrorCode::Conflict, what)))
}

/// True for a regular file that only this user can have made and that nobody else sees under another name.
fn is_own(meta: &std::fs::Metadata) -> bool {
    meta.is_file() && meta.nlink() == 1 && meta.uid() == rustix::process::geteuid().as_raw()
}

/// What could not be got: the first error of all, and how many.
#[derive(Default)]
struct Failures(Mutex<Option<(ControlError, u64)>>);

impl Failures {
    /// One file that does not come is no reason to leave the others; a disk that is full or a target that can't be
    /// written is.
    fn note(&self, result: Result<(), ControlError>) -> Result<(), ControlError> {
        match result {
            Err(error) if matches!(error.code, ErrorCode::Unreachable | ErrorCode::Conflict) => {
                let mut failures = self.0.lock();
                let count = failures.as_ref().map_or(0, |(_, count)| *count);
                let first = failures.take().map_or(error, |(first, _)| first);
                *failures = Some((first, count + 1));
                Ok(())
            }
            result => result,
        }
    }

    fn into_result(self, files: u64) -> Result<(), ControlError> {
        match self.0.into_inner() {
            None => Ok(()),
            Some((first, 1)) if files == 1 => Err(first),
            Some((first, count)) => {
                let what = format!("{count} of {files} files did not come, the others did. The first: {first}");
                Err(ControlError::new(first.code, what))
            }
        }
    }
}

/// Writes chunks to a part file, several at once, off tokio's workers.
struct Writer {
    file: Arc<File>,
    target: PathBuf,
    tally: Arc<Tally>,
    permits: Arc<Semaphore>,
    /// The first write that failed.
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Writer {
    fn new(file: File, target: &Path, tally: &Arc<Tally>) -> Self {
        Self {
            file: Arc::new(file),
            target: target.into(),
            tally: Arc::clone(tally),
            permits: Arc::new(Semaphore::new(WRITES)),
            failed: Arc::default(),
        }
    }

    fn check(&self) -> Result<(), ControlError> {
        self.failed.lock().take().map_or(Ok(()), |error| Err(write_error(&self.target, &error)))
    }

    /// Writes `chunk` soon. Waits while too many are being written, and tells what went wrong with an earlier one.
    async fn write(&self, chunk: VerifiedChunk) -> Result<(), ControlError> {
        // The semaphore is never closed: acquiring it can't fail.
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(ControlError::failed)?;
        self.check()?;
        let (file, tally, failed) = (Arc::clone(&self.file), Arc::clone(&self.tally), Arc::clone(&self.failed));
        tokio::task::spawn_blocking(move || {
            match file.write_all_at(chunk.bytes(), chunk_start(chunk.index())) {
                Ok(()) => drop(tally.bytes_done.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed)),
                Err(error) => drop(failed.lock().get_or_insert(error)),
            }
            drop((file, permit));
        });
        Ok(())
    }

    /// All is written.
    async fn finish(self) -> Result<Arc<File>, ControlError> {
        let all = self.permits.acquire_many(WRITES as u32).await;
        all.map(drop).map_err(ControlError::failed)?;
        self.check()?;
        Ok(self.file)
    }
}

fn write_error(target: &Path, error: &io::Error) -> ControlError {
    let what = format!("can't write {}: {error}", for_terminal(target.as_os_str().as_bytes()));
    ControlError::new(code_of(error), what)
}

/// `.NAME.flashget-part-0123456789ab`, the name cut to fit.
fn part_of(target: &Path, content: ContentId) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let tag = content.root.short(12);
    let room = crate::base::limits::MAX_NAME - 1 - PART.len() - tag.len();
    let mut part = b".".to_vec();
    part.extend_from_slice(&name[..name.len().min(room)]);
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
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    octal.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022)
}

fn put_in_place(file: &File, part: &Path, target: &Path, view_file: &ViewFile, umask: u32) -> Result<(), ControlError> {
    let wrong = |error: io::Error| write_error(target, &error);
    let mtime: std::time::SystemTime = view_file.mtime.into();
    file.set_modified(mtime).map_err(wrong)?;
    let mode = if view_file.executable { 0o777 } else { 0o666 };
    file.set_permissions(std::fs::Permissions::from_mode(mode & !umask)).map_err(wrong)?;
    // Under its own name a file is whole, also after a power cut. Small ones are not worth a wait each.
    if view_file.content.size > CHUNK {
        file.sync_all().map_err(wrong)?;
    }
    std::fs::rename(part, target).map_err(wrong)
}

fn progress(job: &Job, tally: &Tally, report: Option<&crate::swarm::report::TransferReport>) -> GetProgress {
    let source = |source: &crate::swarm::report::SourceReport| SourceProgress {
        name: source.name.clone(),
        bytes: source.bytes,
        rate: source.rate,
        section: source.section.len(),
    };
    GetProgress {
        path: job.path.clone(),
        files: tally.files,
        files_done: tally.files_done.load(Ordering::Relaxed),
        bytes: tally.bytes,
        bytes_done: tally.bytes_done.load(Ordering::Relaxed),
        sources: report.map(|report| report.sources.iter().map(source).collect()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::ids::Root;
    use crate::catalog::tree::FileState;

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
            let file = ViewFile { content, mtime, executable, sources: Vec::new(), state: FileState::Live };
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
