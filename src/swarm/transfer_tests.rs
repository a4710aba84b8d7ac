//! Transfers over fake peers, on tokio's paused clock: every behaviour of a source ends with the right bytes or a clear error.

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::*;
use crate::base::chunks::{CHUNK, chunk_len, chunk_start};
use crate::base::tree::{Proof, manifest_of};
use crate::net::fake::{Behaviour, FakePeer};
use crate::swarm::swarm::{Finder, Keep, Swarm};
use crate::wire::message::Downloader;

struct Fakes {
    peers: Mutex<Vec<Arc<FakePeer>>>,
    changes: watch::Sender<u64>,
    kept: Mutex<Vec<VerifiedChunk>>,
    reachable: Mutex<Vec<Arc<FakePeer>>>,
}

#[async_trait::async_trait]
impl Finder for Fakes {
    fn sources(&self, _: &ContentId) -> Vec<Arc<dyn PeerLink>> {
        self.peers.lock().iter().map(|peer| Arc::clone(peer) as _).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn reach(&self, node: NodeId, _: &[std::net::SocketAddr], _: &ContentId) -> Option<Arc<dyn PeerLink>> {
        let reachable = self.reachable.lock();
        reachable.iter().find(|peer| peer.node() == node).map(|peer| Arc::clone(peer) as _)
    }
}

impl Keep for Fakes {
    fn keep(&self, chunk: &VerifiedChunk) {
        self.kept.lock().push(chunk.clone());
    }

    fn recall(&self, _: ContentId, index: u64) -> Option<VerifiedChunk> {
        self.kept.lock().iter().find(|chunk| chunk.index() == index).cloned()
    }

    fn keep_proof(&self, _: &Proof) {}
}

fn file(chunks: u64) -> Bytes {
    let mut bytes = vec![0; (chunks * CHUNK - 1000) as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn fakes(peers: Vec<Arc<FakePeer>>) -> (Arc<Fakes>, Arc<Swarm>) {
    let (changes, _) = watch::channel(0);
    let (kept, reachable) = (Mutex::default(), Mutex::default());
    let fakes = Arc::new(Fakes { peers: Mutex::new(peers), changes, kept, reachable });
    let swarm = Swarm::new(Arc::clone(&fakes) as _, Arc::clone(&fakes) as _, &Handle::current());
    (fakes, swarm)
}

async fn read_all(swarm: &Arc<Swarm>, bytes: &Bytes) -> Result<TransferReport, FetchError> {
    let content = manifest_of(bytes).content();
    let transfer = swarm.join(content);
    let count = chunk_count(content.size);
    for index in 0..count {
        transfer.ahead(&Ranges::of(index..(index + 64).min(count)));
        let chunk = transfer.chunk(index).await?;
        let start = chunk_start(index) as usize;
        assert!(chunk.bytes() == &bytes.slice(start..start + chunk_len(content.size, index)));
    }
    Ok(transfer.report())
}

#[tokio::test(start_paused = true)]
async fn several_sources_share_the_work() {
    let bytes = file(120);
    let rate = Behaviour::Slow(50_000_000);
    let peers = (1..=3).map(|tag| FakePeer::new(tag, &bytes, rate.clone())).collect();
    let (_fakes, swarm) = fakes(peers);
    let report = read_all(&swarm, &bytes).await.unwrap();
    assert_eq!(report.bytes, bytes.len() as u64);
    for source in &report.sources {
        assert!(source.bytes > bytes.len() as u64 / 6, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_one_group_is_proved_as_it_is_needed() {
    let bytes = file(270);
    let (_fakes, swarm) = fakes(vec![FakePeer::new(1, &bytes, Behaviour::Honest)]);
    read_all(&swarm, &bytes).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn liars_the_silent_and_the_vanishing_do_no_harm() {
    for bad in [Behaviour::Lying, Behaviour::Silent, Behaviour::Vanishing(5), Behaviour::Changed, Behaviour::Busy(7)] {
        let bytes = file(90);
        let good = FakePeer::new(1, &bytes, Behaviour::Slow(80_000_000));
        let (_fakes, swarm) = fakes(vec![FakePeer::new(2, &bytes, bad.clone()), good]);
        let report = read_all(&swarm, &bytes).await.unwrap_or_else(|error| panic!("{bad:?}: {error}"));
        if matches!(bad, Behaviour::Lying) {
            let liar = report.sources.iter().find(|source| source.node == NodeId([2; 32])).unwrap();
            assert!(liar.bad >= 1 && liar.bytes == 0 && !liar.live);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reads_failed_at_once_while_the_only_source_was_starting() {
    for bytes in [file(1), file(3)] {
        let (fakes, swarm) = fakes(vec![FakePeer::new(1, &bytes, Behaviour::Beginning(5))]);
        read_all(&swarm, &bytes).await.unwrap();
        assert_eq!(opened(&fakes.peers.lock()), [6]);
    }
}

#[tokio::test(start_paused = true)]
async fn partial_holders_bring_what_they_hold() {
    let bytes = file(60);
    let first = FakePeer::holding(1, &bytes, Behaviour::Honest, Ranges::of(0..25));
    let second = FakePeer::holding(2, &bytes, Behaviour::Honest, Ranges::of(20..60));
    let (_fakes, swarm) = fakes(vec![first, second]);
    read_all(&swarm, &bytes).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_bring_fails_and_says_why() {
    let bytes = file(10);
    let (_fakes, swarm) = fakes(Vec::new());
    assert_eq!(read_all(&swarm, &bytes).await.unwrap_err(), FetchError::NoSource);
    let (_fakes, swarm) = fakes(vec![FakePeer::new(1, &bytes, Behaviour::Changed)]);
    assert_eq!(read_all(&swarm, &bytes).await.unwrap_err(), FetchError::Gone);
    let (_fakes, swarm) = fakes(vec![FakePeer::new(1, &bytes, Behaviour::Vanishing(3))]);
    assert_eq!(read_all(&swarm, &bytes).await.unwrap_err(), FetchError::NoSource);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_arrives_is_used() {
    let bytes = file(100);
    let (fakes, swarm) = fakes(vec![FakePeer::new(1, &bytes, Behaviour::Vanishing(10))]);
    let late = FakePeer::new(2, &bytes, Behaviour::Honest);
    let arrives = async {
        while fakes.kept.lock().len() < 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fakes.peers.lock().push(Arc::clone(&late));
        fakes.changes.send_modify(|version| *version += 1);
    };
    let (report, ()) = tokio::join!(read_all(&swarm, &bytes), arrives);
    report.unwrap();
    assert!(late.asked() >= 80);
}

/// How long `read_all` took on the fakes' clock.
async fn timed(swarm: &Arc<Swarm>, bytes: &Bytes) -> (TransferReport, Duration) {
    let began = tokio::time::Instant::now();
    let report = read_all(swarm, bytes).await.unwrap();
    (report, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn unequal_sources_are_used_to_their_sum_by_a_reader() {
    let bytes = file(800);
    let rates = [1_250_000, 6_250_000, 25_000_000, 50_000_000];
    let peers = rates.iter().zip(1..).map(|(rate, tag)| FakePeer::new(tag, &bytes, Behaviour::Slow(*rate))).collect();
    let (_fakes, swarm) = fakes(peers);
    let (report, took) = timed(&swarm, &bytes).await;
    let ideal = bytes.len() as f64 / rates.iter().sum::<u64>() as f64;
    assert!(took.as_secs_f64() < ideal * 1.15, "{took:?} for {ideal} s: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_and_one_that_stops_cost_no_second() {
    let bytes = file(600);
    let rate = 25_000_000;
    let peers = vec![
        FakePeer::new(1, &bytes, Behaviour::Slow(rate)),
        FakePeer::new(2, &bytes, Behaviour::Vanishing(100)),
        FakePeer::new(3, &bytes, Behaviour::Stopping(rate, 60)),
        FakePeer::new(4, &bytes, Behaviour::Slow(rate)),
    ];
    let (_fakes, swarm) = fakes(peers);
    let content = manifest_of(&bytes).content();
    let transfer = swarm.join(content);
    let mut longest = Duration::ZERO;
    for index in 0..chunk_count(content.size) {
        transfer.ahead(&Ranges::of(index..(index + 256).min(chunk_count(content.size))));
        let began = tokio::time::Instant::now();
        transfer.chunk(index).await.unwrap();
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    let report = transfer.report();
    let stopped = report.sources.iter().find(|source| source.node == NodeId([3; 32])).unwrap();
    assert!(stopped.retries > 0 && stopped.limit == crate::swarm::report::Limit::Stalled, "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn liars_and_the_silent_cost_little_more_than_the_honest_one_needs() {
    let bytes = file(400);
    let honest = 25_000_000;
    let peers = vec![
        FakePeer::new(1, &bytes, Behaviour::Lying),
        FakePeer::new(2, &bytes, Behaviour::Silent),
        FakePeer::new(3, &bytes, Behaviour::Slow(honest)),
    ];
    let (_fakes, swarm) = fakes(peers);
    let (_, took) = timed(&swarm, &bytes).await;
    let alone = bytes.len() as f64 / honest as f64;
    assert!(took.as_secs_f64() < alone * 1.15, "{took:?}, alone {alone} s");
    let liar = &swarm.quarantine()[0];
    assert!(liar.node == NodeId([1; 32]) && liar.bad_chunks >= 1 && liar.files == 1);
    assert_eq!(swarm.quarantine().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_download_is_whole_and_waits_for_its_taker() {
    let bytes = file(900);
    let peers = (1..=3).map(|tag| FakePeer::new(tag, &bytes, Behaviour::Slow(100_000_000))).collect();
    let (fakes, swarm) = fakes(peers);
    let content = manifest_of(&bytes).content();
    let transfer = swarm.join(content);
    // A part is here before, and a reader reads along.
    for index in 500..510 {
        transfer.chunk(index).await.unwrap();
    }
    let mut download = transfer.download(&Ranges::of(0..900));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let kept = fakes.kept.lock().len();
    assert!((200..=300).contains(&kept), "{kept} chunks came that nobody has taken");
    transfer.chunk(800).await.unwrap();
    let mut there = Ranges::new();
    while let Some(chunk) = download.next().await {
        let chunk = chunk.unwrap();
        let start = chunk_start(chunk.index()) as usize;
        assert!(chunk.bytes() == &bytes.slice(start..start + chunk.bytes().len()));
        assert!(there.insert_one(chunk.index()), "twice");
    }
    assert_eq!(there, Ranges::of(0..900));
    assert!(download.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_given_up_asks_for_nothing_more() {
    let bytes = file(300);
    let peer = FakePeer::new(1, &bytes, Behaviour::Slow(10_000_000));
    let (_fakes, swarm) = fakes(vec![Arc::clone(&peer)]);
    let transfer = swarm.join(manifest_of(&bytes).content());
    let mut download = transfer.download(&Ranges::of(0..300));
    download.next().await.unwrap().unwrap();
    drop(download);
    let asked = peer.asked();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(asked < 20 && peer.asked() == asked);
    assert_eq!(transfer.report().state, TransferState::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_download_without_sources_says_so_and_goes_on_when_one_comes() {
    let bytes = file(50);
    let first = FakePeer::new(1, &bytes, Behaviour::Vanishing(10));
    let (fakes, swarm) = fakes(vec![first]);
    let transfer = swarm.join(manifest_of(&bytes).content());
    let mut download = transfer.download(&Ranges::of(0..50));
    let mut got = 0;
    loop {
        match download.next().await.unwrap() {
            Ok(_) => got += 1,
            Err(error) => break assert_eq!(error, FetchError::NoSource),
        }
    }
    assert_eq!(got, 10);
    fakes.peers.lock().push(FakePeer::new(2, &bytes, Behaviour::Honest));
    fakes.changes.send_modify(|version| *version += 1);
    while let Some(chunk) = download.next().await {
        got += usize::from(chunk.is_ok());
    }
    assert_eq!(got, 50);
}

#[tokio::test(start_paused = true)]
async fn downloaders_of_one_file_become_sources_and_hear_what_is_here() {
    let bytes = file(200);
    let content = manifest_of(&bytes).content();
    let source = FakePeer::new(1, &bytes, Behaviour::Slow(5_000_000));
    let other = FakePeer::holding(2, &bytes, Behaviour::Slow(50_000_000), Ranges::of(0..20));
    let (fakes, swarm) = fakes(vec![Arc::clone(&source)]);
    fakes.reachable.lock().push(Arc::clone(&other));
    let transfer = swarm.join(content);
    let mut download = transfer.download(&Ranges::of(0..200));
    let nodes = vec![Downloader { node: other.node(), addrs: Vec::new() }];
    swarm.heard_downloaders(content, nodes);
    let mut got = 0;
    while let Some(chunk) = download.next().await {
        chunk.unwrap();
        got += 1;
        if got == 40 {
            // It has got more meanwhile, and says so.
            other.gets(&Ranges::of(60..150));
            let link: Arc<dyn PeerLink> = Arc::clone(&other) as _;
            swarm.heard_held(&link, &content, &Ranges::of(60..150));
        }
    }
    assert_eq!(got, 200);
    let report = transfer.report();
    let part = report.sources.iter().find(|source| source.node == other.node()).unwrap();
    assert!(part.downloader && part.chunks > 60, "{part:?}");
    let told: Ranges = other
        .heard()
        .iter()
        .filter_map(
            |notice| if let Notice::Held { held, .. } = notice { Some(held.iter().collect::<Vec<_>>()) } else { None },
        )
        .flatten()
        .collect();
    assert!(told.len() > 150, "it heard of {told:?} only");
    assert!(source.heard().is_empty(), "a source that has everything need not know");
}

#[tokio::test(start_paused = true)]
async fn a_source_tells_its_downloaders_of_each_other() {
    let bytes = file(20);
    let content = manifest_of(&bytes).content();
    let (_fakes, swarm) = fakes(Vec::new());
    let peers: Vec<_> = (1..=3).map(|tag| FakePeer::new(tag, &bytes, Behaviour::Honest)).collect();
    for peer in peers.iter().chain(&peers) {
        let link: Arc<dyn PeerLink> = Arc::clone(peer) as _;
        swarm.downloader(&link, content);
    }
    let told = |peer: &FakePeer| -> Vec<NodeId> {
        let nodes = peer.heard().into_iter().filter_map(|notice| match notice {
            Notice::Downloaders { content: of, nodes } if of == content => Some(nodes),
            _ => None,
        });
        nodes.flatten().map(|downloader| downloader.node).collect()
    };
    assert_eq!(told(&peers[0]), vec![peers[1].node(), peers[2].node()]);
    assert_eq!(told(&peers[1]).len(), 2);
    assert_eq!(told(&peers[2]).len(), 2);
    swarm.disconnected(peers[0].node());
    assert_eq!(swarm.companions(&content, peers[1].node()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn hashes_that_one_source_does_not_bring_are_asked_of_another() {
    let bytes = file(300);
    let silent = FakePeer::new(1, &bytes, Behaviour::Silent);
    let good = FakePeer::new(2, &bytes, Behaviour::Slow(50_000_000));
    let (_fakes, swarm) = fakes(vec![silent, good]);
    let transfer = swarm.join(manifest_of(&bytes).content());
    let began = tokio::time::Instant::now();
    transfer.chunk(280).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Peers with a small file, the first one nearest, as they behave.
fn near_to_far(bytes: &Bytes, behaviours: &[Behaviour]) -> Vec<Arc<FakePeer>> {
    let peers = behaviours.iter().zip(1..).map(|(behaviour, tag)| {
        let peer = FakePeer::new(tag, bytes, behaviour.clone());
        peer.is_away(u64::from(tag) * 1000);
        peer
    });
    peers.collect()
}

fn opened(peers: &[Arc<FakePeer>]) -> Vec<u64> {
    peers.iter().map(|peer| peer.opened()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_small_file_was_asked_of_every_source_and_came_from_all() {
    let bytes = file(1);
    let peers = near_to_far(&bytes, &[const { Behaviour::Honest }; 5]);
    // In any order.
    let (_fakes, swarm) = fakes(peers.iter().rev().cloned().collect());
    let report = read_all(&swarm, &bytes).await.unwrap();
    assert_eq!(opened(&peers), [1, 0, 0, 0, 0]);
    assert_eq!(peers.iter().map(|peer| peer.asked()).sum::<u64>(), 1, "nor a second time from the same one");
    assert_eq!(report.sources.iter().map(|source| source.wire_bytes).sum::<u64>(), bytes.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_is_asked_of_the_next_source_when_one_fails_or_is_late() {
    for (bad, most) in [
        (Behaviour::Changed, 1),
        (Behaviour::Lying, 1),
        (Behaviour::Vanishing(0), 1),
        (Behaviour::Busy(1), 1),
        (Behaviour::Silent, 400),
    ] {
        let bytes = file(1);
        let peers = near_to_far(&bytes, &[bad.clone(), Behaviour::Honest, Behaviour::Honest]);
        let (_fakes, swarm) = fakes(peers.clone());
        let (_, took) = timed(&swarm, &bytes).await;
        assert_eq!(opened(&peers), [1, 1, 0], "{bad:?}");
        assert!(took <= Duration::from_millis(most), "{bad:?}: {took:?}");
    }
    // One that is slow and moves is not late.
    let bytes = file(1);
    let peers = near_to_far(&bytes, &[Behaviour::Slow(2_000_000), Behaviour::Honest]);
    let (_fakes, swarm) = fakes(peers.clone());
    read_all(&swarm, &bytes).await.unwrap();
    assert_eq!(opened(&peers), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_that_few_of_many_peers_may_have_is_found_soon_or_given_up_soon() {
    let bytes = file(1);
    let many = |last: Behaviour| {
        let mut behaviours = vec![Behaviour::Silent; 63];
        behaviours.push(last);
        near_to_far(&bytes, &behaviours)
    };
    let (_fakes, swarm) = fakes(many(Behaviour::Honest));
    let (_, took) = timed(&swarm, &bytes).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    let none = near_to_far(&bytes, &vec![Behaviour::Changed; 64]);
    let (_fakes, swarm) = fakes(none.clone());
    let began = tokio::time::Instant::now();
    assert_eq!(read_all(&swarm, &bytes).await.unwrap_err(), FetchError::Gone);
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(opened(&none), [1; 64]);
}

#[tokio::test(start_paused = true)]
async fn a_small_file_that_left_the_cache_is_fetched_again() {
    let bytes = file(1);
    let peers = near_to_far(&bytes, &[Behaviour::Honest, Behaviour::Honest]);
    let (fakes, swarm) = fakes(peers.clone());
    let transfer = swarm.join(manifest_of(&bytes).content());
    transfer.chunk(0).await.unwrap();
    fakes.kept.lock().clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    transfer.chunk(0).await.unwrap();
    assert_eq!(opened(&peers), [1, 0]);
    // And from the other, once the first has gone.
    fakes.kept.lock().clear();
    peers[0].close();
    fakes.changes.send_modify(|version| *version += 1);
    transfer.chunk(0).await.unwrap();
    assert_eq!(opened(&peers), [1, 1]);
}
