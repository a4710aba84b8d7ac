//! A peer as the layers above see it: something that answers requests. Never a socket, never an IP address.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::handshake::Kind;
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::base::ranges::Ranges;
use crate::wire::message::{Notice, Request, Response};

/// Where a peer can be reached. An enum, so that a transport through NATs can be added beside TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerAddr {
    /// TCP.
    Tcp(SocketAddr),
}

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The session is over; another may be opened.
    #[error("the peer is gone")]
    Closed,
    /// NACK: the peer holds these chunks of the file, and not the one asked for.
    #[error("the peer does not hold that")]
    NotHere(Ranges),
    /// The peer's copy changed; it is no source of this content any more.
    #[error("the peer's file has changed")]
    Changed,
    /// The peer has too much to do.
    #[error("the peer is busy")]
    Busy,
    /// The peer will not answer this.
    #[error("the peer refused")]
    Refused,
    /// The peer broke the protocol; its session has been closed.
    #[error("the peer broke the protocol")]
    Protocol,
}

/// Chunk bytes as a peer sent them, decompressed (bounded by the chunk's size) but **not verified**.
#[derive(Clone, Debug)]
pub struct RawChunk {
    /// Plain bytes, unverified.
    pub bytes: Bytes,
    /// Bytes that came over the wire for it.
    pub wire_len: usize,
}

/// Counters of one session, since it opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    /// Bytes received, encrypted.
    pub received: u64,
    /// Bytes sent, encrypted.
    pub sent: u64,
    /// Smoothed round-trip time of control requests, in microseconds; 0 if not measured yet.
    pub rtt_micros: u64,
}

/// A live, authenticated session with one peer. Requests are pipelined: call as often as needed before the first
/// answer. **Dropping a future cancels its request**, at the other end too. Deadlines are the caller's business; when
/// the session ends, every waiting request gets [`LinkError::Closed`].
#[async_trait]
pub trait PeerLink: Send + Sync + fmt::Debug {
    /// Who the peer is; proved by the handshake.
    fn node(&self) -> NodeId;
    /// The network that both sides proved to belong to.
    fn network(&self) -> NetworkId;
    /// Whether this is a session between members or with a tracker.
    fn kind(&self) -> Kind;
    /// True if this side opened the session.
    fn we_called(&self) -> bool;
    /// Where the session comes from or goes to.
    fn remote(&self) -> PeerAddr;
    /// Where the peer says that it accepts sessions.
    fn addrs(&self) -> &[PeerAddr];
    /// True if the peer knows the notices that ask a node to call another: nobody else may be told them.
    fn passes_calls(&self) -> bool {
        false
    }
    /// The name that the peer gave itself; valid UTF-8, at most `MAX_NODE_NAME` bytes, not escaped.
    fn name(&self) -> &str;
    /// Asks for anything but a chunk. NACKs and refusals come back as errors, other answers as they are.
    async fn request(&self, request: Request) -> Result<Response, LinkError>;
    /// Asks for a chunk. The answer is not verified.
    async fn chunk(&self, content: ContentId, index: u64) -> Result<RawChunk, LinkError>;
    /// Says something without waiting. Dropped silently if the session is over or its queue is full.
    fn notify(&self, notice: Notice);
    /// True once the session is over.
    fn is_closed(&self) -> bool;
    /// Returns when the session is over.
    async fn closed(&self);
    /// Ends the session.
    fn close(&self);
    /// Counters.
    fn stats(&self) -> LinkStats;
    /// For how long neither side has asked the other for a catalog or for anything of a file.
    fn unused_for(&self) -> Duration {
        Duration::ZERO
    }
}

/// What a node does with what a peer asks and says. One per daemon; called concurrently, on tokio's workers, so it must
/// not block them: disk and hashing go to threads of their own.
#[async_trait]
pub trait Service: Send + Sync {
    /// A session is up, from either side.
    async fn connected(&self, link: Arc<dyn PeerLink>);
    /// Answers one request. Dropped when the peer cancels or goes.
    async fn request(&self, link: &Arc<dyn PeerLink>, request: Request) -> Answer;
    /// Hears one notice.
    async fn notice(&self, link: &Arc<dyn PeerLink>, notice: Notice);
    /// So many bytes came in on some session; nothing more is read from it until this returns. For a limit on the rate.
    async fn received(&self, _bytes: usize) {}
}

/// What a [`Service`] answers.
pub enum Answer {
    /// A message.
    Message(Response),
    /// A chunk's plain bytes, verified by the source; the session compresses where it pays.
    Chunk(Bytes, UntilSent),
}

/// Something that is dropped once the answer that it came with has been handed to the network, or never will be.
pub type UntilSent = Option<Box<dyn Send>>;
