//! Where terse sessions come in: accepting, limits, and the handshake.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::figures::{Figures, Refusal};
use super::line::Line;
use super::rounds::{Desk, Newcomer, Rounds};
use super::{Caller, Clerk};
use crate::base::limits::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES};
use crate::net::handshake::{Access, HandshakeError, Identity, respond};

/// After `accept` failed (no descriptors left, say), before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Handshakes in progress from one address: half of all, so that one outsider does not keep everybody out. They take
/// milliseconds, so that thousands behind one address get in as well, one after the other.
const HANDSHAKES_OF_ONE: u64 = MAX_HANDSHAKES as u64 / 2;
/// Connections that the kernel keeps until they are accepted: all nodes come back at once after a restart.
const BACKLOG: i32 = 4096;

/// What is let in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions, those whose handshake is in progress among them.
    pub sessions: u64,
    /// Sessions from one address; of IPv6, from one /64.
    pub per_address: u64,
    /// A session on which nothing was said for so long is closed.
    pub idle: Duration,
}

/// Accepts and serves sessions until it is dropped.
pub struct TerseListener {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
    figures: Arc<Figures>,
    /// Ends the thread when the listener goes.
    _desk: Arc<Desk>,
}

impl TerseListener {
    /// Listens on `addr`. `accesses` may change while it runs: sessions that are open stay.
    pub fn bind(
        addr: SocketAddr,
        identity: Identity,
        accesses: watch::Receiver<Vec<Access>>,
        clerk: Arc<dyn Clerk>,
        limits: Limits,
    ) -> io::Result<Self> {
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let figures = Arc::new(Figures::default());
        let desk = Rounds::start(clerk, limits.idle, Arc::clone(&figures))?;
        let door = Arc::new(Door {
            identity,
            accesses,
            limits,
            figures: Arc::clone(&figures),
            crowd: Arc::default(),
            desk: Arc::clone(&desk),
        });
        Ok(Self { addr, accepting: tokio::spawn(door.accept(listener)), figures, _desk: desk })
    }

    /// Where it listens; the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// What has been counted.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }
}

impl Drop for TerseListener {
    fn drop(&mut self) {
        self.accepting.abort();
        self._desk.close();
    }
}

/// Like tokio's `TcpListener::bind`, with a longer queue.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), kind, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // What is said is little. BBR, where it is the default, would start a timer for each answer.
    if let Err(error) = socket.set_tcp_congestion(b"cubic") {
        tracing::debug!(%error, "the system's congestion control is used");
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What counts as one address: whoever has one of IPv6 has all of its /64.
fn address_of(remote: SocketAddr) -> IpAddr {
    match remote.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// How many there are of each address.
#[derive(Default)]
struct Crowd(Mutex<HashMap<IpAddr, Counts>>);

#[derive(Clone, Copy, Default)]
struct Counts {
    sessions: u64,
    handshakes: u64,
}

/// A place among the sessions, and while its handshake lasts among those.
pub(super) struct Place {
    address: IpAddr,
    shaking: bool,
    crowd: Arc<Crowd>,
    figures: Arc<Figures>,
}

impl Place {
    fn take(address: IpAddr, limits: &Limits, crowd: &Arc<Crowd>, figures: &Arc<Figures>) -> Result<Self, Refusal> {
        // Only the accepting task adds, so that nobody comes between looking and adding.
        if figures.handshakes() >= MAX_HANDSHAKES as u64 {
            return Err(Refusal::Handshakes);
        }
        if figures.sessions() >= limits.sessions {
            return Err(Refusal::Sessions);
        }
        let mut counts = crowd.0.lock();
        let here = counts.entry(address).or_default();
        if here.handshakes >= HANDSHAKES_OF_ONE {
            return Err(Refusal::Handshakes);
        }
        if here.sessions >= limits.per_address {
            return Err(Refusal::Address);
        }
        here.sessions += 1;
        here.handshakes += 1;
        add(&figures.sessions);
        add(&figures.handshakes);
        Ok(Self { address, shaking: true, crowd: Arc::clone(crowd), figures: Arc::clone(figures) })
    }

    fn shaken(&mut self) {
        if std::mem::take(&mut self.shaking) {
            take_one(&self.figures.handshakes);
            if let Some(counts) = self.crowd.0.lock().get_mut(&self.address) {
                counts.handshakes -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken();
        take_one(&self.figures.sessions);
        let mut counts = self.crowd.0.lock();
        if let Some(here) = counts.get_mut(&self.address) {
            here.sessions -= 1;
            if here.sessions == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn take_one(count: &AtomicU64) {
    count.fetch_sub(1, Ordering::Relaxed);
}

struct Door {
    identity: Identity,
    accesses: watch::Receiver<Vec<Access>>,
    limits: Limits,
    figures: Arc<Figures>,
    crowd: Arc<Crowd>,
    desk: Arc<Desk>,
}

impl Door {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    // Too many: closed without a word.
                    match Place::take(address_of(remote), &self.limits, &self.crowd, &self.figures) {
                        Ok(place) => drop(tokio::spawn(Box::pin(Arc::clone(&self).let_in(stream, remote, place)))),
                        Err(why) => self.figures.refuse(why),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn let_in(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, mut place: Place) {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.open(stream, remote)).await {
            Ok(Ok((stream, line, caller))) => {
                place.shaken();
                add(&self.figures.opened);
                self.desk.seat(Newcomer { stream, line, caller, place });
            }
            Ok(Err(error)) => {
                self.figures.refuse(Refusal::Stranger);
                tracing::debug!(%error, "no session");
            }
            Err(_) => self.figures.refuse(Refusal::Late),
        }
    }

    async fn open(
        &self,
        mut stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(std::net::TcpStream, Line, Caller), HandshakeError> {
        stream.set_nodelay(true)?;
        let accesses = self.accesses.borrow().clone();
        let opened = respond(&mut stream, &self.identity, &accesses).await?;
        let caller = Caller { node: opened.node, network: opened.network, remote: remote.ip().to_canonical() };
        Ok((stream.into_std()?, Line::new(opened.noise), caller))
    }
}
