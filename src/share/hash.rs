//! Hashing files on all cores, with bounded memory: blocks are read by `pread` into one buffer per thread, a large file
//! is divided among the threads. Never `mmap`: a truncated file would be a SIGBUS.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::scan::Stat;
use super::source::open_beneath;
use crate::base::chunks::{CHUNK, GROUP_CHUNKS, chunk_count, chunk_len, chunk_start};
use crate::base::ids::SubtreeHash;
use crate::base::names::ValidPath;
use crate::base::tree::{Manifest, chunk_hash};

/// A file to hash.
#[derive(Clone, Debug)]
pub struct Task {
    /// Below which folder.
    pub dir: std::path::PathBuf,
    /// Its path below that.
    pub path: ValidPath,
    /// What it must still be when it has been read.
    pub stat: Stat,
}

/// Why a file has no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unhashed {
    /// It changed meanwhile: look at it again.
    Changed,
    /// It can't be read.
    Unreadable,
    /// Hashing was stopped.
    Stopped,
}

/// How far hashing is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes hashed since the start.
    pub bytes: AtomicU64,
    /// Set to stop hashing.
    pub stop: AtomicBool,
}

struct Partly {
    hashes: Vec<SubtreeHash>,
    failed: Option<Unhashed>,
}

/// Hashes `tasks` with `threads` threads. `done` hears of each file, on one of them, as soon as it is ready.
pub fn hash_all(
    tasks: &[Task],
    threads: usize,
    progress: &Progress,
    done: &(dyn Fn(usize, Result<Manifest, Unhashed>) + Sync),
) {
    // Units of at most one group, so that the last large file keeps every core busy.
    let mut units: Vec<(usize, std::ops::Range<u64>)> = Vec::new();
    let mut partly = Vec::with_capacity(tasks.len());
    for (at, task) in tasks.iter().enumerate() {
        let chunks = chunk_count(task.stat.size);
        let pieces = chunks.div_ceil(GROUP_CHUNKS).max(1);
        units.extend((0..pieces).map(|piece| (at, piece * GROUP_CHUNKS..((piece + 1) * GROUP_CHUNKS).min(chunks))));
        let hashes = vec![SubtreeHash([0; 32]); chunks as usize];
        partly.push((Mutex::new(Partly { hashes, failed: None }), AtomicUsize::new(pieces as usize)));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; CHUNK as usize];
        while let Some((at, chunks)) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (task, (state, left)) = (&tasks[*at], &partly[*at]);
            if state.lock().failed.is_none()
                && let Err(error) = hash_part(task, chunks.clone(), state, &mut buffer, progress)
            {
                state.lock().failed = Some(error);
            }
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let mut state = state.lock();
                let hashes = std::mem::take(&mut state.hashes);
                let manifest = match state.failed {
                    Some(error) => Err(error),
                    None => Manifest::new(task.stat.size, hashes).map_err(|_| Unhashed::Changed),
                };
                drop(state);
                done(*at, manifest);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(units.len()).max(1) {
            scope.spawn(work);
        }
        work();
    });
}

fn hash_part(
    task: &Task,
    chunks: std::ops::Range<u64>,
    state: &Mutex<Partly>,
    buffer: &mut [u8],
    progress: &Progress,
) -> Result<(), Unhashed> {
    let file = open(task)?;
    let size = task.stat.size;
    for index in chunks {
        if progress.stop.load(Ordering::Relaxed) {
            return Err(Unhashed::Stopped);
        }
        let part = &mut buffer[..chunk_len(size, index)];
        file.read_exact_at(part, chunk_start(index)).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Unhashed::Changed,
            _ => Unhashed::Unreadable,
        })?;
        let hash = chunk_hash(size, index, part);
        state.lock().hashes[index as usize] = hash;
        progress.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    let after = file.metadata().map_err(|_| Unhashed::Unreadable)?;
    if Stat::from(&after) == task.stat { Ok(()) } else { Err(Unhashed::Changed) }
}

fn open(task: &Task) -> Result<File, Unhashed> {
    open_beneath(&task.dir, &task.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unhashed::Changed,
        _ => Unhashed::Unreadable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tree::manifest_of;

    #[test]
    fn hashes_are_those_of_the_bytes_and_a_changed_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = [0, 1, CHUNK as usize, 70 << 20, 3000];
        let contents: Vec<Vec<u8>> = sizes.iter().map(|&size| (0..size).map(|i| (i / 7) as u8).collect()).collect();
        let task = |i: usize| {
            let path = dir.path().join(i.to_string());
            std::fs::write(&path, &contents[i]).unwrap();
            let stat = Stat::from(&std::fs::metadata(&path).unwrap());
            Task { dir: dir.path().into(), path: ValidPath::new(i.to_string().as_bytes()).unwrap(), stat }
        };
        let mut tasks: Vec<Task> = (0..sizes.len()).map(task).collect();
        std::fs::write(dir.path().join("4"), vec![1; 2999]).unwrap();
        tasks.push(Task { path: ValidPath::new(b"none").unwrap(), ..tasks[0].clone() });
        let results = Mutex::new(vec![None; tasks.len()]);
        let progress = Progress::default();
        hash_all(&tasks, 3, &progress, &|at, result| results.lock()[at] = Some(result));
        let results = results.into_inner();
        for i in 0..4 {
            assert_eq!(results[i], Some(Ok(manifest_of(&contents[i]))));
        }
        assert_eq!(results[4], Some(Err(Unhashed::Changed)));
        assert_eq!(results[5], Some(Err(Unhashed::Changed)));
        progress.stop.store(true, Ordering::Relaxed);
        hash_all(&tasks[3..4], 2, &progress, &|_, result| assert_eq!(result, Err(Unhashed::Stopped)));
    }
}
