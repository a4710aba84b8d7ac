//! The messages that nodes and trackers exchange inside a secure session. Serde enums in MessagePack; chunk bytes are
//! not in here but follow a bulk frame's header raw (see `frame`). docs/WIRE.md describes them to the byte.
//!
//! Everything here comes from outside: sizes are bounded by the frame's cap, counts are checked where they are used.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::ids::{ContentId, NodeId, SubtreeHash};
use crate::base::ranges::Ranges;

/// The newest protocol version that this build speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// A question. Each gets exactly one [`Response`] (or one bulk frame) under its request id, unless it is cancelled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A sign of life.
    Ping,
    /// Where do your catalogs stand, and who is alive? What I know sums up to this.
    Sums(Sums),
    /// Which catalogs do you have of the nodes in these buckets? Mine are these.
    Versions {
        /// Of which nodes.
        buckets: Buckets,
        /// Where the asker's stand.
        versions: Vec<CatalogVersion>,
    },
    /// Whom do you know in these buckets? I know these.
    Members {
        /// Of which nodes.
        buckets: Buckets,
        /// Whom the asker knows.
        members: Vec<MemberRecord>,
    },
    /// Bring me forward on one node's catalog.
    Catalog(CatalogRequest),
    /// What do you hold of this file, how is it proved, and, if it is one chunk or less, what is in it?
    Open(ContentId),
    /// The chunk hashes of one group.
    Group {
        /// The file.
        content: ContentId,
        /// Which group of it.
        group: u64,
    },
    /// One chunk; answered by a bulk frame, [`Response::NotHere`] or [`Response::Changed`].
    Chunk {
        /// The file.
        content: ContentId,
        /// Which chunk of it.
        index: u64,
    },
    /// To a tracker: I am here.
    Announce(Announce),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Ping`].
    Pong,
    /// To [`Request::Sums`]: the sum of each bucket, or nothing where all of them are the asker's.
    Sums {
        /// Of catalogs: empty, or `BUCKETS` sums.
        catalogs: Vec<u64>,
        /// Of members: the same.
        members: Vec<u64>,
    },
    /// To [`Request::Versions`]: those in which the answerer is ahead.
    Versions(Vec<CatalogVersion>),
    /// To [`Request::Members`]: what the asker does not know.
    Members(Vec<MemberRecord>),
    /// To [`Request::Catalog`].
    Catalog(CatalogAnswer),
    /// To [`Request::Open`].
    Opened(Opened),
    /// To [`Request::Group`].
    Group(Vec<SubtreeHash>),
    /// NACK: not this chunk (or file); these are the chunks that I do hold, possibly none.
    NotHere(Ranges),
    /// The file has changed since it was published; it is being indexed again.
    Changed,
    /// I can't serve now (too many requests); ask again later or ask somebody else.
    Busy,
    /// I will not answer that: malformed, or not for this session's network.
    Refused,
    /// To [`Request::Announce`].
    Announced(Announced),
}

/// Said without a question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// These catalogs of mine moved.
    Versions(Vec<CatalogVersion>),
    /// I hold more of a file than I said: said by a downloader as it goes on, to those who download the same file.
    Held {
        /// The file.
        content: ContentId,
        /// What I hold of it beyond what I said before.
        held: Ranges,
    },
    /// This is what you gave me.
    Receipt(SignedReceipt),
    /// This is what others say that I gave them.
    Receipts(Vec<SignedReceipt>),
    /// These download a file that you download too: they may have parts of it. Said by its sources.
    Downloaders {
        /// The file.
        content: ContentId,
        /// Who, at most `MAX_TOLD`; more are not looked at.
        nodes: Vec<Downloader>,
    },
    /// I can't reach this node, with which you may have a session: tell it to call me. Said only to those whose handshake
    /// says that they know this.
    Call(NodeId),
    /// This node, with which I have a session, can't reach you and asks you to call it. Said under the same condition.
    Called(Caller),
    /// Nothing passes on this session, so I close it. I am still there.
    Idle,
    /// I am leaving, properly.
    Bye,
}

/// What a node knows, summed up twice: two nodes that know the same have the same sums (`catalog::sums`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sums {
    /// Of where its catalogs stand.
    pub catalogs: u64,
    /// Of who is alive.
    pub members: u64,
}

/// A set of buckets (`catalog::sums`): bit `n % 8` of byte `n / 8` is bucket `n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Buckets(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// What gossip knows of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Who.
    pub node: NodeId,
    /// Which of its lives: seconds since 1970 when it began.
    pub generation: u32,
    /// How often it refuted in that life that it was dead.
    pub incarnation: u16,
    /// It died, or left.
    pub down: bool,
    /// Where it can be reached.
    pub addr: SocketAddr,
}

/// What one node attests to have got from another (`swarm::uploads::receipt`, encoded and signed).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// The receipt.
    pub message: serde_bytes::ByteBuf,
    /// The attester's signature.
    pub signature: serde_bytes::ByteBuf,
}

/// One downloader of a file, in [`Notice::Downloaders`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Downloader {
    /// Who.
    pub node: NodeId,
    /// Where it accepts sessions, as it said.
    pub addrs: Vec<SocketAddr>,
}

/// Who wants to be called, in [`Notice::Called`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// Who.
    pub node: NodeId,
    /// Where it accepts sessions, as whoever passes this on sees it; `MAX_CALLER_ADDRS` at most, more are not looked at.
    pub addrs: Vec<SocketAddr>,
}

/// Where one node's catalog stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatalogVersion {
    /// Whose catalog.
    pub node: NodeId,
    /// Grows when the node lost its state.
    pub epoch: u64,
    /// Grows with each delta, from 1 within an epoch.
    pub version: u64,
}

/// Asks for a catalog, whole or from a version on. A whole one is fetched in parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatalogRequest {
    /// Whose catalog.
    pub node: NodeId,
    /// What the asker has: `(epoch, version)`. `None`: nothing.
    pub have: Option<(u64, u64)>,
    /// For a snapshot in several parts: which snapshot `(epoch, version)` and which part of it. `None` for the first request.
    pub part: Option<(u64, u64, u32)>,
}

/// What the owner, or somebody who passes it on, has for the asker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatalogAnswer {
    /// Nothing newer than what you have, or nothing at all.
    UpToDate,
    /// Signed deltas that follow what the asker has, in order (`catalog::signed`, encoded). Where they lead over a snapshot of
    /// the owner's, its signed header too: the asker can make the body itself.
    Deltas(Vec<serde_bytes::ByteBuf>, Option<serde_bytes::ByteBuf>),
    /// A signed snapshot header and one part of its body. Ask for parts `1..parts` the same way; when all are here the
    /// header's signature covers the hash of the whole body.
    Snapshot {
        /// The signed header (`catalog::signed`, encoded).
        header: serde_bytes::ByteBuf,
        /// Which part this is.
        part: u32,
        /// How many there are.
        parts: u32,
        /// The part's bytes.
        body: serde_bytes::ByteBuf,
    },
}

/// To [`Request::Open`]: what the peer holds of a file and how it is proved. Doubles as the handshake of a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Chunks that this peer can send.
    pub held: Ranges,
    /// The manifest's first level; empty for an empty file.
    pub groups: Vec<SubtreeHash>,
    /// The chunk hashes of the first group, so that reading can begin without another round trip.
    pub first_group: Vec<SubtreeHash>,
    /// The whole content, if the file is at most one chunk (and at most `INLINE_CONTENT` bytes).
    pub content: Option<serde_bytes::ByteBuf>,
    /// How many requests this peer is willing to have open with us.
    pub max_requests: u32,
}

/// To a tracker: presence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announce {
    /// Where other nodes reach this one. A port alone (address unspecified) means: at the address you see me come from.
    pub addrs: Vec<SocketAddr>,
    /// The feed position of the last answer; 0 for everything.
    pub since: u64,
    /// The tracker's run of that answer; 0 at first.
    pub boot: u64,
    /// `begun` of that answer: see there.
    pub begun: u64,
    /// True: take me off the list now.
    pub leaving: bool,
}

/// From a tracker: what changed since the asker's last answer, as much of it as one answer carries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announced {
    /// Feed position of this answer.
    pub at: u64,
    /// Which run of the tracker; a new one means: start over from 0.
    pub boot: u64,
    /// True if the whole list begins here: forget what you had.
    pub whole: bool,
    /// While the older half of the whole list is being told: where the newer half began when that did. 0 otherwise.
    pub begun: u64,
    /// True if there is more already: ask again at once.
    pub more: bool,
    /// What changed, in order. The asker itself may be among it.
    pub changes: Vec<TrackedNode>,
    /// Ping again after this many milliseconds.
    pub ping_every_ms: u32,
}

/// One node as a tracker knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrackedNode {
    /// Who.
    pub node: NodeId,
    /// Where it is reached; `None`: it is gone.
    pub addrs: Option<Vec<SocketAddr>>,
}
