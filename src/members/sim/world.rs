//! The network: a virtual clock, the nodes, what is under way between them, and whether it gets there.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::catalogs::Fetch;
use super::link::{SPENT, Shared, Spent, datagram, spent_on};
use super::sessions::{Dial, Said, Session};
use super::truth::Truth;
use crate::base::agenda::Agenda;
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::catalog::book::CatalogBook;
use crate::catalog::copy::CatalogCopy;
use crate::members::dialling::{SWEEP, breather};
use crate::members::fetching::Fetching;
use crate::members::gossip::directory::Directory;
use crate::members::gossip::swim::Swim;
use crate::members::gossiping::CALL;
use crate::members::known::Known;
use crate::members::roster::Roster;

pub const NETWORK: NetworkId = NetworkId([5; 32]);
/// Seconds since 1970 when the simulation begins.
const WALL: u32 = 1_800_000_000;
/// One way, in milliseconds.
const LATENCY: (u64, u64) = (5, 80);
/// Of so many datagrams one is lost.
const LOST: u32 = 100;
const LINGER: Duration = Duration::from_secs(60);
/// As the setting's default.
const MESH: usize = 16;

/// What happens next.
#[derive(Debug)]
pub enum Event {
    /// A node's gossip has something to do.
    Tick(usize),
    /// A node looks for whom to dial.
    Dials(usize),
    /// It calls some that are away.
    Calls(usize, u32),
    /// It compares notes with somebody.
    Exchanges(usize, u32),
    Datagram(usize, usize, Vec<u8>),
    Dialled(Dial),
    /// The side that was called is through with the handshake.
    Accepted(u64),
    Said(u64, usize, Said),
    /// A side of a session looks whether to ping, or whether its ping number so was answered.
    Wakes(u64, usize),
    Late(u64, usize, u32),
    /// A side asked for a sign of life then, as its peer was said to be dead.
    Doubted(u64, usize, Duration),
    /// A side closes what it said farewell on.
    Closes(u64, usize),
}

/// A node that runs: what `Membership` holds, as far as it matters here.
pub struct Running {
    pub swim: Swim,
    pub roster: Roster,
    pub known: Known,
    pub book: CatalogBook,
    pub fetching: Fetching,
    /// Catalogs that are being fetched.
    pub fetches: HashMap<NodeId, Fetch>,
    /// Dials that are under way, and those that wait for their turn.
    pub dialling: usize,
    pub to_dial: VecDeque<(NodeId, SocketAddr)>,
    pub swept: Duration,
    /// When it last looked for whom to dial.
    pub looked: Duration,
    /// When it ticks and dials next.
    pub ticks: Duration,
    pub dials: Duration,
    pub neighbours: Option<BTreeSet<NodeId>>,
}

/// Who is simulated, whether it runs or not.
pub struct Node {
    pub key: SigningKey,
    pub id: NodeId,
    pub addr: SocketAddr,
    pub running: Option<Box<Running>>,
    /// Which of its runs this is.
    pub run: u32,
    /// Its machine is off: nobody is told that nobody is there.
    pub dark: bool,
    /// What is on its disk.
    pub stored: (Vec<u8>, Vec<Arc<CatalogCopy>>),
    /// Bytes sent and received, by [`Spent`].
    pub bytes: [u64; SPENT.len()],
}

/// A step that a catalog takes: whose, from what place, by somebody whose own stands at what place.
pub type Step = (usize, Option<(u64, u64)>, (u64, u64));

/// See the module.
pub struct World {
    pub now: Duration,
    began: Instant,
    queue: Agenda<Duration, Event>,
    pub dice: StdRng,
    pub nodes: Vec<Node>,
    pub numbers: HashMap<NodeId, usize>,
    directory: Arc<Mutex<Directory>>,
    pub sessions: HashMap<u64, Session>,
    pub last_session: u64,
    pub shared: Arc<Shared>,
    /// Two halves, by whether the number is odd, that hear nothing of each other.
    pub parted: bool,
    pub truth: Truth,
    /// What a catalog becomes by an answer: verified once, for all.
    pub verified: HashMap<Step, Arc<CatalogCopy>>,
    /// Events so far, for people.
    pub events: u64,
}

/// The node's address: its number in it.
pub fn addr(number: usize) -> SocketAddr {
    let [_, b, c, d] = (number as u32 + 1).to_be_bytes();
    SocketAddr::from(([10, b, c, d], 7450))
}

pub fn number_of(addr: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(addr) = addr else { return None };
    let [_, b, c, d] = addr.ip().octets();
    (u32::from_be_bytes([0, b, c, d]) as usize).checked_sub(1)
}

impl World {
    /// So many nodes, none of which runs.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let node = |number| {
            let key = SigningKey::from_bytes(&dice.random());
            let id = NodeId(key.verifying_key().to_bytes());
            let (stored, bytes) = ((Vec::new(), Vec::new()), [0; SPENT.len()]);
            Node { key, id, addr: addr(number), running: None, run: 0, dark: false, stored, bytes }
        };
        let nodes: Vec<Node> = (0..nodes).map(node).collect();
        let numbers = nodes.iter().enumerate().map(|(number, node)| (node.id, number)).collect();
        Self {
            now: Duration::ZERO,
            began: Instant::now(),
            queue: Agenda::default(),
            truth: Truth::new(nodes.len()),
            dice,
            nodes,
            numbers,
            directory: Arc::default(),
            sessions: HashMap::new(),
            last_session: 0,
            shared: Arc::default(),
            parted: false,
            verified: HashMap::new(),
            events: 0,
        }
    }

    pub fn instant(&self) -> Instant {
        self.began + self.now
    }

    pub fn wall(&self) -> u32 {
        WALL + self.now.as_secs() as u32
    }

    pub fn timestamp(&self) -> Timestamp {
        Timestamp { secs: self.wall().into(), nanos: self.now.subsec_nanos() }
    }

    pub fn at(&mut self, at: Duration, event: Event) {
        self.queue.set(at.max(self.now), event);
    }

    pub fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now + pause, event);
    }

    pub fn latency(&mut self) -> Duration {
        Duration::from_micros(self.dice.random_range(LATENCY.0 * 1000..=LATENCY.1 * 1000))
    }

    pub fn running(&mut self, who: usize) -> Option<&mut Running> {
        self.nodes[who].running.as_deref_mut()
    }

    /// True if what one sends reaches the other's machine.
    pub fn is_cut(&self, one: usize, other: usize) -> bool {
        (self.parted && one % 2 != other % 2) || self.nodes[one].dark || self.nodes[other].dark
    }

    /// Counts bytes as sent by one and received by the other.
    pub fn spend(&mut self, from: usize, to: Option<usize>, on: Spent, bytes: usize) {
        self.nodes[from].bytes[on as usize] += bytes as u64;
        if let Some(to) = to {
            self.nodes[to].bytes[on as usize] += bytes as u64;
        }
    }

    /// A node begins to run, with what is on its disk; `knowing` these addresses.
    pub fn start(&mut self, who: usize, knowing: &[usize]) {
        let (now, wall) = (self.instant(), self.wall());
        let (id, addr) = (self.nodes[who].id, self.nodes[who].addr);
        let swim = Swim::new(id, addr, Arc::clone(&self.directory), self.dice.random(), wall, now).unwrap();
        let (known, copies) = std::mem::take(&mut self.nodes[who].stored);
        let mut known = Known::load(&known, self.timestamp(), now).unwrap_or_default();
        for other in knowing.iter().filter(|other| **other != who) {
            known.hear_of_nobody(self.nodes[*other].addr, crate::members::known::Found::Settings, now);
        }
        let mut book = CatalogBook::new(NETWORK, id);
        let remembered = copies.iter().map(|copy| copy.node()).filter(|node| *node != id).collect();
        for copy in copies {
            if !book.put_own(Arc::clone(&copy)) {
                book.put(copy);
            }
        }
        let holds: Vec<(usize, (u64, u64))> =
            book.all().map(|copy| (self.numbers[&copy.node()], copy.place())).collect();
        self.truth.starts(who, holds.into_iter());
        let node = &mut self.nodes[who];
        node.run += 1;
        node.dark = false;
        node.running = Some(Box::new(Running {
            swim,
            roster: Roster::new(id, LINGER, remembered, now),
            known,
            book,
            fetching: Fetching::default(),
            fetches: HashMap::new(),
            dialling: 0,
            to_dial: VecDeque::new(),
            swept: self.now,
            looked: Duration::ZERO,
            ticks: Duration::MAX,
            dials: Duration::MAX,
            neighbours: None,
        }));
        let run = node.run;
        self.dial_by(who, self.now);
        self.after(CALL, Event::Calls(who, run));
        self.exchanges_later(who);
    }

    /// A node ends, however; its disk stays.
    fn end(&mut self, who: usize) {
        let Some(running) = self.nodes[who].running.take() else { return };
        self.nodes[who].stored = (running.known.store(), running.book.all().cloned().collect());
        let holds: Vec<(usize, (u64, u64))> =
            running.book.all().map(|copy| (self.numbers[&copy.node()], copy.place())).collect();
        self.truth.stops(who, holds.into_iter());
    }

    /// It is killed: its machine tells its peers that there is nobody any more.
    pub fn kill(&mut self, who: usize) {
        self.drop_sessions(who);
        self.end(who);
    }

    /// Its machine is off from one moment to the next.
    pub fn darken(&mut self, who: usize) {
        self.nodes[who].dark = true;
        self.drop_sessions(who);
        self.end(who);
    }

    /// It leaves properly.
    pub fn leave(&mut self, who: usize) {
        let now = self.instant();
        if let Some(running) = self.running(who) {
            running.swim.leave(now);
        }
        self.gossip_effects(who);
        self.say_goodbye(who);
        self.kill(who);
    }

    /// Sends a datagram, or loses it.
    pub fn send(&mut self, from: usize, to: SocketAddr, letter: Vec<u8>) {
        let Some(to) = number_of(to).filter(|to| *to < self.nodes.len()) else { return };
        let (on, bytes) = (spent_on(&letter), datagram(&letter));
        self.spend(from, None, on, bytes);
        if self.is_cut(from, to) || self.dice.random_range(0..LOST) == 0 {
            return;
        }
        let latency = self.latency();
        self.after(latency, Event::Datagram(from, to, letter));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until something holds, but no longer than `most`; whether it does.
    pub fn run_to(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        self.run_until(end, &holds);
        holds(self)
    }

    fn run_until(&mut self, end: Duration, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let Some((at, event)) = self.queue.take(end) else { break };
            self.now = at;
            self.events += 1;
            self.shared.now.store(at.as_millis() as u64, Ordering::Relaxed);
            self.happens(event);
            self.close_what_was_closed();
        }
        if self.queue.next().is_none_or(|at| at > end) {
            self.now = end;
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick(who) => self.tick(who),
            Event::Dials(who) => self.dial_due(who),
            Event::Calls(who, run) => self.call_absent(who, run),
            Event::Exchanges(who, run) => self.exchange_with_one(who, run),
            Event::Datagram(from, to, letter) => self.datagram(from, to, &letter),
            Event::Dialled(dial) => self.dialled(&dial),
            Event::Accepted(session) => self.connected(session, 1),
            Event::Said(session, side, said) => self.hears(session, side, said),
            Event::Wakes(session, side) => self.keep_alive(session, side),
            Event::Late(session, side, ping) => self.is_late(session, side, ping),
            Event::Doubted(session, side, since) => self.was_doubted(session, side, since),
            Event::Closes(session, side) => self.close(session, side),
        }
    }

    /// Bytes spent on each kind since the last time, by the average node that runs; and by the one that spent most.
    pub fn spent(&mut self) -> ([f64; SPENT.len()], f64) {
        let mut average = [0.0; SPENT.len()];
        let mut most = 0;
        let running = self.truth.running() as f64;
        for node in &mut self.nodes {
            let bytes = std::mem::take(&mut node.bytes);
            average.iter_mut().zip(bytes).for_each(|(sum, bytes)| *sum += bytes as f64 / running);
            most = most.max(bytes.iter().sum());
        }
        (average, most as f64)
    }

    /// Whom of those that it believes alive a node has sessions with. In a large network looking takes a while, and nothing
    /// changes it but who is alive.
    pub fn neighbours(&mut self, who: usize) -> BTreeSet<NodeId> {
        let id = self.nodes[who].id;
        let Some(running) = self.running(who) else { return BTreeSet::new() };
        let Running { neighbours, roster, .. } = running;
        let look = || crate::members::neighbours::neighbours(&id, roster.live(), MESH);
        neighbours.get_or_insert_with(look).clone()
    }

    /// A node's belief about another may have changed.
    pub fn believe(&mut self, who: usize, whom: NodeId) {
        let Some(number) = self.numbers.get(&whom).copied() else { return };
        let now = self.now;
        let Some(running) = self.running(who) else { return };
        running.neighbours = None;
        let alive = running.roster.is_live(&whom);
        self.truth.believes(who, number, alive, now);
    }

    /// It looks for whom to dial by then.
    pub fn dial_by(&mut self, who: usize, at: Duration) {
        let at = at.max(self.now);
        let Some(running) = self.running(who) else { return };
        let at = at.max(running.looked + breather(running.known.count()));
        if at < running.dials {
            running.dials = at;
            self.at(at, Event::Dials(who));
        }
    }

    /// When the next sweep is.
    pub fn sweep(&self, who: usize) -> Duration {
        self.nodes[who].running.as_ref().map_or(Duration::MAX, |running| running.swept + SWEEP)
    }
}
