//! Bringing up sessions with every peer that is known and not connected.

use std::sync::Arc;
use std::time::Instant;

use super::membership::Membership;
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::net::dial::{DialError, dial};
use crate::net::handshake::HandshakeError;
use crate::net::link::{PeerAddr, PeerLink};
use crate::vault::store::write_in_place;

use super::known::Known;
use super::membership::Around;

const PURPOSE: &str = "known peers";
/// Dials at once: a node that comes back to a network of thousands must not open all sessions in one moment.
pub(super) const AT_ONCE: usize = 64;

/// A placeholder for an address of which nobody knows yet who is there.
fn is_nobody(node: &NodeId) -> bool {
    node.0[..24] == [0; 24]
}

impl Membership {
    pub(super) async fn dial_loop(self: Arc<Self>) {
        loop {
            let next = self.dial_due();
            match next {
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = self.dial_now.notified() => {}
                },
                None => self.dial_now.notified().await,
            }
        }
    }

    /// Begins to dial everybody who is due. Returns when somebody is due next.
    pub(super) fn dial_due(self: &Arc<Self>) -> Option<Instant> {
        let own = self.around.identity.node;
        let (due, next) = {
            let roster = self.roster.lock();
            let mut known = self.known.lock();
            let wanted = |node: &NodeId| *node != own && !roster.has(node);
            let due = known.due(Instant::now(), wanted);
            (due, known.next(wanted))
        };
        for (node, addr) in due {
            let membership = Arc::clone(self);
            let pending = self.pending.guard();
            tokio::spawn(async move {
                let link = {
                    // The semaphore is never closed.
                    let _slot = membership.dial_slots.acquire().await;
                    membership.dial_one(node, addr).await
                };
                membership.dial_now.notify_one();
                if let Some(link) = link {
                    membership.until_greeted(&link).await;
                }
                drop(pending);
            });
        }
        next
    }

    async fn dial_one(&self, node: NodeId, addr: PeerAddr) -> Option<Arc<dyn PeerLink>> {
        let service = self.around.service.get().and_then(std::sync::Weak::upgrade)?;
        let expect = (!is_nobody(&node)).then_some(node);
        let dialled = dial(addr, &self.around.identity, &self.access, expect, service).await;
        match &dialled {
            Ok(link) => {
                // A configured address now has a name.
                let PeerAddr::Tcp(addr) = addr;
                self.known.lock().hear(link.node(), &[addr], Instant::now());
            }
            Err(DialError::Handshake(HandshakeError::Myself)) => {}
            Err(error) => tracing::debug!(peer = %node.short(12), %error, "can't connect"),
        }
        self.known.lock().dialled(node, dialled.is_ok(), Instant::now());
        dialled.ok()
    }

    fn known_file(around: &Around, id: NetworkId) -> std::path::PathBuf {
        let name = data_encoding::HEXLOWER.encode(&around.sealer.hash(PURPOSE, &id.0)[..16]);
        around.state_dir.join("peers").join(name)
    }

    pub(super) fn load_known(around: &Around, id: NetworkId, wall: Timestamp, now: Instant) -> Option<Known> {
        let sealed = std::fs::read(Self::known_file(around, id)).ok()?;
        Known::load(&around.sealer.open(PURPOSE, &id.0, &sealed).ok()?, wall, now)
    }

    /// Blocks on the disk. A failure costs nothing but a slower start without a tracker.
    pub(super) fn save_known(&self) {
        let links = self.links();
        let plain = {
            let mut known = self.known.lock();
            // A session that is up is the best sign of life; a crash must not make it look as old as its beginning.
            links.iter().for_each(|link| known.seen(link.node(), Timestamp::now()));
            known.store()
        };
        let file = Self::known_file(&self.around, self.id);
        let saved =
            self.around.sealer.seal(PURPOSE, &self.id.0, &plain).map_err(std::io::Error::other).and_then(|sealed| {
                std::fs::create_dir_all(file.parent().unwrap_or(&self.around.state_dir))?;
                write_in_place(&file, &[&sealed])
            });
        if let Err(error) = saved {
            tracing::warn!(%error, "the list of known peers can't be saved");
        }
    }
}
