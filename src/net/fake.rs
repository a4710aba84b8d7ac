//! Peers in memory for tests: honest, slow, lying, silent, vanishing, holding a part. They run under tokio's paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::handshake::Kind;
use super::link::{LinkError, LinkStats, PeerAddr, PeerLink, RawChunk};
use crate::base::chunks::{CHUNK, chunk_count, chunk_len, chunk_start};
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::base::ranges::Ranges;
use crate::base::tree::{Manifest, manifest_of};
use crate::wire::message::{Notice, Opened, Request, Response};

/// How a fake peer behaves.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers at once.
    Honest,
    /// Brings this many bytes per second, one chunk after the other.
    Slow(u64),
    /// Sends wrong bytes.
    Lying,
    /// Never answers a request for a chunk, nor a ping.
    Silent,
    /// Is gone after this many chunks.
    Vanishing(u64),
    /// Says that its file has changed.
    Changed,
    /// Is too busy for this many requests.
    Busy(u64),
    /// Can't say for so many times that it is asked what it holds: it has only begun.
    Beginning(u64),
    /// Brings this many bytes per second until it has brought this many chunks, and then nothing, while its session stays.
    Stopping(u64, u64),
}

/// A peer that holds one file.
pub struct FakePeer {
    node: NodeId,
    bytes: Bytes,
    manifest: Manifest,
    held: Mutex<Ranges>,
    behaviour: Behaviour,
    heard: Mutex<Vec<Notice>>,
    asked: AtomicU64,
    opened: AtomicU64,
    rtt_micros: AtomicU64,
    received: AtomicU64,
    turn: tokio::sync::Mutex<()>,
    over: watch::Sender<bool>,
}

impl std::fmt::Debug for FakePeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakePeer({}, {:?})", self.node.short(4), self.behaviour)
    }
}

impl FakePeer {
    /// A peer whose id is made of `tag`, with all of `bytes`.
    pub fn new(tag: u8, bytes: &Bytes, behaviour: Behaviour) -> Arc<Self> {
        Self::holding(tag, bytes, behaviour, Ranges::of(0..chunk_count(bytes.len() as u64)))
    }

    /// A peer that holds a part.
    pub fn holding(tag: u8, bytes: &Bytes, behaviour: Behaviour, held: Ranges) -> Arc<Self> {
        Arc::new(Self {
            node: NodeId([tag; 32]),
            manifest: manifest_of(bytes),
            bytes: bytes.clone(),
            held: Mutex::new(held),
            behaviour,
            heard: Mutex::default(),
            asked: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            rtt_micros: AtomicU64::new(100),
            received: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
            over: watch::channel(false).0,
        })
    }

    /// It holds these too from now on.
    pub fn gets(&self, more: &Ranges) {
        self.held.lock().union_with(more);
    }

    /// What was said to it.
    pub fn heard(&self) -> Vec<Notice> {
        self.heard.lock().clone()
    }

    /// Chunk requests so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// How often it was asked what it holds.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// From now on its link tells this round trip.
    pub fn is_away(&self, micros: u64) {
        self.rtt_micros.store(micros, Ordering::SeqCst);
    }

    /// What comes with the opening: all of a small file, when it would bring it.
    async fn content(&self) -> Result<Option<serde_bytes::ByteBuf>, LinkError> {
        let content = self.manifest.content();
        if !(1..=CHUNK).contains(&content.size) {
            return Ok(None);
        }
        let bytes = self.chunk(content, 0).await?.bytes;
        Ok(Some(bytes.to_vec().into()))
    }

    fn real(&self, index: u64) -> Bytes {
        let start = chunk_start(index) as usize;
        self.bytes.slice(start..start + chunk_len(self.bytes.len() as u64, index))
    }
}

#[async_trait]
impl PeerLink for FakePeer {
    fn node(&self) -> NodeId {
        self.node
    }

    fn network(&self) -> NetworkId {
        NetworkId([0; 32])
    }

    fn kind(&self) -> Kind {
        Kind::Member
    }

    fn name(&self) -> &str {
        "fake"
    }

    fn we_called(&self) -> bool {
        true
    }

    fn remote(&self) -> PeerAddr {
        PeerAddr::Tcp(([127, 0, 0, 1], 1).into())
    }

    fn addrs(&self) -> &[PeerAddr] {
        &[]
    }

    async fn request(&self, request: Request) -> Result<Response, LinkError> {
        if self.is_closed() {
            return Err(LinkError::Closed);
        }
        match request {
            Request::Open(content) if content == self.manifest.content() => {
                let before = self.opened.fetch_add(1, Ordering::SeqCst);
                if matches!(self.behaviour, Behaviour::Beginning(times) if before < times) {
                    return Err(LinkError::Busy);
                }
                let content = self.content().await?;
                Ok(Response::Opened(Opened {
                    held: self.held.lock().clone(),
                    groups: self.manifest.groups(),
                    first_group: self.manifest.group(0).to_vec(),
                    content,
                    max_requests: 64,
                }))
            }
            Request::Group { content, group } if content == self.manifest.content() => {
                Ok(Response::Group(self.manifest.group(group).to_vec()))
            }
            Request::Ping if matches!(self.behaviour, Behaviour::Silent) => std::future::pending().await,
            Request::Ping => Ok(Response::Pong),
            _ => Err(LinkError::Refused),
        }
    }

    async fn chunk(&self, content: ContentId, index: u64) -> Result<RawChunk, LinkError> {
        let before = self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_closed() {
            return Err(LinkError::Closed);
        }
        if content != self.manifest.content() || !self.held.lock().contains(index) {
            return Err(LinkError::NotHere(self.held.lock().clone()));
        }
        let mut bytes = self.real(index);
        match self.behaviour {
            Behaviour::Honest | Behaviour::Beginning(_) => tokio::task::yield_now().await,
            Behaviour::Slow(rate) => {
                let _turn = self.turn.lock().await;
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64)).await;
            }
            Behaviour::Stopping(_, after) if before >= after => std::future::pending().await,
            Behaviour::Stopping(rate, _) => {
                let _turn = self.turn.lock().await;
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / rate as f64)).await;
            }
            Behaviour::Lying => {
                let mut wrong = bytes.to_vec();
                wrong[0] ^= 1;
                bytes = wrong.into();
            }
            Behaviour::Silent => std::future::pending().await,
            Behaviour::Vanishing(after) if before >= after => {
                self.close();
                return Err(LinkError::Closed);
            }
            Behaviour::Vanishing(_) => {}
            Behaviour::Changed => return Err(LinkError::Changed),
            Behaviour::Busy(times) if before < times => return Err(LinkError::Busy),
            Behaviour::Busy(_) => {}
        }
        self.received.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(RawChunk { wire_len: bytes.len(), bytes })
    }

    fn notify(&self, notice: Notice) {
        self.heard.lock().push(notice);
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
        LinkStats {
            received: self.received.load(Ordering::SeqCst),
            sent: 0,
            rtt_micros: self.rtt_micros.load(Ordering::SeqCst),
        }
    }
}
