//! What peers ask and say, sent to whom it concerns: catalogs to the membership, contents to the uploads.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use super::networks::Networks;
use crate::net::handshake::Kind;
use crate::net::link::{Answer, PeerLink, Service};
use crate::net::throttle::Throttle;
use crate::swarm::uploads::Uploads;
use crate::wire::message::{Notice, Request, Response};

/// See the module.
pub(super) struct NodeService {
    networks: Arc<Networks>,
    uploads: OnceLock<Arc<Uploads>>,
    /// Of what comes in.
    pub download: Throttle,
}

impl NodeService {
    /// Serves nothing yet.
    pub fn new(networks: Arc<Networks>, download: Option<u64>) -> Arc<Self> {
        Arc::new(Self { networks, uploads: OnceLock::new(), download: Throttle::new(download) })
    }

    pub fn uploads(&self) -> Option<&Arc<Uploads>> {
        self.uploads.get()
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
            Some(network) => {
                network.membership.connected(Arc::clone(&link));
                let swarm = Arc::downgrade(&network.swarm);
                tokio::spawn(async move {
                    link.closed().await;
                    if let Some(swarm) = swarm.upgrade() {
                        swarm.disconnected(link.node());
                    }
                });
            }
            // It was left a moment ago.
            None => link.close(),
        }
    }

    async fn received(&self, bytes: usize) {
        self.download.passed(bytes).await;
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
        network.swarm.downloader(link, content);
        uploads.answer(link, self.networks.may_have(&network, &content), request).await
    }

    async fn notice(&self, link: &Arc<dyn PeerLink>, notice: Notice) {
        let Some(network) = self.networks.get(&link.network()) else { return };
        match (notice, self.uploads.get()) {
            (Notice::Receipt(sealed), Some(uploads)) => uploads.heard_receipt(link, sealed),
            (Notice::Receipts(sealed), Some(uploads)) => {
                uploads.heard_receipts(link, &sealed, &|node| network.membership.knows(node));
            }
            (Notice::Held { content, held }, _) => network.swarm.heard_held(link, &content, &held),
            (Notice::Downloaders { content, nodes }, _) => network.swarm.heard_downloaders(content, nodes),
            (notice, _) => network.membership.notice(link, notice),
        }
    }
}
