//! A share from folder to catalog: what is published when files come, change and go.

use std::fs;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::share::source::SourceError;
use crate::vault::keys::NameKey;

const LAB: NetworkId = NetworkId([1; 32]);
/// Far longer than anything here takes; a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    dir: tempfile::TempDir,
    published: Receiver<Vec<Entry>>,
    sharer: Sharer,
}

fn share(dir: &Path) -> Share {
    let dir = dir.join("data");
    fs::create_dir_all(&dir).unwrap();
    Share { id: 1, dir: dir.canonicalize().unwrap(), at: None, network: LAB, hidden: false }
}

fn start(dir: tempfile::TempDir) -> Bench {
    let share = share(dir.path());
    start_with(dir, vec![share], Box::new(|_| ()))
}

fn start_with(dir: tempfile::TempDir, shares: Vec<Share>, looked: Looked) -> Bench {
    let (send, published) = channel();
    let config = Config {
        index: dir.path().join("index.redb"),
        sealer: Arc::new(Sealer::new(&NameKey::from_bytes([1; 32]))),
        threads: 2,
        never: Vec::new(),
        looked,
    };
    let publish = Box::new(move |_: NetworkId, entries| drop(send.send(entries)));
    Bench { dir, published, sharer: Sharer::start(config, shares, publish).unwrap() }
}

impl Bench {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// Waits until what is published satisfies `what`.
    fn until(&self, what: impl Fn(&[Entry]) -> bool) -> Vec<Entry> {
        loop {
            let entries = self.published.recv_timeout(PATIENCE).expect("nothing more is published");
            if what(&entries) {
                return entries;
            }
        }
    }

    fn until_watching(&self) {
        let began = Instant::now();
        while !self.sharer.status().iter().all(|status| status.state == ShareState::Watching) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.sharer.status());
            std::thread::yield_now();
        }
    }
}

#[test]
fn changes_are_published_and_a_restart_does_not_hash_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = share(dir.path()).dir;
    fs::write(data.join("one"), vec![7; 600_000]).unwrap();
    fs::create_dir(data.join("sub")).unwrap();
    fs::write(data.join("sub/two"), "two").unwrap();
    let bench = start(dir);
    let entries = bench.until(|entries| entries.len() == 2);
    assert_eq!(entries[0].content.root.0, *blake3::hash(&[7; 600_000]).as_bytes());
    bench.until_watching();
    assert_eq!(bench.sharer.status()[0].files, 2);

    fs::write(bench.file("sub/three"), "three").unwrap();
    bench.until(|entries| entries.len() == 3);
    fs::create_dir(bench.file("new")).unwrap();
    fs::write(bench.file("new/four"), "four").unwrap();
    bench.until(|entries| entries.len() == 4);
    fs::write(bench.file("sub/two"), "two changed").unwrap();
    bench.until(|entries| entries.iter().any(|entry| entry.content.size == 11));
    fs::remove_dir_all(bench.file("sub")).unwrap();
    bench.until(|entries| entries.len() == 2);
    fs::write(bench.file(".flashgetignore"), "new/\n").unwrap();
    bench.until(|entries| entries.len() == 1);
    fs::rename(bench.file("one"), bench.file("renamed")).unwrap();
    bench.until(|entries| entries.len() == 1 && entries[0].path.as_bytes() == b"renamed");
    bench.until_watching();

    let Bench { dir, sharer, .. } = bench;
    sharer.stop();
    drop(sharer);
    for file in ["index.redb"] {
        let stored = fs::read(dir.path().join(file)).unwrap();
        for secret in [&b"renamed"[..], &blake3::hash(&[7; 600_000]).as_bytes()[..8]] {
            assert!(!stored.windows(secret.len()).any(|window| window == secret));
        }
    }
    let bench = start(dir);
    // At once, before anything is scanned.
    let entries = bench.published.recv_timeout(PATIENCE).unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    bench.until_watching();
    assert_eq!(bench.sharer.shared.progress.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_has_changed_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let data = share(dir.path()).dir;
    let bytes = vec![9; 900_000];
    fs::write(data.join("f"), &bytes).unwrap();
    fs::write(data.join("link-target"), &bytes).unwrap();
    let bench = start(dir);
    let entries = bench.until(|entries| entries.len() == 2);
    let content = entries[0].content;
    let sources = bench.sharer.sources();
    assert_eq!(sources.chunk(LAB, content, 1).unwrap().bytes(), &bytes[262_144..524_288]);
    assert_eq!(sources.chunk(NetworkId([2; 32]), content, 0).unwrap_err(), SourceError::NotShared);
    assert_eq!(sources.chunk(LAB, content, 9).unwrap_err(), SourceError::NotShared);
    // The other copy still serves when one is truncated, and when a symlink takes its place.
    fs::OpenOptions::new().write(true).open(bench.file("f")).unwrap().set_len(100).unwrap();
    assert!(sources.chunk(LAB, content, 3).is_ok());
    fs::remove_file(bench.file("link-target")).unwrap();
    fs::write(bench.dir.path().join("outside"), &bytes).unwrap();
    std::os::unix::fs::symlink(bench.dir.path().join("outside"), bench.file("link-target")).unwrap();
    bench.sharer.sources();
    // Whatever is asked, and whenever: the right bytes or none. In the end, none.
    let began = Instant::now();
    while let Ok(chunk) = sources.chunk(LAB, content, 0) {
        assert_eq!(chunk.bytes(), &bytes[..262_144]);
        assert!(began.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    bench.until(|entries| entries.len() == 1 && entries[0].content.size == 100);
}

#[test]
fn a_withdrawn_share_offers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(share(dir.path()).dir.join("f"), "x").unwrap();
    let bench = start(dir);
    let content = bench.until(|entries| entries.len() == 1)[0].content;
    bench.sharer.remove(1);
    bench.until(|entries| entries.is_empty());
    assert!(!bench.sharer.sources().offers(LAB, content));
    assert!(bench.sharer.status().is_empty());
}

impl Bench {
    /// Looks at all shares now, as the sharer does now and then.
    fn rescan(&self) {
        self.sharer.shared.inbox.lock().dirty.overflow();
        self.sharer.shared.changed.notify_all();
    }
}

#[test]
fn a_folder_that_went_and_came_back_is_published_and_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(share(dir.path()).dir.join("f"), vec![7; 300_000]).unwrap();
    // So that it counts as settled, and is not hashed again at every look.
    std::thread::sleep(2 * RACY);
    let bench = start(dir);
    let content = bench.until(|entries| entries.len() == 1)[0].content;
    bench.until_watching();
    let (data, away) = (bench.dir.path().join("data"), bench.dir.path().join("away"));
    for _ in 0..2 {
        fs::rename(&data, &away).unwrap();
        bench.rescan();
        bench.until(|entries| entries.is_empty());
        assert!(!bench.sharer.sources().offers(LAB, content));
        fs::rename(&away, &data).unwrap();
        bench.rescan();
        bench.until(|entries| entries.len() == 1 && entries[0].content == content);
        assert!(bench.sharer.sources().offers(LAB, content));
        bench.until_watching();
    }
    // Nothing had to be hashed anew, and what changes now is heard of.
    assert_eq!(bench.sharer.shared.progress.bytes.load(Ordering::Relaxed), 300_000);
    fs::write(bench.file("g"), "new").unwrap();
    bench.until(|entries| entries.len() == 2);
}

#[test]
fn a_folder_that_another_one_replaced_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(share(dir.path()).dir.join("f"), "f").unwrap();
    let bench = start(dir);
    bench.until(|entries| entries.len() == 1);
    bench.until_watching();
    let data = bench.dir.path().join("data");
    fs::rename(&data, bench.dir.path().join("old")).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("g"), "g").unwrap();
    bench.rescan();
    bench.until(|entries| entries.len() == 1 && entries[0].path.as_bytes() == b"g");
    bench.until_watching();
    fs::write(data.join("h"), "h").unwrap();
    bench.until(|entries| entries.len() == 2);
}

#[test]
fn that_a_networks_first_shares_have_been_looked_at_is_told_once_they_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let first = share(dir.path());
    fs::write(first.dir.join("f"), "f").unwrap();
    let named = |name: &str, id, network| {
        let dir = dir.path().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), name).unwrap();
        Share { id, dir, at: None, network, hidden: false }
    };
    let other = NetworkId([2; 32]);
    let shares = vec![first, named("g", 2, LAB), named("h", 3, other)];
    let (send, looked) = channel();
    let bench = start_with(dir, shares.clone(), Box::new(move |network| send.send(network).unwrap_or(())));
    assert_eq!(looked.recv_timeout(PATIENCE), Ok(LAB));
    assert_eq!(looked.recv_timeout(PATIENCE), Ok(other));
    let published: Vec<usize> = bench.published.try_iter().map(|entries| entries.len()).collect();
    assert_eq!(published[..5], [0, 0, 1, 2, 1]);
    let Bench { dir, sharer, .. } = bench;
    drop(sharer);
    // What is remembered of several shares is published at once, and none is withdrawn meanwhile.
    let (send, looked) = channel();
    let bench = start_with(dir, shares, Box::new(move |network| send.send(network).unwrap_or(())));
    looked.recv_timeout(PATIENCE).unwrap();
    let published: Vec<usize> = bench.published.try_iter().map(|entries| entries.len()).collect();
    assert_eq!(published[..2], [2, 1]);
}

#[test]
fn a_share_that_was_away_is_offered_and_watched_again_though_nothing_in_it_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let data = share(dir.path()).dir;
    fs::write(data.join("f"), "x").unwrap();
    // Old enough to be known by its times: otherwise it would be hashed, and published, in any case.
    std::thread::sleep(RACY * 3);
    let bench = start(dir);
    assert_eq!(bench.sharer.status().len(), 1, "known from the start");
    let content = bench.until(|entries| entries.len() == 1)[0].content;
    bench.until_watching();
    let away = bench.dir.path().join("away");
    fs::rename(&data, &away).unwrap();
    bench.sharer.shared.touch(vec![data.clone()]);
    bench.until(|entries| entries.is_empty());
    assert!(matches!(bench.sharer.status()[0].state, ShareState::Failed(_)));
    assert!(!bench.sharer.sources().offers(LAB, content));
    fs::rename(&away, &data).unwrap();
    // Rather than wait for the next look at it.
    bench.sharer.shared.touch(vec![data.clone()]);
    bench.until(|entries| entries.len() == 1);
    bench.until_watching();
    assert!(bench.sharer.sources().offers(LAB, content));
    fs::write(data.join("g"), "y").unwrap();
    bench.until(|entries| entries.len() == 2);
}

#[test]
fn what_is_hashed_once_more_and_has_not_changed_is_offered_all_the_while() {
    let dir = tempfile::tempdir().unwrap();
    let data = share(dir.path()).dir;
    let count = 1000;
    (0..count).for_each(|i| fs::write(data.join(i.to_string()), format!("file {i}")).unwrap());
    let bench = start(dir);
    let entries = bench.until(|entries| entries.len() == count);
    bench.until_watching();
    let Bench { dir, sharer, published } = bench;
    drop((sharer, published));
    // They were hashed right after they had been written, so they are hashed again.
    let bench = start(dir);
    bench.published.recv_timeout(PATIENCE).unwrap();
    let sources = Arc::clone(bench.sharer.sources());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(entries.iter().all(|entry| sources.offers(LAB, entry.content)));
            }
        });
        bench.until_watching();
        done.store(true, Ordering::Relaxed);
        looks.join().unwrap();
    });
    assert!(bench.sharer.shared.progress.bytes.load(Ordering::Relaxed) > 0, "some were hashed again");
}
