//! Metadata never waits, whoever hangs: every peer is stopped, readers wait on files that can't be had, and everything
//! that needs no peer is answered at once.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::Network;
use common::contents::{MIB, hash_of, random_file};
use common::process::{find_tool, in_plain_locale, run};
use common::reference::drop_pages;
use common::wait::until;
use rustix::process::Signal;

const READERS: usize = 64;
/// Wanted are 50 ms; a machine that is busy with other tests gets more.
const AT_ONCE: Duration = Duration::from_secs(1);
const HEALTHY: u64 = 96 * MIB;
/// Of 1: how much of its speed a healthy file must keep. Wanted is all of it; see [`AT_ONCE`].
const FULL_SPEED: f64 = 0.3;

/// How long a tool takes at most, of three times.
fn measure(name: &str, args: &[&std::ffi::OsStr]) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let done = run(in_plain_locale(Command::new(find_tool(name))).args(args));
        slowest = slowest.max(done.took);
        // There are no extended attributes, and getfattr says so.
        match name {
            "getfattr" => assert!(done.stderr.contains("not supported"), "{}", done.stderr),
            _ => drop(done.ok()),
        }
    }
    slowest
}

/// Reads the healthy file anew from the daemon, and thrice: the middle of the times.
fn read_healthy(path: &Path, wanted: &str) -> Duration {
    let mut times: Vec<Duration> = (0..3)
        .map(|_| {
            drop_pages(&File::open(path).unwrap());
            let began = Instant::now();
            assert_eq!(hash_of(path), wanted);
            began.elapsed()
        })
        .collect();
    times.sort();
    times[1]
}

#[test]
fn metadata_and_healthy_files_do_not_wait_for_peers_that_hang() {
    let network = Network::new();
    let share = network.path("share");
    let wanted = random_file(&share.join("healthy"), HEALTHY, "healthy");
    for at in 0..READERS {
        random_file(&share.join(format!("far/{at}")), MIB + at as u64, &at.to_string());
    }
    let other = network.path("other");
    for at in 0..READERS / 2 {
        random_file(&other.join(format!("far/{at}")), MIB + at as u64, &at.to_string());
    }
    let sources = [network.source("one", &share), network.source("two", &other)];
    let mut reader = network.member("reader");
    reader.settings("cache.ram = \"16M\"\n");
    reader.start();
    // What waits is not to give up while this measures.
    reader.mount_with(&["-o", "hard"]);
    let mount = reader.mount_point.clone();
    reader.has_peers(2);
    reader.sees("far/0", 2);
    let healthy = mount.join("healthy");
    assert_eq!(hash_of(&healthy), wanted);
    until("the healthy file is in the cache", || reader.stat("healthy").unwrap().cached_percent == 100);
    let before = read_healthy(&healthy, &wanted);

    sources.iter().for_each(|source| source.signal(Signal::STOP));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for at in 0..READERS {
            let (file, done) = (mount.join(format!("far/{at}")), &done);
            let original = share.join(format!("far/{at}"));
            scope.spawn(move || {
                let mut bytes = vec![0; 100_000];
                File::open(file).unwrap().read_exact_at(&mut bytes, 300_000).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
                let mut same = vec![0; bytes.len()];
                File::open(original).unwrap().read_exact_at(&mut same, 300_000).unwrap();
                assert!(bytes == same, "what came after the wait was wrong");
            });
        }
        // The peers must go on whatever is found, or the readers, and with them this test, would wait for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("all of them wait", || waiting_threads() >= READERS);
            let far = mount.join("far");
            let one = far.join("7");
            let mut slow = Vec::new();
            let asked: [(&str, Vec<&std::ffi::OsStr>); 5] = [
                ("ls", vec!["-lR".as_ref(), mount.as_os_str()]),
                ("stat", vec![one.as_os_str(), far.as_os_str()]),
                ("df", vec![mount.as_os_str()]),
                ("find", vec![mount.as_os_str(), "-size".as_ref(), "+1k".as_ref()]),
                ("getfattr", vec!["-d".as_ref(), "-m-".as_ref(), one.as_os_str()]),
            ];
            for (name, args) in &asked {
                let took = measure(name, args);
                eprintln!("{name} beside {READERS} readers that wait: {took:.1?}");
                if took > AT_ONCE {
                    slow.push((*name, took));
                }
            }
            let missing = Instant::now();
            assert!(std::fs::symlink_metadata(far.join("missing")).is_err());
            eprintln!("a name that is not there: {:.1?}", missing.elapsed());
            assert!(missing.elapsed() < AT_ONCE);
            let began = Instant::now();
            assert_eq!(reader.listing().len(), READERS + 1);
            eprintln!("flashget ls: {:.1?}", began.elapsed());
            let beside = read_healthy(&healthy, &wanted);
            let speed = before.as_secs_f64() / beside.as_secs_f64();
            eprintln!("the healthy file: {before:.1?} before, {beside:.1?} beside them: {speed:.2} of its speed");
            assert_eq!(slow, [], "these should have been answered within {AT_ONCE:?}");
            assert!(speed > FULL_SPEED, "the healthy file was read at {speed:.2} of its speed");
            assert_eq!(done.load(Ordering::Relaxed), 0, "none of the others could have come");
        }));
        sources.iter().for_each(|source| source.signal(Signal::CONT));
        if let Err(found) = result {
            std::panic::resume_unwind(found);
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), READERS, "all came once the peers went on");
}

/// How many of this process's threads sleep in a read that only the daemon can end.
fn waiting_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let waits = |task: &std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        // pread64, as /proc shows it: its number, then its arguments; "running" if it does not sleep.
        status.starts_with(&format!("{} ", libc::SYS_pread64))
    };
    tasks.filter(waits).count()
}
