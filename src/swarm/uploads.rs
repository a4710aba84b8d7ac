//! Serving: what this node holds of a file, from its shares and its cache, to peers of the network that the file
//! belongs to. Disk and hashing run on blocking threads; what leaves here has been verified.

use std::sync::Arc;

use crate::base::chunks::{CHUNK, chunk_count, chunk_len, group_count};
use crate::base::ids::{ContentId, NetworkId};
use crate::base::ranges::Ranges;
use crate::base::tree::Proof;
use crate::cache::Cache;
use crate::net::link::Answer;
use crate::share::source::{SourceError, Sources};
use crate::wire::message::{Opened, Request, Response};

/// A file of at most this many bytes comes with the answer to its opening: one round trip for a small file.
pub const INLINE_CONTENT: u64 = CHUNK;
/// Requests that a peer may have open here, as told in each opening.
const REQUESTS: u32 = 256;

/// What this node can give.
pub struct Uploads {
    sources: Arc<Sources>,
    cache: Arc<Cache>,
}

impl Uploads {
    /// From the shares' sources and the cache.
    pub fn new(sources: Arc<Sources>, cache: Arc<Cache>) -> Arc<Self> {
        Arc::new(Self { sources, cache })
    }

    /// Answers a request for a file's content. `named`: somebody of `network` publishes that content, so its members may
    /// have it from the cache too.
    pub async fn answer(self: &Arc<Self>, network: NetworkId, named: bool, request: Request) -> Answer {
        let uploads = Arc::clone(self);
        let answered = tokio::task::spawn_blocking(move || match request {
            Request::Open(content) => uploads.open(network, named, content),
            Request::Group { content, group } => uploads.group(network, named, content, group),
            Request::Chunk { content, index } => uploads.chunk(network, named, content, index),
            _ => Answer::Message(Response::Refused),
        });
        // A panic in there is ours, not the peer's.
        answered.await.unwrap_or(Answer::Message(Response::Busy))
    }

    fn open(&self, network: NetworkId, named: bool, content: ContentId) -> Answer {
        let chunks = chunk_count(content.size);
        let (held, groups, first_group) = match self.sources.manifest(network, content) {
            Ok(manifest) => (Ranges::of(0..chunks), manifest.groups(), manifest.group(0).to_vec()),
            Err(error) => {
                let held = if named { self.cache.held(content) } else { Ranges::new() };
                let proof = if held.is_empty() { None } else { self.cache.load_proof(content, 0..1) };
                match (proof, error) {
                    (Some(proof), _) => {
                        (held, proof.groups().to_vec(), proof.group(0).map(<[_]>::to_vec).unwrap_or_default())
                    }
                    (None, SourceError::Changed) => return Answer::Message(Response::Changed),
                    (None, SourceError::NotShared) => return not_here(Ranges::new()),
                }
            }
        };
        let inline = match content.size {
            1..=INLINE_CONTENT => match self.chunk(network, named, content, 0) {
                Answer::Chunk(bytes) => Some(bytes),
                Answer::Message(problem) => return Answer::Message(problem),
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
                    (None, SourceError::NotShared) => not_here(Ranges::new()),
                }
            }
        }
    }

    fn chunk(&self, network: NetworkId, named: bool, content: ContentId, index: u64) -> Answer {
        if chunk_len(content.size, index) == 0 {
            return Answer::Message(Response::Refused);
        }
        let error = match self.sources.chunk(network, content, index) {
            Ok(chunk) => return Answer::Chunk(chunk.bytes().clone()),
            Err(error) => error,
        };
        if named {
            let cached = self.cache.ram_get(content, index).or_else(|| self.cache.load(content, index));
            if let Some(chunk) = cached {
                return Answer::Chunk(chunk.bytes().clone());
            }
        }
        match error {
            SourceError::Changed => Answer::Message(Response::Changed),
            SourceError::NotShared => not_here(if named { self.cache.held(content) } else { Ranges::new() }),
        }
    }
}

fn not_here(held: Ranges) -> Answer {
    Answer::Message(Response::NotHere(held))
}
