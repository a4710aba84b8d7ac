//! Gossip of one membership: SWIM's messages as sealed datagrams, what they say of who is live, and finding those again who
//! are not.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::clocks::{Clocks, in_words};
use super::comparing::AT_A_TIME;
use super::gossip::swim::{Event, Swim, TELL};
use super::known::{Found, Known, is_nobody};
use super::membership::Membership;
use super::roster::Roster;
use crate::base::clock::Timestamp;
use crate::base::ids::NodeId;
use crate::base::quiet::may_log;
use crate::net::link::{PeerAddr, PeerLink};
use crate::vault::datagram::{DatagramSealer, Refused};
use crate::vault::network::Network;
use crate::wire::message::{MemberRecord, Request};

/// Between two tries to find those again who are not live...
pub(super) const CALL: Duration = Duration::from_secs(3);
/// ...so many at a time.
pub(super) const CALLED: usize = 2;
/// Where gossip says that a peer is dead, its session is asked for a sign of life, and closed after so long without one: on a
/// machine that lost its power nobody ends sessions, and their own time-out is longer than anybody should wait.
pub(super) const DOUBT: Duration = Duration::from_secs(3);
/// Between two looks whether this host still has the address at which gossip reaches it.
const MOVED: Duration = Duration::from_secs(10);
/// Of those whom it may ask how to be reached now, so many are tried.
const TOWARD: usize = 4;
/// Between two looks for nodes that gossip may forget.
const FORGET: Duration = Duration::from_secs(60);
/// Answers about members that wait to be looked at; more are not: there is a next comparison.
const TO_LEARN: usize = 32;
/// Of what is new, so much is taken in at a time, while nothing else of gossip goes on: each costs a look through all members.
const LEARN_AT_ONCE: usize = 64;
/// Without a timer that is due: it is looked at all the same.
const AT_LEAST: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Gossip {
    sealer: Option<DatagramSealer>,
    /// There once it is known at which address others reach this node.
    swim: Mutex<Option<Swim>>,
    /// Held from when what happened is taken out until it is taken in: a death must not overtake a life.
    order: Mutex<()>,
    wake: Notify,
    clocks: Mutex<Clocks>,
    /// What peers know of members is looked at one after the other, and so much waits for that.
    learning: Arc<Semaphore>,
    to_learn: Arc<Semaphore>,
}

/// Seconds since 1970.
pub(super) fn wall() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().min(u32::MAX.into()) as u32)
}

/// The address from which this host would send to `peer`. Sends nothing.
fn own_ip_toward(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// True unless this host surely does not have that address any more.
fn host_has(ip: IpAddr) -> bool {
    !matches!(UdpSocket::bind((ip, 0)), Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// What gossip noticed, as this node, `own`, takes it in; true if somebody lives or is dead because of that. Pure.
pub(super) fn take_in(
    events: &[Event],
    own: NodeId,
    roster: &mut Roster,
    known: &mut Known,
    (wall, now): (Timestamp, Instant),
) -> bool {
    let mut changed = false;
    for event in events {
        changed |= match *event {
            Event::Up(node, addr) if node != own => {
                known.hear(node, &[addr], Found::Gossip, now);
                roster.gossiped(node, true, now)
            }
            Event::Anew(node, addr) if node != own => {
                known.hear(node, &[addr], Found::Gossip, now);
                roster.trust(node, now)
            }
            Event::Down(node) => {
                if roster.is_live(&node) {
                    // Until a moment ago, that is.
                    known.seen(node, wall);
                }
                roster.gossiped(node, false, now)
            }
            Event::Up(..) | Event::Anew(..) | Event::Twin => false,
        };
    }
    changed
}

/// Sessions with those who are said to be dead.
pub(super) fn doubted(events: &[Event], roster: &Roster) -> Vec<Arc<dyn PeerLink>> {
    let dead = events.iter().filter_map(|event| match event {
        Event::Down(node) => roster.link(node).cloned(),
        Event::Up(..) | Event::Anew(..) | Event::Twin => None,
    });
    dead.collect()
}

/// Closes a session on which nothing comes for [`DOUBT`] though a sign of life was asked for; true if something came.
async fn lives(link: &Arc<dyn PeerLink>) -> bool {
    let received = link.stats().received;
    let sign = tokio::time::timeout(DOUBT, link.request(Request::Ping)).await;
    // One that brings anything has only a long queue.
    let lives = matches!(sign, Ok(Ok(_))) || link.stats().received != received;
    if !lives {
        link.close();
    }
    lives
}

impl Gossip {
    pub fn new(network: &Network) -> Self {
        let sealer = network.gossip_key().map(|key| DatagramSealer::new(&key));
        Self {
            sealer,
            swim: Mutex::default(),
            order: Mutex::default(),
            wake: Notify::new(),
            clocks: Mutex::default(),
            learning: Arc::new(Semaphore::new(1)),
            to_learn: Arc::new(Semaphore::new(TO_LEARN)),
        }
    }
}

impl Membership {
    /// A datagram came. False if it is not of this network.
    pub fn datagram(self: &Arc<Self>, sealed: &[u8], from: SocketAddr) -> bool {
        let Some(sealer) = &self.gossip.sealer else { return false };
        let (sent, letter) = match sealer.open(sealed, wall()) {
            Ok(opened) => opened,
            Err(Refused::Foreign) => return false,
            Err(Refused::Untimely(sent)) => {
                self.untimely(sent, from);
                return true;
            }
        };
        self.gossip_toward(from);
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            swim.receive(&letter, Some((from, sent)), wall(), Instant::now());
        }
        if self.roster.lock().heard(Instant::now()) {
            self.view_now.notify_one();
        }
        self.gossip_effects();
        self.gossip.wake.notify_one();
        true
    }

    /// A member's datagram is refused for the time at which it was sent.
    fn untimely(&self, sent: u32, from: SocketAddr) {
        let wall = wall();
        if self.gossip.clocks.lock().refused(sent, wall, Instant::now()) {
            let apart = in_words(i64::from(sent) - i64::from(wall));
            tracing::warn!(
                network = self.name,
                %from,
                "a member's clock is {apart}: neither takes the other's gossip, which may be up to 30 minutes apart. Set both \
                 clocks (timedatectl set-ntp true). If both are right, somebody repeats old datagrams"
            );
        }
    }

    /// By how many seconds a member's clock is ahead of this node's (behind it, if negative), where it is too far for gossip.
    pub fn clock_apart(&self) -> Option<i64> {
        self.gossip.clocks.lock().apart(Instant::now())
    }

    /// Begins to gossip, if this node can be reached by who is at `peer`; or goes on at a better address than before.
    fn gossip_toward(&self, peer: SocketAddr) {
        if self.around.datagrams.is_none() || self.gossip.sealer.is_none() {
            return;
        }
        let Some(&listens) = self.around.identity.listens.first() else { return };
        let mut swim = self.gossip.swim.lock();
        let settled = |addr: SocketAddr| !addr.ip().is_loopback() || peer.ip().is_loopback();
        if swim.as_ref().and_then(Swim::addr).is_some_and(settled) {
            return;
        }
        let ip = if listens.ip().is_unspecified() { own_ip_toward(peer) } else { Some(listens.ip()) };
        let Some(own) = ip.map(|ip| SocketAddr::new(ip, listens.port())) else { return };
        let now = Instant::now();
        match swim.as_mut() {
            Some(swim) if swim.addr() != Some(own) => swim.moved(own, now),
            Some(_) => {}
            None => {
                let mut seed = [0; 32];
                // It only spreads load: the same draws as somebody else's do no harm.
                let _ = getrandom::fill(&mut seed);
                *swim = Swim::new(self.around.identity.node, own, Arc::default(), seed, wall(), now);
            }
        }
    }

    /// This host may have moved to another network: then others reach it at another address, in a new life of the same node,
    /// which goes on knowing whom it knew.
    fn follow_move(&self, now: Instant) {
        let listens = self.around.identity.listens.first();
        let own = self.gossip.swim.lock().as_ref().and_then(Swim::addr);
        let (Some(listens), Some(own)) = (listens, own) else { return };
        // One that was told which address to advertise keeps it.
        if !listens.ip().is_unspecified() || host_has(own.ip()) {
            return;
        }
        let linked = self.links().into_iter().map(|link| {
            let PeerAddr::Tcp(remote) = link.remote();
            remote
        });
        let some = self.known.lock().some(super::catalogs::draw(), TOWARD, |node| !is_nobody(node));
        let toward = linked.take(TOWARD).chain(some.into_iter().map(|(_, addr)| addr));
        let has_moved = |ip: &IpAddr| *ip != own.ip() && !ip.is_unspecified();
        let Some(ip) = toward.filter_map(own_ip_toward).find(has_moved) else { return };
        let moved = SocketAddr::new(ip, listens.port());
        tracing::info!(from = %own, to = %moved, "this host has moved: gossip goes on from its new address");
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            swim.moved(moved, now);
        }
    }

    /// A session is up: its peer is asked for whom it knows.
    pub(super) fn gossip_with(&self, link: &Arc<dyn PeerLink>) {
        let PeerAddr::Tcp(remote) = link.remote();
        self.gossip_toward(remote);
        // Where it listens; of several, the one that it is seen at.
        let addrs = link.addrs().iter().map(|PeerAddr::Tcp(addr)| *addr);
        let Some(addr) = addrs.clone().find(|addr| addr.ip() == remote.ip()).or_else(|| addrs.clone().next()) else {
            return;
        };
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            swim.call_peer(link.node(), addr, Instant::now());
        }
        self.gossip.wake.notify_one();
    }

    pub(super) async fn gossip_loop(self: Arc<Self>) {
        let mut called = Instant::now();
        let mut looked = Instant::now();
        let mut forgot = Instant::now();
        loop {
            let now = Instant::now();
            if now >= forgot + FORGET {
                forgot = now;
                self.forget_in_gossip();
            }
            if now >= looked + MOVED {
                looked = now;
                self.follow_move(now);
            }
            if now >= called + CALL {
                called = now;
                self.call_absent(now);
            }
            let next = self.gossip.swim.lock().as_mut().and_then(|swim| {
                swim.tick(wall(), now);
                swim.next()
            });
            self.gossip_effects();
            let until = next.unwrap_or(now + AT_LEAST).min(now + AT_LEAST);
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.gossip.wake.notified() => {}
            }
        }
    }

    /// Calls a few of those who are known and not live: so two parts of a network find each other again.
    fn call_absent(&self, now: Instant) {
        let absent = {
            let roster = self.roster.lock();
            let own = self.around.identity.node;
            let pick = |node: &NodeId| *node != own && !is_nobody(node) && !roster.is_live(node);
            self.known.lock().some(super::catalogs::draw(), CALLED, pick)
        };
        for (_, addr) in &absent {
            self.gossip_toward(*addr);
        }
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            absent.into_iter().for_each(|(node, addr)| swim.call(node, addr, now));
        }
    }

    /// Sends what is to be sent and takes in what was noticed.
    fn gossip_effects(self: &Arc<Self>) {
        let _order = self.gossip.order.lock();
        let Some((letters, events)) = self.gossip.swim.lock().as_mut().map(Swim::take) else { return };
        if let (Some(datagrams), Some(sealer)) = (&self.around.datagrams, &self.gossip.sealer) {
            let wall = wall();
            for (to, letter) in letters {
                match sealer.seal(&letter, wall) {
                    Ok(sealed) => datagrams.send(to, &sealed),
                    Err(error) => tracing::debug!(%error, "a gossip message can't be sealed"),
                }
            }
        }
        if !events.is_empty() {
            self.gossip_events(&events);
        }
    }

    fn gossip_events(self: &Arc<Self>, events: &[Event]) {
        if events.contains(&Event::Twin) && may_log(self.around.identity.node, "twin").is_some() {
            tracing::warn!(
                "gossip knows later lives of this node than it has had: another daemon may run with the same keys, or a member \
                 says so"
            );
        }
        let (changed, doubted) = {
            let mut roster = self.roster.lock();
            let mut known = self.known.lock();
            let now = (Timestamp::now(), Instant::now());
            let changed = take_in(events, self.around.identity.node, &mut roster, &mut known, now);
            (changed, doubted(events, &roster))
        };
        self.doubt(doubted);
        if changed {
            self.view_now.notify_one();
        }
        self.dial_now.notify_one();
    }

    /// Asks those for a sign of life whom gossip calls dead though there is a session.
    fn doubt(self: &Arc<Self>, links: Vec<Arc<dyn PeerLink>>) {
        for link in links {
            let membership = Arc::clone(self);
            tokio::spawn(async move {
                if lives(&link).await {
                    if membership.roster.lock().disproved(link.node(), Instant::now()) {
                        membership.view_now.notify_one();
                    }
                    // It answers, hears that it is dead, and begins a new life for all.
                    membership.gossip_with(&link);
                }
            });
        }
    }

    /// The same of those who proved that they live, as long ago as that counts. Gossip says that somebody is dead once only.
    pub(super) fn doubt_again(self: &Arc<Self>) {
        let doubtful = self.roster.lock().doubtful().cloned().collect();
        self.doubt(doubtful);
    }

    /// What gossip knows of members; nothing if this node does not gossip.
    pub(super) fn member_records(&self) -> Vec<MemberRecord> {
        self.gossip.swim.lock().as_ref().map(Swim::records).unwrap_or_default()
    }

    /// Takes what a peer knows of members.
    pub(super) fn learn_members(self: &Arc<Self>, records: &[MemberRecord]) {
        // More than an honest exchange brings at a time.
        let records = &records[..records.len().min(2 * AT_A_TIME)];
        let Ok(place) = Arc::clone(&self.gossip.to_learn).try_acquire_owned() else { return };
        let (membership, records) = (Arc::clone(self), records.to_vec());
        let pending = self.pending.guard();
        tokio::spawn(async move {
            // Never closed.
            let turn = Arc::clone(&membership.gossip.learning).acquire_owned().await;
            let learned = tokio::task::spawn_blocking(move || {
                membership.learn_all(records);
                drop((turn, place, pending));
            });
            if learned.await.is_err() {
                tracing::error!("what a peer knows of members could not be taken in");
            }
        });
    }

    /// Takes a while where there is much: not on tokio's workers.
    fn learn_all(self: &Arc<Self>, mut records: Vec<MemberRecord>) {
        if let Some(swim) = self.gossip.swim.lock().as_ref() {
            swim.retain_news(&mut records);
        }
        let tell = records.len() <= TELL;
        for some in records.chunks(LEARN_AT_ONCE) {
            if let Some(swim) = self.gossip.swim.lock().as_mut() {
                swim.learn(some, tell, wall(), Instant::now());
            }
            self.gossip_effects();
        }
        self.gossip.wake.notify_one();
    }

    /// Those who are no members any more, and the longest dead where there are too many; but for peers with a session.
    fn forget_in_gossip(&self) {
        let peers: HashSet<NodeId> = self.links().iter().map(|link| link.node()).collect();
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            swim.forget(wall(), Instant::now(), |node| peers.contains(node));
        }
    }

    /// Members that gossip believes to be alive.
    pub fn gossip_members(&self) -> Option<usize> {
        self.gossip.swim.lock().as_ref().map(Swim::len)
    }

    pub(super) fn leave_gossip(self: &Arc<Self>) {
        if let Some(swim) = self.gossip.swim.lock().as_mut() {
            swim.leave(Instant::now());
        }
        self.gossip_effects();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::net::fake::{Behaviour, FakePeer};

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_power_was_believed_alive_for_as_long_as_its_session() {
        let link = |tag, behaviour| -> Arc<dyn PeerLink> { FakePeer::new(tag, &bytes::Bytes::new(), behaviour) };
        let (silent, honest) = (link(1, Behaviour::Silent), link(2, Behaviour::Honest));
        let (own, now) = (NodeId([9; 32]), Instant::now());
        let mut roster = Roster::new(own, Duration::ZERO, BTreeSet::new(), now);
        roster.join(&silent, now);
        roster.join(&honest, now);
        let dead = [Event::Down(silent.node()), Event::Down(honest.node()), Event::Down(NodeId([8; 32]))];
        take_in(&dead, own, &mut roster, &mut Known::default(), (Timestamp::default(), now));
        assert!(roster.is_live(&silent.node()), "a session outweighs what gossip says");
        let doubted = doubted(&dead, &roster);
        assert_eq!(doubted.len(), 2);
        let began = tokio::time::Instant::now();
        for link in doubted {
            if lives(&link).await {
                roster.disproved(link.node(), now);
            }
        }
        assert_eq!(roster.doubtful().map(|link| link.node()).collect::<Vec<_>>(), [silent.node()]);
        assert!(silent.is_closed() && !honest.is_closed());
        assert_eq!(began.elapsed(), DOUBT);
    }

    /// Sends nothing.
    struct Nowhere;

    impl crate::members::membership::SendDatagram for Nowhere {
        fn send(&self, _: SocketAddr, _: &[u8]) {}
    }

    #[tokio::test(start_paused = true)]
    async fn who_moved_to_another_network_told_its_old_address_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let own = crate::members::pair::member_but(1, dir.path(), |around| {
            around.datagrams = Some(Arc::new(Nowhere));
            around.identity.listens = vec![([0, 0, 0, 0], 7450).into()];
        });
        let (peer, here, now) = (NodeId([9; 32]), SocketAddr::from(([127, 0, 0, 1], 7450)), Instant::now());
        own.gossip_toward(here);
        let record = MemberRecord { node: peer, generation: wall(), incarnation: 0, down: false, addr: here };
        let life = |own: &Arc<Membership>| {
            let swim = own.gossip.swim.lock();
            let swim = swim.as_ref().unwrap();
            let life = swim.records().into_iter().find(|record| record.node == own.around.identity.node).unwrap();
            (swim.addr().unwrap(), life.generation, swim.len())
        };
        // An address that is nobody's (RFC 5737), as the one before the move.
        let before: SocketAddr = ([203, 0, 113, 5], 7450).into();
        {
            let mut swim = own.gossip.swim.lock();
            let swim = swim.as_mut().unwrap();
            swim.learn(&[record], true, wall(), now);
            swim.moved(before, now);
        }
        let (addr, generation, members) = life(&own);
        assert_eq!((addr, members), (before, 1));
        own.follow_move(now);
        assert_eq!(life(&own).0, before, "without anybody to ask there is no other");
        own.known.lock().hear(peer, &[here], Found::Gossip, now);
        own.follow_move(now);
        let (addr, later, members) = life(&own);
        assert_eq!((addr, members), (here, 1), "it knows whom it knew");
        assert!(later > generation);
        own.follow_move(now);
        assert_eq!(life(&own).1, later, "it stays as long as the address is there");
    }
}
