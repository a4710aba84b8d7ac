//! The port of gossip: one UDP socket for all networks of a node, beside its listening port.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::net::UdpSocket;

use super::networks::Networks;
use crate::members::membership::SendDatagram;

/// No datagram of ours is longer.
const MOST: usize = 2048;

/// See the module.
pub(super) struct GossipPort(UdpSocket);

/// The port that goes with `listen`; without one this node does not gossip.
pub(super) fn gossip_port(listen: SocketAddr) -> Option<Arc<GossipPort>> {
    let bound = std::net::UdpSocket::bind(listen).and_then(|socket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    });
    match bound {
        Ok(socket) => Some(Arc::new(GossipPort(socket))),
        Err(error) => {
            tracing::warn!(%listen, %error, "no UDP socket: this node does not gossip, and finds peers by trackers alone");
            None
        }
    }
}

impl SendDatagram for GossipPort {
    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        // What can't be sent now is lost, as datagrams are.
        if let Err(error) = self.0.try_send_to(bytes, to) {
            tracing::trace!(%error, "a datagram was not sent");
        }
    }
}

impl GossipPort {
    /// Hands what comes to the network that it is of, until there are none.
    pub async fn receive(&self, networks: Weak<Networks>) {
        let mut buffer = [0; MOST];
        loop {
            let (len, from) = match self.0.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // That somebody else's port is closed comes back here, too.
                    tracing::trace!(%error, "no datagram");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let Some(networks) = networks.upgrade() else { break };
            // Its key tells; there are few networks.
            let _ = networks.all().iter().any(|joined| joined.membership.datagram(&buffer[..len], from));
        }
    }
}
