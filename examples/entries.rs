//! How much RAM a node needs for each entry of others' catalogs, and how long merging takes, for `scripts/bench-entries`.
//! Catalogs come from another process, as answers of a peer.
//!
//! Usage: entries NODES ENTRIES

use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use flashget::base::clock::Timestamp;
use flashget::base::ids::{ContentId, NetworkId, NodeId, Root};
use flashget::base::limits::MAX_FRAME;
use flashget::base::memory::give_back_large;
use flashget::base::names::ValidPath;
use flashget::catalog::book::CatalogBook;
use flashget::catalog::claims::Party;
use flashget::catalog::entry::Entry;
use flashget::catalog::merge::{Standing, merge};
use flashget::catalog::own;
use flashget::catalog::tree::ViewTree;
use flashget::fs::inodes::Inodes;
use flashget::wire::message::CatalogAnswer;

type Failure = Box<dyn std::error::Error>;

const NETWORK: NetworkId = NetworkId([7; 32]);
/// Of `cp -r` of somebody's home: a few words for folders and files.
const TOPS: [&str; 8] = ["photos", "music", "papers", "datasets", "src", "backup", "video", "lectures"];
const WORDS: [&str; 12] = [
    "winter", "report", "final", "mountain", "draft", "signal", "archive", "summer", "train", "notes", "session",
    "test",
];
const EXTENSIONS: [&str; 6] = ["jpg", "pdf", "csv", "rs", "flac", "tar.gz"];

/// The same numbers each time.
struct Draw(blake3::OutputReader);

impl Draw {
    fn of(what: &str, number: usize) -> Self {
        Self(blake3::Hasher::new().update(what.as_bytes()).update(&number.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

fn key_of(node: usize) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&node.to_le_bytes()).as_bytes())
}

fn id_of(node: usize) -> NodeId {
    NodeId(key_of(node).verifying_key().to_bytes())
}

/// What a node shares: about 40 files in a folder, three or four levels deep.
fn entries_of(node: usize, count: usize) -> Vec<Entry> {
    let mut draw = Draw::of("entries", node);
    let mut folder = String::new();
    let mut entries: Vec<Entry> = (0..count)
        .map(|number| {
            if number % 40 == 0 {
                folder = format!("{}/{}-{}", draw.one(&TOPS), draw.one(&WORDS), draw.below(10_000));
                if draw.below(2) == 0 {
                    folder = format!("{folder}/{}", draw.one(&WORDS));
                }
            }
            let (word, number, extension) = (draw.one(&WORDS), draw.below(10_000), draw.one(&EXTENSIONS));
            let path = format!("{folder}/{word}_{number:05}.{extension}");
            let mut root = [0; 32];
            draw.0.fill(&mut root);
            Entry {
                path: ValidPath::new(path.as_bytes()).expect("valid"),
                content: ContentId { root: Root(root), size: 1 + draw.below(50_000_000) },
                mtime: Timestamp {
                    secs: 1_700_000_000 + draw.below(50_000_000) as i64,
                    nanos: draw.below(1_000_000_000) as u32,
                },
                executable: draw.below(20) == 0,
            }
        })
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    entries
}

fn catalog(node: usize, count: usize) -> Result<CatalogBook, Failure> {
    let (key, id) = (key_of(node), id_of(node));
    let sign = |message: &[u8]| key.sign(message).to_bytes();
    let now = Timestamp { secs: 1_780_000_000, nanos: 0 };
    let copy = own::begin_beyond(NETWORK, id, 0, &entries_of(node, count), now, &sign)?;
    let mut book = CatalogBook::new(NETWORK, id);
    book.put_own(Arc::new(copy));
    Ok(book)
}

/// The peer: answers for all catalogs, one after the other.
fn serve(nodes: usize, count: usize) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for node in 0..nodes {
        let book = catalog(node, count)?;
        let reader = CatalogBook::new(NETWORK, NodeId([0; 32]));
        let mut catch_up = reader.catch_up(id_of(node));
        loop {
            let answer = book.answer(&catch_up.request());
            let bytes = rmp_serde::to_vec(&answer)?;
            out.write_all(&(bytes.len() as u32).to_le_bytes())?;
            out.write_all(&bytes)?;
            if !catch_up.take(answer)? {
                break;
            }
        }
    }
    Ok(out.flush()?)
}

fn receive(nodes: usize, count: usize) -> Result<CatalogBook, Failure> {
    let this = std::env::current_exe()?;
    let mut peer = Command::new(this)
        .args([nodes.to_string(), count.to_string(), "serve".into()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut from = BufReader::new(peer.stdout.take().ok_or("no peer")?);
    let mut book = CatalogBook::new(NETWORK, NodeId([0; 32]));
    for node in 0..nodes {
        let mut catch_up = book.catch_up(id_of(node));
        loop {
            let mut len = [0; 4];
            from.read_exact(&mut len)?;
            let mut bytes = vec![0; (u32::from_le_bytes(len) as usize).min(MAX_FRAME)];
            from.read_exact(&mut bytes)?;
            let answer: CatalogAnswer = rmp_serde::from_slice(&bytes)?;
            drop(bytes);
            if !catch_up.take(answer)? {
                break;
            }
        }
        book.put(catch_up.finish().ok_or("a catalog did not come")?);
    }
    peer.wait()?;
    Ok(book)
}

/// Bytes in RAM now, and at most since the last time.
fn memory() -> Result<(u64, u64), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok((field("VmRSS:"), field("VmHWM:")))
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (what(), began.elapsed())
}

fn parties(book: &CatalogBook, away: Option<NodeId>) -> Vec<Party> {
    let standing = |node| if Some(node) == away { Standing::Away } else { Standing::Live };
    book.all().map(|copy| Party { copy: Arc::clone(copy), standing: standing(copy.node()) }).collect()
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse().ok()).ok_or("usage: entries NODES ENTRIES");
    let (nodes, count): (usize, usize) = (number(1)?, number(2)?);
    if args.get(3).is_some() {
        return serve(nodes, count);
    }
    give_back_large();
    let (empty, _) = memory()?;
    let (book, fetched) = timed(|| receive(nodes, count));
    let mut book = book?;
    let all: usize = book.all().map(|copy| copy.len()).sum();
    let each = |bytes: u64| bytes as f64 / all as f64;
    let kept: usize = book.all().map(|copy| copy.kept()).sum();
    let (copies, peak) = memory()?;
    println!("{all} entries over {nodes} nodes, which came in {:.1} s", fetched.as_secs_f64());
    println!("bytes of RAM per entry (RSS):");
    println!(
        "  copies      {:6.1}   (their bytes: {:.1}; peak {:.1})",
        each(copies - empty),
        each(kept as u64),
        each(peak - empty)
    );

    let (view, first) = timed(|| merge(&ViewTree::default(), parties(&book, None), &|_| false));
    let view = Arc::new(view);
    let (merged, peak) = memory()?;
    println!("  view        {:6.1}   (peak {:.1})", each(merged.saturating_sub(copies)), each(peak - empty));
    println!("    claims and the order of contents {:.1}", each(view.claims().bytes() as u64));
    println!(
        "    arena and lists of children      {:.1}   ({} entries, folders among them)",
        each(view.bytes() as u64),
        view.len()
    );
    let (inodes, numbered) = timed(|| Inodes::new(Arc::clone(&view)));
    let (with_inodes, peak) = memory()?;
    println!(
        "  inodes      {:6.1}   (peak {:.1}; counted: {:.1})",
        each(with_inodes.saturating_sub(merged)),
        each(peak - empty),
        each(inodes.ram() as u64)
    );
    println!("  in all      {:6.1}", each(with_inodes - empty));

    // One catalog changes: a delta comes.
    let node = nodes / 2;
    let key = key_of(node);
    let old = book.get(id_of(node)).ok_or("no such catalog")?;
    let mut changed = (**old).clone();
    let mut entries: Vec<Entry> = changed.entries().filter_map(|entry| entry.to_entry()).collect();
    let middle = entries.len() / 2;
    entries[middle].mtime.secs += 1;
    entries.remove(middle / 2);
    own::publish(&mut changed, &entries, Timestamp::now(), &|message: &[u8]| key.sign(message).to_bytes())?;
    drop(entries);
    book.put(Arc::new(changed));
    memory()?;
    let (new, after_change) = timed(|| Arc::new(merge(&view, parties(&book, None), &|_| false)));
    let (replaced, renumbered) = timed(|| inodes.next(Arc::clone(&new)));
    let (stale, compared) = timed(|| inodes.stale(&replaced).len());
    let (_, peak) = memory()?;
    println!("  peak while one view takes the place of another {:.1}", each(peak - empty));
    drop((view, inodes));
    let (later, _) = memory()?;
    println!("  after that  {:6.1}", each(later - empty));
    let (gone, after_leave) = timed(|| merge(&new, parties(&book, Some(id_of(node))), &|_| false));
    drop(gone);
    let contents: Vec<ContentId> = (0..nodes)
        .flat_map(|node| entries_of(node, count).into_iter().step_by(97))
        .map(|entry| entry.content)
        .collect();
    let (found, looked_up) = timed(|| contents.iter().filter(|content| !new.holders(content).is_empty()).count());
    let millis = |took: Duration| took.as_secs_f64() * 1000.0;
    println!("milliseconds on one core:");
    println!("  first merge                     {:8.1}", millis(first));
    println!("  merge after a catalog changed   {:8.1}", millis(after_change));
    println!("  merge after a node went away    {:8.1}", millis(after_leave));
    println!("  numbering a view                {:8.1}   (again: {:.1})", millis(numbered), millis(renumbered));
    println!("  comparing two for the kernel    {:8.1}   ({stale} stale)", millis(compared));
    println!(
        "  lookup by content               {:8.4}   ({found} of {} found)",
        millis(looked_up) / contents.len() as f64,
        contents.len()
    );
    Ok(())
}
