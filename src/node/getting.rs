//! `get`: whole files to a folder of this machine, by sections, from whatever of this node's shares, its cache and its
//! peers has them. Written beside the target under another name, taken up again after an interruption, and renamed when
//! whole.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use super::errors::Failures;
use super::networks::Joined;
use super::parts::{Writer, part_of, put_in_place, umask};
use super::space::refuse_too_large;
use super::{Node, blocking};
use crate::base::chunks::{chunk_count, chunk_len};
use crate::base::escape::path_for_terminal;
use crate::base::ids::ContentId;
use crate::base::ranges::Ranges;
use crate::catalog::tree::{FileFacts, TREE_ROOT, TreeIndex, ViewKind, ViewTree};
use crate::control::report::{Event, GetProgress, GotReport, SourceProgress};
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode, OnEvent};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(200);
/// A file that nobody delivers may be given up after this at the earliest, however long others have been waited for.
const MOMENT: Duration = Duration::from_secs(2);
/// Small files that are fetched at once: their cost is the round trip.
const SMALL_AT_ONCE: usize = 32;
/// Chunks of one file that are loaded from this machine's disk at once.
const LOADS: usize = 8;

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
    file: FileFacts,
    target: PathBuf,
}

/// What the files of a run have in common.
struct Tally {
    umask: u32,
    files: u64,
    bytes: u64,
    files_done: AtomicU64,
    bytes_done: Arc<AtomicU64>,
    /// Of what is done: bytes that were there before.
    had: AtomicU64,
    /// When a peer last brought something.
    moved: Mutex<Instant>,
}

impl Node {
    pub(super) async fn get(
        self: &Arc<Self>,
        wanted: Wanted,
        on_event: OnEvent<'_>,
    ) -> Result<GotReport, ControlError> {
        let began = Instant::now();
        let jobs = self.plan_get(wanted).await?;
        refuse_too_large(jobs.iter().map(|job| (job.target.clone(), job.file.content)).collect()).await?;
        let tally = Arc::new(Tally {
            umask: blocking(|| Ok(umask())).await?,
            files: jobs.len() as u64,
            bytes: jobs.iter().fold(0, |sum: u64, job| sum.saturating_add(job.file.content.size)),
            files_done: AtomicU64::new(0),
            bytes_done: Arc::default(),
            had: AtomicU64::new(0),
            moved: Mutex::new(began),
        });
        let (small, large): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.file.content.is_small());
        let failures = Failures::default();
        for job in &large {
            note(&failures, self.get_one(job, &tally, on_event).await)?;
        }
        let run = |job: Job| {
            let (tally, failures) = (&tally, &failures);
            async move { note(failures, self.get_one(&job, tally, on_event).await) }
        };
        stream::iter(small).map(Ok).try_for_each_concurrent(SMALL_AT_ONCE, run).await?;
        all_came(&failures, tally.files)?;
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
                let what = format!("{} is not a folder: several files need one", path_for_terminal(&dest));
                return Err(ControlError::new(ErrorCode::NotFound, what));
            }
            let mut jobs = Vec::new();
            for (joined, view, index) in found {
                let name = (index != TREE_ROOT).then(|| view.name(index).to_vec());
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
        let writer = Writer::new(file, &job.target, &tally.bytes_done);
        let missed = self.take_local(job, &local, &writer).await?;
        wanted.union_with(&missed);
        if !wanted.is_empty() {
            self.take_from_peers(job, &wanted, &writer, tally, on_event).await?;
        }
        let file = writer.finish().await?;
        let (target, view_file, umask) = (job.target.clone(), job.file, tally.umask);
        blocking(move || put_in_place(&file, &part, &target, &view_file, umask)).await?;
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
        let mut loads = stream::iter(chunks).map(load).buffer_unordered(LOADS);
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
        let began = Instant::now();
        // One patience for all files: where nobody is there, each has a moment to begin with.
        let given_up = || tally.moved.lock().elapsed() >= patience && began.elapsed() >= MOMENT;
        loop {
            tokio::select! {
                chunk = download.next() => match chunk {
                    None => return Ok(()),
                    Some(Ok(chunk)) => {
                        self.refuse_locked()?;
                        *tally.moved.lock() = Instant::now();
                        writer.write(chunk).await?;
                    }
                    Some(Err(error)) if given_up() => {
                        let name = job.path.shown();
                        let what = format!("{name}: {error}; run it again later, and it goes on from there");
                        return Err(ControlError::new(ErrorCode::Unreachable, what));
                    }
                    // A source may come back.
                    Some(Err(_)) => tokio::time::sleep(PROGRESS).await,
                },
                _ = ticks.tick() => {
                    if given_up() {
                        let what = format!("{}: no peer delivered for {} s; run it again later, and it goes on from there",
                            job.path.shown(), patience.as_secs());
                        return Err(ControlError::new(ErrorCode::Unreachable, what));
                    }
                    on_event(Event::Get(progress(job, tally, Some(&transfer.report()))));
                }
            }
        }
    }
}

fn add_jobs(joined: &Arc<Joined>, view: &ViewTree, index: TreeIndex, target: &Path, jobs: &mut Vec<Job>) {
    match view.kind(index) {
        ViewKind::File(file) => {
            let path = view.path(index).map(|path| PathText::from(path.as_bytes())).unwrap_or_default();
            jobs.push(Job { joined: Arc::clone(joined), path, file: file.facts(), target: target.into() });
        }
        ViewKind::Folder(children) => {
            for &child in children {
                let name = std::ffi::OsStr::from_bytes(view.name(child));
                add_jobs(joined, view, child, &target.join(name), jobs);
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
                let target = path_for_terminal(&job.target);
                let (path, other) = (path.shown(), job.path.shown());
                clash
                    .get_or_insert(format!("{path} and {other} would both become {target}: get them into two folders"));
            }
            false
        }
    });
    // What is shared may be called as the part file of something else.
    let parts: HashSet<PathBuf> = jobs.iter().map(|job| part_of(&job.target, job.file.content)).collect();
    if let Some(job) = jobs.iter().find(|job| parts.contains(&job.target)) {
        let path = job.path.shown();
        clash.get_or_insert(format!("{path} is called as the part file of another one: get them one by one"));
    }
    clash.map_or(Ok(jobs), |what| Err(ControlError::new(ErrorCode::Conflict, what)))
}

/// One file that does not come is no reason to leave the others; a disk that is full or a target that can't be written is.
fn note(failures: &Failures, result: Result<(), ControlError>) -> Result<(), ControlError> {
    match result {
        Err(error) if matches!(error.code, ErrorCode::Unreachable | ErrorCode::Conflict | ErrorCode::Denied) => {
            failures.add(error);
            Ok(())
        }
        result => result,
    }
}

fn all_came(failures: &Failures, files: u64) -> Result<(), ControlError> {
    match failures.all() {
        None => Ok(()),
        Some((first, 1)) if files == 1 => Err(first),
        Some((first, count)) => {
            let what = format!("{count} of {files} files did not come, the others did. The first: {first}");
            Err(ControlError::new(first.code, what))
        }
    }
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
