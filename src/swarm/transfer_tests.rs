//! Transfers over fake peers, on tokio's paused clock: every behaviour of a source ends with the right bytes or a clear error.

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::*;
use crate::base::chunks::{CHUNK, chunk_len, chunk_start};
use crate::base::tree::{Proof, manifest_of};
use crate::net::fake::{Behaviour, FakePeer};
use crate::swarm::swarm::{Finder, Keep, Swarm};

struct Fakes {
    peers: Mutex<Vec<Arc<FakePeer>>>,
    changes: watch::Sender<u64>,
    kept: Mutex<Vec<VerifiedChunk>>,
}

impl Finder for Fakes {
    fn sources(&self, _: &ContentId) -> Vec<Arc<dyn PeerLink>> {
        self.peers.lock().iter().map(|peer| Arc::clone(peer) as _).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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
    let fakes = Arc::new(Fakes { peers: Mutex::new(peers), changes: watch::channel(0).0, kept: Mutex::default() });
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
