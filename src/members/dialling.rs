//! Bringing up sessions: with neighbours, with whom somebody needs, and now and then with those who went away; and closing
//! those that nobody needs any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::known::{Found, Known, Wanted, is_nobody};
use super::membership::{Around, Membership};
use super::neighbours::neighbours;
use super::roster::{Ending, Roster};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::net::dial::{DialError, dial};
use crate::net::handshake::HandshakeError;
use crate::net::link::{PeerAddr, PeerLink};
use crate::vault::store::write_in_place;
use crate::wire::message::Notice;

const PURPOSE: &str = "known peers";
/// Dials at once: a node that comes back to a network of thousands must not open all sessions in one moment.
pub(super) const AT_ONCE: usize = 64;
/// Between two looks at who is due, at least.
pub(super) const GATHER: Duration = Duration::from_millis(5);
/// For each peer that is known, a look takes about a microsecond: it has a twentieth of a core at most, for in a network of
/// thousands that falls in two something changes all the time.
const BREATHER: Duration = Duration::from_micros(20);
/// Between two looks for sessions that nobody needs.
pub(super) const SWEEP: Duration = Duration::from_secs(10);
/// A session that nobody needs is closed after so long.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// For how long a session is tried to be had after somebody needed it.
const DEMAND: Duration = Duration::from_secs(30);
/// For saying that a session ends.
pub(super) const LAST_WORD: Duration = Duration::from_millis(200);

/// Between the beginnings of two looks, with so many peers.
pub(super) fn breather(known: usize) -> Duration {
    BREATHER.saturating_mul(known.try_into().unwrap_or(u32::MAX)).min(SWEEP)
}

/// How much a session with `node` is wanted by who has this roster, and `needs` one or does not. Pure.
pub(super) fn wanted(node: &NodeId, roster: &Roster, needs: bool) -> Wanted {
    if roster.has(node) {
        Wanted::No
    } else if needs || is_nobody(node) {
        Wanted::Now
    } else if roster.live_count() == 0 {
        Wanted::Soon
    } else if roster.is_live(node) {
        Wanted::No
    } else {
        Wanted::Slowly
    }
}

impl Membership {
    pub(super) async fn dial_loop(self: Arc<Self>) {
        let mut swept = Instant::now();
        loop {
            let looked = Instant::now();
            let next = self.dial_due();
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.close_idle();
                self.doubt_again();
                self.look_behind_an_address();
            }
            let next = next.unwrap_or(swept + SWEEP).min(swept + SWEEP);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.dial_now.notified() => {}
            }
            // What comes together is looked at together.
            tokio::time::sleep(GATHER).await;
            let breather = breather(self.known.lock().count());
            tokio::time::sleep_until((looked + breather).into()).await;
        }
    }

    /// Begins to dial everybody who is due. Returns when somebody is due next.
    pub(super) fn dial_due(self: &Arc<Self>) -> Option<Instant> {
        let own = self.around.identity.node;
        let now = Instant::now();
        let (due, next, changed) = {
            let mut roster = self.roster.lock();
            let changed = roster.pass_time(now, |_| ());
            let neighbours = neighbours(&own, roster.live(), self.around.mesh);
            let mut demand = self.demand.lock();
            demand.retain(|_, until| *until > now);
            let mut known = self.known.lock();
            let wanted = |node: &NodeId| {
                if *node == own {
                    return Wanted::No;
                }
                wanted(node, &roster, neighbours.contains(node) || demand.contains_key(node))
            };
            let due = known.due(now, wanted);
            (due, known.next(wanted), changed)
        };
        if changed {
            self.view_now.notify_one();
        }
        for (node, addr) in due {
            let membership = Arc::clone(self);
            let pending = self.pending.guard();
            tokio::spawn(async move {
                let link = {
                    // The semaphore is never closed.
                    let _slot = membership.dial_slots.acquire().await;
                    if membership.roster.lock().has(&node) {
                        // It has called meanwhile.
                        membership.known.lock().dialled(node, true, Instant::now());
                        None
                    } else {
                        membership.dial_one(node, addr).await
                    }
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

    /// Closes sessions that this node opened and that neither side has used for a while, unless they are with neighbours. Who
    /// was called leaves that to the caller, unless it had asked to be called.
    fn close_idle(&self) {
        let own = self.around.identity.node;
        let idle: Vec<Arc<dyn PeerLink>> = {
            let roster = self.roster.lock();
            let neighbours = neighbours(&own, roster.live(), self.around.mesh);
            let demand = self.demand.lock();
            let calls = self.calls.lock();
            let idle = |link: &&Arc<dyn PeerLink>| {
                let node = link.node();
                calls.closes(&node, link.we_called())
                    && link.unused_for() > IDLE
                    && !neighbours.contains(&node)
                    && !demand.contains_key(&node)
                    && roster.lives_without_session(&node)
            };
            roster.links().filter(idle).cloned().collect()
        };
        for link in idle {
            self.endings.lock().insert(link.node(), Ending::Idle);
            link.notify(Notice::Idle);
            let link = Arc::clone(&link);
            tokio::spawn(async move {
                tokio::time::sleep(LAST_WORD).await;
                link.close();
            });
        }
    }

    /// Somebody announces itself on the local network, at one of these addresses.
    pub fn found_nearby(&self, addrs: &[SocketAddr]) {
        let mut known = self.known.lock();
        addrs.iter().for_each(|addr| known.hear_of_nobody(*addr, Found::Lan, Instant::now()));
        drop(known);
        self.dial_now.notify_one();
    }

    /// A session with each of these nodes is needed, for a while.
    pub(super) fn demand(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let until = Instant::now() + DEMAND;
        let mut demand = self.demand.lock();
        for node in nodes {
            demand.insert(node, until);
        }
        drop(demand);
        self.dial_now.notify_one();
    }

    /// One address of the settings at a time is looked at again: is who answered there still there?
    fn look_behind_an_address(self: &Arc<Self>) {
        let Some((nobody, addr)) = self.known.lock().to_look_at(Instant::now()) else { return };
        let Some(service) = self.around.service.get().and_then(std::sync::Weak::upgrade) else { return };
        let membership = Arc::clone(self);
        tokio::spawn(async move {
            // Nobody has that name: whoever answers tells its own, and no session comes of it.
            let (identity, access) = (&membership.around.identity, &membership.access);
            let dialled = dial(PeerAddr::Tcp(addr), identity, access, Some(nobody), service).await;
            if let Err(DialError::Handshake(HandshakeError::Other(found))) = dialled {
                membership.known.lock().answered(&nobody, found, addr, Instant::now());
                membership.dial_now.notify_one();
            }
        });
    }

    async fn dial_one(self: &Arc<Self>, node: NodeId, addr: PeerAddr) -> Option<Arc<dyn PeerLink>> {
        let service = self.around.service.get().and_then(std::sync::Weak::upgrade)?;
        if self.known.lock().calls_only(&node) {
            // The last time it had to be asked to call.
            self.ask_for_call(node);
        }
        let expect = (!is_nobody(&node)).then_some(node);
        let dialled = dial(addr, &self.around.identity, &self.access, expect, service).await;
        match &dialled {
            Ok(link) => {
                let PeerAddr::Tcp(addr) = addr;
                self.known.lock().answered(&node, link.node(), addr, Instant::now());
            }
            Err(DialError::Handshake(HandshakeError::Myself)) if is_nobody(&node) => {
                self.known.lock().is_myself(&node);
            }
            Err(error) => tracing::debug!(peer = %node.short(12), %error, "can't connect"),
        }
        let now = Instant::now();
        let in_vain = {
            let mut known = self.known.lock();
            known.dialled(node, dialled.is_ok(), now);
            dialled.is_err() && known.in_vain(&node)
        };
        if dialled.is_err() {
            self.ask_for_call(node);
        }
        // As long as it may call, it is not given up.
        if in_vain && !self.calls.lock().is_asking(&node) {
            self.not_reached(node, now);
        }
        dialled.ok()
    }

    /// There is no way to `node` at present.
    pub(super) fn not_reached(&self, node: NodeId, now: Instant) {
        self.demand.lock().remove(&node);
        if self.roster.lock().unreachable(node, now) {
            self.view_now.notify_one();
        }
        // Who waits for a session with it waits in vain.
        self.sessions.send_modify(|number| *number += 1);
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
        let live: Vec<NodeId> = self.roster.lock().live().copied().collect();
        let plain = {
            let mut known = self.known.lock();
            // Who is live has been seen just now; a crash must not make it look as old as its beginning.
            live.into_iter().for_each(|node| known.lives(node, Timestamp::now()));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::members::pair::{connect, member};

    #[tokio::test(start_paused = true)]
    async fn a_session_that_nobody_needs_is_closed_and_its_peer_stays_live_for_both() {
        let dir = tempfile::tempdir().unwrap();
        let one = |tag: u8| member(tag, &dir.path().join(tag.to_string()));
        let own = one(1);
        let others: Vec<_> = (2..=10).map(one).collect();
        let wires: Vec<_> = others.iter().map(|other| connect(&own, other)).collect();
        let node = |member: &Arc<Membership>| member.around.identity.node;
        let now = Instant::now();
        for other in &others {
            own.roster.lock().gossiped(node(other), true, now);
            other.roster.lock().gossiped(node(&own), true, now);
        }
        let open = |own: &Membership| own.links().len();
        own.close_idle();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(open(&own), 9, "all of them were used not long ago");
        wires.iter().for_each(|(to, _)| to.unused.store(true, Ordering::SeqCst));
        let chosen = {
            let roster = own.roster.lock();
            neighbours(&node(&own), roster.live(), 0)
        };
        // Of one of the others something is wanted.
        let wanted = others.iter().map(node).find(|other| !chosen.contains(other)).unwrap();
        own.demand([wanted]);
        own.close_idle();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(open(&own), chosen.len() + 1);
        assert_eq!(own.live_peers(), 9);
        for other in &others {
            assert_eq!(
                (other.live_peers(), other.roster.lock().has(&node(&own))),
                (1, own.roster.lock().has(&node(other)))
            );
        }
    }
}
