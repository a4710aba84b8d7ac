//! The cache over real files: what was put comes back, damage is a miss, the bound holds.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::base::chunks::{chunk_len, chunk_start};
use crate::base::tree::{manifest_of, verify_chunk};
use crate::vault::keys::NameKey;

const LIMITS: CacheLimits = CacheLimits { disk: Some(1 << 30), ram: 0 };

fn open(dir: &Path, limits: CacheLimits) -> Arc<Cache> {
    let sealer = Arc::new(Sealer::new(&NameKey::from_bytes([1; 32])));
    Cache::open(dir, &ContentKey::from_bytes([2; 32]), sealer, limits).unwrap()
}

fn bytes(tag: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ tag).collect()
}

fn chunks(bytes: &Bytes) -> (ContentId, Proof, Vec<VerifiedChunk>) {
    let manifest = manifest_of(bytes);
    let content = manifest.content();
    let mut proof = Proof::new(content, manifest.groups()).unwrap();
    for group in 0..group_count(content.size) {
        proof.add_group(group, manifest.group(group).to_vec()).unwrap();
    }
    let all = (0..chunk_count(content.size)).map(|index| {
        let start = chunk_start(index) as usize;
        let part = bytes.slice(start..start + chunk_len(content.size, index));
        verify_chunk(content, index, manifest.chunks()[index as usize], part).unwrap()
    });
    (content, proof, all.collect())
}

/// But for those that say whose cache it is.
fn every_file(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.file_name().is_some_and(|name| name == "owner" || name == "lock") {
            continue;
        }
        if path.is_dir() { found.extend(every_file(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn what_is_put_is_there_after_a_restart_and_nowhere_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let big = bytes(1, 5 * CHUNK as usize + 77);
    let small = bytes(2, 3000);
    let (big_id, proof, big_chunks) = chunks(&big);
    let (small_id, _, small_chunks) = chunks(&small);
    let cache = open(dir.path(), LIMITS);
    // The last but one is left out.
    for chunk in big_chunks.iter().filter(|chunk| chunk.index() != 4).chain(&small_chunks) {
        cache.put(chunk);
    }
    cache.put_proof(&proof);
    cache.close();
    drop(cache);

    for file in every_file(dir.path()) {
        let stored = fs::read(&file).unwrap();
        for plain in [&big[1000..1016], &small[100..116], &big_id.root.0[..8], &small_id.root.0[..8]] {
            assert!(!stored.windows(plain.len()).any(|window| window == plain), "plaintext in {file:?}");
        }
    }

    let cache = open(dir.path(), LIMITS);
    assert_eq!(cache.held(big_id).runs(), [0..4, 5..6]);
    assert_eq!(cache.missing(big_id, 0..6).runs(), std::slice::from_ref(&(4..5)));
    assert!(!cache.is_whole(big_id) && cache.is_whole(small_id));
    for chunk in big_chunks.iter().filter(|chunk| chunk.index() != 4).chain(&small_chunks) {
        assert_eq!(cache.load(chunk.content(), chunk.index()).unwrap().bytes(), chunk.bytes());
    }
    assert!(cache.load(big_id, 4).is_none());
    assert_eq!(cache.stats().damaged, 0);
    let loaded = cache.load_proof(big_id, 0..1).unwrap();
    assert_eq!(loaded.group(0), proof.group(0));
    cache.put(&big_chunks[4]);
    cache.flush();
    assert!(cache.is_whole(big_id));
}

#[test]
fn a_flipped_bit_anywhere_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let big = bytes(3, 3 * CHUNK as usize);
    let small = bytes(4, 900);
    let (big_id, _, big_chunks) = chunks(&big);
    let (small_id, _, small_chunks) = chunks(&small);
    let cache = open(dir.path(), LIMITS);
    big_chunks.iter().chain(&small_chunks).for_each(|chunk| cache.put(chunk));
    cache.close();
    drop(cache);
    for file in every_file(dir.path()) {
        let original = fs::read(&file).unwrap();
        let handle = fs::OpenOptions::new().write(true).open(&file).unwrap();
        for at in (0..original.len()).step_by(original.len() / 60 + 1) {
            handle.write_all_at(&[original[at] ^ 4], at as u64).unwrap();
            let cache = open(dir.path(), LIMITS);
            for chunk in big_chunks.iter().chain(&small_chunks) {
                if let Some(loaded) = cache.load(chunk.content(), chunk.index()) {
                    assert_eq!(loaded.bytes(), chunk.bytes());
                }
            }
            drop(cache);
            fs::write(&file, &original).unwrap();
        }
    }
    let cache = open(dir.path(), LIMITS);
    assert!(cache.is_whole(big_id) && cache.is_whole(small_id));
}

#[test]
fn a_damaged_record_is_counted_and_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let (id, _, all) = chunks(&bytes(5, 2 * CHUNK as usize));
    let cache = open(dir.path(), LIMITS);
    all.iter().for_each(|chunk| cache.put(chunk));
    cache.flush();
    let file = every_file(dir.path()).pop().unwrap();
    let stored = fs::read(&file).unwrap();
    let last = stored.len() - 1;
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[stored[last] ^ 1], last as u64).unwrap();
    assert!(cache.load(id, 1).is_none());
    assert_eq!(cache.stats().damaged, 1);
    assert!(!cache.has(id, 1));
    cache.put(&all[1]);
    cache.flush();
    assert_eq!(cache.load(id, 1).unwrap().bytes(), all[1].bytes());
}

#[test]
fn the_disk_is_bounded_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 12 * SLOT;
    let cache = open(dir.path(), CacheLimits { disk: Some(limit), ram: 0 });
    let files: Vec<_> = (0..6).map(|tag| chunks(&bytes(tag, 3 * CHUNK as usize))).collect();
    for (_, _, all) in &files {
        all.iter().for_each(|chunk| cache.put(chunk));
        cache.flush();
        // The first stays in use.
        assert!(cache.load(files[0].0, 0).is_some());
    }
    let stats = cache.stats();
    assert!(stats.disk_bytes <= limit && stats.evicted >= 2, "{stats:?}");
    assert!(cache.is_whole(files[0].0) && cache.is_whole(files[5].0) && !cache.is_whole(files[1].0));
    // A content larger than the whole cache fills it and no more.
    let (id, _, all) = chunks(&bytes(9, 20 * CHUNK as usize));
    all.iter().for_each(|chunk| cache.put(chunk));
    cache.flush();
    let stats = cache.stats();
    assert!(stats.disk_bytes <= limit && stats.dropped > 0 && !cache.held(id).is_empty(), "{stats:?}");
}

/// What the cache says that it takes, and what it does take.
fn counted(cache: &Cache, dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    cache.flush();
    let taken = |file: &PathBuf| fs::metadata(file).unwrap();
    let files = every_file(dir);
    let large = files.iter().filter(|file| file.starts_with(dir.join("files"))).map(|file| taken(file).blocks() * 512);
    let packs = files.iter().filter(|file| file.starts_with(dir.join("packs"))).map(|file| taken(file).len());
    (cache.stats().disk_bytes, large.sum::<u64>() + packs.sum::<u64>())
}

#[test]
fn what_the_cache_takes_is_counted_once_and_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (id, proof, all) = chunks(&bytes(6, 300 * CHUNK as usize + 5000));
    let (_, _, small) = chunks(&bytes(7, 900));
    let cache = open(dir.path(), LIMITS);
    // Hashes that come before the first chunk count too, and can be evicted.
    cache.put_proof(&proof);
    let (said, taken) = counted(&cache, dir.path());
    assert!(said > 0 && said == taken, "{said} {taken}");
    cache.put_proof(&proof);
    all.iter().skip(297).chain(&small).for_each(|chunk| cache.put(chunk));
    let (said, taken) = counted(&cache, dir.path());
    assert_eq!(said, taken);
    // A damaged record takes no more when it has been fetched again.
    let file = every_file(&dir.path().join("files")).pop().unwrap();
    let last = fs::metadata(&file).unwrap().len() - 1;
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[0xaa], last).unwrap();
    assert!(cache.load(id, 300).is_none());
    cache.put(&all[300]);
    cache.put_proof(&proof);
    assert_eq!(counted(&cache, dir.path()), (said, taken));
    assert!(cache.load(id, 300).is_some());
    drop(cache);
    let cache = open(dir.path(), LIMITS);
    cache.put_proof(&proof);
    assert_eq!(counted(&cache, dir.path()), (said, taken));
    // And nothing is left of it when it is evicted.
    cache.inner.large.remove(id).unwrap();
    assert_eq!(cache.inner.large.list().len(), 0);
}

#[test]
fn after_an_error_of_the_disk_files_are_read_without_the_cache_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let (id, _, all) = chunks(&bytes(8, 4 * CHUNK as usize));
    let cache = open(dir.path(), CacheLimits { ram: 64 << 20, ..LIMITS });
    // No file can be made there any more, as on a full disk.
    fs::remove_dir(dir.path().join("files")).unwrap();
    fs::write(dir.path().join("files"), "").unwrap();
    cache.put(&all[0]);
    cache.flush();
    assert!(cache.inner.pause.is_on(Instant::now()));
    fs::remove_file(dir.path().join("files")).unwrap();
    // It is not tried, the plaintext does not wait in the queue, and reads go on from RAM.
    cache.put(&all[1]);
    assert!(cache.ram_get(id, 1).is_some() && !cache.has(id, 1));
    assert_eq!((cache.stats().dropped, cache.stats().writes), (2, 0));
    // Nobody has to put anything for the pause to end.
    assert!(!cache.inner.pause.is_on(Instant::now() + PAUSE));
    *cache.inner.pause.0.lock() = None;
    cache.put(&all[2]);
    cache.flush();
    assert!(cache.has(id, 2));
}

fn refused(dir: &Path, name_key: u8) -> CacheError {
    let sealer = Arc::new(Sealer::new(&NameKey::from_bytes([name_key; 32])));
    Cache::open(dir, &ContentKey::from_bytes([2; 32]), sealer, LIMITS).err().expect("it was not refused")
}

#[test]
fn strangers_files_in_the_caches_folder_do_not_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("files/photos/holiday.jpg");
    fs::create_dir_all(there.parent().unwrap()).unwrap();
    fs::write(&there, "x").unwrap();
    assert!(matches!(refused(dir.path(), 1), CacheError::Strange(_)));
    assert_eq!(every_file(dir.path()), [there]);
    assert!(!dir.path().join("lock").exists() && !dir.path().join("owner").exists());
}

#[test]
fn what_is_not_named_as_a_cache_file_stays_also_in_the_caches_own_folder() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), LIMITS));
    let hex = "0123456789abcdef".repeat(4);
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (gone, stays) = (
        format!("files/ab/{}", &hex[2..]),
        [
            "files/photos/x".into(),
            format!("files/ab/{}", &hex[1..]),
            format!("files/ab/{}", hex[2..].to_uppercase()),
            format!("outside/{}", &hex[2..]),
            "packs/007".into(),
            "packs/x".into(),
            "packs/5/x".into(),
        ],
    );
    for path in stays.iter().chain([&gone]) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    std::os::unix::fs::symlink(&outside, dir.path().join("files/cd")).unwrap();
    let cache = open(dir.path(), LIMITS);
    assert!(!dir.path().join(gone).exists());
    assert!(stays.iter().all(|path| dir.path().join(path).exists()));
    // The numbers that are taken are not in the way.
    let (id, _, all) = chunks(&bytes(2, 3000));
    cache.put(&all[0]);
    cache.flush();
    assert!(cache.is_whole(id));
}

#[test]
fn two_homes_on_one_folder_do_not_delete_each_others_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (id, _, all) = chunks(&bytes(5, 2 * CHUNK as usize));
    let cache = open(dir.path(), LIMITS);
    all.iter().for_each(|chunk| cache.put(chunk));
    assert!(matches!(refused(dir.path(), 1), CacheError::InUse(_)));
    assert!(matches!(refused(dir.path(), 2), CacheError::OfAnother(_)));
    cache.close();
    assert!(matches!(refused(dir.path(), 2), CacheError::OfAnother(_)));
    assert!(open(dir.path(), LIMITS).is_whole(id));
    assert!(crate::cache::place::is_cache(dir.path()) && !crate::cache::place::is_cache(&dir.path().join("files")));
}

#[test]
fn another_key_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (id, _, all) = chunks(&bytes(5, 2 * CHUNK as usize));
    let cache = open(dir.path(), LIMITS);
    all.iter().for_each(|chunk| cache.put(chunk));
    cache.close();
    drop(cache);
    let sealer = Arc::new(Sealer::new(&NameKey::from_bytes([1; 32])));
    let cache = Cache::open(dir.path(), &ContentKey::from_bytes([3; 32]), sealer, LIMITS).unwrap();
    assert!(cache.load(id, 0).is_none());
    assert_eq!(cache.stats().damaged, 1);
}

#[test]
fn every_pack_took_a_descriptor_so_that_a_large_cache_of_small_files_used_them_up() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..20).map(|tag| chunks(&bytes(tag, 1000 + usize::from(tag)))).collect();
    for (_, _, all) in &files {
        // A restart begins a new pack.
        let cache = open(dir.path(), LIMITS);
        cache.put(&all[0]);
        cache.close();
    }
    let cache = open(dir.path(), LIMITS);
    assert_eq!(every_file(&dir.path().join("packs")).len(), 20);
    for (id, _, all) in &files {
        assert_eq!(cache.load(*id, 0).unwrap().bytes(), all[0].bytes());
    }
    let of_packs =
        |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(dir.path().join("packs")));
    let open_packs = fs::read_dir("/proc/self/fd").unwrap().flatten().filter(of_packs).count();
    assert_eq!(open_packs, 0);
}
