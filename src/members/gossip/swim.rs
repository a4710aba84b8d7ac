//! One node's part in SWIM: `foca`, with its timers, on a clock that is passed in.
//!
//! Each second one member is asked for a sign of life; one that gives none, neither directly nor through three others, is
//! suspected, and 4 s later declared dead. What changes is told on with whatever is sent anyway, and by messages of its own
//! as long as there is something new. All of a network's members get to know each other by
//! [`Swim::records`] and [`Swim::learn`], which travel in sessions, as a datagram holds few.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foca::{Config, Foca, Identity, Member, NoCustomBroadcast, Notification, PeriodicParams, Runtime, State, Timer};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::directory::{Directory, Life};
use super::letters::Letters;
use crate::base::agenda::Agenda;
use crate::base::ids::NodeId;
use crate::wire::message::MemberRecord;

/// Bytes in a message, before it is sealed: a datagram that passes everywhere has 1280 with its headers (RFC 8200).
pub const MAX_LETTER: usize = 1150;
/// Between two signs of life that are asked for.
const PROBE: Duration = Duration::from_secs(1);
/// Without an answer for this long, others are asked to ask.
const PROBE_RTT: Duration = Duration::from_millis(400);
/// From suspicion to death: long enough to refute it through two others.
const SUSPICION: Duration = Duration::from_secs(4);
/// The dead are remembered for longer than a recorded datagram is accepted (`vault::datagram::WINDOW`, both ways).
const REMEMBER: Duration = Duration::from_secs(2 * 3600);
/// While there is news: so often, to so many.
const NEWS: (Duration, NonZeroUsize) = (Duration::from_millis(250), NonZeroUsize::new(3).unwrap());
/// News that comes is told on at once, unless there was some a moment ago: where much happens, it is told together.
const AT_ONCE: Duration = Duration::from_millis(100);
/// One member is asked for others it knows, whatever happens.
const FEED: Duration = Duration::from_secs(30);
/// A life that outlives what others know of this node begins this seldom...
const OUTLIVE: Duration = Duration::from_secs(30);
/// ...and once more within this time, it is no clock that was wrong.
const TWIN: Duration = Duration::from_secs(10 * 60);
/// More news than this at once is not told on: it comes from a session, and others have sessions too.
pub const TELL: usize = 32;

/// What SWIM noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// This node lives, at this address.
    Up(NodeId, SocketAddr),
    /// It began a new life, at this address: it was started again, perhaps. Says nothing of whether it lives.
    Anew(NodeId, SocketAddr),
    /// It does not, or it left.
    Down(NodeId),
    /// This very node was told of a later life of its own, once more: somebody else lives under its name.
    Twin,
}

/// What `foca` wants done.
struct Effects {
    directory: Arc<Mutex<Directory>>,
    now: Instant,
    timers: Agenda<Instant, Timer<Life>>,
    letters: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<Event>,
    /// When this node heard that they died, by their numbers.
    died: HashMap<u32, Instant>,
}

impl Runtime<Life> for Effects {
    fn notify(&mut self, notification: Notification<'_, Life>) {
        let directory = self.directory.lock();
        let card = |life: &Life| directory.card(life.number);
        match &notification {
            Notification::MemberDown(life) => {
                self.died.insert(life.number, self.now);
            }
            Notification::MemberUp(life) => {
                self.died.remove(&life.number);
            }
            _ => {}
        }
        let event = match notification {
            Notification::MemberUp(life) => card(life).map(|card| Event::Up(card.node, card.claimed)),
            Notification::Rename(_, life) => card(life).map(|card| Event::Anew(card.node, card.claimed)),
            Notification::MemberDown(life) => card(life).map(|card| Event::Down(card.node)),
            _ => None,
        };
        self.events.extend(event);
    }

    fn send_to(&mut self, to: Life, data: &[u8]) {
        if let Some(card) = self.directory.lock().card(to.number) {
            let addr = card.heard.unwrap_or(card.claimed);
            if !addr.ip().is_unspecified() && addr.port() != 0 {
                self.letters.push((addr, data.to_vec()));
            }
        }
    }

    fn submit_after(&mut self, timer: Timer<Life>, after: Duration) {
        self.timers.set(self.now + after, timer);
    }
}

/// See the module.
pub struct Swim {
    foca: Foca<Life, SharedLetters, StdRng, NoCustomBroadcast>,
    effects: Effects,
    letters: SharedLetters,
    own: NodeId,
    own_number: u32,
    /// When this node last began a life because others knew a later one.
    outlived: Option<Instant>,
    /// For how many members what is new is told on.
    told_for: usize,
    /// When news was last told on at once.
    told: Option<Instant>,
}

/// `foca` owns its codec; this node sets its clock and where a message came from.
#[derive(Clone)]
struct SharedLetters(Arc<Mutex<Letters>>);

impl foca::Codec<Life> for SharedLetters {
    type Error = super::letters::BadLetter;

    fn encode_header(&mut self, header: &foca::Header<Life>, buf: impl bytes::BufMut) -> Result<(), Self::Error> {
        self.0.lock().encode_header(header, buf)
    }

    fn decode_header(&mut self, buf: impl bytes::Buf) -> Result<foca::Header<Life>, Self::Error> {
        self.0.lock().decode_header(buf)
    }

    fn encode_member(&mut self, member: &Member<Life>, buf: impl bytes::BufMut) -> Result<(), Self::Error> {
        self.0.lock().encode_member(member, buf)
    }

    fn decode_member(&mut self, buf: impl bytes::Buf) -> Result<Member<Life>, Self::Error> {
        self.0.lock().decode_member(buf)
    }
}

/// Each change is told on so often: enough that everybody hears of it with near certainty.
fn transmissions(members: usize) -> NonZeroU8 {
    let times = ((members + 2) as f64).log10() * 4.0;
    NonZeroU8::new(times.clamp(3.0, 40.0) as u8).unwrap_or(NonZeroU8::MIN)
}

fn config(members: usize) -> Config {
    Config {
        probe_period: PROBE,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NEWS.1,
        max_transmissions: transmissions(members),
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(REMEMBER),
        max_packet_size: NonZeroUsize::new(MAX_LETTER).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: FEED, num_members: NonZeroUsize::MIN }),
        // Those are called by `members/gossiping`, which knows them longer.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: NEWS.0, num_members: NEWS.1 }),
    }
}

impl Swim {
    /// A node that can be reached at `addr` and begins a generation at `wall`, in seconds since 1970. `seed`: of what is
    /// left to chance. A directory may be shared by nodes that live in one simulation.
    pub fn new(
        own: NodeId,
        addr: SocketAddr,
        directory: Arc<Mutex<Directory>>,
        seed: [u8; 32],
        wall: u32,
        now: Instant,
    ) -> Option<Self> {
        let life = directory.lock().meet(own, wall, addr)?;
        let letters = Letters {
            directory: Arc::clone(&directory),
            own,
            from: None,
            sender: None,
            wall,
            own_seen: 0,
            twin: false,
        };
        let letters = SharedLetters(Arc::new(Mutex::new(letters)));
        let foca = Foca::new(life, config(1), StdRng::from_seed(seed), letters.clone());
        let effects = Effects {
            directory,
            now,
            timers: Agenda::default(),
            letters: Vec::new(),
            events: Vec::new(),
            died: HashMap::new(),
        };
        Some(Self { foca, effects, letters, own, own_number: life.number, outlived: None, told_for: 1, told: None })
    }

    /// A message came, from there, sent at that time by its sender's clock. One that makes no sense, or that was meant for somebody else, changes nothing.
    pub fn receive(&mut self, letter: &[u8], from: Option<(SocketAddr, u32)>, wall: u32, now: Instant) {
        {
            let mut letters = self.letters.0.lock();
            (letters.from, letters.sender, letters.wall) = (from, None, wall);
        }
        self.effects.now = now;
        if let Err(error) = self.foca.handle_data(letter, &mut self.effects) {
            tracing::trace!(%error, "a gossip message of no use");
        }
        self.tell_at_once(now);
        self.after();
    }

    /// Does what is due.
    pub fn tick(&mut self, wall: u32, now: Instant) {
        self.letters.0.lock().wall = wall;
        while let Some((at, timer)) = self.effects.timers.take(now) {
            // As if it were its time: a late timer must not make the next one late too, unless the machine slept.
            self.effects.now = at.max(now.checked_sub(PROBE_RTT / 4).unwrap_or(now));
            if let Err(error) = self.foca.handle_timer(timer, &mut self.effects) {
                tracing::trace!(%error, "a gossip timer of no use");
            }
        }
        self.effects.now = now;
        self.after();
    }

    /// What came as news is told on without waiting for the next time that news are told.
    fn tell_at_once(&mut self, now: Instant) {
        let news = !self.effects.events.is_empty();
        if news && self.told.is_none_or(|told| now >= told + AT_ONCE) {
            self.told = Some(now);
            let _ = self.foca.gossip(&mut self.effects);
        }
    }

    fn after(&mut self) {
        let (seen, sender, twin) = {
            let mut letters = self.letters.0.lock();
            (letters.own_seen, letters.sender.take(), std::mem::take(&mut letters.twin))
        };
        let life = *self.foca.identity();
        if seen > life.generation {
            // Others know a later life of this node, whose clock was ahead then. Or two have its keys: those would outlive each
            // other for ever, and so do it seldom.
            let now = self.effects.now;
            let since = self.outlived.map(|at| now.saturating_duration_since(at));
            if since.is_none_or(|since| since >= OUTLIVE) {
                self.outlived = Some(now);
                self.become_life(Life { generation: seen.saturating_add(1), ..life });
                // Whoever said so is told first: others may not be known.
                if let Some(sender) = sender.filter(|sender| sender.number != life.number) {
                    let _ = self.foca.announce(sender, &mut self.effects);
                }
                if since.is_some_and(|since| since < TWIN) {
                    self.effects.events.push(Event::Twin);
                }
            }
        } else if twin {
            let now = self.effects.now;
            if self.outlived.is_none_or(|at| now.saturating_duration_since(at) >= OUTLIVE) {
                self.outlived = Some(now);
                self.effects.events.push(Event::Twin);
            }
        }
        let members = self.foca.num_members();
        if members > self.told_for * 2 || members * 2 < self.told_for {
            self.told_for = members.max(1);
            // It differs in what may differ alone.
            let _ = self.foca.set_config(config(self.told_for));
        }
    }

    fn become_life(&mut self, life: Life) {
        {
            let mut directory = self.effects.directory.lock();
            if let Some(claimed) = directory.card(self.own_number).map(|card| card.claimed) {
                directory.meet(self.own, life.generation, claimed);
            }
        }
        if let Err(error) = self.foca.change_identity(life, &mut self.effects) {
            tracing::debug!(%error, "a new life in gossip can't begin");
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.effects.timers.next()
    }

    /// Asks `node`, which may be at `addr`, for whom it knows.
    pub fn call(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        let life = self.effects.directory.lock().meet(node, 0, addr);
        self.call_life(node, life, now);
    }

    /// The same of one with which there is a session: for such a node there is always room.
    pub fn call_peer(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        let life = self.effects.directory.lock().meet_peer(node, 0, addr);
        self.call_life(node, life, now);
    }

    fn call_life(&mut self, node: NodeId, life: Option<Life>, now: Instant) {
        if node == self.own {
            return;
        }
        self.effects.now = now;
        if let Some(life) = life {
            let _ = self.foca.announce(life, &mut self.effects);
        }
    }

    /// This node is reached elsewhere from now on.
    pub fn moved(&mut self, addr: SocketAddr, now: Instant) {
        self.effects.now = now;
        let Some(life) = self.foca.identity().renew() else { return };
        self.effects.directory.lock().meet(self.own, life.generation, addr);
        self.become_life(life);
    }

    /// Where this node says that it can be reached.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.effects.directory.lock().card(self.own_number).map(|card| card.claimed)
    }

    /// Tells some that this node leaves, and is silent from then on.
    pub fn leave(&mut self, now: Instant) {
        self.effects.now = now;
        let _ = self.foca.leave_cluster(&mut self.effects);
    }

    /// What is to be sent, and what happened, since the last time.
    pub fn take(&mut self) -> (Vec<(SocketAddr, Vec<u8>)>, Vec<Event>) {
        (std::mem::take(&mut self.effects.letters), std::mem::take(&mut self.effects.events))
    }

    /// Members that live, this node not counted.
    pub fn len(&self) -> usize {
        self.foca.num_members()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that is known of members, this node and those that died included.
    pub fn records(&self) -> Vec<MemberRecord> {
        let directory = self.effects.directory.lock();
        let own = Member::alive(*self.foca.identity());
        let members = self.foca.iter_membership_state().chain([&own]);
        let record = |member: &Member<Life>| {
            let card = directory.card(member.id().number)?;
            Some(MemberRecord {
                node: card.node,
                generation: member.id().generation,
                incarnation: member.incarnation(),
                down: member.state() == State::Down,
                addr: card.claimed,
            })
        };
        members.filter_map(record).collect()
    }

    /// Leaves those of `records` that may be news. A look through all members once, rather than for each of them.
    pub fn retain_news(&self, records: &mut Vec<MemberRecord>) {
        let directory = self.effects.directory.lock();
        let known: HashMap<u32, &Member<Life>> =
            self.foca.iter_membership_state().map(|member| (member.id().number, member)).collect();
        records.retain(|record| {
            // What others say of this very node is never old.
            let Some(number) = directory.number(&record.node).filter(|number| *number != self.own_number) else {
                return true;
            };
            let Some(member) = known.get(&number) else { return true };
            let dies = record.down && member.state() != State::Down;
            let newer = (record.generation, record.incarnation) > (member.id().generation, member.incarnation());
            newer || (dies && record.generation == member.id().generation)
        });
    }

    /// Forgets who is no member any more; and, where there is not much room left, members that died, the longest dead first.
    /// Nobody whom `keep` names. Not where others share the directory.
    pub fn forget(&mut self, wall: u32, now: Instant, keep: impl Fn(&NodeId) -> bool) {
        self.effects.now = now;
        let mut members: HashSet<u32> = self.foca.iter_membership_state().map(|member| member.id().number).collect();
        members.insert(self.own_number);
        let excess = {
            let mut directory = self.effects.directory.lock();
            directory.retain(wall, |number, node| members.contains(&number) || keep(node));
            directory.excess()
        };
        if excess > 0 {
            let mut dead: Vec<(Option<Instant>, Life)> = {
                let directory = self.effects.directory.lock();
                let dead = self.foca.iter_membership_state().filter(|member| member.state() == State::Down);
                let kept = |life: &Life| directory.card(life.number).is_none_or(|card| keep(&card.node));
                // Of whose death nothing is known but that it was before this node heard of it: those come first.
                let died = |life: Life| (self.effects.died.get(&life.number).copied(), life);
                dead.map(|member| *member.id()).filter(|life| !kept(life)).map(died).collect()
            };
            dead.sort_unstable_by_key(|(died, life)| (*died, life.generation, life.number));
            for (_, life) in dead.into_iter().take(excess) {
                let _ = self.foca.handle_timer(Timer::RemoveDown(life), &mut self.effects);
                self.effects.directory.lock().forget(life.number);
            }
        }
        let directory = self.effects.directory.lock();
        self.effects.died.retain(|number, _| directory.card(*number).is_some());
    }

    /// Takes what somebody else knows of members, and tells others of it or not.
    pub fn learn(&mut self, records: &[MemberRecord], tell: bool, wall: u32, now: Instant) {
        self.letters.0.lock().wall = wall;
        self.effects.now = now;
        let members: Vec<Member<Life>> = {
            let mut letters = self.letters.0.lock();
            records.iter().filter_map(|record| letters.member(record).ok()).collect()
        };
        let _ = self.foca.apply_many(members.into_iter(), tell, &mut self.effects);
        self.after();
    }
}

#[cfg(test)]
#[path = "swim_tests.rs"]
mod tests;
