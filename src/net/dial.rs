//! Opening a session with a peer at a known address.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::handshake::{Access, HandshakeError, Identity, initiate};
use super::link::{PeerAddr, PeerLink, Service};
use super::session::Session;
use crate::base::ids::NodeId;
use crate::base::limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there.
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// Somebody answered, and it came to nothing.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Connects and shakes hands. `expect`: who must be there, if that is known.
pub async fn dial(
    addr: PeerAddr,
    identity: &Identity,
    access: &Access,
    expect: Option<NodeId>,
    service: Arc<dyn Service>,
) -> Result<Arc<dyn PeerLink>, DialError> {
    let PeerAddr::Tcp(remote) = addr;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(remote)).await;
    let mut stream = connected.map_err(|_| DialError::TimedOut)?.map_err(DialError::Connect)?;
    // Requests are small and must not wait for each other.
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, initiate(&mut stream, identity, access, expect)).await;
    let opened = opened.map_err(|_| DialError::TimedOut)??;
    Ok(Session::start(stream, remote, opened, service))
}
