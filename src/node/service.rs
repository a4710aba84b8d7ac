//! What peers ask and say, sent to whom it concerns: catalogs to the membership, contents to the uploads.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use super::networks::Networks;
use crate::net::handshake::Kind;
use crate::net::link::{Answer, PeerLink, Service};
use crate::swarm::uploads::Uploads;
use crate::wire::message::{Notice, Request, Response};

/// See the module.
pub(super) struct NodeService {
    networks: Arc<Networks>,
    uploads: OnceLock<Arc<Uploads>>,
}

impl NodeService {
    /// Serves nothing yet.
    pub fn new(networks: Arc<Networks>) -> Arc<Self> {
        Arc::new(Self { networks, uploads: OnceLock::new() })
    }

    /// Serves contents from now on.
    pub fn serve_from(&self, uploads: Arc<Uploads>) {
        // Only ever set once, at the start.
        let _ = self.uploads.set(uploads);
    }
}

#[async_trait]
impl Service for NodeService {
    async fn connected(&self, link: Arc<dyn PeerLink>) {
        match self.networks.get(&link.network()).filter(|_| link.kind() == Kind::Member) {
            Some(network) => network.membership.connected(link),
            // It was left a moment ago.
            None => link.close(),
        }
    }

    async fn request(&self, link: &Arc<dyn PeerLink>, request: Request) -> Answer {
        let Some(network) = self.networks.get(&link.network()) else { return Answer::Message(Response::Refused) };
        if let Some(response) = network.membership.answer(link, &request) {
            return Answer::Message(response);
        }
        let content = match &request {
            Request::Open(content) | Request::Group { content, .. } | Request::Chunk { content, .. } => *content,
            _ => return Answer::Message(Response::Refused),
        };
        let Some(uploads) = self.uploads.get() else { return Answer::Message(Response::Busy) };
        uploads.answer(link.network(), network.membership.names(&content), request).await
    }

    async fn notice(&self, link: &Arc<dyn PeerLink>, notice: Notice) {
        if let Some(network) = self.networks.get(&link.network()) {
            network.membership.notice(link, notice);
        }
    }
}
