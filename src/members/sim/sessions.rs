//! What `members/dialling`, `members/membership` and `net/session` do, on the simulated network: sessions come up, carry
//! messages in order, are pinged, and end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::link::{OPENING, SimLink, Spent, TCP, framed, place};
use super::world::{Event, Running, World};
use crate::base::ids::NodeId;
use crate::base::limits::{CONNECT_TIMEOUT, KEEPALIVE, OWN_PING, SESSION_TIMEOUT};
use crate::members::comparing::Comparison;
use crate::members::dialling::{AT_ONCE, GATHER, IDLE, LAST_WORD, SWEEP, wanted};
use crate::members::gossiping::DOUBT;
use crate::members::known::{Wanted, is_nobody};
use crate::members::roster::{Ending, Joined};
use crate::net::link::{PeerAddr, PeerLink};
use crate::wire::message::{Notice, Request, Response};

/// A dial that is over, or will be.
#[derive(Debug)]
pub struct Dial {
    who: usize,
    run: u32,
    node: NodeId,
    addr: SocketAddr,
    latency: Duration,
    /// Somebody was there when it began.
    reached: bool,
}

/// What is said in a session.
#[derive(Clone, Debug)]
pub enum Said {
    Ask(Request),
    /// An answer; to a request for a catalog with whose it is, and where the peer's stands.
    Answer(Response, Option<(NodeId, (u64, u64))>),
    Notice(Notice),
    /// The session is over.
    Close,
}

/// One side's pings.
#[derive(Debug, Default)]
struct Pings {
    asked: Duration,
    heard: Duration,
    /// When the peer last asked.
    pinged: Duration,
    waiting: bool,
    number: u32,
}

/// A session, both sides of it: the one that called first.
pub struct Session {
    pub ends: [usize; 2],
    pub links: [Arc<SimLink>; 2],
    open: [bool; 2],
    latency: Duration,
    /// Something was lost on it: nothing gets through any more.
    broken: bool,
    pings: [Pings; 2],
    pub comparing: [Option<Box<Comparison>>; 2],
    /// What the other side said before it ended.
    endings: [Option<Ending>; 2],
}

impl World {
    /// Dials everybody who is due, and closes what nobody needs.
    pub fn dial_due(&mut self, who: usize) {
        let (at, now, own) = (self.now, self.instant(), self.nodes[who].id);
        if self.running(who).is_none_or(|running| running.dials != at) {
            return;
        }
        let neighbours = self.neighbours(who);
        let Some(running) = self.running(who) else { return };
        let mut passed = Vec::new();
        running.roster.pass_time(now, |node| passed.push(node));
        passed.into_iter().for_each(|node| self.believe(who, node));
        let Some(running) = self.running(who) else { return };
        let Running { roster, known, .. } = running;
        let alone = roster.live_count() == 0;
        let wanted = |node: &NodeId| {
            if *node == own { Wanted::No } else { wanted(node, roster, alone || neighbours.contains(node)) }
        };
        let due = known.due(now, wanted);
        let next = known.next(wanted);
        running.to_dial.extend(due.into_iter().map(|(node, PeerAddr::Tcp(addr))| (node, addr)));
        (running.dials, running.looked) = (Duration::MAX, at);
        if at >= running.swept + SWEEP {
            running.swept = at;
            let doubtful: Vec<(u64, usize)> = running.roster.doubtful().map(place).collect();
            doubtful.into_iter().for_each(|(number, side)| self.doubt(number, side));
            self.close_idle(who);
        }
        self.dial_some(who);
        let next = next.map_or(Duration::MAX, |next| at + next.saturating_duration_since(now)).min(self.sweep(who));
        self.dial_by(who, next.max(at) + GATHER);
    }

    /// As many at once as may be.
    fn dial_some(&mut self, who: usize) {
        loop {
            let Some(running) = self.running(who).filter(|running| running.dialling < AT_ONCE) else { return };
            let Some((node, addr)) = running.to_dial.pop_front() else { return };
            running.dialling += 1;
            let (run, latency) = (self.nodes[who].run, self.latency());
            let there = super::world::number_of(addr).filter(|there| *there < self.nodes.len());
            let cut = there.is_none_or(|there| self.is_cut(who, there));
            let reached = !cut && there.is_some_and(|there| self.nodes[there].running.is_some());
            let took = match (cut, reached) {
                (true, _) => CONNECT_TIMEOUT,
                // TCP's handshake; and the first two messages of Noise.
                (_, true) => latency * 4,
                (_, false) => latency * 2,
            };
            self.spend(who, there.filter(|_| reached), Spent::Opening, if reached { OPENING } else { 2 * TCP });
            self.after(took, Event::Dialled(Dial { who, run, node, addr, latency, reached }));
        }
    }

    pub fn dialled(&mut self, dial: &Dial) {
        let Dial { who, run, node, addr, latency, reached } = *dial;
        let now = self.instant();
        let there = super::world::number_of(addr).filter(|there| {
            reached && self.nodes[who].run == run && !self.is_cut(who, *there) && self.nodes[*there].running.is_some()
        });
        if self.nodes[who].run != run || self.nodes[who].running.is_none() {
            return;
        }
        let found = there.map(|there| self.nodes[there].id).filter(|found| is_nobody(&node) || *found == node);
        let Some(running) = self.running(who) else { return };
        running.dialling -= 1;
        if let Some(found) = found {
            running.known.answered(&node, found, addr, now);
        }
        running.known.dialled(node, found.is_some(), now);
        if found.is_none() && running.known.in_vain(&node) {
            running.roster.unreachable(node, now);
            self.believe(who, node);
        }
        if let (Some(_), Some(there)) = (found, there) {
            self.open(who, there, latency);
        }
        self.dial_by(who, self.now + GATHER);
        self.dial_some(who);
    }

    fn open(&mut self, caller: usize, called: usize, latency: Duration) {
        self.last_session += 1;
        let number = self.last_session;
        let used = Arc::new(AtomicU64::new(self.now.as_millis() as u64));
        let link = |side: usize| {
            let peer = &self.nodes[[called, caller][side]];
            Arc::new(SimLink {
                session: number,
                side,
                peer: peer.id,
                addrs: vec![PeerAddr::Tcp(peer.addr)],
                closed: AtomicBool::new(false),
                used: Arc::clone(&used),
                shared: Arc::clone(&self.shared),
            })
        };
        let pings = || Pings { heard: self.now, ..Pings::default() };
        let session = Session {
            ends: [caller, called],
            links: [link(0), link(1)],
            open: [true, true],
            latency,
            broken: false,
            pings: [pings(), pings()],
            comparing: [None, None],
            endings: [None, None],
        };
        self.sessions.insert(number, session);
        self.after(latency, Event::Accepted(number));
        self.connected(number, 0);
    }

    /// A session is up on one side.
    pub fn connected(&mut self, number: u64, side: usize) {
        let Some(session) = self.sessions.get(&number).filter(|session| session.open[side]) else { return };
        let (who, link) = (session.ends[side], Arc::clone(&session.links[side]));
        let (now, wall) = (self.instant(), self.timestamp());
        let Some(running) = self.running(who) else { return self.close(number, side) };
        let as_link: Arc<dyn PeerLink> = Arc::clone(&link) as _;
        let (joined, _) = running.roster.join(&as_link, now);
        if joined == Joined::Closed {
            return;
        }
        running.known.met(link.peer, &link.addrs, link.we_called(), wall, now);
        running.swim.call(link.peer, link.addr(), now);
        self.believe(who, link.peer);
        self.gossip_effects(who);
        self.ping(number, side);
        if side == 0 {
            self.exchange(number, side);
        }
    }

    /// Says something in a session, if it is still open here.
    pub fn say(&mut self, number: u64, side: usize, said: Said) {
        let Some(session) = self.sessions.get(&number).filter(|session| session.open[side]) else { return };
        let (from, to, latency) = (session.ends[side], session.ends[1 - side], session.latency);
        let (on, bytes) = match &said {
            Said::Ask(request) => (spent(request), framed(request)),
            Said::Answer(response, _) => (answers(response), framed(response) + TCP),
            Said::Notice(notice) => (Spent::Catalogs, framed(notice) + TCP),
            Said::Close => (Spent::Opening, 2 * TCP),
        };
        if matches!(said, Said::Ask(Request::Catalog(_))) {
            let now = self.now.as_millis() as u64;
            session.links[side].used.store(now, Ordering::Relaxed);
        }
        let cut = session.broken || self.is_cut(from, to);
        if let Some(session) = self.sessions.get_mut(&number) {
            session.broken = cut;
        }
        self.spend(from, (!cut).then_some(to), on, bytes);
        if !cut {
            self.after(latency, Event::Said(number, 1 - side, said));
        }
    }

    pub fn hears(&mut self, number: u64, side: usize, said: Said) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&number).filter(|session| session.open[side]) else { return };
        if self.parted && session.ends[0] % 2 != session.ends[1] % 2 {
            session.broken = true;
            return;
        }
        let who = session.ends[side];
        session.pings[side].heard = now;
        match said {
            Said::Close => self.close(number, side),
            Said::Ask(Request::Ping) => {
                session.pings[side].pinged = now;
                self.say(number, side, Said::Answer(Response::Pong, None));
            }
            // To another ping than the last one, if nobody waits.
            Said::Answer(Response::Pong, _) => {
                if std::mem::take(&mut session.pings[side].waiting) {
                    self.after(KEEPALIVE, Event::Wakes(number, side));
                }
            }
            Said::Ask(request) => self.asked(number, side, who, request),
            Said::Answer(response, of) => self.answered(number, side, who, response, of),
            Said::Notice(Notice::Versions(versions)) => self.heard_versions(number, side, &versions),
            Said::Notice(Notice::Bye) => self.ends(number, side, Ending::Goodbye),
            Said::Notice(Notice::Idle) => self.ends(number, side, Ending::Idle),
            Said::Notice(_) => {}
        }
    }

    fn ends(&mut self, number: u64, side: usize, ending: Ending) {
        if let Some(session) = self.sessions.get_mut(&number) {
            session.endings[side] = Some(ending);
        }
        self.close(number, side);
    }

    /// Asks for a sign of life.
    fn ping(&mut self, number: u64, side: usize) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let pings = &mut session.pings[side];
        (pings.asked, pings.waiting, pings.number) = (now, true, pings.number + 1);
        let ping = pings.number;
        self.say(number, side, Said::Ask(Request::Ping));
        self.after(SESSION_TIMEOUT, Event::Late(number, side, ping));
    }

    /// Asks for a sign of life of who is said to be dead.
    pub fn doubt(&mut self, number: u64, side: usize) {
        self.say(number, side, Said::Ask(Request::Ping));
        self.after(DOUBT, Event::Doubted(number, side, self.now));
    }

    /// It was doubted then.
    pub fn was_doubted(&mut self, number: u64, side: usize, since: Duration) {
        let Some(session) = self.sessions.get(&number).filter(|session| session.open[side]) else { return };
        if session.pings[side].heard <= since {
            return self.close(number, side);
        }
        let (who, link, now) = (session.ends[side], Arc::clone(&session.links[side]), self.instant());
        let Some(running) = self.running(who) else { return };
        running.roster.disproved(link.peer, now);
        running.swim.call(link.peer, link.addr(), now);
        self.believe(who, link.peer);
        self.gossip_effects(who);
    }

    pub fn keep_alive(&mut self, number: u64, side: usize) {
        let now = self.now;
        let Some(session) = self.sessions.get(&number).filter(|session| session.open[side]) else { return };
        let pings = &session.pings[side];
        let quiet = session.links[side].unused_for() > KEEPALIVE
            && now - pings.asked < OWN_PING
            && now.saturating_sub(pings.pinged) < 2 * KEEPALIVE;
        if quiet {
            self.after(KEEPALIVE, Event::Wakes(number, side));
        } else {
            self.ping(number, side);
        }
    }

    pub fn is_late(&mut self, number: u64, side: usize, ping: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&number).filter(|session| session.open[side]) else { return };
        let pings = &mut session.pings[side];
        if !pings.waiting || pings.number != ping {
            return;
        }
        if now - pings.heard < SESSION_TIMEOUT {
            pings.waiting = false;
            self.after(KEEPALIVE, Event::Wakes(number, side));
        } else {
            self.close(number, side);
        }
    }

    fn close_idle(&mut self, who: usize) {
        let neighbours = self.neighbours(who);
        let Some(running) = self.running(who) else { return };
        let roster = &running.roster;
        let idle = |link: &&Arc<dyn PeerLink>| {
            let node = link.node();
            link.we_called()
                && link.unused_for() > IDLE
                && !neighbours.contains(&node)
                && roster.lives_without_session(&node)
        };
        let idle: Vec<(u64, usize)> = roster.links().filter(idle).map(place).collect();
        for (number, side) in idle {
            self.say(number, side, Said::Notice(Notice::Idle));
            if let Some(session) = self.sessions.get_mut(&number) {
                session.endings[side] = Some(Ending::Idle);
            }
            self.after(LAST_WORD, Event::Closes(number, side));
        }
    }

    /// One side closes a session.
    pub fn close(&mut self, number: u64, side: usize) {
        if self.sessions.get(&number).is_none_or(|session| !session.open[side]) {
            return;
        }
        self.say(number, side, Said::Close);
        let (now, wall) = (self.instant(), self.timestamp());
        let Some(session) = self.sessions.get_mut(&number) else { return };
        session.open[side] = false;
        session.comparing[side] = None;
        session.links[side].closed.store(true, Ordering::Relaxed);
        let (who, link) = (session.ends[side], Arc::clone(&session.links[side]));
        let ending = session.endings[side].take().unwrap_or(Ending::Broken);
        if session.open == [false, false] {
            self.sessions.remove(&number);
        }
        let as_link: Arc<dyn PeerLink> = Arc::clone(&link) as _;
        let Some(running) = self.running(who) else { return };
        if running.roster.leave(&as_link, ending, now).is_some() {
            running.known.lost(link.peer, wall, now);
            self.believe(who, link.peer);
            self.dial_by(who, self.now + GATHER);
        }
        self.fetches_fail(who, number);
    }

    /// What the roster closed.
    pub fn close_what_was_closed(&mut self) {
        loop {
            let closed = std::mem::take(&mut *self.shared.closed.lock());
            if closed.is_empty() {
                return;
            }
            closed.into_iter().for_each(|(number, side)| self.close(number, side));
        }
    }

    /// A node ends: its machine closes its sessions, unless that is off.
    pub fn drop_sessions(&mut self, who: usize) {
        let mut numbers: Vec<u64> =
            self.sessions.iter().filter(|(_, s)| s.ends.contains(&who)).map(|(n, _)| *n).collect();
        numbers.sort_unstable();
        let dark = self.nodes[who].dark;
        for number in numbers {
            let Some(session) = self.sessions.get(&number) else { continue };
            let side = usize::from(session.ends[1] == who);
            self.say(number, side, Said::Close);
            let Some(session) = self.sessions.get_mut(&number) else { continue };
            session.open[side] = false;
            session.broken |= dark;
            session.links[side].closed.store(true, Ordering::Relaxed);
            if session.open == [false, false] {
                self.sessions.remove(&number);
            }
        }
    }

    pub fn say_goodbye(&mut self, who: usize) {
        let Some(running) = self.running(who) else { return };
        let places: Vec<(u64, usize)> = running.roster.links().map(place).collect();
        for (number, side) in places {
            self.say(number, side, Said::Notice(Notice::Bye));
        }
    }
}

fn spent(request: &Request) -> Spent {
    match request {
        Request::Ping => Spent::Pings,
        Request::Catalog(_) => Spent::Catalogs,
        _ => Spent::Comparing,
    }
}

fn answers(response: &Response) -> Spent {
    match response {
        Response::Pong => Spent::Pings,
        Response::Catalog(_) => Spent::Catalogs,
        _ => Spent::Comparing,
    }
}
