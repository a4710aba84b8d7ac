//! Serving: what this node holds of a file, from its shares and its cache, to peers of the network that the file
//! belongs to, those who contribute first. Disk and hashing run on blocking threads; what leaves here has been verified.

pub mod admission;
mod credits;
mod gate;
mod hearing;
mod jobs;
mod ledger;
mod receipt;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use bytes::Bytes;

use admission::UploadLimits;
use credits::{Credits, MAX_SHOWN};
use gate::Gate;
use hearing::Hearing;
use jobs::Jobs;
use ledger::Ledger;
use receipt::Receipt;

use crate::base::chunks::{CHUNK, chunk_count, chunk_len, group_count};
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::base::quiet::may_log;
use crate::base::ranges::Ranges;
use crate::base::tree::Proof;
use crate::cache::Cache;
use crate::net::handshake::{Identity, Sign};
use crate::net::link::{Answer, PeerLink};
use crate::share::source::{SourceError, Sources};
use crate::wire::message::{Notice, Opened, Request, Response, SignedReceipt};

/// A file of at most this many bytes comes with the answer to its opening: one round trip for a small file.
pub const INLINE_CONTENT: u64 = CHUNK;
/// Requests that a peer may have open here, as told in each opening.
const REQUESTS: u32 = 256;

/// What this node can give, and to whom first.
pub struct Uploads {
    own: NodeId,
    sign: Sign,
    sources: Arc<Sources>,
    cache: Arc<Cache>,
    gate: Arc<Gate>,
    ledger: Mutex<Ledger>,
    credits: Mutex<Credits>,
    hearing: Mutex<Hearing>,
    jobs: Jobs,
}

impl Uploads {
    /// From the shares' sources and the cache, in the name of `identity`.
    pub fn new(
        identity: &Identity,
        sources: Arc<Sources>,
        cache: Arc<Cache>,
        limits: UploadLimits,
        runtime: &Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            own: identity.node,
            sign: Arc::clone(&identity.sign),
            sources,
            cache,
            gate: Gate::new(limits, runtime),
            ledger: Mutex::new(Ledger::new(identity.node)),
            credits: Mutex::default(),
            hearing: Mutex::default(),
            jobs: Jobs::default(),
        })
    }

    /// Answers a request for a file's content. `named`: members of the link's network may have it from the cache too, for
    /// one of them publishes it and it came by that network.
    pub async fn answer(self: &Arc<Self>, link: &Arc<dyn PeerLink>, named: bool, request: Request) -> Answer {
        let network = link.network();
        let place = match &request {
            Request::Chunk { content, index } => {
                let weight = self.ledger.lock().weight(&link.node(), Instant::now(), Timestamp::now());
                Some(self.gate.pass(link.node(), chunk_len(content.size, *index), weight).await)
            }
            _ => None,
        };
        let uploads = Arc::clone(self);
        let chunk = place.is_some();
        let work = move || match request {
            Request::Open(content) => uploads.open(network, named, content),
            Request::Group { content, group } => uploads.group(network, named, content, group),
            Request::Chunk { content, index } => match uploads.chunk(network, named, content, index) {
                Ok(bytes) => Answer::Chunk(bytes, place.map(|place| Box::new(place) as Box<dyn Send>)),
                Err(problem) => Answer::Message(problem),
            },
            _ => Answer::Message(Response::Refused),
        };
        let answered = if chunk {
            // Its place at the gate goes with it.
            tokio::task::spawn_blocking(work).await
        } else {
            self.jobs.run(link.node(), work).await
        };
        // A panic in there is ours, not the peer's.
        answered.unwrap_or(Answer::Message(Response::Busy))
    }

    /// Other limits from now on.
    pub fn limit(&self, limits: UploadLimits) {
        self.gate.limit(limits);
    }

    /// The limits in force.
    pub fn limits(&self) -> UploadLimits {
        self.gate.limits()
    }

    /// Who is being served, and each one's share of the link while all of them ask.
    pub fn shares(&self) -> Vec<(NodeId, f64)> {
        self.gate.shares()
    }

    /// A peer brought `bytes` that were verified: it earns, gets a receipt when one is due, and is shown what others
    /// attest of this node.
    pub fn brought(&self, link: &dyn PeerLink, bytes: usize) {
        let (giver, now) = (link.node(), Instant::now());
        self.ledger.lock().gave(giver, bytes, now);
        let (due, shown) = {
            let mut credits = self.credits.lock();
            let network = link.network();
            (credits.brought(network, giver, bytes, now), credits.show(network, giver, now))
        };
        if let Some(bytes) = due {
            let at = Timestamp::now().secs;
            let receipt = Receipt { network: link.network(), attester: self.own, giver, bytes, at };
            if let Some(sealed) = receipt.seal(&*self.sign) {
                link.notify(Notice::Receipt(sealed));
            }
        }
        if let Some(receipts) = shown {
            link.notify(Notice::Receipts(receipts));
        }
    }

    /// A peer attests what this node gave it.
    pub fn heard_receipt(&self, link: &Arc<dyn PeerLink>, sealed: SignedReceipt) {
        if self.hearing.lock().grant(link.node(), 1, Instant::now()) == 0 {
            return;
        }
        let receipt = Receipt::open(link.network(), &sealed);
        match receipt.filter(|receipt| receipt.attester == link.node() && receipt.giver == self.own) {
            Some(receipt) => self.credits.lock().keep(&receipt, sealed),
            None => {
                if let Some(held_back) = may_log(link.node(), "receipt") {
                    let peer = link.node().short(12);
                    tracing::warn!(%peer, held_back, "a receipt that is not what it should be");
                }
            }
        }
    }

    /// A peer shows what others attest of it. `known` tells whom this node itself knows as a member.
    pub fn heard_receipts(&self, link: &Arc<dyn PeerLink>, sealed: &[SignedReceipt], known: &dyn Fn(&NodeId) -> bool) {
        let count = self.hearing.lock().grant(link.node(), sealed.len().min(MAX_SHOWN), Instant::now());
        for sealed in sealed.iter().take(count) {
            let receipt = Receipt::open(link.network(), sealed).filter(|receipt| receipt.giver == link.node());
            let Some(receipt) = receipt else {
                if let Some(held_back) = may_log(link.node(), "receipt shown") {
                    let peer = link.node().short(12);
                    tracing::warn!(%peer, held_back, "a peer shows a receipt that is not its own");
                }
                return;
            };
            // Asked before the ledger is locked: the answer takes locks of its own.
            let is_known = known(&receipt.attester);
            self.ledger.lock().attest(&receipt, is_known, Timestamp::now());
        }
    }

    fn open(&self, network: NetworkId, named: bool, content: ContentId) -> Answer {
        let chunks = chunk_count(content.size);
        let (held, groups, first_group) = match self.sources.manifest(network, content) {
            Ok(manifest) => (Ranges::of(0..chunks), manifest.groups(), manifest.group(0).to_vec()),
            Err(error) => {
                let held = if named { self.cache.offered(content) } else { Ranges::new() };
                let proof = if held.is_empty() { None } else { self.cache.load_proof(content, 0..1) };
                match (proof, error) {
                    (Some(proof), _) => {
                        (held, proof.groups().to_vec(), proof.group(0).map(<[_]>::to_vec).unwrap_or_default())
                    }
                    (None, SourceError::Changed) => return Answer::Message(Response::Changed),
                    (None, SourceError::Failed) => return Answer::Message(Response::Busy),
                    (None, SourceError::NotShared) => return not_here(Ranges::new()),
                }
            }
        };
        let inline = match content.size {
            1..=INLINE_CONTENT => match self.chunk(network, named, content, 0) {
                Ok(bytes) => Some(bytes),
                Err(problem) => return Answer::Message(problem),
            },
            _ => None,
        };
        Answer::Message(Response::Opened(Opened {
            held,
            groups,
            first_group,
            content: inline.map(|bytes| serde_bytes::ByteBuf::from(bytes.to_vec())),
            max_requests: REQUESTS,
        }))
    }

    fn group(&self, network: NetworkId, named: bool, content: ContentId, group: u64) -> Answer {
        if group >= group_count(content.size) {
            return Answer::Message(Response::Refused);
        }
        match self.sources.manifest(network, content) {
            Ok(manifest) => Answer::Message(Response::Group(manifest.group(group).to_vec())),
            Err(error) => {
                let proof = if named { self.cache.load_proof(content, group..group + 1) } else { None };
                match (proof.as_ref().and_then(|proof: &Proof| proof.group(group)), error) {
                    (Some(hashes), _) => Answer::Message(Response::Group(hashes.to_vec())),
                    (None, SourceError::Changed) => Answer::Message(Response::Changed),
                    (None, SourceError::Failed) => Answer::Message(Response::Busy),
                    (None, SourceError::NotShared) => not_here(Ranges::new()),
                }
            }
        }
    }

    /// The chunk's verified bytes, or why there are none.
    fn chunk(&self, network: NetworkId, named: bool, content: ContentId, index: u64) -> Result<Bytes, Response> {
        if chunk_len(content.size, index) == 0 {
            return Err(Response::Refused);
        }
        let error = match self.sources.chunk(network, content, index) {
            Ok(chunk) => return Ok(chunk.bytes().clone()),
            Err(error) => error,
        };
        if named {
            let cached = self.cache.ram_get(content, index).or_else(|| self.cache.load(content, index));
            if let Some(chunk) = cached {
                return Ok(chunk.bytes().clone());
            }
        }
        Err(match error {
            SourceError::Changed => Response::Changed,
            SourceError::Failed => Response::Busy,
            SourceError::NotShared => {
                Response::NotHere(if named { self.cache.offered(content) } else { Ranges::new() })
            }
        })
    }
}

fn not_here(held: Ranges) -> Answer {
    Answer::Message(Response::NotHere(held))
}
