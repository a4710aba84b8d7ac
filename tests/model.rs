//! The mount answers as the shared folder itself would: 100,000 operations at random, compared one by one, and then
//! rounds in which the share changes. The seed is printed; `FLASHGET_SEED` repeats it.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::contents::{MIB, files_below, hash_of, random_file};
use common::reference::{Dice, Player, drop_pages, number};
use common::wait::until;
use common::{Network, Node};

const OPERATIONS: u64 = 100_000;
/// At once; each has its own handles and its own sequence, which follows from the seed.
const PLAYERS: u64 = 4;
const ROUNDS: u64 = 6;
const OPERATIONS_PER_ROUND: u64 = 2_000;
const CHUNK: u64 = 256 << 10;

fn seed() -> u64 {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let given = std::env::var("FLASHGET_SEED").ok();
    let seed = given.map_or_else(now, |text| text.parse().expect("FLASHGET_SEED is a number"));
    eprintln!("FLASHGET_SEED={seed}");
    seed
}

/// Sizes at which something changes: pages, chunks, packs, windows.
fn size(dice: &mut Dice) -> u64 {
    let chunks = dice.below(12) * CHUNK;
    match dice.below(8) {
        0 => *dice.pick(&[0, 1, 511, 4095, 4096, 4097]),
        1 => *dice.pick(&[CHUNK - 1, CHUNK, CHUNK + 1]),
        2 => chunks + dice.below(2),
        3 => chunks + dice.below(CHUNK),
        _ => dice.below(20_000),
    }
}

fn make(dir: &Path, dice: &mut Dice) {
    let file = |name: String, size: u64| {
        random_file(&dir.join(&name), size, &name);
    };
    for at in 0..4 {
        file(format!("large/{at}"), (8 + 6 * at) * MIB + at * 12_345);
    }
    for at in 0..150 {
        file(format!("folder {}/{}/file {at}.bin", at % 5, at % 3), size(dice));
    }
    // More entries than fit in one answer to readdir.
    for at in 0..1_500 {
        file(format!("wide/{at:04} {}", "x".repeat(at % 90)), at as u64 % 50);
    }
    file("deep/a/b/c/d/e/f/g/h/file".into(), 100);
    file("größe 漢字\n".into(), 100);
    for at in ["folder 0/0/file 0.bin", "wide/0003 xxx"] {
        fs::set_permissions(dir.join(at), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
}

fn play(plain: &Path, mount: &Path, seed: u64, operations: u64) {
    let began = Instant::now();
    let players: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let play = |number: u64| {
            let mut player = Player::new(plain, mount, seed.wrapping_add(number));
            for at in 0..operations / PLAYERS {
                let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| player.step()));
                assert!(step.is_ok(), "FLASHGET_SEED={seed}: player {number}, operation {at}, see above");
            }
            (player.answers, player.errors)
        };
        let players: Vec<_> = (0..PLAYERS).map(|number| scope.spawn(move || play(number))).collect();
        players.into_iter().map(|player| player.join().expect("a player found a difference")).collect()
    });
    let (answers, errors) = players.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    eprintln!("{operations} operations: {answers} answers and {errors} errors were the same, {:.1?}", began.elapsed());
    assert!(answers > operations / 2 && errors > operations / 50, "operations of all kinds were compared");
}

/// What was read is in the cache by then, unless the disk is busy with other things.
const IN_CACHE: std::time::Duration = std::time::Duration::from_secs(10);

/// A file that was open when its name got another content, or none.
struct Kept {
    path: PathBuf,
    file: File,
    content: Vec<u8>,
    /// It was read, and is in the reader's cache, so it must be readable whatever became of it at its source.
    whole: bool,
}

impl Kept {
    fn open(reader: &Node, plain: &Path, path: &Path, mut whole: bool) -> Self {
        let file = File::open(reader.mount_point.join(path)).unwrap();
        let content = fs::read(plain.join(path)).unwrap();
        if whole {
            let mut bytes = vec![0; content.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == content);
            let shown = path.to_str().unwrap();
            // What the disk does not keep up with is not cached: then nothing is to be expected of it.
            let cached = || content.is_empty() || reader.stat(shown).unwrap().cached_percent == 100;
            let began = std::time::Instant::now();
            while !cached() && began.elapsed() < IN_CACHE {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            whole = cached();
            if !whole {
                eprintln!("{shown} did not get into the cache");
            }
        }
        Self { path: path.into(), file, content, whole }
    }

    fn check(&self, dice: &mut Dice) {
        drop_pages(&self.file);
        let shown = self.path.display();
        assert_eq!(self.file.metadata().unwrap().len(), self.content.len() as u64, "{shown}");
        for _ in 0..20 {
            let at = dice.below(self.content.len() as u64 + 1) as usize;
            let wanted = &self.content[at..(at + 50_000).min(self.content.len())];
            let mut bytes = vec![0; wanted.len()];
            match self.file.read_exact_at(&mut bytes, at as u64) {
                Ok(()) => assert!(bytes == wanted, "{shown}: bytes of another version at {at}"),
                Err(error) if self.whole => panic!("{shown} was cached whole, and at {at}: {error}"),
                Err(error) => assert!([libc::ESTALE, libc::EIO].contains(&number(&error)), "{shown}: {error}"),
            }
        }
    }
}

/// Reads a path of the mount until it has its new content; until then there is the old one or none, and never a mixture.
fn becomes(mount: &Path, path: &Path, old: Option<&[u8]>, new: &[u8]) {
    until(&format!("{} has its new content", path.display()), || match fs::read(mount.join(path)) {
        Ok(bytes) if bytes == new => true,
        Ok(bytes) => {
            assert!(old == Some(&bytes[..]), "{}: neither the old nor the new content", path.display());
            false
        }
        Err(error) => {
            let usual = [libc::ENOENT, libc::ESTALE, libc::EIO].contains(&number(&error));
            assert!(usual, "{}: {error}", path.display());
            false
        }
    });
}

#[test]
fn the_mount_answers_as_the_shared_folder_would() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let network = Network::new();
    let plain = network.path("share");
    make(&plain, &mut dice);
    let _source = network.source("source", &plain);
    let mut reader = network.member("reader");
    // Less than all of it, in RAM and on disk, so that chunks come, go, and come again.
    reader.settings("cache.ram = \"8M\"\n");
    reader.start();
    reader.ok(["cache", "resize", "48M"]);
    let mount = reader.mount();
    let files = files_below(&plain).len() as u64;
    until("everything is seen", || reader.status().networks[0].files == files);

    play(&plain, &mount, seed, OPERATIONS);
    let status = reader.json(["cache", "status"]);
    assert!(status["evicted"].as_u64().unwrap() > 0, "the cache was too small for all of it: {status}");

    for round in 0..ROUNDS {
        let small: Vec<PathBuf> = files_below(&plain).into_iter().filter(|file| !file.starts_with("large")).collect();
        let mut chosen: Vec<PathBuf> = Vec::new();
        while chosen.len() < 8 {
            let file = dice.pick(&small).clone();
            if !chosen.contains(&file) {
                chosen.push(file);
            }
        }
        let kept: Vec<Kept> =
            chosen.iter().enumerate().map(|(at, file)| Kept::open(&reader, &plain, file, at % 2 == 0)).collect();
        let (removed, replaced) = chosen.split_at(4);
        let mut news: Vec<(PathBuf, Option<&[u8]>)> = Vec::new();
        for file in removed {
            fs::remove_file(plain.join(file)).unwrap();
            // A folder without files is not in the mount.
            let _ = file.ancestors().skip(1).try_for_each(|folder| fs::remove_dir(plain.join(folder)));
        }
        for (at, file) in replaced.iter().enumerate() {
            let staged = network.path("staged");
            random_file(&staged, size(&mut dice) + 1, &format!("round {round} {at} {seed}"));
            match at % 2 {
                // Another file in its place.
                0 => fs::rename(&staged, plain.join(file)).unwrap(),
                // The same file, written anew.
                _ => drop(fs::copy(&staged, plain.join(file)).unwrap()),
            }
            news.push((file.clone(), Some(&kept[removed.len() + at].content)));
        }
        for at in 0..3 {
            let file = PathBuf::from(format!("added {round}/{}/{at}", dice.below(2)));
            random_file(&plain.join(&file), size(&mut dice), &format!("added {round} {at} {seed}"));
            news.push((file, None));
        }
        for (file, old) in news {
            becomes(&mount, &file, old, &fs::read(plain.join(&file)).unwrap());
        }
        for file in removed {
            until("what was removed is gone", || fs::symlink_metadata(mount.join(file)).is_err());
        }
        kept.iter().for_each(|kept| kept.check(&mut dice));
        play(&plain, &mount, seed.wrapping_add(1000 * (round + 1)), OPERATIONS_PER_ROUND);
        kept.iter().for_each(|kept| kept.check(&mut dice));
    }
    for file in files_below(&plain) {
        assert_eq!(hash_of(&mount.join(&file)), hash_of(&plain.join(&file)), "{}", file.display());
    }
}
