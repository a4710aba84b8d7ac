//! Accepting sessions. An outsider learns that a port is open, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::handshake::{Access, HandshakeError, Identity, respond};
use super::link::{PeerLink, Service};
use super::session::Session;
use crate::base::limits::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, MAX_SESSIONS};

/// After `accept` failed (no descriptors left, say), before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts until it is dropped.
pub struct Listener {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens on `addr`. `accesses` may change while it runs: sessions that are open stay.
    pub async fn bind(
        addr: SocketAddr,
        identity: watch::Receiver<Identity>,
        accesses: watch::Receiver<Vec<Access>>,
        service: Arc<dyn Service>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let door = Arc::new(Door {
            identity,
            accesses,
            service,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        });
        Ok(Self { addr, task: tokio::spawn(door.accept(listener)) })
    }

    /// Where it listens; the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Door {
    identity: watch::Receiver<Identity>,
    accesses: watch::Receiver<Vec<Access>>,
    service: Arc<dyn Service>,
    handshakes: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

impl Door {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let limits = (
                        Arc::clone(&self.handshakes).try_acquire_owned(),
                        Arc::clone(&self.sessions).try_acquire_owned(),
                    );
                    // Too many: closed without a word.
                    let (Ok(handshake), Ok(session)) = limits else { continue };
                    let door = Arc::clone(&self);
                    tokio::spawn(async move {
                        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, door.open(stream, remote)).await;
                        drop(handshake);
                        match opened {
                            Ok(Ok(link)) => link.closed().await,
                            Ok(Err(error)) => tracing::debug!(%error, "no session"),
                            Err(_) => tracing::debug!("no session: the handshake took too long"),
                        }
                        drop(session);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn open(&self, mut stream: TcpStream, remote: SocketAddr) -> Result<Arc<Session>, HandshakeError> {
        stream.set_nodelay(true)?;
        let identity = self.identity.borrow().clone();
        let accesses = self.accesses.borrow().clone();
        let opened = respond(&mut stream, &identity, &accesses).await?;
        Ok(Session::start(stream, remote, opened, Arc::clone(&self.service)))
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
