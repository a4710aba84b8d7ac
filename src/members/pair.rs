//! Memberships of one network that are joined in memory, for tests.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use ed25519_dalek::{Signer, SigningKey};
use tokio::sync::watch;

use super::membership::{Around, Membership};
use super::pending::Pending;
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NetworkId, NodeId, Root};
use crate::base::names::ValidPath;
use crate::catalog::entry::Entry;
use crate::net::handshake::{Identity, Kind};
use crate::net::link::{LinkError, LinkStats, PeerAddr, PeerLink, RawChunk};
use crate::vault::keys::{NameKey, NetworkKey};
use crate::vault::network::{Network, NetworkSecret};
use crate::vault::sealer::Sealer;
use crate::wire::message::{Notice, Request, Response};

/// A membership of the node whose identity is made of `tag`, with its state in `dir`.
pub fn member(tag: u8, dir: &Path) -> Arc<Membership> {
    member_with(tag, dir, Pending::default())
}

/// The same, whose first view waits for `pending`.
pub fn member_with(tag: u8, dir: &Path, pending: Pending) -> Arc<Membership> {
    // Its other end lives for as long as the test.
    let (whole, whole_changes) = watch::channel(0);
    std::mem::forget(whole);
    member_around(tag, dir, pending, whole_changes)
}

/// The same, which hears of changes in its cache.
pub fn member_around(tag: u8, dir: &Path, pending: Pending, whole_changes: watch::Receiver<u64>) -> Arc<Membership> {
    member_made(tag, dir, pending, whole_changes, |_| ())
}

/// The same, whose surroundings are changed before it begins.
pub fn member_but(tag: u8, dir: &Path, change: impl FnOnce(&mut Around)) -> Arc<Membership> {
    let (whole, whole_changes) = watch::channel(0);
    std::mem::forget(whole);
    member_made(tag, dir, Pending::default(), whole_changes, change)
}

fn member_made(
    tag: u8,
    dir: &Path,
    pending: Pending,
    whole_changes: watch::Receiver<u64>,
    change: impl FnOnce(&mut Around),
) -> Arc<Membership> {
    let key = SigningKey::from_bytes(&[tag; 32]);
    let node = NodeId(key.verifying_key().to_bytes());
    let sign = Arc::new(move |message: &[u8]| key.sign(message).to_bytes());
    let mut around = Around {
        identity: Identity { node, sign, name: tag.to_string(), listens: Vec::new() },
        sealer: Arc::new(Sealer::new(&NameKey::from_bytes([1; 32]))),
        state_dir: dir.into(),
        linger: Duration::ZERO,
        peers: Vec::new(),
        remember: true,
        mesh: 0,
        datagrams: None,
        whole: Box::new(|_| false),
        whole_changes,
        service: OnceLock::new(),
    };
    change(&mut around);
    let around = Arc::new(around);
    let network = Network::new("lab", NetworkSecret::Member(NetworkKey::from_bytes([7; 32])), Vec::new()).unwrap();
    let membership = Membership::load(&network, around, pending).unwrap();
    membership.begin();
    membership
}

/// One side of a session in memory.
pub struct Wire {
    me: NodeId,
    peer: Arc<Membership>,
    back: OnceLock<Weak<Wire>>,
    calls: bool,
    over: Arc<watch::Sender<bool>>,
    /// The peer says what it has and never answers when it is asked for it.
    pub silent: AtomicBool,
    /// What this side says without being asked gets lost.
    pub deaf: AtomicBool,
    /// Nobody has used it for a long time.
    pub unused: AtomicBool,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({} to {})", self.me.short(4), self.peer.around.identity.node.short(4))
    }
}

/// Joins two: `a`'s side of the session, and `b`'s.
pub fn connect(a: &Arc<Membership>, b: &Arc<Membership>) -> (Arc<Wire>, Arc<Wire>) {
    let over = Arc::new(watch::channel(false).0);
    let side = |me: &Arc<Membership>, peer: &Arc<Membership>, calls| {
        let (me, peer, over) = (me.around.identity.node, Arc::clone(peer), Arc::clone(&over));
        Arc::new(Wire {
            me,
            peer,
            back: OnceLock::new(),
            calls,
            over,
            silent: false.into(),
            deaf: false.into(),
            unused: false.into(),
        })
    };
    let (to_b, to_a) = (side(a, b, true), side(b, a, false));
    let _ = (to_b.back.set(Arc::downgrade(&to_a)), to_a.back.set(Arc::downgrade(&to_b)));
    a.connected(Arc::clone(&to_b) as _);
    b.connected(Arc::clone(&to_a) as _);
    (to_b, to_a)
}

impl Wire {
    fn back(&self) -> Option<Arc<dyn PeerLink>> {
        Some(self.back.get()?.upgrade()? as _)
    }
}

#[async_trait]
impl PeerLink for Wire {
    fn node(&self) -> NodeId {
        self.peer.around.identity.node
    }

    fn network(&self) -> NetworkId {
        self.peer.id()
    }

    fn kind(&self) -> Kind {
        Kind::Member
    }

    fn name(&self) -> &str {
        "wire"
    }

    fn we_called(&self) -> bool {
        self.calls
    }

    fn remote(&self) -> PeerAddr {
        PeerAddr::Tcp(([127, 0, 0, 1], 1).into())
    }

    fn addrs(&self) -> &[PeerAddr] {
        &[]
    }

    fn passes_calls(&self) -> bool {
        true
    }

    async fn request(&self, request: Request) -> Result<Response, LinkError> {
        tokio::task::yield_now().await;
        if self.silent.load(Ordering::Relaxed) && matches!(request, Request::Catalog(_)) {
            std::future::pending::<()>().await;
        }
        let back = self.back().filter(|_| !self.is_closed()).ok_or(LinkError::Closed)?;
        self.peer.answer(&back, &request).ok_or(LinkError::Refused)
    }

    async fn chunk(&self, _: ContentId, _: u64) -> Result<RawChunk, LinkError> {
        Err(LinkError::Refused)
    }

    fn notify(&self, notice: Notice) {
        // Not at once: the one who says it may hold a lock.
        if let Some(back) = self.back().filter(|_| !self.is_closed() && !self.deaf.load(Ordering::Relaxed)) {
            let peer = Arc::clone(&self.peer);
            tokio::spawn(async move { peer.notice(&back, notice) });
        }
    }

    fn is_closed(&self) -> bool {
        *self.over.borrow()
    }

    async fn closed(&self) {
        // The sender is in `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    fn close(&self) {
        self.over.send_replace(true);
    }

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }

    fn unused_for(&self) -> Duration {
        if self.unused.load(Ordering::SeqCst) { Duration::from_secs(3600) } else { Duration::ZERO }
    }
}

/// Entries, one for each name.
pub fn entries(names: &[&str]) -> Vec<Entry> {
    let entry = |name: &&str| Entry {
        path: ValidPath::new(name.as_bytes()).unwrap(),
        content: ContentId { root: Root(*blake3::hash(name.as_bytes()).as_bytes()), size: 1 },
        mtime: Timestamp::default(),
        executable: false,
    };
    names.iter().map(entry).collect()
}

/// One entry, whose root is made of `tag`.
pub fn entries_at(name: &str, tag: u8) -> Vec<Entry> {
    let mut entries = entries(&[name]);
    entries[0].content.root = Root([tag; 32]);
    entries
}

/// Waits until `what` holds.
pub async fn until(what: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(3600), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it did not come");
}
