//! One side of a simulated session, as [`PeerLink`], for the roster and the list of fetches; and what messages weigh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;

use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::net::handshake::Kind as SessionKind;
use crate::net::link::{LinkError, LinkStats, PeerAddr, PeerLink, RawChunk};
use crate::vault::datagram::OVERHEAD;
use crate::wire::frame::HEADER;
use crate::wire::message::{Notice, Request, Response};

/// UDP and IP headers.
const UDP: usize = 28;
/// TCP and IP headers, with time stamps; and so much a pure acknowledgement is.
pub const TCP: usize = 52;
/// Bytes of a message's in one packet.
const SEGMENT: usize = 1448;
/// What Noise adds to a message.
const NOISE: usize = 2 + 16;
/// Opening a session: TCP's handshake, the preamble and the three messages of Noise, with their headers.
pub const OPENING: usize = 1000;

/// What bytes are spent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spent {
    Probes,
    Gossip,
    Pings,
    Opening,
    Comparing,
    Catalogs,
}

pub const SPENT: [Spent; 6] =
    [Spent::Probes, Spent::Gossip, Spent::Pings, Spent::Opening, Spent::Comparing, Spent::Catalogs];

/// What sessions share: the clock in milliseconds, and which sides were closed.
#[derive(Debug, Default)]
pub struct Shared {
    pub now: AtomicU64,
    pub closed: Mutex<Vec<(u64, usize)>>,
}

/// See the module.
#[derive(Debug)]
pub struct SimLink {
    /// Which session, and which side of it: 0 called, 1 was called.
    pub session: u64,
    pub side: usize,
    pub peer: NodeId,
    pub addrs: Vec<PeerAddr>,
    pub closed: AtomicBool,
    /// When either side last asked for a catalog, in milliseconds.
    pub used: Arc<AtomicU64>,
    pub shared: Arc<Shared>,
}

impl SimLink {
    pub fn addr(&self) -> SocketAddr {
        let PeerAddr::Tcp(addr) = self.addrs[0];
        addr
    }
}

#[async_trait]
impl PeerLink for SimLink {
    fn node(&self) -> NodeId {
        self.peer
    }

    fn network(&self) -> NetworkId {
        super::world::NETWORK
    }

    fn kind(&self) -> SessionKind {
        SessionKind::Member
    }

    fn we_called(&self) -> bool {
        self.side == 0
    }

    fn remote(&self) -> PeerAddr {
        self.addrs[0]
    }

    fn addrs(&self) -> &[PeerAddr] {
        &self.addrs
    }

    fn name(&self) -> &str {
        "simulated"
    }

    async fn request(&self, _: Request) -> Result<Response, LinkError> {
        Err(LinkError::Refused)
    }

    async fn chunk(&self, _: ContentId, _: u64) -> Result<RawChunk, LinkError> {
        Err(LinkError::Refused)
    }

    fn notify(&self, _: Notice) {}

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    async fn closed(&self) {}

    fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.shared.closed.lock().push((self.session, self.side));
        }
    }

    /// Nothing of the kind: which session, and which side of it, for whoever has a [`PeerLink`] alone.
    fn stats(&self) -> LinkStats {
        LinkStats { received: self.session, sent: self.side as u64, rtt_micros: 0 }
    }

    fn unused_for(&self) -> Duration {
        let since = self.shared.now.load(Ordering::Relaxed).saturating_sub(self.used.load(Ordering::Relaxed));
        Duration::from_millis(since)
    }
}

/// Which session a link is of, and which side of it.
pub fn place(link: &Arc<dyn PeerLink>) -> (u64, usize) {
    let stats = link.stats();
    (stats.received, stats.sent as usize)
}

/// Bytes of a datagram, sealed, with its headers.
pub fn datagram(letter: &[u8]) -> usize {
    UDP + OVERHEAD + letter.len()
}

/// What a letter of gossip is for: signs of life that are asked for and given, or news.
pub fn spent_on(letter: &[u8]) -> Spent {
    if letter.first().is_some_and(|kind| (1..=6).contains(kind)) { Spent::Probes } else { Spent::Gossip }
}

struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes of a message in a session, with all that the network adds, but for its acknowledgement.
pub fn framed(message: &impl Serialize) -> usize {
    let mut count = Count(HEADER + NOISE);
    message.serialize(&mut rmp_serde::Serializer::new(&mut count)).unwrap();
    count.0 + count.0.div_ceil(SEGMENT) * TCP
}
